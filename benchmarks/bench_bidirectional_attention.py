"""bidirectional_attention against torch's scaled_dot_product_attention, and against itself with less to do.

On CUDA each backend of torch's is a peer of its own, and FlexAttention with the same mask and FlashAttention-3 where
they are (benchmarks/peers.py).

Floor: one thread's share of the multiplications that the products of attention take, all operands in the first-level
cache: vdpbf16ps for bfloat16 where the machine has it, else float32 FMA. On CUDA a GEMM of as many multiplications.
"""

from __future__ import annotations

from collections.abc import Callable

import peers
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mdmcorrect import _native
from mdmcorrect.ops import bidirectional_attention

SHAPES = [(1, 32, 1024, 128), (8, 12, 1024, 64)]
LONG = (4, 32, 4096, 128)  # on CUDA
BLOCK = 32
SHORT = [(1, 8, 1, 64), (1, 8, 8, 64), (1, 8, 33, 256), (1, 32, 64, 128)]
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


def inputs(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Queries that resemble some keys more than others, so that softmax is neither flat nor one-hot."""
    generator = torch.Generator(device).manual_seed(0)
    k, v, q = (torch.randn(shape, generator=generator, device=device) for _ in range(3))
    return (q + k.roll(1, 2)).to(dtype), k.to(dtype), v.to(dtype)


def products(flops: float, dtype: torch.dtype, device: torch.device) -> Callable[[], object]:
    """A call that does that many multiplications and additions: a GEMM, or on the CPU one thread's share of them."""
    if device.type == "cuda":
        side = max(128, round((flops / 2) ** (1 / 3) / 128) * 128)
        depth = max(8, round(flops / 2 / side**2 / 8) * 8)
        left, right = torch.randn(2, side, depth, device=device).to(dtype)
        return lambda: left @ right.mT
    host = pytest.importorskip("mdmcorrect._host", reason="built without pybind11")
    isa = _native.build_info()["isa"]
    pairs = dtype == torch.bfloat16 and host.multiply_probe(isa, True, 1) > 0
    threads = torch.get_num_threads()
    repeats = max(1, round(flops / threads / host.multiply_probe(isa, pairs, 1)))
    return lambda: host.multiply_probe(isa, pairs, repeats)


def forward_flops(shape: tuple[int, ...]) -> float:
    batch, heads, length, width = shape
    return 4.0 * batch * heads * length * length * width


def moved(*tensors: Tensor) -> int:
    return sum(tensor.nbytes for tensor in tensors)


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
@pytest.mark.parametrize("shape", [*SHAPES, LONG], ids=str)
def test_bidirectional_attention(versus, device, shape, dtype):
    if device.type == "cuda" and dtype == torch.float32:
        pytest.skip("the CUDA kernels take 16-bit inputs")
    if device.type == "cpu" and shape == LONG:
        pytest.skip("takes a CPU seconds a call")
    q, k, v = inputs(shape, dtype, device)
    versus(
        lambda: bidirectional_attention(q, k, v),
        floor=products(forward_flops(shape), dtype, device),
        peers={**peers.sdpa(q, k, v), **peers.flash_attention_3(q, k, v)},
        bytes_moved=moved(q, k, v, q),
    )


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_bidirectional_attention_blocks(versus, device, shape):
    """Blocks of 32 that see themselves and those before, as block diffusion decodes."""
    q, k, v = inputs(shape, torch.bfloat16, device)
    mask = peers.block_causal(BLOCK)
    place = torch.arange(shape[2], device=device)
    seen = mask(place, place, place[:, None], place[None])
    versus(
        lambda: bidirectional_attention(q, k, v, mask="block_causal", block_size=BLOCK),
        floor=products(forward_flops(shape) * float(seen.float().mean()), torch.bfloat16, device),
        peers={**peers.sdpa(q, k, v, name="SDPA with a mask", attn_mask=seen), **peers.flex(q, k, v, mask)},
        bytes_moved=moved(q, k, v, q),
    )


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
@pytest.mark.parametrize("shape", SHORT, ids=str)
def test_bidirectional_attention_short(versus, device, shape, dtype):
    """Where a call's fixed cost shows; attention_backend leaves the first to torch."""
    if device.type == "cuda" and dtype == torch.float32:
        pytest.skip("the CUDA kernels take 16-bit inputs")
    q, k, v = inputs(shape, dtype, device)
    versus(
        lambda: bidirectional_attention(q, k, v),
        floor=products(forward_flops(shape), dtype, device),
        peers=peers.sdpa(q, k, v),
        bytes_moved=moved(q, k, v, q),
    )


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_bidirectional_attention_half_padding(versus, device, shape):
    q, k, v = inputs(shape, torch.bfloat16, device)
    lengths = torch.full((shape[0],), shape[2] // 2, device=device)
    seen = torch.arange(shape[2], device=device) < lengths[:, None, None, None]
    versus(
        lambda: bidirectional_attention(q, k, v, lengths=lengths),
        floor=products(forward_flops(shape) / 4, torch.bfloat16, device),
        peers={
            "ours, dense": lambda: bidirectional_attention(q, k, v),
            **peers.sdpa(q, k, v, name="SDPA with a mask", attn_mask=seen),
            **peers.flex(q, k, v, peers.padded(lengths)),
            **peers.flash_attention_3(q, k, v, length=shape[2] // 2),
        },
        bytes_moved=moved(q, k, v) // 2 + q.nbytes,
    )


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_bidirectional_attention_some_rows(versus, device, shape):
    """64 of 1024 rows: what a correction step asks for."""
    q, k, v = inputs(shape, torch.bfloat16, device)
    positions = torch.arange(5, shape[2], 16, device=device)
    some = q[:, :, positions]
    versus(
        lambda: bidirectional_attention(some, k, v, q_positions=positions),
        floor=products(forward_flops(shape) / 16, torch.bfloat16, device),
        peers={
            "ours, all rows": lambda: bidirectional_attention(q, k, v),
            "SDPA of those rows": lambda: F.scaled_dot_product_attention(some, k, v),
        },
        bytes_moved=moved(some, k, v, some),
    )


def test_bidirectional_attention_training(versus, device):
    """Forward and backward; the backward pass multiplies five times where the forward pass does twice."""
    shape = (4, 12, 512, 64)
    q, k, v = (x.requires_grad_() for x in inputs(shape, torch.bfloat16, device))
    grad = inputs(shape, torch.bfloat16, device)[2]
    versus(
        lambda: bidirectional_attention(q, k, v).backward(grad),
        floor=products(3.5 * forward_flops(shape), torch.bfloat16, device),
        peers=peers.trained(peers.sdpa(q, k, v), grad),
        bytes_moved=3 * moved(q, k, v, q),
    )
