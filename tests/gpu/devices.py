"""What tests do to a CUDA device. Each has a form for the CPU, where there is nothing to do it to, so that the tests
that use it run there too."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch

from mdmcorrect.selfcheck.cases import Results

CYCLES = 100_000_000  # about 50 ms, far more than it takes to queue a test's work


@contextlib.contextmanager
def busy_stream(device: torch.device) -> Iterator[None]:
    """A stream of its own that has something else to do first; done when this ends."""
    if device.type == "cpu":
        yield
        return
    torch.cuda.synchronize(device)
    with torch.cuda.device(device), torch.cuda.stream(torch.cuda.Stream(device)):
        torch.cuda._sleep(CYCLES)
        yield
        torch.cuda.current_stream().synchronize()


@contextlib.contextmanager
def no_synchronisation(device: torch.device) -> Iterator[None]:
    """Whatever makes the host wait for the device is an error."""
    if device.type == "cpu":
        yield
        return
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.synchronize(device)
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


class Captured:
    """A call captured in a CUDA graph; on the CPU replaying is calling again. `results` stay where they are."""

    def __init__(self, call: Callable[[], Results], device: torch.device) -> None:
        self._call, self._graph = call, None
        if device.type == "cpu":
            self.results = call()
            return
        side = torch.cuda.Stream(device)
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):  # libraries set themselves up at their first calls, which cannot be captured
            call()
            call()
        torch.cuda.current_stream().wait_stream(side)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self.results = call()

    def replay(self) -> Results:
        if self._graph is not None:
            self._graph.replay()
        else:
            for name, value in self._call().items():
                self.results[name].copy_(value)
        return self.results
