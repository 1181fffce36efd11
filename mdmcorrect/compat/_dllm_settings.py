"""The configurations of dLLM's samplers, and what these return."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from torch import Tensor


@dataclass
class SamplerOutput:
    """``sequences`` int64 ``[B, L]``; the canvas at the start and after each step if asked for; forwards per row."""

    sequences: Tensor
    histories: list[Tensor] | None = None
    nfe: list[int] | None = None


@dataclass(kw_only=True)
class SamplerConfig:
    """Settings that all samplers here share.

    Attributes:
        ties: how equal confidences are ordered, "lowest" index first or as "torch" does.
        seed: default drawn from torch's global generator if anything is random.
        quirks: defects of the original to keep; see each sampler.
    """

    return_dict: bool = False
    ties: str = "lowest"
    seed: int | None = None
    quirks: str | Collection[str] = ()


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
