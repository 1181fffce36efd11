"""One call of the model for the rows that need it: compaction, checks, scoring, counting."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from .. import _checks, _constants
from ..conditions import take_rows
from ..model import Output, Request, Window, as_model, check_logits, combine, model_name, reads_windows, takes_positions
from .candidates import Watch
from .rows import Rows
from .scoring import Scores, Scoring
from .state import State

if TYPE_CHECKING:
    from .steps import Seen

_log = logging.getLogger(__name__)

LogitsProcessor = Callable[[Tensor, Tensor], Tensor]
_NOTHING, _POSITIONS = frozenset[str](), frozenset({"position_ids"})


@dataclass
class Tally:
    """What the forwards of one step leave behind, until it is written into the state.

    Attributes:
        run: what adapters keep for the run, ``Request.run``.
        made: who made each forward, and how many each of them made for it.
        calls, token_forwards: of the model, whatever their batch.
        logits: those of the step's last forward, if they are kept.
    """

    run: dict[Any, Any] = field(default_factory=dict)
    made: list[tuple[Rows, int | tuple[int, ...]]] = field(default_factory=list)
    calls: int = 0
    token_forwards: int = 0
    logits: Tensor | None = None

    def count(self, rows: Rows, asked: Tensor, forwards: int | tuple[int, ...]) -> None:
        """Add a call with the tokens ``asked [b, L]``, for which each row made so many forwards, or its own number."""
        self.made.append((rows, forwards))
        self.calls += 1
        total = forwards * asked.shape[0] if isinstance(forwards, int) else sum(forwards)
        self.token_forwards += asked.shape[1] * total

    @property
    def nfe(self) -> Tensor | None:
        """int64 ``[B]``: forwards per row, None before the first."""
        total = None
        for rows, forwards in self.made:
            if total is not None and isinstance(forwards, int):
                total = total.add(rows.mask, alpha=forwards)
                continue
            made = _scattered(forwards, rows) if not isinstance(forwards, int) else _times(rows.mask, forwards)
            total = made if total is None else total + made
        return total

    def number(self, rows: Rows) -> int | None:
        """Forwards that each of these rows made, if all were made by them and by all alike; else None."""
        alike = all(who is rows and isinstance(forwards, int) for who, forwards in self.made)
        return sum(forwards for _, forwards in self.made if isinstance(forwards, int)) if alike else None

    def written(self, state: State) -> State:
        """``state`` with the counts added."""
        nfe = self.nfe
        return replace(
            state,
            nfe=state.nfe if nfe is None else state.nfe + nfe,
            calls=state.calls + self.calls,
            token_forwards=state.token_forwards + self.token_forwards,
        )


def _times(mask: Tensor, number: int) -> Tensor:
    """int64. TorchScript takes a product with 1 for the mask itself, which is bool."""
    return mask.long() if number == 1 else mask * number


def _scattered(forwards: tuple[int, ...], rows: Rows) -> Tensor:
    each, index = torch.tensor(forwards, dtype=torch.int64, device=rows.mask.device), rows.index
    return each if index is None else torch.zeros_like(rows.mask, dtype=torch.int64).index_copy(0, index, each)


class Answer(NamedTuple):
    """What the model said of some rows of the canvas ``tokens [B, L]``, and what it was asked.

    ``shown``: the tokens ``[b, L]`` that the logits are of, or ``[b, W]``; ``chosen``: which rows, None for all.
    """

    output: Output
    request: Request
    tokens: Tensor
    shown: Tensor
    rows: Rows
    chosen: Tensor | None


class Forward:
    """Runs the model on some rows of the batch and scatters the scores back to ``[B, L]``.

    Args:
        model: see :mod:`mdmcorrect.model`.
        scoring: how logits become scores.
        mask_id: the mask token.
        wants: names of the scores the method's parts read, beyond ``token`` and ``confidence``.
        method: what error messages call the method.
        condition: handed to the model; tensors in it with a leading dimension of B are cut to the rows of the call.
        logits_processor: ``(tokens [b, L], logits [b, L, V]) -> logits``, applied before anything is read.
        keep_logits: hold the last logits in ``logits``.
        ids: by the name of an argument, token ids that the vocabulary must hold.
        watch: is shown the logits of every step's first forward.
    """

    def __init__(
        self,
        model: Any,
        scoring: Scoring,
        mask_id: int,
        wants: frozenset[str],
        method: str,
        condition: Any = None,
        logits_processor: LogitsProcessor | None = None,
        *,
        keep_logits: bool = False,
        ids: Mapping[str, Sequence[int]] | None = None,
        watch: Watch | None = None,
    ) -> None:
        self.name, self.model = model_name(model), as_model(model)
        self.reads_windows = reads_windows(model)
        self.keep_logits = keep_logits
        self.scoring, self.mask_id, self.method = scoring, mask_id, method
        self.wants = wants | {"token", "confidence"}
        self.needs = self.wants & {"quality"}
        self.condition, self.logits_processor = condition, logits_processor
        self.ids = {name: several for name, several in (ids or {}).items() if several}
        self._takes_positions = takes_positions(model)
        self._rows: Tensor | None = None
        self.watch = watch
        self._settles = logits_processor is not None or keep_logits or scoring.reads_logits or watch is not None
        # Whether scores are what the operator says of the model's logits, and nothing besides.
        self.plain = type(scoring) is Scoring and not scoring.confidence_forbid and not self._settles

    def __call__(
        self,
        state: Seen,
        tokens: Tensor,
        rows: Rows,
        where: Tensor,
        time: Tensor,
        correction: int = 0,
        also: frozenset[str] = frozenset(),
        windows: Sequence[Window] | None = None,
        judged: Tensor | None = None,
        *,
        tally: Tally,
    ) -> Scores:
        """Scores of ``tokens [B, L]`` at the positions ``where`` (bool ``[B, L]``) of the given rows.

        ``also`` names scores that only this forward is to give; ``judged`` are the tokens, if not those of the canvas,
        that ``current_logprob`` is about. The forward is counted in ``tally``.

        Returns:
            Scores ``[B, L]``, -1 or NaN wherever nothing was scored.

        Raises:
            TypeError, ValueError: the model's answer has the wrong type, shape or dtype, its vocabulary does not hold
                ``mask_id``, or it lacks the quality that the method reads.
        """
        answer = self.ask(state, tokens, rows, where, time, correction, windows, tally=tally)
        return self.scores(state, answer, also, judged)

    def ask(
        self,
        state: Seen,
        tokens: Tensor,
        rows: Rows,
        where: Tensor,
        time: Tensor,
        correction: int = 0,
        windows: Sequence[Window] | None = None,
        *,
        tally: Tally,
    ) -> Answer:
        """The model's answer, of which nothing is scored yet; arguments and errors as of a call."""
        batch, index = tokens.shape[0], rows.index

        def take(value: Tensor) -> Tensor:
            return value if index is None else value.index_select(0, index)

        asked = take(tokens)
        request = _request(
            batch=take(self._row_numbers(tokens)),
            wanted=take(where if rows.listed is not None else where & rows.mask[:, None]),
            time=take(time),
            step=take(state.step),
            position_ids=take(state.positions),
            attention_mask=take(state.attention_mask) if state.padded else None,
            condition=None if self.condition is None else take_rows(self.condition, batch, take),
            needs=self.needs,
            correction=correction,
            mask_id=self.mask_id,
            fixed=take(state.fixed),
            windows=None if windows is None else tuple(windows[row] for row in rows.listed or ()),
            placed=state.placed,
            unpassed=self._unpassed(state),
            run=tally.run,
        )
        output = self.model(asked, request)
        start = output.start
        shown = asked if start is None else asked[:, start : start + output.logits.shape[1]]
        self._check(output, shown)
        if self._settles:
            output = replace(output, logits=combine(output), uncond_logits=None, shift=0)
        if self.logits_processor is not None:
            output = replace(output, logits=self.logits_processor(shown, output.logits))
            check_logits(output.logits, shown, self.mask_id, "logits_processor")
        if self.keep_logits:
            tally.logits = output.logits
        if self.watch is not None and not correction:
            first = start or 0
            wanted = request.wanted & take(rows.mask)[:, None]
            wanted = wanted[:, first : first + shown.shape[1]]
            self.watch(output.logits, wanted, request.batch, tokens.shape, first)
        tally.count(rows, asked, output.forwards)
        return Answer(output, request, tokens, shown, rows, index)

    def scores(
        self, state: Seen, answer: Answer, also: frozenset[str] = frozenset(), judged: Tensor | None = None
    ) -> Scores:
        """The scores of an answer; arguments as of a call."""
        output, request, tokens, shown, rows, index = answer
        length, start = tokens.shape[1], output.start or 0

        def take(value: Tensor) -> Tensor:
            return value if index is None else value.index_select(0, index)

        def cut(value: Tensor) -> Tensor:
            return value if output.start is None else value[:, start : start + shown.shape[1]]

        scores = self.scoring(
            output.logits,
            tokens=shown if judged is None else cut(take(judged)),
            rows=cut(request.wanted),
            positions=cut(request.position_ids),
            mask_id=self.mask_id,
            want=self.wants | also if also else self.wants,
            seed=take(state.seed),
            step=request.step,
            call=request.correction,
            uncond_logits=output.uncond_logits,
            guidance=output.guidance,
            shift=output.shift,
        )
        if output.quality is not None and self.needs:
            quality = output.quality.float()
            scores["quality"] = quality if rows.listed is not None else quality.where(rows.mask[:, None], torch.nan)
        if output.start is not None:
            after = length - start - shown.shape[1]
            scores = Scores({name: _pad(value, start, after) for name, value in scores.items()})
        if index is None:
            return scores
        return Scores({name: _scatter(value, index, tokens.shape[0]) for name, value in scores.items()})

    def tell(self, state: Seen) -> None:
        """Log, once for a run, what of its input the model does not take; with relative positions nothing is lost."""
        if self._unpassed(state):
            level = logging.WARNING if state.placed else logging.INFO
            _log.log(level, "model %s takes no position_ids: it counts positions by itself", self.name)

    def _unpassed(self, state: Seen) -> frozenset[str]:
        tells = state.placed or state.padded
        return _POSITIONS if tells and not self._takes_positions else _NOTHING

    def _row_numbers(self, tokens: Tensor) -> Tensor:
        """int64 ``[B]``: 0, 1, 2, ..., kept for the run."""
        kept, batch = self._rows, tokens.shape[0]
        if kept is not None and kept.shape[0] == batch and kept.device == tokens.device:
            return kept
        numbers = torch.arange(batch, dtype=torch.int64, device=tokens.device)
        if _constants.place_of(tokens) is not None:
            self._rows = numbers
        return numbers

    def nothing(self, tokens: Tensor) -> Scores:
        """The scores of a step without a forward: every name, with nothing in it."""
        unscored = torch.full(tokens.shape, torch.nan, dtype=torch.float32, device=tokens.device)
        empty = Scores(dict.fromkeys(self.wants, unscored))
        empty.update(dict.fromkeys(self.wants & {"token", "argmax"}, torch.full_like(tokens, -1)))
        return empty

    def _check(self, output: Output, asked: Tensor) -> None:
        check_logits(output.logits, asked, self.mask_id, f"model {self.name}")
        for name, ids in self.ids.items():
            _checks.ids_within(name, ids, output.logits.shape[-1])
        if type(output.forwards) is not int:
            self._check_forwards(output.forwards, asked.shape[0])
        if output.shift < 0:
            raise ValueError(f"model {self.name}: expected shift at least 0, got {output.shift}")
        if output.quality is None:
            if "quality" in self.wants:
                raise ValueError(
                    f"quality: {self.method} reads each token's quality, but the model {self.name} gives none; return "
                    f"mdmcorrect.model.Output(logits, quality=...) or put a head on it with mdmcorrect.heads.attach"
                )
        elif not isinstance(output.quality, Tensor) or output.quality.shape != asked.shape:
            got = list(output.quality.shape) if isinstance(output.quality, Tensor) else type(output.quality).__name__
            raise ValueError(f"model {self.name}: expected quality {list(asked.shape)}, got {got}")
        elif not output.quality.is_floating_point():
            raise TypeError(f"model {self.name}: expected floating quality, got {output.quality.dtype}")

    def _check_forwards(self, forwards: object, batch: int) -> None:
        """Raise unless a number of forwards that is no plain int is one for each row."""
        each = forwards if isinstance(forwards, (tuple, list)) else (forwards,) * batch
        if len(each) != batch or any(isinstance(number, bool) or not isinstance(number, int) for number in each):
            raise ValueError(f"model {self.name}: expected forwards, an int or {batch} of them, got {forwards!r}")


def _request(**fields: Any) -> Request:
    """``Request(**fields)``, all of them, in a third of the time: a frozen dataclass sets each by a call."""
    request = Request.__new__(Request)
    request.__dict__.update(fields)
    return request


def _scatter(value: Tensor, index: Tensor, batch: int) -> Tensor:
    empty = torch.nan if value.is_floating_point() else -1
    return value.new_full((batch, *value.shape[1:]), empty).index_copy(0, index, value)


def _pad(value: Tensor, before: int, after: int) -> Tensor:
    return torch.nn.functional.pad(value, (before, after), value=torch.nan if value.is_floating_point() else -1)
