"""Drop-in for louaaron/Score-Entropy-Discrete-Diffusion: ``catsample.sample_categorical``.

The original draws its Gumbel noise in the dtype of the probabilities, float32, whose tail ends at 16.6 and lowers the
effective temperature (arXiv 2409.02908, section 5). Here the draw is exact; ``noise="fp32"`` draws as the original.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .. import ops
from ._noise import check_noise, stream


def sample_categorical(
    categorical_probs: Tensor,
    method: str = "hard",
    *,
    noise: str = "exact",
    seed: int | Tensor | torch.Generator | None = None,
    step: int | Tensor = 0,
) -> Tensor:
    """One draw per row of unnormalised probabilities: int64 ``[...]`` of ``[..., V]``.

    What is below 0 is 0, as an argmax over quotients has it, and SEDD's own rates give such numbers. A row without any
    mass gives id 0, as the argmax of zeros does, and so does one with NaN. float64 is read as float32.

    Args:
        categorical_probs: floating.
        method: "hard", the only one there is.
        noise: "exact", the categorical law in one read; "fp32", the original's truncated law and its cost.
        seed, step: as of :func:`mdmcorrect.ops.score_tokens`; by default torch's own generator gives a seed.

    Raises:
        ValueError: another ``method`` or ``noise``.
    """
    if method != "hard":
        raise ValueError(f"Method {method} for sampling categorical variables is not valid.")
    return draw(categorical_probs, noise=noise, seed=seed, step=step)


def draw(
    probs: Tensor,
    *,
    rows: Tensor | None = None,
    noise: str = "exact",
    seed: int | Tensor | torch.Generator | None = None,
    step: int | Tensor = 0,
) -> Tensor:
    """The draw of :func:`sample_categorical`; ``rows``, bool ``[...]``, leaves the other rows at 0 unread."""
    if check_noise(noise) == "fp32":
        u = torch.rand(probs.shape, generator=stream(seed, probs.device), device=probs.device, dtype=torch.float32)
        return (probs / (1e-10 - (u + 1e-10).log()).to(probs.dtype)).argmax(-1)
    grid = probs.float() if probs.dtype == torch.float64 else probs
    flat = grid.reshape(-1, grid.shape[-2], grid.shape[-1]) if grid.dim() > 1 else grid[None, None]
    token = ops.score_tokens(
        flat,
        rows=None if rows is None else rows.reshape(flat.shape[:-1]),
        input="probs",
        temperature=1.0,
        want=["token"],
        seed=seed,
        step=step,
    ).token
    assert token is not None
    return token.clamp(min=0).reshape(probs.shape[:-1])


MODULES = ("catsample",)
REPLACES = {"sample_categorical": sample_categorical}
