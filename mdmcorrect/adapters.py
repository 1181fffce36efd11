"""Models around models: what a method needs of a model that the model itself does not offer.

Each adapter is a model in the sense of :mod:`mdmcorrect.model`, and takes one in any form that a sampler takes, an
adapter among them. What one keeps between forwards it keeps in ``request.run``, for that run alone, so an adapter may
serve many runs, one after the other or at once. A run that goes on from a state starts with nothing kept.
"""

from __future__ import annotations

import mdmcorrect._requires_torch

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from . import _checks, ops
from ._tables import device_table
from .caches import DualCache, PrefixCache
from .model import (
    Caller,
    Output,
    Request,
    Window,
    as_model,
    caller,
    guided,
    listed_windows,
    model_name,
    read_output,
    settled,
)
from .stability import Stability

__all__ = [
    "Combined",
    "ConditionGuided",
    "DualCache",
    "Guided",
    "PrefixCache",
    "RightShifted",
    "ShadowBlock",
    "Stability",
    "Steered",
]


class RightShifted:
    """A model whose logits at a position describe the token after it, as those made from autoregressive ones (Dream).

    Args:
        model: a model; its logits at column j - 1 are read for column j, those at column 0 for column 0 too.
    """

    def __init__(self, model: Any) -> None:
        self.model, self.__name__ = as_model(model), model_name(model)
        self.reads_windows = self.model.reads_windows

    def __call__(self, tokens: Tensor, request: Request) -> Output:
        output = self.model(tokens, request)
        return replace(settled(output) if output.shift else output, shift=1)


class Guided:
    """Classifier-free guidance (arXiv 2502.09992, appendix): ``uncond + (1 + scale) (cond - uncond)``.

    The unconditional half sees what the sampler never writes (prompt, givens, padding) as masks. Both halves go through
    the model in one call of twice the rows, which counts as two forwards per row.

    Args:
        model: a model.
        scale: LLaDA's ``cfg_scale``; 0 is no guidance.
        keep: ids that the unconditional half keeps where they are given, such as a chat template's.
        refresh: the unconditional half is computed in every ``refresh``-th step of a row and kept in between, at the
            price of holding its logits ``[B, L, V]``; 1 computes it in every step and holds nothing.
    """

    def __init__(self, model: Any, scale: float, *, keep: Sequence[int] = (), refresh: int = 1) -> None:
        refresh = _checks.integer("refresh", refresh, minimum=1)
        self.model, self.__name__ = as_model(model), model_name(model)
        self.scale, self.keep, self.refresh = _checks.number("scale", scale), _checks.token_ids("keep", keep), refresh
        self.reads_windows = refresh > 1 or self.model.reads_windows

    def __call__(self, tokens: Tensor, request: Request) -> Output:
        if self.refresh == 1:
            return self._both(tokens, request)
        windows = listed_windows(request, "Guided with refresh > 1")
        kept: dict[tuple[int, int], _Half] = request.run.setdefault(self, {})
        stale = [n for n, window in enumerate(windows) if self._is_stale(kept.get(window.name), window)]
        output = self._both(tokens, request, stale)
        first = output.start or 0
        if stale:
            assert output.uncond_logits is not None
            for n, logits in zip(stale, output.uncond_logits, strict=True):
                kept[windows[n].name] = _Half(logits, first, windows[n])
        width = output.logits.shape[1]
        uncond = torch.stack([kept[window.name].columns(first, width) for window in windows])
        return replace(output, uncond_logits=uncond, guidance=self.scale)

    def _is_stale(self, half: _Half | None, window: Window) -> bool:
        """Whether a row's half is of an earlier period of ``refresh`` steps, or of some columns of another block."""
        if half is None or half.window.made // self.refresh != window.made // self.refresh:
            return True
        return half.first > 0 and half.window.index != window.index

    def _both(self, tokens: Tensor, request: Request, rows: list[int] | None = None) -> Output:
        """The conditional answer, and the unconditional one of all rows, or of those listed."""
        if request.fixed is None:
            raise ValueError("fixed: Guided hides what was given, which the request must say; got None")
        hidden = request.fixed
        if self.keep:
            hidden = hidden & ~torch.isin(tokens, device_table(self.keep, tokens.dtype, tokens.device))
        unconditional = torch.where(hidden, request.mask_id, tokens)
        half = len(tokens)
        again = None
        if rows is not None and len(rows) < half:
            again = torch.tensor(rows, dtype=torch.int64, device=tokens.device)
            unconditional = unconditional.index_select(0, again)
        output = self.model(torch.cat([tokens, unconditional]), _twice(request, half, again, rows))
        return _halves(output, half, self.scale, rows)


