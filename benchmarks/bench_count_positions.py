"""count_positions: how many positions each row may commit.

Floor: moving the scores once. Peers: the same rules as one tensor expression, eager and compiled, and Fast-dLLM's
way, a loop over rows and sorted positions that asks the host about each.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mdmcorrect.ops import count_positions

SHAPES = [(1, 1024), (16, 1024), (64, 4096)]
BOUNDS = {"threshold": 0.9, "factor": 1.0, "entropy_bound": 0.5}


def confidences(batch: int, length: int, device: torch.device) -> Tensor:
    """Like a model's: most positions nearly sure, a long tail of doubtful ones."""
    generator = torch.Generator(device).manual_seed(length)
    return torch.sigmoid(4.0 + 3.0 * torch.randn(batch, length, generator=generator, device=device))


def expression(scores: Tensor, eligible: Tensor, rule: str, bound: float) -> Tensor:
    if rule == "threshold":
        return ((scores >= bound) & eligible).sum(1)
    if rule == "factor":
        ordered = scores.masked_fill(~eligible, -1.0).sort(dim=1, descending=True).values
        ok = ordered >= 1 - bound / (torch.arange(scores.shape[1], device=scores.device) + 2)
    else:
        ordered = scores.masked_fill(~eligible, float("inf")).sort(dim=1).values
        ok = (ordered.cumsum(1) - ordered <= bound) & (ordered < float("inf"))
    return ok.long().cumprod(1).sum(1)


def host_loop(scores: Tensor, eligible: Tensor, rule: str, bound: float) -> Tensor:
    counts = []
    for row in range(len(scores)):
        ordered = scores[row][eligible[row]].sort(descending=rule != "entropy_bound").values
        number, total = 0, 0.0
        for value in ordered:
            limit = bound if rule != "factor" else 1 - bound / (number + 2)
            if (total > limit) if rule == "entropy_bound" else (value < limit):
                break
            total += float(value)
            number += 1
        counts.append(number)
    return torch.tensor(counts)


@pytest.mark.parametrize("rule", BOUNDS)
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: f"{shape[0]}x{shape[1]}")
def test_count_positions(versus, timer, device, shape, rule):
    scores = confidences(*shape, device)
    if rule == "entropy_bound":
        scores = -scores * scores.log()
    eligible = torch.rand(shape, generator=torch.Generator(device).manual_seed(1), device=device) < 0.75
    compiled = torch.compile(expression)
    versus(
        lambda: count_positions(scores, rule, BOUNDS[rule], eligible=eligible),
        floor=timer.move(scores),
        peers={
            "eager torch": lambda: expression(scores, eligible, rule, BOUNDS[rule]),
            "torch.compile": lambda: compiled(scores, eligible, rule, BOUNDS[rule]),
            "host loop": lambda: host_loop(scores, eligible, rule, BOUNDS[rule]),
        },
        bytes_moved=scores.nbytes + eligible.nbytes,
    )
