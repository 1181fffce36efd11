"""CUDA's bidirectional_attention_backward, thread by thread, against the float64 reference."""

from __future__ import annotations

import attention_cases as cases
import device_attention
import numpy as np
import pytest
import torch
from harness import widen

from mdmcorrect import reference

WIDTHS = (32, 64, 96, 128)  # that have kernels of their own


def plain_gradients(grad_out, grad_lse, q, k, v, **masking):
    """Autograd's through the plain expression, in the tensors' own dtype."""
    inputs = [cases.tensor(x).requires_grad_() for x in (q, k, v)]
    scores, probabilities = cases.plain_probabilities(*inputs[:2], **masking)
    out = probabilities @ inputs[2].repeat_interleave(q.shape[1] // k.shape[1], 1)
    loss = (out.float() * cases.tensor(grad_out).float()).sum()
    if grad_lse is not None:
        lse = scores.float().logsumexp(-1)
        loss = loss + torch.where(lse.isneginf(), 0.0, lse * torch.from_numpy(grad_lse)).sum()
    return torch.autograd.grad(loss, inputs)


def check(simt, q, k, v, *, with_lse=False, **masking):
    random = np.random.default_rng(7)
    dtype = "float16" if q.dtype == np.float16 else "bfloat16"
    grad_out = cases.TYPES[dtype](random.standard_normal(q.shape))
    grad_lse = random.standard_normal(q.shape[:3]).astype(np.float32) if with_lse else None
    forward = device_attention.bidirectional_attention(simt, q, k, v, **masking)
    grads, traffic = device_attention.bidirectional_attention_backward(
        simt, grad_out, grad_lse, q, k, v, forward, **masking
    )
    assert simt.bank_conflicts == 0
    exact = reference.bidirectional_attention_backward(
        widen(grad_out), grad_lse, widen(q), widen(k), widen(v), **masking
    )
    plain = plain_gradients(grad_out, grad_lse, q, k, v, **masking)
    for name, got, want, other in zip("qkv", grads, exact, plain, strict=True):
        error, plain_error = np.abs(widen(got) - want).max(), np.abs(other.double().numpy() - want).max()
        assert error <= 2 * plain_error + 2 * cases.rounding(got, want), (name, error, plain_error)
    return grads, traffic


@pytest.mark.parametrize("dtype", cases.TYPES)
@pytest.mark.parametrize("width", WIDTHS)
def test_widths_and_types(simt, width, dtype):
    for length in (7, 65):
        check(simt, *cases.heads(1, length, width, dtype, seed=width))


@pytest.mark.parametrize("length", [1, 63, 64, 127, 129])
def test_lengths(simt, length):
    check(simt, *cases.heads(1, length, 64, seed=length, q_heads=1))
    check(simt, *cases.heads(1, length, 128, "float16", seed=length, q_heads=1), hide_self=True)


@pytest.mark.parametrize("length", [500, 1024])
def test_long_rows(simt, length):
    check(simt, *cases.heads(1, length, 32, seed=length, q_heads=1))


@pytest.mark.parametrize("masking", cases.MASKINGS)
def test_masks_and_padding(any_order, masking):
    q, k, v = cases.heads(3, 133, 32, q_heads=1, seed=5)
    masking = cases.MASKINGS[masking]
    check(any_order, q, k, v, **masking)
    check(any_order, q, k, v, **masking, **cases.ragged(133), with_lse=True)


def test_grouped_heads_and_scale(simt):
    q, k, v = cases.heads(2, 70, 64, q_heads=6, kv_heads=2)
    check(simt, q, k, v, scale=0.3, with_lse=True)


@pytest.mark.parametrize("masking", cases.MASKINGS)
def test_only_some_rows(simt, masking):
    """Fewer queries than keys, one of them outside its sequence."""
    _, k, v = cases.heads(3, 150, 64, q_heads=2, seed=1)
    q = cases.heads(3, 90, 64, q_heads=2, seed=2)[0]
    positions = np.stack([np.random.default_rng(b).permutation(150)[:90] for b in range(3)])
    positions[:, 4] = -1
    check(simt, q, k, v, q_positions=positions, **cases.MASKINGS[masking], **cases.ragged(150))


def test_padding_is_never_read(simt):
    q, k, v = cases.heads(1, 70, 64, q_heads=2)

    def padded(x):
        wide = np.full((1, x.shape[1], 170, 64), 0x7FC0, np.uint16)  # NaN
        wide[:, :, 67:137] = x
        return wide.view(type(q))

    masking = {"starts": np.array([67]), "lengths": np.array([70])}
    grad_out = cases.heads(1, 70, 64, q_heads=2, seed=9)[0]
    forward = device_attention.bidirectional_attention(simt, padded(q), padded(k), padded(v), **masking)
    grads, _ = device_attention.bidirectional_attention_backward(
        simt, padded(grad_out), None, padded(q), padded(k), padded(v), forward, **masking
    )
    exact = reference.bidirectional_attention_backward(widen(grad_out), None, widen(q), widen(k), widen(v))
    for got, want in zip(grads, exact, strict=True):
        assert np.abs(widen(got)[:, :, 67:137] - want).max() < 0.02
        assert not widen(got)[:, :, :67].any()
        assert not widen(got)[:, :, 137:].any()


def test_tiles_outside_are_not_visited(simt):
    """Blocks of 64 in 256 positions: key tile j meets the query tiles from j on, 10 of 16."""
    q, k, v = cases.heads(1, 256, 64, q_heads=1)
    _, whole = check(simt, q, k, v)
    _, causal = check(simt, q, k, v, mask="block_causal", block_size=64)
    # Each q row: once by its own block, and once by each key tile that it is seen from; grad_out by delta's kernel too.
    assert whole["q"].bytes_read == (1 + 4) * q.nbytes
    assert causal["q"].bytes_read == q.nbytes + 10 * 64 * 64 * 2
    assert causal["grad_out"].bytes_read == 2 * q.nbytes + 10 * 64 * 64 * 2
    assert causal["k"].bytes_read == k.nbytes + 10 * 64 * 64 * 2
