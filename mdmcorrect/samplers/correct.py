"""Correctors: revise committed tokens by further forwards, and hand the step the scores of the last of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from .. import _checks, ops
from .lowering import Lowered, is_exactly
from .rows import Rows
from .scoring import Scores
from .state import State
from .window import View


class Rescore(Protocol):
    """A counted forward: scores ``[B, L]`` of ``tokens`` at ``where``, for some rows, in pass ``correction``.

    ``judged``: tokens whose probability is asked where it is not that of ``tokens``.
    """

    def __call__(
        self, tokens: Tensor, rows: Rows, where: Tensor, correction: int, judged: Tensor | None = None
    ) -> Scores: ...


class Correct(Protocol):
    """A corrector: decides when, reads its own forwards, writes committed positions only."""

    @property
    def wants(self) -> frozenset[str]:
        """Names of the scores read, ``max_logprob`` among them: corrected tokens keep it as their commit score."""

    @property
    def revisits(self) -> bool:
        """Whether rows without masks go on being corrected until nothing changes or their steps are used."""

    @property
    def settles(self) -> bool:
        """Whether a correction that changed nothing would change nothing again: false for one that draws."""

    # One that draws no random numbers of its own says so by a false attribute `random`; one whose scores are those of
    # the step's forward, not of the canvas it made, by a false attribute `rescores`.

    def due(self, state: State, view: View) -> Tensor:
        """bool ``[B]``: rows whose turn it is."""

    def __call__(self, state: State, view: View, rows: Rows, scores: Scores, rescore: Rescore) -> tuple[Tensor, Scores]:
        """Corrected tokens ``[B, L]`` and the scores that replace the step's, for the given rows."""


@dataclass(frozen=True)
class FixedPoint:
    """ProSeCo's corrector: fill everything with the argmax, replace all of it by the argmax again, until it stands.

    ProSeCo (arXiv 2602.11590, algorithms 2 and 3). The first guess y is the predictor's argmax at every generated
    position of the canvas. Each pass reads y and rewrites it up to the end of the row's window. Afterwards committed
    tokens are taken from y; masked positions stay masked, but what they are committed to is drawn from the last pass:
    the predictor's draw is discarded. A row leaves as soon as a pass changes nothing in it, unless passes draw: a draw
    that repeats is no fixed point.

    Args:
        passes: S, forwards at most per correction.
        every: omega, correct at steps i with ``(i + 1) % omega == 0`` of the window.
        start: no correction while ``i + 1 < start``.
        carry_over: y keeps committed tokens as they are in the first guess (ProSeCo on LLaDA); False takes the
            predictor's argmax there too, for models trained without carry-over.
        revisits: go on when no mask is left, until a correction changes nothing or the steps are used.
        update: what a pass rewrites y with: "argmax"; "sample", draws of the scoring; "top_k", the argmax at the
            ``top_k`` positions of highest probability among those it would change.
        top_k: for that update; None for the others.
    """

    random: ClassVar[bool] = False  # draws of update "sample" are the scoring's
    rescores: ClassVar[bool] = True

    passes: int = 1
    every: int = 1
    start: int = 0
    carry_over: bool = True
    revisits: bool = True
    update: str = "argmax"
    top_k: int | None = None

    def __post_init__(self) -> None:
        _checks.settle(
            self,
            "corrector",
            update=_checks.one_of("argmax", "sample", "top_k"),
            top_k=_checks.optional(_checks.at_least(0)),
            passes=_checks.at_least(0),
        )
        if self.top_k == 0:
            object.__setattr__(self, "top_k", None)  # how it was said before None
        if (self.update == "top_k") != (self.top_k is not None):
            raise ValueError(f"corrector top_k: expected a positive number with update 'top_k' alone, got {self.top_k}")
        _checks.settle(self, "correct", start=_checks.at_least(0), carry_over=_checks.flag, revisits=_checks.flag)
        object.__setattr__(self, "every", _checks.integer("correct_every", self.every, minimum=1))

    @property
    def wants(self) -> frozenset[str]:
        return frozenset({"argmax", "max_logprob"})

    @property
    def stands(self) -> bool:
        """Whether a draft that a pass repeats is one that the next repeats too."""
        return self.update != "sample"

    @property
    def settles(self) -> bool:
        return self.stands

    def due(self, state: State, view: View) -> Tensor:
        number = view.step + 1
        return (number % self.every == 0) & (number >= self.start) & ~view.finishing & (self.passes > 0)

    def lower(self) -> Lowered | None:
        if not is_exactly(self, FixedPoint):
            return None
        every = self.every if self.passes else 0
        return Lowered({"settles": self.settles, "correct_every": every, "correct_start": self.start})

    def __call__(self, state: State, view: View, rows: Rows, scores: Scores, rescore: Rescore) -> tuple[Tensor, Scores]:
        committed, writable = state.committed(view.mask_id), rows.mask[:, None]
        guessed = writable & ~state.fixed & (scores["argmax"] >= 0)
        if self.carry_over:
            guessed &= ~committed
        y = torch.where(guessed, scores["argmax"], state.tokens)
        for correction in range(1, self.passes + 1):
            revised = rescore(y, rows, view.reach, correction)
            again = self._rewritten(y, view.reach, revised)
            moved = (again != y).any(1)
            y, scores = again, revised.over(scores)
            if correction == self.passes or (self.stands and (rows := rows.those(moved)).empty):
                break
        return torch.where(committed & view.reach & writable, y, state.tokens), scores

    def _rewritten(self, y: Tensor, reach: Tensor, revised: Scores) -> Tensor:
        token = revised["token" if self.update == "sample" else "argmax"]
        changed = reach & (token >= 0) & (token != y)
        if self.top_k is not None:
            changed = ops.select_positions(revised["max_logprob"], self.top_k, eligible=changed)
        return torch.where(changed, token, y)


