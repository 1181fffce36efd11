"""Decoding as many positions at once as the scores allow: Fast-dLLM, the entropy bound, KLASS."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from ... import _checks
from ..counts import CountRule, EntropyBound, EvenSplit, Factor, Threshold
from ..sampler import Sampler
from ..steady import Steady, SteadyFirst
from ..unmask import Unmask
from ..window import Blocks
from .llada import commit_order
from .preset import Filling, Preset


@dataclass(frozen=True, kw_only=True)
class FastDLLM(Filling):
    """Fast-dLLM's confidence-aware parallel decoding (arXiv 2505.22618, section 3.3).

    One forward per step. With a threshold or a factor a block lasts until it is filled; without, this is LLaDA, of
    so many ``steps``, with confidences in full precision. Key-value caches are adapters of the model:
    :class:`mdmcorrect.adapters.PrefixCache` and :class:`mdmcorrect.adapters.DualCache`.

    Args:
        block_length: generated positions per block, None for one block.
        threshold: commit all proposals at least this probable, and the best one if there are none.
        factor: instead, commit the n most confident while ``(n + 1) (1 - c_(n)) <= factor``.
        remasking, temperature, ties: as for :class:`LLaDA`.
    """

    block_length: int | None = None
    threshold: float | None = None
    factor: float | None = None
    remasking: str = "low_confidence"
    ties: str = "lowest"

    def parts(self) -> Sampler:
        return Sampler(
            name="FastDLLM",
            steps=1 if self._until_filled or self.steps is None else self.steps,
            unmask=Unmask(commit_order(self.remasking), self._count(), ties=self.ties),
            window=Blocks(self.block_length, until_filled=self._until_filled),
            scoring=self._scoring(mask_token="forbid"),
        )

    @property
    def _until_filled(self) -> bool:
        return self.threshold is not None or self.factor is not None

    def _count(self) -> CountRule:
        if self.threshold is not None and self.factor is not None:
            raise ValueError(f"threshold, factor: expected one of them, got {self.threshold} and {self.factor}")
        if not self._until_filled and self.steps is None:
            raise ValueError("steps: expected an int of at least 1, or a threshold or a factor, got none of them")
        if self.factor is not None:
            return Factor(self.factor)
        return EvenSplit() if self.threshold is None else Threshold(self.threshold)


@dataclass(frozen=True, kw_only=True)
class EntropyBounded(Filling):
    """The entropy-bounded sampler (arXiv 2505.24857, section 4).

    One forward per step, at most one per position. Commits the positions of least entropy, as many as keep the sum of
    their entropies, less the largest, within gamma: an upper bound on what is lost by drawing them independently.

    Args:
        gamma: in nats; 0 commits one position a step, and with it all that are certain.
        block_length: generated positions per block, None for one block.
        temperature: of the draw; entropies are those at temperature 1.
    """

    gamma: float = 0.1
    block_length: int | None = None

    def parts(self) -> Sampler:
        return Sampler(
            name="EntropyBounded",
            steps=1,
            unmask=Unmask("entropy", EntropyBound(self.gamma)),
            window=Blocks(self.block_length, until_filled=True),
            scoring=self._scoring(),
        )


@dataclass(frozen=True, kw_only=True)
class KLASS(Preset):
    """KL-adaptive stability sampling (arXiv 2511.05664; the authors' code for LLaDA): what is sure and steady, at once.

    LLaDA's steps and blocks; a step commits every position whose confidence exceeds ``threshold`` and whose
    distribution has moved by less than ``kl_threshold`` in each of the last steps, and where there is none, what LLaDA
    would commit. A block that is filled before its steps are used ends. One forward per step. The model is one in
    :class:`mdmcorrect.adapters.Stability`, whose ``history`` says how many steps.

    Args:
        block_length: generated positions per block, None for one block.
        threshold: of the confidence (the authors' ``conf_threshold``).
        kl_threshold: in nats, positive.
        temperature: of the proposals; confidences and divergences are those at temperature 1, where the authors' code
            takes both of the noisy logits.
    """

    limits: ClassVar[Mapping[str, _checks.Rule]] = {"kl_threshold": _checks.positive}

    block_length: int | None = None
    threshold: float = 0.9
    kl_threshold: float = 0.01

    def parts(self) -> Sampler:
        steady = Steady(self.threshold, self.kl_threshold)
        return Sampler(
            name="KLASS",
            steps=self.steps,
            unmask=SteadyFirst("confidence", steady),
            window=Blocks(self.block_length),
            scoring=self._scoring(mask_token="forbid"),
        )
