"""Steps made by the engine's parts, one after the other: window, forward, score, correct, plan, apply.

They are the definition of a step. :mod:`.native_steps` makes the same ones by one operator where it knows every part.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .. import ops
from ..model import Window
from .forward import Tally
from .plan import Intent, Update
from .rows import Rows, indices
from .scoring import Scores
from .state import State
from .steps import Ahead, negative_ids
from .window import Layout, View

if TYPE_CHECKING:
    from .engine import Engine, Stop, TokensProcessor


@dataclass(frozen=True)
class Made:
    """What a step did. ``finished``: bool ``[B]``, rows it finished; None if there is none, as the host knows."""

    state: State
    update: Update
    corrected: Tensor
    scores: Scores = field(default_factory=Scores)
    finished: Tensor | None = None

    @property
    def tokens(self) -> Tensor:
        return self.state.tokens


@dataclass(frozen=True)
class Opened:
    """A step before its forward."""

    state: State
    view: View
    intent: Intent
    due: Tensor


class PartSteps:
    """The steps of one run.

    Args:
        engine: the parts, the model and the rules that end a row.
        layout: the run's windows.
    """

    def __init__(self, engine: Engine, layout: Layout) -> None:
        self.engine, self.layout = engine, layout

    def begin(self, state: State) -> Made:
        nothing = torch.zeros_like(state.fixed)
        state = self.close(state)
        return Made(state, Update(state.tokens, nothing, nothing), nothing)

    def ahead(self, standing: Made, *, first: bool) -> Ahead:
        opened = self._opened(standing.state)
        state, view = opened.state, opened.view
        need, correct = self._needs(opened)
        asked = [~state.done, need, correct, view.finishing]
        if standing.finished is not None:
            asked.append(standing.finished & state.masked(self.engine.mask_id).any(1))
        elif first:
            asked.append((state.tokens < 0).any(1))
        flags = torch.stack(asked)
        windows = None
        if self.engine.forward.reads_windows:
            spans = torch.stack([view.index, view.step, *view.span(), state.step])
            answers = torch.cat([flags.long(), spans]).tolist()
            windows = [Window(row, *span) for row, span in enumerate(zip(*answers[len(asked) :], strict=True))]
        else:
            answers = flags.tolist()
        live, needed, correcting, finishing, *also = answers[: len(asked)]
        if first and any(also[0]):
            raise negative_ids(indices(also[0]))
        return Ahead(
            Rows(need, indices(needed)),
            Rows(correct, indices(correcting)),
            any(finishing),
            windows,
            live=any(live),
            unfilled=indices(also[0]) if also else (),
            opened=opened,
        )

    def make(self, standing: Made, ahead: Ahead) -> Made:
        return self._made(ahead.opened, ahead, self.engine.memory)

    def fixed_steps(self, state: State, number: int, *, closing: bool) -> State:
        for _ in range(number):
            state = self._fixed_step(state, closing=False)
        return self._fixed_step(state, closing=True) if closing else state

    def _fixed_step(self, state: State, *, closing: bool) -> State:
        waiting = (
            torch.zeros_like(state.done) if closing else ~state.done & self.engine.window.spent(state, self.layout)
        )
        opened = self._opened(replace(state, done=state.done | waiting))
        need, correct = self._needs(opened)
        ahead = Ahead(Rows(need), Rows(correct), closing, None)
        after = self._made(opened, ahead, {}).state
        return replace(after, done=after.done & ~waiting, calls=state.calls, token_forwards=state.token_forwards)

    def _opened(self, state: State) -> Opened:
        state, view = self.engine.window.view(state, self.layout, self.engine.mask_id)
        intent = self.engine.plan.prepare(state, view)
        return Opened(state, view, intent, self._due(state, view))

    def _made(self, opened: Opened, ahead: Ahead, memory: dict[Any, Any]) -> Made:
        state, view, intent, due = opened.state, opened.view, opened.intent, opened.due
        tally = Tally(memory)
        time = self.engine.plan.time(state, view)
        corrected = torch.zeros_like(state.fixed)
        before = state
        if ahead.rows.empty:
            scores = self.engine.forward.nothing(state.tokens)
        else:
            wanted = self._wanted(state, view, intent)
            if not ahead.correcting.empty:
                wanted = wanted | (due[:, None] & ~state.fixed)
            also = frozenset({"argmax"} if ahead.finishing else ())
            scores = self.engine.forward(
                state, state.tokens, ahead.rows, wanted, time, also=also, windows=ahead.windows, tally=tally
            )
        if self.engine.correct is not None and not ahead.correcting.empty:

            def rescore(
                tokens: Tensor, rows: Rows, where: Tensor, correction: int, judged: Tensor | None = None
            ) -> Scores:
                windows = ahead.windows
                return self.engine.forward(
                    before, tokens, rows, where, time, correction, windows=windows, judged=judged, tally=tally
                )

            tokens, scores = self.engine.correct(state, view, ahead.correcting, scores, rescore)
            state, corrected = self._revise(state, tokens, scores)
        if self.engine.review is not None and self.engine.review_forward is not None:
            scores = self.engine.review(self.engine.review_forward, state, scores, ahead.rows, time, tally)
        update = self.engine.plan(state, view, intent, scores)
        if ahead.finishing:
            update = self._fill(state, view, update, scores)
        if update.corrected is not None:
            corrected = corrected | update.corrected
        state = tally.written(self._apply(state, view, update, scores, corrected, ahead.correcting))
        if self.engine.tokens_processor is not None:
            state = replace(state, tokens=self._processed(state.tokens, tally.logits, self.engine.tokens_processor))
        finished = view.finishing if ahead.finishing else None
        return Made(self.close(state), update, corrected, scores, finished)

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

    def _wanted(self, state: State, view: View, intent: Intent) -> Tensor:
        """bool ``[B, L]``: positions to be scored for the plan, for a last step, and for the history's readers."""
        if intent.wanted is None:
            wanted = view.masked
        else:
            last = view.finishing[:, None] if not self.engine.shown else torch.ones_like(view.finishing)[:, None]
            wanted = intent.wanted | (view.masked & last)
        if self.engine.review is not None:
            wanted = wanted | self.engine.review.wanted(state, self.engine.mask_id)
        if "current_logprob" in self.engine.forward.wants:  # the one score that means something where a token stands
            wanted = wanted | state.committed(self.engine.mask_id)
        return wanted

    def _due(self, state: State, view: View) -> Tensor:
        if self.engine.correct is None:
            return torch.zeros_like(state.done)
        return self.engine.correct.due(state, view) & ~state.done

    def _needs(self, opened: Opened) -> tuple[Tensor, Tensor]:
        """bool ``[B]`` each: rows that make a forward, and those of them to correct."""
        state, view, intent, due = opened.state, opened.view, opened.intent, opened.due
        live = ~state.done
        if not self.engine.cache:
            return live, live & due
        need = intent.need | view.finishing
        if self.engine.correct is not None:
            pointless = state.settled | ~state.committed(self.engine.mask_id).any(1)
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
            mask_id=self.engine.mask_id,
            fixed=state.fixed,
            commit=state.masked(self.engine.mask_id) & last,
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
        if self.engine.correct is not None and self.engine.correct.settles:
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
        return self.engine.window.advance(state, view, self._waiting(state))

    def _waiting(self, state: State) -> Tensor:
        """bool ``[B]``: rows that have business left without a mask in sight."""
        if self.engine.plan.revisits:
            return torch.ones_like(state.done)
        waiting = getattr(
            self.engine.plan, "waiting", None
        )  # asking whether the plan is a Waits takes ten times as long
        if waiting is not None:
            return waiting(state)
        return (
            ~state.settled
            if self.engine.correct is not None and self.engine.correct.revisits
            else torch.zeros_like(state.done)
        )

    def close(self, state: State) -> State:
        """The state with rows marked done that have ended."""
        filled = self.engine.window.filled(state, self.engine.mask_id)
        spent = self.engine.window.spent(state, self.layout)
        done = state.done | (filled & (spent | ~self._waiting(state)))
        if not self.engine.finish:
            done = done | spent
        tokens = state.tokens
        if self.engine.eos_ids:
            ended = self._ended(state)
            after = ended if len(self.engine.eos_ids) == 1 else ended.long().cumsum(1) > 1  # which end it was stays
            tokens = torch.where(after & ~state.fixed, self.engine.eos_ids[0], tokens)  # of rows done otherwise too
            done = done | ended.any(1)
        if self.engine.stop is not None:
            done = done | self._stopped(self.engine.stop, tokens, state.fixed)
        return replace(state, tokens=tokens, done=done)

    def _ended(self, state: State) -> Tensor:
        """bool ``[B, L]``: positions from the first generated end of sequence on that has no mask before it."""
        unfilled = state.masked(self.engine.mask_id).long().cumsum(1)
        first = self._ends(state) & ~state.fixed & (unfilled == 0)
        return first.long().cumsum(1) > 0

    def _ends(self, state: State) -> Tensor:
        """bool ``[B, L]``: positions that hold an end of sequence."""
        ends = state.tokens == self.engine.eos_ids[0]
        for other in self.engine.eos_ids[1:]:
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
