"""What a sampler asks of a model, and the few forms of model it understands.

A model is any callable. In the simplest form it takes tokens ``[B, L]`` and returns logits ``[B, L, V]``. One whose
second parameter is called ``request`` is told everything a step knows (:class:`Request`); the others get
``attention_mask``, ``position_ids`` and ``condition`` as keywords when there is something to pass. The answer is a
tensor of logits, an :class:`Output`, or any object or mapping with ``logits`` (Hugging Face outputs,
:class:`mdmcorrect.heads.QualityOutput`) and, where a method needs it, ``quality``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .schedules import LogLinear


@dataclass(frozen=True)
class Window:
    """Where a row of the batch is, as plain numbers: its block's columns ``[start, stop)``, which block, which step."""

    row: int
    index: int
    step: int
    start: int
    stop: int

    @property
    def columns(self) -> tuple[int, int]:
        return self.start, self.stop


@dataclass(frozen=True)
class Request:
    """What one forward is for. ``b`` rows, those of the batch that need this forward.

    Attributes:
        batch: int64 ``[b]``, which rows of the sampler's batch these are.
        wanted: bool ``[b, L]``, positions whose logits will be read; a model may leave the others undefined.
        time: float64 ``[b]``, noise level: the share of masked tokens, or the t of an ancestral sampler.
        step: int64 ``[b]``, the row's step, from 0.
        position_ids: int64 ``[b, L]``, positions counted from the first real token of the row.
        attention_mask: bool ``[b, L]``, False on padding; None where there is no padding.
        condition: what the caller gave, its tensors with a leading dimension of B cut to these rows.
        needs: names of outputs this method reads besides the logits, such as ``"quality"``.
        correction: which corrector pass of the step this is, from 1; 0 for the predictor.
        mask_id: the mask token.
        fixed: bool ``[b, L]``, positions the sampler never writes: prompts, givens, padding.
        windows: one :class:`Window` per row, for a model with a true attribute ``reads_windows``; else None.
    """

    batch: Tensor
    wanted: Tensor
    time: Tensor
    step: Tensor
    position_ids: Tensor
    attention_mask: Tensor | None = None
    condition: Any = None
    needs: frozenset[str] = frozenset()
    correction: int = 0
    mask_id: int = -1
    fixed: Tensor | None = None
    windows: tuple[Window, ...] | None = None


@dataclass(frozen=True)
class Output:
    """What a model answers.

    Attributes:
        logits: ``[b, L, V]`` in fp32, bf16 or fp16; with ``start``, ``[b, W, V]``.
        quality: ``[b, L]``, the probability in (0, 1) that the token now at a position is right given the others
            (PRISM's g, arXiv 2510.01384).
        hidden: ``[b, L, D]``, passed over.
        start: the answer describes the columns ``[start, start + W)`` only, as of a model that reads a block against a
            cache; None for all.
        uncond_logits, guidance: as ``logits``, without the condition: what is read is ``uncond + (1 + guidance)
            (logits - uncond)``, rounded as the logits' dtype rounds.
        shift: 1 where the logits at a position describe the token after it (Dream); column 0 then reads its own.
        forwards: forwards each row made for this answer, 2 where an unconditional half was computed too.
    """

    logits: Tensor
    quality: Tensor | None = None
    hidden: Tensor | None = None
    start: int | None = None
    uncond_logits: Tensor | None = None
    guidance: float = 0.0
    shift: int = 0
    forwards: int = 1


Model = Callable[[Tensor, Request], Output]


