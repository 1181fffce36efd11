"""NVlabs/Fast-dLLM: ``v1/dream/model/generation_utils.py``, Dream's decoding and one rule more."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from ..samplers import Blocks, Dream, Sampler, Scores, State, Threshold, Unmask, View
from . import _common as common
from . import dream
from ._rounded import rounded_as
from .dream import DreamModelOutput, Hook, sample_tokens

__all__ = ["DreamGenerationMixin", "FastDreamConfig", "diffusion_generate", "sample_tokens"]

MODULES = ("model.generation_utils", "dream.model.generation_utils", "v1.dream.model.generation_utils")
ALGORITHM = "confidence_threshold"


@dataclass
class FastDreamConfig(dream.DreamGenerationConfig):
    """Dream's settings; ``alg`` may be "confidence_threshold" too, with a ``threshold``."""

    threshold: float = 0.9


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
    generation_tokens_hook_func: Hook | None = None,
    generation_logits_hook_func: Hook | None = None,
    ties: str = "lowest",
    quirks: str | Collection[str] = (),
    seed: int | Tensor | torch.Generator | None = None,
    **settings: Any,
) -> DreamModelOutput | Tensor:
    """Fast-dLLM's ``diffusion_generate`` for Dream, on our engine.

    With ``alg="confidence_threshold"`` the i-th of S steps may commit what an even split of N masks has not used up,
    ``ceil(N (i + 1) / S)`` less what is committed: of the most confident proposals so many, those that reach
    ``threshold``, and the best in any case. After S steps it goes on until no mask is left. The original takes one row,
    and an S that divides N.

    Args:
        settings: those of :class:`FastDreamConfig`; all else as of :func:`mdmcorrect.compat.dream.diffusion_generate`.

    Returns:
        int64 ``[B, L]``, or a :class:`mdmcorrect.compat.dream.DreamModelOutput` with ``return_dict_in_generate=True``.

    Raises:
        ValueError: as there.
        TypeError: a setting that does not exist.
    """
    kept = common.check_quirks(quirks, dream.QUIRKS)
    config = dream.read_config(FastDreamConfig, model, generation_config, settings)
    hooks = dream.Hooks(generation_tokens_hook_func, generation_logits_hook_func)
    if config.alg == ALGORITHM:
        unmask = Unmask("confidence", _Budget(config.threshold, config.steps), ties=common.check_ties(ties))
        scoring = scoring_of(config, kept)
        window = Blocks(until_filled=True)
        sampler = Sampler(steps=1, unmask=unmask, window=window, scoring=scoring, cache=not hooks.used)
    else:
        sampler = dream.dream_sampler(config, ties, kept, every_forward=hooks.used)
    model = dream.DreamModel(model)
    return dream.generate(model, inputs, config, sampler, attention_mask=attention_mask, hooks=hooks, seed=seed)


def scoring_of(config: dream.DreamGenerationConfig, kept: Collection[str]) -> Any:
    """How Dream's proposals are scored, by these settings."""
    preset = Dream(steps=1, temperature=config.temperature, top_p=config.top_p, top_k=config.top_k)
    return rounded_as(preset.parts().scoring, rounded_nucleus="rounded_nucleus" in kept)


@dataclass(frozen=True)
class _Budget(Threshold):
    """A threshold, and at most what an even split over ``steps`` has not used up yet."""

    steps: int = 1

    def __init__(self, threshold: float, steps: int) -> None:
        super().__init__(threshold)
        object.__setattr__(self, "steps", steps)

    def before(self, state: State, view: View) -> Tensor:
        masks = view.masked.sum(1)
        due = -(-view.quota * (view.step + 1) // self.steps)
        return (due.minimum(view.quota) - (view.quota - masks)).clamp(min=1).minimum(masks)

    def after(self, quota: Tensor, masked: Tensor, scores: Scores) -> Tensor:
        return super().after(quota, masked, scores).minimum(quota)


TAKES = {"DreamGenerationMixin.diffusion_generate": dream.KEYWORDS | {field.name for field in fields(FastDreamConfig)}}
REPLACES = {
    "DreamGenerationMixin.diffusion_generate": DreamGenerationMixin.diffusion_generate,
    "sample_tokens": sample_tokens,
}
