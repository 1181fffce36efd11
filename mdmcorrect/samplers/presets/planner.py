"""Samplers in which a planner decides where tokens stand: P2 and P2+."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from ... import _checks
from ..pool import FixedOrder, Kappa, Pool
from ..review import Review
from ..sampler import Sampler
from .preset import Preset

_SCORES = {"confidence": "logprob", "margin": "lead", "random": "random"}


@dataclass(frozen=True, kw_only=True)
class P2(Preset):
    """Path planning: every step ranks masked and committed positions together and masks the worst (arXiv 2502.03540).

    After step i the best ``N - floor(N (1 - kappa((i + 1) / S)))`` of N positions hold a token. One forward per step,
    and one of the planner if it is another model.

    Args:
        eta: factor of the log-probabilities of committed positions: 0 never masks again (ancestral, in order of
            confidence), 1 is greedy self-planning, more masks more.
        kappa: "linear", "sine", "cosine", or one number per step.
        score: "confidence", log-probability of the proposal; "margin", lead of the best token over the second in
            log-probability; "random".
        planner: another model that reads the draft and scores committed positions; None plans with the model itself.
        revisit: with no planner, what a committed position is scored by: "token", the probability of the token that
            stands there; "draft", that of the token drawn in its place, as the authors' code does.
    """

    limits: ClassVar[Mapping[str, _checks.Rule]] = {"eta": _checks.weight}

    eta: float = 1.0
    kappa: str | tuple[float, ...] = "linear"
    score: str = "confidence"
    planner: Any = None
    revisit: str = "token"
    temperature: float = 1.0

    def parts(self) -> Sampler:
        _checks.choice("score", self.score, *_SCORES)
        _checks.choice("revisit", self.revisit, "token", "draft")
        masked = committed = _SCORES[self.score]
        review = None
        if self.planner is not None and self.score != "random":
            committed = "review"
            review = Review(self.planner, reads="logprob" if self.score == "confidence" else "lead")
        elif self.score == "confidence" and self.revisit == "token":
            committed = "current_logprob"
        return Sampler(
            name="P2",
            steps=self.steps,
            plan=Pool(Kappa(self.kappa), masked=masked, committed=committed, eta=self.eta),
            review=review,
            scoring=self._scoring(),
        )


@dataclass(frozen=True, kw_only=True)
class P2Plus(Preset):
    """Path planning with an order fixed ahead (P2+, the authors' code of arXiv 2502.03540).

    A first forward ranks the masks by the log-probability of their proposals and commits none; each of ``steps - 1``
    further ones commits the next ``ceil(N / (steps - 1))``. At most ``steps`` forwards.
    """

    temperature: float = 1.0

    def parts(self) -> Sampler:
        return Sampler(name="P2Plus", steps=self.steps, plan=FixedOrder(), scoring=self._scoring())
