"""kuleshov-group/proseco: ``llada/generate.py``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..samplers import BlockProSeCo, Blocks, Rewrite, StepEvent
from . import _common as common

MODULES = ("generate", "llada.generate")


def generate(
    model: Any,
    prompt: Tensor,
    steps: int = 128,
    gen_length: int = 128,
    block_length: int = 128,
    temperature: float = 0.0,
    remasking: str = "low_confidence",
    mask_id: int = 126336,
    threshold: float | None = None,
    remasking_only_masked: bool = True,
    apply_corrector_every_n_steps: int = 1,
    max_corrector_steps_per_loop: int = 0,
    early_eos_stopping: bool = False,
    tokenizer: Any = None,
    disable_pbar: bool = True,
    save_intermediate_outputs: bool = False,
    *,
    ties: str = "lowest",
    seed: int | Tensor | torch.Generator | None = None,
) -> tuple[Tensor, dict[str, int], list[dict[str, Any]]]:
    """ProSeCo's ``generate`` for LLaDA: the tokens, the forwards by kind, and what each step left if asked for.

    Rows enter a block together, as in the original. A mask the model predicts is overruled.

    Args:
        ties: how equal confidences are ordered, "lowest" index first or as "torch" does.
        seed: default drawn from torch's global generator if anything is random.

    Raises:
        ValueError: lengths that do not divide, an unknown ``remasking`` or ``ties``, both a threshold and
            ``remasking_only_masked=False``.
    """
    blocks = common.check_divides("gen_length", gen_length, "block_length", block_length)
    common.check_divides("steps", steps, "the number of blocks", blocks)
    preset = BlockProSeCo(
        steps=steps,
        block_length=block_length,
        corrector_steps=max_corrector_steps_per_loop,
        correct_every=apply_corrector_every_n_steps,
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

    def keep(event: StepEvent) -> None:
        block = min(int((event.tokens[:, start:] == mask_id).any(0).int().argmax()) // block_length, blocks - 1)
        end = start + block_length * (block + 1)
        corrected = counter.corrector > 0
        outputs.append({"step": event.index + 1, "is_corrector": corrected, "output": event.tokens[:, start:end].cpu()})

    result = sampler(
        counter,
        common.append_masks(prompt, gen_length, mask_id),
        mask_id=mask_id,
        origin=start,
        stop=_all_rows_ended(start, block_length, mask_id, tokenizer) if early_eos_stopping and tokenizer else None,
        seed=common.seed_of(seed, random=temperature > 0 or remasking == "random"),
        callback=keep if save_intermediate_outputs else None,
        history=False,
    )
    tokens = result.tokens
    if early_eos_stopping and tokenizer is not None:
        tokens = torch.where(tokens == mask_id, tokenizer.eos_token_id, tokens)
    metrics = {
        "nfe": result.calls - counter.corrector,
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
    """A stop rule: all rows have filled a block whose last token is the end of sequence."""

    def stop(tokens: Tensor, fixed: Tensor) -> Tensor:
        generated = tokens[:, start:].unflatten(1, (-1, block_length))
        filled = (generated != mask_id).all(-1).all(0)  # a block of all rows
        ended = (generated[..., -1] == tokenizer.eos_token_id).all(0)
        return (filled & ended).any().expand(len(tokens))

    return stop


REPLACES = {"generate": generate}
__all__: Sequence[str] = ["generate"]
