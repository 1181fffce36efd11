"""The operator that makes one pass of a corrector: the draft rewritten, and the scores it leaves.

Not for users: :mod:`mdmcorrect.samplers.native_steps` calls it. What it computes is
:class:`mdmcorrect.samplers.FixedPoint`'s.
"""

from __future__ import annotations

import mdmcorrect._requires_torch

import torch
from torch import Tensor


@torch.library.register_fake("mdmcorrect::correct_pass")
def _fake(
    rows: Tensor,
    draft: Tensor,
    fixed: Tensor,
    block: Tensor | None,
    mask_id: int,
    first: bool,
    carry_over: bool,
    proposal: Tensor,
    token: Tensor | None,
    earlier_token: Tensor | None,
    value_0: Tensor | None,
    earlier_0: Tensor | None,
    value_1: Tensor | None,
    earlier_1: Tensor | None,
    value_2: Tensor | None,
    earlier_2: Tensor | None,
) -> tuple[Tensor, ...]:
    shape, device = draft.shape, draft.device

    def room(wanted: bool, dtype: torch.dtype) -> Tensor:
        return torch.empty(shape if wanted else (0, shape[1]), dtype=dtype, device=device)

    values = [None if first else value for value in (value_0, value_1, value_2)]
    return (
        room(True, torch.int64),
        room(first, torch.bool),
        torch.empty(shape[:1], dtype=torch.bool, device=device),
        room(not first, torch.int64),
        *(room(value is not None, torch.float32 if value is None else value.dtype) for value in values),
    )


correct_pass = torch.ops.mdmcorrect.correct_pass.default
