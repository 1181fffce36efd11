"""The call of every sampler, published or put together from parts: arguments in, a result out."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from .. import _checks, rng
from ..ops import TokenScores
from .engine import Callback, Stop, TokensProcessor
from .forward import LogitsProcessor
from .identity import identity
from .progress import progress_bar
from .result import Interrupted, SampleResult, StepEvent
from .resume import check_agreement
from .state import State, initial_state

if TYPE_CHECKING:
    from .sampler import Sampler

logger = logging.getLogger(__name__)
_SCORES = (*TokenScores._fields, "quality")
_CANDIDATES = "candidates"


class Runs:
    """What can be called as a sampler: a preset, or a :class:`Sampler`, which :meth:`parts` is."""

    def parts(self) -> Sampler:
        """The parts it is made of."""
        raise NotImplementedError

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
        eos_id: int | Sequence[int] | None = None,
        stop: Stop | None = None,
        logits_processor: LogitsProcessor | None = None,
        tokens_processor: TokensProcessor | None = None,
        seed: rng.Seed = None,
        state: State | None = None,
        callback: Callback | None = None,
        on_interrupt: str = "return",
        progress: bool = False,
        history: bool | Collection[str] | Literal["candidates"] = False,
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
            origin: an int or int64 ``[B]``, the column that blocks cut by column are counted from; default the first
                to be generated. Blocks of generated positions, and the whole canvas, need none: theirs begin there.
            condition: handed to the model; its tensors with a leading dimension of B follow the rows.
            eos_id: a row ends when an end-of-sequence token was generated with no mask before it; the generated
                positions after it become ``eos_id``. Of several any ends a row, and the first fills what comes after.
            stop: ``(tokens [B, L], fixed [B, L]) -> bool [B]``, rows that end after this step.
            logits_processor: ``(tokens [b, L], logits [b, L, V]) -> logits``, after each forward.
            tokens_processor: ``(tokens [B, L], logits [b, L, V] or None) -> tokens``, after each step, with the
                logits of its last forward; what it returns is the canvas the run goes on with.
            seed: an int, a Generator, or int64 ``[B]``, one per row, which alone makes a row's draws independent of
                its place in the batch. None draws one from torch's default CPU generator, so that runs differ unless
                ``torch.manual_seed`` says otherwise; a sampler that draws nothing leaves the generator as it is.
                ``result.seed`` makes the run again.
            state: go on from here; ``tokens``, what describes them and ``seed`` are then those of the state, and one
                that is given must agree with it. Going on with the same sampler, model and arguments gives the tokens
                of an uninterrupted run.
            callback: gets a :class:`StepEvent` after every step; a true return value stops the run.
            on_interrupt: what Ctrl-C does: "return" what there is, with ``result.stopped == "interrupted"``, which a
                loop over batches must look at; or "raise" an :class:`Interrupted` that holds it, and ends the loop.
            progress: draw a progress bar with rich.
            history: keep the events, a few copies of the canvas per step. A collection of score names, such as
                ``{"quality", "entropy"}``, also records these, computing those the method would not: at masked
                positions, ``quality`` at all, and ``current_logprob`` at committed ones too. "candidates", alone or
                among them, records the model's best five tokens per masked position, with confidence, entropy and, of a
                method that reads it, quality: what :mod:`mdmcorrect.replay` shows. It reads the logits once more.

        Raises:
            TypeError, ValueError: an argument, or what the model returns, has the wrong type, dtype, shape or range;
                the model gives no quality and the method reads it; ``mask_id`` is out of range of the logits; ``state``
                belongs to another sampler, or to other arguments than are given.
            Interrupted: Ctrl-C, with ``on_interrupt="raise"``.
            ImportError: ``progress`` without rich.
        """
        parts = self.parts()
        mask_id = _checks.token_id("mask_id", mask_id)
        _checks.choice("on_interrupt", on_interrupt, "return", "raise")
        _checks.called("callback", callback, "(event) -> bool")
        keep, shown, candidates = _recorded(history, parts)
        if "noised_logprob" in shown and parts.scoring.noise != "dense":
            raise ValueError('history: expected noised_logprob of a sampler whose scoring has noise="dense" only')
        layout = {"fixed": fixed, "lengths": lengths, "attention_mask": attention_mask, "positions": positions}
        made_by = identity(parts, mask_id)
        begins = state is None
        if state is None:
            if tokens is None:
                raise ValueError("tokens: expected int64 [B, L], or a state to go on from; got neither")
            state = initial_state(
                tokens,
                mask_id=mask_id,
                **layout,
                origin=origin,
                seed=seed,
                draws=parts.random,
                sampler=made_by,
            )
            state = _looked_at(state, lengths)
        else:
            check_agreement(state, made_by, tokens, origin=origin, seed=seed, **layout)
        engine = parts.engine(
            model,
            mask_id=mask_id,
            condition=condition,
            eos_id=eos_id,
            stop=stop,
            logits_processor=logits_processor,
            tokens_processor=tokens_processor,
            shown=shown,
            candidates=candidates,
        )
        engine.forward.tell(state)
        events: list[StepEvent] = []
        record: Callable[[StepEvent], Any] | None = events.append if keep else None
        stopped = ""
        try:
            with torch.no_grad(), progress_bar(progress, parts.most_steps, parts.name) as advance:
                if progress:
                    callback = _then(advance, callback)
                state, stopped = engine.run(state, callback, record)
        except KeyboardInterrupt:  # while the bar was put up or taken down
            stopped = "interrupted"
        result = SampleResult(
            tokens=state.tokens,
            nfe=state.nfe,
            steps=state.step,
            stopped=stopped,
            state=state,
            history=events if keep else None,
            calls=state.calls,
            token_forwards=state.token_forwards,
            mask_id=mask_id,
            method=parts.name,
        )
        idle = begins and fixed is None and not result.calls and state.tokens.numel() > 0
        if idle and stopped == "finished" and not bool(state.tokens.eq(mask_id).any()):  # few runs are asked
            logger.warning("%s: there was nothing to do: no position holds mask_id %d", parts.name, mask_id)
        if stopped == "interrupted":
            if on_interrupt == "raise":
                raise Interrupted(result)
            logger.warning('%s: interrupted; returns what there is, and result.stopped is "interrupted"', parts.name)
        return result


