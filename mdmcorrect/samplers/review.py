"""A second model that reads the draft of a step: external planners and critics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .. import _checks
from ..model import Output, Request, caller, model_name
from .forward import Forward, Tally
from .rows import Rows
from .scoring import Scores, Scoring
from .state import State

_READS = {
    "quality": frozenset({"quality"}),
    "logprob": frozenset({"current_logprob"}),
    "lead": frozenset({"max_logprob", "second_logprob"}),
}
_DRAFTS = ("masks", "generated", "all")


@dataclass(frozen=True)
class Review:
    """A second model's opinion of the canvas with every mask filled by its proposal; the score "review".

    Costs each row that makes a forward one more.

    Args:
        model: as any sampler takes; with ``reads="quality"`` also one that returns quality alone, ``[b, L]``.
        reads: "quality", its estimate that a token is right (Token-Critic, arXiv 2209.04439); "logprob", its
            log-probability of the draft's token; "lead", that of its best token over the second (P2, 2502.03540).
        draft: which positions hold proposals: "masks"; "generated", committed ones too; "all", fixed ones too, as in
            P2's code.
        scoring: how the model's logits are read; not with ``reads="quality"``, which reads none.
    """

    model: Any
    reads: str = "quality"
    draft: str = "masks"
    scoring: Scoring = field(default_factory=Scoring)

    def __post_init__(self) -> None:
        _checks.choice("review reads", self.reads, *_READS)
        _checks.choice("review draft", self.draft, *_DRAFTS)
        if self.reads == "quality" and self.scoring != Scoring():
            raise ValueError("review scoring: expected reads='logprob' or 'lead' beside it, got 'quality', no logits")

    def wanted(self, state: State, mask_id: int) -> Tensor:
        """bool ``[B, L]``: positions whose proposals the draft takes."""
        if self.draft == "all":
            return state.attention_mask
        return ~state.fixed if self.draft == "generated" else state.masked(mask_id)

    def forward(self, mask_id: int, method: str, condition: Any) -> Forward:
        """The counted forward of the second model."""
        model = _Critic(self.model, mask_id) if self.reads == "quality" else self.model
        return Forward(model, self.scoring, mask_id, _READS[self.reads], f"{method}'s review", condition)

    def __call__(
        self, forward: Forward, state: State, scores: Scores, rows: Rows, time: Tensor, tally: Tally
    ) -> Scores:
        """The step's scores and "review", ``[B, L]``."""
        if rows.empty:
            unread = torch.full(state.tokens.shape, torch.nan, dtype=torch.float32, device=state.tokens.device)
            return Scores({**scores, "review": unread})
        wanted = self.wanted(state, forward.mask_id) & (scores["token"] >= 0)
        draft = torch.where(wanted, scores["token"], state.tokens)
        where = torch.zeros_like(state.fixed) if self.reads == "quality" else ~state.fixed
        own = Tally(tally.run.setdefault("review", {}))
        read = forward(state, draft, rows, where, time, tally=own)
        tally.made += own.made
        tally.calls += own.calls
        tally.token_forwards += own.token_forwards
        if self.reads == "lead":
            return Scores({**scores, "review": read["max_logprob"] - read["second_logprob"]})
        return Scores({**scores, "review": read["quality" if self.reads == "quality" else "current_logprob"]})


class _Critic:
    """A model of quality, alone or beside logits, as one whose logits nobody reads."""

    def __init__(self, model: Any, mask_id: int) -> None:
        self.model, self.mask_id, self.__name__ = caller(model), mask_id, model_name(model)

    def __call__(self, tokens: Tensor, request: Request) -> Output:
        answer = self.model(tokens, request)
        if not isinstance(answer, Tensor):
            read = answer.get if isinstance(answer, Mapping) else lambda name: getattr(answer, name, None)
            answer = read("quality")
        blank = torch.zeros(1, 1, self.mask_id + 1, dtype=torch.float32, device=tokens.device).expand(*tokens.shape, -1)
        return Output(logits=blank, quality=answer)
