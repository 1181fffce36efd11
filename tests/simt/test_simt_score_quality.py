"""CUDA's score_quality, thread by thread, against the float64 reference."""

from __future__ import annotations

import device_ops
import numpy as np
import pytest
from harness import bfloat16, widen

from mdmcorrect import reference

TYPES = {"float32": np.float32, "bfloat16": bfloat16, "float16": np.float16}
FORMS = {
    "layer": {},
    "affine": {"norm_weight": True, "norm_bias": True},
    "rms": {"norm": "rms", "norm_weight": True, "eps": 1e-6},
    "none": {"norm": None},
    "sequence": {"norm_weight": True, "shift": 2, "scale": 2},
    "position": {"norm_bias": True, "shift": 3, "scale": 2},
    "logit": {"shift": 2, "logit": True},
}


def states(batch: int, length: int, size: int, dtype: str, seed: int = 0) -> np.ndarray:
    """Hidden states as models have them: a mean away from 0 and one dimension far larger than the rest."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(batch, length, size)) + 0.7
    x[..., size // 3] += 60 * random.random((batch, length))
    return TYPES[dtype](x.astype(np.float32))


def case(form: str, batch: int, length: int, size: int, dtype: str, seed: int = 0) -> tuple[np.ndarray, dict]:
    random = np.random.default_rng(seed + 1)
    options = dict(FORMS[form], weight=(random.normal(size=size) / np.sqrt(size)).astype(np.float32))
    for name in ("norm_weight", "norm_bias"):
        if name in options:
            options[name] = random.normal(size=size).astype(np.float32)
    for name, other in (("shift", dtype), ("scale", "float16")):  # dtypes of their own
        if name in options:
            shape = (batch, size) if options[name] == 2 else (batch, length, size)
            options[name] = TYPES[other]((random.normal(size=shape) / 4).astype(np.float32))
    if seed % 2:
        options["bias"] = np.array(0.3, np.float32)
    return states(batch, length, size, dtype, seed), options


def expected(hidden, weight, bias=None, *, logit=False, row_index=None, **options) -> np.ndarray:
    batch, length, _ = hidden.shape
    for name in ("shift", "scale"):
        if name in options:
            value = widen(options[name])
            options[name] = value if value.ndim == 3 else value[:, None]
    truth = reference.score_quality(widen(hidden), weight, 0.0 if bias is None else bias, **options)
    truth = np.log(truth / (1 - truth)) if logit else truth
    if row_index is None:
        return truth
    left_out = ~np.isin(np.arange(batch * length).reshape(batch, length), row_index)
    return np.where(left_out, np.nan, truth)


def check(simt, hidden, **options):
    quality, traffic = device_ops.score_quality(simt, hidden, **options)
    truth = expected(hidden, **options)
    if "row_index" in options:  # the binding fills the others with NaN
        quality = np.where(np.isnan(truth), np.nan, quality)
    np.testing.assert_allclose(quality, truth, rtol=4e-6, atol=2e-6)
    return quality, traffic


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("form", FORMS)
def test_equals_reference(simt, form, dtype):
    """Around the vector and the chunk of 512, and rows that share their warps' slices of the head."""
    for seed, size in enumerate((1, 7, 8, 65, 511, 512, 513, 1100)):
        hidden, options = case(form, 2, 3, size, dtype, seed)
        if size > 1 or form not in ("layer", "affine", "sequence", "position", "logit"):
            check(simt, hidden, **options)


@pytest.mark.parametrize("size", [4097, 10240, 10753])
def test_wide_rows(any_order, size):
    """More chunks than warps, and more than slices of the head are kept of."""
    hidden, options = case("sequence", 2, 2, size, "bfloat16")
    check(any_order, hidden, **options)


def test_many_rows(any_order):
    """More rows than blocks: a block takes rows of two sequences one after the other."""
    hidden, options = case("sequence", 3, 700, 1040, "bfloat16")
    check(any_order, hidden, **options)


@pytest.mark.parametrize("dtype", TYPES)
def test_rows_follow_one_another(simt, dtype):
    """Blocks load values of the next row before they have summed this one's, past entries that are no row."""
    hidden, options = case("position", 3, 500, 1100, dtype)
    row_index = np.where(np.arange(4500) % 3 == 0, np.arange(4500) // 3, -1)
    _, traffic = check(simt, hidden, row_index=row_index, **options)
    assert simt.launches[0].blocks <= 1024
    assert traffic["hidden"].bytes_read == hidden.nbytes


@pytest.mark.parametrize("dtype", TYPES)
def test_each_value_is_read_once(simt, dtype):
    for size in (512, 1040, 523):
        hidden, options = case("sequence", 2, 30, size, dtype)
        _, traffic = check(simt, hidden, **options)
        assert traffic["hidden"].bytes_read == hidden.nbytes
        assert traffic["hidden"].read_sectors <= 1.2 * hidden.nbytes / 32
        assert traffic["quality"].bytes_written == 4 * 60


@pytest.mark.parametrize("dtype", TYPES)
def test_any_layout_gives_the_same_bits(simt, dtype):
    """Rows at every place of a vector, with gaps that belong to nobody, and as [L, B, D] in memory."""
    hidden, options = case("affine", 2, 3, 530, dtype)
    plain, _ = device_ops.score_quality(simt, hidden, **options)
    for start in range(1, 10):
        base = TYPES[dtype](np.full((2, 3, 560), np.nan, np.float32))
        base[..., start : start + 530] = hidden
        quality, _ = device_ops.score_quality(simt, base[..., start : start + 530], **options)
        np.testing.assert_array_equal(quality, plain)
    swapped = np.ascontiguousarray(hidden.transpose(1, 0, 2)).view(type(hidden)).transpose(1, 0, 2)
    quality, _ = device_ops.score_quality(simt, swapped, **options)
    np.testing.assert_array_equal(quality, plain)


def test_row_index(simt):
    """In any order, with padding; what is left out is neither read nor written."""
    hidden, options = case("sequence", 3, 40, 600, "bfloat16")
    row_index = np.array([119, -1, 3, 5, 40, 41, 120, 7, -5])
    _, traffic = check(simt, hidden, row_index=row_index, **options)
    assert traffic["hidden"].bytes_read == 6 * 600 * 2
    assert traffic["quality"].bytes_written == 6 * 4
    whole, _ = device_ops.score_quality(simt, hidden, **options)
    some, _ = device_ops.score_quality(simt, hidden, row_index=row_index, **options)
    known = [place for place in row_index if 0 <= place < 120]
    np.testing.assert_array_equal(some.ravel()[known], whole.ravel()[known])


def test_bad_rows(simt):
    hidden, options = case("affine", 1, 4, 700, "float32")
    hidden[0, 1, 3] = np.nan
    hidden[0, 2, 699] = np.inf
    quality, _ = device_ops.score_quality(simt, hidden, **options)
    assert np.isnan(quality).tolist() == [[False, True, True, False]]


@pytest.mark.parametrize("shape", [(0, 3), (2, 0)])
def test_no_rows(simt, shape):
    quality, _ = device_ops.score_quality(simt, np.zeros((*shape, 10), np.float32), np.ones(10, np.float32))
    assert quality.shape == shape
