"""How the benchmarks measure: contenders in turn, A B C A B C ..., and ratios taken within a turn.

Machines are noisy, so a ratio of two medians that were measured minutes apart says little. `versus` times our operator,
a floor (the least work that touches the same bytes) and its peers (what a user has today) in every round, and reports
the median over rounds of the ratio within a round. Results go into pytest-benchmark's JSON under `extra_info`, from
which `mdmcorrect bench` makes its table. With --benchmark-disable everything but what takes long to compile runs once,
untimed.

`--device` says where; benchmarks/timers.py how time and memory are measured there.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import pytest
import torch
from timers import CpuTimer, CudaTimer, timer_for

SECONDS_PER_SAMPLE = 0.004  # one timing covers at least this, so that the clock's own noise is small
ROUNDS, FEWEST_ROUNDS = 15, 5
SECONDS_PER_CASE = 15.0  # from which on a case makes do with fewer rounds


def pytest_addoption(parser):
    parser.addoption("--device", type=torch.device, default=torch.device("cpu"), help="where the benchmarks run")


@pytest.fixture(scope="session")
def timer(request) -> CpuTimer | CudaTimer:
    return timer_for(request.config.getoption("--device"))


@pytest.fixture
def device(timer) -> torch.device:
    """Where a benchmark makes its tensors and generators."""
    return timer.device


def calls_per_sample(timer: CpuTimer | CudaTimer, run: Callable[[], object]) -> int:
    """How many calls make a sample long enough; the calls it takes to find out also warm up caches and compilers."""
    run()
    calls = 1
    while True:
        elapsed = timer.seconds(run, calls)
        if elapsed >= SECONDS_PER_SAMPLE:
            return calls
        calls = max(2 * calls, int(calls * SECONDS_PER_SAMPLE / max(elapsed, 1e-9)))


@pytest.fixture
def sized(benchmark):
    """`sized(full, smoke)`: the first where times are taken, the second where cases only have to run."""
    return lambda full, smoke: full if benchmark.enabled else smoke


@pytest.fixture
def versus(benchmark, timer):
    """`versus(ours, floor=..., peers={"eager torch": ...}, bytes_moved=...)`; see the module's docstring.

    `bytes_moved`, `flops`: what a call must move and compute, for a rate. `memory=True`: contenders return the tensors
    they leave behind, and their peak beyond those is reported; on CUDA, where that costs little, it always is.
    """

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
        if not benchmark.enabled:
            for name, run in contenders.items():
                if name != "torch.compile":
                    timer.seconds(run, 1)
            benchmark(ours)
            return
        calls = {name: calls_per_sample(timer, run) for name, run in contenders.items()}
        rounds: list[dict[str, float]] = []
        start = time.perf_counter()
        while len(rounds) < FEWEST_ROUNDS or (len(rounds) < ROUNDS and time.perf_counter() - start < SECONDS_PER_CASE):
            rounds.append({name: timer.seconds(run, calls[name]) / calls[name] for name, run in contenders.items()})
        median = {name: statistics.median(r[name] for r in rounds) for name in contenders}
        ratio = {name: statistics.median(r[name] / r["ours"] for r in rounds) for name in contenders if name != "ours"}
        benchmark.extra_info.update(
            device=timer.name(),
            seconds=median,
            times_the_floor=1.0 / ratio.pop("floor"),
            speedup_over=ratio,
            rounds=len(rounds),
        )
        if bytes_moved is not None:
            benchmark.extra_info["gigabytes_per_second"] = bytes_moved / median["ours"] / 1e9
        if flops is not None:
            benchmark.extra_info["gigaflops_per_second"] = flops / median["ours"] / 1e9
        if memory or timer.device.type == "cuda":
            benchmark.extra_info["peak_bytes"] = {
                name: timer.peak_bytes(run) for name, run in contenders.items() if name != "floor"
            }
        benchmark.pedantic(ours, iterations=calls["ours"], rounds=1)

    return measure
