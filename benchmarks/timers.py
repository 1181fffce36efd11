"""What the benchmarks measure with, a form for each kind of device: time, peak memory, and the floor of moving bytes.

- On the CPU time is the wall clock's, and memory the system's own count of resident pages.
- On CUDA time is the device's alone, between events before and after each call on the current stream, and the host's
  stands beside it. The device first spins, so that the whole call is queued before it begins: whether it was is asked
  of the first event, and the spin grows until it was. A call that waits for the device cannot be queued; its time has
  the host's in it, and says so. After the spin twice the second-level cache is read, which leaves nothing there of the
  call's inputs, and nothing that is still to be written. Memory is what torch's allocator gave out.
"""

from __future__ import annotations

import ctypes
import gc
import platform
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

Run = Callable[[], object]

CYCLES = 1 << 18  # of the first spin: about 0.15 ms
MOST_CYCLES = 1 << 25  # about 20 ms, longer than any call here takes to queue


class Sample(NamedTuple):
    """What some calls took together."""

    seconds: float
    host_seconds: float
    """Until the last call came back to the host; on the CPU, and of a call that waits for a device, all of it."""
    queued: bool
    """Whether the device began each call after the host had done its part, so that `seconds` is the device's alone."""


class CpuTimer:
    device = torch.device("cpu")

    def name(self) -> str:
        found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
        return f"{found[1] if found else platform.processor()}, {torch.get_num_threads()} threads"

    def sample(self, run: Run, calls: int) -> Sample:
        start = time.perf_counter()
        for _ in range(calls):
            run()
        seconds = time.perf_counter() - start
        return Sample(seconds, seconds, queued=False)

    def peak_bytes(self, run: Run) -> int | None:
        """Bytes a call holds at its peak beyond what was there before and the tensors it returns; None if unknown."""
        try:
            run()  # what a first call loads and keeps is not the call's
            gc.collect()
            ctypes.CDLL(None).malloc_trim(0)
            before = _resident("VmRSS")
            Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
            result = run()
            peak = _resident("VmHWM")
        except (OSError, AttributeError):
            return None
        return max(0, peak - before - _returned(result))

    def move(self, tensor: Tensor) -> Run:
        """A call that moves as many bytes as the tensor has: one plain read."""
        words = tensor.reshape(-1).view(torch.int64) if tensor.nbytes % 8 == 0 else tensor
        return lambda: words.sum()


class CudaTimer:
    """Makes its device the current one. `cuda`: torch.cuda, or what stands in for it."""

    def __init__(self, device: torch.device, cuda: Any = torch.cuda) -> None:
        self.device, self._cuda = device, cuda
        cuda.set_device(device)
        cache = cuda.get_device_properties(device).L2_cache_size
        self._other = torch.ones(2 * cache // 4, dtype=torch.int32, device=device)

    def name(self) -> str:
        return str(self._cuda.get_device_name(self.device))

    def sample(self, run: Run, calls: int) -> Sample:
        cycles, queued, host_seconds = CYCLES, True, 0.0
        events = []
        for _ in range(calls):
            while True:
                start, end = (self._cuda.Event(enable_timing=True) for _ in range(2))
                if queued:
                    self._cuda._sleep(cycles)
                self._fill_cache()
                start.record()
                before = time.perf_counter()
                run()
                took = time.perf_counter() - before
                end.record()
                if not queued or not start.query():
                    break
                self._cuda.synchronize()
                cycles *= 2
                queued = cycles <= MOST_CYCLES
            events.append((start, end))
            host_seconds += took
        self._cuda.synchronize()
        return Sample(sum(start.elapsed_time(end) for start, end in events) / 1e3, host_seconds, queued)

    def _fill_cache(self) -> None:
        self._other.sum()

    def peak_bytes(self, run: Run) -> int | None:
        run()
        gc.collect()
        self._cuda.synchronize()
        self._cuda.reset_peak_memory_stats()
        before = self._cuda.memory_allocated()
        result = run()
        self._cuda.synchronize()
        return max(0, self._cuda.max_memory_allocated() - before - _returned(result))

    def move(self, tensor: Tensor) -> Run:
        """As above: a copy from device to device of half the tensor, which is read once and written once."""
        source = tensor.reshape(-1).view(torch.uint8)[: tensor.nbytes // 2]
        target = torch.empty_like(source)
        return lambda: target.copy_(source)


def timer_for(device: torch.device) -> CpuTimer | CudaTimer:
    if device.type == "cpu":
        return CpuTimer()
    return CudaTimer(device if device.index is not None else torch.device("cuda", torch.cuda.current_device()))


def _returned(result: object) -> int:
    values = [result] if isinstance(result, Tensor) else result if isinstance(result, tuple | list) else []
    return sum(value.nbytes for value in values if isinstance(value, Tensor))


def _resident(field: str) -> int:
    """VmRSS, resident now, or VmHWM, the most since the last reset; in bytes."""
    found = re.search(rf"{field}:\s*(\d+) kB", Path("/proc/self/status").read_text())
    if found is None:
        raise OSError(f"/proc/self/status has no {field}")
    return 1024 * int(found[1])
