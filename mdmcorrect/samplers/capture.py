"""CUDA graphs of whole runs of fixed steps: recorded once for each kind of call, replayed on inputs copied in.

A recorded run reads and writes where it did when it was recorded. So a call copies its tensors into buffers of the
graph's own, replays, and returns copies of what the run wrote.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor, nn

from .. import _constants
from .._kernels import preload
from ..model import layers, model_name
from .footprint import Footprint, Seen, footprint
from .state import State

logger = logging.getLogger(__name__)

MOST_GRAPHS = 4
WARM_UPS = 3  # libraries set themselves up in their first calls, some in their second
WARM_UP_STEPS = 2  # a step is the same operations whichever it is

Run = Callable[..., State]

_recording = threading.Lock()  # torch records one graph at a time in a process


@dataclass(frozen=True, eq=False)
class Graph:
    """A recorded run.

    Attributes:
        key: what kind of call it is for.
        seen: what of the model's footprint it was recorded with.
        own: what in the footprint changed while the model was recorded: its own notes, which say nothing.
        held: all that must not be let go: the model's parts and memory, and the engine.
        graph: a ``torch.cuda.CUDAGraph``.
        inputs: by the name of an argument, where the run reads it.
        result: where it writes.
    """

    key: Hashable
    seen: Seen
    own: frozenset[tuple[int, Hashable]]
    held: tuple[object, ...]
    graph: Any
    inputs: dict[str, Tensor]
    result: State

    def serves(self, key: Hashable, now: Footprint) -> bool:
        """Whether a call with this key, of a model that looks like this, would be recorded the same."""
        return self.key == key and self.seen == {name: told for name, told in now.seen.items() if name not in self.own}


class Graphs:
    """The graphs of one sampler and model, at most four: the least recently used goes first.

    Calls wait for each other, in threads by a lock, on streams by an event. A copy, also one by pickle, starts without
    graphs.
    """

    def __init__(self) -> None:
        self._kept: list[Graph] = []  # the most recently used last
        self._lock = threading.RLock()
        self._used: torch.cuda.Event | None = None  # after the last use of any graph's memory

    def __reduce__(self) -> tuple[type[Graphs], tuple[()]]:
        return Graphs, ()

    def __len__(self) -> int:
        return len(self._kept)

    def __call__(
        self,
        prepare: Callable[[], Run],
        given: Mapping[str, Tensor],
        *,
        steps: int,
        settings: Hashable,
        roots: Mapping[str, object],
    ) -> State:
        """The state after a run, from a graph.

        Args:
            prepare: gives ``(*, steps, **given) -> State``, whose tensors belong to this graph alone.
            given: the tensors of this call, by argument; ``tokens`` says on which device the run is.
            steps: of the run.
            settings: what else a graph is recorded for.
            roots: what the run depends on: models, parts, a condition, by name; see :func:`footprint`.

        Raises:
            ValueError: a model that no graph can record, spread over devices.
            RuntimeError: recording failed.
        """
        device = given["tokens"].device
        shapes = tuple((name, tuple(value.shape), value.dtype) for name, value in given.items())
        with self._lock, torch.cuda.device(device), _no_autocast_cache():
            key = (device, steps, shapes, settings, _modes(device))
            now = footprint(roots, device)
            graph = next((graph for graph in self._kept if graph.serves(key, now)), None)
            if graph is None:
                graph = self._recorded(prepare, given, steps, key, roots, now)
            else:
                self._kept.remove(graph)
            self._kept.append(graph)
            return self._replayed(graph, given, device)

    def _recorded(
        self,
        prepare: Callable[[], Run],
        given: Mapping[str, Tensor],
        steps: int,
        key: Hashable,
        roots: Mapping[str, object],
        found: Footprint,
    ) -> Graph:
        device = given["tokens"].device
        check_models(roots, found, device)
        preload(device)
        run, stream = prepare(), torch.cuda.Stream(device)
        current = torch.cuda.current_stream(device)
        stream.wait_stream(current)
        try:
            with torch.cuda.stream(stream):
                for _ in range(WARM_UPS):
                    run(steps=min(steps, WARM_UP_STEPS), **given)
        finally:
            current.wait_stream(stream)
        with torch.inference_mode(False):  # or they could not be written to outside it
            inputs = {name: _buffer(value, device) for name, value in given.items()}
        if self._used is not None:
            self._used.synchronize()  # nothing reads the memory of a graph that goes
        del self._kept[: max(0, len(self._kept) - MOST_GRAPHS + 1)]
        before = footprint(roots, device)  # what the warm-ups made, such as tables, is there to stay
        graph, result = record(lambda: run(steps=steps, **inputs), stream, culprits(roots))
        after = footprint(roots, device)
        names = before.seen.keys() | after.seen.keys()
        own = frozenset(name for name in names if before.seen.get(name) != after.seen.get(name))
        seen = {name: told for name, told in after.seen.items() if name not in own}
        held = (run, *after.held, *after.storages())
        logger.info("recorded a CUDA graph of %d steps for tokens %s", steps, list(given["tokens"].shape))
        return Graph(key, seen, own, held, graph, inputs, result)

    def _replayed(self, graph: Graph, given: Mapping[str, Tensor], device: torch.device) -> State:
        stream = torch.cuda.current_stream(device)
        if self._used is not None:
            stream.wait_event(self._used)
        try:
            for name, buffer in graph.inputs.items():
                buffer.copy_(given[name])
                buffer.record_stream(stream)
            graph.graph.replay()
            return _cloned(graph.result)
        finally:
            self._used = stream.record_event()


def record(run: Callable[[], State], stream: torch.cuda.Stream, culprit: str) -> tuple[Any, State]:
    """A CUDA graph of the run, recorded on ``stream``, and where it writes.

    Raises:
        RuntimeError: something in it cannot be recorded; ``culprit`` is named as the likely cause.
        torch.OutOfMemoryError: as it is.
    """
    graph, failed = torch.cuda.CUDAGraph(), None
    generator = torch.cuda.default_generators[torch.cuda.current_device()]
    before = generator.clone_state()
    try:
        # Ending a recording fails after an error, and then leaves its stream current: the context around it mends that.
        with (
            _recording,
            torch.cuda.stream(stream),
            torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"),
        ):
            try:
                return graph, run()
            except BaseException as error:
                failed = error
                raise
    except BaseException as error:
        if error is not failed:
            _mend(generator, before)
        failed = error if failed is None else failed
    try:
        raise _explained(failed, culprit)
    finally:
        failed = None  # its traceback holds this frame


def _mend(generator: torch.Generator, before: torch.Generator) -> None:
    """Where a recording could not be ended, torch before 2.13 goes on to take its generator for a recorded one."""
    try:
        _draw(generator)
    except RuntimeError:
        generator.graphsafe_set_state(before)
    else:
        generator.set_offset(before.get_offset())


def _draw(generator: torch.Generator) -> None:
    torch.rand((), dtype=torch.float32, device=generator.device, generator=generator)


def _explained(error: BaseException, culprit: str) -> BaseException:
    """What to raise where recording failed."""
    if not isinstance(error, Exception) or _out_of_memory(error):
        return error
    first_line = str(error).partition("\n")[0]
    explained = RuntimeError(
        f"capture: expected a run that a CUDA graph can record, but recording it failed, most likely because {culprit} "
        f"asks the host for a value, copies from the host or draws from a torch.Generator of its own "
        f"({type(error).__name__}: {first_line}); change that or use capture=False"
    )
    explained.__cause__ = error
    return explained


def _out_of_memory(error: Exception) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "out of memory" in str(error) or "ALLOC_FAILED" in str(error)


def check_call(tokens: Tensor) -> None:
    """Refuse what can be told before anything runs.

    Raises:
        ValueError: tokens that are not on a CUDA device, or are not what they seem.
        RuntimeError: inside another graph.
    """
    if torch.compiler.is_compiling():
        raise RuntimeError("capture: expected a call outside torch.compile, got one inside; use capture=False there")
    if not _on_cuda(tokens):
        raise ValueError(f"capture: expected tokens on a CUDA device, got {tokens.device}; use capture=False there")
    with torch.cuda.device(tokens.device):
        if torch.cuda.is_current_stream_capturing():
            raise RuntimeError(
                "capture: expected a call outside a CUDA graph, got one while a graph is recorded; use capture=False "
                "there"
            )
        if _constants.place_of(tokens) is None:
            raise ValueError(
                "capture: expected plain tensors, got traced, transformed or fake ones; use capture=False there"
            )


def check_models(roots: Mapping[str, object], found: Footprint, device: torch.device) -> None:
    """Refuse models that leave the device, or whose weights do not stay where they are.

    Raises:
        ValueError: such a model.
    """
    asked = {id(layer) for name in ("model", "review") for layer in _inward(roots.get(name))}
    host = {torch.device("cpu")} - {device}
    for module in found.modules:
        kind = type(module).__name__
        if any(cls.__module__.startswith("torch.distributed.fsdp") for cls in type(module).__mro__):
            raise ValueError(
                f"model: expected one whose weights stay where they are with capture=True, got FSDP ({kind}), which "
                f"gathers them in every forward; use capture=False"
            )
        if isinstance(module, nn.DataParallel) and len(module.device_ids) > 1:
            raise ValueError(
                f"model: expected one on {device} alone with capture=True, got DataParallel over devices "
                f"{list(module.device_ids)}; give the module in it, or use capture=False"
            )
        devices = {tensor.device for tensor in (*module.parameters(), *module.buffers())} - host
        if devices - {device} and (device in devices or id(module) in asked):
            names = ", ".join(sorted(map(str, devices)))
            raise ValueError(
                f"model: expected one on {device} alone with capture=True, got {kind} on {names}; use capture=False"
            )


def _inward(model: Any) -> Iterator[Any]:
    """A model, and those in the wrappers and adapters around it."""
    seen = set[int]()
    while model is not None and id(model) not in seen:
        for layer in layers(model):
            seen.add(id(layer))
            yield layer
        model = getattr(layer, "model", None)


def culprits(roots: Mapping[str, object]) -> str:
    """What of the caller's own code a run calls, in words."""
    others = [name for name in ("logits_processor", "stop") if roots.get(name) is not None]
    return " or ".join([f"the model {model_name(roots.get('model'))}", *others])


