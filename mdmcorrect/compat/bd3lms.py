"""Drop-ins for kuleshov-group/bd3lms, ``diffusion.py`` (arXiv 2503.09573).

    import diffusion
    diffusion._sample_categorical = mdmcorrect.compat.bd3lms._sample_categorical
    diffusion.Diffusion._ddpm_caching_update = mdmcorrect.compat.bd3lms._ddpm_caching_update

First-hitting chooses its position on the device and per row; the original does it on the CPU and for one row only.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import ops, rng
from .mdlm import _sample_categorical, uniforms

__all__ = ["_ddpm_caching_update", "_sample_categorical"]


def _ddpm_caching_update(
    self: Any, x: Tensor, t: Tensor, dt: float, p_x0: Tensor | None = None
) -> tuple[Tensor | None, Tensor]:
    """For ``Diffusion._ddpm_caching_update``: a step within the last block of ``x [B, L]``.

    Reads ``self.config.sampling``: ``first_hitting``, ``kv_cache``, ``nucleus_p``; ``self.block_size``, ``self.noise``,
    ``self.forward``, ``self.mask_index``, ``self._sigma_from_p``.

    Returns:
        The block's probabilities, or None if the canvas changed, so that they are computed again; and the canvas.
    """
    settings = self.config.sampling
    move_t, move_s = (self.noise(time)[1].reshape(-1) for time in (t, t - dt))
    sigma_t = self._sigma_from_p(move_t[:, None])
    if p_x0 is None:
        seen = x[:, -self.block_size :] if settings.kv_cache else x
        p_x0 = self.forward(seen, sigma_t, sample_mode=True)[:, -self.block_size :].exp()
    block = x[:, -self.block_size :]
    masked = block == self.mask_index
    seeds, uniform = uniforms(block, None, 0, rng.Purpose.COMMIT)
    if settings.first_hitting:
        commit = ops.select_positions(uniform.float(), 1, eligible=masked)
    else:
        commit = masked & (uniform < 1 - (move_s / move_t).double()[:, None])
    token = ops.score_tokens(
        p_x0.float() if p_x0.dtype == torch.float64 else p_x0,
        rows=commit,
        input="probs",
        temperature=1.0,
        top_p=settings.nucleus_p if settings.nucleus_p < 1 else None,
        top_p_rule="exclusive",
        want=["token"],
        seed=seeds,
    ).token
    assert token is not None
    filled = torch.where(commit & (token >= 0), token, block)
    if settings.kv_cache and not bool((filled == self.mask_index).any()):
        self.forward(filled, sigma_t, sample_mode=True, store_kv=True)  # the block is done: what follows reads its keys
    changed = bool((filled != block).any())
    return (None if changed else p_x0), torch.cat([x[:, : -self.block_size], filled], 1)


MODULES = ("diffusion",)
REPLACES = {"_sample_categorical": _sample_categorical, "Diffusion._ddpm_caching_update": _ddpm_caching_update}
