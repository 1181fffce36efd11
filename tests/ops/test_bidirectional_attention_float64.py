"""bidirectional_attention in float64: the reference to its last digits, gradients that finite differences confirm."""

from __future__ import annotations

import pytest
import torch

from mdmcorrect import reference
from mdmcorrect.ops import bidirectional_attention
from mdmcorrect.selfcheck.inputs.attention import MASKINGS, arrays, expected, heads, ragged

OP = torch.ops.mdmcorrect.bidirectional_attention.default


def wide(*shape, **options):
    return tuple(x.double() for x in heads(*shape, **options))


@pytest.mark.parametrize("masking", MASKINGS.values(), ids=MASKINGS)
def test_is_the_reference(masking):
    q, k, v = wide(3, 70, 32)
    masking = {**ragged(70), **masking}
    leaves = [x.clone().requires_grad_() for x in (q, k, v)]
    out, lse = bidirectional_attention(*leaves, return_lse=True, **masking)
    assert out.dtype == lse.dtype == torch.float64
    for mine, exact in zip((out, lse), expected(q, k, v, **masking), strict=True):
        torch.testing.assert_close(mine, exact, rtol=1e-12, atol=1e-12)
    grad_out, grad_lse = torch.randn_like(out), torch.randn_like(lse).masked_fill(lse == -torch.inf, 0.0)
    torch.autograd.backward([out, lse], [grad_out, grad_lse])
    exact = reference.bidirectional_attention_backward(
        *(x.detach().numpy() for x in (grad_out, grad_lse, q, k, v)), **arrays(masking)
    )
    for leaf, gradient in zip(leaves, exact, strict=True):
        torch.testing.assert_close(leaf.grad, torch.from_numpy(gradient), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize(
    ("masking", "rows"),
    [
        ({}, None),
        ({"hide_self": True, "scale": 0.4}, None),
        ({"mask": "block_causal", "block_size": 2}, None),
        ({"mask": "shadow", "block_size": 2, "shadow_of": 1}, None),
        ({}, torch.tensor([3, 0, -1])),
    ],
    ids=["full", "hide self", "blocks", "shadow", "rows"],
)
@pytest.mark.parametrize("return_lse", [False, True])
def test_gradcheck(return_lse, masking, rows):
    """Two sequences, one padded on both sides; two query heads to a key head."""
    leaves = [x.clone().requires_grad_() for x in wide(2, 5, 32, q_heads=2, kv_heads=1, spread=2.0)]
    around = {"starts": torch.tensor([0, 1]), "lengths": torch.tensor([5, 3])}

    def attend(q, k, v):
        if rows is not None:
            q = q[:, :, : len(rows)]
        results = bidirectional_attention(q, k, v, **around, **masking, q_positions=rows, return_lse=return_lse)
        if not return_lse:
            return results
        return results[0], results[1].masked_fill(results[1] == -torch.inf, 0.0)

    torch.autograd.gradcheck(attend, leaves, fast_mode=True)


def test_nan_and_infinities_stay_where_they_belong():
    q, k, v = (x.clone() for x in wide(1, 9, 32, q_heads=1, kv_heads=1))
    clean = bidirectional_attention(q, k, v)
    q[0, 0, 3] = torch.nan
    out, lse = bidirectional_attention(q, k, v, return_lse=True)
    assert out[0, 0, 3].isnan().all()
    assert lse[0, 0, 3].isnan()
    assert torch.equal(out[0, 0, 4:], clean[0, 0, 4:])
    q, k = torch.zeros_like(q), torch.zeros_like(k)
    q[..., 0], k[..., 0] = 1.0, -torch.inf
    out, lse = bidirectional_attention(q, k, v, return_lse=True)
    assert not out.any()
    assert (lse == -torch.inf).all()
    k[0, 0, 2, 0] = torch.inf
    assert bidirectional_attention(q, k, v).isnan().all()


def test_opcheck():
    q, k, v = (x.clone().requires_grad_() for x in wide(2, 12, 32))
    torch.library.opcheck(OP, (q, k, v, None, torch.tensor([12, 5]), None, 0, True, 0, None, 0.2))


def test_autocast_leaves_it():
    q, k, v = wide(1, 6, 32)
    with torch.autocast("cpu", torch.bfloat16):
        assert bidirectional_attention(q, k, v).dtype == torch.float64
        with pytest.raises(TypeError, match="k: expected dtype float64, got bfloat16"):
            bidirectional_attention(q, k.float(), v)
