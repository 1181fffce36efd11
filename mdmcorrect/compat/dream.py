"""Dream: ``generation_utils.py`` of the models on Hugging Face, which DiffuCoder, D2F and others copy."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from .. import _checks, rng
from ..model import Output, Request, read_output
from ..samplers import Dream, Sampler
from . import _common as common
from ._rounded import RoundedScoring, rounded_as

MODULES = ("generation_utils",)
QUIRKS = ("batch_mean_counts", "rounded_nucleus", "unfilled_masks")
Hook = Callable[[Any, Tensor, Any], Tensor]


@dataclass
class DreamModelOutput:
    """``sequences`` int64 ``[B, L]``, and the canvas after each step if asked for."""

    sequences: Tensor
    history: tuple[Tensor, ...] | None = None


@dataclass
class DreamGenerationConfig:
    """Settings of :func:`diffusion_generate`, by the names of the original."""

    temperature: float = 0.0
    top_p: float | None = None
    top_k: int | None = None
    max_length: int | None = None
    max_new_tokens: int | None = None
    eps: float = 1e-3
    steps: int = 512
    alg: str = "origin"
    alg_temp: float | None = None
    num_return_sequences: int = 1
    return_dict_in_generate: bool = False
    output_history: bool = False
    mask_token_id: int | None = None
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | None = None


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
    """Dream's ``diffusion_generate`` on our engine, as a function of the model.

    Args:
        inputs: int64 ``[B, P]``; masks in it are filled too.
        generation_config: an object with some of the attributes of :class:`DreamGenerationConfig`; what it lacks comes
            from ``model.generation_config``, and ``settings`` overrule both.
        attention_mask: 0 on padding, ``[B, P]``.
        generation_tokens_hook_func: ``(step, tokens, logits) -> tokens`` before the first step, with None for step and
            logits, and after each.
        generation_logits_hook_func: ``(step, tokens, logits) -> logits`` before logits are read.
        ties: how equal confidences are ordered, "lowest" index first or as "torch" does.
        quirks: defects of the original to keep. "batch_mean_counts": the number of commits is the batch's mean, which
            leaves masks in some rows and masks tokens of others. "rounded_nucleus": top_p sums probabilities in the
            logits' dtype, so that in bfloat16 it keeps other tokens; this sorts the vocabulary in torch, as there.
            "unfilled_masks": where the model predicts the mask, one is left.
        seed: default drawn from torch's global generator if anything is random.

    Returns:
        int64 ``[B, L]``, or a :class:`DreamModelOutput` with ``return_dict_in_generate=True``.

    Raises:
        ValueError: no ``mask_token_id``, a prompt as long as ``max_length``, a value out of range.
        TypeError: a setting that does not exist.
    """
    kept = common.check_quirks(quirks, QUIRKS)
    config = read_config(DreamGenerationConfig, model, generation_config, settings)
    hooks = Hooks(generation_tokens_hook_func, generation_logits_hook_func)
    sampler = dream_sampler(config, ties, kept, every_forward=hooks.used)
    return generate(DreamModel(model), inputs, config, sampler, attention_mask=attention_mask, hooks=hooks, seed=seed)


def generate(
    model: Any,
    inputs: Tensor | None,
    config: DreamGenerationConfig,
    sampler: Sampler,
    *,
    attention_mask: Tensor | None,
    hooks: Hooks,
    seed: int | Tensor | torch.Generator | None,
) -> DreamModelOutput | Tensor:
    """What :func:`diffusion_generate` does with its arguments read: a canvas, a run, the original's kinds of answer."""
    if inputs is None:
        raise ValueError("inputs: expected token ids [B, P], got None")
    if config.mask_token_id is None:
        raise ValueError("mask_token_id: expected an id, in generation_config or as an argument, got None")
    mask_id = _checks.token_id("mask_token_id", config.mask_token_id)
    (times,) = common.lengths(num_return_sequences=config.num_return_sequences)
    prompt = common.token_ids("inputs", inputs).repeat_interleave(times, 0)
    tokens = common.append_masks(prompt, new_tokens(config, prompt.shape[1]), mask_id)
    if isinstance(attention_mask, Tensor):
        attention_mask = attention_mask.repeat_interleave(times, 0)
    keep_history = config.return_dict_in_generate and config.output_history
    result = sampler(
        model,
        hooks.start(tokens),
        mask_id=mask_id,
        attention_mask=common.extend_mask(attention_mask, prompt, tokens.shape[1] - prompt.shape[1]),
        logits_processor=hooks.process_logits if hooks.logits else None,
        tokens_processor=hooks.process_tokens if hooks.tokens else None,
        origin=prompt.shape[1],
        seed=seed,
        history=keep_history,
    )
    common.completed(result)
    if not config.return_dict_in_generate:
        return result.tokens
    history = [event.tokens for event in result.history or ()]
    history += [result.tokens] * (config.steps - len(history))
    return DreamModelOutput(result.tokens, tuple(history) if keep_history else None)


