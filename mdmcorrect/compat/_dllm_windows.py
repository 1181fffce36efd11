"""When dLLM's samplers leave a block, or end a run, at an end of sequence."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from ..samplers import Blocks, State, View


def until_end(window: Blocks, eos_id: int | None, given: int, rule: type[EndedAfter]) -> Blocks:
    """The blocks, ended or left by a rule; as they are where there is no end of sequence."""
    if eos_id is None:
        return window
    return rule(**{field.name: getattr(window, field.name) for field in fields(Blocks)}, eos_id=eos_id, given=given)


@dataclass(frozen=True)
class EndedAfter(Blocks):
    """Ends the run after a block if every row has generated an end of sequence so far.

    Args:
        eos_id: the end of sequence.
        given: columns of the prompt.
    """

    eos_id: int = 0
    given: int = 0

    def advance(self, state: State, view: View, stays: Tensor) -> State:
        after = super().advance(state, view, stays)
        stop = view.span()[1][:, None]
        column = torch.arange(state.tokens.shape[1], device=state.tokens.device)
        generated = (column >= self.given) & (column < stop)
        ended = ((state.tokens == self.eos_id) & generated).any(1).all()
        return replace(after, done=after.done | ((after.window > state.window) & ended))


@dataclass(frozen=True)
class LeftAtEnd(EndedAfter):
    """Leaves a block, filled or not, after a step that finds an end of sequence in it, in whichever row."""

    def advance(self, state: State, view: View, stays: Tensor) -> State:
        after = Blocks.advance(self, state, view, stays)
        start, stop = (edge[:, None] for edge in view.span())
        column = torch.arange(state.tokens.shape[1], device=state.tokens.device)
        seen = ((state.tokens == self.eos_id) & (column >= start) & (column < stop)).any()
        leave = seen & ~state.done
        return replace(
            after,
            window=torch.where(leave, state.window + 1, after.window),
            window_step=torch.where(leave, 0, after.window_step),
        )
