"""dllm-reasoning/d1: ``eval/generate.py`` and the trainer's copy of it."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor

from . import _common as common
from . import llada

MODULES = ("generate", "eval.generate")
QUIRKS = ("unfilled_masks",)


def generate(
    model: Any,
    prompt: Tensor,
    tokenizer: Any = None,
    steps: int = 64,
    gen_length: int = 128,
    block_length: int = 32,
    temperature: float = 0.0,
    cfg_scale: float = 0.0,
    remasking: str = "low_confidence",
    mask_id: int = 126336,
    *,
    ties: str = "lowest",
    quirks: str | Collection[str] = (),
    noise: str = "exact",
    seed: int | Tensor | torch.Generator | None = None,
) -> Tensor:
    """d1's ``generate``: LLaDA's with float32 confidences and ``max(1, steps // blocks)`` steps a block.

    Draws are exact; the original's Gumbel noise is float32, and bfloat16 in its trainer, which cut the tail at 16.6
    and 5.5 (arXiv 2409.02908, section 5). ``noise="fp32"`` draws as the first; logits above 88, whose exponential
    overflows there, are no matter here.

    ``quirks`` may keep one defect: "unfilled_masks", of :func:`mdmcorrect.compat.llada.generate`.

    Raises:
        ValueError: ``gen_length`` is no multiple of ``block_length``; an unknown ``remasking``, ``ties``, quirk or
            ``noise``.
    """
    (steps,) = common.lengths(steps=steps)
    blocks = common.check_divides("gen_length", gen_length, "block_length", block_length)
    return llada.generate(
        model,
        prompt,
        steps=max(1, steps // max(blocks, 1)) * blocks,
        gen_length=gen_length,
        block_length=block_length,
        temperature=temperature,
        cfg_scale=cfg_scale,
        remasking=remasking,
        mask_id=mask_id,
        ties=ties,
        quirks=common.check_quirks(quirks, QUIRKS),
        confidence_dtype=None,
        noise=noise,
        seed=seed,
    )


REPLACES = {"generate": generate}
