"""A corrector that corrects nothing: it asks what each of several commits would leave uncertain, and picks one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from .. import _checks, ops, rng
from .correct import Rescore
from .counts import CountRule, EvenSplit
from .rows import Rows
from .scoring import Scores
from .state import State
from .window import View


@dataclass(frozen=True)
class InformationGain:
    """Of several sets of positions to commit, the one that costs and leaves the least uncertainty (arXiv 2602.18176).

    The first set are the most confident positions; the others are drawn, without replacement, from
    ``softmax(confidence / temperature)``. One forward reads each canvas with a set committed. The step commits the set
    of largest ``-cost_weight C - H``: C the sum of its positions' entropies before, H the mean entropy of the masks
    left, of the whole row. The plan commits by "confidence": positions of other sets are given less than any has.

    Args:
        count: positions of a set; the rule that the plan commits by.
        candidates: sets, and forwards beyond the step's.
        temperature: of the draw of positions; 0 makes all sets the first.
        cost_weight: 0 looks ahead alone (the authors' LookUM).
        cost: "sum" of the entropies, or their "mean".
    """

    rescores: ClassVar[bool] = False
    revisits: ClassVar[bool] = False
    settles: ClassVar[bool] = False

    count: CountRule = field(default_factory=EvenSplit)
    candidates: int = 8
    temperature: float = 0.2
    cost_weight: float = 1.0
    cost: str = "sum"

    def __post_init__(self) -> None:
        _checks.settle(self, candidates=_checks.at_least(1), cost_weight=_checks.weight)
        _checks.settle(self, "position", temperature=_checks.temperature)
        _checks.settle(self, cost=_checks.one_of("sum", "mean"))

    @property
    def random(self) -> bool:
        return self.temperature > 0 and self.candidates > 1

    @property
    def wants(self) -> frozenset[str]:
        return frozenset({"token", "confidence", "entropy", "max_logprob"})

    def due(self, state: State, view: View) -> Tensor:
        count = self.count.before(state, view)
        return (count > 0) & (view.masked.sum(1) > count) & ~view.finishing & self.random

    def __call__(self, state: State, view: View, rows: Rows, scores: Scores, rescore: Rescore) -> tuple[Tensor, Scores]:
        masked = view.masked & rows.mask[:, None]
        count, confidence = self.count.before(state, view), scores["confidence"].float()
        best, most = torch.zeros_like(masked), torch.full_like(confidence[:, 0], -torch.inf)
        for candidate in range(self.candidates):
            rank = confidence
            if candidate:
                rank = confidence / self.temperature + state.gumbel(rng.Purpose.POSITION, candidate)
            chosen = ops.select_positions(rank, count, eligible=masked)
            committed = torch.where(chosen & (scores["token"] >= 0), scores["token"], state.tokens)
            left = state.masked(view.mask_id) & ~chosen
            after = rescore(committed, rows, left, candidate + 1)["entropy"]
            value = -self.cost_weight * self._cost(scores["entropy"], chosen) - _mean(after, left)
            better = (value > most) | (most.isinf() & (candidate == 0))
            best, most = torch.where(better[:, None], chosen, best), torch.where(better, value, most)
        return state.tokens, Scores({**scores, "confidence": torch.where(masked & ~best, -1.0, scores["confidence"])})

    def _cost(self, entropy: Tensor, chosen: Tensor) -> Tensor:
        if self.cost == "mean":
            return _mean(entropy, chosen)
        return torch.where(chosen, entropy.float(), 0.0).sum(1)


def _mean(values: Tensor, where: Tensor) -> Tensor:
    """``[B]``, 0 where there is nothing to average."""
    return torch.where(where, values.float(), 0.0).sum(1) / where.sum(1).clamp(min=1)
