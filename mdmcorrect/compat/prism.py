"""SeunggeunKimkr/PRISM: ``PRISM_llada/sampling.py`` and the small models' ``MaskProbPath.generate_sample``."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from .. import _checks
from ..model import Output
from ..samplers import BlockPRISM, Blocks
from . import _common as common
from ._noise import drawn_by
from ._prism_path import generate_sample

__all__ = ["generate_sample", "llada_inference"]

MODULES = ("sampling", "PRISM_llada.sampling", "prob_path")
QUIRKS = ("unused_confidence_buffer",)
_ORDERS = {"prob_max": "confidence", "random": "random"}


def llada_inference(
    model: Any,
    prompt: Tensor,
    tokenizer: Any,
    steps: int,
    max_length: int,
    model_type: str,
    block_length: int,
    unmasking: str,
    remasking: bool,
    remasking_mode: str,
    num_remasking: int,
    temperature: float,
    mask_id: int = 126336,
    track: bool = False,
    *,
    finish: bool = False,
    ties: str = "lowest",
    quirks: str | Collection[str] = (),
    noise: str = "exact",
    seed: int | Tensor | torch.Generator | None = None,
) -> Tensor:
    """PRISM's sampler for LLaDA: int64 ``[B, max_length]``.

    Args:
        model: ``tokens -> {"logits", "remasking_conf"}``, the latter a logit ``[B, L, 1]`` or ``[B, L]``; or an object
            with ``logits`` where nothing is remasked.
        prompt: int64 ``[B, max_length]``, padded on the right with ``tokenizer.pad_token_id``.
        unmasking: "prob_max" or "random".
        remasking_mode: "PRISM" masks the tokens of lowest quality, "remdm" any, "remdm_conf" those of lowest
            probability when committed.
        track: not used; the original appends to a file.
        finish: fill masks that a block's last steps made, which the original leaves.
        ties: how equal scores are ordered, "lowest" index first or as "torch" does.
        quirks: defects of the original to keep. "unused_confidence_buffer": "remdm_conf" remasks by quality, the
            probabilities it keeps being overwritten before they are read.
        noise: "exact", or "fp32" for the original's float32 Gumbel noise, whose tail is cut.
        seed: default drawn from torch's global generator if anything is random.

    Raises:
        ValueError: lengths that do not divide, a prompt of another length, an unknown mode.
    """
    kept = common.check_quirks(quirks, QUIRKS)
    prompt, mask_id = common.token_ids("prompt", prompt), _checks.token_id("mask_id", mask_id)
    steps, max_length, block_length = common.lengths(steps=steps, max_length=max_length, block_length=block_length)
    blocks = common.check_divides("max_length", max_length, "block_length", block_length)
    if prompt.shape[1] != max_length:
        raise ValueError(f"prompt: expected {max_length} columns as max_length says, got {prompt.shape[1]}")
    _checks.choice("unmasking", unmasking, *_ORDERS)
    preset = BlockPRISM(
        steps=max(1, steps // blocks),
        block_length=block_length,
        remask_count=num_remasking if remasking else 0,
        unmask=_ORDERS[unmasking],
        remask=_remask_by(remasking_mode, kept) if remasking else None,
        temperature=temperature,
        finish=finish,
        ties=common.check_ties(ties),
    )
    sampler = preset.parts()
    sampler = replace(
        sampler,
        window=Blocks(block_length, steps=preset.steps),
        scoring=drawn_by(sampler.scoring, noise, seed, prompt.device),
    )
    tokens = torch.where(prompt == tokenizer.pad_token_id, mask_id, prompt)
    result = sampler(
        _with_quality(model),
        tokens,
        mask_id=mask_id,
        seed=seed,
        history=False,
    )
    return common.completed(result).tokens


def _remask_by(mode: str, kept: Collection[str]) -> str:
    ways = {"prism": "quality", "remdm": "random", "remdm_conf": "confidence"}
    if mode.lower() not in ways:
        raise ValueError(f"remasking_mode: expected 'PRISM', 'remdm' or 'remdm_conf', got {mode!r}")
    if mode == "remdm_conf" and "unused_confidence_buffer" in kept:
        return "quality"
    return ways[mode.lower()]


def _with_quality(model: Callable[..., Any]) -> Callable[[Tensor], Output]:
    """The model with its remasking logit as a quality in (0, 1)."""

    def call(tokens: Tensor) -> Output:
        answer = model(tokens)
        if not isinstance(answer, dict):
            return Output(logits=answer.logits)
        logit = answer.get("remasking_conf")
        quality = None if logit is None else torch.sigmoid(logit.float()).reshape(tokens.shape)
        return Output(logits=answer["logits"], quality=quality)

    return call


REPLACES = {"llada_inference": llada_inference, "MaskProbPath.generate_sample": generate_sample}
