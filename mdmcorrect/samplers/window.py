"""Which positions a row may write now, and how many steps it has for them: the whole canvas, or block after block."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from .. import _checks
from .lowering import Behind, Lowered, WindowSteps, is_exactly
from .state import State


@dataclass(frozen=True)
class Layout:
    """What of a run's windows no step changes.

    Attributes:
        generated: bool ``[B, L]``, positions that may be written.
        block: int64 ``[B, L]``, window of each position; only meaningful where generated.
        count: int64 ``[B]``, windows of the row.
        each, more: int64 ``[B]``, the sampler's steps over the windows, and how many windows get one more.
    """

    generated: Tensor
    block: Tensor
    count: Tensor
    each: Tensor
    more: Tensor


@dataclass(frozen=True)
class View:
    """One step as its parts see it; every tensor is per row.

    Attributes:
        mask_id: the mask token.
        eligible: bool ``[B, L]``, positions of the row's window that may be written; none of a row that is done.
        index: int64 ``[B]``, which window the row is in.
        step: int64 ``[B]``, steps made within the window: the paper's i, from 0.
        steps: int64 ``[B]``, steps the window has for its schedule.
        limit: int64 ``[B]``, steps after which the row leaves it at the latest.
        quota: int64 ``[B]``, masks in it when the row entered.
        finishing: bool ``[B]``, the row has used all its steps and what is left is filled now.
        own: bool ``[B, L]``, positions of the row's window, whether or not they may be written now.
        masked: bool ``[B, L]``, eligible positions that hold the mask token. Correctors leave it as it is.
        span: gives int64 ``[B]`` twice, the columns ``[start, stop)`` of the window; equal where it is none.
        live: bool ``[B]``, rows that are not done.
        layout: the windows of the run.
    """

    mask_id: int
    eligible: Tensor
    index: Tensor
    step: Tensor
    steps: Tensor
    limit: Tensor
    quota: Tensor
    finishing: Tensor
    own: Tensor
    masked: Tensor
    span: Callable[[], tuple[Tensor, Tensor]]
    live: Tensor
    layout: Layout

    @property
    def reach(self) -> Tensor:
        """bool ``[B, L]``, positions of this and all earlier windows."""
        reached = (self.layout.block <= self.index[:, None]) | self.finishing[:, None]
        return self.layout.generated & reached & self.live[:, None]


@dataclass(frozen=True)
class Blocks:
    """Blocks of ``length`` positions, decoded from left to right; by default one, the whole canvas.

    The sampler's steps are split evenly over the row's blocks, the remainder to the first, at least one each. A row
    enters the next block when its steps are used or, unless the method revises filled positions, when no mask is left
    in the block.

    Args:
        length: positions of a block, None for the whole canvas.
        until_filled: a block lasts until no mask is left in it, however many steps that takes, and at most one per
            mask it began with (threshold decoding, which commits at least one position per step).
        steps: steps of every block, instead of its share of the sampler's; not with ``until_filled``.
        extra: steps a block may last beyond these, for methods that revise what is filled.
        by: "generated" counts a row's positions that are not fixed, so an infilling template is cut into blocks of its
            blanks; "column" counts columns from the row's origin on, so blocks are contiguous and masks before the
            origin belong to the first; it needs a ``length``. After a prompt without masks the two are the same.
        together: rows enter a block together, when no row has a mask left in the one before, as originals do whose
            canvas is a batch: rows then wait, and a corrector goes on revising those that do.
        behind: what a mask left in an earlier block is: None for none of this block's business; "always", a position
            this block may commit, though its quota does not count it; "first", the same in its first step only. Only
            a sampler that leaves masks (``Sampler.finish=False``) can tell.
    """

    length: int | None = None
    until_filled: bool = False
    steps: int | None = None
    extra: int = 0
    by: str = "generated"
    together: bool = False
    behind: str | None = None

    def __post_init__(self) -> None:
        if self.length is not None:
            object.__setattr__(self, "length", _checks.integer("blocks length", self.length, minimum=1))
        _checks.choice("blocks by", self.by, "generated", "column")
        _checks.settle(self, "block", steps=_checks.optional(_checks.at_least(1)), extra=_checks.at_least(0))
        _checks.settle(self, until_filled=_checks.flag, together=_checks.flag)
        if self.by == "column" and self.length is None:
            raise ValueError("blocks by: expected a length beside 'column', got None, the whole canvas")
        if self.until_filled and self.steps is not None:
            raise ValueError(
                f"block steps: expected None beside until_filled=True, which sets their number, got {self.steps}"
            )
        if self.behind not in (None, "always", "first"):
            raise ValueError(f"blocks behind: expected None, 'always' or 'first', got {self.behind!r}")

    def layout(self, state: State, steps: int) -> Layout:
        """The windows of a run of so many steps."""
        generated = ~state.fixed
        block, count = self._blocks(state, generated)
        windows = count.clamp(min=1)
        return Layout(generated, block, count, each=steps // windows, more=steps % windows)

    def view(self, state: State, layout: Layout, mask_id: int) -> tuple[State, View]:
        """The row's window now, and the state with the quota of a window just entered."""
        live = ~state.done
        left = (state.window < layout.count) & live
        index = state.window[:, None]
        here = layout.block == index
        own = layout.generated & here & left[:, None]
        mask = state.tokens == mask_id
        quota = torch.where(state.window_step == 0, (mask & own).sum(1), state.quota)
        if self.until_filled:
            block_steps = quota.max().expand_as(quota) if self.together and len(quota) else quota
        elif self.steps is not None:
            block_steps = torch.full_like(quota, self.steps)
        else:
            block_steps = (layout.each + (state.window < layout.more)).clamp(min=1)
        finishing = live & ~left
        eligible = own
        if self.behind is not None:
            now = left if self.behind == "always" else left & (state.window_step == 0)
            eligible = own | (layout.generated & (layout.block < index) & now[:, None])
        eligible = torch.where(finishing[:, None], layout.generated, eligible)
        view = View(
            mask_id=mask_id,
            eligible=eligible,
            index=state.window,
            step=state.window_step,
            steps=block_steps,
            limit=block_steps + self.extra if self.extra else block_steps,
            quota=quota,
            finishing=finishing,
            own=own,
            masked=mask & eligible,
            span=partial(self._span, state, own),
            live=live,
            layout=layout,
        )
        return replace(state, quota=quota), view

    def advance(self, state: State, view: View, stays: Tensor) -> State:
        """The state one step later. ``stays``: bool ``[B]``, rows that keep their window although it holds no mask."""
        live = ~state.done
        empty = ~(((state.tokens == view.mask_id) & view.own).any(1) | stays)
        if self.together:
            empty = (empty | ~live).all().expand_as(live)
        leave = live & ((view.step + 1 >= view.limit) | empty)
        return replace(
            state,
            step=state.step + live,
            window=state.window + leave,
            window_step=torch.where(leave, 0, state.window_step + live),
        )

    def most_steps(self, steps: int, length: int) -> int:
        """Steps that a row of ``length`` positions makes at most, of a sampler of so many.

        Raises:
            ValueError: as many as its masks take.
        """
        if self.until_filled:
            raise ValueError("steps: this sampler stays in a block until it is filled; say how many steps to make")
        blocks = 1 if self.length is None else -(-length // self.length)
        return (max(steps, blocks) if self.steps is None else blocks * self.steps) + blocks * self.extra

    def filled(self, state: State, mask_id: int) -> Tensor:
        """bool ``[B]``: rows without a mask; of rows that move together, none before all."""
        filled = ~state.masked(mask_id).any(1)
        return (filled | state.done).all().expand_as(filled) if self.together else filled

    @staticmethod
    def spent(state: State, layout: Layout) -> Tensor:
        """bool ``[B]``: rows that have been through all their windows."""
        return state.window >= layout.count

    def lower(self) -> Lowered | None:
        """Windows in numbers; not of rows that wait for one another."""
        if self.together or not is_exactly(self, Blocks):
            return None
        steps = WindowSteps.SHARE if self.steps is None else WindowSteps.GIVEN
        return Lowered(
            {
                "window_steps": WindowSteps.UNTIL_FILLED if self.until_filled else steps,
                "block_steps": self.steps or 0,
                "extra": self.extra,
                "behind": {None: Behind.NONE, "always": Behind.ALWAYS, "first": Behind.FIRST}[self.behind],
                "column_block": self.length if self.by == "column" and self.length else 0,
            }
        )

    def _span(self, state: State, own: Tensor) -> tuple[Tensor, Tensor]:
        """First column of the row's window and the one after its last; of a column block, given tokens included."""
        length = own.shape[1]
        column = torch.arange(length, device=own.device)
        start = torch.where(own, column, length).amin(1) if length else torch.zeros_like(state.window)
        stop = torch.where(own, column + 1, 0).amax(1) if length else torch.zeros_like(state.window)
        if self.by == "column" and self.length is not None:
            first = state.origin + state.window * self.length
            start, stop = start.minimum(first), torch.where(stop > 0, (first + self.length).clamp(max=length), stop)
        return start.minimum(stop), stop

    def _blocks(self, state: State, generated: Tensor) -> tuple[Tensor, Tensor]:
        """Block of each position ``[B, L]`` and the number of blocks ``[B]``."""
        if self.length is None or not generated.shape[1]:
            return torch.zeros_like(state.tokens), generated.any(1).long()
        if self.by == "column":
            offset = torch.arange(generated.shape[1], device=generated.device) - state.origin[:, None]
        else:
            offset = generated.long().cumsum(1) - 1
        block = offset.div(self.length, rounding_mode="floor")
        if self.behind is None:
            block = block.clamp(min=0)
        return block, torch.where(generated, block + 1, 0).amax(1)
