"""The operator that makes a sampler's bookkeeping: it closes one step and opens the next.

Not for users: its arguments are what :mod:`mdmcorrect.samplers.native_steps` packs. The definition of what it computes
is the Python parts of :mod:`mdmcorrect.samplers`; ``csrc/core/sampler_step.h`` composes one function per part.
"""

from __future__ import annotations

import mdmcorrect._requires_torch

import torch
from torch import Tensor

MARKS = 6


@torch.library.register_fake("mdmcorrect::sampler_step")
def _fake(
    rows: Tensor,
    tokens: Tensor,
    fixed: Tensor,
    block: Tensor | None,
    positions: Tensor,
    real: Tensor | None,
    commit_score: Tensor,
    commits: Tensor,
    drawn: Tensor | None,
    plan: str,
    close: int,
    open: int,
    token: Tensor | None,
    argmax: Tensor | None,
    confidence: Tensor | None,
    rank: Tensor | None,
    keep: Tensor | None,
    revised: Tensor | None,
    revised_logprob: Tensor | None,
    nfe: Tensor | None,
    forwards: int,
    kept_share: Tensor | None,
    noise_scales: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    shape, device = tokens.shape, tokens.device
    return (
        torch.empty(rows.shape, dtype=torch.int64, device=device),
        torch.empty(shape, dtype=torch.int64, device=device),
        torch.empty(shape, dtype=torch.float32, device=device),
        torch.empty(shape, dtype=torch.int64, device=device),
        torch.empty((MARKS, *shape), dtype=torch.bool, device=device),
        torch.empty(shape[:1], dtype=torch.float64, device=device),
    )


sampler_step = torch.ops.mdmcorrect.sampler_step.default
