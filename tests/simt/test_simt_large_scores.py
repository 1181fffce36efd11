"""CUDA's attention and loss on scores and logits of every finite size: nothing is lost between a number and its
reference."""

from __future__ import annotations

import attention_cases as cases
import device_attention
import device_ops
import numpy as np
import pytest
from harness import widen
from test_simt_linear_cross_entropy import TOLERANCE, TYPES

from mdmcorrect import reference

SIZES = [1e2, 1e5, 1e9, 1e18]  # of q and of k


def scaled(x, size):
    return cases.TYPES["bfloat16"](widen(x) * size)


@pytest.mark.parametrize("size", SIZES)
def test_attention_and_its_gradients(simt, size):
    """Rows whose largest score is far ahead take that key's value, and only there do gradients of values go."""
    q, k, v = cases.heads(1, 70, 64)
    q, k = scaled(q, size), scaled(k, size)
    scores = np.sort(np.einsum("bhqd,bgkd->bhqk", widen(q), widen(k)), -1)
    decided = scores[..., -1] - scores[..., -2] > 1e-4 * np.abs(scores).max(-1)
    assert decided.mean() > 0.9
    forward = device_attention.bidirectional_attention(simt, q, k, v)
    exact, exact_lse = cases.expected(q, k, v)
    assert np.abs(widen(forward.out) - exact)[decided].max() <= 0.02
    np.testing.assert_allclose(forward.lse, exact_lse, rtol=4e-6)
    grad_out = widen(cases.heads(1, 70, 64, seed=4)[0]) * decided[..., None]
    grad_out = cases.TYPES["bfloat16"](grad_out)
    grads, _ = device_attention.bidirectional_attention_backward(simt, grad_out, None, q, k, v, forward)
    truth = reference.bidirectional_attention_backward(widen(grad_out), None, widen(q), widen(k), widen(v))
    assert np.abs(widen(grads[2]) - truth[2]).max() <= 0.03 * np.abs(truth[2]).max()
    left = 1e-4 * size * np.abs(widen(grad_out)).sum(-1).max()  # where dP and its mean cancel
    for got, want in zip(grads[:2], truth[:2], strict=True):
        assert np.abs(widen(got) - want).max() <= left


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("size", [1.0, *SIZES])
def test_equal_scores_of_any_size(simt, size, sign):
    """The same key many times over: the average of the values, the gradient of an average."""
    q, k, v = cases.heads(1, 70, 32)
    key = widen(k)[:, :, :1] / np.abs(widen(k)[:, :, :1]).max()
    k = cases.TYPES["bfloat16"](np.broadcast_to(size * key, k.shape))
    q = cases.TYPES["bfloat16"](np.broadcast_to(sign * size * key, q.shape))
    forward = device_attention.bidirectional_attention(simt, q, k, v)
    mean = np.broadcast_to(widen(v).mean(2, keepdims=True), q.shape)
    assert np.abs(widen(forward.out) - mean).max() <= 0.01
    score = np.einsum("bhqd,bgkd->bhqk", widen(q), widen(k))[0, 0, 0, 0] * 32**-0.5
    np.testing.assert_allclose(forward.lse, score + np.log(70), rtol=4e-6, atol=1e-5)
    ones = cases.TYPES["bfloat16"](np.ones(q.shape))
    grads, _ = device_attention.bidirectional_attention_backward(simt, ones, None, q, k, v, forward)
    np.testing.assert_allclose(widen(grads[2]), 2.0, rtol=0.01)
    assert all(np.isfinite(widen(x)).all() for x in grads)


@pytest.mark.parametrize("scale", [1e-50, 1e45])
def test_a_scale_beyond_float32(simt, scale):
    q, k, v = cases.heads(1, 40, 32)
    forward = device_attention.bidirectional_attention(simt, q, k, v, scale=scale, hide_self=True)
    exact, _ = cases.expected(q, k, v, scale=scale, hide_self=True)
    assert np.abs(widen(forward.out) - exact).max() <= 0.02


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("size", [1.0, *SIZES])
@pytest.mark.parametrize(("dtype", "smoothing"), [("float32", 0.0), ("float32", 0.3), ("bfloat16", 0.0)])
def test_equal_logits_of_any_size(simt, dtype, smoothing, size, sign):
    hidden, weight = (TYPES[dtype](np.full((n, 8), x)) for n, x in ((3, sign * size), (1300, size)))
    targets = np.array([0, 1299, -100])
    options = {"block_ids": 640, "label_smoothing": smoothing}
    (losses, normaliser, correct, _), _ = device_ops.linear_cross_entropy(simt, hidden, weight, targets, **options)
    np.testing.assert_allclose(losses, [np.log(1300)] * 2 + [0.0], rtol=2e-6)
    assert correct.tolist() == [True, True, False]
    back = {"normaliser": normaliser, "grad_losses": np.ones(3, np.float32), **options}
    (_, grad_weight, _), _ = device_ops.linear_cross_entropy(simt, hidden, weight, targets, **back)
    exact = np.full(1300, 2 / 1300)
    exact[[0, 1299]] -= 1.0
    exact *= 1.0 - smoothing
    np.testing.assert_allclose(grad_weight[:, 0] / widen(hidden)[0, 0], exact, rtol=0, atol=TOLERANCE[dtype])


def test_logits_of_any_size(simt):
    random = np.random.default_rng(0)
    hidden, weight = random.normal(size=(6, 8)).astype(np.float32), random.normal(size=(700, 8)).astype(np.float32)
    for size in SIZES:
        h, w = (size * hidden).astype(np.float32), (size * weight).astype(np.float32)
        targets = np.r_[(h.astype(np.float64) @ w.T.astype(np.float64)).argmax(1)[:3], 5, 6, 7]
        truth = reference.linear_cross_entropy(h, w, targets)
        (losses, normaliser, *_), _ = device_ops.linear_cross_entropy(simt, h, w, targets)
        np.testing.assert_allclose(losses, truth[0], rtol=1e-6, atol=4e-7 * 30 * size**2)
        back = {"normaliser": normaliser, "grad_losses": np.ones(6, np.float32)}
        gradients, _ = device_ops.linear_cross_entropy(simt, h, w, targets, **back)
        for mine, exact in zip(gradients, truth[1:], strict=True):
            np.testing.assert_allclose(mine / np.abs(exact).max(), exact / np.abs(exact).max(), rtol=0, atol=1e-5)
