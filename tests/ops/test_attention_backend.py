"""attention_backend: what it chooses, that it says so, and that either choice attends alike."""

from __future__ import annotations

import logging

import pytest
import torch
from attention import MASKINGS, arrays, heads, ragged

from mdmcorrect import reference
from mdmcorrect.ops import attention_backend, bidirectional_attention
from mdmcorrect.ops.attention_backend import AttentionBackend, visible_keys


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
        q, k, _ = heads(1, 5, 96, dtype)
        chosen = attention_backend(q, k)
        assert chosen.name == "mdmcorrect"
        assert "96 on cpu" in chosen.reason


@pytest.mark.parametrize(
    ("q", "reason"),
    [
        (torch.zeros(1, 2, 5, 41), "there is no kernel for heads 41 wide on cpu"),
        (torch.zeros(1, 2, 5, 288), "heads 288 wide on cpu"),
        (torch.zeros(1, 2, 5, 64, dtype=torch.float64), "there is no kernel for float64 on cpu"),
    ],
)
def test_falls_back_aloud(q, reason, caplog):
    from mdmcorrect.ops.attention_backend import _fallback

    _fallback.cache_clear()
    with caplog.at_level(logging.WARNING, "mdmcorrect.ops.attention_backend"):
        chosen = attention_backend(q, q)
        attention_backend(q, q)
    assert (chosen.name, len(caplog.records)) == ("sdpa", 1)
    assert reason in chosen.reason
    assert reason in caplog.text
    torch.testing.assert_close(chosen(q, q, q, lengths=3)[:, :, 3:], torch.zeros_like(q)[:, :, 3:])


def test_a_device_without_kernels():
    q = torch.zeros(1, 2, 5, 64, device="meta")
    chosen = attention_backend(q, q)
    assert chosen.name == "sdpa"
    assert "meta" in chosen.reason


def test_no_log_sum_exp_from_a_choice():
    q, k, v = heads(1, 5, 32)
    with pytest.raises(ValueError, match="return_lse: call bidirectional_attention itself"):
        attention_backend(q, k)(q, k, v, return_lse=True)
