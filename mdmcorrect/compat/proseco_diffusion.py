"""kuleshov-group/proseco, ``diffusion.py``: the small models' sampler (arXiv 2602.11590).

import diffusion
mdmcorrect.compat.patch("proseco_diffusion", diffusion)
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..rng import Seed
from ._diffusion_sample import diffusion_sample
from .discrete_diffusion_guidance import _cbg_denoise, _nos_denoise, _sample_categorical

__all__ = ["_cbg_denoise", "_diffusion_sample", "_nos_denoise", "_sample_categorical"]


@torch.no_grad()
def _diffusion_sample(
    self: Any,
    classifier_model: Any = None,
    cond: Tensor | None = None,
    eps: float = 1e-5,
    disable_pbar: bool = False,
    *,
    seed: Seed = None,
) -> tuple[Tensor, dict[str, int]]:
    """For ``Diffusion._diffusion_sample``: int64 ``[B, L]``, and forwards by kind.

    As :func:`mdmcorrect.compat.discrete_diffusion_guidance._diffusion_sample`, with ``sampling.nucleus_p`` and the
    corrector that ``sampling.corrector_*`` describe. A step that changes nothing makes no forward, nor does a row that
    stands in a correction: forwards are as many as in the original or fewer.

    Args:
        disable_pbar: not used.

    Returns:
        tokens; "total_NFEs", "total_denoising_NFEs" and "total_corrector_NFEs", those of a guided step counted once.

    Raises:
        ValueError: as there, or an unknown ``sampling.corrector_sampling``.
    """
    return diffusion_sample(self, classifier_model, cond, eps, seed)


MODULES = ("diffusion",)
REPLACES = {
    "_sample_categorical": _sample_categorical,
    "Diffusion._diffusion_sample": _diffusion_sample,
    "Diffusion._cbg_denoise": _cbg_denoise,
    "Diffusion._nos_denoise": _nos_denoise,
}
