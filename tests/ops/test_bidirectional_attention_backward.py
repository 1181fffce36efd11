"""Gradients of bidirectional_attention against the float64 reference and, through it, torch's autograd."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from mdmcorrect import reference
from mdmcorrect.ops import bidirectional_attention
from mdmcorrect.selfcheck.inputs.attention import (
    DTYPES,
    LENGTHS,
    MASKINGS,
    arrays,
    error,
    heads,
    plain,
    ragged,
    spacing,
)

OP = torch.ops.mdmcorrect.bidirectional_attention_backward.default


def upstream(q: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradients of the output and of the log-sum-exp, of the sizes that training has."""
    generator = torch.Generator().manual_seed(5)
    return torch.randn(q.shape, generator=generator).to(q.dtype), torch.randn(q.shape[:3], generator=generator)


def gradients(function, q, k, v, grad_out, **masking):
    leaves = [x.detach().clone().requires_grad_() for x in (q, k, v)]
    function(*leaves, **masking).backward(grad_out)
    return [leaf.grad for leaf in leaves]


def exact_gradients(q, k, v, grad_out, grad_lse=None, **masking):
    return [
        torch.from_numpy(gradient)
        for gradient in reference.bidirectional_attention_backward(
            grad_out.double().numpy(),
            None if grad_lse is None else grad_lse.double().numpy(),
            *(x.double().numpy() for x in (q, k, v)),
            **arrays(masking),
        )
    ]


