"""The operator that makes one pass of a corrector: the draft rewritten, and the scores it leaves.

Not for users: :mod:`mdmcorrect.samplers.native_steps` calls it. What it computes is
:class:`mdmcorrect.samplers.FixedPoint`'s.
"""

from __future__ import annotations

import mdmcorrect._requires_torch

from collections.abc import Sequence

import torch
from torch import Tensor

from mdmcorrect.ops import _by_address as by_address
from mdmcorrect.ops.sampler_step import ROW_FIELDS

MOST_VALUES = 3
"""Floating scores that a pass carries along."""


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


class PreparedPasses:
    """The operator with what stays the same through a run.

    Args:
        fixed, block, mask_id, carry_over: as the operator takes them.
    """

    def __init__(self, fixed: Tensor, block: Tensor | None, mask_id: int, carry_over: bool) -> None:
        self.fixed, self.block, self.mask_id, self.carry_over = fixed, block, mask_id, carry_over

    def first(self, rows: Tensor, tokens: Tensor, proposal: Tensor) -> tuple[Tensor, Tensor]:
        """The first draft ``[B, L]``, and the positions (bool) that the corrector reaches."""
        empty = [None] * (2 + 2 * MOST_VALUES)
        if self._addressed(tokens, rows, proposal):
            draft, reach, moved = torch.empty_like(tokens), torch.empty_like(self.fixed), _flags(rows)
            by_address.library.correct_pass(
                *tokens.shape, self.mask_id, 1, self.carry_over, rows.data_ptr(), tokens.data_ptr(),
                self.fixed.data_ptr(), by_address.address(self.block), proposal.data_ptr(), 0, 0, draft.data_ptr(),
                reach.data_ptr(), moved.data_ptr(),
            )  # fmt: skip
            return draft, reach
        draft, reach, *_ = correct_pass(
            rows, tokens, self.fixed, self.block, self.mask_id, True, self.carry_over, proposal, *empty
        )
        return draft, reach

    def next(
        self,
        rows: Tensor,
        draft: Tensor,
        proposal: Tensor,
        token: Tensor,
        earlier_token: Tensor,
        values: Sequence[Tensor],
        earlier_values: Sequence[Tensor],
    ) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
        """The next draft; which rows (bool ``[B]``) it changed; token and values, of this pass where it scored."""
        addressed = self._addressed(draft, rows, proposal, token, earlier_token)
        floats = by_address.floats(draft.shape, *values) if addressed else None
        earlier = by_address.floats(draft.shape, *earlier_values) if addressed else None
        if floats is not None and earlier is not None and floats[1::2] == earlier[1::2]:
            merged, kept = torch.empty_like(token), [torch.empty_like(value) for value in values]
            fields = zip(floats[::2], earlier[::2], map(by_address.address, kept), floats[1::2], strict=True)
            after, moved, _ = self.rewrite(
                rows, draft, proposal.data_ptr(), token.data_ptr(), earlier_token.data_ptr(), merged.data_ptr(),
                [number for each in fields for number in each],
            )  # fmt: skip
            return after, moved, merged, kept
        pairs = [of for pair in zip(values, earlier_values, strict=True) for of in pair]
        after, _, moved, merged, *kept = correct_pass(
            rows, draft, self.fixed, self.block, self.mask_id, False, self.carry_over, proposal, token, earlier_token,
            *pairs, *[None] * (2 * MOST_VALUES - len(pairs)),
        )  # fmt: skip
        return after, moved, merged, kept[: len(values)]

    def rewrite(
        self, rows: Tensor, draft: Tensor, proposal: int, token: int, earlier_token: int, merged: int,
        values: Sequence[int],
    ) -> tuple[Tensor, Tensor, int]:  # fmt: skip
        """:meth:`next` by address: the draft, which rows it changed, and how many.

        ``values``: of each the address, that of the earlier one, where to write, and the type.
        """
        after, moved = torch.empty_like(draft), _flags(rows)
        changed = by_address.library.correct_pass(
            *draft.shape, self.mask_id, 0, self.carry_over, rows.data_ptr(), draft.data_ptr(), self.fixed.data_ptr(),
            by_address.address(self.block), proposal, token, earlier_token, after.data_ptr(), 0, moved.data_ptr(),
            merged, *values,
        )  # fmt: skip
        return after, moved, changed

    def _addressed(self, draft: Tensor, rows: Tensor, *ids: Tensor) -> bool:
        fits, shape = by_address.fits, draft.shape
        return (
            by_address.usable(draft)
            and fits(shape, torch.int64, draft, self.block, *ids)
            and fits(shape, torch.bool, self.fixed)
            and fits((shape[0], ROW_FIELDS), torch.int64, rows)
        )


def _flags(rows: Tensor) -> Tensor:
    return torch.empty(rows.shape[:1], dtype=torch.bool, device=rows.device)
