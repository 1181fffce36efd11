"""Native steps whose scores are handed on by address: for small canvases on the CPU.

There a step's arithmetic takes some microseconds, and what surrounds it ten times as long: tensors for scores that only
the next operator reads, to begin with. Here they lie in memory of the run. It is the same step: where more than the
plain case is asked (some of the rows, guidance, a part of the canvas, scores that somebody looks at),
:class:`NativeSteps` makes it.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import torch
from torch import Tensor

from ..ops import _by_address as by_address
from ..ops.correct_pass import MOST_VALUES
from .correct import FixedPoint
from .forward import Answer, Tally
from .lowering import RowField
from .native_steps import ARGMAX, Canvas, NativeSteps, Plan
from .scoring import Scores
from .state import State
from .steps import Ahead
from .window import Layout

if TYPE_CHECKING:
    from .engine import Engine

At: TypeAlias = tuple[int, int]  # an address, and the code of the floating type there; ids have code 0
_STEP, _FIELDS = int(RowField.STEP), len(RowField)
_IDS = ("token", "argmax")
_NOWHERE = (0, 0)
_NO_SCORES = Scores({})


class _How(NamedTuple):
    """A prepared scoring; for each slot, where its results go, and which score is where."""

    scoring: by_address.ScoreTokens
    outputs: tuple[tuple[int, ...], ...]
    scores: tuple[Mapping[str, At], ...]
    guarded: bool
    """Whether an ``argmax`` that is never proposed takes a second look at the logits."""


def _at(tensor: Tensor) -> At:
    return tensor.data_ptr(), by_address.FLOAT_CODES.get(tensor.dtype, 0)


class AddressedSteps(NativeSteps):
    """See the module. Made by :meth:`of`."""

    @classmethod
    def of(cls, engine: Engine, plan: Plan, layout: Layout, begun: State) -> NativeSteps:
        """These steps where they serve, else native ones."""
        corrector, served = engine.correct, not engine.shown and engine.forward.plain and begun.tokens.numel() > 0
        if corrector is not None:
            values = len(engine.forward.wants.difference(_IDS))
            passes = isinstance(corrector, FixedPoint) and corrector.top_k is None
            served = served and passes and values <= MOST_VALUES and not engine.forward.needs
        if served and by_address.usable(begun.tokens):
            steps = cls(engine, plan, layout, begun)
            if steps.step.numbers is not None and by_address.fits(begun.tokens.shape[:1], torch.int64, steps.seed):
                return steps
        return NativeSteps(engine, plan, layout, begun)

    def __init__(self, engine: Engine, plan: Plan, layout: Layout, begun: State) -> None:
        super().__init__(engine, plan, layout, begun)
        self.seed, self.places = begun.seed.contiguous(), begun.positions.contiguous()
        self.calls = array("q", range(1 + getattr(engine.correct, "passes", 0)))
        self.memory: tuple[dict[object, Tensor], ...] = ({}, {}, {})  # by score and by type, for each slot
        self.hows: dict[tuple[object, ...], _How | None] = {}

    def _read(self, standing: Canvas, ahead: Ahead, tally: Tally, answer: Answer, close: int, open: int) -> Canvas:
        correcting = ahead.correcting
        if not correcting.empty and correcting.index is not None:
            return super()._read(standing, ahead, tally, answer, close, open)
        at = self._scored(standing, answer, 0, ahead.finishing)
        if at is None:
            return super()._read(standing, ahead, tally, answer, close, open)
        if correcting.empty:
            return self._written(standing, ahead, tally, at, None, close, open)
        draft, scores = self._drafted(standing, ahead, tally, at)
        if isinstance(scores, Scores):
            return self._after(standing, tally, scores, close, open, draft, ahead.rows)
        return self._written(standing, ahead, tally, scores, draft, close, open)

    def _scored(self, standing: Canvas, answer: Answer, slot: int = 0, argmax: bool = False) -> dict[str, At] | None:
        """Where the scores of an answer are now; None if they have to be tensors. ``argmax``: it is asked for, too."""
        output, request, tokens, _, rows, index = answer
        logits, quality = output.logits, output.quality
        code = by_address.FLOAT_CODES.get(logits.dtype)
        judged = quality if self.engine.forward.needs else None
        if code is None or index is not None or output.start is not None:
            return None
        floats = judged is None or (by_address.fits(tokens.shape, torch.float32, judged) and not judged.is_neg())
        if not floats or (judged is not None and rows.listed is None):  # rows that are left out have no quality
            return None
        if output.uncond_logits is not None or not by_address.usable(logits) or logits.is_neg():
            return None
        if logits.layout is not torch.strided or logits.stride(2) != 1:
            return None
        if not tokens.is_contiguous() or not request.wanted.is_contiguous():
            return None
        key = (code, logits.shape[2], argmax)
        if key not in self.hows:
            self.hows[key] = self._prepared(logits, argmax)
        how = self.hows[key]
        if how is None:
            return None
        barred = how.scoring.write(
            logits, code, output.shift, tokens.data_ptr(), request.wanted.data_ptr(), self.places.data_ptr(),
            tokens.shape[1], 1, self.seed.data_ptr(), standing.rows.data_ptr() + 8 * _STEP, _FIELDS,
            self.calls.buffer_info()[0] + 8 * request.correction, *how.outputs[slot],
        )  # fmt: skip
        if barred and how.guarded:
            return None
        scores = dict(how.scores[slot])
        if judged is not None:
            scores["quality"] = (judged.data_ptr(), 0)
        return scores

    def _prepared(self, logits: Tensor, argmax: bool) -> _How | None:
        forward = self.engine.forward
        how = forward.scoring.prepared(logits, forward.wants | ARGMAX if argmax else forward.wants, forward.mask_id)
        if how.operator.direct is None or how.margin or (how.rounds is not None and "entropy" in how.read):
            return None
        # A step's scores, a pass's, and what the two become: then the first and the last change places.
        for memory in self.memory:
            for name in how.read:
                dtype = torch.int64 if name in _IDS else torch.float32
                memory.setdefault(name, torch.empty_like(self.places, dtype=dtype))
            if how.rounds is not None:
                memory.setdefault(how.rounds, torch.empty_like(self.places, dtype=how.rounds))
        scores = tuple({name: _at(memory[name]) for name in how.read} for memory in self.memory)
        outputs = [[memory[name].data_ptr() for name in how.read] for memory in self.memory]
        for slot, written, memory in zip(scores, outputs, self.memory, strict=True):
            written.insert(0, 0 if how.rounds is None else memory[how.rounds].data_ptr())
            if how.rounds is not None:
                slot["confidence"] = _at(memory[how.rounds])
            if how.forbid and "argmax" in slot and not forward.scoring.random:
                slot["argmax"] = slot["token"]
        return _How(how.operator.direct, tuple(map(tuple, outputs)), scores, guarded=forward.scoring.random)

    def _drafted(
        self, standing: Canvas, ahead: Ahead, tally: Tally, scores: dict[str, At]
    ) -> tuple[Tensor, dict[str, At] | Scores]:
        """The last draft of the corrector, and the scores that replace the step's."""
        corrector, passes, rows, kept = self.engine.correct, self.passes, ahead.correcting, 0
        assert passes is not None
        assert isinstance(corrector, FixedPoint)
        carried = [name for name in scores if name not in _IDS]
        draft, reach = passes.first(standing.rows, standing.tokens, self._tensor(scores["argmax"][0]))
        for correction in range(1, corrector.passes + 1):
            answer = self.engine.forward.ask(
                standing, draft, rows, reach, standing.time, correction, ahead.windows, tally=tally
            )
            revised = self._scored(standing, answer, 1)
            if revised is None or any(revised[name][1] != scores[name][1] for name in carried):
                tensors = self._tensors(scores)
                return self._rewritten(standing, ahead, tally, tensors, draft, reach, rows, correction, answer)
            kept = 2 - kept
            merged = {name: self._beside(revised[name], kept) for name in ("token", *carried)}
            values = [number for name in carried for number in (revised[name][0], scores[name][0], *merged[name])]
            draft, moved, changed = passes.rewrite(
                standing.rows, draft, revised[self.proposes][0], revised["token"][0], scores["token"][0],
                merged["token"][0], values,
            )  # fmt: skip
            scores = {**scores, **merged}
            if correction == corrector.passes or (corrector.stands and rows.listed is not None and not changed):
                break
            if corrector.stands and (rows.listed is None or changed < len(moved)):
                rows = rows.those(moved)
        return draft, scores

    def _tensors(self, scores: Mapping[str, At]) -> Scores:
        """Scores as tensors, which the next step writes over."""
        return Scores({name: self._tensor(at) for name, (at, _) in scores.items()})

    def _beside(self, at: At, slot: int) -> At:
        """The same score's place in another slot."""
        names = next(name for name, tensor in self.memory[1].items() if tensor.data_ptr() == at[0])
        return self.memory[slot][names].data_ptr(), at[1]

    def _tensor(self, at: int) -> Tensor:
        return next(tensor for memory in self.memory for tensor in memory.values() if tensor.data_ptr() == at)

    def _written(
        self, standing: Canvas, ahead: Ahead, tally: Tally, at: Mapping[str, At], revised: Tensor | None,
        close: int, open: int,
    ) -> Canvas:  # fmt: skip
        forwards = tally.number(ahead.rows)
        nfe = tally.nfe if forwards is None else None
        rank, keep = at.get(self.slots.get("rank", ""), _NOWHERE), at.get(self.slots.get("keep", ""), _NOWHERE)
        rows, tokens, commit_score, commits, marks, time = self.step.write(
            standing.rows, standing.tokens, standing.commit_score, standing.commits, standing.marks, close, open,
            at["token"][0], at.get("argmax", _NOWHERE)[0], *at["confidence"], *rank, *keep,
            by_address.address(revised), *(_NOWHERE if revised is None else at["max_logprob"]),
            by_address.address(nfe), forwards or 0,
        )  # fmt: skip
        calls, token_forwards = standing.calls + tally.calls, standing.token_forwards + tally.token_forwards
        return Canvas(self.begun, rows, tokens, commit_score, commits, marks, time, calls, token_forwards, _NO_SCORES)
