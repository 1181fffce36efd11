"""What the benchmarks measure with, a form for each kind of device: time, peak memory, and the floor of moving bytes.

- On the CPU time is the wall clock's, and memory the system's own count of resident pages.
- On CUDA time is the device's: events before and after each call, on the current stream, the second-level cache
  overwritten in between. While the device overwrites it the host queues the call, so a launch's own time shows only
  where a call has more of them than the device has work. Memory is what torch's allocator gave out.
"""

from __future__ import annotations

import ctypes
import gc
import platform
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

Run = Callable[[], object]


class CpuTimer:
    device = torch.device("cpu")

    def name(self) -> str:
        found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
        return f"{found[1] if found else platform.processor()}, {torch.get_num_threads()} threads"

    def seconds(self, run: Run, calls: int) -> float:
        """What `calls` calls take together."""
        start = time.perf_counter()
        for _ in range(calls):
            run()
        return time.perf_counter() - start

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
        self._overwritten = torch.empty(2 * cache, dtype=torch.int8, device=device)

    def name(self) -> str:
        return str(self._cuda.get_device_name(self.device))

    def seconds(self, run: Run, calls: int) -> float:
        events = [[self._cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(calls)]
        for start, end in events:
            self._overwritten.zero_()
            start.record()
            run()
            end.record()
        self._cuda.synchronize()
        return sum(start.elapsed_time(end) for start, end in events) / 1e3

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