def _on_cuda(tensor: Tensor) -> bool:
    return tensor.is_cuda


def _modes(device: torch.device) -> Hashable:
    """What of torch's modes decides which kernels a forward launches."""
    kind, backends = device.type, torch.backends.cuda
    return (
        torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind),
        torch.get_default_dtype(),
        backends.matmul.fp32_precision,
        torch.backends.cudnn.conv.fp32_precision,
        torch.are_deterministic_algorithms_enabled(),
        backends.flash_sdp_enabled(),
        backends.mem_efficient_sdp_enabled(),
        backends.math_sdp_enabled(),
        backends.cudnn_sdp_enabled(),
    )


@contextmanager
def _no_autocast_cache() -> Iterator[None]:
    """Autocast makes its copies of weights anew: a graph that read kept ones would neither see weights change nor live
    longer than the autocast region, and kept ones made by a graph are empty until it is replayed."""
    before = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)
    try:
        yield
    finally:
        torch.set_autocast_cache_enabled(before)


def _buffer(value: Tensor, device: torch.device) -> Tensor:
    return torch.empty(value.shape, dtype=value.dtype, device=device).copy_(value)


def _cloned(state: State) -> State:
    tensors = {f.name: v.clone() for f in fields(state) if isinstance(v := getattr(state, f.name), Tensor)}
    return replace(state, **tensors, memory={name: value.clone() for name, value in state.memory.items()})
