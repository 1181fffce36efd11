"""select_positions: the k best, or a Gumbel top-k draw, of every row.

Floor: moving the scores once. Peers: what samplers do today with counts that differ per row, as one tensor
expression (rank by sorting twice) eager and compiled, and as LLaDA's loop over rows around torch.topk; and one topk for
the batch, which can neither leave positions out nor give rows their own counts.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mdmcorrect.ops import select_positions

SHAPES = [(1, 1024), (16, 1024), (64, 4096), (1, 65536)]


def confidences(batch: int, length: int, device: torch.device) -> Tensor:
    """Like a model's: most positions nearly sure, a long tail of doubtful ones, a quarter of them not eligible."""
    generator = torch.Generator(device).manual_seed(length)
    return torch.sigmoid(4.0 + 3.0 * torch.randn(batch, length, generator=generator, device=device))


def ranked(scores: Tensor, k: Tensor, eligible: Tensor, temperature: float) -> Tensor:
    keys = scores.masked_fill(~eligible, float("-inf"))
    if temperature > 0:
        keys = keys / temperature - torch.empty_like(keys).exponential_().log()
    order = keys.argsort(dim=1, descending=True, stable=True)
    first = torch.arange(keys.shape[1], device=keys.device) < k[:, None]
    return torch.zeros_like(eligible).scatter(1, order, first) & eligible


def topk_loop(scores: Tensor, k: Tensor, eligible: Tensor, temperature: float) -> Tensor:
    keys = scores.masked_fill(~eligible, float("-inf"))
    if temperature > 0:
        keys = keys / temperature - torch.empty_like(keys).exponential_().log()
    chosen = torch.zeros_like(eligible)
    for row in range(len(keys)):
        chosen[row, keys[row].topk(int(k[row])).indices] = True
    return chosen


def batched_topk(scores: Tensor, k: int, temperature: float) -> Tensor:
    if temperature > 0:
        scores = scores / temperature - torch.log(-torch.log(torch.rand_like(scores)))
    return scores.topk(k).indices


@pytest.mark.parametrize("temperature", [0.0, 1.0], ids=["rank", "gumbel"])
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: f"{shape[0]}x{shape[1]}")
def test_select_positions(versus, timer, device, shape, temperature):
    scores = confidences(*shape, device)
    eligible = torch.rand(shape, generator=torch.Generator(device).manual_seed(1), device=device) < 0.75
    k = torch.arange(shape[0], device=device) % 7 + shape[1] // 64
    seed = torch.arange(shape[0], device=device)
    compiled = torch.compile(ranked)
    versus(
        lambda: select_positions(scores, k, eligible=eligible, temperature=temperature, seed=seed),
        floor=timer.move(scores),
        peers={
            "eager torch": lambda: ranked(scores, k, eligible, temperature),
            "torch.compile": lambda: compiled(scores, k, eligible, temperature),
            "loop of topk": lambda: topk_loop(scores, k, eligible, temperature),
            "one topk": lambda: batched_topk(scores, shape[1] // 64, temperature),
        },
        bytes_moved=scores.nbytes + 2 * eligible.nbytes,
    )
