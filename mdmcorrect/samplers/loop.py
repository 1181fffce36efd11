"""A stage that holds the number of committed positions and exchanges them: PRISM's loop."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .. import _checks, ops, rng
from .plan import Counts, UnmaskThenRemask, Update
from .scoring import Scores
from .state import State
from .window import View


@dataclass(frozen=True)
class Looped(UnmaskThenRemask):
    """An :class:`UnmaskThenRemask` plan interrupted by ``loops`` steps of masking random tokens and filling as many.

    The window's steps count the loop's too: of S, ``S - loops`` make the progress. A step of the loop starts from a
    canvas of which ``loop_count`` random committed positions were masked, which is done at the end of the step before,
    and commits as many (the loop stage of PRISM's sampler, arXiv 2510.01384, authors' code). What the plan remasks in
    the step before the loop it remasks in the loop too, beside the exchange.

    Args:
        loop_start: progress steps before the loop, at least 1.
        loops: steps of the loop.
        loop_count: positions exchanged in each.
    """

    loop_start: int = 1
    loops: int = 0
    loop_count: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("loop_start", "loops", "loop_count"):
            _checks.integer(name, getattr(self, name))
        if self.loop_start < 1 or self.loops < 0 or self.loop_count < 0:
            raise ValueError(
                f"loop_start, loops, loop_count: expected at least 1, 0 and 0, "
                f"got {self.loop_start}, {self.loops} and {self.loop_count}"
            )

    @property
    def random(self) -> bool:
        return super().random or self.loops * self.loop_count > 0

    def prepare(self, state: State, view: View) -> Counts:
        return super().prepare(state, self._progress(view))

    def __call__(self, state: State, view: View, intent: Counts, scores: Scores) -> Update:
        update = super().__call__(state, self._progress(view), intent, scores)
        opens = self._inside(view.step + 1) & view.eligible.any(1)
        tokens, _, exchanged = ops.remask_step(
            update.tokens,
            update.tokens,
            keep_score=state.uniform(rng.Purpose.ORDER, 2),
            remask_count=torch.where(opens, self.loop_count, 0),
            commit=torch.zeros_like(state.fixed),
            mask_id=view.mask_id,
            fixed=state.fixed,
            eligible=view.eligible,
            refill="never",
        )
        stood = state.committed(view.mask_id)
        return Update(tokens, update.committed & ~exchanged, update.remasked | (exchanged & stood))

    def _inside(self, step: Tensor) -> Tensor:
        return (step >= self.loop_start) & (step < self.loop_start + self.loops)

    def _progress(self, view: View) -> View:
        """The view with the loop's steps taken out; in the loop, the step before it."""
        past = (view.step - self.loop_start + 1).clamp(0, self.loops)
        return replace(view, step=view.step - past, steps=(view.steps - self.loops).clamp(min=1))
