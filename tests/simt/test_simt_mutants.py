"""Every barrier of the real kernels is needed: with any one removed, the harness finds a fault.

A detector that misses a removed barrier, or a barrier nothing needs, fails here.
"""

from __future__ import annotations

import re

import attention_cases
import device_attention
import device_ops
import harness
import numpy as np
import pytest
import test_simt_count_positions as count
import test_simt_linear_cross_entropy as loss
import test_simt_remask_step as remask
import test_simt_sampler_step as step
import test_simt_score_quality as quality
import test_simt_score_tokens as score
from harness import Fault, Simt
from kernel_mutants import CUDA, compile_mutant

BARRIER = re.compile(r"^\s*__sync(threads|warp)\(\);")


def barriers(source: str) -> list[int]:
    """Lines of a device source that are a barrier."""
    return [i for i, line in enumerate((CUDA / source).read_text().splitlines()) if BARRIER.match(line)]


def without_line(source: str, line: int) -> str:
    text = (CUDA / source).read_text().splitlines(keepends=True)
    text[line] = "\n"
    return "".join(text)


def run_remask(simt: Simt) -> None:
    """Two rankings one after the other, each with ties at its cut and several bytes of the key; then one pool."""
    random = np.random.default_rng(0)
    tokens = np.where(random.random((1, 300)) < 0.5, remask.MASK, 3)
    scores = {
        name: random.choice(np.float32([0.5, 0.25, 0.50000006]), (1, 300)) for name in ("unmask_score", "keep_score")
    }
    proposals = np.ones_like(tokens)
    remask.check(simt, tokens, proposals, **scores, unmask_count=70, remask_count=70)
    remask.check(simt, tokens, proposals, **scores, keep_count=150)


def run_count(simt: Simt) -> None:
    """Rows one after another in a block, with several bytes of the key and many equal scores at the stop."""
    scores = np.random.default_rng(0).choice(np.float32([0.5, 0.25, 0.50000006]), (2049, 64))
    rows = np.broadcast_to(scores[:1], scores.shape).copy()
    rows[-1] = 3 * scores[1]
    count.check(simt, rows, "cumulative", 10.0)


def run_step(simt: Simt) -> None:
    """A softmax over positions of several warps: two results of the block right after one another."""
    for call in step.fixed_steps(step.DEMANDING["confidence"], 1, 90, 5)[4:6]:
        step.check(simt, *call)


def run_attention(simt: Simt) -> None:
    """Three tiles of keys, the last one masked."""
    device_attention.bidirectional_attention(simt, *attention_cases.heads(1, 150, 64, q_heads=1))


def run_attention_backward(simt: Simt) -> None:
    q, k, v = attention_cases.heads(1, 150, 64, q_heads=1)
    forward = device_attention.bidirectional_attention(simt, q, k, v)
    device_attention.bidirectional_attention_backward(simt, q, None, q, k, v, forward)


def run_score(simt: Simt) -> None:
    """Rows one after another in a block; cuts among ties, counted over several turns; whole rows and pieces."""
    device_ops.score_tokens(simt, score.peaked(1, 1030, 600, "bfloat16"), temperature=1.0)
    device_ops.score_tokens(simt, score.peaked(1, 1030, 600, "bfloat16"), temperature=1.0, noise="dense")
    flat = np.tile(np.float32([0.0, 1.0, 0.5, 0.25]), 1500)[None, None]
    flat[..., 5500:] -= 10  # chunks without anything kept
    options = {"temperature": 1.0, "law": "proposal", "top_k": 2000}
    score.check(simt, flat, top_p=0.9, filter_order="top_p_first", **options)
    score.check(simt, flat[..., :3000], top_p=0.7, **options)


def run_hidden(simt: Simt) -> None:
    """Draws from rows that come in several blocks."""
    device_ops.score_tokens(simt, score.peaked(1, 2, 2000)[0], op="score_hidden", shape=(1, 2), temperature=1.0)


def run_quality(simt: Simt) -> None:
    """Rows one after another in a block, of two sequences, each with several chunks; rows too wide to keep a head."""
    for length, width in ((1100, 1040), (1, 20_000)):
        hidden, options = quality.case("sequence", 2, length, width, "bfloat16")
        device_ops.score_quality(simt, hidden, **options)


def run_loss(simt: Simt) -> None:
    """A 16-bit gradient in place of the logits, over three chunks."""
    loss.check(simt, *loss.problem(2, 3, 1300, "bfloat16", counted=1.0), "bfloat16")


# Device source -> the kernel and the run that reach all of it.
REACHED_BY = {
    "radix_select.cuh": ("remask_step", run_remask),
    "count_positions.cuh": ("count_positions", run_count),
    "block_team.cuh": ("sampler_step", run_step),
    "linear_cross_entropy.cuh": ("linear_cross_entropy", run_loss),
    "proposal_filter.cuh": ("score_tokens", run_score),
    "score_hidden.cuh": ("score_hidden", run_hidden),
    "score_quality.cuh": ("score_quality", run_quality),
    "conclude_row.cuh": ("score_tokens", run_score),
    "score_tokens.cuh": ("score_tokens", run_score),
    "attention_keys.cuh": ("bidirectional_attention", run_attention),
    "bidirectional_attention.cuh": ("bidirectional_attention", run_attention),
    "bidirectional_attention_backward.cuh": ("bidirectional_attention_backward", run_attention_backward),
    "mma_tiles.cuh": ("bidirectional_attention", run_attention),
}


def test_every_source_with_a_barrier_is_listed():
    assert {path.name for path in CUDA.glob("*.cuh") if barriers(path.name)} == REACHED_BY.keys()


@pytest.mark.slow
@pytest.mark.parametrize(("source", "line"), [(source, line) for source in REACHED_BY for line in barriers(source)])
def test_a_removed_barrier_is_found(library, source, line, tmp_path):
    kernel, run = REACHED_BY[source]
    mutant = compile_mutant(source, without_line(source, line), kernel, tmp_path)
    assert any(faults(run, Simt(mutant, order)) for order in harness.ORDERS), (
        f"{source}:{line + 1} is a barrier that nothing needs, or the harness misses that it is gone"
    )


def faults(run, simt: Simt) -> bool:
    try:
        run(simt)
    except Fault:
        return True
    return False
