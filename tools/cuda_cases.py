"""What the CUDA operators move in typical cases, counted by the harness of tests/simt, and the time that predicts.

A case runs at its true shape, so that its launches are the true ones. Where that would take long, only two of its rows
are asked for, whose traffic stands for all.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from cuda_code import ROOT

sys.path.insert(0, str(ROOT / "tests" / "simt"))
import device_ops
import harness
from harness import Launch, Simt, Traffic

from mdmcorrect.selfcheck import step_cases


class Device(NamedTuple):
    """bandwidth: bytes per second, as the vendor states it."""

    name: str
    arch: str
    bandwidth: float


DEVICES = (
    Device("A100 80 GB", "80", 2.04e12),
    Device("H100 SXM", "90", 3.35e12),
    Device("B200", "100", 8.0e12),
)


class Counted(NamedTuple):
    """One case after its run."""

    name: str
    elements: int
    total_bytes: float
    launches: list[Launch]

    @property
    def bytes_per_element(self) -> float:
        return self.total_bytes / self.elements


def predicted(case: Counted, device: Device) -> str:
    """What the bytes alone need."""
    seconds = case.total_bytes / device.bandwidth
    return f"{1e6 * seconds:.3g} us" if seconds > 2e-6 else "a launch"


def total_bytes(traffic: dict[str, Traffic]) -> int:
    """In sectors of 32 bytes, as memory moves them: what the lanes of a warp all read counts once."""
    return 32 * sum(moved.read_sectors + moved.write_sectors for moved in traffic.values())


# ------------------------------------------------------------------------------------------------------------ the cases


def logits(rows: int, vocab: int, dtype: str) -> np.ndarray:
    """[1, rows, vocab] of one random row."""
    row = (np.random.default_rng(0).normal(size=vocab) * 3).astype(np.float32)
    stored = harness.bfloat16(row) if dtype == "bfloat16" else row.astype(dtype)
    step = stored.itemsize
    return np.lib.stride_tricks.as_strided(stored, (1, rows, vocab), (0, 0, step), subok=True)


def score_tokens(simt: Simt, rows: int, vocab: int, dtype: str, **options) -> tuple[float, int]:
    """All rows, from what the two that are asked for move; every row's outputs are written anyway."""
    asked = np.arange(rows)[None] < 2
    _, traffic = device_ops.score_tokens(simt, logits(rows, vocab, dtype), rows=asked, **options)
    del traffic["rows"]
    own = {name: traffic.pop(name) for name in ("logits", "workspace")}
    return total_bytes(own) * rows / 2 + total_bytes(traffic), rows * vocab


def select_positions(simt: Simt, batch: int, length: int, **options) -> tuple[float, int]:
    scores = np.random.default_rng(0).random((batch, length), np.float32)
    _, traffic = device_ops.select_positions(simt, scores, length // 8, **options)
    return total_bytes(traffic), batch * length


def count_positions(simt: Simt, batch: int, length: int, rule: str, bound: float) -> tuple[float, int]:
    scores = np.random.default_rng(0).random((batch, length), np.float32)
    _, traffic = device_ops.count_positions(simt, scores, rule, bound)
    return total_bytes(traffic), batch * length


def remask_step(simt: Simt, batch: int, length: int) -> tuple[float, int]:
    random = np.random.default_rng(0)
    tokens = np.where(random.random((batch, length)) < 0.5, 9, 3)
    scores = {name: random.random((batch, length), np.float32) for name in ("unmask_score", "keep_score")}
    counts = {"unmask_count": length // 8, "remask_count": length // 16}
    _, traffic = device_ops.remask_step(simt, tokens, np.ones_like(tokens), mask_id=9, **scores, **counts)
    return total_bytes(traffic), batch * length


def sampler_step(simt: Simt, batch: int, length: int, sampler: str) -> tuple[float, int]:
    asked = step_cases.asked(step_cases.SAMPLERS[sampler], (batch, length), seed=0)
    del asked["expected"]
    _, traffic = device_ops.sampler_step(simt, {name: device_ops.array(value) for name, value in asked.items()})
    return total_bytes(traffic), batch * length


CASES: dict[str, Callable[[Simt], tuple[float, int]]] = {
    "score_tokens, bf16 [64, 126464], greedy": lambda simt: score_tokens(simt, 64, 126464, "bfloat16"),
    "score_tokens, bf16 [64, 126464], a draw": lambda simt: score_tokens(simt, 64, 126464, "bfloat16", temperature=0.7),
    "score_tokens, bf16 [1024, 126464], a draw": lambda simt: score_tokens(
        simt, 1024, 126464, "bfloat16", temperature=0.7
    ),
    "score_tokens, fp32 [1024, 50257], a draw": lambda simt: score_tokens(
        simt, 1024, 50257, "float32", temperature=1.0
    ),
    "score_tokens, bf16 [1024, 126464], top_p 0.9": lambda simt: score_tokens(
        simt, 1024, 126464, "bfloat16", temperature=0.7, top_p=0.9
    ),
    "select_positions [16, 1024]": lambda simt: select_positions(simt, 16, 1024),
    "select_positions [4, 16384]": lambda simt: select_positions(simt, 4, 16384),
    "count_positions [16, 1024], entropy bound": lambda simt: count_positions(simt, 16, 1024, "entropy_bound", 8.0),
    "remask_step [16, 1024]": lambda simt: remask_step(simt, 16, 1024),
    "sampler_step [16, 1024], by confidence": lambda simt: sampler_step(simt, 16, 1024, "even split"),
    "sampler_step [16, 1024], a strict pool": lambda simt: sampler_step(simt, 16, 1024, "strict pool"),
}


def run_cases() -> Iterator[Counted]:
    simt = Simt(harness.build())
    for name, run in CASES.items():
        moved, elements = run(simt)
        yield Counted(name, elements, moved, simt.launches)
