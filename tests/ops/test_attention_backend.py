"""attention_backend: what it chooses, that it says so, and that either choice attends alike."""

from __future__ import annotations

import logging
import sys

import pytest
import torch
from crossings import Crossings, pretended
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F

from mdmcorrect import _kernels, reference
from mdmcorrect.ops import attention_backend, bidirectional_attention
from mdmcorrect.ops.attention_backend import AttentionBackend, _say_once, visible_keys
from mdmcorrect.selfcheck.inputs.attention import MASKINGS, arrays, heads, ragged

backends = sys.modules["mdmcorrect.ops.attention_backend"]  # its function hides the module's name


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("masking", MASKINGS.values(), ids=MASKINGS)
def test_masks_for_torch_are_the_references(masking, padded):
    options = {**(ragged(70) if padded else {}), **masking}
    for positions in (None, torch.tensor([-1, 0, 5, 66, 69, 70]), torch.arange(12).view(3, 4)):
        queries = 70 if positions is None else positions.shape[-1]
        given = options if positions is None else {**options, "q_positions": positions}
        expected = reference.visible_keys(3, queries, 70, **arrays(given))
        assert torch.equal(visible_keys(3, queries, 70, **given), torch.from_numpy(expected))


@pytest.mark.parametrize("masking", MASKINGS.values(), ids=MASKINGS)
def test_both_backends_attend_alike(masking):
    q, k, v = heads(3, 70, 32)
    options = {**ragged(70), **masking}
    expected = bidirectional_attention(q, k, v, **options)
    for name in ("mdmcorrect", "sdpa"):
        torch.testing.assert_close(AttentionBackend(name, "")(q, k, v, **options), expected, rtol=1e-5, atol=2e-6)
    torch.testing.assert_close(
        AttentionBackend("sdpa", "")(q, k, v, scale=0.3), bidirectional_attention(q, k, v, scale=0.3)
    )


def test_ours_where_there_is_a_kernel():
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        chosen = attention_backend(*heads(1, 5, 96, dtype))
        assert chosen.name == "mdmcorrect"
        assert "96 on cpu" in chosen.reason


@pytest.fixture(autouse=True)
def nothing_said_yet():
    _say_once.cache_clear()


@pytest.mark.parametrize(
    ("q", "reason"),
    [
        (torch.zeros(1, 2, 5, 41), "there is no kernel for heads 41 wide on cpu"),
        (torch.zeros(1, 2, 5, 288), "heads 288 wide on cpu"),
        (torch.zeros(1, 2, 5, 64, dtype=torch.float64), "ours of float64 is for gradient checks only"),
        (torch.zeros(4, 2, 1, 64), "it is the faster one for a single key"),
    ],
)
def test_falls_back_aloud(q, reason, caplog):
    with caplog.at_level(logging.WARNING, "mdmcorrect.ops.attention_backend"):
        chosen = attention_backend(q, q, q)
        attention_backend(q, q, q)
    assert (chosen.name, len(caplog.records)) == ("sdpa", 1)
    assert reason in chosen.reason
    assert reason in caplog.text
    torch.testing.assert_close(chosen(q, q, q, lengths=3)[:, :, 3:], torch.zeros_like(q)[:, :, 3:])


def test_a_graph_being_compiled_falls_back_aloud(caplog):
    compiled = torch.compile(lambda q: attention_backend(q, q, q)(q, q, q), fullgraph=True, backend="eager")
    q = torch.randn(1, 2, 5, 41)
    torch.testing.assert_close(compiled(q), F.scaled_dot_product_attention(q, q, q))
    assert "there is no kernel for heads 41 wide on cpu" in caplog.text


def test_values_as_wide_as_keys():
    q, v = torch.randn(1, 2, 5, 64), torch.randn(1, 2, 5, 32)
    chosen = attention_backend(q, q, v)
    assert (chosen.name, chosen.reason) == ("sdpa", "heads of values are 32 wide, those of keys 64")
    assert chosen(q, q, v).shape == v.shape


def test_a_mask_of_every_query_and_key():
    q, k, v = heads(2, 9, 32)
    seen = torch.rand(2, 1, 9, 9) < 0.7
    chosen = attention_backend(q, k, v, attn_mask=seen)
    assert (chosen.name, chosen.reason) == ("sdpa", "it was given a mask of every query and key")
    k, v = (x.repeat_interleave(2, 1) for x in (k, v))
    expected = F.scaled_dot_product_attention(q, k, v, attn_mask=seen)
    torch.testing.assert_close(chosen(q, k[:, ::2], v[:, ::2], attn_mask=seen), expected)
    for choice, masking in ((chosen, {"lengths": 3}), (attention_backend(q, k, v), {})):
        with pytest.raises(ValueError, match="attn_mask: expected no other masking, and a choice"):
            choice(q, k, v, attn_mask=seen, **masking)


ALL = {"bidirectional_attention", "bidirectional_attention_backward"}