@dataclass(frozen=True)
class _Half:
    """A row's unconditional logits ``[W, V]`` from column ``first`` on, and where it was when they were computed."""

    logits: Tensor
    first: int
    window: Window

    def columns(self, first: int, width: int) -> Tensor:
        if first < self.first or first + width > self.first + len(self.logits):
            raise ValueError(
                f"model: expected logits of columns {self.first} to {self.first + len(self.logits)}, as when the "
                f"unconditional half was computed, got {first} to {first + width}"
            )
        return self.logits[first - self.first : first - self.first + width]


class ConditionGuided:
    """Guidance between a condition and none (D-CFG, arXiv 2412.10193): ``gamma log p(x|c) + (1 - gamma) log p(x)``.

    That is classifier-free guidance of scale ``gamma - 1``, which is what is computed. Both halves go through the model
    in one call of twice the rows, which counts as two forwards per row.

    Args:
        model: a model that takes a ``condition``, given to the sampler as a tensor with a leading dimension of B.
        gamma: 1 is no guidance.
        null: the condition that stands for none, of the shape of one row's.
        in_corrections: guide corrector passes too; False answers these with the condition alone, as ProSeCo does
            (arXiv 2602.11590).
    """

    def __init__(self, model: Any, gamma: float, null: Tensor, *, in_corrections: bool = False) -> None:
        self.model, self.__name__ = as_model(model), model_name(model)
        if not isinstance(null, Tensor):
            raise TypeError(f"null: expected a tensor like one row of the condition, got {type(null).__name__}")
        self.gamma, self.null = _checks.number("gamma", gamma), null
        self.in_corrections = _checks.flag("in_corrections", in_corrections)
        self.reads_windows = self.model.reads_windows

    def __call__(self, tokens: Tensor, request: Request) -> Output:
        condition = request.condition
        if not isinstance(condition, Tensor) or condition.shape[1:] != self.null.shape:
            got = list(condition.shape) if isinstance(condition, Tensor) else type(condition).__name__
            raise ValueError(f"condition: expected [B, *{list(self.null.shape)}] like null, got {got}")
        if request.correction and not self.in_corrections:
            return self.model(tokens, request)
        half = len(tokens)
        both = torch.cat([condition, self.null.to(condition).expand_as(condition)])
        output = self.model(torch.cat([tokens, tokens]), replace(_twice(request, half), condition=both))
        return _halves(output, half, self.gamma - 1)


class Steered:
    """A model plus another one's logits: ``model + scale * steering``.

    A steering network whose last layer starts at zero leaves the model as it is, and learns what a reward asks of it
    (DDPP, arXiv 2410.08134; :func:`mdmcorrect.losses.ddpp_loss`) while the model stands. Every row makes two forwards.

    Args:
        model: a model, whose quality is kept.
        steering: another, of the same vocabulary.
        scale: factor of the steering's logits.
    """

    def __init__(self, model: Any, steering: Any, scale: float = 1.0) -> None:
        self.model, self.steering = as_model(model), as_model(steering, "steering")
        self.scale = _checks.number("scale", scale)
        self.__name__ = model_name(model)
        self.reads_windows = self.model.reads_windows or self.steering.reads_windows

    def __call__(self, tokens: Tensor, request: Request) -> Output:
        output, other = self.model(tokens, request), self.steering(tokens, request)
        if output.shift != other.shift or output.uncond_logits is not None or other.uncond_logits is not None:
            output, other = settled(output), settled(other)
        if other.logits.shape != output.logits.shape:
            raise ValueError(
                f"steering: expected logits {list(output.logits.shape)} like the model's, "
                f"got {list(other.logits.shape)}"
            )
        return replace(
            output,
            logits=output.logits + self.scale * other.logits.to(output.logits.dtype),
            forwards=_added(output.forwards, other.forwards, len(tokens)),
        )


