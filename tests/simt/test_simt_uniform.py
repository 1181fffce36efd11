"""CUDA's uniform, thread by thread, against the reference: the same bits."""

from __future__ import annotations

import device_ops
import numpy as np
import pytest

from mdmcorrect import reference
from mdmcorrect.purpose import Purpose


def check(simt, seed, positions, step, dtype):
    values, traffic = device_ops.uniform(simt, seed, positions, step, Purpose.ORDER, 65538, dtype=dtype)
    bits = reference.random_bits(seed[:, None], 0, positions, np.asarray(step)[..., None], Purpose.ORDER, 2)
    np.testing.assert_array_equal(values, reference.uniform(bits, dtype))
    return values, traffic


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("batch", "length"), [(1, 1), (3, 85), (2, 128), (3, 700)])
def test_equals_reference(simt, batch, length, dtype):
    random = np.random.default_rng(length)
    seed = random.integers(-(2**63), 2**63 - 1, batch)
    step = random.integers(0, 2**33, batch)
    for positions in (np.arange(length), random.integers(-5, 2**33, (batch, length))):
        values, traffic = check(simt, seed, positions, step, dtype)
        assert traffic["values"].bytes_written == values.nbytes
    check(simt, seed, np.arange(2 * length)[::2], 3, dtype)


def test_more_numbers_than_threads(simt):
    check(simt, np.arange(900), np.arange(300), 3, np.float32)


@pytest.mark.parametrize("shape", [(0, 5), (3, 0)])
def test_nothing_to_do(simt, shape):
    values, _ = device_ops.uniform(simt, np.arange(shape[0]), np.arange(shape[1]), 0, Purpose.ORDER)
    assert values.shape == shape
