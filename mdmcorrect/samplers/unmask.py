"""Which masked positions are committed, and how many."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from .. import ops, rng
from .scoring import Scores
from .state import State
from .window import View

TIES = ("lowest", "torch")
_WANTS = {
    "random": frozenset[str](),
    "confidence": frozenset({"confidence"}),
    "max_probability": frozenset({"max_logprob"}),
    "margin": frozenset({"margin"}),
    "entropy": frozenset({"entropy"}),
}


class CountRule(Protocol):
    """How many masked positions of the window a step commits, before what it masks again is made up for."""

    def before(self, state: State, view: View) -> Tensor:
        """int64 ``[B]``, the number as far as it is known before the forward: at least the final one."""

    def after(self, quota: Tensor, masked: Tensor, scores: Scores) -> Tensor:
        """int64 ``[B]``, the number, given what ``before`` said, the masked positions ``[B, L]`` and their scores."""


@dataclass(frozen=True)
class EvenSplit:
    """``n // S + (i < n % S)`` of the window's n masks at its i-th of S steps: the remainder goes first.

    LLaDA (arXiv 2502.09992, section 2.4). A step that commits fewer is not made up for later.
    """

    def before(self, state: State, view: View) -> Tensor:
        steps = view.steps.clamp(min=1)
        return view.quota // steps + (view.step < view.quota % steps)

    def after(self, quota: Tensor, masked: Tensor, scores: Scores) -> Tensor:
        return quota


@dataclass(frozen=True)
class CeilTarget:
    """As many as bring the window to ``ceil(n (i + 1) / S)`` committed positions of n: PRISM's static schedule.

    PRISM (arXiv 2510.01384, algorithm 3). Written with integers, so no rounding error of ``n / S`` adds a position.
    """

    def before(self, state: State, view: View) -> Tensor:
        target = -(-view.quota * (view.step + 1) // view.steps.clamp(min=1))
        masks = ((state.tokens == view.mask_id) & view.eligible).sum(1)
        return (target.clamp(max=view.quota) - (view.quota - masks)).clamp(min=0)

    def after(self, quota: Tensor, masked: Tensor, scores: Scores) -> Tensor:
        return quota


@dataclass(frozen=True)
class Threshold:
    """All positions whose proposal's confidence reaches ``threshold``, and the most confident one if none does.

    Fast-dLLM (arXiv 2505.22618); ProSeCo on LLaDA.
    """

    threshold: float

    def before(self, state: State, view: View) -> Tensor:
        return ((state.tokens == view.mask_id) & view.eligible).sum(1)

    def after(self, quota: Tensor, masked: Tensor, scores: Scores) -> Tensor:
        reached = (scores["confidence"] >= self.threshold) & masked
        return torch.minimum(reached.sum(1).clamp(min=1), quota)


@dataclass(frozen=True)
class Unmask:
    """Commit the highest-ranked masked positions.

    Args:
        order: "random"; "confidence", the probability of the proposed token; "max_probability", that of the most
            probable token, whatever was drawn; "margin", between the two most probable; "entropy", lowest first.
        count: how many; one of :class:`EvenSplit`, :class:`CeilTarget`, :class:`Threshold`, or your own rule.
        temperature: 0 takes the best; else a draw without replacement from ``softmax(order / temperature)`` over the
            masked positions, by Gumbel noise on the order (Dream's ``alg_temp``; arXiv 1903.06059, section 2).
        ties: which of equal positions go first: "lowest", the lowest index; "torch", whichever ``torch.topk`` names,
            as the originals do, at the price of one more question to the host per step.
        spend_on_masks: a position whose proposal is the mask itself uses up one of the count, though it stays masked
            (LLaDA's code; with ``Scoring(mask_token="propose")``).
    """

    order: str = "confidence"
    count: CountRule = EvenSplit()
    temperature: float = 0.0
    ties: str = "lowest"
    spend_on_masks: bool = False

    def __post_init__(self) -> None:
        if not self.temperature >= 0:
            raise ValueError(f"unmask temperature: expected a number >= 0, got {self.temperature}")
        if self.ties not in TIES:
            raise ValueError(f"ties: expected one of {list(TIES)}, got {self.ties!r}")
        if self.order not in _WANTS:
            raise ValueError(f"unmask order: expected one of {sorted(_WANTS)}, got {self.order!r}")

    @property
    def wants(self) -> frozenset[str]:
        """Names of the scores read."""
        return _WANTS[self.order] | (frozenset({"confidence"}) if isinstance(self.count, Threshold) else frozenset())

    def rank(self, state: State, scores: Scores) -> Tensor:
        """Floating ``[B, L]``: larger is committed first."""
        if self.order == "random":
            return rng.uniform(state.seed, state.positions, state.step, rng.Purpose.ORDER, 0)
        if self.order == "entropy":
            rank = -scores["entropy"]
        else:
            rank = scores["max_logprob" if self.order == "max_probability" else self.order]
        if self.temperature > 0:
            noise = rng.gumbel(state.seed, state.positions, state.step, rng.Purpose.POSITION)
            rank = rank / self.temperature + noise
        return rank

    def how_many(self, quota: Tensor, masked: Tensor, scores: Scores, rank: Tensor) -> Tensor:
        """int64 ``[B]``: what :attr:`count` says; rules that read the confidence get the random order's, if it is."""
        if self.order == "random":
            scores = Scores({**scores, "confidence": rank})
        return self.count.after(quota, masked, scores)

    def choose(self, rank: Tensor, count: Tensor, masked: Tensor) -> dict[str, Tensor]:
        """Arguments of :func:`mdmcorrect.ops.remask_step` that say what to commit."""
        if self.ties == "torch":
            return {"commit": torch_topk(rank, count, masked) & masked}
        if self.spend_on_masks:
            return {"commit": ops.select_positions(rank, count, eligible=masked)}
        return {"unmask_score": rank, "unmask_count": count}


def torch_topk(rank: Tensor, count: Tensor, eligible: Tensor) -> Tensor:
    """bool ``[B, L]``: the ``count[b]`` best positions of each row in the order ``torch.topk`` gives equal ones.

    The row handed to it holds -inf where not ``eligible``, which it may choose too if the count is larger than there
    are others. Reads the counts on the host.
    """
    rows = rank.masked_fill(~eligible | rank.isnan(), -torch.inf)
    chosen = torch.zeros_like(eligible)
    for row, number in enumerate(count.clamp(min=0, max=rank.shape[1]).tolist()):
        chosen[row, torch.topk(rows[row], number).indices] = True
    return chosen
