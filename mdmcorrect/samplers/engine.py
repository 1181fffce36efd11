"""The one loop of every sampler: window, forward, score, correct, plan, apply, record.

A step asks the host one question, which rows are live and which need a forward; a corrector asks one more between two
passes, and a run with a mask of padding one at its start, whether it hides anything. All else stays on the tokens'
device.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .._kernels import has_kernel
from .addressed_steps import AddressedSteps
from .correct import Correct
from .forward import Forward
from .native_steps import Plan as NativePlan
from .native_steps import plan_of
from .part_steps import PartSteps
from .plan import Plan
from .result import StepEvent, copy_event
from .review import Review
from .state import State
from .steps import Ahead, Standing, Steps
from .window import Blocks

logger = logging.getLogger(__name__)

Callback = Callable[[StepEvent], Any]
Stop = Callable[[Tensor, Tensor], Tensor]
TokensProcessor = Callable[[Tensor, Tensor | None], Tensor]


def asks_to_stop(callback: Callback, event: StepEvent) -> bool:
    """What a callback answers.

    Raises:
        TypeError: neither true nor false, as a tensor of several values.
    """
    answer = callback(event)
    try:
        return bool(answer)
    except (RuntimeError, ValueError):
        kind = f"a tensor {list(answer.shape)}" if isinstance(answer, Tensor) else type(answer).__name__
        raise TypeError(f"callback: expected it to return a bool, true to stop, got {kind}") from None


@dataclass(frozen=True)
class Engine:
    """A method's parts, a model behind ``forward``, and the rules that end a row; see :class:`Sampler` for each."""

    steps: int
    plan: Plan
    window: Blocks
    correct: Correct | None
    finish: bool
    cache: bool
    forward: Forward
    mask_id: int
    eos_ids: tuple[int, ...] = ()
    stop: Stop | None = None
    tokens_processor: TokensProcessor | None = None
    review: Review | None = None
    review_forward: Forward | None = None
    shown: frozenset[str] = frozenset()  # scores that somebody reads beside the plan
    memory: dict[Any, Any] = field(default_factory=dict)  # of the one run it is made for: what adapters keep
    native: NativePlan | None = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "native", plan_of(self))

    def run(
        self, state: State, callback: Callback | None, record: Callable[[StepEvent], Any] | None
    ) -> tuple[State, str]:
        """Step until every row is done; the state then, and why it stopped."""
        index, unfilled = 0, set[int]()
        standing: Standing | None = None
        try:
            steps = self.steps_of(state)
            standing = steps.begin(state)
            while True:
                ahead = steps.ahead(standing, first=not index)
                unfilled.update(ahead.unfilled)
                if not ahead.live:
                    break
                before, standing = standing, steps.make(standing, ahead)
                index += 1
                if callback is None and record is None:
                    continue
                event = self._event(index - 1, before.state, standing, ahead)
                if record is not None:
                    record(event)
                if callback is not None and asks_to_stop(callback, event):
                    return standing.state, "callback"
        except KeyboardInterrupt:  # a step cut short leaves no trace: the state is that of the step before
            return state if standing is None else standing.state, "interrupted"
        if unfilled:
            logger.warning(
                "%s: masks are left in rows %s, where the logits are NaN or +inf or admit no token but the mask",
                self.forward.method,
                sorted(unfilled),
            )
        return standing.state, "unfilled" if unfilled else "finished"

    def _event(self, index: int, before: State, made: Standing, ahead: Ahead) -> StepEvent:
        rescored = ahead.correcting.mask
        if self.correct is None or not getattr(self.correct, "rescores", True):
            rescored = torch.zeros_like(before.done)
        listed = {name: made.scores[name] for name in self.shown}
        update, watch = made.update, self.forward.watch
        candidates = None if watch is None else watch.taken(before.tokens.shape, before.tokens.device)
        return copy_event(
            index, before, made.state, update.committed, update.remasked, made.corrected, rescored, listed, candidates
        )

    def steps_of(self, state: State) -> Steps:
        """Who makes the steps of a run that begins with ``state``: one operator where it knows every part."""
        layout = self.window.layout(state, self.steps)
        if self.native is None or not has_kernel("sampler_step", state.tokens):
            return PartSteps(self, layout)
        return AddressedSteps.of(self, self.native, layout, state)