@dataclass(frozen=True)
class HideAndAsk:
    """Mask the shakiest committed tokens together, and replace those the model then finds far less likely: CoRe.

    CoRe (arXiv 2602.04096): candidates are the committed positions whose two best tokens lie closest in the step's
    forward. One more forward reads the canvas with all of them masked; the ``revise`` tokens whose log-probability
    drops most, being held up only by one another, take the argmax of that forward.

    Args:
        candidates: positions masked together.
        revise: positions rewritten of these.
        every: at steps i with ``(i + 1) % every == 0`` of the window.
        start, stop: and ``start <= i < stop``; None is no end.
    """

    random: ClassVar[bool] = False
    rescores: ClassVar[bool] = False

    candidates: int = 8
    revise: int = 2
    every: int = 16
    start: int = 0
    stop: int | None = None

    def __post_init__(self) -> None:
        _checks.settle(self, candidates=_checks.at_least(1), revise=_checks.integer)
        if not 1 <= self.revise <= self.candidates:
            raise ValueError(f"revise: expected between 1 and candidates = {self.candidates}, got {self.revise}")
        object.__setattr__(self, "every", _checks.integer("correct_every", self.every, minimum=1))
        _checks.settle(self, "correct", start=_checks.at_least(0), stop=_checks.optional(_checks.at_least(0)))

    @property
    def wants(self) -> frozenset[str]:
        return frozenset({"argmax", "max_logprob", "margin", "current_logprob"})

    @property
    def revisits(self) -> bool:
        return False

    @property
    def settles(self) -> bool:
        return True

    def due(self, state: State, view: View) -> Tensor:
        on = ((view.step + 1) % self.every == 0) & (view.step >= self.start) & ~view.finishing
        return on if self.stop is None else on & (view.step < self.stop)

    def __call__(self, state: State, view: View, rows: Rows, scores: Scores, rescore: Rescore) -> tuple[Tensor, Scores]:
        committed = state.committed(view.mask_id) & view.reach & rows.mask[:, None]
        shaky = ops.select_positions(scores["margin"], self.candidates, eligible=committed, largest=False)
        hidden = torch.where(shaky, view.mask_id, state.tokens)
        asked = rescore(hidden, rows, shaky, 1, state.tokens)
        drop = scores["current_logprob"] - asked["current_logprob"]
        differs = shaky & (asked["argmax"] >= 0) & (asked["argmax"] != state.tokens) & (drop > 0)
        revised = ops.select_positions(drop, self.revise, eligible=differs)
        # The engine keeps max_logprob as the commit score of what was corrected.
        best = torch.where(revised, asked["max_logprob"], scores["max_logprob"])
        return torch.where(revised, asked["argmax"], state.tokens), Scores({**scores, "max_logprob": best})