@pytest.mark.parametrize(
    ("kernels", "dtype", "width", "training", "reason"),
    [
        (ALL, torch.bfloat16, 128, True, None),
        (ALL, torch.float16, 256, False, None),
        (ALL, torch.bfloat16, 160, False, None),
        (ALL, torch.float32, 64, False, "there is no kernel for float32 on cuda"),
        (ALL, torch.bfloat16, 192, True, "there is no backward kernel for heads 192 wide on cuda"),
        (ALL, torch.bfloat16, 80, False, "there is no kernel for heads 80 wide on cuda"),
        ({"bidirectional_attention"}, torch.bfloat16, 64, True, "there is no backward kernel on cuda"),
        (set(), torch.bfloat16, 64, False, "this build has no kernel for cuda tensors"),
    ],
)
def test_choices_on_cuda_by_the_description_of_tensors(kernels, dtype, width, training, reason, monkeypatch):
    monkeypatch.setattr(_kernels, "CUDA_OPS", frozenset(kernels))
    with FakeTensorMode():
        q, v = (torch.empty(1, 2, 5, width, dtype=dtype, device="cuda") for _ in range(2))
        v.requires_grad_(training)
        chosen = attention_backend(q, q, v)
        with torch.no_grad():
            inference = attention_backend(q, q, v)
    assert chosen.name == ("mdmcorrect" if reason is None else "sdpa")
    assert reason is None or chosen.reason == reason
    if training:
        assert inference.name == "mdmcorrect"


def test_a_device_without_kernels():
    q = torch.zeros(1, 2, 5, 64, device="meta")
    chosen = attention_backend(q, q, q)
    assert (chosen.name, chosen.reason) == ("sdpa", "this build has no kernel for meta tensors")


def test_no_log_sum_exp_from_a_choice():
    q, k, v = heads(1, 5, 32)
    with pytest.raises(ValueError, match="return_lse: call bidirectional_attention itself"):
        attention_backend(q, k, v)(q, k, v, return_lse=True)


@pytest.fixture
def on_device(monkeypatch):
    """A CUDA device of some capability that is made up, and who attended on it."""
    monkeypatch.setattr(_kernels, "CUDA_OPS", frozenset(ALL))

    def pretend(capability: tuple[int, int]) -> list[str]:
        monkeypatch.setattr(backends, "_capability", lambda index: capability)
        attended: list[str] = []

        def attend(name):
            return lambda q, *others, **options: attended.append(name) or torch.empty_like(q)

        monkeypatch.setattr(F, "scaled_dot_product_attention", attend("torch"))
        monkeypatch.setattr(backends, "bidirectional_attention", attend("ours"))
        return attended

    return pretend


DENSE = [{}, {"starts": None, "lengths": None, "mask": "full", "hide_self": False, "block_size": None}]
MASKED = [
    {"lengths": 5},
    {"lengths": 0},
    {"starts": 0},
    {"lengths": "tensor"},
    {"q_positions": "tensor"},
    {"hide_self": True},
    {"mask": "block_causal", "block_size": 4},
]


@pytest.mark.parametrize(
    ("capability", "dtype", "keep", "dense"),
    [
        ((9, 0), torch.bfloat16, False, "torch"),
        ((9, 0), torch.float16, False, "torch"),
        ((10, 0), torch.bfloat16, False, "torch"),
        ((9, 0), torch.bfloat16, True, "ours"),
        ((8, 0), torch.bfloat16, False, "ours"),
        ((8, 9), torch.bfloat16, False, "ours"),
        ((12, 0), torch.bfloat16, False, "ours"),
        ((0, 0), torch.bfloat16, False, "ours"),
    ],
)
def test_dense_calls_go_to_torch_where_it_is_ahead(on_device, capability, dtype, keep, dense):
    attended = on_device(capability)
    with FakeTensorMode():
        q = torch.empty(2, 2, 8, 64, dtype=dtype, device="cuda")
        numbers = torch.empty(2, dtype=torch.int64, device="cuda")
        chosen = attention_backend(q, q, q, batch_invariant=keep)
        for masking in DENSE:
            chosen(q, q, q, **masking)
        for masking in MASKED:
            chosen(q, q, q, **{name: numbers if value == "tensor" else value for name, value in masking.items()})
    assert chosen.name == "mdmcorrect"
    assert bool(chosen.dense) == (dense == "torch")
    assert attended == [dense] * len(DENSE) + ["ours"] * len(MASKED)


def test_a_dense_call_of_other_rows_is_ours(on_device):
    """Rows of q that stand among more keys without saying where: our operator's error, not torch's guess."""
    attended = on_device((9, 0))
    with FakeTensorMode():
        q, k = (torch.empty(2, 2, rows, 64, dtype=torch.bfloat16, device="cuda") for rows in (4, 8))
        attention_backend(q, k, k)(q, k, k)
    assert attended == ["ours"]


def test_dense_calls_attend_alike_and_compile():
    q, k, v = heads(2, 70, 32)
    chosen = AttentionBackend("mdmcorrect", "", "torch's is ahead")
    torch.testing.assert_close(chosen(q, k, v), bidirectional_attention(q, k, v))
    compiled = torch.compile(lambda q: attention_backend(q, q, q)(q, q, q), fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(q), bidirectional_attention(q, q, q))
    with pytest.raises(ValueError, match="return_lse: call bidirectional_attention itself"):
        chosen(q, k, v, return_lse=True)


@pytest.mark.parametrize("padding", [{}, {"starts": 2, "lengths": 50}, ragged(70)], ids=["none", "numbers", "tensors"])
@pytest.mark.parametrize("masking", MASKINGS.values(), ids=MASKINGS)
def test_neither_backend_asks_the_host(masking, padding, monkeypatch):
    """So a model that attends by them waits for nothing, and is captured in a CUDA graph."""
    monkeypatch.setattr(_kernels, "CUDA_OPS", frozenset({"bidirectional_attention"}))
    given = (heads(3, 70, 64, torch.bfloat16), {**padding, **masking})
    with FakeTensorMode():
        (q, k, v), options = pretended(given)
        with Crossings():
            attend = attention_backend(q, k, v)
            assert attend.name == "mdmcorrect"
            assert attend(q, k, v, **options).shape == q.shape
            assert AttentionBackend("sdpa", "")(q, k, v, **options).shape == q.shape
