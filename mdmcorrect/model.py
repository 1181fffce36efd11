"""What a sampler asks of a model, and the few forms of model it understands.

A model is any callable. In the simplest form it takes tokens ``[B, L]`` and returns logits ``[B, L, V]``. One whose
second parameter is called ``request`` is told everything a step knows (:class:`Request`); the others get
``attention_mask``, ``position_ids`` and ``condition`` as keywords when there is something to pass. What a model takes
is read through wrappers (:mod:`mdmcorrect.wrappers`): DDP, ``torch.compile``, peft, partials, decorators. The answer is
a tensor of logits, an :class:`Output`, or any object or mapping with ``logits`` (Hugging Face outputs,
:class:`mdmcorrect.heads.QualityOutput`) and, where a method needs it, ``quality``.

A mask or a condition that the model does not take is refused. ``position_ids`` are passed where they are not 0, 1, 2,
...: with padding, and when the caller gave positions. A model that takes none counts columns by itself, which changes
nothing for one with relative positions and is wrong for one with absolute positions; :attr:`Request.unpassed` says so.
"""

from __future__ import annotations

import mdmcorrect._requires_torch

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from .schedules import LogLinear
from .wrappers import Accepted, accepted, decides, layers, unwrapped

__all__ = [
    "Caller",
    "Model",
    "Output",
    "Reader",
    "Request",
    "SigmaDenoiser",
    "Window",
    "accepted",
    "as_model",
    "caller",
    "check_logits",
    "combine",
    "counted_positions",
    "guided",
    "layers",
    "listed_windows",
    "model_name",
    "read_output",
    "reads_windows",
    "settled",
    "takes_positions",
    "unwrapped",
]


@dataclass(frozen=True)
class Window:
    """Where a row of the batch is, as plain numbers.

    Attributes:
        row: of the sampler's batch.
        index: which block.
        step: steps made in it.
        start, stop: its columns ``[start, stop)``.
        made: steps the row has made in all.
        copy: which copy of the row this is, where an adapter asks of a row several times in one call.
    """

    row: int
    index: int
    step: int
    start: int
    stop: int
    made: int = 0
    copy: int = 0

    @property
    def columns(self) -> tuple[int, int]:
        return self.start, self.stop

    @property
    def name(self) -> tuple[int, int]:
        """The row and the copy: what an adapter keeps for a row is kept under it."""
        return self.row, self.copy


@dataclass(frozen=True)
class Request:
    """What one forward is for. ``b`` rows, those of the batch that need this forward.

    Attributes:
        batch: int64 ``[b]``, which rows of the sampler's batch these are.
        wanted: bool ``[b, L]``, positions whose logits will be read; a model may leave the others undefined.
        time: float64 ``[b]``, noise level: the share of masked tokens, or the t of an ancestral sampler.
        step: int64 ``[b]``, the row's step, from 0.
        position_ids: int64 ``[b, L]``, positions counted from the first real token of the row, or the caller's.
        attention_mask: bool ``[b, L]``, False on padding; None where there is no padding.
        condition: what the caller gave, its tensors with a leading dimension of B cut to these rows.
        needs: names of outputs this method reads besides the logits, such as ``"quality"``.
        correction: which corrector pass of the step this is, from 1; 0 for the predictor.
        mask_id: the mask token.
        fixed: bool ``[b, L]``, positions the sampler never writes: prompts, givens, padding.
        windows: one :class:`Window` per row, for a model with a true attribute ``reads_windows``; else None.
        placed: whether the caller gave the positions.
        unpassed: names of what was given that the model, inside the adapters around it, does not take:
            ``"position_ids"`` or nothing.
        run: what adapters keep between the forwards of one run, each under itself; a new run starts empty, and so does
            one that goes on from a state.
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
    placed: bool = False
    unpassed: frozenset[str] = frozenset()
    run: dict[Any, Any] = field(default_factory=dict, compare=False, repr=False)

    @property
    def tells_positions(self) -> bool:
        """Whether ``position_ids`` may differ from 0, 1, 2, ..., so that the model must be told."""
        return self.placed or self.attention_mask is not None


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
        forwards: forwards each row made for this answer, 2 where an unconditional half was computed too; one number,
            or one per row.
    """

    logits: Tensor
    quality: Tensor | None = None
    hidden: Tensor | None = None
    start: int | None = None
    uncond_logits: Tensor | None = None
    guidance: float = 0.0
    shift: int = 0
    forwards: int | tuple[int, ...] = 1


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
    if logits.is_meta and not tokens.is_meta:
        raise ValueError(f"{source}: expected logits with values, got them on the meta device, as a model there gives")
    if not 0 <= mask_id < logits.shape[-1]:
        raise ValueError(f"mask_id: expected an id within the {logits.shape[-1]} ids of {source}, got {mask_id}")


