"""How the benchmarks measure: contenders in turn, A B C A B C ..., and ratios taken within a turn.

Machines are noisy, so a ratio of two medians that were measured minutes apart says little. `versus` times our operator,
a floor (the least work that touches the same bytes) and its peers (what a user has today) in every round, and reports
the median over rounds of the ratio within a round. Results go into pytest-benchmark's JSON under `extra_info`, from
which `mdmcorrect bench` makes its table. With --benchmark-disable everything but what takes long to compile runs once,
untimed.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import pytest

SECONDS_PER_SAMPLE = 0.004  # one timing covers at least this, so that the clock's own noise is small
ROUNDS = 15


def calls_per_sample(run: Callable[[], object]) -> int:
    """How many calls make a sample long enough; the calls it takes to find out also warm up caches and compilers."""
    run()
    calls = 1
    while True:
        elapsed = sample(run, calls)
        if elapsed >= SECONDS_PER_SAMPLE:
            return calls
        calls = max(2 * calls, int(calls * SECONDS_PER_SAMPLE / max(elapsed, 1e-9)))


def sample(run: Callable[[], object], calls: int) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        run()
    return time.perf_counter() - start


@pytest.fixture
def versus(benchmark):
    """`versus(ours, floor=..., peers={"eager torch": ...}, bytes_moved=...)`; see the module's docstring."""

    def measure(
        ours: Callable[[], object],
        *,
        floor: Callable[[], object],
        peers: dict[str, Callable[[], object]],
        bytes_moved: int,
    ) -> None:
        contenders = {"ours": ours, "floor": floor, **peers}
        if not benchmark.enabled:
            for name, run in contenders.items():
                if name != "torch.compile":
                    run()
            benchmark(ours)
            return
        calls = {name: calls_per_sample(run) for name, run in contenders.items()}
        rounds = [
            {name: sample(run, calls[name]) / calls[name] for name, run in contenders.items()} for _ in range(ROUNDS)
        ]
        median = {name: statistics.median(r[name] for r in rounds) for name in contenders}
        ratio = {name: statistics.median(r[name] / r["ours"] for r in rounds) for name in contenders if name != "ours"}
        benchmark.extra_info.update(
            seconds=median,
            gigabytes_per_second=bytes_moved / median["ours"] / 1e9,
            times_the_floor=1.0 / ratio.pop("floor"),
            speedup_over=ratio,
        )
        benchmark.pedantic(ours, iterations=calls["ours"], rounds=5)

    return measure
