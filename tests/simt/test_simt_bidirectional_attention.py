"""CUDA's bidirectional_attention, thread by thread, against the float64 reference."""

from __future__ import annotations

import attention_cases as cases
import device_attention
import numpy as np
import pytest
from harness import widen

from mdmcorrect import reference


def keys_read(q, k, masking) -> int:
    """Rows of k that blocks of query rows have to read: each from the sequence's first key to the last one it sees."""
    rows = 128 if q.shape[3] <= 128 else 64
    seen = reference.visible_keys(len(q), q.shape[2], k.shape[2], **masking)
    starts = np.clip(np.broadcast_to(masking.get("starts", 0), len(q)), 0, k.shape[2])
    total = 0
    for b in range(len(q)):
        ends = np.where(seen[b].any(1), seen.shape[2] - seen[b, :, ::-1].argmax(1) - starts[b], 0)
        for first in range(0, q.shape[2], rows):
            total += int(ends[first : first + rows].max())
    return total * q.shape[1]


def check(simt, q, k, v, **masking):
    out, lse, *_, traffic = device_attention.bidirectional_attention(simt, q, k, v, **masking)
    exact, exact_lse = cases.expected(q, k, v, **masking)
    error = np.abs(widen(out) - exact).max()
    plain_error = np.abs(cases.plain(q, k, v, **masking).double().numpy() - exact).max()
    assert error <= 2 * plain_error + cases.rounding(out, exact)
    np.testing.assert_allclose(lse, exact_lse, rtol=2e-6, atol=4e-6)
    unseen = np.isneginf(exact_lse)
    assert not widen(out)[unseen].any()
    assert simt.bank_conflicts == 0
    if masking.get("scale") is None and not masking.get("hide_self"):  # which may hide a row's last key
        for name in ("k", "v"):
            assert traffic[name].bytes_read == keys_read(q, k, masking) * 2 * q.shape[3]
    return out, lse


@pytest.mark.parametrize("dtype", cases.TYPES)
@pytest.mark.parametrize("width", cases.WIDTHS)
def test_widths_and_types(simt, width, dtype):
    for length in (7, 65):
        check(simt, *cases.heads(1, length, width, dtype, seed=width))


@pytest.mark.parametrize("length", [1, 63, 64, 127, 129, 500])
def test_lengths(simt, length):
    check(simt, *cases.heads(1, length, 64, seed=length, q_heads=1))
    check(simt, *cases.heads(1, length, 128, "float16", seed=length, q_heads=1), hide_self=True)


def test_a_thousand_keys(simt):
    check(simt, *cases.heads(1, 1024, 64, q_heads=1))


@pytest.mark.parametrize("masking", cases.MASKINGS)
def test_masks_and_padding(any_order, masking):
    q, k, v = cases.heads(3, 133, 32, q_heads=1, seed=5)
    masking = cases.MASKINGS[masking]
    check(any_order, q, k, v, **masking)
    check(any_order, q, k, v, **masking, **cases.ragged(133))


@pytest.mark.parametrize("masking", cases.MASKINGS)
def test_masks_in_wide_rows(simt, masking):
    check(simt, *cases.heads(3, 70, 192, q_heads=1), **cases.MASKINGS[masking], **cases.ragged(70))


def test_grouped_heads_and_scale(simt):
    q, k, v = cases.heads(2, 40, 32, "float16", q_heads=6, kv_heads=2)
    check(simt, q, k, v, scale=0.7)


@pytest.mark.parametrize("width", [160, 224])
def test_widths_between_kernels(simt, width):
    check(simt, *cases.heads(1, 33, width))


@pytest.mark.parametrize("masking", cases.MASKINGS)
def test_only_some_rows(simt, masking):
    """Rows asked for by position equal the same rows of a full pass, bit by bit; a position outside gets 0."""
    q, k, v = cases.heads(3, 150, 64, q_heads=2, seed=1)
    masking = cases.MASKINGS[masking] | cases.ragged(150)
    everything = check(simt, q, k, v, **masking)
    positions = np.stack([np.random.default_rng(b).permutation(150)[:20] for b in range(3)])
    positions[:, 4] = -1
    rows = np.take_along_axis(q.swapaxes(1, 2), np.maximum(positions, 0)[:, :, None, None], 1).swapaxes(1, 2)
    out, lse = check(simt, rows.view(type(q)), k, v, q_positions=positions, **masking)
    for b, row in np.ndindex(positions.shape):
        if positions[b, row] >= 0:
            np.testing.assert_array_equal(out[b, :, row], everything[0][b, :, positions[b, row]])
            np.testing.assert_array_equal(lse[b, :, row], everything[1][b, :, positions[b, row]])


def test_padding_changes_no_bit(simt):
    q, k, v = cases.heads(1, 140, 128, q_heads=1, seed=2)
    out, lse, *_ = device_attention.bidirectional_attention(simt, q, k, v)

    def padded(x):
        wide = np.full((1, 1, 200, 128), 0x7FC0, np.uint16)  # NaN, which nobody may read
        wide[:, :, 17:157] = x
        return wide.view(type(q))

    shifted = device_attention.bidirectional_attention(
        simt, padded(q), padded(k), padded(v), starts=np.array([17]), lengths=np.array([140])
    )
    np.testing.assert_array_equal(shifted[0][:, :, 17:157], out)
    np.testing.assert_array_equal(shifted[1][:, :, 17:157], lse)
    assert not widen(shifted[0][:, :, :17]).any()
    assert not widen(shifted[0][:, :, 157:]).any()


def test_large_and_special_scores(simt):
    """Maxima that move by little and by much between tiles, scores of -inf, and NaN that stays in its row."""
    q, k, v = cases.heads(1, 200, 64, "float16", q_heads=1, spread=6.0)
    check(simt, q, k, v)
    k, q = k.copy(), q.copy()
    q[0, 0, :, 0] = 1.0
    k[0, 0, ::3, 0] = -np.inf
    k[0, 0, ::3, 1:] = 0.0
    with np.errstate(invalid="ignore"):
        check(simt, q, k, v)
    q[0, 0, 9] = np.nan
    out, lse, *_ = device_attention.bidirectional_attention(simt, q, k, v)
    assert np.isnan(widen(out)[0, 0, 9]).all()
    assert np.isnan(lse[0, 0, 9])
    assert np.isnan(lse).sum() == 1


def test_no_keys_and_no_rows(simt):
    q, k, v = cases.heads(2, 5, 32)
    out, lse, *_, traffic = device_attention.bidirectional_attention(simt, q, k, v, lengths=np.array([0, 0]))
    assert not widen(out).any()
    assert np.isneginf(lse).all()
    assert traffic["q"].bytes_read == traffic["k"].bytes_read == 0