def as_model(model: Any, name: str = "model") -> Reader:
    """Any supported form of model as ``(tokens, request) -> Output``.

    Raises:
        TypeError: ``model`` is not callable; ``name`` is what the error calls it.
    """
    check_model(model, name)
    return Reader(model)


def caller(model: Any, name: str = "model") -> Caller:
    """``model`` as ``(tokens, request) -> its own answer``: told of the request what it takes.

    Raises:
        TypeError: ``model`` is not callable; ``name`` is what the error calls it.
    """
    check_model(model, name)
    return Caller(model)


def check_model(model: Any, name: str) -> None:
    """
    Raises:
        TypeError: it cannot be called.
    """
    if isinstance(model, type):
        raise TypeError(f"{name}: expected a callable tokens -> logits, got the class {model.__name__}; make one of it")
    if not callable(model):
        raise TypeError(f"{name}: expected a callable tokens -> logits, got {type(model).__name__}")


def outside_vocabulary(tokens: Tensor, error: IndexError) -> IndexError:
    """An embedding's error, with the ids it was asked for."""
    if not tokens.numel():
        return error
    low, high = int(tokens.min()), int(tokens.max())
    return IndexError(
        f"model: failed on token ids from {low} to {high}; are mask_id and the tokens within its vocabulary? ({error})"
    )


class Caller:
    """A model of any form, called with tokens and what it takes of a request: the one place that decides.

    Args:
        model: any callable.
        asker: to whom, error messages say, the arguments were given.

    Raises:
        TypeError: ``model`` is no callable.
    """

    def __init__(self, model: Any, asker: str = "the sampler") -> None:
        check_model(model, "model")
        self.model, self.asker, self.accepts = model, asker, accepted(model)
        self.first_position = _first_position(model) if "position_ids" in self.accepts.names else 0

    @property
    def reads_windows(self) -> bool:
        """Whether the model, or one inside it, asks for ``request.windows``."""
        return reads_windows(self.model)

    def __call__(self, tokens: Tensor, request: Request, **more: Any) -> Any:
        """The model's answer; ``more`` are arguments beside those of the request."""
        try:
            return self._answer(tokens, request, more)
        except IndexError as error:  # what an embedding says of an id beyond its table
            raise outside_vocabulary(tokens, error) from error

    def _answer(self, tokens: Tensor, request: Request, more: Mapping[str, Any]) -> Any:
        arguments = {**self.arguments(request), **more}
        if self.accepts.anything and "position_ids" in arguments:
            try:
                return self.model(tokens, **arguments)
            except TypeError as error:  # what it hands its keywords to takes no positions, and says so before it runs
                if "unexpected keyword argument 'position_ids'" not in str(error):
                    raise
            self.accepts = Accepted(self.accepts.names | {"attention_mask", "condition"})
            arguments = {**self.arguments(request), **more}
        return self.model(tokens, **arguments)

    def arguments(self, request: Request) -> dict[str, Any]:
        """The keyword arguments of a call.

        Raises:
            TypeError: the model takes neither a mask or condition that there is, nor the request.
        """
        if "request" in self.accepts.names:
            return {"request": request}
        arguments: dict[str, Any] = {}
        for name in ("attention_mask", "condition"):
            value = getattr(request, name)
            if value is None:
                continue
            if not self.accepts.takes(name):
                raise TypeError(
                    f"{name}: was given to {self.asker}, but the model {model_name(decides(self.model))} takes neither "
                    f"{name!r} nor 'request'; add one of these parameters to it"
                )
            arguments[name] = value
        if request.tells_positions and self.accepts.takes("position_ids"):
            arguments["position_ids"] = request.position_ids + self.first_position
        return arguments


class Reader(Caller):
    """The same, with the answer as an :class:`Output`."""

    def __call__(self, tokens: Tensor, request: Request, **more: Any) -> Output:
        return read_output(super().__call__(tokens, request, **more), self.model)


