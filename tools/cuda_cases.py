"""What the CUDA operators move in typical cases, counted by the harness of tests/simt, and the time that predicts.

A case runs at its true shape, so that its launches are the true ones. Where that would take long, only a few of its
rows are asked for, and what they moved stands for all.
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
from harness import Launch, Simt


class Device(NamedTuple):
    """Bandwidth in bytes and dense 16-bit tensor operations per second, as the vendor states them."""

    name: str
    arch: str
    bandwidth: float
    products: float


DEVICES = (
    Device("A100 80 GB", "80", 2.04e12, 312e12),
    Device("H100 SXM", "90", 3.35e12, 989e12),
    Device("B200", "100", 8.0e12, 2250e12),
)


class Counted(NamedTuple):
    """One case after its run."""

    name: str
    elements: int
    total_bytes: float
    operations: float  # on tensor cores
    launches: list[Launch]

    @property
    def bytes_per_element(self) -> float:
        return self.total_bytes / self.elements


def predicted(case: Counted, device: Device) -> str:
    """Microseconds that bytes alone need, or tensor operations if they need more."""
    seconds = max(case.total_bytes / device.bandwidth, case.operations / device.products)
    return f"{1e6 * seconds:.3g} us" if seconds > 2e-6 else "a launch"


def total_bytes(traffic: dict) -> int:
    return sum(moved.bytes_read + moved.bytes_written for moved in traffic.values())


# ------------------------------------------------------------------------------------------------------------ the cases


def logits(rows: int, vocab: int, dtype: str) -> np.ndarray:
    """[1, rows, vocab] of one random row."""
    row = (np.random.default_rng(0).normal(size=vocab) * 3).astype(np.float32)
    stored = harness.bfloat16(row) if dtype == "bfloat16" else row.astype(dtype)
    step = stored.itemsize
    return np.lib.stride_tricks.as_strided(stored, (1, rows, vocab), (0, 0, step), subok=True)


def score_tokens(simt: Simt, rows: int, vocab: int, dtype: str, **options) -> tuple[float, int, float]:
    asked = np.zeros((1, rows), bool)
    asked[0, :2] = True
    _, traffic = device_ops.score_tokens(simt, logits(rows, vocab, dtype), rows=asked, **options)
    return total_bytes(traffic) * rows / 2, rows * vocab, 0


def select_positions(simt: Simt, batch: int, length: int, **options) -> tuple[float, int, float]:
    scores = np.random.default_rng(0).random((batch, length), np.float32)
    _, traffic = device_ops.select_positions(simt, scores, length // 8, **options)
    return total_bytes(traffic), batch * length, 0


def remask_step(simt: Simt, batch: int, length: int) -> tuple[float, int, float]:
    random = np.random.default_rng(0)
    tokens = np.where(random.random((batch, length)) < 0.5, 9, 3)
    scores = {name: random.random((batch, length), np.float32) for name in ("unmask_score", "keep_score")}
    counts = {"unmask_count": length // 8, "remask_count": length // 16}
    _, traffic = device_ops.remask_step(simt, tokens, np.ones_like(tokens), mask_id=9, **scores, **counts)
    return total_bytes(traffic), batch * length, 0


def attention(simt: Simt, batch: int, heads: int, length: int, width: int) -> tuple[float, int, float]:
    """K and V are read once per tile of queries, mostly from L2; one head stands for all. Elements: of q."""
    fused = harness.bfloat16(np.random.default_rng(0).normal(size=(1, length, 3, width))).swapaxes(1, 2)
    _, _, traffic = device_ops.bidirectional_attention(simt, *np.split(fused, 3, 1))
    all_heads = batch * heads
    simt.launches = [one._replace(blocks=one.blocks * all_heads) for one in simt.launches]
    elements = all_heads * length * width
    return total_bytes(traffic) * all_heads, elements, 4.0 * elements * length


CASES: dict[str, Callable[[Simt], tuple[float, int, float]]] = {
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
    "remask_step [16, 1024]": lambda simt: remask_step(simt, 16, 1024),
    "bidirectional_attention, bf16 [8, 32, 1024, 128]": lambda simt: attention(simt, 8, 32, 1024, 128),
}


def run_cases() -> Iterator[Counted]:
    simt = Simt(harness.build())
    for name, run in CASES.items():
        moved, elements, operations = run(simt)
        yield Counted(name, elements, moved, operations, simt.launches)
