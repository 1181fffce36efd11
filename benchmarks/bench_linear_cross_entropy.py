"""linear_cross_entropy: a training step's loss and its gradients from hidden states, on the rows that are masked.

Floor: the three products of the plain expression alone, by torch: logits, and their gradient times weight and times
hidden. Peer: that expression on the same rows, `F.cross_entropy(hidden[rows] @ weight.T, targets[rows])`, forward and
backward, eager and compiled; on CUDA also Liger and cut cross-entropy where they are installed. Memory is beyond
inputs and gradients.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import peers
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mdmcorrect.ops import linear_cross_entropy

ROWS, WIDTH, VOCAB, SMOKE_VOCAB = 2048, 1024, 50257, 1001
COUNTED = 0.3


def problem(vocab: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden states, an output layer that makes logits of spread 3 from them, and targets at the counted rows."""
    random: dict[str, Any] = {"generator": torch.Generator(device).manual_seed(0), "device": device}
    hidden = torch.randn(ROWS, WIDTH, **random).to(dtype)
    weight = torch.randn(vocab, WIDTH, **random).mul_(3 / WIDTH**0.5).to(dtype)
    targets = torch.randint(0, vocab, (ROWS,), **random)
    return hidden, weight, targets.masked_fill(torch.rand(ROWS, **random) >= COUNTED, -100)


def step(loss: Callable[..., Tensor], hidden: Tensor, weight: Tensor, *arguments: Tensor) -> Callable[[], object]:
    """Forward and backward; returns the gradients."""

    def run() -> tuple[Tensor, ...]:
        inputs = hidden.detach().requires_grad_(), weight.detach().requires_grad_()
        return torch.autograd.grad(loss(*inputs, *arguments), inputs)

    return run


def plain(hidden: Tensor, weight: Tensor, targets: Tensor, rows: Tensor) -> Tensor:
    return F.cross_entropy(hidden[rows] @ weight.T, targets[rows], reduction="sum")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=["bf16", "fp32"])
def test_linear_cross_entropy(versus, sized, device, dtype):
    hidden, weight, targets = problem(sized(VOCAB, SMOKE_VOCAB), dtype, device)
    rows = (targets != -100).nonzero()[:, 0]
    counted = hidden[rows]
    gradient = (counted @ weight.T).div_(len(rows))

    def products() -> None:
        counted @ weight.T
        gradient @ weight
        gradient.T @ counted

    versus(
        step(linear_cross_entropy, hidden, weight, targets),
        floor=products,
        peers={
            "eager torch": step(plain, hidden, weight, targets, rows),
            "torch.compile": step(torch.compile(plain), hidden, weight, targets, rows),
            **peers.running({name: step(loss, hidden, weight, targets) for name, loss in peers.losses(device).items()}),
        },
        flops=3 * 2.0 * len(rows) * weight.numel(),
        memory=True,
    )


def test_linear_cross_entropy_forward(versus, sized, device):
    """Evaluation: no gradients."""
    hidden, weight, targets = problem(sized(VOCAB, SMOKE_VOCAB), torch.bfloat16, device)
    rows = (targets != -100).nonzero()[:, 0]
    counted = hidden[rows]
    versus(
        lambda: linear_cross_entropy(hidden, weight, targets),
        floor=lambda: counted @ weight.T,
        peers={"eager torch": lambda: plain(hidden, weight, targets, rows)},
        flops=2.0 * len(rows) * weight.numel(),
        memory=True,
    )
