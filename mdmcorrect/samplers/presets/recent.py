"""Decoders of 2025 and 2026 that look ahead, or go over what is written: Info-Gain, Tolerator, DiffusionGemma."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import ClassVar

from ... import _checks
from ..counts import EvenSplit
from ..lookahead import InformationGain
from ..refine import Annealed, BoundedCanvas, FillThenRefine
from ..sampler import Sampler
from ..scoring import Scoring
from ..unmask import Unmask
from ..window import Blocks
from .llada import LLADA
from .preset import Preset


@dataclass(frozen=True, kw_only=True)
class InfoGain(Preset):
    """The information-gain sampler (arXiv 2602.18176; the authors' code, k positions a step), without training.

    LLaDA's steps and blocks; each tries ``candidates`` sets of positions and commits the one that costs and leaves the
    least entropy. At most ``steps (1 + candidates)`` forwards; a step without a choice makes one.

    Args:
        block_length: generated positions per block, None for one block.
        candidates, cost_weight, cost: see :class:`InformationGain`.
        position_temperature: of the draw of positions.
        temperature: of the proposals, which all sets share; the authors draw them anew for each.
    """

    limits: ClassVar[Mapping[str, _checks.Rule]] = {
        "cost_weight": _checks.weight,
        "cost": _checks.one_of("sum", "mean"),
    }

    block_length: int | None = None
    candidates: int = 8
    position_temperature: float = 0.2
    cost_weight: float = 1.0
    cost: str = "sum"

    def parts(self) -> Sampler:
        return Sampler(
            name="InfoGain",
            steps=self.steps,
            unmask=Unmask("confidence", EvenSplit()),
            window=Blocks(self.block_length),
            correct=InformationGain(
                EvenSplit(), self.candidates, self.position_temperature, self.cost_weight, self.cost
            ),
            scoring=self._scoring(mask_token="forbid"),
        )


@dataclass(frozen=True, kw_only=True)
class Tolerator(Preset):
    """Fill the canvas, then mask subsets of it again (arXiv 2510.05090), without training.

    ``steps - refine_steps`` steps of LLaDA's, and ``refine_steps`` that fill what a falling share of random positions
    held. One forward per step. The authors' code also bars positions that repeat themselves ten times, and lowers the
    logit of the end of sequence, which a ``logits_processor`` does.

    Args:
        refine_steps: fewer than ``steps``.
        first_share, last_share: masked before the first and the last of these.
    """

    limits: ClassVar[Mapping[str, _checks.Rule]] = {
        "refine_steps": _checks.at_least(0),
        "first_share": _checks.share,
        "last_share": _checks.share,
    }

    refine_steps: int = 16
    first_share: float = 0.8
    last_share: float = 0.4

    def parts(self) -> Sampler:
        if self.refine_steps >= self.steps:
            raise ValueError(f"refine_steps: expected fewer than steps = {self.steps}, got {self.refine_steps}")
        return Sampler(
            name="Tolerator",
            steps=self.steps,
            plan=FillThenRefine(refine=self.refine_steps, first=self.first_share, last=self.last_share),
            scoring=self._scoring(**LLADA),
        )


@dataclass(frozen=True, kw_only=True)
class EntropyCanvas(Preset):
    """DiffusionGemma's decoding of one canvas (transformers 5.24.0), for models of uniform corruption.

    At most one forward per step; a row ends earlier when it is stable and sure. What stands in the generated positions
    does not matter: they begin as random tokens. Conditioning on the logits of the step before is the model's business.

    Args:
        vocab: random tokens are drawn from the ids below it.
        gamma, stable, sure: see :class:`BoundedCanvas`.
        high, low: temperatures of the first and after the last step; see :class:`Annealed`.
        temperature: of the draw, of logits divided by these.
    """

    limits: ClassVar[Mapping[str, _checks.Rule]] = {
        "vocab": _checks.at_least(2),
        "stable": _checks.at_least(0),
        "sure": _checks.number,
        "high": _checks.number,
        "low": _checks.number,
    }

    vocab: int
    steps: int = 48
    gamma: float = 0.1
    stable: int = 1
    sure: float = 0.005
    high: float = 0.8
    low: float = 0.4
    temperature: float = 1.0

    def parts(self) -> Sampler:
        plain = self._scoring()
        settings = {field.name: getattr(plain, field.name) for field in fields(Scoring)}
        return Sampler(
            name="EntropyCanvas",
            steps=self.steps + 1,
            plan=BoundedCanvas(self.vocab, self.gamma, self.stable, self.sure),
            scoring=Annealed(**settings, high=self.high, low=self.low, over=self.steps),
        )
