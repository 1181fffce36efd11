"""Models around models: what a method needs of a model that the model itself does not offer.

Each adapter is a model in the sense of :mod:`mdmcorrect.model`, and takes one in any form that a sampler takes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from . import ops
from .model import Output, Request, Window, as_model, caller, model_name, read_output


class RightShifted:
    """A model whose logits at a position describe the token after it, as those made from autoregressive ones (Dream).

    Args:
        model: a model; its logits at column j - 1 are read for column j, those at column 0 for column 0 too.
    """

    def __init__(self, model: Any) -> None:
        self.model, self.__name__ = as_model(model), model_name(model)

    def __call__(self, tokens: Tensor, request: Request) -> Output:
        return replace(self.model(tokens, request), shift=1)


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
        if refresh < 1:
            raise ValueError(f"refresh: expected at least 1, got {refresh}")
        self.model, self.__name__ = as_model(model), model_name(model)
        self.scale, self.keep, self.refresh = scale, tuple(keep), refresh
        self.reads_windows = refresh > 1
        self._kept: dict[int, Tensor] = {}
        self._age: dict[int, int] = {}

    def __call__(self, tokens: Tensor, request: Request) -> Output:
        if self.refresh == 1:
            return self._both(tokens, request)
        assert request.windows is not None
        rows = [window.row for window in request.windows]
        stale = any(self._age.get(row, self.refresh) >= self.refresh or row not in self._kept for row in rows)
        if stale:
            output = self._both(tokens, request)
            assert output.uncond_logits is not None
            self._kept.update(zip(rows, output.uncond_logits, strict=True))
            self._age.update(dict.fromkeys(rows, 1))
            return output
        self._age.update({row: self._age[row] + 1 for row in rows})
        uncond = torch.stack([self._kept[row] for row in rows])
        return replace(self.model(tokens, request), uncond_logits=uncond, guidance=self.scale)

    def _both(self, tokens: Tensor, request: Request) -> Output:
        assert request.fixed is not None
        hidden = request.fixed
        if self.keep:
            kept = torch.tensor(self.keep, device=tokens.device)
            hidden = hidden & ~torch.isin(tokens, kept)
        half = len(tokens)
        output = self.model(
            torch.cat([tokens, torch.where(hidden, request.mask_id, tokens)]), _repeated(request, 2, half)
        )
        return _halves(output, half, self.scale)


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
        self.gamma, self.null, self.in_corrections = gamma, null, in_corrections

    def __call__(self, tokens: Tensor, request: Request) -> Output:
        condition = request.condition
        if not isinstance(condition, Tensor) or condition.shape[1:] != self.null.shape:
            got = list(condition.shape) if isinstance(condition, Tensor) else type(condition).__name__
            raise ValueError(f"condition: expected [B, *{list(self.null.shape)}] like null, got {got}")
        if request.correction and not self.in_corrections:
            return self.model(tokens, request)
        half = len(tokens)
        both = torch.cat([condition, self.null.to(condition).expand_as(condition)])
        output = self.model(torch.cat([tokens, tokens]), replace(_repeated(request, 2, half), condition=both))
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
        self.model, self.steering, self.scale = as_model(model), as_model(steering), scale
        self.__name__ = model_name(model)

    def __call__(self, tokens: Tensor, request: Request) -> Output:
        output, other = self.model(tokens, request), self.steering(tokens, request)
        if other.logits.shape != output.logits.shape:
            raise ValueError(
                f"steering: expected logits {list(output.logits.shape)} like the model's, "
                f"got {list(other.logits.shape)}"
            )
        return replace(
            output,
            logits=output.logits + self.scale * other.logits.to(output.logits.dtype),
            forwards=output.forwards + other.forwards,
        )


class PrefixCache:
    """Keys and values of everything before the block, computed when the block is entered (Fast-dLLM, arXiv 2505.22618).

    A block's first forward reads the whole canvas; the others read from the block's first column on, against the cache.
    All rows must be in the same columns: ``Blocks(length, by="column", together=True)``.

    Args:
        model: takes ``(tokens, use_cache=True)`` and ``(tokens, past_key_values=..., use_cache=True)`` and returns
            ``logits`` and ``past_key_values``: a sequence of layers ``(keys, values)``, positions in the last dimension
            but one, or an object with ``crop(length)``.
    """

    reads_windows = True

    def __init__(self, model: Callable[..., Any]) -> None:
        self.model, self.__name__ = model, model_name(model)
        self._past: Any = None
        self._rows: list[int] = []

    def __call__(self, tokens: Tensor, request: Request) -> Output:
        window, rows = _common_window(request)
        if window.start == window.stop:  # nothing is left to decode: the last forward, which fills what remains
            return read_output(self.model(tokens), self.model)
        if window.step == 0 or self._past is None or not set(rows) <= set(self._rows):
            return self._refill(tokens, window, rows)
        return self._reuse(tokens, window, self._past_of(rows))

    def _refill(self, tokens: Tensor, window: Window, rows: list[int]) -> Output:
        answer = self.model(tokens, use_cache=True)
        self._past, self._rows = _cropped(answer.past_key_values, window.start), rows
        return read_output(answer, self.model)

    def _reuse(self, tokens: Tensor, window: Window, past: Any) -> Output:
        answer = self.model(tokens[:, window.start :], past_key_values=past, use_cache=True)
        return replace(read_output(answer, self.model), start=window.start)

    def _past_of(self, rows: list[int]) -> Any:
        if rows == self._rows:
            return self._past
        index = torch.tensor([self._rows.index(row) for row in rows])
        return [tuple(part.index_select(0, index.to(part.device)) for part in layer) for layer in self._past]


class DualCache(PrefixCache):
    """As :class:`PrefixCache`, with the positions after the block cached too, as they were when it was entered.

    Args:
        model: as there; ``(tokens, past_key_values=..., use_cache=True, replace_position=...)`` replaces the cached
            columns where the bool ``[b, L]`` is true by those of ``tokens``.
    """

    def _refill(self, tokens: Tensor, window: Window, rows: list[int]) -> Output:
        answer = self.model(tokens, use_cache=True)
        self._past, self._rows = answer.past_key_values, rows
        return read_output(answer, self.model)

    def _reuse(self, tokens: Tensor, window: Window, past: Any) -> Output:
        replaced = torch.zeros_like(tokens, dtype=torch.bool)
        replaced[:, window.start : window.stop] = True
        answer = self.model(
            tokens[:, window.start : window.stop], past_key_values=past, use_cache=True, replace_position=replaced
        )
        return replace(read_output(answer, self.model), start=window.start)


def _common_window(request: Request) -> tuple[Window, list[int]]:
    assert request.windows is not None
    first = request.windows[0]
    if any(window.columns != first.columns or window.step != first.step for window in request.windows):
        raise ValueError(
            f"cache: expected all rows in one block, got {sorted({w.columns for w in request.windows})}; "
            "decode with Blocks(length, by='column', together=True) and prompts of one length"
        )
    return first, [window.row for window in request.windows]


def _cropped(past: Any, length: int) -> Any:
    if hasattr(past, "crop"):
        past.crop(length)
        return past
    return [tuple(part[..., :length, :] for part in layer) for layer in past]


def _repeated(request: Request, times: int, rows: int) -> Request:
    """The request of a call with all rows ``times`` times, one copy of the batch after the other."""

    def again(value: Any) -> Any:
        if isinstance(value, Tensor):
            return torch.cat([value] * times) if value.ndim and len(value) == rows else value
        if isinstance(value, dict):
            return {name: again(part) for name, part in value.items()}
        return tuple(again(part) for part in value) if isinstance(value, (list, tuple)) else value

    tensors = ("batch", "wanted", "time", "step", "position_ids", "attention_mask", "condition", "fixed")
    return replace(
        request,
        **{name: again(getattr(request, name)) for name in tensors},
        windows=None if request.windows is None else request.windows * times,
    )


def _halves(output: Output, half: int, guidance: float) -> Output:
    """The answer to a batch of which the second half is unconditional."""
    return replace(
        output,
        logits=output.logits[:half],
        uncond_logits=output.logits[half:],
        guidance=guidance,
        quality=None if output.quality is None else output.quality[:half],
        hidden=None if output.hidden is None else output.hidden[:half],
        forwards=2 * output.forwards,
    )


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

    def __call__(self, tokens: Tensor, request: Request) -> Output:
        assert request.windows is not None
        length, width = tokens.shape[1], max((w.stop - w.start for w in request.windows), default=0)
        starts = torch.tensor([[w.start] for w in request.windows], device=tokens.device)
        stops = torch.tensor([[w.stop] for w in request.windows], device=tokens.device)
        stands_for = starts + torch.arange(width, device=tokens.device)  # [b, W]
        exists = stands_for < stops
        stands_for = stands_for.clamp(max=max(length - 1, 0))
        real = torch.ones_like(tokens, dtype=torch.bool) if request.attention_mask is None else request.attention_mask
        sees = self._attention(real, stands_for, exists)
        positions = torch.cat([request.position_ids, request.position_ids.gather(1, stands_for)], 1)
        canvas = torch.cat([tokens, torch.full_like(stands_for, request.mask_id)], 1)
        given = {} if request.condition is None else {"condition": request.condition}
        answer = self.model(canvas, attention_mask=sees[:, None], position_ids=positions, **given)
        logits = read_output(answer, self.model).logits
        judged = ops.score_tokens(
            logits[:, length:], tokens=tokens.gather(1, stands_for), rows=exists, want=["current_logprob"]
        )
        assert judged.current_logprob is not None
        quality = torch.full((len(tokens), length + 1), torch.nan, device=tokens.device)  # the last takes what is none
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
        self.models, self.decoder = (caller(autoregressive), caller(masked)), decoder
        self.__name__ = f"{model_name(autoregressive)} with {model_name(masked)}"

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
