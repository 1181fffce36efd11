"""kuleshov-group/discrete-diffusion-guidance, ``diffusion.py`` (arXiv 2412.10193).

    import diffusion
    mdmcorrect.compat.patch("discrete_diffusion_guidance", diffusion)

Masked diffusion, unguided or guided by D-CFG, runs on the engine; uniform corruption and classifiers through the steps
of the class, those with a classifier being ours.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..rng import Seed
from ._class_guidance import cbg_denoise as _cbg_denoise
from ._class_guidance import nos_denoise as _nos_denoise
from ._diffusion_sample import diffusion_sample
from .mdlm import _sample_categorical

__all__ = ["_cbg_denoise", "_diffusion_sample", "_nos_denoise", "_sample_categorical"]


@torch.no_grad()
def _diffusion_sample(
    self: Any, classifier_model: Any = None, cond: Tensor | None = None, eps: float = 1e-5, *, seed: Seed = None
) -> Tensor:
    """For ``Diffusion._diffusion_sample``: int64 ``[B, L]``.

    Reads ``self.config`` (``sampling``, ``guidance``, ``noise.type``, ``model.length``, ``data.num_classes``,
    ``backbone``), ``self.diffusion``, ``parameterization``, ``T``, ``noise``, ``backbone``, ``mask_index`` and the
    methods named by :mod:`mdmcorrect.compat._diffusion_sample`.

    Args:
        classifier_model: for ``guidance.method`` "cbg" and "nos".
        cond: int64 ``[B]``, for "cfg".
        eps: last time of the grid.
        seed: of the runs on the engine; default drawn from torch's global generator.

    Raises:
        ValueError: a ``guidance.method`` that does not exist.
    """
    return diffusion_sample(self, classifier_model, cond, eps, seed)[0]


MODULES = ("diffusion",)
REPLACES = {
    "_sample_categorical": _sample_categorical,
    "Diffusion._diffusion_sample": _diffusion_sample,
    "Diffusion._cbg_denoise": _cbg_denoise,
    "Diffusion._nos_denoise": _nos_denoise,
}
