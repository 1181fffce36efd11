"""Steps made by one operator each: it closes a step, given its scores, and opens the next.

They are the steps of the engine's parts (:mod:`.part_steps`), of which :mod:`.lowering` has a description in numbers. A
row's numbers are one int64 tensor ``[B, k]``, whose columns :class:`RowField` names; a :class:`State` is made of them
where somebody looks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from .._kernels import has_kernel
from ..model import Window
from ..ops.correct_pass import MOST_VALUES, PreparedPasses
from ..ops.sampler_step import MARKS, PreparedStep
from .correct import FixedPoint, Rescore
from .counts import device_table
from .forward import Answer, Tally
from .lowering import MOST_ENDS, Lowered, Mark, RowField, StepMode, Waiting, lowered
from .plan import Update
from .rows import Rows, indices
from .scoring import Scores
from .state import State
from .steps import Ahead, negative_ids
from .window import Layout

if TYPE_CHECKING:
    from .engine import Engine

_WANTED, _STEP = int(Mark.WANTED), int(RowField.STEP)  # plain: torch and lists ask an enum slowly
_LIVE, _NEED, _CORRECT = int(RowField.LIVE), int(RowField.NEED), int(RowField.CORRECT)
_FINISHING, _UNFILLED = int(RowField.FINISHING), int(RowField.UNFILLED)
_CLOSE, _OPEN = int(StepMode.CLOSE), int(StepMode.OPEN)
_FIXED, _LAST = int(StepMode.FIXED_STEPS), int(StepMode.LAST_STEP)
_NOTHING = frozenset[str]()
ARGMAX = frozenset({"argmax"})
_STATE_FIELDS = ("seed", "origin", "step", "window", "window_step", "quota", "done", "settled", "nfe")


class Plan(NamedTuple):
    """An engine in numbers, as the operator takes it: made once, not while a graph is."""

    packed: str
    slots: Mapping[str, str]
    tables: Mapping[str, tuple[float, ...]]


def plan_of(engine: Engine) -> Plan | None:
    """The engine's parts in numbers; None if the operator does not know one of them."""
    numbers = _description(engine)
    return None if numbers is None else Plan(numbers.packed(), numbers.scores, numbers.tables)


def _description(engine: Engine) -> Lowered | None:
    asks = (engine.stop, engine.tokens_processor, engine.review)
    if engine.forward.scoring.reads_logits:  # its scores are its own, of any dtype
        return None
    if any(part is not None for part in asks) or len(engine.eos_ids) > MOST_ENDS or hasattr(engine.plan, "waiting"):
        return None
    if engine.correct is not None and engine.forward.scoring.mask_token == "propose":
        return None  # where a corrector masks a token, a plan does not see that mask until the next step
    parts = lowered(engine.window, engine.plan, engine.correct)
    if parts is None:
        return None
    waiting = Waiting.NONE
    if engine.plan.revisits:
        waiting = Waiting.ALL
    elif engine.correct is not None and engine.correct.revisits:
        waiting = Waiting.UNTIL_SETTLED
    ends = [*engine.eos_ids, *[-1] * MOST_ENDS][:MOST_ENDS]
    return parts | Lowered(
        {
            "mask_id": engine.mask_id,
            "finish": engine.finish,
            "use_cache": engine.cache,
            "waiting": waiting,
            "want_masked": bool(engine.shown),
            "want_committed": "current_logprob" in engine.forward.wants,
            "want_span": engine.forward.reads_windows,
            **{f"end_{index}": end for index, end in enumerate(ends)},
        }
    )


@dataclass(eq=False)  # frozen it would take three times as long to make
class Canvas:
    """A run between two steps, the next of them opened. Nothing writes into it.

    Attributes:
        begun: the state the run began with, for what no step changes.
        rows: int64 ``[B, k]``, see :class:`RowField`.
        tokens, commit_score, commits: as of a :class:`State`.
        marks: bool ``[6, B, L]``, see :class:`Mark`: what the last step did, and what the next one wants.
        time: float64 ``[B]``, the noise level of the next step.
        calls, token_forwards: as of a :class:`State`.
        scores: those of the last step.
    """

    begun: State
    rows: Tensor
    tokens: Tensor
    commit_score: Tensor
    commits: Tensor
    marks: Tensor
    time: Tensor
    calls: int
    token_forwards: int
    scores: Scores

    @property
    def fixed(self) -> Tensor:
        return self.begun.fixed

    @property
    def positions(self) -> Tensor:
        return self.begun.positions

    @property
    def attention_mask(self) -> Tensor:
        return self.begun.attention_mask

    @property
    def padded(self) -> bool:
        return self.begun.padded

    @property
    def placed(self) -> bool:
        return self.begun.placed

    @property
    def seed(self) -> Tensor:
        return self.begun.seed

    @property
    def step(self) -> Tensor:
        return self.rows.select(1, _STEP)

    @property
    def state(self) -> State:
        columns = self.rows[:, : len(_STATE_FIELDS)].t().contiguous().unbind(0)
        values: dict[str, Any] = dict(zip(_STATE_FIELDS, columns, strict=True))
        values.update(done=values["done"].bool(), settled=values["settled"].bool())
        written = {"tokens": self.tokens, "commit_score": self.commit_score, "commits": self.commits}
        return replace(self.begun, **values, **written, calls=self.calls, token_forwards=self.token_forwards)

    @property
    def update(self) -> Update:
        return Update(self.tokens, self.marks[Mark.COMMITTED], self.marks[Mark.REMASKED])

    @property
    def corrected(self) -> Tensor:
        return self.marks[Mark.CORRECTED]


