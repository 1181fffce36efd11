"""Scores and logits of every finite size, judged by float64: nothing is lost between a number and its reference."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from test_bidirectional_attention_backward import exact_gradients, gradients
from torch.nn import functional as F

from mdmcorrect import reference
from mdmcorrect.ops import bidirectional_attention, linear_cross_entropy
from mdmcorrect.selfcheck.inputs.attention import error, expected, heads, plain, spacing
from mdmcorrect.selfcheck.inputs.cross_entropy import TOLERANCE, assert_near

SIZES = [1.0, 10.0, 100.0, 1e3, 1e5, 1e9, 1e13, 1e18]  # of q and of k: scores grow with the square
DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]
CASES = [(dtype, size) for dtype in DTYPES for size in SIZES if dtype != torch.float16 or size <= 1e3]


def decided(q, k):
    """Rows whose largest score is further ahead than float32 could confuse."""
    wide_k = k.double().repeat_interleave(q.shape[1] // k.shape[1], 1)
    scores = q.double() @ wide_k.mT
    first, second = scores.topk(2).values.unbind(-1)
    rows = first - second > 1e-4 * scores.abs().amax(-1)
    assert rows.double().mean() > 0.9
    return rows


@pytest.mark.parametrize(("dtype", "size"), CASES, ids=str)
def test_attention(dtype, size):
    q, k, v = heads(2, 150, 64, dtype)
    q, k = q * size, k * size
    out, lse = bidirectional_attention(q, k, v, return_lse=True)
    exact, exact_lse = expected(q, k, v)
    rows = decided(q, k)
    allowed = 2 * error(plain(q, k, v)[rows], exact[rows]) + spacing(dtype, exact)
    assert error(out[rows], exact[rows]) <= allowed
    assert error(out, exact) <= 2 * float(v.abs().max())  # an average of values, whichever
    rounding = torch.finfo(torch.float32).eps * float(exact_lse.abs().max())
    torch.testing.assert_close(lse.double(), exact_lse, rtol=4e-6, atol=8 * rounding)


@pytest.mark.parametrize(("dtype", "size"), CASES, ids=str)
def test_gradients_of_attention(dtype, size):
    """Where one score is far ahead, keys of its gradients are 0 but for what float32 leaves where dP and its mean
    cancel."""
    q, k, v = heads(1, 100, 64, dtype)
    q, k = q * size, k * size
    rows = decided(q, k)
    grad_out = torch.randn(q.shape, generator=torch.Generator().manual_seed(5)).to(dtype)
    grad_out[~rows] = 0.0
    ours = gradients(bidirectional_attention, q, k, v, grad_out)
    exact = exact_gradients(q, k, v, grad_out)
    torchs = gradients(plain, q, k, v, grad_out)
    slopes = torch.finfo(torch.float32).eps * float(grad_out.float().abs().sum(-1).max() * v.float().abs().max()) / 8
    for mine, truth, other, beside in zip(ours, exact, torchs, (k, q, None), strict=True):
        left = 0.0 if beside is None else slopes * float(beside.double().abs().max())
        left *= 1 if beside is not q else 100  # a key has as many slopes as there are queries
        allowed = 2 * error(other.nan_to_num(0.0), truth) + 2 * spacing(dtype, truth) + left
        assert error(mine, truth) <= allowed


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(("dtype", "size"), CASES, ids=str)
def test_equal_scores_of_any_size(dtype, size, sign):
    """The same key many times over: the average of the values, and gradients of an average."""
    q, k, v = (x.clone() for x in heads(1, 131, 64, dtype, q_heads=2, kv_heads=1))
    k[:] = size * k[:, :, :1]
    q[:] = sign * size * (k[:, :, :1] / k[:, :, :1].abs().max())  # of one sign with every key
    leaves = [x.requires_grad_() for x in (q, k, v)]
    out, lse = bidirectional_attention(*leaves, return_lse=True)
    mean = v.detach().double().mean(2, keepdim=True).expand_as(out)
    sums = 131 * torch.finfo(torch.promote_types(dtype, torch.float32)).eps  # what adding up so many rounds off
    assert error(out.detach(), mean) <= sums * float(v.detach().abs().max()) + spacing(dtype, mean)
    score = (q[0, :, 0].double() @ k[0, 0, 0].double()).detach() / 8
    assert (lse.detach() - (score[:, None] + math.log(131))).abs().max() <= 2e-6 * (score.abs().max() + 5)
    out.backward(torch.ones_like(out))
    twice = torch.full(v.shape, 2.0, dtype=torch.float64)
    assert error(v.grad, twice) <= 2 * sums + 2 * spacing(dtype, twice)
    products = float(v.detach().double().sum(-1).abs().max())
    _, exact_k, _ = exact_gradients(*(x.detach() for x in leaves), torch.ones_like(out))
    assert error(k.grad, exact_k) <= 8 * sums * products * float(q.detach().abs().max()) + 2 * spacing(dtype, exact_k)
    # That of q is 0 but for what is left of a sum of differences.
    assert float(q.grad.abs().max()) <= sums * products * float(k.detach().abs().max())


@pytest.mark.parametrize("scale", [1e-50, 1e-30, 1e-3, 1e20, 1e45])
def test_any_scale(scale):
    """Also one that is 0 or infinite in float32, with and without keys that are not seen."""
    q, k, v = heads(1, 40, 32)
    for hide_self in (False, True):
        out = bidirectional_attention(q, k, v, scale=scale, hide_self=hide_self)
        exact, _ = expected(q, k, v, scale=scale, hide_self=hide_self)
        assert error(out, exact) <= 8 * spacing(torch.float32, exact)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_scores_beyond_the_largest_float(dtype):
    """+inf gives NaN as in torch's own expression, -inf is a key of weight 0; a row of nothing else is 0."""
    size = 1e160 if dtype == torch.float64 else 1e25
    q, k, v = torch.zeros(1, 1, 3, 32, dtype=dtype), torch.zeros(1, 1, 3, 32, dtype=dtype), torch.ones(1, 1, 3, 32)
    v = v.to(dtype)
    q[..., 0], k[0, 0, :, 0] = size, torch.tensor([size, 0.0, -size], dtype=dtype)
    q[0, 0, 1], q[0, 0, 2, 0] = 0.0, -size
    out, lse = bidirectional_attention(q, k, v, return_lse=True)
    assert out[0, 0, [0, 2]].isnan().all()
    assert torch.equal(out[0, 0, 1], v[0, 0, 1])
    assert out.isnan().equal(F.scaled_dot_product_attention(q, k, v).isnan())
    out, lse = bidirectional_attention(q, -k.abs(), v, lengths=1, return_lse=True)
    assert not out[0, 0, 0].any()
    assert lse[0, 0, 0] == -torch.inf