def reads_windows(model: Any) -> bool:
    """Whether ``model``, through wrappers, has a true attribute ``reads_windows``."""
    return any(getattr(layer, "reads_windows", False) is True for layer in layers(model))


def takes_positions(model: Any) -> bool:
    """Whether ``position_ids`` reach ``model``, or the one inside the adapters around it."""
    accepts = accepted(model)
    while "request" in accepts.names:  # an adapter, or a model of that form, which sees all there is
        model = getattr(unwrapped(model), "model", None)
        model = model.model if isinstance(model, Caller) else model
        if not callable(model):
            return True
        accepts = accepted(model)
    return accepts.takes("position_ids")


def counted_positions(real: Tensor) -> Tensor:
    """int64 ``[B, L]``: positions counted from each row's first real token, 0 before it. ``real``: bool ``[B, L]``."""
    first = (real.cumsum(1) == 0).sum(1, keepdim=True)  # padding on the left
    return (torch.arange(real.shape[1], device=real.device) - first).clamp(min=0)


def _first_position(model: Any) -> int:
    """What the model calls a row's first position: RoBERTa and its kin count from behind their padding id."""
    inner = unwrapped(model)
    modules = inner.named_modules() if isinstance(inner, nn.Module) else ()
    for name, module in modules:
        if name.endswith("position_embeddings") and getattr(module, "padding_idx", None) is not None:
            return int(module.padding_idx) + 1
    return 0


def gives_hidden_states(model: Any) -> bool:
    """Whether the model, within its wrappers, takes ``output_hidden_states=True``, as Hugging Face models do."""
    taken = accepted(model)
    asked = hasattr(getattr(unwrapped(model), "config", None), "output_hidden_states")
    return "output_hidden_states" in taken.names or (taken.anything and asked)


def model_name(model: Any) -> str:
    """How error messages, which say "model" before it, call a model; with its module if "model" is its name too."""
    name = getattr(model, "__name__", None) or type(model).__name__
    module = getattr(model, "__module__", None)
    return f"{module}.{name}" if name == "model" and module else name


class SigmaDenoiser:
    """A denoiser called as ``net(tokens, sigma)``, such as MDLM's DiT, as a model.

    Args:
        net: takes tokens ``[b, L]`` and ``sigma [b]`` float32, returns logits or any supported output. A mask,
            positions or a condition reach it by name, as any model.
        schedule: gives ``sigma(t)``.
        time_conditioned: False passes zeros, as networks trained without time conditioning expect.
    """

    def __init__(self, net: Callable[..., Any], schedule: LogLinear | None = None, *, time_conditioned: bool = True):
        self.net, self.schedule, self.time_conditioned = net, schedule or LogLinear(), time_conditioned
        self.model, self.__name__ = Caller(net), model_name(net)

    def __call__(self, tokens: Tensor, request: Request) -> Output:
        sigma = self.schedule.sigma(request.time) if self.time_conditioned else torch.zeros_like(request.time)
        return read_output(self.net(tokens, sigma.float(), **self.model.arguments(request)), self.net)


def guided(output: Output) -> Tensor:
    """The logits with guidance, in their own dtype, as the model's columns have them."""
    logits, uncond = output.logits, output.uncond_logits
    if uncond is None:
        return logits
    mixed = uncond + (output.guidance + 1) * (logits - uncond)
    return torch.where(logits == uncond, logits, mixed)  # -inf in both stays, as the kernels have it


def combine(output: Output) -> Tensor:
    """The logits a method reads: guided in their own dtype, then shifted."""
    logits = guided(output)
    return torch.cat([logits[:, :1], logits[:, :-1]], 1) if output.shift else logits


def settled(output: Output) -> Output:
    """The same answer with nothing left to do to its logits."""
    return replace(output, logits=combine(output), uncond_logits=None, guidance=0.0, shift=0)


def listed_windows(request: Request, name: str) -> tuple[Window, ...]:
    """The windows of a request, which the adapter called ``name`` needs.

    Raises:
        ValueError: there are none: a sampler's main model is told of them, nobody else.
    """
    if request.windows is None:
        raise ValueError(f"model: {name} needs the rows' windows, which only a sampler's main model is told")
    return request.windows


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
