"""Runs the kernels of csrc/cuda on the host, thread by thread, and checks what they do: see README.md beside this."""

from __future__ import annotations

import ctypes
import fcntl
import functools
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import cuda_code
import numpy as np
from params import FLOAT_TYPES, ROOT, FloatGrid, FloatRows, Grid, Heads, MutableHeads, RowInts, params_of

SOURCE = Path(__file__).resolve().parent
RED_ZONE = 4096  # bytes around every buffer that belong to nobody
ORDERS = ("forward", "backward", "shuffled")


class Fault(AssertionError):
    """The harness caught a kernel doing what it may not."""


class BFloat16(np.ndarray):
    """The upper halves of float32 numbers, as uint16."""


def bfloat16(values) -> BFloat16:
    """Rounded to nearest even, as a device's buffer holds them."""
    words = np.ascontiguousarray(values, np.float32).view(np.uint32).astype(np.uint64)
    rounded = (words + 0x7FFF + (words >> 16 & 1)) >> 16
    return np.where(np.isnan(values), 0x7FC0, rounded).astype(np.uint16).view(BFloat16)


def widen(values: np.ndarray) -> np.ndarray:
    """float64 of float32, float16 or BFloat16."""
    if isinstance(values, BFloat16):
        return (np.asarray(values).astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    return values.astype(np.float64)


def float_type(values: np.ndarray) -> int:
    return FLOAT_TYPES["bfloat16" if isinstance(values, BFloat16) else values.dtype.name]


@dataclass(frozen=True)
class Traffic:
    """What the device moved of one buffer; a request is one instruction of one warp, a sector 32 bytes."""

    bytes_read: int
    read_requests: int
    read_sectors: int
    bytes_written: int
    write_requests: int
    write_sectors: int


class Launch(NamedTuple):
    """A kernel as its launcher asked for it; shared: bytes of dynamic shared memory per block."""

    kernel: str
    blocks: int
    threads: int
    shared: int


def check_budget(launch: Launch) -> None:
    """Holds a launch to csrc/cuda/budgets.txt."""
    budget = cuda_code.budget_of(launch.kernel)
    assert budget is not None, cuda_code.missing_budget(launch.kernel)
    assert launch.threads <= budget.threads, f"{launch} has more threads than its budget of {budget.threads}"
    assert launch.shared <= budget.shared, f"{launch} takes more shared memory than its budget of {budget.shared}"


# ---------------------------------------------------------------------------------------------------------- the library


def available() -> bool:
    return shutil.which("cmake") is not None and shutil.which("g++") is not None


@functools.cache
def build(variant: str = "checked") -> Path:
    """Configures and builds the library, incrementally; other processes wait."""
    folder = ROOT / "build" / f"simt-{variant}"
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        configure = ["cmake", f"-S{SOURCE}", f"-B{folder}", f"-DSIMT_VARIANT={variant}", "-DCMAKE_CXX_COMPILER=g++"]
        if shutil.which("ninja") and not (folder / "CMakeCache.txt").exists():
            configure.append("-GNinja")
        for command in (configure, ["cmake", "--build", str(folder), "--parallel", "2"]):
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stdout + done.stderr
            assert "warning:" not in done.stdout + done.stderr, done.stdout + done.stderr
    return folder / "libsimt.so"


class Simt:
    """One loaded library. Launches return the traffic of every buffer by name, or raise Fault."""

    def __init__(self, library: Path, order: str = "forward") -> None:
        self.path = library
        self.library = ctypes.CDLL(str(library))
        self.library.simt_fault.restype = ctypes.c_char_p
        self.library.simt_fault_offset.restype = ctypes.c_uint64
        self.library.simt_launches.restype = ctypes.c_char_p
        self.order = order
        self._names: list[str] = []
        self._memory: list[np.ndarray] = []
        self._outputs: list[tuple[np.ndarray, np.ndarray]] = []
        self.launches: list[Launch] = []  # of the last operator
        self.shared_requests = 0  # of the last launches' warps to shared memory
        self.bank_conflicts = 0  # turns they lost to conflicts on its banks

    def launch(self, op: str, *, layout: str | None = None, **fields) -> dict[str, Traffic]:
        """Calls csrc/cuda/<op>.cu's launcher. Arrays given for outputs are written in place; None is a null pointer.

        layout: the operator whose parameters it takes, if they are not its own.
        """
        structure, outputs = params_of(layout or op)
        size = self.library[f"simt_sizeof_{op}"]
        size.restype = ctypes.c_size_t
        assert ctypes.sizeof(structure) == size(), f"core/{op}_params.h: its layout is not what params.py read"
        self.start()
        params = structure()
        kinds = dict(structure._fields_)
        for name, value in fields.items():
            if value is not None:
                setattr(params, name, self._convert(name, kinds[name], value, name in outputs))
        missing = outputs - fields.keys()
        assert not missing, f"{op}: no array for {sorted(missing)}"
        workspace_bytes = self.library[f"simt_workspace_{op}"]
        workspace_bytes.restype = ctypes.c_int64
        workspace = self.place("workspace", np.empty(workspace_bytes(ctypes.byref(params)), np.uint8), granule=4)
        traffic = self.call(f"simt_{op}", ctypes.byref(params), ctypes.c_void_p(workspace))
        log = self.library.simt_launches().decode().splitlines()
        self.launches = [Launch(name, *map(int, numbers)) for name, *numbers in map(str.split, log)]
        for launch in self.launches:
            check_budget(launch)
        return traffic

    def start(self) -> None:
        self.library.simt_reset()
        self.library.simt_set_order(ORDERS.index(self.order))
        self._names, self._memory, self._outputs = [], [], []

    def call(self, function: str, *arguments) -> dict[str, Traffic]:
        """Any entry of the library over buffers placed before."""
        status = self.library[function](*arguments)
        fault = self.library.simt_fault().decode()
        source_line = self._source_line() if fault else ""
        traffic = {name: self._traffic(i) for i, name in enumerate(self._names)}
        banks = (ctypes.c_uint64 * 2)()
        self.library.simt_banks(banks)
        self.shared_requests, self.bank_conflicts = banks
        self.library.simt_reset()
        if fault:
            raise Fault(fault + source_line)
        assert status == 0, f"{function}: no such kernel in kernels.cpp, or not with such an argument"
        for array, copy in self._outputs:
            array[...] = copy
        return traffic

    def memory_of(self, array: np.ndarray) -> np.ndarray:
        """The device's memory of an array that was given for an output, while an operator runs."""
        return next(memory for output, memory in self._outputs if output is array)

    def written_by_host(self, memory: np.ndarray) -> None:
        """Says that all of a part of `memory_of` has been written, for the launches to come."""
        for row in memory.reshape(-1, memory.shape[-1]) if memory.flags.c_contiguous else memory:
            self.library.simt_written_by_host(ctypes.c_void_p(row.ctypes.data), ctypes.c_size_t(row.nbytes))

    def place(self, name: str, array: np.ndarray, *, granule: int = 0, initialised: bool = False) -> int:
        """A copy of the array in device memory of its own; its address. granule 0: read-only."""
        low, high = np.lib.array_utils.byte_bounds(array) if array.size else (0, 0)
        misalignment = (low - _root(array).ctypes.data) % 256
        memory = np.full(high - low + 2 * RED_ZONE + 1024, 0xA5, np.uint8)
        start = memory.ctypes.data + RED_ZONE
        start += (256 - start) % 256 + misalignment
        ctypes.memmove(start, low, high - low)
        self.library.simt_add_buffer(
            name.encode(), ctypes.c_void_p(start), ctypes.c_size_t(high - low), granule, int(initialised)
        )
        self._names.append(name)
        self._memory.append(memory)
        address = start + array.ctypes.data - low
        if granule and array.size:
            raw = (ctypes.c_uint8 * (high - low)).from_address(start)
            self._outputs.append((array, np.frombuffer(raw, array.dtype).reshape(array.shape)))
        return address

    def _convert(self, name: str, kind, value, output: bool):
        if isinstance(kind, type) and issubclass(kind, ctypes.Array):
            entries = [
                None if one is None else self._convert(f"{name}[{i}]", kind._type_, one, output)
                for i, one in enumerate(value)
            ]
            return kind(*entries)
        if isinstance(value, dict):  # parameters within parameters
            kinds = dict(kind._fields_)
            return kind(**{n: self._convert(n, kinds[n], v, False) for n, v in value.items() if v is not None})
        if not isinstance(value, np.ndarray):
            return value
        if kind is MutableHeads:  # [B, H, S, D] in the memory order of [B, S, H, D], written in pieces of 16 bytes
            rows = value.swapaxes(1, 2)
            assert rows.flags.c_contiguous
            strides = [stride // value.itemsize for stride in value.strides[:3]]
            return MutableHeads(self.place(name, rows, granule=16), *strides)
        if output:
            assert value.flags.c_contiguous
            return self.place(name, value, granule=value.itemsize)
        address = self.place(name, value)
        strides = [stride // value.itemsize for stride in value.strides]
        if kind is FloatGrid:
            return FloatGrid(address, *strides, float_type(value))
        if kind is FloatRows:
            assert value.strides[2] == value.itemsize or value.size == 0
            return FloatRows(address, *strides[:2], float_type(value))
        if kind is Grid:
            return Grid(address, *strides)
        if kind is Heads:
            assert value.strides[3] == value.itemsize
            return Heads(address, *strides[:3])
        if kind is RowInts:
            return RowInts(address, strides[0] if strides else 0)
        return address

    def _traffic(self, index: int) -> Traffic:
        numbers = (ctypes.c_uint64 * 6)()
        self.library.simt_traffic(index, numbers)
        return Traffic(*numbers)

    def _source_line(self) -> str:
        """ " (radix_select.cuh:57)" where binutils can tell."""
        offset, tool = self.library.simt_fault_offset(), shutil.which("addr2line")
        if not offset or tool is None:
            return ""
        # The offset is where the hook returns to: the call before it belongs to the access.
        command = [tool, "-s", "-e", str(self.path), hex(offset - 1)]
        line = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
        return f" ({line.split(' (')[0]})" if line and not line.startswith("?") else ""


def _root(array: np.ndarray) -> np.ndarray:
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array
