"""How a loss calls a model and reads its answers: the only place that knows logits, hidden states and heads."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import _checks
from ..conditions import take_rows
from .averaging import check_averaged
from .corruption import State
from .judging import Head, Judge, read_quality
from .output_layer import check_output_layer
from .outputs import Forward, call_model
from .reading import Reading


class Said(NamedTuple):
    """What a model said of some tokens: of every position a distribution, a quality logit ``[B, L]``, or both."""

    reading: Reading | None = None
    quality: Tensor | None = None


@dataclass(frozen=True)
class Reader:
    """Calls models and reads their answers.

    Args:
        forward: replaces the call of the model: ``forward(model, tokens, time=, attention_mask=, condition=)``.
        output_layer: the output layer of a model that returns hidden states; logits are then never made where it is a
            weight ``[V, D]``, an ``nn.Linear`` or an ``nn.Embedding``.
        head: ``head(hidden, condition) -> logits``; None takes that of the model (``heads.attach``).
        train_backbone: False leaves the model without gradient; then no term may learn from its tokens.
        keep_mask: leave the mask token its share of every softmax and draw, as PRISM's pre-training and its code for
            LLaDA do; by default its probability is 0.
    """

    forward: Forward | None = None
    output_layer: Any = None
    head: Head | None = None
    train_backbone: bool = True
    keep_mask: bool = False

    def __post_init__(self) -> None:
        _checks.settle(self, train_backbone=_checks.flag, keep_mask=_checks.flag)

    def read(self, output: Any, tokens: Tensor, mask_id: int, name: str = "") -> Reading:
        """Of a model's output; of logits or hidden states alone that errors call ``name``."""
        layer, keep = self.output_layer, self.keep_mask
        if not name:
            return Reading.of_output(output, layer, tokens, mask_id, keep_mask=keep)
        if layer is None:
            return Reading.of_logits(output, tokens, mask_id, keep_mask=keep, name=name)
        return Reading.of_hidden(output, layer, tokens, mask_id, keep_mask=keep, name=name)

    def said(self, output: Any, tokens: Tensor, mask_id: int, reads: frozenset[str], name: str = "") -> Said:
        """What of an output the targets read; a tensor ``[B, L]`` is a quality logit itself."""
        reading = quality = None
        if "tokens" in reads:
            reading = self.read(output, tokens, mask_id, name)
        if "quality" in reads:
            own = isinstance(output, Tensor) and output.ndim == 2
            quality = output if own else read_quality(output, tokens, self.head, self.output_layer)
        return Said(reading, quality)


def repeat_rows(value: Any, rows: int, times: int) -> Any:
    """Each row ``times`` times, neighbours together, of a batch of ``rows``."""
    return value if times == 1 else take_rows(value, rows, lambda own: torch.repeat_interleave(own, times, dim=0))


class Run:
    """The forwards of one batch: the model, how it is read, and what it is told beside the tokens.

    Args:
        reader: how it is read.
        model: as the loss got it.
        reads: what all targets together read, of "tokens" and "quality".
        learns: what of it they send a gradient to; None for all.
        generator: of what sources draw.
        parts: more modules that learn, by the argument's name.
        within: the forwards are in that of a wrapper around all of them, which averages what they learn.
    """

    def __init__(
        self,
        reader: Reader,
        model: Any,
        reads: frozenset[str],
        *,
        learns: frozenset[str] | None = None,
        generator: torch.Generator | None = None,
        parts: dict[str, Any] | None = None,
        within: bool = False,
    ) -> None:
        check_output_layer(model, reader.output_layer)
        self.reader, self.model, self.generator = reader, model, generator
        self.judge: Judge | None = None
        if "quality" in reads:
            logits = "tokens" in (reads if learns is None else learns)
            self.judge = Judge(model, reader.head, train_backbone=reader.train_backbone, train_logits=logits)
            parts = {"head": reader.head, **(parts or {})}
        if not within:
            check_averaged(model=model, output_layer=reader.output_layer, **(parts or {}))

    def answer(self, model: Any, tokens: Tensor, state: State, t: Tensor | None = None, **options: Any) -> Any:
        """A model's output for ``tokens [B * n, L]``, n for each row of the batch."""
        rows, roles = len(state.x0), state.roles
        times = len(tokens) // max(rows, 1)
        return call_model(
            model,
            tokens,
            forward=self.reader.forward,
            time=(state.t if times == 1 else state.times(times)) if t is None else t,
            attention_mask=repeat_rows(roles.attention_mask, rows, times),
            condition=repeat_rows(roles.condition, rows, times),
            **options,
        )

    def read(
        self, tokens: Tensor, state: State, reads: frozenset[str], *, learns: bool, t: Tensor | None = None
    ) -> Said:
        """One forward, and what the targets read of it; without gradient where none of them learns from it."""
        if "quality" not in reads or self.judge is None:
            with nullcontext() if learns else torch.no_grad():
                output = self.answer(self.model, tokens, state, t)
            return Said(self.reader.read(output, tokens, state.mask_id))
        judge, reader = self.judge, self.reader
        # Adapters that only change logits are in the way of who reads the quality alone.
        inner = judge.model if reader.forward is None and "tokens" not in reads else self.model
        states = judge.reads_states and reader.output_layer is None
        output, quality = judge(
            lambda: self.answer(inner, tokens, state, t, states=states), tokens, reader.output_layer
        )
        reading = reader.read(output, tokens, state.mask_id) if "tokens" in reads else None
        return Said(reading, quality)
