"""CUDA's count_positions, thread by thread, against the float64 reference."""

from __future__ import annotations

import device_ops
import numpy as np
import pytest
from harness import BFloat16, bfloat16, widen

from mdmcorrect import reference
from mdmcorrect.ops.count_positions import RULES

TYPES = {"float32": np.float32, "bfloat16": bfloat16, "float16": np.float16}
INFINITY = np.inf


def check(simt, scores, rule, bound, **options):
    counts, traffic = device_ops.count_positions(simt, scores, rule, bound, **options)
    if "threshold" in rule:  # compared as the scores' type
        bound = widen((bfloat16 if isinstance(scores, BFloat16) else scores.dtype.type)(bound))
    expected = reference.count_positions(widen(scores), rule, bound, **options)
    np.testing.assert_array_equal(counts, expected, err_msg=f"{rule} {bound}")
    return counts, traffic


def confidences(rule, shape, seed=0):
    """Near 1 for thresholds and the factor; entropies for the sums."""
    x = np.random.default_rng(seed).normal(3.0, 3.0, shape)
    p = 1 / (1 + np.exp(-x))
    return 1 - p if rule in ("entropy_bound", "cumulative") else p


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("length", [1, 33, 700, 4097])
def test_lengths_and_dtypes(simt, length, rule, dtype):
    scores = TYPES[dtype](confidences(rule, (3, length), seed=length))
    counts, traffic = check(simt, scores, rule, np.array([0.3, 0.9, length / 3]))
    assert traffic["scores"].bytes_read == scores.nbytes  # each score once
    assert traffic["counts"].bytes_written == 8 * len(scores)
    assert length < 700 or len(set(counts)) > 1


ORDINARY = [0.0, -0.0, 0.25, 0.5, 0.50000006, 0.9, 1.0, 1e-30, np.nan]


def tied(*special):
    """Rows of few different scores, half of them short, and which positions take part."""
    random = np.random.default_rng(0)
    scores = random.choice(np.float32([*ORDINARY, *special]), (6, 150))
    scores[:3, 40:] = np.nan
    return scores, random.random(scores.shape) < 0.7


@pytest.mark.parametrize("rule", RULES)
def test_ties_and_special_values(simt, rule):
    for special in ([], [INFINITY], [-INFINITY], [INFINITY, -INFINITY]):
        scores, eligible = tied(*special)
        bound = np.array([-1.0, 0.0, 1.0, 2.0, 40.25, INFINITY])
        check(simt, scores, rule, bound, eligible=eligible)
        check(simt, scores, rule, bound[::-1].copy(), eligible=eligible, at_least=2)
        check(simt, scores, rule, np.array([0.5, 0.25, np.nan, -INFINITY, 7.0, 0.75]), eligible=eligible)


@pytest.mark.parametrize("rule", RULES)
def test_any_order(any_order, rule):
    scores, eligible = tied()
    check(any_order, scores, rule, np.array([0.5, 1.0, 2.0, 0.5, 1.0, 2.0]), eligible=eligible)


@pytest.mark.parametrize("rule", RULES)
def test_scores_of_both_signs(simt, rule):
    """Sums fall before they rise, and a factor's limit falls where its bound is negative."""
    random = np.random.default_rng(1)
    scores = np.float32(random.integers(-6, 12, (5, 90)) / 4 * [[0.1], [0.5], [1], [8], [1e30]])
    for bound in (-2000.0, -6.0, -1.25, -0.5, 0.0, 0.75, 6.0, 1e31):
        check(simt, scores, rule, bound)


def test_a_sum_that_meets_the_bound(simt):
    entropies = np.float32([[0.5, 0.125, 0.25], [0.25, 0.25, 0.25]])
    for rule, bound, counts in (
        ("entropy_bound", 0.375, [3, 2]),
        ("entropy_bound", 0.374, [2, 2]),
        ("cumulative", 0.375, [2, 1]),
        ("cumulative", 0.5, [2, 2]),
    ):
        assert check(simt, entropies, rule, bound)[0].tolist() == counts


@pytest.mark.parametrize("rule", ["entropy_bound", "cumulative"])
@pytest.mark.parametrize("size", [1e-38, 1e-3, 1e38])
def test_sums_of_any_size(simt, rule, size):
    scores = np.float32(np.random.default_rng(2).random((3, 1000)) * size)
    scores[1, 500:] = 1e-45
    check(simt, scores, rule, np.array([0.5, 100.0, 300.0]) * float(np.float32(size)))


def test_strides(simt):
    base = np.random.default_rng(1).random((6, 120, 2)).astype(np.float32)
    for rule in RULES:
        check(simt, base[::2, 5::3, 1], rule, np.array([0.2, 0.9, 0.7]), at_least=1)


def test_more_rows_than_blocks(simt):
    check(simt, confidences("factor", (2050, 3)).astype(np.float32), "factor", 0.8)


def test_nothing_to_do(simt):
    counts, _ = device_ops.count_positions(simt, np.zeros((0, 5), np.float32), "factor", 1.0)
    assert counts.shape == (0,)
    check(simt, np.full((2, 5), np.nan, np.float32), "cumulative", INFINITY, at_least=2)
