"""Gen-Verse/MMaDA: ``mmu_generate`` and ``mmu_generate_fast`` of ``modeling_mmada.py``."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..adapters import Guided
from ..model import Output, Request, read_output
from ..samplers import Blocks, FastDLLM
from ..samplers.engine import Stop
from . import _common as common

MODULES = ("models.modeling_mmada", "modeling_mmada")


def mmu_generate(
    model: Any,
    idx: Tensor | None = None,
    input_embeddings: Tensor | None = None,
    max_new_tokens: int = 128,
    steps: int = 128,
    block_length: int = 128,
    temperature: float = 0.0,
    top_k: int | None = None,
    eot_token: int | None = None,
    cfg_scale: float = 0.0,
    remasking: str = "low_confidence",
    mask_id: int = 126336,
    attention_mask: Tensor | None = None,
    *,
    ties: str = "lowest",
    seed: int | Tensor | torch.Generator | None = None,
) -> Tensor:
    """MMaDA's text generation: LLaDA's blocks, confidences in full precision; int64 ``[B, P + max_new_tokens]``.

    Args:
        model: called as ``model(tokens, attention_bias=...)``; as a method, ``self``.
        input_embeddings, top_k, eot_token: not used, as in the original.
        attention_mask: 0/1 ``[B, P + max_new_tokens]``; who sees whom follows from it. With guidance too, where the
            original drops it.
        ties: how equal confidences are ordered, "lowest" index first or as "torch" does.
        seed: default drawn from torch's global generator if anything is random.
    """
    return _generate(
        model, idx, max_new_tokens, steps, block_length, temperature, cfg_scale, remasking, mask_id, attention_mask,
        ties, seed, None,
    )  # fmt: skip


def mmu_generate_fast(
    model: Any,
    idx: Tensor | None = None,
    input_embeddings: Tensor | None = None,
    max_new_tokens: int = 128,
    steps: int = 128,
    block_length: int = 128,
    temperature: float = 0.0,
    top_k: int | None = None,
    eot_token: int | None = None,
    cfg_scale: float = 0.0,
    remasking: str = "low_confidence",
    mask_id: int = 126336,
    attention_mask: Tensor | None = None,
    *,
    ties: str = "lowest",
    seed: int | Tensor | torch.Generator | None = None,
) -> Tensor:
    """:func:`mmu_generate`, ending after a block whose last token is ``eot_token`` in every row; masks follow."""
    return _generate(
        model, idx, max_new_tokens, steps, block_length, temperature, cfg_scale, remasking, mask_id, attention_mask,
        ties, seed, eot_token,
    )  # fmt: skip


def _generate(
    model: Any,
    idx: Tensor | None,
    max_new_tokens: int,
    steps: int,
    block_length: int,
    temperature: float,
    cfg_scale: float,
    remasking: str,
    mask_id: int,
    attention_mask: Tensor | None,
    ties: str,
    seed: int | Tensor | torch.Generator | None,
    eot_token: int | None,
) -> Tensor:
    if idx is None:
        raise ValueError("idx: expected token ids [B, P], got None")
    blocks = common.check_divides("max_new_tokens", max_new_tokens, "block_length", block_length)
    common.check_divides("steps", steps, "the number of blocks", blocks)
    bias = None
    if attention_mask is not None and bool((attention_mask == 0).any()):
        real = attention_mask.bool()
        bias = (real[:, :, None] & real[:, None, :])[:, None]
    preset = FastDLLM(steps=steps, remasking=remasking, temperature=temperature, ties=common.check_ties(ties))
    called = _Biased(model)
    sampler = replace(preset.parts(), window=Blocks(block_length, by="column", together=True))
    return sampler(
        Guided(called, cfg_scale) if cfg_scale > 0 else called,
        common.append_masks(idx, max_new_tokens, mask_id),
        mask_id=mask_id,
        origin=idx.shape[1],
        condition=bias,
        stop=_ended(idx.shape[1], block_length, mask_id, eot_token) if eot_token is not None else None,
        seed=common.seed_of(seed, random=temperature > 0 or remasking == "random"),
        history=False,
    ).tokens


class _Biased:
    """The model with who sees whom as ``attention_bias``."""

    def __init__(self, model: Any) -> None:
        self.model, self.__name__ = model, type(model).__name__

    def __call__(self, tokens: Tensor, request: Request) -> Output:
        return read_output(self.model(tokens, attention_bias=request.condition), self.model)


def _ended(start: int, block_length: int, mask_id: int, eot_token: int) -> Stop:
    def stop(tokens: Tensor, fixed: Tensor) -> Tensor:
        blocks = tokens[:, start:].unflatten(1, (-1, block_length))
        ended = (blocks[..., -1] == eot_token).all(0) & (blocks != mask_id).all(-1).all(0)
        return ended.any().expand(len(tokens))

    return stop


REPLACES = {
    "MMadaModelLM.mmu_generate": mmu_generate,
    "MMadaModelLM.mmu_generate_fast": mmu_generate_fast,
}
