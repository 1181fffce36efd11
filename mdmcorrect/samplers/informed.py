"""Correctors that draw committed tokens again: those that the model doubts most, or would change most surely."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from .. import _checks, ops
from .correct import Rescore
from .rows import Rows
from .scoring import Scores
from .state import State
from .window import View

_SCORES = {"confidence": frozenset[str](), "margin": frozenset({"second_logprob"})}


@dataclass(frozen=True)
class Informed:
    """Draw again k committed tokens, chosen by what the model, reading the others, thinks of them (arXiv 2407.21243).

    The positions are a draw without replacement from ``softmax(-score / temperature)``, Gumbel top-k, and take the
    draws of the same forward, all at once. A further forward then scores the new canvas for the next round or the plan.
    With a model that gives ``p(x_i | x_-i)`` at committed positions this is a Gibbs step; one that sees ``x_i`` doubts
    less.

    Args:
        count: k.
        by: "confidence", ``log p(x_i)``; "margin", ``log p(x_i) - max_(v != x_i) log p(v)``.
        temperature: of the choice of positions; 0 takes the lowest scores.
        rounds: corrections in a row.
        every: correct at steps i >= 1 with ``i % every == 0`` of the window.
        start: no correction at steps ``i < start``.
    """

    rescores: ClassVar[bool] = True

    count: int = 1
    by: str = "confidence"
    temperature: float = 1.0
    rounds: int = 1
    every: int = 1
    start: int = 0

    def __post_init__(self) -> None:
        _checks.choice("informed by", self.by, *_SCORES)
        for name in ("count", "rounds", "every"):
            _checks.settle(self, **{name: _checks.integer})
        _checks.settle(self, "position", temperature=_checks.temperature)
        _checks.settle(self, "correct", start=_checks.at_least(0))
        if self.count < 0 or self.rounds < 0 or self.every < 1:
            raise ValueError(
                f"count, rounds, every: expected at least 0, 0 and 1, got {self.count}, {self.rounds} and {self.every}"
            )

    @property
    def random(self) -> bool:
        return self.temperature > 0

    @property
    def wants(self) -> frozenset[str]:
        return _SCORES[self.by] | {"token", "current_logprob", "max_logprob"}

    @property
    def revisits(self) -> bool:
        return self.rounds > 0

    @property
    def settles(self) -> bool:
        return False

    def due(self, state: State, view: View) -> Tensor:
        on = (view.step >= max(self.start, 1)) & (view.step % self.every == 0)
        return on & ~view.finishing & (self.rounds > 0)

    def __call__(self, state: State, view: View, rows: Rows, scores: Scores, rescore: Rescore) -> tuple[Tensor, Scores]:
        committed = state.committed(view.mask_id) & view.reach & rows.mask[:, None]
        tokens = state.tokens
        for correction in range(1, self.rounds + 1):
            chosen = ops.select_positions(
                self._score(scores),
                self.count,
                eligible=committed,
                temperature=self.temperature,
                largest=False,
                positions=state.positions,
                seed=state.seed,
                step=state.step,
                call=correction,
            )
            tokens = torch.where(chosen & (scores["token"] >= 0), scores["token"], tokens)
            scores = rescore(tokens, rows, view.reach, correction).over(scores)
        return tokens, scores

    def _score(self, scores: Scores) -> Tensor:
        current = scores["current_logprob"]
        if self.by == "confidence":
            return current
        highest, second = scores["max_logprob"], scores["second_logprob"]
        return current - torch.where(current >= highest, second, highest)


@dataclass(frozen=True)
class Resample:
    """Replace the committed tokens that the model would change most surely (GIDD's self-correction, arXiv 2503.04482).

    Every step draws a token for every committed position, at the scoring's temperature, and takes those ``count`` of
    the draws that differ from what stands there and have the highest probability. No forward beyond the step's.

    Args:
        count: tokens replaced per step at most.
        every: correct at steps i with ``i % every == 0`` of the window.
    """

    random: ClassVar[bool] = False
    rescores: ClassVar[bool] = False

    count: int = 1
    every: int = 1

    def __post_init__(self) -> None:
        _checks.settle(self, count=_checks.integer, every=_checks.integer)
        if self.count < 0 or self.every < 1:
            raise ValueError(f"count, every: expected at least 0 and 1, got {self.count} and {self.every}")

    @property
    def wants(self) -> frozenset[str]:
        return frozenset({"token", "proposal_logprob", "max_logprob"})

    @property
    def revisits(self) -> bool:
        return True

    @property
    def settles(self) -> bool:
        return False

    def due(self, state: State, view: View) -> Tensor:
        return (view.step % self.every == 0) & ~view.finishing & (self.count > 0)

    def __call__(self, state: State, view: View, rows: Rows, scores: Scores, rescore: Rescore) -> tuple[Tensor, Scores]:
        candidate = state.committed(view.mask_id) & view.reach & rows.mask[:, None]
        candidate &= (scores["token"] != state.tokens) & (scores["token"] >= 0)
        chosen = ops.select_positions(scores["proposal_logprob"], self.count, eligible=candidate)
        return torch.where(chosen, scores["token"], state.tokens), scores
