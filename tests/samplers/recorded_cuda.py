"""A made-up ``torch.cuda`` whose graphs are tapes of operators on CPU tensors.

A tape does what a CUDA graph does: it keeps the tensors that operators were called with, by their memory, and every
number that Python had then; replaying runs the operators again and writes each result where the first one was. Reading
a value while a tape is made is the error that it is on a device.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import torch
from counting import READS, by_mask
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from mdmcorrect.samplers import capture

READING = "CUDA error: operation not permitted when stream is capturing\nmore lines that nobody wants to read"
ENDING = "CUDA error: operation failed due to a previous error during capture"


class Tape(TorchDispatchMode):
    """The operators that ran while it was entered."""

    def __init__(self) -> None:
        super().__init__()
        self.ran: list[tuple[Any, Any, Any, Any]] = []
        self.broken = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.name().split(".")[0]
        if name in READS or (name in ("aten::index", "aten::index_put_") and by_mask(name, args)):
            self.broken = True
            raise RuntimeError(READING)
        # By memory: a parameter that is given other memory later is still read where it was.
        args, kwargs = tree_map_only(torch.Tensor, torch.Tensor.detach, (args, kwargs or {}))
        result = func(*args, **kwargs)
        self.ran.append((func, args, kwargs, result))
        return result

    def replay(self) -> None:
        with torch.inference_mode():  # whatever mode the tensors were made in
            for func, args, kwargs, before in self.ran:
                read = {_memory(value) for value in tree_leaves((args, kwargs)) if isinstance(value, torch.Tensor)}
                for old, new in zip(tree_leaves(before), tree_leaves(func(*args, **kwargs)), strict=True):
                    if isinstance(old, torch.Tensor) and _memory(old) not in read:
                        old.copy_(new)


def _memory(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


class Stream:
    def __init__(self, cuda: RecordedCuda, name: str) -> None:
        self.cuda, self.name = cuda, name

    def wait_stream(self, other: Stream) -> None:
        self.cuda.log.append(f"{self.name} waits for {other.name}")

    def wait_event(self, event: Event) -> None:
        self.cuda.log.append(f"{self.name} waits for {event.name}")

    def record_event(self) -> Event:
        return Event(self.cuda, self)


class Event:
    def __init__(self, cuda: RecordedCuda, stream: Stream) -> None:
        cuda.events += 1
        self.cuda, self.name = cuda, f"event {cuda.events} of {stream.name}"
        cuda.log.append(f"{stream.name} records {self.name.partition(' of')[0]}")

    def synchronize(self) -> None:
        self.cuda.log.append(f"host waits for {self.name}")


class RecordedCuda:
    """Stands for ``torch.cuda`` where it is installed.

    Attributes:
        log: what was asked of it, in order.
        current: the stream that is current.
        graphs: those that were recorded.
        ending: raised where a recording ends.
        stuck: whether the generator counts as recorded after a recording that could not be ended.
    """

    def __init__(self) -> None:
        self.log: list[str] = []
        self.current = self.main = Stream(self, "main")
        self.streams = self.events = 0
        self.recording: Tape | None = None
        self.recorder = 0  # the thread that records
        self.graphs: list[Graph] = []
        self.ending: Exception | None = None
        self.stuck = True

    def install(self, monkeypatch: Any) -> RecordedCuda:
        for name in ("device", "stream", "graph", "is_current_stream_capturing"):
            monkeypatch.setattr(torch.cuda, name, getattr(self, name))
        monkeypatch.setattr(torch.cuda, "Stream", self.new_stream)
        monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: Graph(self))
        monkeypatch.setattr(torch.cuda, "current_stream", lambda device=None: self.current)
        monkeypatch.setattr(torch.Tensor, "record_stream", lambda tensor, stream: self.log.append("record_stream"))
        monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
        monkeypatch.setattr(torch.cuda, "default_generators", (Generator(self),))
        monkeypatch.setattr(capture, "_draw", Generator.draw)
        monkeypatch.setattr(capture, "_on_cuda", lambda tensor: tensor.device.type == "cpu")
        monkeypatch.setattr(capture, "preload", lambda device: self.log.append(f"preload {device}"))
        return self

    @property
    def replays(self) -> int:
        return self.log.count("replay")

    def new_stream(self, device: Any) -> Stream:
        self.streams += 1
        return Stream(self, f"side {self.streams}")

    def is_current_stream_capturing(self) -> bool:
        return self.recording is not None and self.recorder == threading.get_ident()  # each thread has a current stream

    @contextlib.contextmanager
    def device(self, device: Any) -> Iterator[None]:
        self.log.append(f"device {device}")
        yield

    @contextlib.contextmanager
    def stream(self, stream: Stream) -> Iterator[None]:
        before, self.current = self.current, stream
        try:
            yield
        finally:
            self.current = before

    @contextlib.contextmanager
    def graph(self, graph: Graph, *, stream: Stream, capture_error_mode: str) -> Iterator[None]:
        """As torch's, it leaves its stream current where ending the recording fails."""
        assert capture_error_mode == "thread_local"  # another thread's work is none of this one's
        before, self.current, self.recording = self.current, stream, graph.tape
        self.recorder = threading.get_ident()
        self.log.append(f"recording on {stream.name}")
        try:
            with graph.tape:
                yield
        finally:
            self.recording = None
            self.log.append("recorded")
            ending = RuntimeError(ENDING) if graph.tape.broken else self.ending
            if ending is not None:
                torch.cuda.default_generators[0].recorded = self.stuck
                raise ending
            self.current = before
        self.graphs.append(graph)


class Generator:
    """Torch's own, of the device: its state is a number."""

    def __init__(self, cuda: RecordedCuda, offset: int = 8) -> None:
        self.cuda, self.offset, self.recorded = cuda, offset, False

    def clone_state(self) -> Generator:
        return Generator(self.cuda, self.offset)

    def graphsafe_set_state(self, other: Generator) -> None:
        self.offset, self.recorded = other.offset, other.recorded

    def get_offset(self) -> int:
        return self.offset

    def set_offset(self, offset: int) -> None:
        self.offset = offset

    def draw(self) -> None:
        if self.recorded:
            raise RuntimeError("Offset increment outside graph capture encountered unexpectedly.")
        self.offset += 4


class Graph:
    def __init__(self, cuda: RecordedCuda) -> None:
        self.cuda, self.tape = cuda, Tape()

    def replay(self) -> None:
        self.cuda.log.append("replay")
        self.tape.replay()
