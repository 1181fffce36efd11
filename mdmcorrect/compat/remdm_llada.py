"""guanghanwang/ReMDM-LLaDA, ``eval_llada.py``: the two samplers of its harness (arXiv 2503.00307, section 5)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .. import _checks, ops, rng
from . import _common as common
from ._steps import best_of, propose

__all__ = ["llada_conf_sample", "llada_remdm_sample"]


def llada_conf_sample(self: Any, prompt: Tensor, *, seed: int | Tensor | torch.Generator | None = None) -> Tensor:
    """For ``LLaDAEvalHarness.llada_conf_sample``: LLaDA's blocks, proposals drawn at temperature 1.

    Reads ``self.model``, ``mask_id``, ``mask_length``, ``block_size``, ``sampling_steps`` and
    ``tokenizer.eos_token_id``. Every step commits ``mask_length / sampling_steps`` proposals, the most probable ones. A
    row ends with a block after which it holds an end of sequence, prompt included; later blocks then stay masked.

    Args:
        prompt: int64 ``[B, P]``; the original takes one row.
        seed: default drawn from torch's global generator.

    Returns:
        int64 ``[B, P + mask_length]``.

    Raises:
        ValueError: lengths that do not divide.
    """
    return _sample(_Settings.of(self), self.model, prompt, 0, seed)


def llada_remdm_sample(self: Any, prompt: Tensor, *, seed: int | Tensor | torch.Generator | None = None) -> Tensor:
    """For ``LLaDAEvalHarness.llada_remdm_sample``: the same, and a block's least probable tokens are masked again.

    Of a block's ``2 S`` steps, the S from ``7/8 block_size`` on mask the ``self.remdm_number`` tokens of the
    block that were least probable when committed, and commit as many. Steps without a mask make no forward.

    Args:
        prompt, seed: as for :func:`llada_conf_sample`.

    Returns, Raises: as there.
    """
    return _sample(_Settings.of(self), self.model, prompt, _checks.integer("remdm_number", self.remdm_number), seed)


@dataclass(frozen=True)
class _Settings:
    mask_id: int
    block: int
    blocks: int
    steps: int  # of a block
    count: int  # commits of a step
    eos_id: int

    @classmethod
    def of(cls, harness: Any) -> _Settings:
        names = ("mask_length", "block_size", "sampling_steps")
        length, block, steps = common.lengths(**{name: getattr(harness, name) for name in names})
        blocks = common.check_divides("mask_length", length, "block_size", block)
        count = common.check_divides("mask_length", length, "sampling_steps", steps)
        each = common.check_divides("sampling_steps", steps, "the number of blocks", blocks)
        mask_id = _checks.token_id("mask_id", harness.mask_id)
        return cls(mask_id, block, blocks, each, count, harness.tokenizer.eos_token_id)


@torch.no_grad()
def _sample(
    settings: _Settings, model: Any, prompt: Tensor, exchanged: int, seed: int | Tensor | torch.Generator | None
) -> Tensor:
    """``exchanged``: tokens masked again per step, 0 for none."""
    x = common.append_masks(prompt, settings.blocks * settings.block, settings.mask_id)
    seeds = rng.sequence_seeds(seed, len(x), device=x.device)
    column = torch.arange(x.shape[1], device=x.device) - prompt.shape[1]
    ended = torch.zeros_like(x[:, :1], dtype=torch.bool)
    first = settings.block * 7 // 8
    drawn = 0
    for block in range(settings.blocks):
        within = (column < (block + 1) * settings.block) & ~ended
        sure = torch.full(x.shape, torch.inf, dtype=torch.float32, device=x.device)  # probabilities when committed
        for step in range(2 * settings.steps if exchanged else settings.steps):
            count = settings.count
            if exchanged and first <= step < first + settings.steps:
                count = exchanged
                doubted = ops.select_positions(sure, count, eligible=sure.isfinite() & within, largest=False)
                x, sure = x.masked_fill(doubted, settings.mask_id), sure.masked_fill(doubted, torch.inf)
            masked = (x == settings.mask_id) & within
            if not masked.any():
                continue
            logits = model(x).logits
            scores = propose(logits, masked, mask_id=settings.mask_id, temperature=1.0, seed=seeds, step=drawn)
            drawn += 1
            assert scores.token is not None
            assert scores.confidence is not None
            chosen = best_of(scores.confidence, torch.full_like(x[:, 0], count), masked) & (scores.token >= 0)
            x = torch.where(chosen, scores.token, x)
            sure = torch.where(chosen, scores.confidence.float(), sure)
        ended = ended | (x == settings.eos_id).any(1, keepdim=True)
        if ended.all():
            break
    return x


MODULES = ("eval_llada",)
REPLACES = {
    "LLaDAEvalHarness.llada_conf_sample": llada_conf_sample,
    "LLaDAEvalHarness.llada_remdm_sample": llada_remdm_sample,
}