def check(q, k, v, **masking):
    """Within twice the error of plain torch's autograd in the same dtype, plus one unit, plus what float32 sums leave
    where dP and its mean cancel."""
    grad_out, _ = upstream(q)
    sums = float(grad_out.float().abs().sum(-1).max() * v.float().abs().max() * k.float().abs().max())
    left = torch.finfo(torch.float32).eps * q.shape[-1] ** -0.5 * sums
    ours = gradients(bidirectional_attention, q, k, v, grad_out, **masking)
    torchs = gradients(plain, q, k, v, grad_out, **masking)
    for mine, other, exact in zip(ours, torchs, exact_gradients(q, k, v, grad_out, **masking), strict=True):
        assert mine.dtype == q.dtype
        other = other.nan_to_num(0.0)  # rows that see nothing
        assert error(mine, exact) <= 2 * error(other, exact) + spacing(q.dtype, exact) + left


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("length", LENGTHS)
def test_lengths(length, dtype):
    check(*heads(2, length, 64, dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [32, 64, 96, 128, 256])
def test_widths(width, dtype):
    check(*heads(1, 131, width, dtype, q_heads=2, kv_heads=1))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("masking", MASKINGS.values(), ids=MASKINGS)
@pytest.mark.parametrize("length", [7, 65, 150])
def test_masks_and_padding(length, masking, dtype):
    check(*heads(3, length, 32, dtype), **ragged(length), **masking)


@pytest.mark.parametrize("masking", MASKINGS.values(), ids=MASKINGS)
def test_log_sum_exp_carries_gradients(masking):
    q, k, v = heads(3, 40, 32)
    grad_out, grad_lse = upstream(q)
    masking = {**ragged(40), **masking}
    leaves = [x.clone().requires_grad_() for x in (q, k, v)]
    out, lse = bidirectional_attention(*leaves, return_lse=True, **masking)
    empty = lse == -torch.inf
    torch.autograd.backward([out, lse], [grad_out, grad_lse.masked_fill(empty, 0.0)])
    exact = exact_gradients(q, k, v, grad_out, grad_lse, **masking)
    for leaf, gradient in zip(leaves, exact, strict=True):
        torch.testing.assert_close(leaf.grad.double(), gradient, rtol=1e-4, atol=2e-5)


def test_log_sum_exp_alone():
    q, k, v = heads(1, 20, 32)
    leaves = [x.clone().requires_grad_() for x in (q, k, v)]
    bidirectional_attention(*leaves, return_lse=True)[1].sum().backward()
    exact = exact_gradients(q, k, v, torch.zeros_like(q), torch.ones(q.shape[:3]))
    for leaf, gradient in zip(leaves, exact, strict=True):
        torch.testing.assert_close(leaf.grad.double(), gradient, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_asked_for(dtype):
    q, k, v = heads(3, 90, 64, dtype)
    positions = torch.tensor([[80, 0, 30, 30, -1], [1, 2, 3, 89, 90], [0, 6, 7, 8, 9]])
    check(q[:, :, :5], k, v, q_positions=positions, hide_self=True)


@pytest.mark.parametrize("masking", [MASKINGS["full"], MASKINGS["hide self"], MASKINGS["blocks of 5"]])
@pytest.mark.parametrize("dtype", DTYPES)
def test_independent_of_batch_padding_and_threads(masking, dtype):
    q, k, v = heads(1, 150, 64, dtype)
    grad, _ = upstream(q)
    alone = gradients(bidirectional_attention, q, k, v, grad, **masking)
    others = heads(2, 183, 64, dtype, seed=1)
    fused = [torch.cat([F.pad(x, (0, 0, 33, 0)), y]) for x, y in zip((q, k, v), others, strict=True)]
    wide_grad = torch.cat([F.pad(grad, (0, 0, 33, 0), value=torch.nan), others[0]])
    threads = torch.get_num_threads()
    try:
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            starts = torch.tensor([33, 0, 7])
            padded = gradients(bidirectional_attention, *fused, wide_grad, starts=starts, **masking)
            for one, many in zip(alone, padded, strict=True):
                assert torch.equal(many[:1, :, 33:], one)
                assert not many[0, :, :33].any()
    finally:
        torch.set_num_threads(threads)


def test_reference_is_autograd():
    q, k, v = (x.double() for x in heads(2, 21, 32, kv_heads=4))
    grad, _ = upstream(q)
    seen = torch.from_numpy(reference.visible_keys(2, 21, 21, mask="block_causal", block_size=4, hide_self=True))

    def sdpa(q, k, v, **_):
        return F.scaled_dot_product_attention(q, k, v, attn_mask=seen[:, None])

    masking = {"mask": "block_causal", "block_size": 4, "hide_self": True}
    for mine, torchs in zip(exact_gradients(q, k, v, grad, **masking), gradients(sdpa, q, k, v, grad), strict=True):
        torch.testing.assert_close(mine, torchs)


def test_upstream_gradients_of_any_layout():
    q, k, v = heads(2, 30, 32)
    leaf = q.clone().requires_grad_()
    bidirectional_attention(leaf, k, v).sum().backward()  # a gradient of stride 0
    exact, _, _ = exact_gradients(q, k, v, torch.ones_like(q))
    torch.testing.assert_close(leaf.grad.double(), exact, rtol=1e-4, atol=1e-5)


def test_empty_batch_and_no_keys():
    q = torch.zeros(0, 2, 4, 32, requires_grad=True)
    bidirectional_attention(q, q, q).sum().backward()
    assert q.grad.shape == q.shape
    row = torch.ones(1, 2, 1, 32, requires_grad=True)
    none = torch.zeros(1, 2, 0, 32, requires_grad=True)
    bidirectional_attention(row, none, none, q_positions=torch.tensor([0])).sum().backward()
    assert not row.grad.any()
    assert none.grad.shape == none.shape


def native_arguments(dtype=torch.float32):
    q, k, v = heads(2, 12, 32, dtype)
    grad_out, grad_lse = upstream(q)
    masking = None, torch.tensor([12, 5]), None, 0, False, 0, None, 32**-0.5
    out, _, normaliser = torch.ops.mdmcorrect.bidirectional_attention(q, k, v, *masking)
    return grad_out, grad_lse, q, k, v, out, normaliser, *masking


def test_opcheck():
    torch.library.opcheck(OP, native_arguments())
    q, k, v = (x.clone().requires_grad_() for x in heads(2, 12, 32))
    forward = torch.ops.mdmcorrect.bidirectional_attention.default
    torch.library.opcheck(forward, (q, k, v, None, torch.tensor([12, 5]), None, 0, True, 0, None, 0.2))


def test_compiled_training_step():
    def loss(q, k, v):
        out, lse = bidirectional_attention(q, k, v, mask="block_causal", block_size=4, return_lse=True)
        return (out * out).sum() + lse.sum()

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    grads = []
    for function in (loss, compiled):
        leaves = [x.clone().requires_grad_() for x in heads(1, 18, 32)]
        function(*leaves).backward()
        grads.append([leaf.grad for leaf in leaves])
    for eager, fused in zip(*grads, strict=True):
        torch.testing.assert_close(eager, fused)


@pytest.mark.parametrize(
    ("index", "value", "text"),
    [
        (0, torch.zeros(2, 4, 12, 64), r"grad_out: expected shape \[2, 4, 12, 32\]"),
        (0, torch.zeros(2, 4, 12, 32).half(), "grad_out: expected the dtype of q"),
        (1, torch.zeros(2, 4, 11), r"grad_lse: expected shape \[2, 4, 12\]"),
        (5, torch.zeros(2, 4, 32, 12).mT, "out: expected a contiguous last dimension"),
        (1, torch.zeros(2, 4, 12).double(), "grad_lse: expected dtype float32, or float64 where q is"),
        (1, torch.zeros(2, 12, 4).mT, "grad_lse: expected a contiguous tensor"),
        (6, torch.zeros(2, 4, 12), r"normaliser: expected shape \[2, 2, 4, 12\]"),
        (6, torch.zeros(2, 2, 4, 12).double(), "normaliser: expected dtype float32, or float64 where q is"),
        (6, torch.zeros(2, 2, 12, 4).mT, "normaliser: expected a contiguous tensor"),
    ],
)
def test_native_checks(index, value, text):
    arguments = list(native_arguments())
    arguments[index] = value
    with pytest.raises(RuntimeError, match=text):
        OP(*arguments)
