"""What bidirectional_attention promises beyond its numbers: operator checks, compilation, autocast, errors."""

from __future__ import annotations

import pytest
import torch

from mdmcorrect.ops import bidirectional_attention
from mdmcorrect.selfcheck.inputs.attention import heads

OP = torch.ops.mdmcorrect.bidirectional_attention.default


def native_arguments(**changes):
    """Arguments of the operator itself: a shadow mask, padding and rows asked for."""
    q, k, v = heads(2, 12, 32)
    arguments = {
        "q": q[:, :, :5],
        "k": k,
        "v": v,
        "starts": torch.tensor([0, 2]),
        "lengths": torch.tensor([12, 9]),
        "q_positions": torch.tensor([0, 3, 9, 10, 11]),
        "mask": 2,
        "hide_self": False,
        "block_size": 3,
        "shadow_of": torch.tensor(2),
        "scale": 0.5,
    }
    return tuple({**arguments, **changes}.values())


@pytest.mark.parametrize(
    "changes", [{}, {"starts": None, "lengths": None, "mask": 0, "hide_self": True, "shadow_of": None}]
)
def test_opcheck(changes):
    torch.library.opcheck(OP, native_arguments(**changes))


def test_compiles_without_breaks_and_does_not_recompile():
    count = 0

    def backend(graph, _):
        nonlocal count
        count += 1
        return graph.forward

    compiled = torch.compile(
        lambda q, k, v, n: bidirectional_attention(q, k, v, lengths=n, return_lse=True), backend=backend, fullgraph=True
    )
    q, k, v = heads(2, 33, 32)
    for size in (33, 20, 4):
        lengths = torch.tensor([33, size])
        out, lse = compiled(q, k, v, lengths)
        expected, expected_lse = bidirectional_attention(q, k, v, lengths=lengths, return_lse=True)
        assert torch.equal(out, expected)
        assert torch.equal(lse, expected_lse)
    assert count == 1


def test_compiles_with_inductor():
    compiled = torch.compile(lambda q, k, v: bidirectional_attention(q, k, v, hide_self=True) * 2, fullgraph=True)
    q, k, v = heads(1, 9, 32)
    torch.testing.assert_close(compiled(q, k, v), bidirectional_attention(q, k, v, hide_self=True) * 2)


def test_meta_tensors_have_the_shapes_and_strides_of_real_ones():
    q, k, v = heads(2, 7, 64, torch.bfloat16)
    real = bidirectional_attention(q, k, v, return_lse=True)
    meta = bidirectional_attention(q.to("meta"), k.to("meta"), v.to("meta"), return_lse=True)
    for a, b in zip(real, meta, strict=True):
        assert (a.shape, a.stride(), a.dtype) == (b.shape, b.stride(), b.dtype)


def test_autocast_takes_its_dtype():
    q, k, v = heads(1, 20, 32)
    with torch.autocast("cpu", torch.bfloat16):
        out = bidirectional_attention(q, k.bfloat16(), v)
    assert torch.equal(out, bidirectional_attention(q.bfloat16(), k.bfloat16(), v.bfloat16()))


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"q": [1.0]}, TypeError, "q: expected a torch.Tensor, got list"),
        ({"q": torch.zeros(2, 4, 6, 32).long()}, TypeError, "q: expected dtype float32 or .*, got int64"),
        ({"k": torch.zeros(2, 2, 6, 32).half()}, TypeError, "k: expected dtype float32, got float16"),
        ({"q": torch.zeros(4, 6, 32)}, ValueError, r"q: expected shape \[B, Hq, Sq, D\] .*, got \[4, 6, 32\]"),
        ({"q": torch.zeros(2, 4, 6, 40)}, ValueError, r"q: .* D a multiple of 32, at most 256, got \[2, 4, 6, 40\]"),
        ({"q": torch.zeros(2, 3, 6, 32)}, ValueError, r"k: expected shape \[2, Hkv, Sk, 32\] with Hkv dividing 3"),
        ({"k": torch.zeros(2, 2, 6, 64)}, ValueError, r"k: expected shape \[2, Hkv, Sk, 32\]"),
        ({"v": torch.zeros(2, 2, 5, 32)}, ValueError, r"v: expected shape \[2, 2, 6, 32\] as k has it"),
        ({"q": torch.zeros(2, 4, 5, 32)}, ValueError, "q_positions: needed to say where the 5 rows of q stand"),
        ({"q_positions": torch.zeros(6)}, TypeError, "q_positions: expected dtype int64, got float32"),
        ({"q_positions": torch.arange(5)}, ValueError, r"q_positions: expected shape \[6\] or \[2, 6\], got \[5\]"),
        ({"starts": torch.zeros(3).long()}, ValueError, r"starts: expected shape \[\] or \[2\]"),
        ({"lengths": 2.0}, TypeError, "lengths: expected an int or an int64 tensor, got float"),
        ({"lengths": torch.ones(2)}, TypeError, "lengths: expected dtype int64, got float32"),
        ({"mask": "causal"}, ValueError, "mask: expected 'full', 'block_causal' or 'shadow', got 'causal'"),
        ({"mask": "block_causal"}, ValueError, "block_size: expected"),
        ({"block_size": 4}, ValueError, "block_size: expected"),
        ({"mask": "block_causal", "block_size": 0}, ValueError, "block_size: expected at least 1, got 0"),
        ({"mask": "shadow", "block_size": 4}, ValueError, "shadow_of: expected"),
        ({"shadow_of": 1}, ValueError, "shadow_of: expected"),
        (
            {"mask": "shadow", "block_size": 4, "shadow_of": 0, "hide_self": True},
            ValueError,
            "hide_self: expected False with mask=",
        ),
        ({"scale": 0.0}, ValueError, "scale: expected a positive number, got 0.0"),
        ({"scale": float("nan")}, ValueError, "scale: expected a positive number, got nan"),
        ({"k": torch.zeros(2, 2, 6, 32, device="meta")}, ValueError, "k: expected device cpu"),
    ],
)
def test_errors_name_the_argument(change, error, text):
    q, k, v = heads(2, 6, 32)
    with pytest.raises(error, match=text):
        bidirectional_attention(**{"q": q, "k": k, "v": v, **change})


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"q": torch.zeros(3, 40)}, r"q: expected shape \[B, Hq, Sq, D\]"),
        ({"q": torch.zeros(2, 4, 5, 48)}, "q: expected D to be a multiple of 32"),
        ({"q": torch.zeros(2, 3, 5, 32)}, "k: .* with Hkv dividing Hq"),
        ({"k": torch.zeros(2, 2, 12, 64)}, r"k: expected shape \[2, 2, 12, 32\]"),
        ({"v": torch.zeros(2, 2, 12, 32).half()}, "v: expected the dtype of q"),
        ({"v": torch.zeros(2, 2, 32, 12).mT}, "v: expected a contiguous last dimension"),
        ({"q_positions": None}, "q_positions: needed where Sq is not Sk"),
        ({"q_positions": torch.zeros(4).long()}, r"q_positions: expected shape \[5\]"),
        ({"mask": 3}, "mask: expected 0"),
        ({"block_size": 0}, "block_size: expected at least 1"),
        ({"shadow_of": None}, "shadow_of: needed with a shadow mask"),
        ({"scale": -1.0}, "scale: expected a positive number"),
        ({"lengths": torch.ones(2)}, "lengths: expected dtype int64"),
    ],
)
def test_native_checks_hold_without_the_wrapper(changes, text):
    with pytest.raises(RuntimeError, match=text):
        OP(*native_arguments(**changes))
