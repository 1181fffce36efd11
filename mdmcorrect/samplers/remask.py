"""Which committed positions are masked again, and how many."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from .. import _checks, rng
from .draws import draws
from .lowering import Lowered, Order, is_exactly, lowered
from .lowering import RemaskCount as Code
from .scoring import Scores
from .state import State
from .window import View

_SCORES = ("quality", "confidence", "random")


class RemaskCount(Protocol):
    """How many committed positions of the window a step masks again."""

    def __call__(self, state: State, view: View) -> Tensor:
        """int64 ``[B]``."""

    # A rule that draws nothing says so by a false attribute `random`.


def _committed(state: State, view: View) -> Tensor:
    return view.eligible & ~view.masked


@dataclass(frozen=True)
class Constant:
    """``R`` positions wherever ``0 < R < n < N - R`` for the row's n committed of N generated positions, else none.

    PRISM's static sampler (arXiv 2510.01384, algorithm 3): so many tokens exist to choose from, and so many masks
    remain that what is masked now is not needed to fill the step.
    """

    random: ClassVar[bool] = False

    count: int

    def __post_init__(self) -> None:
        _checks.settle(self, "remask", count=_checks.at_least(0))

    def __call__(self, state: State, view: View) -> Tensor:
        return _feasible(torch.full_like(view.quota, self.count), _committed(state, view).sum(1), view)

    def lower(self) -> Lowered | None:
        return Lowered({"remask": Code.CONSTANT, "remask_number": self.count}) if is_exactly(self, Constant) else None


@dataclass(frozen=True)
class Binomial:
    """``R ~ Binomial(n, sigma)``, ``sigma = min(eta, (1 - alpha_s) / alpha_t)``, under :class:`Constant`'s condition.

    ``alpha_t = n / L`` is the committed share of the row's L real positions, ``alpha_s = min(alpha_t + 1 / S, 1)``
    that after one of S steps: PRISM's rule on text, with the cap of ReMDM (arXiv 2503.00307, section 4.1).
    """

    random: ClassVar[bool] = True

    eta: float

    def __post_init__(self) -> None:
        _checks.settle(self, eta=_checks.share)

    def __call__(self, state: State, view: View) -> Tensor:
        committed = _committed(state, view)
        n = committed.sum(1).double()
        alpha_t = n.float() / state.attention_mask.sum(1).clamp(min=1)
        alpha_s = (alpha_t + 1 / view.steps.clamp(min=1).float()).clamp(max=1)
        sigma = ((1 - alpha_s) / alpha_t).clamp(max=self.eta).nan_to_num(nan=0.0)
        u = state.uniform(rng.Purpose.COUNT)
        return _feasible(((u < sigma[:, None]) & committed).sum(1), committed.sum(1), view)

    def lower(self) -> Lowered | None:
        return Lowered({"remask": Code.BINOMIAL, "remask_eta": self.eta}) if is_exactly(self, Binomial) else None


@dataclass(frozen=True)
class Centred:
    """``total`` positions of each window, spread evenly over its steps, the remainder to the steps nearest its centre.

    PRISM on LLaDA (arXiv 2510.01384, experiments on code). Of two steps as near, the earlier is served first. Where
    fewer positions are committed than a step would mask, it masks those.
    """

    random: ClassVar[bool] = False

    total: int

    def __post_init__(self) -> None:
        _checks.settle(self, "remask", total=_checks.at_least(0))

    def __call__(self, state: State, view: View) -> Tensor:
        steps = view.steps.clamp(min=1)
        offset = 2 * view.step - (steps - 1)  # twice the signed distance to the centre
        nearer = (offset.abs() - 1).clamp(min=0) + (offset > 0)
        return self.total // steps + (nearer < self.total % steps)

    def lower(self) -> Lowered | None:
        return Lowered({"remask": Code.CENTRED, "remask_number": self.total}) if is_exactly(self, Centred) else None


@dataclass(frozen=True)
class Remask:
    """Mask again the lowest-scored committed positions.

    Args:
        by: "quality", the model's own estimate that the token is right (PRISM); "confidence", its probability when it
            was committed (the score of ReMDM-conf, arXiv 2503.00307, section 4.1); "random".
        count: how many per step.
        start, stop: remasking is on at the window's steps ``start <= i < stop``; None is no end.
    """

    by: str = "quality"
    count: RemaskCount = Constant(1)
    start: int = 0
    stop: int | None = None

    def __post_init__(self) -> None:
        _checks.choice("remask by", self.by, *_SCORES)
        if not callable(self.count):
            raise TypeError(f"remask count: expected a rule such as Constant(2), got {self.count!r}")
        _checks.settle(self, "remask", start=_checks.at_least(0), stop=_checks.optional(_checks.at_least(0)))

    @property
    def random(self) -> bool:
        """Whether whom, or how many, is drawn."""
        return self.by == "random" or draws(self.count)

    @property
    def wants(self) -> frozenset[str]:
        """Names of the scores read."""
        return frozenset({"quality"}) if self.by == "quality" else frozenset()

    def how_many(self, state: State, view: View) -> Tensor:
        """int64 ``[B]``, known before the forward; 0 outside the steps in which remasking is on."""
        on = view.step >= self.start
        if self.stop is not None:
            on &= view.step < self.stop
        return torch.where(on, self.count(state, view), 0)

    def keep(self, state: State, scores: Scores) -> Tensor:
        """Floating ``[B, L]``: lower is masked first. A token whose commit nobody saw is kept."""
        if self.by == "quality":
            return scores["quality"]
        if self.by == "confidence":
            return state.commit_score.nan_to_num(nan=torch.inf)
        return state.uniform(rng.Purpose.ORDER, 1)

    def lower(self) -> Lowered | None:
        count = lowered(self.count)
        if count is None or not is_exactly(self, Remask):
            return None
        by = {"quality": Order.SCORE, "confidence": Order.COMMITTED, "random": Order.RANDOM}[self.by]
        stop = -1 if self.stop is None else self.stop
        own = {"remask_by": by, "remask_start": self.start, "remask_stop": stop}
        return count | Lowered(own, {"keep": "quality"} if self.by == "quality" else {})


def _feasible(count: Tensor, committed: Tensor, view: View) -> Tensor:
    total = view.eligible.sum(1)
    return torch.where((count < committed) & (committed < total - count), count, 0)
