"""score_hidden: every statistic and one draw per row from hidden states, at the size of LLaDA-8B's output layer.

Floor: torch's bare product, one GEMM into logits that are there already. Peers: the layer as torch runs it and
score_tokens on its logits; for the greedy case what a user has today, argmax and its probability from logits. The 1 GB
of the layer's weights stream from memory in all of them. Memory is what a call holds beyond its inputs: against 259 MB
of bfloat16 logits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mdmcorrect.ops import score_hidden, score_tokens

ROWS, WIDTH, VOCAB = 1024, 4096, 126464


def layer(device: torch.device, rows: int = ROWS) -> tuple[Tensor, Tensor]:
    """Hidden states and weights that make logits of spread 2, and for each row a few ids that stand out."""
    random: dict[str, Any] = {"generator": torch.Generator(device).manual_seed(0), "device": device}
    hidden = torch.randn(rows, WIDTH, **random)
    weight = torch.empty(VOCAB, WIDTH, dtype=torch.bfloat16, device=device)
    some = (torch.randn(8192, WIDTH, **random) * (2 / WIDTH**0.5)).bfloat16()
    for first in range(0, VOCAB, len(some)):  # the others are these with their dimensions rolled
        weight[first : first + len(some)] = some.roll(first // len(some), 1)[: VOCAB - first]
    liked = torch.randint(0, VOCAB, (rows, 4), **random)
    weight.index_add_(0, liked.flatten(), (hidden[:, None].expand(-1, 4, -1) / 400).flatten(0, 1).bfloat16())
    return hidden.bfloat16(), weight


def product(hidden: Tensor, weight: Tensor) -> Callable[[], Tensor]:
    logits = torch.empty(len(hidden), len(weight), dtype=hidden.dtype, device=hidden.device)
    return lambda: torch.mm(hidden, weight.T, out=logits)


def greedy(hidden: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    logits = F.linear(hidden, weight)
    token = logits.argmax(-1)
    return token, torch.softmax(logits, -1).gather(-1, token[:, None])[:, 0]


@pytest.mark.parametrize("temperature", [0.0, 1.0, 0.7])
def test_score_hidden(versus, device, temperature):
    hidden, weight = layer(device)
    versus(
        lambda: score_hidden(hidden, weight, temperature=temperature, seed=1),
        floor=product(hidden, weight),
        peers={"linear, score_tokens": lambda: score_tokens(F.linear(hidden, weight), temperature=temperature, seed=1)},
        flops=2.0 * ROWS * WIDTH * VOCAB,
        memory=True,
    )


def test_score_hidden_greedy(versus, device):
    hidden, weight = layer(device)
    versus(
        lambda: score_hidden(hidden, weight, want=("token", "confidence")),
        floor=product(hidden, weight),
        peers={"linear, argmax, softmax": lambda: greedy(hidden, weight)},
        flops=2.0 * ROWS * WIDTH * VOCAB,
        memory=True,
    )


def test_score_hidden_top_p(versus, device):
    """Rows are needed whole: a few at a time, and the weights once for each few."""
    hidden, weight = layer(device)
    versus(
        lambda: score_hidden(hidden, weight, temperature=1.0, top_p=0.9, seed=1),
        floor=product(hidden, weight),
        peers={
            "linear, score_tokens": lambda: score_tokens(F.linear(hidden, weight), temperature=1.0, top_p=0.9, seed=1)
        },
        flops=2.0 * ROWS * WIDTH * VOCAB,
        memory=True,
    )


def test_score_hidden_some_rows(versus, timer, device):
    """A block of 32 positions out of 1024: rows that are not asked for are not multiplied."""
    hidden, weight = layer(device)
    rows = torch.arange(512, 544, device=device)
    block = hidden[512:544]
    versus(
        lambda: score_hidden(hidden, weight, row_index=rows, temperature=1.0, seed=1),
        floor=product(block, weight),
        peers={
            "moving the weights": timer.move(weight),
            "ours, every row": lambda: score_hidden(hidden, weight, temperature=1.0, seed=1),
        },
        flops=2.0 * len(rows) * WIDTH * VOCAB,
        memory=True,
    )