def sample_tokens(
    logits: Tensor,
    temperature: float = 0.0,
    top_p: float | None = None,
    top_k: int | None = None,
    margin_confidence: bool = False,
    neg_entropy: bool = False,
    *,
    quirks: str | Collection[str] = (),
    seed: int | Tensor | torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """Confidence in the logits' dtype and proposal int64, ``[...]`` each, for logits ``[..., V]``.

    The confidence is the proposal's probability after temperature and filters, or the margin between the two best
    tokens, or minus the entropy, in half precision rounded after every operation as there.

    Args:
        quirks: "rounded_nucleus" or none, see :func:`diffusion_generate`.
    """
    kept = common.check_quirks(quirks, ("rounded_nucleus",))
    preset = Dream(steps=1, temperature=temperature, top_p=top_p, top_k=top_k)
    scoring = rounded_as(preset.parts().scoring, rounded_nucleus="rounded_nucleus" in kept)
    name = "entropy" if neg_entropy else "margin" if margin_confidence else "confidence"
    return propose(replace(scoring, mask_token="propose"), logits, name, seed)


def propose(
    scoring: RoundedScoring, logits: Tensor, name: str, seed: int | Tensor | torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """The score called ``name``, of the entropy its negative, and the proposal of each of ``logits [..., V]``."""
    rows = logits.reshape(1, -1, logits.shape[-1])
    place = torch.arange(rows.shape[1], device=logits.device)[None]
    scores = scoring(
        rows,
        tokens=torch.zeros_like(place),
        rows=torch.ones_like(place, dtype=torch.bool),
        positions=place,
        mask_id=0,
        want={"token", "confidence", name},
        seed=rng.sequence_seeds(seed, 1, device=logits.device, draws=scoring.random),
        step=torch.zeros_like(place[:, 0]),
        call=0,
    )
    confidence = -scores[name] if name == "entropy" else scores[name]
    if scoring.confidence_dtype == "logits":
        confidence = confidence.to(logits.dtype)
    return confidence.reshape(logits.shape[:-1]), scores["token"].reshape(logits.shape[:-1])


class DreamModel:
    """A Dream model: called with its own kinds of attention mask and positions; its logits are those of the next token.

    Without padding it wants the word "full" for a mask, and with it which query sees which key.
    """

    def __init__(self, model: Callable[..., Any]) -> None:
        self.model, self.__name__ = model, type(model).__name__

    def __call__(self, tokens: Tensor, request: Request) -> Output:
        mask: Tensor | str = "full"
        place = None
        if request.attention_mask is not None:
            real = request.attention_mask
            place = (real.long().cumsum(-1) - 1).masked_fill(~real, 1)
            mask = real[:, None, None, :] & real[:, None, :, None]
        return replace(read_output(self.model(tokens, mask, place), self.model), shift=1)


class Hooks:
    """Counts steps for hooks that want their number; with one, every row makes every forward."""

    def __init__(self, tokens: Hook | None, logits: Hook | None) -> None:
        self.tokens, self.logits, self.step = tokens, logits, 0
        self.used = tokens is not None or logits is not None

    def start(self, tokens: Tensor) -> Tensor:
        return self.tokens(None, tokens, None) if self.tokens else tokens

    def process_logits(self, tokens: Tensor, logits: Tensor) -> Tensor:
        assert self.logits is not None
        processed = self.logits(self.step, tokens, logits)
        if self.tokens is None:  # else the step ends with process_tokens
            self.step += 1
        return processed

    def process_tokens(self, tokens: Tensor, logits: Tensor | None) -> Tensor:
        assert self.tokens is not None
        self.step += 1
        return self.tokens(self.step - 1, tokens, logits)


_Config = TypeVar("_Config", bound=DreamGenerationConfig)


def read_config(kind: type[_Config], model: Any, given: Any, settings: Mapping[str, Any]) -> _Config:
    """The configuration of a run: ``settings`` over what is given over what the model has."""
    names = {field.name for field in fields(kind)}
    if unknown := settings.keys() - names:
        raise TypeError(f"diffusion_generate: expected settings among {sorted(names)}, got {sorted(unknown)}")
    values: dict[str, Any] = {}
    for source in (getattr(model, "generation_config", None), given):
        values.update({n: getattr(source, n) for n in names if getattr(source, n, None) is not None})
    config = kind(**{**values, **settings})
    if config.mask_token_id is None:
        config.mask_token_id = getattr(getattr(model, "config", None), "mask_token_id", None)
    (config.steps,) = common.lengths(steps=config.steps)
    return config


def new_tokens(config: DreamGenerationConfig, prompt_length: int) -> int:
    """As many as asked for; 20 where nothing is."""
    if config.max_new_tokens is not None:
        return _checks.integer("max_new_tokens", config.max_new_tokens, minimum=0)
    if config.max_length is None:
        return 20
    config.max_length = _checks.integer("max_length", config.max_length, minimum=0)
    if config.max_length <= prompt_length:
        raise ValueError(f"max_length: expected more than the prompt's {prompt_length} tokens, got {config.max_length}")
    return config.max_length - prompt_length


def dream_sampler(config: DreamGenerationConfig, ties: str, kept: Collection[str], *, every_forward: bool) -> Sampler:
    preset = Dream(
        steps=config.steps,
        alg=config.alg,
        temperature=config.temperature,
        top_p=config.top_p,
        top_k=config.top_k,
        alg_temp=config.alg_temp or 0.0,
        eps=config.eps,
        batch_mean="batch_mean_counts" in kept,
        ties=common.check_ties(ties),
    )
    leaves_masks = not {"batch_mean_counts", "unfilled_masks"}.isdisjoint(kept)
    sampler = preset.parts()
    scoring = rounded_as(sampler.scoring, rounded_nucleus="rounded_nucleus" in kept)
    sampler = replace(sampler, scoring=scoring, cache=not every_forward, finish=not leaves_masks)
    if "unfilled_masks" not in kept:
        return sampler
    plan: Any = sampler.plan
    if hasattr(plan, "unmask"):
        plan = replace(plan, unmask=replace(plan.unmask, spend_on_masks=True))
    return replace(sampler, plan=plan, scoring=replace(sampler.scoring, mask_token="propose"))


# What diffusion_generate takes by **: settings, what it names itself.
KEYWORDS = {field.name for field in fields(DreamGenerationConfig)} | {
    "attention_mask",
    "generation_tokens_hook_func",
    "generation_logits_hook_func",
}
TAKES = {"DreamGenerationMixin.diffusion_generate": KEYWORDS}
REPLACES = {
    "DreamGenerationMixin.diffusion_generate": DreamGenerationMixin.diffusion_generate,
    "sample_tokens": sample_tokens,
}
