"""How many masked positions a step commits: by a schedule, or as many as their scores allow."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from .. import _checks, ops, rng
from .._tables import device_table, kept
from .draws import draws
from .lowering import CommitCount, Lowered, ScoreRule, is_exactly, lowered
from .scoring import Scores
from .state import State
from .window import View


class CountRule(Protocol):
    """How many masked positions of the window a step commits, before what it masks again is made up for."""

    def before(self, state: State, view: View) -> Tensor:
        """int64 ``[B]``, the number as far as it is known before the forward: at least the final one."""

    def after(self, quota: Tensor, masked: Tensor, scores: Scores) -> Tensor:
        """int64 ``[B]``, the number, given what ``before`` said, the masked positions ``[B, L]`` and their scores."""

    # A rule that reads scores other than the confidence names them in a property `wants`, a frozenset of names; one
    # that draws nothing says so by a false attribute `random`.


@dataclass(frozen=True)
class EvenSplit:
    """``n // S + (i < n % S)`` of the window's n masks at its i-th of S steps: the remainder goes first.

    LLaDA (arXiv 2502.09992, section 2.4). A step that commits fewer is not made up for later.
    """

    random: ClassVar[bool] = False

    def before(self, state: State, view: View) -> Tensor:
        steps = view.steps.clamp(min=1)
        return view.quota // steps + (view.step < view.quota % steps)

    def after(self, quota: Tensor, masked: Tensor, scores: Scores) -> Tensor:
        return quota

    def lower(self) -> Lowered | None:
        return Lowered({"count": CommitCount.EVEN}) if is_exactly(self, EvenSplit) else None


@dataclass(frozen=True)
class CeilTarget:
    """As many as bring the window to ``ceil(n (i + 1) / S)`` committed positions of n: PRISM's static schedule.

    PRISM (arXiv 2510.01384, algorithm 3). Written with integers, so no rounding error of ``n / S`` adds a position.
    """

    random: ClassVar[bool] = False

    def before(self, state: State, view: View) -> Tensor:
        target = -(-view.quota * (view.step + 1) // view.steps.clamp(min=1))
        masks = view.masked.sum(1)
        return (target.clamp(max=view.quota) - (view.quota - masks)).clamp(min=0)

    def after(self, quota: Tensor, masked: Tensor, scores: Scores) -> Tensor:
        return quota

    def lower(self) -> Lowered | None:
        return Lowered({"count": CommitCount.CEIL}) if is_exactly(self, CeilTarget) else None


def _masks(state: State, view: View) -> Tensor:
    return view.masked.sum(1)


@dataclass(frozen=True)
class TimeGrid:
    """``int(n (1 - s / t))`` of the n masks left, on the times ``linspace(1, eps, S + 1)``; all in the last step.

    Dream (arXiv 2508.15487). Times and product are float32, as there: truncation makes the last bit matter.

    Args:
        eps: last time of the grid.
        batch_mean: n is the mean over the batch, as Dream's code has it. It commits too few in some rows and, its plan
            being :class:`WholeRow`, masks tokens of others.
    """

    random: ClassVar[bool] = False

    eps: float = 1e-3
    batch_mean: bool = False

    def __post_init__(self) -> None:
        _checks.settle(self, eps=_checks.below_one, batch_mean=_checks.flag)

    def before(self, state: State, view: View) -> Tensor:
        masks = _masks(state, view).float()
        if self.batch_mean:
            masks = (masks.sum() / max(len(masks), 1)).expand_as(masks)
        t, s = self._at(view.step, view.steps), self._at(view.step + 1, view.steps)
        last = view.step + 1 >= view.steps
        return torch.where(last, masks, masks * (1 - s / t)).long()

    def after(self, quota: Tensor, masked: Tensor, scores: Scores) -> Tensor:
        return quota

    def lower(self) -> Lowered | None:
        if self.batch_mean or not is_exactly(self, TimeGrid):
            return None
        return Lowered({"count": CommitCount.GRID, "eps": self.eps})

    def _at(self, step: Tensor, steps: Tensor) -> Tensor:
        """``torch.linspace(1, eps, steps + 1)[step]``, bit for bit: from either end to the middle, rounded once."""
        end = torch.full((), self.eps, dtype=torch.float32, device=step.device)
        width = ((end - 1) / steps.clamp(min=1)).double()
        return torch.where(step < (steps + 1) // 2, 1 + width * step, end.double() - width * (steps - step)).float()


def linear_stays(s: float, t: float) -> float:
    """The share of masks at time t that remain at s, ``(1 - alpha_s) / (1 - alpha_t)`` for ``alpha_t = 1 - t``.

    In float32, as dLLM computes it: the rounding of counts makes the last bit matter.
    """
    at_s, at_t = torch.tensor([s, t], dtype=torch.float32, device="cpu")
    return float((1 - (1 - at_s)) / (1 - (1 - at_t)))


@dataclass(frozen=True)
class RoundedGrid:
    """``round(n (1 - s / t))`` of the n masks left, on the times ``linspace(1, 0, S + 1)``: dLLM's schedule.

    Steps that would commit nothing are left out, so a window may end before its S steps. Rounds half to even, float64.

    Args:
        steps: S, of a window.
        stochastic: ``Binomial(n, 1 - s / t)`` instead.
        stays: ``(s, t) -> (1 - alpha_s) / (1 - alpha_t)``, instead of ``s / t``, the share of masks that remain.
    """

    steps: int
    stochastic: bool = False
    stays: Callable[[float, float], float] = linear_stays

    def __post_init__(self) -> None:
        _checks.settle(self, steps=_checks.at_least(1), stochastic=_checks.flag)

    @property
    def random(self) -> bool:
        return self.stochastic

    def before(self, state: State, view: View) -> Tensor:
        if self.stochastic:
            shares = device_table(commit_shares(self.steps, self.stays), torch.float64, view.own.device)
            share = shares[view.step.clamp(max=self.steps - 1)]
            masked = view.masked
            u = state.uniform(rng.Purpose.COUNT)
            return ((u < share[:, None]) & masked).sum(1)
        table = rounded_grid(view.own.shape[1], self.steps, self.stays, view.own.device)
        return table[view.quota, view.step.clamp(max=self.steps - 1)]

    def after(self, quota: Tensor, masked: Tensor, scores: Scores) -> Tensor:
        return quota


@lru_cache(maxsize=16)
def commit_shares(steps: int, stays: Callable[[float, float], float]) -> tuple[float, ...]:
    """The share of the masks left that each step commits."""
    return tuple(1 - stays((left - 1) / steps, left / steps) for left in range(steps, 0, -1))


@kept
def rounded_grid(length: int, steps: int, stays: Callable[[float, float], float], device: torch.device) -> Tensor:
    """int64 ``[length + 1, steps]``: how many of n masks each step commits, steps that commit none moved to the end."""
    left = torch.arange(length + 1, dtype=torch.int64, device=device)
    columns = []
    for share in commit_shares(steps, stays):
        count = torch.round(left.double() * share).long().minimum(left)
        columns.append(count)
        left = left - count
    counts = torch.stack(columns, 1)
    order = (counts == 0).long().argsort(dim=1, stable=True)
    return counts.gather(1, order)


@dataclass(frozen=True)
class Threshold:
    """All positions whose proposal's confidence reaches ``threshold``; the most confident ones if too few do.

    Fast-dLLM (arXiv 2505.22618, section 3.3); ProSeCo on LLaDA; LLaDA2.

    Args:
        threshold: compared in the confidence's dtype; one that none reaches leaves ``at_least``.
        strict: confidences must exceed it (LLaDA2, sglang).
        at_least: at least so many, a number or what another rule says (LLaDA2's split of the block over its steps).
    """

    threshold: float
    strict: bool = False
    at_least: int | CountRule = 1

    def __post_init__(self) -> None:
        _checks.settle(self, threshold=_checks.number, strict=_checks.flag)
        if not hasattr(self.at_least, "before"):
            _checks.settle(self, at_least=_checks.at_least(0))

    @property
    def random(self) -> bool:
        return not isinstance(self.at_least, int) and draws(self.at_least)

    def before(self, state: State, view: View) -> Tensor:
        return _masks(state, view) if isinstance(self.at_least, int) else self._floor(state, view)

    def _floor(self, state: State, view: View) -> Tensor:
        assert not isinstance(self.at_least, int)
        return self.at_least.before(state, view)

    def after(self, quota: Tensor, masked: Tensor, scores: Scores) -> Tensor:
        rule = "strict_threshold" if self.strict else "threshold"
        if isinstance(self.at_least, int):
            return ops.count_positions(
                scores["confidence"], rule, self.threshold, eligible=masked, at_least=self.at_least
            )
        return ops.count_positions(scores["confidence"], rule, self.threshold, eligible=masked).maximum(quota)

    def lower(self) -> Lowered | None:
        floor = Lowered({"count": CommitCount.ALL}) if isinstance(self.at_least, int) else lowered(self.at_least)
        if floor is None or "score_rule" in floor.numbers or not is_exactly(self, Threshold):
            return None
        rule = ScoreRule.STRICT_THRESHOLD if self.strict else ScoreRule.THRESHOLD
        at_least = self.at_least if isinstance(self.at_least, int) else -1
        return floor | Lowered({"score_rule": rule, "score_bound": self.threshold, "at_least": at_least})


@dataclass(frozen=True)
class Factor:
    """The most confident positions, up to the first n with ``(n + 1) (1 - c_(n)) > factor``, at least one.

    Fast-dLLM (arXiv 2505.22618, section 3.3): the more positions are committed at once, the surer they must be.

    Args:
        factor: f of the paper.
        last_free: the last position is not asked, as in the authors' code: if all others pass, all are committed.
    """

    random: ClassVar[bool] = False

    factor: float
    last_free: bool = True

    def __post_init__(self) -> None:
        _checks.settle(self, factor=_checks.weight, last_free=_checks.flag)

    def before(self, state: State, view: View) -> Tensor:
        return _masks(state, view)

    def after(self, quota: Tensor, masked: Tensor, scores: Scores) -> Tensor:
        return self.count(scores["confidence"], masked)

    def count(self, confidence: Tensor, masked: Tensor) -> Tensor:
        """int64 ``[B]``, for confidences and masked positions ``[B, L]``."""
        count = ops.count_positions(confidence, "factor", self.factor, eligible=masked, at_least=1)
        masks = masked.sum(1)
        return torch.where(count == masks - 1, masks, count) if self.last_free else count

    def lower(self) -> Lowered | None:
        if not is_exactly(self, Factor):
            return None
        free = {"at_least": 1, "last_free": self.last_free}
        return Lowered({"count": CommitCount.ALL, "score_rule": ScoreRule.FACTOR, "score_bound": self.factor, **free})


@dataclass(frozen=True)
class EntropyBound:
    """Positions of least entropy, as many as keep the sum of entropies less the largest within ``gamma``, at least one.

    The entropy-bounded sampler (arXiv 2505.24857, section 4): gamma bounds what is lost by taking the positions for
    independent. Wants the order "entropy".
    """

    random: ClassVar[bool] = False

    gamma: float

    def __post_init__(self) -> None:
        _checks.settle(self, gamma=_checks.weight)

    @property
    def wants(self) -> frozenset[str]:
        return frozenset({"entropy"})

    def before(self, state: State, view: View) -> Tensor:
        return _masks(state, view)

    def after(self, quota: Tensor, masked: Tensor, scores: Scores) -> Tensor:
        return ops.count_positions(scores["entropy"], "entropy_bound", self.gamma, eligible=masked, at_least=1)

    def lower(self) -> Lowered | None:
        if not is_exactly(self, EntropyBound):
            return None
        rule = {"score_rule": ScoreRule.ENTROPY_BOUND, "score_bound": self.gamma, "at_least": 1}
        return Lowered({"count": CommitCount.ALL, **rule})


def after_end(tokens: Tensor, eos_id: int) -> Tensor:
    """bool ``[B, L]``: positions after the first that holds ``eos_id``."""
    ends = (tokens == eos_id).long()
    return ends.cumsum(1) - ends > 0


@dataclass(frozen=True)
class AboveMean:
    """All positions at least as confident as the mean, up to the first proposed end.

    MDiff4STR's low-confidence decoding.

    Args:
        eos_id: positions after the first proposed one count for nothing; None counts all.
    """

    random: ClassVar[bool] = False

    eos_id: int | None = None

    def __post_init__(self) -> None:
        _checks.settle(self, eos_id=_checks.optional(_checks.token_id))

    def before(self, state: State, view: View) -> Tensor:
        return _masks(state, view)

    def after(self, quota: Tensor, masked: Tensor, scores: Scores) -> Tensor:
        counted = masked if self.eos_id is None else masked & ~after_end(scores["token"], self.eos_id)
        confidence = scores["confidence"].float()
        counted = counted & confidence.isfinite()
        # In float64, where no order of adding decides whether equal ones reach their mean.
        mean = torch.where(counted, confidence.double(), 0.0).sum(1) / counted.sum(1).clamp(min=1)
        return ops.count_positions(confidence, "threshold", mean, eligible=counted, at_least=1)