def _looked_at(state: State, lengths: Tensor | None) -> State:
    """The state that knows whether its mask hides anything. One question to the host, if there is a mask.

    Raises:
        ValueError: lengths that only their values show wrong.
    """
    if not state.padded:
        return state
    length = state.tokens.shape[1]
    answer = (~state.attention_mask).any()
    if lengths is not None:
        answer = answer + 2 * ((lengths < 0) | (lengths > length)).any().to(answer.device)
    found = int(answer)
    if lengths is not None and found & 2:
        raise ValueError(f"lengths: expected numbers from 0 to {length}, got {lengths.tolist()}")
    return replace(state, padded=bool(found & 1))


def _recorded(history: object, parts: Sampler) -> tuple[bool, frozenset[str], bool]:
    """Whether events are kept, the scores they carry, and whether they carry candidates."""
    if history is None or isinstance(history, bool):
        return bool(history), frozenset(), False
    if history == _CANDIDATES:
        history = {_CANDIDATES}
    if isinstance(history, (str, bytes, Mapping)) or not isinstance(history, Collection):
        raise TypeError(f'history: expected a bool or names of scores, such as {{"quality"}}, got {history!r}')
    for name in history:
        _checks.choice("history", name, *_SCORES, _CANDIDATES)
    names = frozenset(history)
    if _CANDIDATES not in names:
        return True, names, False
    read = (parts.plan.wants if parts.plan else frozenset()) | (parts.correct.wants if parts.correct else frozenset())
    return True, names - {_CANDIDATES} | {"confidence", "entropy"} | (read & {"quality"}), True


def _then(advance: Callable[[], None], callback: Callback | None) -> Callback:
    def both(event: StepEvent) -> Any:
        advance()
        return callback(event) if callback is not None else False

    return both
