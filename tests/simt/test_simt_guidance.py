"""Guidance inside CUDA's score_tokens, thread by thread, against mixing the logits before the call."""

from __future__ import annotations

import device_ops
import numpy as np
import pytest
from harness import widen
from test_simt_score_tokens import TYPES, peaked

from mdmcorrect import reference


def mixed(cond, uncond, weight, dtype: str) -> np.ndarray:
    """Both mixed before the call, row by row; where the weight is 0, cond."""
    logits = cond.copy().view(type(cond))
    for b, place in np.argwhere(np.broadcast_to(weight, cond.shape[:2]) != 0):
        own = float(np.broadcast_to(weight, cond.shape[:2])[b, place])
        row = reference.guided(widen(cond)[b, place], widen(uncond)[b, place], own, dtype)
        logits[b, place] = TYPES[dtype](row.astype(np.float32))
    return logits


def guided_equals_mixing_first(simt, cond, uncond, weight, dtype: str, **options) -> None:
    scores, _ = device_ops.score_tokens(simt, cond, uncond_logits=uncond, guidance=weight, **options)
    plain, _ = device_ops.score_tokens(simt, mixed(cond, uncond, weight, dtype), **options)
    for name, value in scores.items():
        np.testing.assert_array_equal(value, plain[name], err_msg=f"{name} {options}")


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("shape", [(2, 3, 1), (2, 3, 521), (1, 4, 1030), (1, 3, 4673)])
def test_guidance_is_mixing_first(simt, shape, dtype):
    """To the last bit, whatever strides and alignment the second tensor has; a weight per row, of which one is 0."""
    batch, length, vocab = shape
    weight = np.array([0.5, 0.0, -1.0, 1.7, -2.5, 3.0])[: batch * length].reshape(batch, length)
    tokens = np.random.default_rng(1).integers(0, vocab, (batch, length))
    cond = peaked(batch, length, vocab, dtype, seed=1)
    wide = peaked(length, batch, vocab + 23, dtype, seed=2).transpose(1, 0, 2)  # each row at another place of a vector
    uncond = wide[..., 3 : 3 + vocab]
    uncond[0, 1] = TYPES[dtype](np.float32([np.nan]))[0]  # not read there
    for options in (
        {"temperature": 0.0},
        {"temperature": 0.7, "suppress": (0,), "forbid": (vocab - 1,)},
        {"temperature": 1.0, "top_k": 40, "top_p": 0.9, "law": "proposal"},
        {"temperature": 0.8, "noise": "dense"},
    ):
        guided_equals_mixing_first(simt, cond, uncond, weight, dtype, tokens=tokens, seed=3, **options)


@pytest.mark.parametrize("dtype", TYPES)
def test_guidance_of_many_rows(simt, dtype):
    """Blocks that score a row by themselves; what overflows in between; an id that is in neither, suppressed or not."""
    cond, uncond = (peaked(1, 520, 601, dtype, seed=s) for s in (1, 2))
    one = TYPES[dtype](np.float32([6e4, -np.inf]))
    uncond[0, 7, 3] = one[0]
    cond[..., 5] = uncond[..., 5] = one[1]
    weight = np.random.default_rng(0).choice([0.0, 1.5, -0.3], (1, 520))
    with np.errstate(over="ignore", invalid="ignore"):
        for options in ({"suppress": (5,)}, {}, {"temperature": 1.0, "top_p": 0.8}):
            guided_equals_mixing_first(simt, cond, uncond, weight, dtype, **options)
    scores, _ = device_ops.score_tokens(simt, cond, uncond_logits=uncond, guidance=weight)
    assert (scores["token"] >= 0).all()


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("shape", [(1, 3, 9001), (1, 520, 1030)])
def test_guidance_reads_both_tensors_once(simt, shape, dtype):
    """Where its weight is 0, or the row is not asked for, the second not at all."""
    cond, uncond = (peaked(*shape, dtype, seed=s) for s in (1, 2))
    weight = np.arange(shape[1])[None] % 3 * 1.0
    rows = np.arange(shape[1])[None] % 2 == 0
    asked, off = int(rows.sum()), int((rows & (weight == 0)).sum())
    row_bytes = cond.nbytes // shape[1]
    _, traffic = device_ops.score_tokens(simt, cond, uncond_logits=uncond, guidance=weight, rows=rows)
    assert traffic["logits"].bytes_read == asked * row_bytes
    assert traffic["uncond_logits"].bytes_read == (asked - off) * row_bytes
    assert traffic["uncond_logits"].read_sectors <= 1.2 * (asked - off) * row_bytes / 32 + 2 * asked
    _, traffic = device_ops.score_tokens(simt, cond, uncond_logits=uncond, guidance=1.0, rows=rows, temperature=0.7)
    chunk = 512 * cond.itemsize
    for name in ("logits", "uncond_logits"):
        assert asked * row_bytes < traffic[name].bytes_read <= asked * (row_bytes + chunk)
