"""Every kernel once or a few times, on small odd cases: what runs under AddressSanitizer and UBSan, which cost a lot.

`python sanitized_run.py LIBRARY` prints the kernels it launched.
"""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import attention_cases
import device_attention
import device_ops
import numpy as np
import test_simt_correct_pass as passes
import test_simt_count_positions as count
import test_simt_linear_cross_entropy as loss
import test_simt_remask_step as remask
import test_simt_sampler_step as step
import test_simt_score_hidden as hidden
import test_simt_score_quality as quality
import test_simt_score_tokens as score
import test_simt_select_positions as select
import test_simt_uniform as uniform
from harness import Simt, widen

from mdmcorrect import reference


class RecordingSimt(Simt):
    """Remembers the names of all kernels it launched."""

    def __init__(self, library: Path) -> None:
        super().__init__(library)
        self.kernels: set[str] = set()

    def launch(self, op, **fields):
        traffic = super().launch(op, **fields)
        self.kernels |= {one.kernel for one in self.launches}
        return traffic


def run_positions(simt: Simt) -> None:
    """Keys in shared memory and in the workspace."""
    random = np.random.default_rng(0)
    for length, dtype in itertools.product([1, 33, 700, 4100], select.TYPES):
        scores = select.TYPES[dtype](random.normal(size=(2, length)))
        select.check(simt, scores, np.array([length // 2, length]))
        select.check(simt, scores, np.array([1, 3]), temperature=0.5, seed=3)
    for length, (seed, mode) in itertools.product([1, 33, 4100], enumerate(remask.MODES)):
        tokens, proposals, options = remask.case(mode, length, "bfloat16", seed)
        remask.check(simt, tokens, proposals, **options)
    for length, rule in itertools.product([1, 33, 4100], count.RULES):
        count.check(simt, count.confidences(rule, (2, length)).astype(np.float32), rule, np.array([0.3, 1.5]))
    for sampler, length in itertools.product(step.DEMANDING.values(), [1, 33, 4100]):
        for call in step.fixed_steps(sampler, 2, length, 2)[2:4]:
            step.check(simt, *call)
    for sampler, length in itertools.product(passes.SAMPLERS.values(), [1, 33]):
        for call in passes.calls(sampler, 2, length)[:2]:
            passes.check(simt, *call)
    uniform.check(simt, np.array([3, -1]), np.arange(300), 2, np.float32)


def run_scores(simt: Simt) -> None:
    """Rows in pieces and whole ones, at odd places of a vector, with every option that reads something."""
    for dtype in score.TYPES:
        logits = score.peaked(2, 2, 4613, dtype)[..., 3:4612]
        tokens = np.array([[0, 4608], [5, -1]])
        for options in (
            {"temperature": 0.7, "top_k": 40, "top_p": 0.9, "law": "proposal"},
            {"temperature": 1.0, "suppress": (4608, 0), "forbid": (3, 700), "rows": np.array([[1, 0], [1, 1]], bool)},
        ):
            score.check(simt, logits, tokens=tokens, seed=1, **options)
        other = score.peaked(2, 2, 4612, dtype, seed=1)[..., 2:4611]
        device_ops.score_tokens(simt, logits, uncond_logits=other, guidance=1.5, temperature=0.7, noise="dense")
        whole = np.lib.stride_tricks.as_strided(logits, (1, 515, 601), (0, 0, logits.itemsize)).view(type(logits))
        device_ops.score_tokens(simt, whole, rows=np.arange(515)[None] % 100 == 7, temperature=1.0, top_p=0.5)


def run_hidden(simt: Simt) -> None:
    """Blocks that end within a vector, packed rows of odd sizes, heads of more than one chunk."""
    for dtype in hidden.DTYPES:
        logits = hidden.product(6, 2053, dtype)
        hidden.score(simt, logits, (2, 3), temperature=0.7, seed=np.array([5, 6]), tokens=np.array([[0, 2052, 5]] * 2))
        hidden.test_rows_are_gathered(simt, 200, dtype)
        for form in ("position", "logit"):
            states, options = quality.case(form, 2, 3, 1037, dtype)
            quality.check(simt, states, **options)


def run_attention(simt: Simt) -> None:
    """Every width over more than one tile, dtypes in turn; masks, padding, fewer queries than keys."""
    dtypes, maskings = itertools.cycle(attention_cases.TYPES), itertools.cycle(attention_cases.MASKINGS.values())
    for width, dtype, masking in zip(attention_cases.WIDTHS, dtypes, maskings, strict=False):
        q, k, v = attention_cases.heads(3, 67, width, dtype, q_heads=1)
        masking = masking | attention_cases.ragged(67)
        forward = device_attention.bidirectional_attention(simt, q, k, v, **masking)
        assert np.abs(widen(forward.out) - attention_cases.expected(q, k, v, **masking)[0]).max() < 0.03
        if width > 128:
            continue
        grad_lse = np.ones_like(forward.lse)
        grads, _ = device_attention.bidirectional_attention_backward(simt, q, grad_lse, q, k, v, forward, **masking)
        exact = reference.bidirectional_attention_backward(widen(q), grad_lse, widen(q), widen(k), widen(v), **masking)
        for got, want in zip(grads, exact, strict=True):
            assert np.abs(widen(got) - want).max() < 0.1
    q, k, v = attention_cases.heads(1, 70, 32)
    device_attention.bidirectional_attention(simt, q[:, :, :9], k, v, q_positions=np.arange(60, 69))


def run_loss(simt: Simt) -> None:
    """Rows of every alignment, blocks that end within a vector."""
    for dtype, width in itertools.product(loss.TYPES, (5, 16)):
        states, weight, targets = loss.problem(5, width, 1301, dtype, counted=1.0)
        options = {"row_index": np.array([-1, 0, 3, 3, 4]), "suppress": [1300], "bias": np.zeros(1301, np.float32)}
        loss.check(simt, states, weight, targets.clip(max=1299), dtype, 648, **options)


if __name__ == "__main__":
    simt = RecordingSimt(Path(sys.argv[1]))
    for run in (run_positions, run_scores, run_hidden, run_attention, run_loss):
        run(simt)
    print(*sorted(simt.kernels))
