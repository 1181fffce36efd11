"""How the benchmarks measure: contenders in turn, A B C A B C ..., and ratios taken within a turn.

Machines are noisy, so a ratio of two medians that were measured minutes apart says little. `versus` times our operator,
a floor (the least work that touches the same bytes) and its peers (what a user has today) in every round, and reports
the median over rounds of the ratio within a round. A case's results become a line of JSON in the file that `--measured`
names as soon as it ends, so that a run that is interrupted leaves what it has measured; `mdmcorrect bench` makes its
table from them. With `--smoke` everything but what takes long to compile runs once, untimed.

`--device` says where; benchmarks/timers.py how time and memory are measured there.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from timers import CpuTimer, CudaTimer, timer_for

SECONDS_PER_SAMPLE = 0.004  # one timing covers at least this, so that the clock's own noise is small
ROUNDS, FEWEST_ROUNDS = 15, 5


def pytest_addoption(parser):
    parser.addoption("--device", type=torch.device, default=torch.device("cpu"), help="where the benchmarks run")
    parser.addoption("--smoke", action="store_true", help="run every case once, untimed")
    parser.addoption("--measured", type=Path, metavar="FILE", help="append a line of JSON for every case")
    parser.addoption(
        "--seconds-per-case", type=float, default=15.0, help="from which on a case makes do with fewer rounds"
    )


@pytest.fixture(scope="session")
def timer(request) -> CpuTimer | CudaTimer:
    return timer_for(request.config.getoption("--device"))


@pytest.fixture
def device(timer) -> torch.device:
    """Where a benchmark makes its tensors and generators."""
    return timer.device


@pytest.fixture
def timed(request) -> bool:
    """Whether times are taken, or cases only have to run."""
    return not request.config.getoption("--smoke")


@pytest.fixture
def sized(timed):
    """`sized(full, smoke)`: the first where times are taken, the second where cases only have to run."""
    return lambda full, smoke: full if timed else smoke


@pytest.fixture
def measured(request) -> Iterator[dict[str, Any]]:
    """What is known of a case, written down when it ends."""
    found: dict[str, Any] = {}
    yield found
    path = request.config.getoption("--measured")
    if path is not None and found:
        with path.open("a") as file:
            file.write(json.dumps({"name": request.node.name, **found}) + "\n")


def calls_per_sample(timer: CpuTimer | CudaTimer, run: Callable[[], object]) -> int:
    """How many calls make a sample long enough; the calls it takes to find out also warm up caches and compilers."""
    run()
    calls = 1
    while True:
        elapsed = max(timer.sample(run, calls)[:2])  # on a device a small kernel's host time is the longer one
        if elapsed >= SECONDS_PER_SAMPLE:
            return calls
        calls = max(2 * calls, int(calls * SECONDS_PER_SAMPLE / max(elapsed, 1e-9)))


@pytest.fixture
def versus(request, measured, timed, timer):
    """`versus(ours, floor=..., peers={"eager torch": ...}, bytes_moved=...)`; see the module's docstring.

    `bytes_moved`, `flops`: what a call must move and compute, for a rate. `memory=True`: contenders return the tensors
    they leave behind, and their peak beyond those is reported; on CUDA, where that costs little, it always is.
    """
    seconds_per_case = request.config.getoption("--seconds-per-case")

    def measure(
        ours: Callable[[], object],
        *,
        floor: Callable[[], object],
        peers: dict[str, Callable[[], object]],
        bytes_moved: int | None = None,
        flops: float | None = None,
        memory: bool = False,
    ) -> None:
        contenders = {"ours": ours, "floor": floor, **peers}
        if not timed:
            for name, run in contenders.items():
                if name != "torch.compile":
                    timer.sample(run, 1)
            return
        calls = {name: calls_per_sample(timer, run) for name, run in contenders.items()}
        rounds: list[dict[str, float]] = []
        host: dict[str, list[float]] = {name: [] for name in contenders}
        queued = dict.fromkeys(contenders, True)
        start = time.perf_counter()
        while len(rounds) < FEWEST_ROUNDS or (len(rounds) < ROUNDS and time.perf_counter() - start < seconds_per_case):
            taken = {name: timer.sample(run, calls[name]) for name, run in contenders.items()}
            rounds.append({name: sample.seconds / calls[name] for name, sample in taken.items()})
            for name, sample in taken.items():
                host[name].append(sample.host_seconds / calls[name])
                queued[name] &= sample.queued
        median = {name: statistics.median(r[name] for r in rounds) for name in contenders}
        ratio = {name: statistics.median(r[name] / r["ours"] for r in rounds) for name in contenders if name != "ours"}
        measured.update(
            device=timer.name(),
            seconds=median,
            times_the_floor=1.0 / ratio.pop("floor"),
            speedup_over=ratio,
            rounds=len(rounds),
        )
        if timer.device.type == "cuda":
            measured["host_seconds"] = {name: statistics.median(values) for name, values in host.items()}
            measured["waits"] = [name for name, was in queued.items() if not was]
        if bytes_moved is not None:
            measured["gigabytes_per_second"] = bytes_moved / median["ours"] / 1e9
        if flops is not None:
            measured["gigaflops_per_second"] = flops / median["ours"] / 1e9
        if memory or timer.device.type == "cuda":
            measured["peak_bytes"] = {
                name: timer.peak_bytes(run) for name, run in contenders.items() if name != "floor"
            }

    return measure
