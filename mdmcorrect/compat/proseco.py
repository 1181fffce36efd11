"""kuleshov-group/proseco: ``llada/generate.py``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import wraps
from typing import Any, TypeVar

import torch
from torch import Tensor

from .. import _checks
from ..samplers import BlockProSeCo, Blocks, Rewrite, StepEvent
from . import _common as common

MODULES = ("generate", "llada.generate")
# What the version before March 2026 took after ``prompt``, in its order, and what it took for what is not given.
_EARLIER: dict[str, Any] = {
    "steps": 128,
    "gen_length": 128,
    "block_length": 128,
    "temperature": 0.0,
    "remasking": "low_confidence",
    "mask_id": 126336,
    "threshold": None,
    "remasking_only_masked": True,
    "apply_corrector_every_n_steps": 1,
    "max_corrector_steps_per_loop": 0,
    "early_eos_stopping": False,
    "tokenizer": None,
    "disable_pbar": True,
    "save_intermediate_outputs": False,
}
_Function = TypeVar("_Function", bound=Callable[..., Any])


def _either_version(generate: _Function) -> _Function:
    """Takes calls of the version before March 2026 too: they name ``remasking_only_masked``, or have a bool there."""
    place = list(_EARLIER).index("remasking_only_masked")

    @wraps(generate)
    def call(model: Any, prompt: Tensor, *args: Any, **kwargs: Any) -> Any:
        positional = len(args) > place and isinstance(args[place], bool)
        if not positional and "remasking_only_masked" not in kwargs:
            return generate(model, prompt, *args, **kwargs)
        if len(args) > len(_EARLIER):
            raise TypeError(f"generate: expected at most {len(_EARLIER)} arguments after prompt, got {len(args)}")
        given = dict(zip(_EARLIER, args, strict=False))
        if twice := given.keys() & kwargs.keys():
            raise TypeError(f"generate: got {sorted(twice)} twice")
        return generate(model, prompt, **{**_EARLIER, **given, **kwargs})

    call.orders = (("model", "prompt", *_EARLIER),)  # type: ignore[attr-defined]
    return call  # type: ignore[return-value]


@_either_version
def generate(
    model: Any,
    prompt: Tensor,
    steps: int = 256,
    gen_length: int = 256,
    block_length: int = 32,
    temperature: float = 0.0,
    remasking: str = "low_confidence",
    mask_id: int = 126336,
    threshold: float | None = None,
    max_corrector_steps_per_loop: int = 4,
    apply_corrector_every_n_steps: int = 2,
    early_eos_stopping: bool = True,
    tokenizer: Any = None,
    disable_pbar: bool = True,
    save_intermediate_outputs: bool = False,
    *,
    remasking_only_masked: bool = True,
    ties: str = "lowest",
    seed: int | Tensor | torch.Generator | None = None,
) -> tuple[Tensor, dict[str, int], list[dict[str, Any]]]:
    """ProSeCo's ``generate`` for LLaDA: the tokens, the forwards by kind, and what each step left if asked for.

    Rows enter a block together, as in the original. A mask the model predicts is overruled.

    Args:
        early_eos_stopping: end after a block that closes with the end of sequence in every row, and fill the rest with
            it; without a ``tokenizer`` nothing, as there.
        disable_pbar: not used.
        remasking_only_masked: of the version before March 2026 (724d03d). A call that has it, by name or as the eighth
            argument after ``prompt``, is read with that version's order and defaults: 128 steps and tokens, one block,
            no corrections, no early end.
        ties: how equal confidences are ordered, "lowest" index first or as "torch" does.
        seed: default drawn from torch's global generator if anything is random.

    Returns:
        int64 ``[B, P + gen_length]``; forwards as "predictor_nfe" ("nfe" before March 2026), "corrector_nfe" and
        "total_nfe"; per step "step" of its block, "applied_corrector" ("is_corrector"), whether the block has been
        corrected, and "output", what was generated up to the block's end.

    Raises:
        ValueError: lengths that do not divide, an unknown ``remasking`` or ``ties``, both a threshold and
            ``remasking_only_masked=False``.
    """
    prompt, mask_id = common.token_ids("prompt", prompt), _checks.token_id("mask_id", mask_id)
    steps, gen_length, block_length = common.lengths(steps=steps, gen_length=gen_length, block_length=block_length)
    blocks = common.check_divides("gen_length", gen_length, "block_length", block_length)
    common.check_divides("steps", steps, "the number of blocks", blocks)
    preset = BlockProSeCo(
        steps=steps if threshold is None else None,
        block_length=block_length,
        corrector_steps=_checks.integer("max_corrector_steps_per_loop", max_corrector_steps_per_loop, minimum=0),
        correct_every=_checks.integer("apply_corrector_every_n_steps", apply_corrector_every_n_steps, minimum=1),
        threshold=threshold,
        temperature=temperature,
        remasking=remasking,
        ties=common.check_ties(ties),
    )
    sampler = preset.parts()
    sampler = replace(sampler, window=Blocks(block_length, threshold is not None, by="column", together=True))
    if not remasking_only_masked:
        if threshold is not None:
            raise ValueError(
                "threshold, remasking_only_masked: expected at most one of a threshold and False, got both"
            )
        sampler = replace(sampler, plan=Rewrite(preset.unmask()))
    counter = _Counter(common.HuggingFace(model))
    start = prompt.shape[1]
    outputs: list[dict[str, Any]] = []
    at = {"block": -1, "step": 0, "forwards": 0}  # of the block that is being filled

    def keep(event: StepEvent) -> None:
        block = int((event.before[:, start:] == mask_id).any(0).int().argmax()) // block_length
        if block != at["block"]:
            at.update(block=block, step=0, forwards=outputs[-1]["forwards"] if outputs else 0)
        at["step"] += 1
        corrected = counter.corrector > at["forwards"]
        outputs.append(
            {
                "step": at["step"],
                "applied_corrector": corrected,
                "is_corrector": corrected,
                "output": event.tokens[:, start : start + block_length * (block + 1)].cpu(),
                "forwards": counter.corrector,
            }
        )

    result = sampler(
        counter,
        common.append_masks(prompt, gen_length, mask_id),
        mask_id=mask_id,
        origin=start,
        stop=_all_rows_ended(start, block_length, mask_id, tokenizer) if early_eos_stopping and tokenizer else None,
        seed=seed,
        callback=keep if save_intermediate_outputs else None,
        history=False,
    )
    tokens = common.completed(result).tokens
    if early_eos_stopping and tokenizer is not None:
        tokens = torch.where(tokens == mask_id, tokenizer.eos_token_id, tokens)
    for output in outputs:
        del output["forwards"]
    predicted = result.calls - counter.corrector
    metrics = {
        "predictor_nfe": predicted,
        "nfe": predicted,
        "corrector_nfe": counter.corrector,
        "total_nfe": result.calls,
    }
    return tokens, metrics, outputs


class _Counter:
    """The model, counting the corrector's forwards."""

    def __init__(self, model: common.HuggingFace) -> None:
        self.model, self.corrector, self.__name__ = model, 0, model.__name__

    def __call__(self, tokens: Tensor, request: Any) -> Any:
        self.corrector += request.correction > 0
        return self.model(tokens, request)


def _all_rows_ended(start: int, block_length: int, mask_id: int, tokenizer: Any) -> Any:
    """A stop rule: the block that has just been filled closes with the end of sequence in all rows.

    Asked when a block is filled and not again: a later correction may write the end of sequence there.
    """
    blocks_filled = 0

    def stop(tokens: Tensor, fixed: Tensor) -> Tensor:
        nonlocal blocks_filled
        generated = tokens[:, start:].unflatten(1, (-1, block_length))
        now = int((generated != mask_id).all(-1).all(0).long().cumprod(0).sum())
        ended = now > blocks_filled and bool((generated[:, now - 1, -1] == tokenizer.eos_token_id).all())
        blocks_filled = now
        return torch.full_like(tokens[:, 0], ended, dtype=torch.bool)

    return stop


REPLACES = {"generate": generate}
__all__: Sequence[str] = ["generate"]
