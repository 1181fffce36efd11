"""Plans that take back committed tokens on evidence of their own: verification, history, a second forward."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor

from .. import _checks, ops, rng
from .counts import CeilTarget
from .draws import draws
from .plan import Counts, UnmaskThenRemask, Update
from .remask import Constant, RemaskCount
from .scoring import Scores
from .state import State
from .unmask import Unmask
from .window import View


@dataclass(frozen=True)
class DraftAndVerify(UnmaskThenRemask):
    """Commit freely, and mask again what a view of the canvas that hides each token doubts: WINO (arXiv 2507.18578).

    A step accepts every proposal that its rule admits, at most ``clamp(0.7 m, 5, 20)`` of m masks. It masks again the
    committed positions of the window whose quality is below ``doubt``, if it accepted more than one; fewer than the
    step before accepted, those of lowest quality, so that a window of m masks ends within m + 30 steps.

    Args:
        unmask: which masked positions, and how many at most.
        doubt: tau_2.
    """

    takes: ClassVar[tuple[str, ...]] = ()

    unmask: Unmask = field(default_factory=Unmask)
    doubt: float = 0.9

    FIRST = 30  # what the step before the first is taken to have accepted

    def __post_init__(self) -> None:
        super().__post_init__()
        _checks.settle(self, doubt=_checks.number)

    @property
    def wants(self) -> frozenset[str]:
        return self.unmask.wants | {"quality"}

    def __call__(self, state: State, view: View, intent: Counts, scores: Scores) -> Update:
        masked = view.masked
        committed = view.eligible & ~masked
        rank = self.unmask.rank(state, scores)
        masks = masked.sum(1)
        cap = (masks * 7 // 10).clamp(5, 20)
        accepted = self.unmask.how_many(intent.unmask, masked, scores, rank).minimum(cap).minimum(masks)
        doubted = committed & (scores["quality"] < self.doubt) & (accepted > 1)[:, None]
        before = state.memory.get("accepted", torch.full_like(accepted, self.FIRST))
        before = torch.where(view.step == 0, self.FIRST, before)
        again = doubted.sum(1)
        again = torch.where(again >= before, before - 1, again)
        tokens, committed, remasked = ops.remask_step(
            state.tokens,
            scores["token"],
            **self.unmask.choose(rank, accepted, masked, view),
            remask=ops.select_positions(scores["quality"], again, eligible=doubted, largest=False),
            mask_id=view.mask_id,
            fixed=state.fixed,
            eligible=view.eligible,
            refill="never",
        )
        return Update(tokens, committed, remasked, memory={"accepted": torch.where(intent.need, accepted, before)})


@dataclass(frozen=True)
class CosineTarget(CeilTarget):
    """As many as leave ``floor(n cos(pi u / 2))`` of the window's n positions masked, ``u = (i + 1) / S`` (MaskGIT)."""

    def before(self, state: State, view: View) -> Tensor:
        share = ((view.step + 1).float() / view.steps.clamp(min=1)).clamp(max=1).double()
        left = torch.where(share >= 1, 0, (view.quota * torch.cos(share * (math.pi / 2))).floor().long())
        masks = view.masked.sum(1)
        return (masks - left).clamp(min=0)


