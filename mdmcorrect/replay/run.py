"""A run as plain numbers: what each step changed and what was known of it. Saved as JSON, shown by the other files."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from .. import _checks
from .tokens import Texts, texts_of

if TYPE_CHECKING:
    from ..samplers.result import SampleResult, StepEvent

FORMAT, VERSION = "mdmcorrect run", 1
DIGITS = 4  # of a score that is kept
# What happened to a position in a step. "mended": filled with another token than stood there before it was masked;
# "returned": with the same. "other": by none of the sampler's parts, such as a caller's tokens_processor.
KINDS = ("filled", "mended", "returned", "masked", "rewritten", "other")


@dataclass(frozen=True)
class Frame:
    """One step of one row.

    Attributes:
        step: the number of the row's step, from 0.
        nfe: forwards the row was in so far.
        changes: (position, token, one of ``KINDS``).
        scores: by name one number per position, None where the step computed none. They are of the canvas before the
            step, unless ``rescored``: then of the canvas a corrector tried last.
        candidates: by position (token, log-probability), most probable first.
        rescored: see ``scores``.
        merged: how many steps this stands for.
    """

    step: int
    nfe: int
    changes: list[tuple[int, int, str]]
    scores: dict[str, list[float | None]] = field(default_factory=dict)
    candidates: dict[int, list[tuple[int, float]]] = field(default_factory=dict)
    rescored: bool = False
    merged: int = 1


@dataclass(frozen=True)
class Row:
    """One sequence, without its padding: positions count its real tokens.

    Attributes:
        index: which row of the batch it was.
        tokens: those it began with.
        fixed: whether the sampler may not write there, one per position.
        frames: its steps.
        seed: of its draws.
    """

    index: int
    tokens: list[int]
    fixed: list[bool]
    frames: list[Frame]
    seed: int = 0

    def canvases(self) -> Iterable[list[int]]:
        """The tokens before the first step and after each one."""
        canvas = list(self.tokens)
        yield list(canvas)
        for frame in self.frames:
            for position, token, _ in frame.changes:
                canvas[position] = token
            yield list(canvas)


@dataclass(frozen=True)
class Run:
    """Rows that one call of a sampler wrote.

    Attributes:
        method: what the sampler calls itself.
        mask_id: the mask token.
        stopped: why the run ended, as in :class:`mdmcorrect.samplers.SampleResult`.
        rows: the sequences.
        texts: of token ids, if a tokenizer was given when it was saved.
    """

    method: str
    mask_id: int
    stopped: str
    rows: list[Row]
    texts: dict[int, str] | None = None

    def save(self, path: str | PathLike[str], tokenizer: Texts = None) -> None:
        """Write it as JSON, with the texts of its tokens if a ``tokenizer`` is given; scores keep four digits."""
        values = self.values() | {"texts": texts_of(self, tokenizer)}
        Path(path).write_text(json.dumps(values, separators=(",", ":")) + "\n", encoding="ascii")

    def values(self) -> dict[str, Any]:
        """What :func:`load` reads, as dicts, lists and numbers."""
        rows = []
        for row in self.rows:
            fixed = [int(each) for each in row.fixed]
            steps = [_frame_values(frame) for frame in row.frames]
            rows.append({"row": row.index, "seed": row.seed, "tokens": row.tokens, "fixed": fixed, "steps": steps})
        head = {"format": FORMAT, "version": VERSION, "method": self.method}
        return head | {"mask_id": self.mask_id, "stopped": self.stopped, "texts": self.texts, "rows": rows}

    def to_html(self, tokenizer: Texts = None, **options: Any) -> str:
        """A page that plays the run; see :func:`mdmcorrect.replay.page.to_html`."""
        from .page import to_html

        return to_html(self, tokenizer, **options)

    def text(self, tokenizer: Texts = None, **options: Any) -> str:
        """The run step by step for a terminal; see :func:`mdmcorrect.replay.terminal.text`."""
        from .terminal import text

        return text(self, tokenizer, **options)

    def plot(self, **options: Any) -> Any:
        """Scores and counts over steps, by matplotlib; see :func:`mdmcorrect.replay.figure.plot`."""
        from .figure import plot

        return plot(self, **options)


def run_of(result: SampleResult, rows: Sequence[int] | None = None) -> Run:
    """What a sampler's result remembers of its run.

    Args:
        result: of a call with ``history="candidates"``, or another history.
        rows: which rows of the batch; None for all.

    Raises:
        ValueError: the call kept no history, or there is no such row.
    """
    if result.history is None:
        raise ValueError('history: the run kept none; call the sampler with history="candidates"')
    batch = len(result.tokens)
    chosen = range(batch) if rows is None else [_checks.integer("rows", row, minimum=0) for row in rows]
    for row in chosen:
        if row >= batch:
            raise ValueError(f"rows: expected numbers below {batch}, got {row}")
    events = [_on_host(event) for event in result.history]
    start = result.history[0].before if result.history else result.tokens
    tokens, fixed, real = (each.cpu() for each in (start, result.state.fixed, result.state.attention_mask))
    seeds = result.seed.tolist()
    kept = []
    for row in chosen:
        columns = real[row].nonzero().flatten()
        began = tokens[row, columns].tolist()
        frames = _frames(events, row, columns, began, result.mask_id)
        kept.append(Row(row, began, fixed[row, columns].tolist(), frames, seeds[row]))
    return Run(result.method, result.mask_id, result.stopped, kept)


def _on_host(event: StepEvent) -> dict[str, Any]:
    names = ("step", "live", "before", "tokens", "committed", "remasked", "corrected", "nfe", "rescored")
    values: dict[str, Any] = {name: getattr(event, name).cpu() for name in names}
    values["scores"] = {name: score.float().cpu() for name, score in event.scores.items()}
    values["candidates"] = None if event.candidates is None else [part.cpu() for part in event.candidates]
    return values


def _frames(
    events: Sequence[Mapping[str, Any]], row: int, columns: Tensor, began: list[int], mask_id: int
) -> list[Frame]:
    """The steps a row made."""
    stood = {place: token for place, token in enumerate(began) if token != mask_id}  # what was there last
    frames = []
    for event in events:
        if not event["live"][row]:
            continue
        before, after, committed, remasked, corrected = (
            event[name][row, columns].tolist() for name in ("before", "tokens", "committed", "remasked", "corrected")
        )
        changes = []
        for place, token in enumerate(after):
            if not (before[place] != token or committed[place] or remasked[place] or corrected[place]):
                continue
            if remasked[place] and token == mask_id:
                kind = "masked"
            elif corrected[place]:
                kind = "rewritten"
            elif committed[place]:
                kind = "filled" if place not in stood else "returned" if stood[place] == token else "mended"
            else:
                kind = "other"
            changes.append((place, token, kind))
            if token != mask_id:
                stood[place] = token
        scores = {name: _numbers(score[row, columns].tolist()) for name, score in sorted(event["scores"].items())}
        scores = {name: score for name, score in scores.items() if any(value is not None for value in score)}
        frames.append(
            Frame(
                step=int(event["step"][row]),
                nfe=int(event["nfe"][row]),
                changes=changes,
                scores=scores,
                candidates=_candidates(event["candidates"], row, columns),
                rescored=bool(event["rescored"][row]),
            )
        )
    return frames


def _numbers(values: list[float]) -> list[float | None]:
    return [round(value, DIGITS) if math.isfinite(value) else None for value in values]


def _candidates(found: Sequence[Tensor] | None, row: int, columns: Tensor) -> dict[int, list[tuple[int, float]]]:
    if found is None:
        return {}
    tokens, logprobs = (part[row, columns] for part in found)
    listed = {}
    for place in (tokens[:, 0] >= 0).nonzero().flatten().tolist():
        pairs = zip(tokens[place].tolist(), logprobs[place].tolist(), strict=True)
        listed[place] = [(token, round(logprob, DIGITS)) for token, logprob in pairs if math.isfinite(logprob)]
    return {place: pairs for place, pairs in listed.items() if pairs}


def _frame_values(frame: Frame) -> dict[str, Any]:
    values: dict[str, Any] = {"step": frame.step, "nfe": frame.nfe, "changes": frame.changes}
    if frame.scores:
        values["scores"] = frame.scores
    if frame.candidates:
        values["candidates"] = [[place, pairs] for place, pairs in frame.candidates.items()]
    if frame.rescored:
        values["rescored"] = 1
    if frame.merged > 1:
        values["merged"] = frame.merged
    return values


def load(path: str | PathLike[str]) -> Run:
    """A run that :meth:`Run.save` wrote.

    Raises:
        OSError: no such file.
        ValueError: it holds something else.
    """
    try:
        values = json.loads(Path(path).read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{path}: expected a run saved as JSON, got {error}") from None
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise ValueError(f"{path}: expected a run that result.save() wrote; it does not say that it is one")
    if values.get("version") != VERSION:
        raise ValueError(f"{path}: expected version {VERSION} of the format, got {values.get('version')!r}")
    try:
        return _read(values)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise ValueError(f"{path}: the run in it is damaged: {type(error).__name__}: {error}") from None


def _read(values: Mapping[str, Any]) -> Run:
    rows = []
    for entry in values["rows"]:
        tokens = [int(token) for token in entry["tokens"]]
        fixed = [bool(each) for each in entry["fixed"]]
        frames = [_read_frame(frame, len(tokens)) for frame in entry["steps"]]
        if len(fixed) != len(tokens):
            raise ValueError(f"expected {len(tokens)} entries of fixed, got {len(fixed)}")
        rows.append(Row(int(entry["row"]), tokens, fixed, frames, int(entry["seed"])))
    texts = values["texts"]
    if texts is not None:
        texts = {int(token): str(text) for token, text in texts.items()}
    return Run(str(values["method"]), int(values["mask_id"]), str(values["stopped"]), rows, texts)


def _read_frame(values: Mapping[str, Any], length: int) -> Frame:
    places = range(length)
    changes = [(int(place), int(token), str(kind)) for place, token, kind in values["changes"]]
    scores = {str(name): [_score(value) for value in score] for name, score in values.get("scores", {}).items()}
    candidates = {
        int(place): [(int(token), float(logprob)) for token, logprob in pairs]
        for place, pairs in values.get("candidates", ())
    }
    _within("changes", (place for place, _, _ in changes), places)
    _within("candidates", candidates, places)
    for name, score in scores.items():
        if len(score) != length:
            raise ValueError(f"expected {length} numbers of {name}, got {len(score)}")
    for _, _, kind in changes:
        if kind not in KINDS:
            raise ValueError(f"expected changes of the kinds {KINDS}, got {kind!r}")
    rescored, merged = bool(values.get("rescored", 0)), int(values.get("merged", 1))
    return Frame(int(values["step"]), int(values["nfe"]), changes, scores, candidates, rescored, merged)


def _score(value: Any) -> float | None:
    if value is None:
        return None
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"expected finite scores, got {number}")
    return number


def _within(name: str, found: Iterable[int], places: Collection[int]) -> None:
    for place in found:
        if place not in places:
            raise ValueError(f"{name}: position {place} of a row of {len(places)}")
