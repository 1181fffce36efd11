"""NVlabs/Fast-dLLM: ``v1/dream/model/generation_utils_block.py``, Dream in blocks with cached keys and values."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from .. import _checks
from ..adapters import DualCache, PrefixCache, RightShifted
from ..samplers import Blocks, CountRule, Sampler, Scores, State, Threshold, TimeGrid, Unmask, View
from ..samplers.draws import draws
from . import _common as common
from . import dream
from .dream import DreamModelOutput, sample_tokens
from .fast_dllm_dream import ALGORITHM, FastDreamConfig, scoring_of

__all__ = ["BlockDreamConfig", "DreamGenerationMixin", "diffusion_generate", "sample_tokens"]

MODULES = tuple(f"{folder}model.generation_utils_block" for folder in ("", "dream.", "v1.dream."))
QUIRKS = ("rounded_nucleus", "unfilled_masks")


@dataclass
class BlockDreamConfig(FastDreamConfig):
    """Dream's settings, a threshold, and blocks of ``block_length`` columns after the prompt, None for one block."""

    block_length: int | None = 32
    dual_cache: bool = False


class DreamGenerationMixin:
    """Put before a model class, or use :func:`diffusion_generate` on a model."""

    def diffusion_generate(
        self, inputs: Tensor | None = None, generation_config: Any = None, **kwargs: Any
    ) -> DreamModelOutput | Tensor:
        """See :func:`diffusion_generate`."""
        return diffusion_generate(self, inputs, generation_config, **kwargs)


@torch.no_grad()
def diffusion_generate(
    model: Any,
    inputs: Tensor | None = None,
    generation_config: Any = None,
    *,
    attention_mask: Tensor | None = None,
    ties: str = "lowest",
    quirks: str | Collection[str] = (),
    seed: int | Tensor | torch.Generator | None = None,
    **settings: Any,
) -> DreamModelOutput | Tensor:
    """Fast-dLLM's ``diffusion_generate`` for Dream in blocks, on our engine.

    A block's first step reads the whole canvas, keeps keys and values of what precedes the block (``dual_cache``: and
    of what follows it), and commits the block's first column. The others commit, with ``alg="confidence_threshold"``,
    the proposals that reach ``threshold`` and the best in any case, until the block is filled; with any other ``alg``
    those of least entropy, as many as Dream's grid of a block's share of ``steps`` says. The original takes one row
    with a threshold, and keeps no history.

    Args:
        model: called as Dream's is, ``(tokens, mask, positions, use_cache=, past_key_values=)``, where it is asked for
            with ``dual_cache`` and ``replace_position`` too; returns ``logits`` and ``past_key_values``.
        attention_mask: 0 on padding, ``[B, P]``; the mask a model gets has a row for each query and a column for each
            key, cached ones included, where the original cuts off the cached keys.
        ties: how equal scores are ordered, "lowest" index first or as "torch" does of the block's columns.
        quirks: "rounded_nucleus" as in :func:`mdmcorrect.compat.dream.diffusion_generate`. "unfilled_masks": where a
            block has one step and no threshold, all but its first column stays masked.
        settings: those of :class:`BlockDreamConfig`.

    Returns:
        int64 ``[B, L]``, or a :class:`mdmcorrect.compat.dream.DreamModelOutput` with ``return_dict_in_generate=True``.

    Raises:
        ValueError: lengths that do not divide, and as in :func:`mdmcorrect.compat.dream.diffusion_generate`.
        TypeError: a setting that does not exist; a model that takes no cache.
    """
    kept = common.check_quirks(quirks, QUIRKS)
    config = dream.read_config(BlockDreamConfig, model, generation_config, settings)
    length = new_tokens(config, inputs)
    block_length = length if config.block_length is None else config.block_length
    block_length = _checks.integer("block_length", block_length, minimum=1)
    blocks = max(1, common.check_divides("the number of new tokens", length, "block_length", block_length))
    steps = common.check_divides("steps", config.steps, "the number of blocks", blocks)
    unfilled = "unfilled_masks" in kept
    by_threshold = config.alg == ALGORITHM
    rule = _AfterFirst(Threshold(config.threshold) if by_threshold else TimeGrid(config.eps))
    unmask = _FirstColumn(
        "confidence" if by_threshold else "entropy",
        rule,
        temperature=0.0 if by_threshold else config.alg_temp or 0.0,
        ties="torch_block" if common.check_ties(ties) == "torch" else "lowest",
    )
    window = Blocks(block_length, by_threshold, None if by_threshold else steps, by="column", together=True)
    sampler = Sampler(
        steps=config.steps, unmask=unmask, window=window, scoring=scoring_of(config, kept), finish=not unfilled
    )
    cache = DualCache if config.dual_cache else PrefixCache
    cached = RightShifted(cache(_CachedDream(model, dual=config.dual_cache)))
    hooks = dream.Hooks(None, None)
    return dream.generate(cached, inputs, config, sampler, attention_mask=attention_mask, hooks=hooks, seed=seed)


def new_tokens(config: BlockDreamConfig, inputs: Tensor | None) -> int:
    """How many tokens are generated, 0 where there are no inputs, which is refused elsewhere."""
    return 0 if inputs is None else dream.new_tokens(config, common.token_ids("inputs", inputs).shape[1])


class _CachedDream:
    """A Dream model that keeps keys and values, called by the caches' names for its arguments."""

    def __init__(self, model: Callable[..., Any], *, dual: bool) -> None:
        self.model, self.dual, self.__name__ = model, dual, type(model).__name__

    def __call__(
        self,
        tokens: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        use_cache: bool = False,
        past_key_values: Any = None,
        replace_position: Tensor | None = None,
    ) -> Any:
        mask: Tensor | str = "full"
        place = None
        if attention_mask is not None:
            real, place = attention_mask.bool(), position_ids
            queries = real[:, -tokens.shape[1] :]
            if replace_position is not None:
                queries = real[replace_position].reshape(tokens.shape)
            mask = real[:, None, None, :] & queries[:, None, :, None]
        more: dict[str, Any] = {"use_cache": True} if use_cache else {}
        if past_key_values is not None:
            more["past_key_values"] = past_key_values
            if self.dual:
                more.update(dual_cache=True, replace_position=replace_position)
        return self.model(tokens, mask, place, **more)


@dataclass(frozen=True)
class _AfterFirst:
    """One position in a block's first step, and then what ``rule`` says."""

    rule: CountRule

    @property
    def random(self) -> bool:
        return draws(self.rule)

    def before(self, state: State, view: View) -> Tensor:
        return torch.where(view.step == 0, 1, self.rule.before(state, view)).minimum(view.masked.sum(1))

    def after(self, quota: Tensor, masked: Tensor, scores: Scores) -> Tensor:
        return self.rule.after(quota, masked, scores).minimum(quota)


@dataclass(frozen=True)
class _FirstColumn(Unmask):
    """Commits the first column of a block in the block's first step."""

    def choose(self, rank: Tensor, count: Tensor, masked: Tensor, view: View) -> dict[str, Tensor]:
        first = masked & (masked.long().cumsum(1) == 1)
        return super().choose(torch.where((view.step == 0)[:, None], first.to(rank.dtype), rank), count, masked, view)


TAKES = {
    "DreamGenerationMixin.diffusion_generate": {field.name for field in fields(BlockDreamConfig)} | {"attention_mask"}
}
REPLACES = {
    "DreamGenerationMixin.diffusion_generate": DreamGenerationMixin.diffusion_generate,
    "sample_tokens": sample_tokens,
}
