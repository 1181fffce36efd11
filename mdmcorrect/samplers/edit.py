"""Plans that write committed positions too, on the forward that commits others: token editing, rewriting."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from .. import _checks, ops
from .draws import draws
from .plan import Counts, UnmaskThenRemask, Update
from .scoring import Scores
from .state import State
from .unmask import Unmask, torch_topk
from .window import View


class EditRule(Protocol):
    """Which committed positions a step takes back, and whether it writes another token there or a mask."""

    @property
    def wants(self) -> frozenset[str]:
        """Names of the scores read."""

    def __call__(self, state: State, view: View, scores: Scores, editable: Tensor) -> tuple[Tensor, Tensor]:
        """(overwrite, remask), bool ``[B, L]`` each, within the ``editable`` positions."""

    # A rule that draws nothing says so by a false attribute `random`.


@dataclass(frozen=True)
class Overwrite:
    """The proposal replaces a token that differs from it, if its confidence exceeds ``threshold``.

    Token-to-token editing of LLaDA2.1 (technical report, section on decoding; arXiv 2602.08676).
    """

    random: ClassVar[bool] = False

    threshold: float

    def __post_init__(self) -> None:
        _checks.settle(self, "editing", threshold=_checks.number)

    @property
    def wants(self) -> frozenset[str]:
        return frozenset({"confidence"})

    def __call__(self, state: State, view: View, scores: Scores, editable: Tensor) -> tuple[Tensor, Tensor]:
        differs = editable & (scores["token"] != state.tokens) & (scores["confidence"] > self.threshold)
        return differs, torch.zeros_like(differs)


@dataclass(frozen=True)
class RemaskDoubtful:
    """Tokens the model has come to doubt are masked again instead of overwritten: T2M (arXiv 2604.18738).

    Args:
        by: "low_prob" doubts a token whose probability is below ``threshold``; "t2t_remask" one that differs from the
            proposal where the proposal's confidence exceeds it; "logit_diff" one whose probability has fallen by more
            than it since the step before.
        threshold: see ``by``.
        per_position: how often a position is masked again at most.
        ratio: share of the window's positions masked again per step at most, the least probable first.
    """

    random: ClassVar[bool] = False

    by: str = "low_prob"
    threshold: float = 0.1
    per_position: int = 3
    ratio: float = 0.25

    def __post_init__(self) -> None:
        _checks.settle(
            self, "remask", by=_checks.one_of("low_prob", "t2t_remask", "logit_diff"), threshold=_checks.number
        )
        _checks.settle(self, per_position=_checks.at_least(0), ratio=_checks.share)

    @property
    def wants(self) -> frozenset[str]:
        return frozenset({"confidence", "current_logprob"})

    def __call__(self, state: State, view: View, scores: Scores, editable: Tensor) -> tuple[Tensor, Tensor]:
        probability = scores["current_logprob"].exp()
        if self.by == "low_prob":
            doubted = probability < self.threshold
        elif self.by == "t2t_remask":
            doubted = (scores["token"] != state.tokens) & (scores["confidence"] > self.threshold)
        else:
            doubted = state.memory.get("probability", probability) - probability > self.threshold
        doubted &= editable & (state.commits <= self.per_position)
        room = (view.own.sum(1).float() * self.ratio).long()
        return torch.zeros_like(doubted), ops.select_positions(probability, room, eligible=doubted, largest=False)

    def remembered(self, state: State, scores: Scores, written: Tensor) -> dict[str, Tensor]:
        """What the next step compares with: the probability of each token that stays."""
        probability = scores["current_logprob"].exp()
        before = state.memory.get("probability", torch.full_like(probability, torch.nan))
        return {"probability": torch.where(probability.isnan(), before, probability).masked_fill(written, torch.nan)}


@dataclass(frozen=True)
class Edit(UnmaskThenRemask):
    """Commit masked positions and edit committed ones of the window on the same forward, then edit on without masks.

    A row stays in a window without masks until a step edits nothing, ``post_steps`` steps at most: the window must
    allow them, ``Blocks(..., extra=post_steps)``.

    Args:
        unmask: which masked positions, and how many.
        edit: which committed positions.
        post_steps: steps without a mask, per window.
    """

    takes: ClassVar[tuple[str, ...]] = ()

    unmask: Unmask = field(default_factory=Unmask)
    edit: EditRule = Overwrite(0.9)
    post_steps: int = 16

    def __post_init__(self) -> None:
        super().__post_init__()
        _checks.settle(self, post_steps=_checks.at_least(0))
        if not callable(self.edit):
            raise TypeError(f"edit: expected a rule such as Overwrite(0.9), got {self.edit!r}")

    @property
    def random(self) -> bool:
        return super().random or draws(self.edit)

    @property
    def wants(self) -> frozenset[str]:
        return self.unmask.wants | self.edit.wants

    def waiting(self, state: State) -> Tensor:
        """bool ``[B]``: rows that go on editing where they are."""
        return state.memory.get("editing", torch.zeros_like(state.done))

    def prepare(self, state: State, view: View) -> Counts:
        planned = super().prepare(state, view)
        need = planned.need | self.waiting(state)
        return replace(planned, need=need, wanted=view.eligible)

    def __call__(self, state: State, view: View, intent: Counts, scores: Scores) -> Update:
        masked = view.masked
        rank = self.unmask.rank(state, scores)
        count = self.unmask.how_many(intent.unmask, masked, scores, rank)
        proposed = (scores["token"] >= 0) & (scores["token"] != view.mask_id)
        overwrite, remask = self.edit(state, view, scores, view.eligible & ~masked & proposed)
        tokens, committed, remasked = ops.remask_step(
            state.tokens,
            scores["token"],
            **self.unmask.choose(rank, count, masked, view),
            remask=remask,
            mask_id=view.mask_id,
            fixed=state.fixed,
            eligible=view.eligible,
            refill="never",
        )
        tokens = torch.where(overwrite, scores["token"], tokens)
        edited = (overwrite | remasked).any(1)
        had_masks = masked.any(1)
        before = torch.where(view.step == 0, 0, state.memory.get("post", torch.zeros_like(view.step)))
        post = before + (~had_masks).long()
        memory = {
            "post": post,
            "editing": torch.where(had_masks, self.post_steps > 0, edited & (post < self.post_steps)),
        }
        if isinstance(self.edit, RemaskDoubtful):
            memory |= self.edit.remembered(state, scores, committed | remasked | overwrite)
        return Update(tokens, committed, remasked, memory=memory, corrected=overwrite)


@dataclass(frozen=True)
class Rewrite(UnmaskThenRemask):
    """The most confident positions of the window, masked or not, take the proposal; the others stay as they are.

    ProSeCo's ``remasking_only_masked=False``: as many by the i-th step as an even split has committed by then.
    """

    takes: ClassVar[tuple[str, ...]] = ()

    def prepare(self, state: State, view: View) -> Counts:
        planned = super().prepare(state, view)
        return replace(planned, wanted=view.own)

    def __call__(self, state: State, view: View, intent: Counts, scores: Scores) -> Update:
        steps = view.steps.clamp(min=1)
        so_far = view.quota // steps * (view.step + 1) + (view.quota % steps).minimum(view.step + 1)
        rank = self.unmask.rank(state, scores)
        proposed = view.own & (scores["token"] >= 0) & (scores["token"] != view.mask_id)
        if self.unmask.ties == "torch":
            chosen = torch_topk(rank, so_far, proposed) & proposed
        else:
            chosen = ops.select_positions(rank, so_far, eligible=proposed)
        chosen = chosen & ~state.done[:, None] & intent.need[:, None]
        tokens = torch.where(chosen, scores["token"], state.tokens)
        committed = chosen & (state.tokens == view.mask_id)
        return Update(tokens, committed, torch.zeros_like(chosen), corrected=chosen & ~committed)