@dataclass(frozen=True)
class HistoryRemask(UnmaskThenRemask):
    """Mask again the committed tokens the model has believed in least since they stand (arXiv 2602.02927).

    Every step notes each committed token's probability under the current logits. In the second part of a run the
    tokens of lowest mean are masked again, so many as ``numbers`` says, and their history begins anew; later steps
    fill them, for the schedule counts what is committed.

    Args:
        unmask: which masked positions, and a count that is a target, such as :class:`CosineTarget`.
        numbers: ``(until, number)``: the number masked again while the share i / S of steps made is below ``until``.
    """

    takes: ClassVar[tuple[str, ...]] = ()

    unmask: Unmask = field(default_factory=lambda: Unmask("confidence", CosineTarget()))
    numbers: tuple[tuple[float, int], ...] = ((0.4, 0), (0.6, 16), (0.8, 8), (1.0, 4))

    def __post_init__(self) -> None:
        super().__post_init__()
        _checks.settle(self, numbers=_checks.several(_until_and_number))

    @property
    def wants(self) -> frozenset[str]:
        return self.unmask.wants | {"current_logprob"}

    def prepare(self, state: State, view: View) -> Counts:
        planned = super().prepare(state, view)
        masked = view.masked
        share = view.step.float() / view.steps.clamp(min=1)
        number = torch.zeros_like(view.step)
        for until, count in reversed(self.numbers):
            number = torch.where(share < until, count, number)
        number = torch.where((view.step + 1 < view.steps) & masked.any(1), number, 0)
        need = planned.need | (number > 0)
        return Counts(need=need, unmask=planned.unmask, remask=number, wanted=view.eligible)

    def __call__(self, state: State, view: View, intent: Counts, scores: Scores) -> Update:
        masked = view.masked
        believed = scores["current_logprob"].exp()
        known = believed.isfinite() & ~masked
        total = state.memory.get("believed", torch.zeros_like(believed)) + torch.where(known, believed, 0.0)
        noted = state.memory.get("noted", torch.zeros_like(believed)) + known
        rank = self.unmask.rank(state, scores)
        count = self.unmask.how_many(intent.unmask, masked, scores, rank)
        tokens, committed, remasked = ops.remask_step(
            state.tokens,
            scores["token"],
            **self.unmask.choose(rank, count, masked, view),
            keep_score=total / noted,
            remask_count=intent.remask,
            mask_id=view.mask_id,
            fixed=state.fixed,
            eligible=view.eligible,
            refill="never",
        )
        anew = committed | remasked
        memory = {"believed": total.masked_fill(anew, 0.0), "noted": noted.masked_fill(anew, 0.0)}
        return Update(tokens, committed, remasked, memory=memory)


@dataclass(frozen=True)
class ScoreThenFill(UnmaskThenRemask):
    """Detection and replacement in two forwards: NAVIRA (arXiv 2606.06031).

    Even steps score the canvas and mask again committed positions drawn without replacement from
    ``softmax(-log quality / temperature)``; odd steps read the cleaned canvas and commit up to the schedule's target.
    So a step of the method is two of the sampler's, and one forward where nothing is to be masked.

    Args:
        unmask: which masked positions, and a count that is a target, such as :class:`CeilTarget`.
        count: how many are masked again.
        temperature: of the draw; 0 takes the lowest quality.
    """

    takes: ClassVar[tuple[str, ...]] = ()

    unmask: Unmask = field(default_factory=lambda: Unmask("confidence", CeilTarget()))
    count: RemaskCount = field(default_factory=lambda: Constant(1))
    temperature: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _checks.settle(self, "remask", temperature=_checks.temperature)
        if not callable(self.count):
            raise TypeError(f"remask count: expected a rule such as Constant(2), got {self.count!r}")

    @property
    def random(self) -> bool:
        return super().random or self.temperature > 0 or draws(self.count)

    @property
    def wants(self) -> frozenset[str]:
        return self.unmask.wants | {"quality"}

    def prepare(self, state: State, view: View) -> Counts:
        fills = view.step % 2 == 1
        halved = replace(view, step=view.step // 2, steps=(view.steps // 2).clamp(min=1))
        masks = view.masked.any(1)
        unmask = torch.where(fills, self.unmask.count.before(state, halved), 0)
        remask = torch.where(fills | ~masks, 0, self.count(state, halved))
        return Counts(need=unmask + remask > 0, unmask=unmask, remask=remask)

    def __call__(self, state: State, view: View, intent: Counts, scores: Scores) -> Update:
        masked = view.masked
        rank = self.unmask.rank(state, scores)
        keep = scores["quality"].log()
        if self.temperature > 0:
            noise = state.gumbel(rng.Purpose.POSITION, 1)
            keep = keep / self.temperature - noise
        tokens, committed, remasked = ops.remask_step(
            state.tokens,
            scores["token"],
            **self.unmask.choose(rank, intent.unmask, masked, view),
            keep_score=keep,
            remask_count=intent.remask,
            mask_id=view.mask_id,
            fixed=state.fixed,
            eligible=view.eligible,
            refill="never",
        )
        return Update(tokens, committed, remasked)


def _until_and_number(name: str, value: object) -> tuple[float, int]:
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise TypeError(f"{name}: expected (until, number) pairs, got {value!r}")
    return _checks.number(name, value[0]), _checks.integer(name, value[1], minimum=0)