def _twice(request: Request, half: int, again: Tensor | None = None, rows: list[int] | None = None) -> Request:
    """The request of a call with all rows and then once more all, or those of ``again`` (``rows`` as numbers)."""

    def both(value: Any) -> Any:
        if isinstance(value, Tensor):
            if not value.ndim or len(value) != half:
                return value
            return torch.cat([value, value if again is None else value.index_select(0, again)])
        if isinstance(value, Mapping):
            return {name: both(part) for name, part in value.items()}
        return tuple(both(part) for part in value) if isinstance(value, (list, tuple)) else value

    windows = request.windows
    if windows is not None:
        second = windows if rows is None else tuple(windows[n] for n in rows)
        windows = (*(replace(w, copy=2 * w.copy) for w in windows), *(replace(w, copy=2 * w.copy + 1) for w in second))
    tensors = ("batch", "wanted", "time", "step", "position_ids", "attention_mask", "condition", "fixed")
    return replace(request, **{name: both(getattr(request, name)) for name in tensors}, windows=windows)


def _halves(output: Output, half: int, guidance: float, rows: list[int] | None = None) -> Output:
    """The answer to a batch of which what comes after ``half`` is unconditional: all rows again, or those listed."""
    if output.uncond_logits is not None:  # the model is guided itself
        output = replace(output, logits=guided(output), uncond_logits=None)
    made = [output.forwards] * len(output.logits) if isinstance(output.forwards, int) else list(output.forwards)
    each = made[:half]
    for n, more in zip(range(half) if rows is None else rows, made[half:], strict=True):
        each[n] += more
    return replace(
        output,
        logits=output.logits[:half],
        uncond_logits=output.logits[half:],
        guidance=guidance,
        quality=None if output.quality is None else output.quality[:half],
        hidden=None if output.hidden is None else output.hidden[:half],
        forwards=_number(each),
    )


def _added(one: int | tuple[int, ...], other: int | tuple[int, ...], rows: int) -> int | tuple[int, ...]:
    first, second = ((n,) * rows if isinstance(n, int) else n for n in (one, other))
    return _number([a + b for a, b in zip(first, second, strict=True)]) if rows else 0


def _number(each: Sequence[int]) -> int | tuple[int, ...]:
    """Forwards of each row, as one number where they agree."""
    return each[0] if len(set(each)) == 1 else tuple(each)


