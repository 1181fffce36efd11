"""bidirectional_attention against the float64 reference: masks, dtypes, sizes, strides, padding, rows asked for."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from mdmcorrect import reference
from mdmcorrect.ops import bidirectional_attention
from mdmcorrect.selfcheck.inputs.attention import (
    DTYPES,
    LENGTHS,
    MASKINGS,
    error,
    expected,
    heads,
    plain,
    ragged,
    spacing,
)


def check(q, k, v, **masking):
    """Output within twice the error of plain torch in the same dtype plus one unit, log-sum-exp within float32's."""
    out, lse = bidirectional_attention(q, k, v, return_lse=True, **masking)
    exact, exact_lse = expected(q, k, v, **masking)
    assert error(out, exact) <= 2 * error(plain(q, k, v, **masking), exact) + spacing(q.dtype, exact)
    empty = exact_lse == -torch.inf
    assert torch.equal(lse == -torch.inf, empty)
    assert not out[empty].any()
    torch.testing.assert_close(lse[~empty].double(), exact_lse[~empty], rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("length", LENGTHS)
def test_lengths(length, dtype):
    check(*heads(2, length, 64, dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [32, 64, 96, 128, 192, 256])
def test_widths(width, dtype):
    check(*heads(1, 131, width, dtype, q_heads=2, kv_heads=1))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("masking", MASKINGS.values(), ids=MASKINGS)
@pytest.mark.parametrize("length", [7, 65, 200])
def test_masks(length, masking, dtype):
    check(*heads(3, length, 32, dtype), **masking)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("masking", MASKINGS.values(), ids=MASKINGS)
@pytest.mark.parametrize("length", [7, 65, 200])
def test_padding_on_both_sides(length, masking, dtype):
    q, k, v = heads(3, length, 32, dtype)
    check(q, k, v, **ragged(length), **masking)


@pytest.mark.parametrize("masking", MASKINGS.values(), ids=MASKINGS)
def test_padding_is_never_read(masking):
    q, k, v = (x.clone() for x in heads(3, 90, 64))
    around = ragged(90)
    seen = bidirectional_attention(q, k, v, **around, **masking)
    for b, (start, size) in enumerate(zip(around["starts"], around["lengths"], strict=True)):
        for tensor in (q, k, v):
            tensor[b, :, :start] = torch.nan
            tensor[b, :, start + size :] = torch.nan
    assert torch.equal(bidirectional_attention(q, k, v, **around, **masking), seen)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("masking", MASKINGS.values(), ids=MASKINGS)
def test_rows_asked_for_are_rows_of_the_whole(masking, dtype):
    """Bit for bit, in any order, twice, and nothing for positions outside."""
    q, k, v = heads(3, 150, 64, dtype)
    whole, whole_lse = bidirectional_attention(q, k, v, return_lse=True, **ragged(150), **masking)
    positions = torch.tensor([[149, 0, 77, 140, 20, 20], [1, 2, 3, 148, 149, 146], [0, 6, 7, 8, 9, 10]])
    rows = torch.arange(3)[:, None]
    some = q.transpose(1, 2)[rows, positions].transpose(1, 2)
    out, lse = bidirectional_attention(some, k, v, q_positions=positions, return_lse=True, **ragged(150), **masking)
    assert torch.equal(out, whole.transpose(1, 2)[rows, positions].transpose(1, 2))
    assert torch.equal(lse, whole_lse.transpose(1, 2)[rows, positions].transpose(1, 2))
    outside = torch.tensor([-1, 150, 10**12, -(10**12), 5, 1])
    out, lse = bidirectional_attention(some, k, v, q_positions=outside, return_lse=True, **masking)
    assert not out[:, :, :4].any()
    assert (lse[:, :, :4] == -torch.inf).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("masking", [MASKINGS["full"], MASKINGS["hide self"], MASKINGS["blocks of 5"]])
def test_independent_of_batch_padding_and_threads(masking, dtype):
    """A sequence gives the same bits alone, among others, behind left padding, and on any number of threads."""
    q, k, v = heads(1, 300, 64, dtype)
    alone = bidirectional_attention(q, k, v, **masking)
    others = heads(2, 333, 64, dtype, seed=1)
    fused = [torch.cat([F.pad(x, (0, 0, 33, 0)), y]) for x, y in zip((q, k, v), others, strict=True)]
    threads = torch.get_num_threads()
    try:
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            padded = bidirectional_attention(*fused, starts=torch.tensor([33, 0, 7]), **masking)
            assert torch.equal(padded[:1, :, 33:], alone)
            assert torch.equal(bidirectional_attention(q, k, v, **masking), alone)
    finally:
        torch.set_num_threads(threads)


def test_strides_and_layouts():
    q, k, v = heads(2, 70, 64, torch.bfloat16)
    out = bidirectional_attention(q, k, v)
    assert out.transpose(1, 2).is_contiguous()
    for change in (torch.Tensor.contiguous, lambda x: x.mT.contiguous().mT, lambda x: F.pad(x, (0, 1))[..., :64]):
        assert torch.equal(bidirectional_attention(change(q), change(k), change(v)), out)
    shared = k[:, :1].expand(2, 4, 70, 64)
    assert torch.equal(bidirectional_attention(q, shared, shared), bidirectional_attention(q, k[:, :1], k[:, :1]))
    storage = torch.zeros(1 + q.numel(), dtype=torch.bfloat16)
    odd = storage[1:].view(q.shape).copy_(q)
    assert torch.equal(bidirectional_attention(odd, k, v), out)


@pytest.mark.parametrize("shape", [(0, 4, 8, 32), (2, 0, 8, 32), (2, 4, 0, 32)])
def test_empty(shape):
    q = torch.zeros(shape)
    k = torch.zeros(shape[0], max(shape[1], 1), shape[2], 32)
    out, lse = bidirectional_attention(q, k, k, return_lse=True)
    assert out.shape == shape
    assert lse.shape == shape[:3]


def test_no_keys_at_all():
    k = torch.zeros(2, 1, 0, 32)
    out, lse = bidirectional_attention(torch.ones(2, 1, 3, 32), k, k, q_positions=torch.arange(3), return_lse=True)
    assert not out.any()
    assert (lse == -torch.inf).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_one_sure_key_among_many(dtype):
    """Scores up to 200 apart: weights that underflow, sums that do not overflow, in blocks before and after."""
    q, k, v = heads(1, 400, 32, dtype, spread=4.0)
    for key in (0, 130, 399):
        k[0, :, key] = q[0, 0, 5] * 2
        check(q, k, v)


@pytest.mark.parametrize("dtype", DTYPES)
def test_nan_and_infinities_stay_where_they_belong(dtype):
    q, k, v = (x.clone() for x in heads(1, 40, 32, dtype, q_heads=2))
    clean = bidirectional_attention(q, k, v)
    q[0, 0, 3] = torch.nan
    out, lse = bidirectional_attention(q, k, v, return_lse=True)
    assert out[0, 0, 3].isnan().all()
    assert lse[0, 0, 3].isnan()
    out[0, 0, 3] = clean[0, 0, 3]
    assert torch.equal(out, clean)
    q[0, 0, 3] = 0.0
    k[0, 0] = 0.0
    k[0, 0, :, 0] = -torch.inf
    q[0, 0, :, 0] = 1.0
    out, lse = bidirectional_attention(q, k, v, return_lse=True)
    assert not out[0, 0].any()  # every score is -inf, as if nothing were visible
    assert (lse[0, 0] == -torch.inf).all()
    k[0, 0, 7, 0] = torch.inf
    assert bidirectional_attention(q, k, v)[0, 0].isnan().all()


def test_payloads_of_nan_survive():
    q, k, v = heads(1, 20, 32)
    k = k.clone()
    k[0, 0, 4, 0] = torch.tensor(0x7F800001, dtype=torch.int32).view(torch.float32)
    assert bidirectional_attention(q, k, v)[:, :2].isnan().all()


@pytest.mark.parametrize("scale", [0.01, 1.0, 3.0])
def test_scale(scale):
    q, k, v = heads(2, 90, 64)
    check(q, k, v, scale=scale)


def test_reference_is_sdpa():
    """The reference itself against torch in float64, with a mask torch can be given."""
    q, k, v = (x.double() for x in heads(2, 33, 32, q_heads=2))
    seen = reference.visible_keys(2, 33, 33, mask="block_causal", block_size=8, hide_self=True)
    assert seen.sum() == 2 * (sum(8 * (8 * (b + 1) - 1) for b in range(4)) + 32)
    out, _ = expected(q, k, v, mask="block_causal", block_size=8, hide_self=True)
    torch.testing.assert_close(out, F.scaled_dot_product_attention(q, k, v, attn_mask=torch.from_numpy(seen)[:, None]))


def test_shadow_is_wino():
    """Six real tokens, the block of positions 2 and 3 in work: its shadows stand at 6 and 7."""
    seen = reference.visible_keys(1, 8, 8, mask="shadow", block_size=2, shadow_of=2)[0]
    real = np.r_[np.ones(6), np.zeros(2)].astype(bool)
    assert (seen[:6] == real).all()
    assert (seen[6] == [1, 1, 0, 1, 1, 1, 1, 1]).all()
    assert (seen[7] == [1, 1, 1, 0, 1, 1, 1, 1]).all()