def check_logits(logits: Any, tokens: Tensor, mask_id: int, source: str = "logits") -> None:
    """Raise unless ``logits``, from ``source``, is floating ``[B, L, V]`` over ``tokens [B, L]``, ``mask_id`` in V.

    Raises:
        TypeError: not a tensor, or not of a floating dtype.
        ValueError: another shape, or a ``mask_id`` outside the vocabulary.
    """
    if not isinstance(logits, Tensor):
        raise TypeError(f"{source}: expected a tensor of logits, got {type(logits).__name__}")
    if logits.ndim != 3 or logits.shape[:2] != tokens.shape:
        raise ValueError(
            f"{source}: expected logits [{tokens.shape[0]}, {tokens.shape[1]}, V] for tokens "
            f"{list(tokens.shape)}, got {list(logits.shape)}"
        )
    if not logits.is_floating_point():
        raise TypeError(f"{source}: expected floating logits, got {logits.dtype}")
    if not 0 <= mask_id < logits.shape[-1]:
        raise ValueError(f"mask_id: expected an id within the {logits.shape[-1]} ids of {source}, got {mask_id}")


def as_model(model: Any) -> Model:
    """Any supported form of model as ``(tokens, request) -> Output``.

    Raises:
        TypeError: ``model`` is not callable.
    """
    call = caller(model)
    return lambda tokens, request: read_output(call(tokens, request), model)


def caller(model: Any) -> Callable[[Tensor, Request], Any]:
    """``model`` as ``(tokens, request) -> its own answer``: told of the request what it takes.

    Raises:
        TypeError: ``model`` is not callable.
    """
    if not callable(model):
        raise TypeError(f"model: expected a callable tokens -> logits, got {type(model).__name__}")
    accepts = parameters_of(model)
    return lambda tokens, request: model(tokens, **_arguments(model, accepts, request))


def model_name(model: Any) -> str:
    """How error messages call a model."""
    return getattr(model, "__name__", None) or type(model).__name__


class SigmaDenoiser:
    """A denoiser called as ``net(tokens, sigma)``, such as MDLM's DiT, as a model.

    Args:
        net: takes tokens ``[b, L]`` and ``sigma [b]`` float32, returns logits or any supported output.
        schedule: gives ``sigma(t)``.
        time_conditioned: False passes zeros, as networks trained without time conditioning expect.
    """

    def __init__(self, net: Callable[..., Any], schedule: LogLinear | None = None, *, time_conditioned: bool = True):
        self.net, self.schedule, self.time_conditioned = net, schedule or LogLinear(), time_conditioned

    def __call__(self, tokens: Tensor, request: Request) -> Output:
        sigma = self.schedule.sigma(request.time) if self.time_conditioned else torch.zeros_like(request.time)
        return read_output(self.net(tokens, sigma.float()), self.net)


def parameters_of(model: Any) -> Mapping[str, inspect.Parameter]:
    """The parameters a model takes, by name."""
    try:
        return inspect.signature(model.forward if isinstance(model, nn.Module) else model).parameters
    except (TypeError, ValueError):  # builtins and compiled callables without a signature: tokens only
        return {}


def _arguments(model: Any, accepts: Mapping[str, inspect.Parameter], request: Request) -> dict[str, Any]:
    if "request" in accepts:
        return {"request": request}
    takes_any = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in accepts.values())
    arguments: dict[str, Any] = {}
    for name in ("attention_mask", "condition"):
        value = getattr(request, name)
        if value is None:
            continue
        if not (takes_any or name in accepts):
            raise TypeError(
                f"{name}: was given to the sampler, but the model {model_name(model)} takes neither {name!r} nor "
                f"'request'; add one of these parameters to it"
            )
        arguments[name] = value
    if "position_ids" in accepts and request.attention_mask is not None:
        arguments["position_ids"] = request.position_ids
    return arguments


def read_output(answer: Any, model: Any) -> Output:
    """The answer of ``model``, in any of the supported forms, as an :class:`Output`."""
    if isinstance(answer, Output):
        return answer
    if isinstance(answer, Tensor):
        return Output(logits=answer)
    read = answer.get if isinstance(answer, Mapping) else lambda name: getattr(answer, name, None)
    logits, quality = read("logits"), read("quality")
    if not isinstance(logits, Tensor):
        raise TypeError(
            f"model: expected {model_name(model)} to return logits, an Output, or an object with .logits, "
            f"got {type(answer).__name__}"
        )
    return Output(logits=logits, quality=quality)
