"""Which positions a row may write now, and how many steps it has for them: the whole canvas, or block after block."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .state import State


@dataclass(frozen=True)
class View:
    """One step as its parts see it; every tensor is per row.

    Attributes:
        mask_id: the mask token.
        eligible: bool ``[B, L]``, positions of the row's window that may be written; none of a row that is done.
        reach: bool ``[B, L]``, those of this and all earlier windows.
        step: int64 ``[B]``, steps made within the window: the paper's i, from 0.
        steps: int64 ``[B]``, steps the window has.
        quota: int64 ``[B]``, masks in it when the row entered.
        finishing: bool ``[B]``, the row has used all its steps and what is left is filled now.
    """

    mask_id: int
    eligible: Tensor
    reach: Tensor
    step: Tensor
    steps: Tensor
    quota: Tensor
    finishing: Tensor


@dataclass(frozen=True)
class Blocks:
    """Blocks of ``length`` generated positions, decoded from left to right; by default one, the whole canvas.

    Positions are counted per row over those that are not fixed, so blocks begin where the row's prompt ends, on either
    side padded, and an infilling template is cut into blocks of its blanks. The sampler's steps are split evenly over
    the row's blocks, the remainder to the first, at least one each. A row enters the next block when its steps are
    used or, unless the method revises filled positions, when no mask is left in the block.

    Args:
        length: positions of a block, None for the whole canvas.
        until_filled: a block lasts until no mask is left in it, however many steps that takes, and at most one per
            mask it began with (threshold decoding, which commits at least one position per step).
    """

    length: int | None = None
    until_filled: bool = False

    def __post_init__(self) -> None:
        if self.length is not None and self.length < 1:
            raise ValueError(f"block_length: expected at least 1, got {self.length}")

    def view(self, state: State, steps: int, mask_id: int) -> tuple[State, View]:
        """The row's window now, and the state with the quota of a window just entered."""
        generated = ~state.fixed
        block, count = self._layout(generated)
        left = (state.window < count) & ~state.done
        eligible = generated & (block == state.window[:, None]) & left[:, None]
        masks = ((state.tokens == mask_id) & eligible).sum(1)
        quota = torch.where(state.window_step == 0, masks, state.quota)
        if self.until_filled:
            block_steps = quota
        else:
            each, more = steps // count.clamp(min=1), steps % count.clamp(min=1)
            block_steps = (each + (state.window < more)).clamp(min=1)
        finishing = ~state.done & ~left
        view = View(
            mask_id=mask_id,
            eligible=torch.where(finishing[:, None], generated, eligible),
            reach=generated & ((block <= state.window[:, None]) | finishing[:, None]) & ~state.done[:, None],
            step=state.window_step,
            steps=block_steps,
            quota=quota,
            finishing=finishing,
        )
        return replace(state, quota=quota), view

    def advance(self, state: State, view: View, stays: Tensor) -> State:
        """The state one step later. ``stays``: bool ``[B]``, rows that keep their window although it holds no mask."""
        live = ~state.done
        empty = ~((state.tokens == view.mask_id) & view.eligible).any(1) & ~stays
        leave = live & ((view.step + 1 >= view.steps) | empty)
        return replace(
            state,
            step=state.step + live.long(),
            window=state.window + leave.long(),
            window_step=torch.where(leave, 0, state.window_step + live.long()),
        )

    def spent(self, state: State) -> Tensor:
        """bool ``[B]``: rows that have been through all their windows."""
        return state.window >= self._layout(~state.fixed)[1]

    def _layout(self, generated: Tensor) -> tuple[Tensor, Tensor]:
        """Block of each position ``[B, L]`` (only meaningful where generated) and the number of blocks ``[B]``."""
        rank = generated.long().cumsum(1)
        total = rank[:, -1] if rank.shape[1] else rank.sum(1)
        if self.length is None:
            return torch.zeros_like(rank), (total > 0).long()
        return (rank - 1).div(self.length, rounding_mode="floor"), -(-total // self.length)
