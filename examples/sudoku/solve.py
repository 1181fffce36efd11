"""Run a sampler over puzzles and count what it solved, per puzzle."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mdmcorrect._native import build_info

from .checkpoints import load_checkpoint
from .puzzles import MASK, Puzzles, is_solved

__all__ = ["BoardModel", "Solved", "solve"]


class BoardModel:
    """A checkpoint as the samplers see it: no gradients, bfloat16 products where the machine multiplies bfloat16."""

    def __init__(self, module: nn.Module | Path) -> None:
        self.module = load_checkpoint(module) if isinstance(module, Path) else module.eval()

    def __call__(
        self,
        tokens: Tensor,
        condition: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
    ) -> Any:
        # Elsewhere a processor takes a bfloat16 product apart into float32 ones, several times as slowly.
        half = tokens.is_cuda or "avx512_bf16" in build_info()["isas_supported"]
        with torch.inference_mode(), torch.autocast(tokens.device.type, dtype=torch.bfloat16, enabled=half):
            return self.module(tokens, condition, attention_mask=attention_mask, position_ids=position_ids)


@dataclass
class Solved:
    """Per puzzle: whether its board is valid and complete, the share of its blanks that is right, and calls used."""

    solved: Tensor
    cells: Tensor
    nfe: Tensor
    seconds: float
    boards: Tensor

    @property
    def rate(self) -> float:
        return self.solved.float().mean().item()


def solve(
    model: Callable[..., Any], puzzles: Puzzles, sampler: Callable[..., Any], *, seed: int = 0, batch: int = 250
) -> Solved:
    """Fill every puzzle with `sampler`; a puzzle's draws depend on `seed` and its index, not on the batch."""
    parts, started = [], time.perf_counter()
    for first in range(0, len(puzzles), batch):
        index = torch.arange(first, min(first + batch, len(puzzles)))
        seeds = (seed << 32) + index
        clues = puzzles.clues[index]
        given = clues != MASK
        parts.append(sampler(model, clues, mask_id=MASK, condition=given, seed=seeds, on_interrupt="raise"))
    boards = torch.cat([part.tokens for part in parts])
    blank = puzzles.clues == MASK
    right = ((boards == puzzles.solutions) & blank).sum(1) / blank.sum(1)
    return Solved(
        solved=is_solved(puzzles.geometry, boards),
        cells=right,
        nfe=torch.cat([part.nfe for part in parts]),
        seconds=time.perf_counter() - started,
        boards=boards,
    )
