"""CUDA's select_positions, thread by thread, against the float64 reference."""

from __future__ import annotations

import device_ops
import numpy as np
import pytest
from harness import bfloat16, widen

from mdmcorrect import reference

TYPES = {"float32": np.float32, "bfloat16": bfloat16, "float16": np.float16}


def check(simt, scores, k, **options):
    chosen, traffic = device_ops.select_positions(simt, scores, k, **options)
    if "seed" in options and np.ndim(options["seed"]) == 0:
        options["seed"] = reference.sequence_seeds(int(options["seed"]), len(scores))
    np.testing.assert_array_equal(chosen, reference.select_positions(widen(scores), k, **options))
    return traffic


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("length", [1, 31, 257, 1025, 4096, 4097, 9000])
def test_lengths_and_dtypes(simt, length, dtype):
    random = np.random.default_rng(length)
    scores = TYPES[dtype](random.normal(size=(2, length)))
    for k in ([0, 1], [length // 3, length - 1], [length, length + 5]):
        traffic = check(simt, scores, np.array(k))
        assert traffic["scores"].bytes_read == scores.nbytes  # each score once
        assert traffic["selected"].bytes_written == scores.size


def test_ties_and_special_values(any_order):
    random = np.random.default_rng(0)
    values = np.array([0.0, -0.0, 1.0, np.inf, -np.inf, np.nan, 1e-45, 0.5], np.float32)
    scores = random.choice(values, (3, 700))
    for k in (1, 90, 300, 650):
        for largest in (True, False):
            check(any_order, scores, np.full(3, k), largest=largest, eligible=random.random((3, 700)) < 0.7)


@pytest.mark.parametrize("length", [40, 5000])
def test_gumbel_top_k(any_order, length):
    random = np.random.default_rng(length)
    scores = random.normal(size=(3, length)).astype(np.float32)
    positions = random.permutation(length)
    options = {"temperature": 0.7, "positions": positions, "step": np.array([3, 4, 5]), "call": 6}
    check(any_order, scores, np.array([7, 20, 33]), seed=np.array([5, -6, 7]), **options)
    check(any_order, scores, 9, seed=11, **options)


def test_strides(simt):
    base = np.random.default_rng(1).normal(size=(6, 120, 2)).astype(np.float32)
    check(simt, base[::2, 5::3, 1], np.array([4, 9, 4, 9, 4, 9])[::2])


def test_more_rows_than_blocks(simt):
    random = np.random.default_rng(2)
    for batch, length in ((2050, 3), (298, 4097)):  # each block takes several rows; keys shared, keys in the workspace
        scores = random.normal(size=(batch, length)).astype(np.float32)
        check(simt, scores, random.integers(0, length, batch))


@pytest.mark.parametrize("shape", [(0, 5), (3, 0)])
def test_nothing_to_do(simt, shape):
    chosen, _ = device_ops.select_positions(simt, np.zeros(shape, np.float32), 2)
    assert chosen.shape == shape