class ShadowBlock:
    """A quality for the tokens of a block: their probability where each is hidden from itself (WINO, arXiv 2507.18578).

    A shadow of the block, all masks at the block's positions, is appended to the canvas. Real tokens do not see it; a
    shadow position sees the whole shadow and every real token but the one it stands for. One forward gives both. Other
    tokens have read the hidden one, so from the second layer on some of it leaks into its own judgement.

    Args:
        model: takes ``(tokens, attention_mask=, position_ids=)``, the mask bool ``[b, 1, L + W, L + W]``, true where a
            query (row) sees a key, and returns logits ``[b, L + W, V]`` in any supported form. A condition given to the
            sampler comes as ``condition=``, the rows' own, about the L tokens of the canvas.
    """

    reads_windows = True

    def __init__(self, model: Callable[..., Any]) -> None:
        self.model, self.__name__ = model, model_name(model)
        self._call = Caller(model)
        for name in ("attention_mask", "position_ids"):
            if not self._call.accepts.takes(name):
                raise TypeError(
                    f"model: expected one that takes {name!r}, which tells a shadow from its block, got {self.__name__}"
                )

    def __call__(self, tokens: Tensor, request: Request) -> Output:
        windows = listed_windows(request, "ShadowBlock")
        length, width = tokens.shape[1], max((w.stop - w.start for w in windows), default=0)
        starts = torch.tensor([[w.start] for w in windows], dtype=torch.int64, device=tokens.device)
        stops = torch.tensor([[w.stop] for w in windows], dtype=torch.int64, device=tokens.device)
        stands_for = starts + torch.arange(width, device=tokens.device)  # [b, W]
        exists = stands_for < stops
        stands_for = stands_for.clamp(max=max(length - 1, 0))
        real = torch.ones_like(tokens, dtype=torch.bool) if request.attention_mask is None else request.attention_mask
        sees = self._attention(real, stands_for, exists)
        positions = torch.cat([request.position_ids, request.position_ids.gather(1, stands_for)], 1)
        canvas = torch.cat([tokens, torch.full_like(stands_for, request.mask_id)], 1)
        shadowed = replace(request, attention_mask=sees[:, None], position_ids=positions)
        answer = self.model(canvas, **self._call.arguments(shadowed))
        logits = read_output(answer, self.model).logits
        judged = ops.score_tokens(
            logits[:, length:], tokens=tokens.gather(1, stands_for), rows=exists, want=["current_logprob"]
        )
        assert judged.current_logprob is not None
        # The last takes what is none.
        quality = torch.full((len(tokens), length + 1), torch.nan, dtype=torch.float32, device=tokens.device)
        quality.scatter_(1, torch.where(exists, stands_for, length), judged.current_logprob.exp())
        return Output(logits=logits[:, :length], quality=quality[:, :length])

    @staticmethod
    def _attention(real: Tensor, stands_for: Tensor, exists: Tensor) -> Tensor:
        """bool ``[b, L + W, L + W]``: who sees whom."""
        place = torch.arange(real.shape[1], device=real.device)
        by_real = torch.cat([real, torch.zeros_like(exists)], 1)[:, None]
        hides = stands_for[..., None] != place
        by_shadow = torch.cat([real[:, None] & hides, exists[:, None].expand(-1, exists.shape[1], -1)], 2)
        return torch.cat([by_real.expand(-1, real.shape[1], -1), by_shadow], 1)


class Combined:
    """Logits from the hidden states of an autoregressive and of a masked model, side by side (MARIA, arXiv 2502.06901).

    Args:
        autoregressive: called as any model; gives hidden states ``[b, L, D]``, alone or as ``hidden`` or
            ``last_hidden_state``. That at a position has read the tokens up to it and is moved right, so that a
            position is judged by the tokens before it.
        masked: likewise, not moved.
        decoder: ``[b, L, D_ar + D_masked] -> logits [b, L, V]``, such as a linear layer.
    """

    def __init__(self, autoregressive: Any, masked: Any, decoder: Callable[[Tensor], Tensor]) -> None:
        self.models, self.decoder = (caller(autoregressive, "autoregressive"), caller(masked, "masked")), decoder
        if not callable(decoder):
            raise TypeError(f"decoder: expected a callable [b, L, D] -> logits, got {type(decoder).__name__}")
        self.__name__ = f"{model_name(autoregressive)} with {model_name(masked)}"
        self.reads_windows = any(model.reads_windows for model in self.models)

    def __call__(self, tokens: Tensor, request: Request) -> Output:
        before, both = (self._hidden(model, tokens, request) for model in self.models)
        before = torch.nn.functional.pad(before[:, :-1], (0, 0, 1, 0))
        return Output(logits=self.decoder(torch.cat([before, both], -1)), forwards=2)

    def _hidden(self, model: Callable[..., Any], tokens: Tensor, request: Request) -> Tensor:
        answer = model(tokens, request)
        for name in ("hidden", "last_hidden_state"):
            answer = getattr(answer, name, answer)
        if not isinstance(answer, Tensor):
            raise TypeError(f"model {self.__name__}: expected hidden states [b, L, D], got {type(answer).__name__}")
        return answer
