"""Which masked positions are committed; how many, :mod:`.counts` says."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from .. import _checks, ops, rng
from .counts import CountRule, EvenSplit, after_end
from .draws import draws
from .lowering import Lowered, Order, ScoreRule, is_exactly, lowered
from .scoring import Scores
from .state import State
from .window import View

TIES = ("lowest", "torch", "torch_block")
_WANTS = {
    "random": frozenset[str](),
    "confidence": frozenset({"confidence"}),
    "max_probability": frozenset({"max_logprob"}),
    "margin": frozenset({"margin"}),
    "entropy": frozenset({"entropy"}),
}


@dataclass(frozen=True)
class Unmask:
    """Commit the highest-ranked masked positions.

    Args:
        order: "random"; "confidence", the probability of the proposed token; "max_probability", that of the most
            probable token, whatever was drawn; "margin", between the two most probable; "entropy", lowest first.
        count: how many; a rule of :mod:`.counts`, or your own.
        temperature: 0 takes the best; else a draw without replacement from ``softmax(order / temperature)`` over the
            masked positions, by Gumbel noise on the order (Dream's ``alg_temp``; arXiv 1903.06059, section 2).
        ties: which of equal positions go first: "lowest", the lowest index; "torch", whichever ``torch.topk`` names of
            the whole row, "torch_block" of the block's columns alone, as the originals do, at the price of one more
            question to the host per step.
        spend_on_masks: a position whose proposal is the mask itself uses up one of the count, though it stays masked
            (LLaDA's code; with ``Scoring(mask_token="propose")``).
    """

    order: str = "confidence"
    count: CountRule = field(default_factory=EvenSplit)
    temperature: float = 0.0
    ties: str = "lowest"
    spend_on_masks: bool = False

    def __post_init__(self) -> None:
        _checks.settle(self, "unmask", order=_checks.one_of(*sorted(_WANTS)), temperature=_checks.temperature)
        _checks.settle(self, ties=_checks.one_of(*TIES), spend_on_masks=_checks.flag)
        if not (hasattr(self.count, "before") and hasattr(self.count, "after")):
            raise TypeError(f"unmask count: expected a rule with before and after, got {type(self.count).__name__}")

    @property
    def wants(self) -> frozenset[str]:
        """Names of the scores read."""
        return _WANTS[self.order] | getattr(self.count, "wants", frozenset())

    @property
    def random(self) -> bool:
        """Whether the order or the number is drawn."""
        return self.order == "random" or self.temperature > 0 or draws(self.count)

    def rank(self, state: State, scores: Scores) -> Tensor:
        """Floating ``[B, L]``: larger is committed first."""
        if self.order == "random":
            return state.uniform(rng.Purpose.ORDER)
        if self.order == "entropy":
            rank = -scores["entropy"]
        else:
            rank = scores["max_logprob" if self.order == "max_probability" else self.order]
        if self.temperature > 0:
            noise = state.gumbel(rng.Purpose.POSITION)
            rank = rank / self.temperature + noise
        return rank

    def how_many(self, quota: Tensor, masked: Tensor, scores: Scores, rank: Tensor) -> Tensor:
        """int64 ``[B]``: what :attr:`count` says; rules that read the confidence get the random order's, if it is."""
        if self.order == "random":
            scores = Scores({**scores, "confidence": rank})
        return self.count.after(quota, masked, scores)

    def choose(self, rank: Tensor, count: Tensor, masked: Tensor, view: View) -> dict[str, Tensor]:
        """Arguments of :func:`mdmcorrect.ops.remask_step` that say what to commit."""
        if self.ties != "lowest":
            columns = torch.stack(view.span()) if self.ties == "torch_block" else None
            return {"commit": torch_topk(rank, count, masked, columns) & masked}
        if self.spend_on_masks:
            return {"commit": ops.select_positions(rank, count, eligible=masked)}
        return {"unmask_score": rank, "unmask_count": count}

    def lower(self) -> Lowered | None:
        count = lowered(self.count)
        if count is None or self.ties != "lowest" or not is_exactly(self, Unmask):
            return None
        if count.numbers.get("score_rule") == ScoreRule.ENTROPY_BOUND and self.order != "entropy":
            return None
        order = {"random": Order.RANDOM, "entropy": Order.NEGATED}.get(self.order, Order.SCORE)
        own = {"order": order, "order_temperature": self.temperature, "spend_on_masks": self.spend_on_masks}
        names = {"max_probability": "max_logprob"}
        return count | Lowered(own, {} if order is Order.RANDOM else {"rank": names.get(self.order, self.order)})


@dataclass(frozen=True)
class BeforeEnd(Unmask):
    """Commits nothing after the first end of sequence that stands or is proposed, while a step has a choice.

    Args:
        eos_id: the end of sequence; None for no such rule.
    """

    eos_id: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        _checks.settle(self, eos_id=_checks.optional(_checks.token_id))

    def rank(self, state: State, scores: Scores) -> Tensor:
        rank = super().rank(state, scores)
        return rank if self.eos_id is None else rank.masked_fill(after_end(scores["token"], self.eos_id), -torch.inf)


def torch_topk(rank: Tensor, count: Tensor, eligible: Tensor, columns: Tensor | None = None) -> Tensor:
    """bool ``[B, L]``: the ``count[b]`` best positions of each row in the order ``torch.topk`` gives equal ones.

    The row handed to it, or its columns from ``columns[0, b]`` up to ``columns[1, b]``, holds -inf where not
    ``eligible``, which it may choose too if the count is larger than there are others. Reads the counts on the host.
    """
    rows = rank.masked_fill(~eligible | rank.isnan(), -torch.inf)
    chosen = torch.zeros_like(eligible)
    if columns is None:
        columns = torch.stack([torch.zeros_like(count), torch.full_like(count, rank.shape[1])])
    for row, (number, start, stop) in enumerate(torch.stack([count, *columns], 1).tolist()):
        best = torch.topk(rows[row, start:stop], min(max(number, 0), stop - start)).indices
        chosen[row, start + best] = True
    return chosen
