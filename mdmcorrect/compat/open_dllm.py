"""pengzhangzhi/Open-dLLM: ``generation_utils.py``, Dream's decoding with counts of each row's own and P2."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from .. import _checks
from ..model import Output, Request, read_output
from ..samplers import Dream, Kappa, Pool, Sampler, Scoring
from ..samplers.engine import Stop
from . import _common as common
from . import dream
from ._rounded import RoundedScoring, rounded_as

MODULES = ("veomni.models.transformers.qwen2.generation_utils", "generation_utils")
QUIRKS = ("rounded_nucleus",)


@dataclass
class MDMModelOutput:
    """``sequences`` int64 ``[B, L]``, and the canvas after each step if asked for."""

    sequences: Tensor
    history: list[Tensor] | None = None


@dataclass
class MDMGenerationConfig(dream.DreamGenerationConfig):
    """Settings of :func:`diffusion_generate`; "entropy" by default, "p2" besides Dream's algorithms."""

    alg: str = "entropy"


class MDMGenerationMixin:
    """Put before a model class, or use :func:`diffusion_generate` on a model."""

    def diffusion_generate(
        self, inputs: Tensor | None = None, generation_config: Any = None, **kwargs: Any
    ) -> MDMModelOutput | Tensor:
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
) -> MDMModelOutput | Tensor:
    """Open-dLLM's ``diffusion_generate`` on our engine, as a function of the model.

    Args:
        inputs: int64 ``[B, P]``; masks in it are filled too.
        generation_config: as for :func:`mdmcorrect.compat.dream.diffusion_generate`.
        attention_mask: not used, as in the original: padding is what of ``inputs`` is
            ``model.config.pad_token_id``.
        ties: how equal confidences are ordered, "lowest" index first or as "torch" does.
        quirks: "rounded_nucleus": top_p sums probabilities in the logits' dtype, so that in bfloat16 it keeps other
            tokens.
        seed: default drawn from torch's global generator if anything is random.

    Raises:
        ValueError: no ``mask_token_id``, a prompt as long as ``max_length``, a value out of range.
        TypeError: a setting that does not exist.
    """
    kept = common.check_quirks(quirks, QUIRKS)
    config = dream.read_config(MDMGenerationConfig, model, generation_config, settings)
    if inputs is None:
        raise ValueError("inputs: expected token ids [B, P], got None")
    if config.mask_token_id is None:
        raise ValueError("mask_token_id: expected an id, in generation_config or as an argument, got None")
    prompt = inputs.repeat_interleave(config.num_return_sequences, 0)
    tokens = common.append_masks(prompt, dream.new_tokens(config, prompt.shape[1]), config.mask_token_id)
    result = _sampler(config, common.check_ties(ties), kept)(
        _Model(model),
        tokens,
        mask_id=config.mask_token_id,
        stop=_full(config.mask_token_id) if config.alg == "p2" else None,
        seed=seed,
        history=config.output_history,
    )
    common.completed(result)
    if not config.return_dict_in_generate:
        return result.tokens
    history = [event.tokens for event in result.history or ()] if config.output_history else None
    return MDMModelOutput(result.tokens, history)


def sample_tokens(
    logits: Tensor,
    temperature: float = 0.0,
    top_p: float | None = None,
    top_k: int | None = None,
    alg: str = "origin",
    *,
    quirks: str | Collection[str] = (),
    seed: int | Tensor | torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """Confidence float32 and proposal int64, ``[...]`` each, for logits ``[..., V]``; see Dream's.

    Temperature and filters are applied in the logits' dtype, the softmax and what follows in float32.
    """
    _checks.choice("alg", alg, "origin", "maskgit_plus", "topk_margin", "entropy", "p2")
    name = {"topk_margin": "margin", "entropy": "entropy"}.get(alg, "confidence")
    scoring = Dream(steps=1, temperature=temperature, top_p=top_p, top_k=top_k or None).parts().scoring
    rounded = _rounded(replace(scoring, mask_token="propose", confidence_dtype=None), quirks)
    return dream.propose(rounded, logits, name, seed)


def _rounded(scoring: Scoring, quirks: str | Collection[str]) -> RoundedScoring:
    nucleus = "rounded_nucleus" in common.check_quirks(quirks, QUIRKS)
    return rounded_as(scoring, softmax_dtype=torch.float32, rounded_nucleus=nucleus)


def _sampler(config: MDMGenerationConfig, ties: str, kept: Collection[str]) -> Sampler:
    preset = Dream(
        steps=config.steps,
        alg="maskgit_plus" if config.alg == "p2" else config.alg,
        temperature=config.temperature,
        top_p=config.top_p,
        top_k=config.top_k or None,
        alg_temp=config.alg_temp or 0.0,
        eps=config.eps,
        ties=ties,
    )
    sampler = preset.parts()
    # What is ranked is rounded to the logits' dtype once, but for P2.
    ranked = None if config.alg == "p2" else "logits"
    sampler = replace(sampler, scoring=_rounded(replace(sampler.scoring, confidence_dtype=ranked), kept))
    if config.alg == "p2":
        kappa = Kappa(tuple((i + 1) / config.steps for i in range(config.steps)))
        sampler = replace(sampler, plan=Pool(kappa, masked="confidence", committed="confidence"))
    return sampler


def _full(mask_id: int) -> Stop:
    """Ends a row without masks: "p2" ranks what stands in every step, and the original ends there all the same."""

    def stop(tokens: Tensor, fixed: Tensor) -> Tensor:
        return (tokens != mask_id).all(1)

    return stop


class _Model:
    """An Open-dLLM model: bidirectional on request, padding named by its configuration, logits of the next token."""

    def __init__(self, model: Callable[..., Any]) -> None:
        self.model, self.__name__ = model, type(model).__name__
        self.pad_id = getattr(getattr(model, "config", None), "pad_token_id", None)

    def __call__(self, tokens: Tensor, request: Request) -> Output:
        mask = None
        if self.pad_id is not None:  # read from the canvas as it was given: what is generated later hides nothing
            assert request.fixed is not None
            given = torch.where(request.fixed, tokens, request.mask_id)
            mask = (given != self.pad_id).long()
        answer = self.model(input_ids=tokens, attention_mask=mask, is_causal=False)
        return replace(read_output(answer, self.model), shift=1)


REPLACES = {
    "MDMGenerationMixin.diffusion_generate": MDMGenerationMixin.diffusion_generate,
    "sample_tokens": sample_tokens,
}
