"""remask_step: one update of the canvas in two bands, with counts that differ per row.

Floor: one plain copy of the tokens. Peers: the same update as a tensor expression of torch (two rankings by sorting,
then torch.where), eager and compiled; as much as a sampler written in torch can do without reading counts back to the
host.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from mdmcorrect.ops import remask_step

MASK = 126336
SHAPES = [(1, 1024), (16, 1024), (64, 4096)]


def canvas(batch: int, length: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens half committed, proposals, and confidences that look like a model's."""
    random: dict[str, Any] = {"generator": torch.Generator(device).manual_seed(length), "device": device}
    tokens = torch.randint(0, MASK, (batch, length), **random)
    proposals = torch.randint(0, MASK, (batch, length), **random)
    tokens[torch.rand(batch, length, **random) < 0.5] = MASK
    return tokens, proposals, torch.sigmoid(4.0 + 3.0 * torch.randn(batch, length, **random))


def first_of(keys: Tensor, taking_part: Tensor, k: Tensor) -> Tensor:
    order = keys.masked_fill(~taking_part, float("-inf")).argsort(dim=1, descending=True, stable=True)
    first = torch.arange(keys.shape[1], device=keys.device) < k[:, None]
    return torch.zeros_like(taking_part).scatter(1, order, first) & taking_part


def in_torch(tokens: Tensor, proposals: Tensor, score: Tensor, fixed: Tensor, unmask: Tensor, remask: Tensor) -> Tensor:
    masked = tokens == MASK
    committed = first_of(score, masked & ~fixed, unmask)
    short = (unmask - committed.sum(1)).clamp(min=0)
    remasked = first_of(-score, ~masked & ~fixed, (remask - short).clamp(min=0))
    return torch.where(committed, proposals, torch.where(remasked, MASK, tokens))


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: f"{shape[0]}x{shape[1]}")
def test_remask_step(versus, device, shape):
    tokens, proposals, score = canvas(*shape, device)
    fixed = (torch.arange(shape[1], device=device) < shape[1] // 8).expand(shape)
    unmask = torch.arange(shape[0], device=device) % 5 + 8
    remask = torch.arange(shape[0], device=device) % 3 + 2
    compiled = torch.compile(in_torch)

    def ours() -> Tensor:
        return remask_step(
            tokens,
            proposals,
            unmask_score=score,
            keep_score=score,
            unmask_count=unmask,
            remask_count=remask,
            mask_id=MASK,
            fixed=fixed,
        )[0]

    assert torch.equal(ours(), in_torch(tokens, proposals, score, fixed, unmask, remask))
    versus(
        ours,
        floor=tokens.clone,
        peers={
            "eager torch": lambda: in_torch(tokens, proposals, score, fixed, unmask, remask),
            "torch.compile": lambda: compiled(tokens, proposals, score, fixed, unmask, remask),
        },
        bytes_moved=3 * tokens.nbytes + score.nbytes + 2 * tokens.numel(),
    )
