"""ZHZisZZ/dllm: ``dllm.core.samplers`` (MDLM, BD3LM) and ``dllm.pipelines`` (LLaDA2, LLaDA2.1)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from ..adapters import Guided, RightShifted
from ..samplers import Blocks, LLaDA2, LLaDA21, RoundedGrid, Sampler, SampleResult, Unmask
from ..samplers.counts import commit_shares, linear_stays
from ..samplers.presets.llada import commit_order, llada_scoring
from . import _common as common
from ._dllm_models import BlockCausal, Staircase

MODULES = ("dllm.core.samplers", "dllm.pipelines.llada2.sampler", "dllm.pipelines.llada21.sampler")


@dataclass
class SamplerOutput:
    """``sequences`` int64 ``[B, L]``; the canvas at the start and after each step if asked for; forwards per row."""

    sequences: Tensor
    histories: list[Tensor] | None = None
    nfe: list[int] | None = None


@dataclass(kw_only=True)
class SamplerConfig:
    """Settings that all samplers here share."""

    return_dict: bool = False
    ties: str = "lowest"
    seed: int | None = None


@dataclass(kw_only=True)
class MDLMSamplerConfig(SamplerConfig):
    """Settings of :class:`MDLMSampler`, by the names of the original."""

    max_new_tokens: int | None = 128
    max_length: int | None = None
    block_size: int | None = 128
    steps: int = 128
    temperature: float = 0.0
    remasking: str = "low_confidence"
    stochastic_transfer: bool = False
    cfg_scale: float = 0.0
    cfg_keep_tokens: Sequence[int] | None = None
    suppress_tokens: Sequence[int] | None = None
    begin_suppress_tokens: Sequence[int] | None = None
    right_shift_logits: bool = False


@dataclass(kw_only=True)
class BD3LMSamplerConfig(SamplerConfig):
    """Settings of :class:`BD3LMSampler`, by the names of the original."""

    max_new_tokens: int | None = 128
    max_length: int | None = None
    block_size: int = 32
    steps: int = 128
    steps_per_block: int | None = None
    temperature: float = 0.0
    remasking: str = "low_confidence"
    stochastic_transfer: bool = False
    cfg_scale: float = 0.0
    cfg_keep_tokens: Sequence[int] | None = None
    right_shift_logits: bool = False


@dataclass(kw_only=True)
class LLaDA2SamplerConfig(SamplerConfig):
    """Settings of :class:`LLaDA2Sampler`, by the names of the original."""

    max_new_tokens: int = 128
    block_size: int = 32
    steps_per_block: int = 32
    temperature: float = 0.0
    top_p: float | None = None
    top_k: int | None = None
    threshold: float = 0.95
    minimal_topk: int = 1
    eos_early_stop: bool = False


@dataclass(kw_only=True)
class LLaDA21SamplerConfig(SamplerConfig):
    """Settings of :class:`LLaDA21Sampler`, by the names of the original."""

    max_new_tokens: int | None = 128
    max_length: int | None = None
    block_size: int = 32
    temperature: float = 0.0
    top_p: float | None = None
    top_k: int | None = None
    threshold: float = 0.95
    editing_threshold: float = 0.9
    max_post_steps: int = 16
    num_to_transfer: int = 1
    eos_early_stop: bool = False


def get_num_transfer_tokens(mask_index: Tensor, steps: int, scheduler: Any = None, stochastic: bool = False) -> Tensor:
    """How many masks of each row every step commits, int64 ``[B, S']``; steps in which no row commits any are left out.

    Args:
        mask_index: bool ``[B, L]``.
        steps: S.
        scheduler: has ``reverse_mask_prob(s, t)``, the share of masks at t that remain at s; default linear.
        stochastic: binomial draws from torch's generator.
    """
    left = mask_index.sum(1)
    columns = []
    for share in commit_shares(steps, _stays(scheduler), mask_index.device):
        expected = left.double()
        drawn = torch.binomial(expected, share.expand_as(expected)) if stochastic else expected * share
        columns.append(torch.round(drawn).long().minimum(left))
        left = left - columns[-1]
    counts = torch.stack(columns, 1)
    counts = counts.gather(1, (counts == 0).long().argsort(dim=1, stable=True))
    return counts[:, : int((counts > 0).sum(1).max()) if len(counts) else 0]


@dataclass
class BaseSampler:
    """A model with its tokenizer (``mask_token_id``, ``eos_token_id``, ``bos_token_id``, ``pad_token_id``)."""

    model: Any
    tokenizer: Any
    scheduler: Any = None

    config_class: ClassVar[type[SamplerConfig]]

    def _settings(self, config: SamplerConfig | None, settings: dict[str, Any]) -> Any:
        """The configuration, given or default, with ``settings`` over it; settings of others are passed over."""
        names = {field.name for field in fields(self.config_class)}
        given = {} if config is None else {n: getattr(config, n) for n in names if hasattr(config, n)}
        return self.config_class(**{**given, **{n: value for n, value in settings.items() if n in names}})

    def _device(self) -> torch.device:
        return torch.device(getattr(self.model, "device", "cpu"))

    def _prompts(self, inputs: Sequence[Any], *, right_shift: bool = False) -> list[Tensor]:
        """The inputs as tensors; where logits are shifted, an empty one becomes a beginning of sequence."""
        if len(inputs) == 0:
            raise ValueError("inputs: expected at least one prompt, got none")
        rows = [torch.as_tensor(row, dtype=torch.int64, device=self._device()) for row in inputs]
        return [row.new_tensor([self.tokenizer.bos_token_id]) if right_shift and not len(row) else row for row in rows]

    def _output(self, result: SampleResult, start: Tensor, config: SamplerConfig, width: int | None = None) -> Any:
        tokens = result.tokens[:, :width]
        if not config.return_dict:
            return tokens
        histories = [start[:, :width], *(event.tokens[:, :width] for event in result.history or ())]
        return SamplerOutput(tokens, histories, result.nfe.tolist())


class MDLMSampler(BaseSampler):
    """LLaDA's decoding of ragged prompts, aligned on the left and padded with the end of sequence."""

    config_class = MDLMSamplerConfig

    def sample(self, inputs: Sequence[Any], config: MDLMSamplerConfig | None = None, **kwargs: Any) -> Any:
        """Generate after each prompt: int64 ``[B, L]``, or a :class:`SamplerOutput`.

        Masks in a prompt are filled with its first block; the original leaves the block unfinished instead.
        """
        settings = self._settings(config, kwargs)
        prompts = self._prompts(inputs, right_shift=settings.right_shift_logits)
        lengths = [len(row) for row in prompts]
        new = settings.max_new_tokens or settings.max_length - max(lengths)
        mask_id = self.tokenizer.mask_token_id
        rows = [F.pad(row, (0, new), value=mask_id) for row in prompts]
        blocks = math.ceil(new / settings.block_size)
        return self._fill(rows, torch.tensor(lengths), blocks, settings)

    def infill(self, inputs: Sequence[Any], config: MDLMSamplerConfig | None = None, **kwargs: Any) -> Any:
        """Fill the masks of each input; blocks are cut from column 0 on."""
        settings = self._settings(config, kwargs)
        rows = self._prompts(inputs, right_shift=settings.right_shift_logits)
        width = max(len(row) for row in rows)
        settings = replace(settings, block_size=settings.block_size or width)
        return self._fill(
            rows, torch.zeros(len(rows), dtype=torch.int64), math.ceil(width / settings.block_size), settings
        )

    def _fill(self, rows: list[Tensor], origin: Tensor, blocks: int, settings: MDLMSamplerConfig) -> Any:
        tokens, real = _padded(rows, self.tokenizer.eos_token_id)
        assert settings.block_size is not None
        sampler = _sampler(settings, math.ceil(settings.steps / max(blocks, 1)), self.scheduler)
        model: Any = _Masked(self.model)
        if settings.cfg_scale > 0:
            model = Guided(model, settings.cfg_scale, keep=settings.cfg_keep_tokens or ())
        if settings.right_shift_logits:
            model = RightShifted(model)
        result = sampler(
            model,
            tokens,
            mask_id=self.tokenizer.mask_token_id,
            attention_mask=real,
            origin=origin.to(tokens.device),
            seed=_seed(settings),
            history=settings.return_dict,
        )
        return self._output(result, tokens, settings)


class BD3LMSampler(BaseSampler):
    """Block diffusion: prompts aligned on the right, a cache of all earlier blocks, and an end per row."""

    config_class = BD3LMSamplerConfig

    def sample(self, inputs: Sequence[Any], config: BD3LMSamplerConfig | None = None, **kwargs: Any) -> Any:
        """Generate after each prompt: int64 ``[B, L]``, or a :class:`SamplerOutput`.

        Ends after a block when every row has an end of sequence; columns after it are left out.
        """
        settings = self._settings(config, kwargs)
        prompts = self._prompts(inputs, right_shift=settings.right_shift_logits)
        size, longest = settings.block_size, max(len(row) for row in prompts)
        new = settings.max_new_tokens or settings.max_length - longest
        start = math.ceil(longest / size) * size
        pad_id, mask_id = self.tokenizer.pad_token_id, self.tokenizer.mask_token_id
        prompt = torch.stack([F.pad(row, (start - len(row), 0), value=pad_id) for row in prompts])
        tokens = F.pad(prompt, (0, new), value=mask_id)
        steps = settings.steps_per_block or math.ceil(settings.steps / math.ceil(new / size))
        model = Staircase(
            self.model,
            size,
            pad_id,
            guidance=settings.cfg_scale,
            keep=tuple(settings.cfg_keep_tokens or ()),
            right_shift=settings.right_shift_logits,
        )
        result = _sampler(settings, steps, self.scheduler)(
            model,
            tokens,
            mask_id=mask_id,
            origin=start,
            stop=_ended(start, size, mask_id, self.tokenizer.eos_token_id),
            seed=_seed(settings),
            history=settings.return_dict,
        )
        left = (result.tokens == mask_id).any(0).nonzero()
        width = start + (int(left[0]) - start) // size * size if len(left) else tokens.shape[1]
        return self._output(result, tokens, settings, width)


class LLaDA2Sampler(BaseSampler):
    """LLaDA2.0's decoding: blocks of columns, each seeing those before it."""

    config_class = LLaDA2SamplerConfig

    def sample(self, inputs: Sequence[Any], config: LLaDA2SamplerConfig | None = None, **kwargs: Any) -> Any:
        """Generate after prompts of one length: int64 ``[B, L]``, whole blocks, or a :class:`SamplerOutput`."""
        settings = self._settings(config, kwargs)
        steps = settings.steps_per_block
        if settings.minimal_topk > 0:
            steps = min(steps, settings.max_new_tokens // settings.minimal_topk)
        preset = LLaDA2(
            steps=max(steps, 1),
            block_length=settings.block_size,
            threshold=settings.threshold,
            temperature=settings.temperature,
            top_k=settings.top_k or None,
            top_p=settings.top_p or None,
            ties=_block_ties(settings.ties),
        )
        return _by_blocks(self, preset.parts(), inputs, settings.max_new_tokens, settings)


class LLaDA21Sampler(BaseSampler):
    """LLaDA2.1's decoding, which edits the tokens of a block while it fills it and after; batches too."""

    config_class = LLaDA21SamplerConfig

    def sample(self, inputs: Sequence[Any], config: LLaDA21SamplerConfig | None = None, **kwargs: Any) -> Any:
        """Generate after prompts of one length: int64 ``[B, L]``, whole blocks, or a :class:`SamplerOutput`."""
        settings = self._settings(config, kwargs)
        filtered = settings.temperature > 0  # the original filters draws only
        preset = LLaDA21(
            block_length=settings.block_size,
            threshold=settings.threshold,
            editing_threshold=settings.editing_threshold,
            at_least=settings.num_to_transfer,
            post_steps=settings.max_post_steps,
            temperature=settings.temperature,
            top_k=settings.top_k or None if filtered else None,
            top_p=settings.top_p or None if filtered else None,
            ties=_block_ties(settings.ties),
        )
        new = settings.max_new_tokens or settings.max_length - len(inputs[0])
        return _by_blocks(self, preset.parts(), inputs, new, settings)


def _by_blocks(owner: BaseSampler, sampler: Sampler, inputs: Sequence[Any], new: int, settings: Any) -> Any:
    """LLaDA2.x: a canvas of whole blocks from column 0 on, entered by all rows together."""
    prompts = owner._prompts(inputs)
    if len({len(row) for row in prompts}) != 1:
        raise ValueError(f"inputs: expected prompts of one length, got lengths {[len(row) for row in prompts]}")
    prompt, size, mask_id = torch.stack(prompts), settings.block_size, owner.tokenizer.mask_token_id
    first = prompt.shape[1] // size * size
    width = math.ceil((prompt.shape[1] + new) / size) * size
    tokens = F.pad(prompt, (0, width - prompt.shape[1]), value=mask_id)
    stop = _ended(first, size, mask_id, owner.tokenizer.eos_token_id, prompt.shape[1])
    result = replace(sampler, window=replace(sampler.window, together=True))(
        BlockCausal(owner.model, size),
        tokens,
        mask_id=mask_id,
        origin=first,
        stop=stop if settings.eos_early_stop else None,
        seed=common.seed_of(settings.seed, random=settings.temperature > 0),
        history=settings.return_dict,
    )
    return owner._output(result, tokens, settings)


def _block_ties(ties: str) -> str:
    """The original asks ``torch.topk`` about the block alone."""
    return "torch_block" if common.check_ties(ties) == "torch" else ties


def _sampler(settings: MDLMSamplerConfig | BD3LMSamplerConfig, steps: int, scheduler: Any) -> Sampler:
    if settings.block_size is None or settings.block_size < 1 or settings.steps < 1:
        raise ValueError(f"block_size, steps: expected at least 1, got {settings.block_size} and {settings.steps}")
    count = RoundedGrid(steps, settings.stochastic_transfer, _stays(scheduler))
    whole = isinstance(settings, MDLMSamplerConfig)  # ranks whole rows
    ties = common.check_ties(settings.ties) if whole else _block_ties(settings.ties)
    return Sampler(
        name=type(settings).__name__.removesuffix("Config"),
        steps=steps,
        unmask=Unmask(commit_order(settings.remasking), count, ties=ties),
        window=Blocks(settings.block_size, steps=steps, by="column", together=True),
        scoring=llada_scoring(
            settings.temperature,
            suppress=tuple(getattr(settings, "suppress_tokens", None) or ()),
            confidence_forbid=tuple(getattr(settings, "begin_suppress_tokens", None) or ()),
        ),
    )


def _stays(scheduler: Any) -> Callable[[float, float], float]:
    if scheduler is None:
        return linear_stays
    return lambda s, t: float(scheduler.reverse_mask_prob(s=s, t=t))


def _seed(settings: MDLMSamplerConfig | BD3LMSamplerConfig) -> Any:
    random = settings.temperature > 0 or settings.remasking == "random" or settings.stochastic_transfer
    return common.seed_of(settings.seed, random=random)


def _padded(rows: list[Tensor], pad_id: int) -> tuple[Tensor, Tensor]:
    """Rows of different lengths as ``[B, L]``, padded on the right, and what of it is real."""
    width = max(len(row) for row in rows)
    tokens = torch.stack([F.pad(row, (0, width - len(row)), value=pad_id) for row in rows])
    lengths = torch.tensor([len(row) for row in rows], device=tokens.device)
    return tokens, torch.arange(width, device=tokens.device) < lengths[:, None]


def _ended(start: int, size: int, mask_id: int, eos_id: int | None, prompt_length: int | None = None) -> Any:
    """A stop rule for the batch: every row has an end of sequence in a block that all rows have filled."""

    def stop(tokens: Tensor, fixed: Tensor) -> Tensor:
        generated = tokens[:, start:]
        unfilled = (generated == mask_id).any(0).long().cumsum(0)
        column = torch.arange(generated.shape[1], device=tokens.device)
        last = (column // size * size + size - 1).clamp(max=generated.shape[1] - 1)
        filled = unfilled[last] == 0  # columns of blocks without a mask in any row
        if prompt_length is not None:
            filled = filled & (column + start >= prompt_length)
        return ((generated == eos_id) & filled).any(1).all().expand(len(tokens))

    return stop if eos_id is not None else None


class _Masked(common.HuggingFace):
    """As the original, hands the model an attention mask whether or not there is padding."""

    def __call__(self, tokens: Tensor, request: Any) -> Any:
        if request.attention_mask is None:
            request = replace(request, attention_mask=torch.ones_like(tokens, dtype=torch.bool))
        return super().__call__(tokens, request)


REPLACES = {
    "MDLMSampler": MDLMSampler,
    "BD3LMSampler": BD3LMSampler,
    "LLaDA2Sampler": LLaDA2Sampler,
    "LLaDA21Sampler": LLaDA21Sampler,
    "utils.get_num_transfer_tokens": get_num_transfer_tokens,
}
