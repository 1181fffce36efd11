"""ML-GSAI/LLaDA: ``generate.py``."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from functools import wraps
from numbers import Integral
from typing import Any, TypeVar

import torch
from torch import Tensor

from .. import _checks
from ..adapters import Guided
from ..samplers import Blocks, EvenSplit, LLaDA, Sampler, Unmask, UnmaskThenRemask
from ..samplers.presets.llada import commit_order
from . import _common as common
from ._noise import drawn_by

MODULES = ("generate",)
QUIRKS = ("unfilled_masks", "eos_by_temperature")
_EOS, _EOT = 126081, 126348
_EARLIER_ORDER = ("steps", "gen_length", "block_length", "temperature", "cfg_scale", "remasking", "mask_id", "is_mps")
_Function = TypeVar("_Function", bound=Callable[..., Any])


def _either_order(generate: _Function) -> _Function:
    """Takes positional arguments in the order of before October 2025 too, which had no ``attention_mask``."""

    @wraps(generate)
    def call(model: Any, prompt: Tensor, *args: Any, **kwargs: Any) -> Any:
        if args and isinstance(args[0], Integral):
            if len(args) > len(_EARLIER_ORDER):
                raise TypeError(
                    f"generate: expected at most {len(_EARLIER_ORDER)} arguments after prompt, got {len(args)}"
                )
            given = dict(zip(_EARLIER_ORDER, args, strict=False))
            if twice := given.keys() & kwargs.keys():
                raise TypeError(f"generate: got {sorted(twice)} twice")
            args, kwargs = (), {**given, **kwargs}
        return generate(model, prompt, *args, **kwargs)

    call.orders = (("model", "prompt", *_EARLIER_ORDER),)  # type: ignore[attr-defined]
    return call  # type: ignore[return-value]


@_either_order
def generate(
    model: Any,
    prompt: Tensor,
    attention_mask: Tensor | None = None,
    steps: int = 128,
    gen_length: int = 128,
    block_length: int = 128,
    temperature: float = 0.0,
    cfg_scale: float = 0.0,
    remasking: str = "low_confidence",
    mask_id: int = 126336,
    logits_eos_inf: bool = False,
    confidence_eos_eot_inf: bool = False,
    is_mps: bool | None = None,
    *,
    ties: str = "lowest",
    quirks: str | Collection[str] = (),
    confidence_dtype: torch.dtype | str | None = "logits",
    noise: str = "exact",
    seed: int | Tensor | torch.Generator | None = None,
) -> Tensor:
    """LLaDA's ``generate``, on our engine; what its arguments mean is said there.

    Args:
        is_mps: of a version for Apple's GPUs (41760b9), whose confidences are in full precision, float32 if true and
            float64 if false: here float32 where it is given, true or false. Float32 noise too is ``noise="fp32"``.
        ties: how equal confidences are ordered, "lowest" index first or as "torch" does.
        quirks: defects of the original to keep. "unfilled_masks": where the model predicts the mask, or the prompt
            holds masks, masks are left. "eos_by_temperature": above temperature 0, ``confidence_eos_eot_inf`` spares
            the end of sequence.
        confidence_dtype: torch.float64 and None give the confidences of versions before June 2025, in full precision.
        noise: "fp32" draws tokens as those of LLaDA's descendants do whose Gumbel noise is float32, tail cut and whole
            canvas drawn; "exact" has no such tail to lose.
        seed: default drawn from torch's global generator if anything is random.

    Returns:
        int64 ``[B, P + gen_length]``.

    Raises:
        ValueError: ``gen_length`` is no multiple of ``block_length``, or ``steps`` none of the number of blocks; an
            unknown ``remasking``, ``ties`` or quirk.
    """
    kept = common.check_quirks(quirks, QUIRKS)
    prompt, mask_id = common.token_ids("prompt", prompt), _checks.token_id("mask_id", mask_id)
    steps, gen_length, block_length = common.lengths(steps=steps, gen_length=gen_length, block_length=block_length)
    blocks = common.check_divides("gen_length", gen_length, "block_length", block_length)
    common.check_divides("steps", steps, "the number of blocks", blocks)
    cfg_scale = _checks.number("cfg_scale", cfg_scale)
    tokens = common.append_masks(prompt, gen_length, mask_id)
    spared = _EOS if "eos_by_temperature" in kept and _checks.temperature("temperature", temperature) > 0 else None
    preset = LLaDA(
        steps=steps,
        block_length=block_length,
        remasking=remasking,
        temperature=temperature,
        suppress=(_EOS,) if logits_eos_inf else (),
        confidence_forbid=tuple({_EOS, _EOT} - {spared}) if confidence_eos_eot_inf else (),
        ties=common.check_ties(ties),
    )
    sampler = preset.parts()
    full = confidence_dtype == torch.float64 or (is_mps is not None and confidence_dtype == "logits")
    dtype = None if full else confidence_dtype
    sampler = replace(
        sampler,
        window=Blocks(block_length, by="column"),
        scoring=drawn_by(replace(sampler.scoring, confidence_dtype=dtype), noise, seed, prompt.device),
    )
    if "unfilled_masks" in kept:
        sampler = _with_unfilled_masks(sampler, block_length, remasking, ties)
    called = common.HuggingFace(model)
    result = sampler(
        Guided(called, cfg_scale) if cfg_scale > 0 else called,
        tokens,
        mask_id=mask_id,
        attention_mask=common.extend_mask(attention_mask, prompt, gen_length),
        origin=prompt.shape[1],
        seed=seed,
        history=False,
    )
    return common.completed(result).tokens


def get_num_transfer_tokens(mask_index: Tensor, steps: int) -> Tensor:
    """An even split of each row's masks over the steps, the remainder first: int64 ``[B, steps]``."""
    masks = mask_index.sum(1, keepdim=True)
    return masks // steps + (torch.arange(steps, device=masks.device) < masks % steps)


def _with_unfilled_masks(sampler: Sampler, block_length: int, remasking: str, ties: str) -> Sampler:
    """The sampler that spends its quota on masks the model predicts and on those of the prompt, and leaves the rest."""
    return replace(
        sampler,
        plan=UnmaskThenRemask(Unmask(commit_order(remasking), EvenSplit(), ties=ties, spend_on_masks=True)),
        window=Blocks(block_length, by="column", behind="always"),
        scoring=replace(sampler.scoring, mask_token="propose"),
        finish=False,
    )


REPLACES = {"generate": generate, "get_num_transfer_tokens": get_num_transfer_tokens}
