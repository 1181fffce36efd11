"""How one step writes the canvas. Here: commit and remask by rank; :mod:`.ancestral` does it by Bernoulli draws."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from .. import _checks, ops
from .draws import draws
from .lowering import Lowered, PlanKind, is_exactly, lowered
from .remask import Remask
from .scoring import Scores
from .state import State
from .unmask import Unmask, torch_topk
from .window import View


@dataclass(frozen=True)
class Intent:
    """What a step knows before its forward; each plan adds what it needs.

    ``need``: bool ``[B]``, rows that cannot do without the forward. ``wanted``: bool ``[B, L]``, positions whose scores
    the step will read; None is every masked position of the window.
    """

    need: Tensor
    wanted: Tensor | None = field(default=None, kw_only=True)


@dataclass(frozen=True)
class Counts(Intent):
    """How many positions a step commits, as far as known, and masks again: int64 ``[B]`` each."""

    unmask: Tensor
    remask: Tensor


@dataclass(frozen=True)
class Update:
    """What a step did: ``tokens`` int64, ``committed`` and ``remasked`` bool, each ``[B, L]``.

    ``corrected``: bool ``[B, L]``, committed positions that hold another token now; None for none.
    ``memory``: tensors with a leading dimension of B that the plan finds in ``state.memory`` from now on.
    """

    tokens: Tensor
    committed: Tensor
    remasked: Tensor
    memory: Mapping[str, Tensor] = field(default_factory=dict)
    corrected: Tensor | None = None


class Plan(Protocol):
    """One way to update the canvas."""

    @property
    def wants(self) -> frozenset[str]:
        """Names of the scores read."""

    @property
    def revisits(self) -> bool:
        """Whether a row without masks may get some again, so that it must go on until its steps are used."""

    # A plan that draws no random numbers itself says so by a false attribute `random`; one that the operator of
    # :mod:`.lowering` knows has a method `lower`.

    def time(self, state: State, view: View) -> Tensor:
        """float64 ``[B]``: the noise level a time-conditioned model is told."""

    def prepare(self, state: State, view: View) -> Intent:
        """What can be decided before the forward."""

    def __call__(self, state: State, view: View, intent: Any, scores: Scores) -> Update:
        """The step itself. Rows without a forward carry tokens of -1, which nothing commits."""


class Waits(Plan, Protocol):
    """A plan some of whose rows have business left without a mask in sight: the engine looks for ``waiting``."""

    def waiting(self, state: State) -> Tensor:
        """bool ``[B]``: which."""


@dataclass(frozen=True)
class UnmaskThenRemask:
    """Commit the best masked positions, mask the worst committed ones, and commit as many more as were masked.

    Net progress per step is ``unmask.count``, with or without remasking: both are decided on one forward (PRISM, arXiv
    2510.01384, algorithm 3).

    Args:
        unmask: which masked positions, and how many net.
        remask: which committed positions, None for none.
        refill: "if_short" lets a position just masked be filled again when other masks run out; "never" makes it wait
            for the next step (PRISM on LLaDA).
    """

    takes: ClassVar[tuple[str, ...]] = ("remask", "refill")  # of these a subclass may have its own, and no other

    unmask: Unmask = field(default_factory=Unmask)
    remask: Remask | None = None
    refill: str = "if_short"

    def __post_init__(self) -> None:
        _checks.settle(self, refill=_checks.one_of("if_short", "never"))
        for name, default in (("remask", None), ("refill", "if_short")):
            if name not in self.takes and getattr(self, name) != default:
                raise ValueError(
                    f"{name}: expected {default!r}, since {type(self).__name__} masks by a rule of its own, "
                    f"got {getattr(self, name)!r}"
                )
        for name, kind in (("unmask", Unmask), ("remask", Remask)):
            part = getattr(self, name)
            if not isinstance(part, kind) and not (name == "remask" and part is None):
                raise TypeError(f"{name}: expected {kind.__name__}(...), got {part!r}")

    @property
    def random(self) -> bool:
        """Whether positions or their number are drawn."""
        return draws(self.unmask, self.remask)

    @property
    def wants(self) -> frozenset[str]:
        return self.unmask.wants | (self.remask.wants if self.remask else frozenset())

    @property
    def revisits(self) -> bool:
        return False

    def time(self, state: State, view: View) -> Tensor:
        return state.masked(view.mask_id).sum(1).double() / (~state.fixed).sum(1).clamp(min=1)

    def prepare(self, state: State, view: View) -> Counts:
        masks = view.masked
        count = self.unmask.count.before(state, view)
        remask = self.remask.how_many(state, view) if self.remask else torch.zeros_like(count)
        remask = torch.where(masks.any(1), remask, 0)
        return Counts(need=(count + remask > 0) & masks.any(1), unmask=count, remask=remask)

    def __call__(self, state: State, view: View, intent: Counts, scores: Scores) -> Update:
        masked = view.masked
        rank = self.unmask.rank(state, scores)
        count = self.unmask.how_many(intent.unmask, masked, scores, rank) + intent.remask
        tokens, committed, remasked = ops.remask_step(
            state.tokens,
            scores["token"],
            **self.unmask.choose(rank, count, masked, view),
            keep_score=self.remask.keep(state, scores) if self.remask else None,
            remask_count=intent.remask if self.remask else None,
            mask_id=view.mask_id,
            fixed=state.fixed,
            eligible=view.eligible,
            refill=self.refill,
        )
        return Update(tokens, committed, remasked)

    def lower(self) -> Lowered | None:
        parts = lowered(self.unmask, self.remask)
        if parts is None or not is_exactly(self, UnmaskThenRemask):
            return None
        return parts | Lowered({"plan": PlanKind.RANKED, "refill_if_short": self.refill == "if_short"})


@dataclass(frozen=True)
class WholeRow(UnmaskThenRemask):
    """A whole-batch rule: ranks all positions of a row, so that a count above its masks masks tokens again.

    Dream's code takes one count for the batch and writes a mask wherever its top-k runs out of masked positions. Kept
    for comparison; which tokens are lost depends on how ties are broken.
    """

    takes: ClassVar[tuple[str, ...]] = ()

    @property
    def revisits(self) -> bool:
        return True

    def prepare(self, state: State, view: View) -> Counts:
        count = self.unmask.count.before(state, view)
        return Counts(need=count > 0, unmask=count, remask=torch.zeros_like(count))

    def __call__(self, state: State, view: View, intent: Counts, scores: Scores) -> Update:
        masked = view.masked
        rank = self.unmask.rank(state, scores)
        if self.unmask.ties == "torch":
            chosen = torch_topk(rank, intent.unmask, masked)
        else:
            chosen = ops.select_positions(rank.masked_fill(~masked, -torch.inf), intent.unmask)
        tokens, committed, remasked = ops.remask_step(
            state.tokens,
            scores["token"],
            mask_id=view.mask_id,
            fixed=state.fixed,
            eligible=view.eligible,
            commit=chosen & masked,
            remask=chosen & ~masked,
        )
        return Update(tokens, committed, remasked)