def test_an_infinite_log_sum_exp_is_one_that_float32_does_not_hold():
    q, k, v = heads(1, 60, 64)
    leaves = [x.clone().requires_grad_() for x in (q * 1e18, k * 1e18, v)]
    out, lse = bidirectional_attention(*leaves, scale=1e6, return_lse=True)
    exact, exact_lse = expected(*(x.detach() for x in leaves), scale=1e6)
    assert (lse.isinf() == (exact_lse.abs() > 3.4e38)).all()
    rows = decided(q, k)
    assert error(out.detach()[rows], exact[rows]) <= 4 * spacing(torch.float32, exact)
    out[rows].sum().backward()
    assert leaves[2].grad.sum() == pytest.approx(64 * float(rows.sum()), rel=1e-4)


# ---- linear_cross_entropy ----


@pytest.mark.parametrize(("dtype", "size"), CASES, ids=str)
def test_linear_cross_entropy(dtype, size):
    generator = torch.Generator().manual_seed(3)
    hidden = (size * torch.randn(60, 64, generator=generator)).to(dtype)
    weight = (size * torch.randn(700, 64, generator=generator)).to(dtype)
    rows = decided(hidden[None, None], weight[None, None])[0, 0]
    logits = hidden.double() @ weight.double().T
    targets = torch.where(torch.arange(60) % 2 == 0, logits.argmax(-1), 5)
    targets[~rows] = -100
    truth = reference.linear_cross_entropy(hidden.double(), weight.double(), targets)
    inputs = hidden.requires_grad_(), weight.requires_grad_()
    losses = linear_cross_entropy(*inputs, targets, reduction="none")
    scale = np.abs(logits.numpy()).max()
    np.testing.assert_allclose(losses.detach().double(), truth[0], rtol=1e-6, atol=4e-7 * scale)
    tolerance = 30 * TOLERANCE[dtype] if size <= 100 else TOLERANCE[dtype]
    for actual, exact in zip(torch.autograd.grad(losses.sum(), inputs), truth[1:], strict=False):
        assert_near(actual, exact, tolerance)


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(("dtype", "size"), CASES, ids=str)
def test_equal_logits_of_any_size(dtype, size, sign, smoothing):
    """log V, and the gradient of a uniform law, however large the logits are, smoothed or not."""
    hidden = torch.full((5, 64), sign * size, dtype=dtype).requires_grad_()
    weight = torch.full((700, 64), size, dtype=dtype).requires_grad_()
    targets = torch.tensor([0, 699, 3, 3, -100])
    options = {"reduction": "none", "return_correct": True, "label_smoothing": smoothing}
    losses, correct = linear_cross_entropy(hidden, weight, targets, **options)
    assert losses.detach().numpy() == pytest.approx([math.log(700)] * 4 + [0.0], rel=2e-6)
    assert correct.tolist() == [True] * 4 + [False]
    grad_weight = torch.autograd.grad(losses.sum(), weight)[0].double() / (sign * size)
    exact = torch.full((700, 1), 4 / 700, dtype=torch.float64)
    exact[[0, 699, 3], 0] -= torch.tensor([1.0, 1.0, 2.0], dtype=torch.float64)
    assert_near(grad_weight, (1.0 - smoothing) * exact.expand(700, 64).numpy(), TOLERANCE[dtype])


@pytest.mark.parametrize("bias", [-3e4, -1e9, -1e30, float(np.finfo(np.float32).min), 1e9, 3e38])
def test_masks_by_a_bias(bias):
    """All ids at one constant, and all but one, as masks are made."""
    hidden, weight, targets = torch.zeros(3, 8), torch.zeros(300, 8), torch.tensor([0, 1, 299])
    shift = torch.full((300,), bias)
    losses = linear_cross_entropy(hidden, weight, targets, bias=shift, reduction="none")
    assert losses.numpy() == pytest.approx([math.log(300)] * 3, rel=1e-6)
    shift[1] = 0.0
    losses = linear_cross_entropy(hidden, weight, targets, bias=shift, reduction="none")
    truth = reference.linear_cross_entropy(hidden, weight, targets, bias=shift.numpy())[0]
    np.testing.assert_allclose(losses.numpy(), truth, rtol=1e-6)


def test_float64_logits_of_any_size():
    hidden, weight = torch.eye(3, 4, dtype=torch.float64), torch.full((9, 4), -1e300, dtype=torch.float64)
    losses = linear_cross_entropy(hidden, weight, torch.arange(3), reduction="none")
    assert losses.numpy() == pytest.approx([math.log(9)] * 3, rel=1e-12)
