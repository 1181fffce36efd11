"""Committing what is sure and has not moved, which a model in ``adapters.Stability`` says of itself (KLASS)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from .. import _checks
from .counts import CountRule, EvenSplit
from .scoring import Scores
from .state import State
from .unmask import Unmask
from .window import View


@dataclass(frozen=True)
class Steady:
    """All positions that are sure and steady; where there is none, as many as another rule says.

    KLASS (arXiv 2511.05664): confidence above ``threshold``, and a quality above ``exp(-kl_threshold)``, that being the
    largest recent KL of a model in :class:`mdmcorrect.adapters.Stability`.

    Args:
        threshold: of the confidence.
        kl_threshold: in nats, positive.
        otherwise: how many where nothing is ready.
    """

    random: ClassVar[bool] = False

    threshold: float = 0.9
    kl_threshold: float = 0.01
    otherwise: CountRule = field(default_factory=EvenSplit)

    def __post_init__(self) -> None:
        _checks.settle(self, threshold=_checks.number, kl_threshold=_checks.positive)

    @property
    def wants(self) -> frozenset[str]:
        return frozenset({"confidence", "quality"}) | getattr(self.otherwise, "wants", frozenset())

    def ready(self, scores: Scores) -> Tensor:
        """bool ``[B, L]``: positions that are sure and steady, masked or not."""
        return (scores["confidence"] > self.threshold) & (scores["quality"] > math.exp(-self.kl_threshold))

    def before(self, state: State, view: View) -> Tensor:
        return self.otherwise.before(state, view)

    def after(self, quota: Tensor, masked: Tensor, scores: Scores) -> Tensor:
        ready = (masked & self.ready(scores)).sum(1)
        return torch.where(ready > 0, ready, self.otherwise.after(quota, masked, scores))


@dataclass(frozen=True)
class SteadyFirst(Unmask):
    """The positions that are sure and steady before all others.

    Args:
        count: a :class:`Steady`.
        order, temperature, ties, spend_on_masks: as for :class:`Unmask`, among the others.
    """

    count: Steady = field(default_factory=Steady)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.count, Steady):
            raise TypeError(f"unmask count: expected Steady(...), got {type(self.count).__name__}")

    @property
    def wants(self) -> frozenset[str]:
        return super().wants | self.count.wants

    def rank(self, state: State, scores: Scores) -> Tensor:
        return super().rank(state, scores).masked_fill(self.count.ready(scores), torch.inf)

    def how_many(self, quota: Tensor, masked: Tensor, scores: Scores, rank: Tensor) -> Tensor:
        return self.count.after(quota, masked, scores)