class NativeSteps:
    """The steps of one run, of an engine all of whose parts lower.

    Args:
        engine: the parts, the model and the rules that end a row.
        plan: :func:`plan_of` it.
        layout: the run's windows.
        begun: the state it begins with.
    """

    def __init__(self, engine: Engine, plan: Plan, layout: Layout, begun: State) -> None:
        self.engine, self.layout, self.begun = engine, layout, begun
        self.slots = plan.slots
        device = begun.tokens.device
        tables = {name: device_table(values, torch.float32, device) for name, values in plan.tables.items()}
        self.block = None if engine.window.length is None else layout.block
        self.step = PreparedStep(
            plan.packed,
            begun.fixed,
            self.block,
            begun.positions,
            begun.attention_mask if begun.padded else None,
            tables.get("kept_share"),
            tables.get("noise_scales"),
        )
        corrector, self.passes, self.proposes = engine.correct, None, ""
        if isinstance(corrector, FixedPoint) and corrector.top_k is None and has_kernel("correct_pass", begun.tokens):
            self.passes = PreparedPasses(begun.fixed, self.block, engine.mask_id, corrector.carry_over)
            self.proposes = "token" if corrector.update == "sample" else "argmax"
        self.every_row = Rows(torch.ones_like(begun.done), tuple(range(len(begun.done))))
        self.no_row = Rows(torch.zeros_like(begun.done), ())

    def begin(self, state: State, mode: int = StepMode.OPEN | StepMode.FIRST) -> Canvas:
        """The run before its first step, which is opened."""
        columns = [getattr(state, name).long() for name in _STATE_FIELDS]
        columns += [self.layout.count, self.layout.each, self.layout.more]
        blank = [torch.zeros_like(state.step)] * (len(RowField) - len(columns))
        marks = torch.zeros(MARKS, *state.tokens.shape, dtype=torch.bool, device=state.tokens.device)
        rows = torch.stack(columns + blank, 1)
        at_first = Canvas(
            state, rows, state.tokens, state.commit_score, state.commits, marks, state.step, state.calls,
            state.token_forwards, Scores({}),
        )  # fmt: skip
        return self._after(at_first, Tally(), at_first.scores, 0, mode)

    def ahead(self, standing: Canvas, *, first: bool) -> Ahead:
        forward = self.engine.forward
        # All of the rows: a part would be copied before it is read.
        columns = list(zip(*standing.rows.tolist(), strict=True)) or [()] * len(RowField)
        windows = None
        if forward.reads_windows:
            asked = (RowField.WINDOW, RowField.WINDOW_STEP, RowField.START, RowField.STOP, RowField.STEP)
            windows = [
                Window(row, index=index, step=step, start=start, stop=stop, made=made)
                for row, (index, step, start, stop, made) in enumerate(
                    zip(*(columns[field] for field in asked), strict=True)
                )
            ]
        unfilled = indices(columns[_UNFILLED])
        if first and unfilled:
            raise negative_ids(unfilled)
        return Ahead(
            self._rows(standing, _NEED, columns[_NEED]),
            self._rows(standing, _CORRECT, columns[_CORRECT]),
            any(columns[_FINISHING]),
            windows,
            live=any(columns[_LIVE]),
            unfilled=unfilled,
        )

    def make(self, standing: Canvas, ahead: Ahead) -> Canvas:
        return self._made(standing, ahead, self.engine.memory, _CLOSE, _OPEN)

    def fixed_steps(self, state: State, number: int, *, closing: bool) -> State:
        modes = [_FIXED] * number + [_FIXED | _LAST] * closing
        standing = self.begin(state, modes[0] | _OPEN) if modes else None
        for mode, following in zip(modes, [*modes[1:], None], strict=True):
            assert standing is not None
            # The operator counts the forward for the rows that needed it. A corrector's rows are counted beside them.
            rows, correcting = self.every_row, self.no_row
            if self.engine.correct is not None:
                rows = Rows(standing.rows.select(1, RowField.NEED).bool(), rows.listed)
                correcting = Rows(standing.rows.select(1, RowField.CORRECT).bool())
            ahead = Ahead(rows, correcting, mode != _FIXED, None)
            standing = self._made(standing, ahead, {}, mode | _CLOSE, 0 if following is None else following | _OPEN)
        after = state if standing is None else standing.state
        return replace(after, calls=state.calls, token_forwards=state.token_forwards)

    def _rows(self, standing: Canvas, column: int, flags: Sequence[int]) -> Rows:
        if all(flags):
            return self.every_row
        listed = indices(flags)
        return Rows(standing.rows.select(1, column).bool(), listed) if listed else self.no_row

    def _made(self, standing: Canvas, ahead: Ahead, memory: dict[Any, Any], close: int, open: int) -> Canvas:
        tally, forward = Tally(memory), self.engine.forward
        if ahead.rows.empty:
            return self._closed(standing, ahead, tally, forward.nothing(standing.tokens), close, open)
        wanted = standing.marks.select(0, _WANTED)
        answer = forward.ask(
            standing, standing.tokens, ahead.rows, wanted, standing.time, windows=ahead.windows, tally=tally
        )
        return self._read(standing, ahead, tally, answer, close, open)

    def _read(self, standing: Canvas, ahead: Ahead, tally: Tally, answer: Answer, close: int, open: int) -> Canvas:
        """The step after the model's answer."""
        scores = self.engine.forward.scores(standing, answer, ARGMAX if ahead.finishing else _NOTHING)
        return self._closed(standing, ahead, tally, scores, close, open)

    def _closed(self, standing: Canvas, ahead: Ahead, tally: Tally, scores: Scores, close: int, open: int) -> Canvas:
        """The step after its scores."""
        revised = None
        if not ahead.correcting.empty:
            revised, scores = self._corrected(standing, ahead, tally, scores)
        return self._after(standing, tally, scores, close, open, revised, ahead.rows)

    def _corrected(self, standing: Canvas, ahead: Ahead, tally: Tally, scores: Scores) -> tuple[Tensor, Scores]:
        """The tokens of the corrector, and its scores."""
        corrector = self.engine.correct
        assert corrector is not None
        if self.passes is not None:
            draft, reach = self.passes.first(standing.rows, standing.tokens, scores["argmax"])
            return self._rewritten(standing, ahead, tally, scores, draft, reach, ahead.correcting, 1)
        state = standing.state
        _, view = self.engine.window.view(state, self.layout, self.engine.mask_id)
        return corrector(state, view, ahead.correcting, scores, self._rescore(standing, ahead, tally))

    def _rescore(self, standing: Canvas, ahead: Ahead, tally: Tally) -> Rescore:
        def rescore(tokens: Tensor, rows: Rows, where: Tensor, correction: int, judged: Tensor | None = None) -> Scores:
            return self.engine.forward(
                standing, tokens, rows, where, standing.time, correction, windows=ahead.windows, judged=judged,
                tally=tally,
            )  # fmt: skip

        return rescore

    def _rewritten(
        self,
        standing: Canvas,
        ahead: Ahead,
        tally: Tally,
        scores: Scores,
        draft: Tensor,
        reach: Tensor,
        rows: Rows,
        first: int,
        answer: Answer | None = None,
    ) -> tuple[Tensor, Scores]:
        """The draft after all passes from the ``first`` on, and the scores that replace the step's. ``answer``: the
        model's, for the first of them, if it has been asked."""
        corrector, rescore = self.engine.correct, self._rescore(standing, ahead, tally)
        assert self.passes is not None
        assert isinstance(corrector, FixedPoint)
        # The rest stays what the step's forward said: nobody reads another argmax than that of rows without correction.
        carried = [name for name in scores if name not in ("token", "argmax") or name in self.engine.shown - {"token"}]
        for correction in range(first, corrector.passes + 1):
            if answer is None:
                revised = rescore(draft, rows, reach, correction)
            else:
                revised, answer = self.engine.forward.scores(standing, answer), None
            # The operator copies floats; where a model has changed its dtype, torch.where finds one for both.
            quick = [
                name
                for name in carried
                if scores[name].is_floating_point() and scores[name].dtype == revised[name].dtype
            ][:MOST_VALUES]
            slow = [name for name in carried if name not in quick]
            draft, moved, token, kept = self.passes.next(
                standing.rows, draft, revised[self.proposes], revised["token"], scores["token"],
                [revised[name] for name in quick], [scores[name] for name in quick],
            )  # fmt: skip
            merged = Scores({**scores, "token": token, **dict(zip(quick, kept, strict=True))})
            if slow:
                scored = revised["token"] >= 0
                merged.update({name: torch.where(scored, revised[name], scores[name]) for name in slow})
            scores = merged
            if correction == corrector.passes or (corrector.stands and (rows := rows.those(moved)).empty):
                break
        return draft, scores

    def _after(
        self,
        standing: Canvas,
        tally: Tally,
        scores: Scores,
        close: int,
        open: int,
        revised: Tensor | None = None,
        rows: Rows | None = None,
    ) -> Canvas:
        forwards = 0 if rows is None else tally.number(rows)
        read = scores.get
        after, tokens, commit_score, commits, marks, time = self.step(
            standing.rows, standing.tokens, standing.commit_score, standing.commits, standing.marks, close, open,
            read("token"), read("argmax"), read("confidence"), read(self.slots.get("rank", "")),
            read(self.slots.get("keep", "")), revised, None if revised is None else scores["max_logprob"],
            tally.nfe if forwards is None else None, forwards or 0,
        )  # fmt: skip
        calls, token_forwards = standing.calls + tally.calls, standing.token_forwards + tally.token_forwards
        return Canvas(self.begun, after, tokens, commit_score, commits, marks, time, calls, token_forwards, scores)
