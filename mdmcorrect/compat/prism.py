"""SeunggeunKimkr/PRISM: ``PRISM_llada/sampling.py`` and the small models' ``MaskProbPath.generate_sample``."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..model import Output
from ..samplers import PRISM, BlockPRISM, Blocks
from . import _common as common
from ._noise import drawn_by

MODULES = ("sampling",)
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
    blocks = common.check_divides("max_length", max_length, "block_length", block_length)
    if prompt.shape[1] != max_length:
        raise ValueError(f"prompt: expected {max_length} columns as max_length says, got {prompt.shape[1]}")
    if unmasking not in _ORDERS:
        raise ValueError(f"unmasking: expected one of {sorted(_ORDERS)}, got {unmasking!r}")
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
        seed=common.seed_of(
            seed, random=temperature > 0 or unmasking == "random" or (remasking and remasking_mode == "remdm")
        ),
        history=False,
    )
    return result.tokens


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


def generate_sample(
    model: Any,
    tokens: Tensor,
    num_steps: int,
    *,
    mask_id: int,
    num_remask: int = 0,
    eta: float = 0.0,
    step_on: int = 0,
    step_off: int | None = None,
    nucleus_p: float = 1.0,
    sampler: str = "prism",
    return_intermediates: bool = False,
    seed: int | Tensor | torch.Generator | None = None,
) -> Tensor | tuple[Tensor, list[Tensor]]:
    """PRISM's static top-k sampler for small models, as ``MaskProbPath.generate_sample`` runs it.

    Args:
        model: anything a sampler takes, with quality (:mod:`mdmcorrect.model`); "random" and "none" need none.
        tokens: int64 ``[B, L]``; what is not the mask is given.
        num_steps: S.
        num_remask, eta: how many are masked again per step: a number, or with eta > 0 a binomial draw, per row; the
            original draws for its first row only.
        sampler: "prism", "remdm-conf", "random", or "none".

    Returns:
        int64 ``[B, L]``; with ``return_intermediates`` also the canvas after every step.
    """
    by = {"prism": "quality", "remdm-conf": "confidence", "random": "random", "none": None}
    if sampler not in by:
        raise ValueError(f"sampler: expected one of {sorted(by)}, got {sampler!r}")
    drawn = eta > 0
    preset = PRISM(
        steps=num_steps,
        remask=by[sampler] if drawn or num_remask else None,
        remask_count=None if drawn or not num_remask else num_remask,
        eta=eta if drawn else None,
        step_on=step_on,
        step_off=step_off,
        top_p=None if nucleus_p >= 1 else nucleus_p,
    )
    result = preset(
        model, tokens, mask_id=mask_id, seed=common.seed_of(seed, random=True), history=return_intermediates
    )
    if not return_intermediates:
        return result.tokens
    return result.tokens, [event.tokens for event in result.history or ()]


REPLACES = {"llada_inference": llada_inference}
