"""What the benchmarks compare with on a device, as far as it runs without one."""

from __future__ import annotations

import sys
from itertools import pairwise
from types import ModuleType

import peers
import pytest
import torch
from torch.nn import functional as F

from mdmcorrect.ops import bidirectional_attention

CUDA = torch.device("cuda")


def heads(length: int = 37):
    generator = torch.Generator().manual_seed(0)
    return (torch.randn(2, 3, length, 32, generator=generator) for _ in range(3))


def test_flex_attention_has_the_same_mask():
    q, k, v = heads()
    run = peers.flex_attention(q, k, v, peers.block_causal(8), compiled=False)
    torch.testing.assert_close(run(), bidirectional_attention(q, k, v, mask="block_causal", block_size=8))
    lengths = torch.tensor([11, 37])
    run = peers.flex_attention(q, k, v, peers.padded(lengths), compiled=False)
    torch.testing.assert_close(run(), bidirectional_attention(q, k, v, lengths=lengths))


def test_the_benchmarks_mask_for_torch_is_the_same():
    q, k, v = heads()
    place = torch.arange(q.shape[2])
    seen = peers.block_causal(8)(place, place, place[:, None], place[None])
    (run,) = peers.sdpa(q, k, v, attn_mask=seen).values()
    torch.testing.assert_close(run(), bidirectional_attention(q, k, v, mask="block_causal", block_size=8))


def test_backends_have_names_and_those_that_do_not_run_are_left_out(monkeypatch):
    """Pretending that tensors are on a device: which backend runs is then the context's, and torch's of the CPU."""
    asked = []

    class Pretended:
        device = CUDA

    def attend(q, k, v):
        asked.append([name for name, enabled in enabled_backends().items() if enabled])
        if asked[-1] == ["cuDNN"]:
            raise RuntimeError("No available kernel.\nAborting execution.")

    def enabled_backends():
        return {
            "FA2": torch.backends.cuda.flash_sdp_enabled(),
            "cuDNN": torch.backends.cuda.cudnn_sdp_enabled(),
            "memory-efficient": torch.backends.cuda.mem_efficient_sdp_enabled(),
            "math": torch.backends.cuda.math_sdp_enabled(),
        }

    monkeypatch.setattr(F, "scaled_dot_product_attention", attend)
    tensor = Pretended()
    with pytest.warns(UserWarning, match="left out: SDPA cuDNN: No available kernel. Aborting execution."):
        runs = peers.sdpa(tensor, tensor, tensor)
    assert list(runs) == ["SDPA", "SDPA FA2", "SDPA memory-efficient"]
    assert asked == [["FA2"], ["cuDNN"], ["memory-efficient"]]
    runs["SDPA FA2"]()
    assert asked[-1] == ["FA2"]


def test_packages_where_they_are_installed(monkeypatch):
    assert peers.losses(torch.device("cpu")) == {}
    for name in ("liger_kernel.transformers.functional", "cut_cross_entropy", "flash_attn_interface"):
        for depth in range(name.count(".") + 1):
            parent = name.rsplit(".", depth)[0]
            monkeypatch.setitem(sys.modules, parent, sys.modules.get(parent, ModuleType(parent)))

    def loss(hidden, weight, targets, ignore_index=-100, reduction="mean"):
        return F.cross_entropy(hidden @ weight.T, targets, ignore_index=ignore_index, reduction=reduction)

    monkeypatch.setattr(
        sys.modules["liger_kernel.transformers.functional"], "liger_fused_linear_cross_entropy", loss, raising=False
    )
    monkeypatch.setattr(sys.modules["cut_cross_entropy"], "linear_cross_entropy", loss, raising=False)
    found = peers.losses(CUDA)
    assert list(found) == ["Liger", "cut cross-entropy"]
    hidden, weight, targets = torch.eye(4), torch.ones(5, 4), torch.tensor([1, -100, 2, 0])
    for run in found.values():
        torch.testing.assert_close(run(hidden, weight, targets), 3 * torch.tensor(5.0).log())


def test_flash_attention_3_gets_tokens_before_heads(monkeypatch):
    """[B, S, H, D], and packed [tokens, H, D] with the ends of the sequences."""
    package = ModuleType("flash_attn_interface")

    def varlen(q, k, v, q_ends, k_ends, q_most, k_most):
        assert q_ends.dtype == torch.int32
        assert (q_ends.tolist(), q_most) == ([0, 11, 22], 11)
        parts = [tuple(x[a:b].transpose(0, 1) for x in (q, k, v)) for a, b in pairwise(q_ends)]
        return torch.stack([F.scaled_dot_product_attention(*part) for part in parts])

    package.flash_attn_func = lambda q, k, v: F.scaled_dot_product_attention(*(x.transpose(1, 2) for x in (q, k, v)))
    package.flash_attn_varlen_func = varlen
    q, k, v = heads()
    assert peers.flash_attention_3(q, k, v) == {}
    monkeypatch.setattr(peers, "_installed", lambda name, device: package)
    (run,) = peers.flash_attention_3(q, k, v).values()
    torch.testing.assert_close(run(), F.scaled_dot_product_attention(q, k, v))
    (run,) = peers.flash_attention_3(q, k, v, length=11).values()
    torch.testing.assert_close(run(), F.scaled_dot_product_attention(*(x[:, :, :11] for x in (q, k, v))))


def test_training_runs_backward():
    q, k, v = (x.requires_grad_() for x in heads())
    (run,) = peers.trained(peers.sdpa(q, k, v), torch.ones(2, 3, 37, 32)).values()
    run()
    assert q.grad is not None
    assert v.grad is not None
