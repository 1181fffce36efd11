"""The one loop of every sampler: window, forward, score, correct, plan, apply, record.

A step asks the host one question, which rows are live and which need a forward; a corrector asks one more between two
passes, and a run with a mask of padding one at its start, whether it hides anything. All else stays on the tokens'
device.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from .. import ops
from ..model import Window
from .correct import Correct
from .forward import Forward, Tally
from .plan import Intent, Plan, Update
from .result import StepEvent, copy_event
from .review import Review
from .rows import Rows, indices
from .scoring import Scores
from .state import State
from .window import Blocks, Layout, View

logger = logging.getLogger(__name__)

Callback = Callable[[StepEvent], Any]
Stop = Callable[[Tensor, Tensor], Tensor]
TokensProcessor = Callable[[Tensor, Tensor | None], Tensor]


def asks_to_stop(callback: Callback, event: StepEvent) -> bool:
    """What a callback answers.

    Raises:
        TypeError: neither true nor false, as a tensor of several values.
    """
    answer = callback(event)
    try:
        return bool(answer)
    except (RuntimeError, ValueError):
        kind = f"a tensor {list(answer.shape)}" if isinstance(answer, Tensor) else type(answer).__name__
        raise TypeError(f"callback: expected it to return a bool, true to stop, got {kind}") from None


@dataclass(frozen=True)
class Ahead:
    """A step as the host knows it: rows that need a forward, those of them to correct, whether any is finishing.

    ``live``: whether any row is left. ``unfilled``: rows that the step before finished and that hold masks still.
    """

    rows: Rows
    correcting: Rows
    finishing: bool
    windows: list[Window] | None
    live: bool = True
    unfilled: tuple[int, ...] = ()


@dataclass(frozen=True)
class Made:
    """What a step did. ``finished``: bool ``[B]``, rows it finished; None if there is none, as the host knows."""

    state: State
    update: Update
    corrected: Tensor
    scores: Scores
    finished: Tensor | None


@dataclass(frozen=True)
class Engine:
    """A method's parts, a model behind ``forward``, and the rules that end a row; see :class:`Sampler` for each."""

    steps: int
    plan: Plan
    window: Blocks
    correct: Correct | None
    finish: bool
    cache: bool
    forward: Forward
    mask_id: int
    eos_ids: tuple[int, ...] = ()
    stop: Stop | None = None
    tokens_processor: TokensProcessor | None = None
    review: Review | None = None
    review_forward: Forward | None = None
    memory: dict[Any, Any] = field(default_factory=dict)  # of the one run it is made for: what adapters keep

    def run(
        self, state: State, callback: Callback | None, record: Callable[[StepEvent], Any] | None, shown: frozenset[str]
    ) -> tuple[State, str]:
        """Step until every row is done; the state then, and why it stopped. ``shown``: scores that events carry."""
        index, finished, unfilled = 0, None, set[int]()
        try:
            layout = self.layout(state)
            state = self.close(state, layout)
            while True:
                ahead, made = self.step(state, layout, shown, finished, first=not index)
                index += 1
                unfilled.update(ahead.unfilled)
                if made is None:
                    break
                before, state, finished = state, made.state, made.finished
                if callback is None and record is None:
                    continue
                event = self._event(index - 1, before, made, ahead, shown)
                if record is not None:
                    record(event)
                if callback is not None and asks_to_stop(callback, event):
                    return state, "callback"
        except KeyboardInterrupt:  # a step cut short leaves no trace: the state is that of the step before
            return state, "interrupted"
        if unfilled:
            logger.warning(
                "%s: masks are left in rows %s, where the logits are NaN or +inf or admit no token but the mask",
                self.forward.method,
                sorted(unfilled),
            )
        return state, "unfilled" if unfilled else "finished"

    def _event(self, index: int, before: State, made: Made, ahead: Ahead, shown: frozenset[str]) -> StepEvent:
        rescored = ahead.correcting.mask
        if self.correct is None or not getattr(self.correct, "rescores", True):
            rescored = torch.zeros_like(before.done)
        listed = {name: made.scores[name] for name in shown}
        update = made.update
        return copy_event(
            index, before, made.state, update.committed, update.remasked, made.corrected, rescored, listed
        )

    def layout(self, state: State) -> Layout:
        """What of the windows no step changes."""
        return self.window.layout(state, self.steps)

    def step(
        self,
        state: State,
        layout: Layout,
        shown: frozenset[str] = frozenset(),
        finished: Tensor | None = None,
        *,
        first: bool = False,
    ) -> tuple[Ahead, Made | None]:
        """One step of every live row: the state after it and what it did. None if there is no such row.

        ``finished``: rows that the step before finished, to be looked at for masks in the question this step asks;
        ``first``: ids are looked at in it too.

        Raises:
            ValueError: there are negative ids.
        """
        state, view = self.window.view(state, layout, self.mask_id)
        intent = self.plan.prepare(state, view)
        due = self._due(state, view)
        ahead = self._ahead(state, view, intent, due, finished, first)
        if not ahead.live:
            return ahead, None
        return ahead, self._made(state, view, layout, intent, due, ahead, shown, self.memory)

    def fixed_step(self, state: State, layout: Layout, *, closing: bool) -> State:
        """The state after the same step, made without asking the host: the model reads every row, whoever needs it.

        Rows that have used all their steps wait for a ``closing`` step to fill what is left. ``calls`` and
        ``token_forwards`` are not counted.
        """
        waiting = torch.zeros_like(state.done) if closing else ~state.done & self.window.spent(state, layout)
        before = replace(state, done=state.done | waiting)
        before, view = self.window.view(before, layout, self.mask_id)
        intent = self.plan.prepare(before, view)
        due = self._due(before, view)
        need, correct = self._needs(before, view, intent, due)
        ahead = Ahead(Rows(need), Rows(correct), closing, None)
        after = self._made(before, view, layout, intent, due, ahead, frozenset(), {}).state
        return replace(after, done=after.done & ~waiting, calls=state.calls, token_forwards=state.token_forwards)

    def _made(
        self,
        state: State,
        view: View,
        layout: Layout,
        intent: Intent,
        due: Tensor,
        ahead: Ahead,
        shown: frozenset[str],
        memory: dict[Any, Any],
    ) -> Made:
        tally = Tally(memory)
        time = self.plan.time(state, view)
        corrected = torch.zeros_like(state.fixed)
        before = state
        if ahead.rows.empty:
            scores = self.forward.nothing(state.tokens)
        else:
            wanted = self._wanted(state, view, intent, shown)
            if not ahead.correcting.empty:
                wanted = wanted | (due[:, None] & ~state.fixed)
            also = frozenset({"argmax"} if ahead.finishing else ())
            scores = self.forward(
                state, state.tokens, ahead.rows, wanted, time, also=also, windows=ahead.windows, tally=tally
            )
        if self.correct is not None and not ahead.correcting.empty:

            def rescore(
                tokens: Tensor, rows: Rows, where: Tensor, correction: int, judged: Tensor | None = None
            ) -> Scores:
                windows = ahead.windows
                return self.forward(
                    before, tokens, rows, where, time, correction, windows=windows, judged=judged, tally=tally
                )

            tokens, scores = self.correct(state, view, ahead.correcting, scores, rescore)
            state, corrected = self._revise(state, tokens, scores)
        if self.review is not None and self.review_forward is not None:
            scores = self.review(self.review_forward, state, scores, ahead.rows, time, tally)
        update = self.plan(state, view, intent, scores)
        if ahead.finishing:
            update = self._fill(state, view, update, scores)
        if update.corrected is not None:
            corrected = corrected | update.corrected
        state = tally.written(self._apply(state, view, update, scores, corrected, ahead.correcting))
        if self.tokens_processor is not None:
            state = replace(state, tokens=self._processed(state.tokens, tally.logits, self.tokens_processor))
        finished = view.finishing if ahead.finishing else None
        return Made(self.close(state, layout), update, corrected, scores, finished)

    def _processed(self, tokens: Tensor, logits: Tensor | None, processor: TokensProcessor) -> Tensor:
        """The tokens a caller's processor makes of a step's, given the logits of the step's last forward."""
        processed = processor(tokens, logits)
        if not isinstance(processed, Tensor) or processed.shape != tokens.shape or processed.dtype != torch.int64:
            got = (
                f"{processed.dtype} {list(processed.shape)}"
                if isinstance(processed, Tensor)
                else type(processed).__name__
            )
            raise ValueError(f"tokens_processor: expected int64 {list(tokens.shape)}, got {got}")
        return processed

    def _wanted(self, state: State, view: View, intent: Intent, shown: frozenset[str]) -> Tensor:
        """bool ``[B, L]``: positions to be scored for the plan, for a last step, and for the history's readers."""
        if intent.wanted is None:
            wanted = view.masked
        else:
            last = view.finishing[:, None] if not shown else torch.ones_like(view.finishing)[:, None]
            wanted = intent.wanted | (view.masked & last)
        if self.review is not None:
            wanted = wanted | self.review.wanted(state, self.mask_id)
        if "current_logprob" in self.forward.wants:  # the one score that means something where a token stands
            wanted = wanted | state.committed(self.mask_id)
        return wanted

    def _due(self, state: State, view: View) -> Tensor:
        if self.correct is None:
            return torch.zeros_like(state.done)
        return self.correct.due(state, view) & ~state.done

    def _ahead(
        self, state: State, view: View, intent: Intent, due: Tensor, finished: Tensor | None, first: bool
    ) -> Ahead:
        """What the host must know before the forward, in one question."""
        need, correct = self._needs(state, view, intent, due)
        asked = [~state.done, need, correct, view.finishing]
        if finished is not None:
            asked.append(finished & state.masked(self.mask_id).any(1))
        elif first:
            asked.append((state.tokens < 0).any(1))
        flags = torch.stack(asked)
        windows = None
        if self.forward.reads_windows:
            spans = torch.stack([view.index, view.step, *view.span(), state.step])
            answers = torch.cat([flags.long(), spans]).tolist()
            windows = [Window(row, *span) for row, span in enumerate(zip(*answers[len(asked) :], strict=True))]
        else:
            answers = flags.tolist()
        live, needed, correcting, finishing, *also = answers[: len(asked)]
        if first and any(also[0]):
            raise ValueError(f"tokens: expected ids >= 0, got negative ones in rows {list(indices(also[0]))}")
        return Ahead(
            Rows(need, indices(needed)),
            Rows(correct, indices(correcting)),
            any(finishing),
            windows,
            live=any(live),
            unfilled=indices(also[0]) if also else (),
        )

    def _needs(self, state: State, view: View, intent: Intent, due: Tensor) -> tuple[Tensor, Tensor]:
        """bool ``[B]`` each: rows that make a forward, and those of them to correct."""
        live = ~state.done
        if not self.cache:
            return live, live & due
        need = intent.need | view.finishing
        if self.correct is not None:
            pointless = state.settled | ~state.committed(self.mask_id).any(1)
            need = need | (due & ~pointless)
        need = need & live
        return need, need & due

    def _revise(self, state: State, tokens: Tensor, scores: Scores) -> tuple[State, Tensor]:
        """The state with corrected tokens, scored by the corrector's own probability, and where they are."""
        corrected = tokens != state.tokens
        commit_score = torch.where(corrected, scores["max_logprob"].exp(), state.commit_score)
        return replace(state, tokens=tokens, commit_score=commit_score), corrected

    def _fill(self, state: State, view: View, update: Update, scores: Scores) -> Update:
        """The update, with rows that have used their steps filled by the argmax (MDLM's noise removal)."""
        last = view.finishing[:, None]
        tokens, committed, remasked = ops.remask_step(
            state.tokens,
            scores["argmax"],
            mask_id=self.mask_id,
            fixed=state.fixed,
            commit=state.masked(self.mask_id) & last,
        )
        return Update(
            tokens=torch.where(last, tokens, update.tokens),
            committed=torch.where(last, committed, update.committed),
            remasked=torch.where(last, remasked, update.remasked),
            memory=update.memory,
            corrected=None if update.corrected is None else update.corrected & ~last,
        )

    def _apply(
        self, state: State, view: View, update: Update, scores: Scores, corrected: Tensor, correcting: Rows
    ) -> State:
        """The state after the step: what was written, what is known of it, the next step of each row."""
        settled = state.settled
        if self.correct is not None and self.correct.settles:
            written = (update.committed | update.remasked | corrected).any(1)
            settled = (settled | correcting.mask) & ~written
        kept = torch.where(update.remasked, torch.nan, state.commit_score)
        new = update.committed if update.corrected is None else update.committed | update.corrected
        state = replace(
            state,
            tokens=update.tokens,
            settled=settled,
            commit_score=torch.where(new, scores["confidence"], kept),
            commits=state.commits + update.committed,
            done=state.done | view.finishing,
            memory={**state.memory, **update.memory},
        )
        return self.window.advance(state, view, self._waiting(state))

    def _waiting(self, state: State) -> Tensor:
        """bool ``[B]``: rows that have business left without a mask in sight."""
        if self.plan.revisits:
            return torch.ones_like(state.done)
        waiting = getattr(self.plan, "waiting", None)  # asking whether the plan is a Waits takes ten times as long
        if waiting is not None:
            return waiting(state)
        return ~state.settled if self.correct is not None and self.correct.revisits else torch.zeros_like(state.done)

    def close(self, state: State, layout: Layout) -> State:
        """The state with rows marked done that have ended."""
        filled = self.window.filled(state, self.mask_id)
        spent = self.window.spent(state, layout)
        done = state.done | (filled & (spent | ~self._waiting(state)))
        if not self.finish:
            done = done | spent
        tokens = state.tokens
        if self.eos_ids:
            ended = self._ended(state)
            after = ended if len(self.eos_ids) == 1 else ended.long().cumsum(1) > 1  # which end it was stays
            tokens = torch.where(after & ~state.fixed & ~done[:, None], self.eos_ids[0], tokens)
            done = done | ended.any(1)
        if self.stop is not None:
            done = done | self._stopped(self.stop, tokens, state.fixed)
        return replace(state, tokens=tokens, done=done)

    def _ended(self, state: State) -> Tensor:
        """bool ``[B, L]``: positions from the first generated end of sequence on that has no mask before it."""
        unfilled = state.masked(self.mask_id).long().cumsum(1)
        first = self._ends(state) & ~state.fixed & (unfilled == 0)
        return first.long().cumsum(1) > 0

    def _ends(self, state: State) -> Tensor:
        """bool ``[B, L]``: positions that hold an end of sequence."""
        ends = state.tokens == self.eos_ids[0]
        for other in self.eos_ids[1:]:
            ends = ends | (state.tokens == other)
        return ends

    @staticmethod
    def _stopped(stop: Stop, tokens: Tensor, fixed: Tensor) -> Tensor:
        """bool ``[B]``: rows that the caller's rule ends."""
        ended = stop(tokens, fixed)
        if not isinstance(ended, Tensor) or ended.shape != tokens.shape[:1]:
            got = list(ended.shape) if isinstance(ended, Tensor) else type(ended).__name__
            raise ValueError(f"stop: expected bool [{tokens.shape[0]}], one per row, of the function, got {got}")
        return ended.to(device=tokens.device, dtype=torch.bool)
