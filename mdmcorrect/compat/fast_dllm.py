"""NVlabs/Fast-dLLM: ``v1/llada/generate.py``."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from .. import _checks, ops, rng
from ..adapters import DualCache, PrefixCache
from ..samplers import Blocks, Factor, FastDLLM, StepEvent
from ..samplers.presets.llada import commit_order
from ..samplers.unmask import torch_topk
from . import _common as common

MODULES = ("generate", "v1.llada.generate", "llada.generate")
QUIRKS = ("dual_cache_steps",)


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
    factor: float | None = None,
    step_callback: Callable[[int], None] | None = None,
    *,
    ties: str = "lowest",
    seed: int | Tensor | torch.Generator | None = None,
) -> tuple[Tensor, int]:
    """Fast-dLLM's ``generate``: the tokens and the number of forwards.

    A mask the model predicts is overruled; the original then runs out of its schedule (IndexError) or never ends.

    Args:
        step_callback: called after each step with its number, from 0 (a version between those of 2025 and 2026).
        ties: how equal confidences are ordered, "lowest" index first or as "torch" does.
        seed: default drawn from torch's global generator if anything is random.

    Raises:
        ValueError: lengths that do not divide, an unknown ``remasking`` or ``ties``, a threshold and a factor.
    """
    settings = (steps, gen_length, block_length, temperature, remasking, mask_id, threshold, factor, ties, seed)
    return _generate(common.HuggingFace(model), prompt, *settings, step_callback=step_callback)


def generate_with_prefix_cache(
    model: Any,
    prompt: Tensor,
    steps: int = 128,
    gen_length: int = 128,
    block_length: int = 128,
    temperature: float = 0.0,
    remasking: str = "low_confidence",
    mask_id: int = 126336,
    threshold: float | None = None,
    factor: float | None = None,
    step_callback: Callable[[int], None] | None = None,
    *,
    ties: str = "lowest",
    seed: int | Tensor | torch.Generator | None = None,
) -> tuple[Tensor, int]:
    """:func:`generate` with keys and values of what precedes the block kept from its first forward."""
    settings = (steps, gen_length, block_length, temperature, remasking, mask_id, threshold, factor, ties, seed)
    return _generate(PrefixCache(model), prompt, *settings, step_callback=step_callback)


def generate_with_dual_cache(
    model: Any,
    prompt: Tensor,
    steps: int = 128,
    gen_length: int = 128,
    block_length: int = 128,
    temperature: float = 0.0,
    remasking: str = "low_confidence",
    mask_id: int = 126336,
    threshold: float | None = None,
    factor: float | None = None,
    step_callback: Callable[[int], None] | None = None,
    *,
    ties: str = "lowest",
    quirks: str | Collection[str] = (),
    seed: int | Tensor | torch.Generator | None = None,
) -> tuple[Tensor, int]:
    """:func:`generate` with keys and values of what precedes and follows the block kept from its first forward.

    Args:
        quirks: defects of the original to keep. "dual_cache_steps": a block makes at most its share of ``steps`` with
            a threshold or factor too, after which masks are left.
    """
    kept = common.check_quirks(quirks, QUIRKS)
    settings = (steps, gen_length, block_length, temperature, remasking, mask_id, threshold, factor, ties, seed)
    return _generate(
        DualCache(model), prompt, *settings, step_callback=step_callback, limited="dual_cache_steps" in kept
    )


def _generate(
    model: Callable[..., Any],
    prompt: Tensor,
    steps: int,
    gen_length: int,
    block_length: int,
    temperature: float,
    remasking: str,
    mask_id: int,
    threshold: float | None,
    factor: float | None,
    ties: str,
    seed: int | Tensor | torch.Generator | None,
    *,
    step_callback: Callable[[int], None] | None,
    limited: bool = False,
) -> tuple[Tensor, int]:
    prompt, mask_id = common.token_ids("prompt", prompt), _checks.token_id("mask_id", mask_id)
    steps, gen_length, block_length = common.lengths(steps=steps, gen_length=gen_length, block_length=block_length)
    _checks.called("step_callback", step_callback, "(step) -> None")
    blocks = common.check_divides("gen_length", gen_length, "block_length", block_length)
    common.check_divides("steps", steps, "the number of blocks", blocks)
    preset = FastDLLM(
        steps=steps if threshold is None and factor is None else None,
        block_length=block_length,
        threshold=None if factor is not None else threshold,
        factor=factor,
        remasking=remasking,
        temperature=temperature,
        ties=common.check_ties(ties),
    )
    sampler = preset.parts()
    open_ended = sampler.window.until_filled and not limited
    window = Blocks(block_length, open_ended, by="column", together=True, behind="first" if limited else None)
    sampler = replace(sampler, steps=steps, window=window, finish=not limited)

    def tell(event: StepEvent) -> None:
        assert step_callback is not None
        step_callback(event.index)

    result = sampler(
        model,
        common.append_masks(prompt, gen_length, mask_id),
        mask_id=mask_id,
        origin=prompt.shape[1],
        seed=seed,
        callback=None if step_callback is None else tell,
        history=False,
    )
    return common.completed(result).tokens, result.calls


def get_transfer_index(
    logits: Tensor,
    temperature: float,
    remasking: str,
    mask_index: Tensor,
    x: Tensor,
    num_transfer_tokens: Tensor | None,
    threshold: float | None = None,
    *,
    ties: str = "lowest",
    seed: int | Tensor | torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """What one step commits: proposals ``[B, L]`` (``x`` where nothing is masked) and bool ``[B, L]``, where.

    Args:
        logits: ``[B, L, V]``.
        mask_index: bool ``[B, L]``, positions that may be committed.
        num_transfer_tokens: int64 ``[B]`` or ``[B, 1]``, how many; read without a threshold only.
        threshold: instead, all at least this probable, and the best one if there are none.
    """
    x0, rank = _score(logits, temperature, remasking, mask_index, x, seed)
    if threshold is not None:
        count = ops.count_positions(rank, "threshold", threshold, eligible=mask_index, at_least=1)
    elif num_transfer_tokens is None:
        raise ValueError("num_transfer_tokens: expected int64 [B] where there is no threshold, got None")
    elif not isinstance(num_transfer_tokens, Tensor) or num_transfer_tokens.numel() not in (1, len(x)):
        got = getattr(num_transfer_tokens, "shape", type(num_transfer_tokens).__name__)
        raise ValueError(f"num_transfer_tokens: expected int64 [{len(x)}], one per row, got {got}")
    else:
        count = num_transfer_tokens.reshape(-1).to(device=x.device, dtype=torch.int64).expand(len(x))
    return x0, _select(rank, count, mask_index, ties)


def get_transfer_index_dynamic(
    logits: Tensor,
    temperature: float,
    remasking: str,
    mask_index: Tensor,
    x: Tensor,
    num_transfer_tokens: Tensor | None,
    factor: float = 1,
    *,
    ties: str = "lowest",
    seed: int | Tensor | torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """As :func:`get_transfer_index`, with the factor rule in place of the number, which is not read."""
    x0, rank = _score(logits, temperature, remasking, mask_index, x, seed)
    count = Factor(factor).count(rank, mask_index)
    return x0, _select(rank, count, mask_index, ties)


def _score(
    logits: Tensor,
    temperature: float,
    remasking: str,
    mask_index: Tensor,
    x: Tensor,
    seed: int | Tensor | torch.Generator | None,
) -> tuple[Tensor, Tensor]:
    order, temperature = commit_order(remasking), _checks.temperature("temperature", temperature)
    if not isinstance(logits, Tensor) or logits.ndim != 3:
        got = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ValueError(f"logits: expected [B, L, V], got {got}")
    _on_canvas("x", x, logits, torch.int64)
    _on_canvas("mask_index", mask_index, logits, torch.bool)
    seeds = rng.sequence_seeds(seed, len(x), device=x.device, draws=temperature > 0 or order == "random")
    logits = logits.float() if logits.dtype == torch.float64 else logits
    scores = ops.score_tokens(
        logits, rows=mask_index, temperature=temperature, want=["token", "confidence"], seed=seeds
    )
    assert scores.token is not None
    assert scores.confidence is not None
    rank = scores.confidence
    if order == "random":
        rank = rng.uniform(seeds, x.shape[1], 0, rng.Purpose.ORDER)
    return torch.where(mask_index, scores.token, x), rank


def _on_canvas(name: str, value: object, logits: Tensor, dtype: torch.dtype) -> None:
    """Holds a tensor against the positions of ``logits [B, L, V]``."""
    kind = str(dtype).removeprefix("torch.")
    got = f"{value.dtype} {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
    if not isinstance(value, Tensor) or value.dtype != dtype or value.shape != logits.shape[:2]:
        raise ValueError(f"{name}: expected {kind} {list(logits.shape[:2])}, got {got}")


def _select(rank: Tensor, count: Tensor, mask_index: Tensor, ties: str) -> Tensor:
    if common.check_ties(ties) == "torch":
        return torch_topk(rank, count, mask_index) & mask_index
    return ops.select_positions(rank, count, eligible=mask_index)


REPLACES = {
    "generate": generate,
    "generate_with_prefix_cache": generate_with_prefix_cache,
    "generate_with_dual_cache": generate_with_dual_cache,
    "get_transfer_index": get_transfer_index,
    "get_transfer_index_dynamic": get_transfer_index_dynamic,
}
