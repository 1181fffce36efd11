"""A sampler put together from parts."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import InitVar, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from .correct import Correct
from .engine import Callback, Engine, Stop, TokensProcessor
from .forward import Forward, LogitsProcessor
from .plan import Plan, UnmaskThenRemask
from .progress import progress_bar
from .remask import Remask
from .result import SampleResult, StepEvent
from .review import Review
from .scoring import Scoring
from .state import State, initial_state
from .unmask import Unmask
from .window import Blocks


@dataclass(frozen=True, kw_only=True)
class Sampler:
    """A sampler made of parts. Presets are such combinations: ``preset.parts()`` is the equal Sampler.

    Args:
        steps: S, steps of a row, all its blocks together.
        unmask, remask: parts of an :class:`UnmaskThenRemask` plan.
        plan: how a step writes the canvas, instead of ``unmask`` and ``remask``.
        window: where a row may write, and for how many steps.
        scoring: how tokens are proposed and scored.
        correct: a corrector, or None.
        review: a second model that reads the step's draft, whose opinion the plan ranks by; or None.
        finish: when a row's steps are used and masks are left, fill them with the argmax of one more forward (the
            noise removal of MDLM). False leaves them.
        cache: rows with nothing to commit and no correction due skip their forward. False makes every forward; a
            corrector whose model sees the time wants that, for its fixed point may move with the time.
        name: what error messages call the method.

    Raises:
        ValueError: ``steps`` is not a positive int, or ``plan`` comes with ``unmask`` or ``remask``.
    """

    steps: int
    unmask: InitVar[Unmask | None] = None
    remask: InitVar[Remask | None] = None
    plan: Plan | None = None
    window: Blocks = field(default_factory=Blocks)
    scoring: Scoring = field(default_factory=Scoring)
    correct: Correct | None = None
    review: Review | None = None
    finish: bool = True
    cache: bool = True
    name: str = field(default="Sampler", compare=False)

    def __post_init__(self, unmask: Unmask | None, remask: Remask | None) -> None:
        if isinstance(self.steps, bool) or not isinstance(self.steps, int) or self.steps < 1:
            raise ValueError(f"steps: expected an int of at least 1, got {self.steps!r}")
        if self.plan is None:
            object.__setattr__(self, "plan", UnmaskThenRemask(unmask or Unmask(), remask))
        elif unmask is not None or remask is not None:
            raise ValueError("plan, unmask, remask: a plan has its own unmask and remask; give the plan or these parts")

    def __call__(
        self,
        model: Any,
        tokens: Tensor | None = None,
        *,
        mask_id: int,
        fixed: Tensor | None = None,
        lengths: Tensor | None = None,
        attention_mask: Tensor | None = None,
        positions: Tensor | None = None,
        origin: int | Tensor | None = None,
        condition: Any = None,
        eos_id: int | None = None,
        stop: Stop | None = None,
        logits_processor: LogitsProcessor | None = None,
        tokens_processor: TokensProcessor | None = None,
        seed: int | Tensor | torch.Generator = 0,
        state: State | None = None,
        callback: Callback | None = None,
        progress: bool = False,
        history: bool | Collection[str] = True,
    ) -> SampleResult:
        """Fill the masks of ``tokens``.

        Args:
            model: ``tokens -> logits`` or richer; see :mod:`mdmcorrect.model`. It is called without gradients, in
                whatever mode (train, eval, autocast) the caller set.
            tokens: int64 ``[B, L]``, masks where something is to be generated.
            mask_id: the mask token; never proposed.
            fixed: bool ``[B, L]``, positions never written; default ``tokens != mask_id``.
            lengths: int64 ``[B]``, real tokens per row when padded on the right.
            attention_mask: bool or 0/1 ``[B, L]``, 0 on padding, on either side; instead of ``lengths``.
            positions: int64 ``[B, L]``; default counts from the row's first real token. They address the random draws,
                and the model gets them as ``position_ids`` if it takes these (else ``request.unpassed`` says so).
            origin: an int or int64 ``[B]``, the column blocks are counted from; default the first to be generated.
            condition: handed to the model; its tensors with a leading dimension of B follow the rows.
            eos_id: a row ends when an end-of-sequence token was generated with no mask before it; the generated
                positions after it become ``eos_id``.
            stop: ``(tokens [B, L], fixed [B, L]) -> bool [B]``, rows that end after this step.
            logits_processor: ``(tokens [b, L], logits [b, L, V]) -> logits``, after each forward.
            tokens_processor: ``(tokens [B, L], logits [b, L, V] or None) -> tokens``, after each step, with the
                logits of its last forward; what it returns is the canvas the run goes on with.
            seed: an int, a Generator, or int64 ``[B]``, one per row, which alone makes a row's draws independent of
                its place in the batch.
            state: go on from here; ``tokens`` and what describes them are then taken from it. Going on with the same
                sampler, model and arguments gives the tokens of an uninterrupted run.
            callback: gets a :class:`StepEvent` after every step; a true return value stops the run.
            progress: draw a progress bar with rich.
            history: keep the events. A collection of score names, such as ``{"quality", "entropy"}``, also records
                these, computing those the method would not: at masked positions, ``quality`` at all, and
                ``current_logprob`` at committed ones too.

        Raises:
            TypeError, ValueError: an argument, or what the model returns, has the wrong type, dtype or shape; the model
                gives no quality and the method reads it; ``mask_id`` is out of range of the logits.
            ImportError: ``progress`` without rich.
        """
        if state is None:
            if tokens is None:
                raise ValueError("tokens: expected int64 [B, L], or a state to go on from; got neither")
            state = initial_state(
                tokens,
                mask_id=mask_id,
                fixed=fixed,
                lengths=lengths,
                attention_mask=attention_mask,
                positions=positions,
                origin=origin,
                seed=seed,
            )
            state = replace(state, padded=state.padded and not bool(state.attention_mask.all()))
        elif tokens is not None and tokens.shape != state.tokens.shape:
            raise ValueError(f"state: expected tokens {list(tokens.shape)}, got {list(state.tokens.shape)}")
        shown = frozenset[str]() if isinstance(history, bool) else frozenset(history)
        engine = self.engine(
            model,
            mask_id=mask_id,
            condition=condition,
            eos_id=eos_id,
            stop=stop,
            logits_processor=logits_processor,
            tokens_processor=tokens_processor,
            shown=shown,
        )
        engine.forward.tell(state)
        events: list[StepEvent] = []
        record: Callable[[StepEvent], Any] | None = None if history is False else events.append
        with torch.no_grad(), progress_bar(progress, self.steps, self.name) as advance:
            if progress:
                callback = _then(advance, callback)
            state, stopped = engine.run(state, callback, record, shown)
        return SampleResult(
            tokens=state.tokens,
            nfe=state.nfe,
            steps=state.step,
            stopped=stopped,
            state=state,
            history=None if history is False else events,
            calls=state.calls,
            token_forwards=state.token_forwards,
        )

    def engine(
        self,
        model: Any,
        *,
        mask_id: int,
        condition: Any = None,
        eos_id: int | None = None,
        stop: Stop | None = None,
        logits_processor: LogitsProcessor | None = None,
        tokens_processor: TokensProcessor | None = None,
        shown: frozenset[str] = frozenset(),
    ) -> Engine:
        """The loop that a call runs, for one run. ``shown``: scores to compute beside those the method reads."""
        assert self.plan is not None
        wants = self.plan.wants | shown | (self.correct.wants if self.correct else frozenset())
        keep_logits = tokens_processor is not None
        review = None
        if self.review is not None:
            review = self.review.forward(mask_id, self.name, condition)
        return Engine(
            steps=self.steps,
            plan=self.plan,
            window=self.window,
            correct=self.correct,
            finish=self.finish,
            cache=self.cache,
            forward=Forward(
                model,
                self.scoring,
                mask_id,
                wants,
                self.name,
                condition,
                logits_processor,
                keep_logits=keep_logits,
            ),
            mask_id=mask_id,
            eos_id=eos_id,
            stop=stop,
            tokens_processor=tokens_processor,
            review=self.review,
            review_forward=review,
        )


def _then(advance: Callable[[], None], callback: Callback | None) -> Callback:
    def both(event: StepEvent) -> Any:
        advance()
        return callback(event) if callback is not None else False

    return both
