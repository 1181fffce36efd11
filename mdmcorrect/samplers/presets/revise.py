"""Decoders of language models that take back what they wrote: WINO, RemeDi, CoRe, history, NAVIRA; MDiff4STR."""

from __future__ import annotations

from dataclasses import dataclass

from ... import _checks
from ..correct import HideAndAsk
from ..counts import AboveMean, CeilTarget, EvenSplit, Threshold
from ..plan import UnmaskThenRemask
from ..pool import Kappa, Pool
from ..remask import Constant
from ..sampler import Sampler
from ..unmask import BeforeEnd, Unmask
from ..verify import CosineTarget, DraftAndVerify, HistoryRemask, ScoreThenFill
from ..window import Blocks
from .llada import LLADA
from .preset import Filling, Preset


@dataclass(frozen=True, kw_only=True)
class WINO(Filling):
    """Wide-in, narrow-out decoding (arXiv 2507.18578): accept above a low bar, verify by attention that hides a token.

    One forward per step, of the canvas and a shadow of the block: wrap the model in
    :class:`mdmcorrect.adapters.ShadowBlock`, whose quality is the probability of a token where nobody sees it.

    Args:
        block_length: generated positions per block, None for one block.
        accept: tau_1, compared with the proposal's probability.
        doubt: tau_2, compared with the quality of committed tokens.
    """

    block_length: int | None = 128
    accept: float = 0.6
    doubt: float = 0.9

    def parts(self) -> Sampler:
        return Sampler(
            name="WINO",
            steps=1,
            plan=DraftAndVerify(unmask=Unmask("confidence", Threshold(self.accept, strict=True)), doubt=self.doubt),
            window=Blocks(self.block_length, until_filled=True, extra=DraftAndVerify.FIRST),
            scoring=self._scoring(mask_token="forbid"),
        )


@dataclass(frozen=True, kw_only=True)
class RemeDi(Preset):
    """RemeDi's decoding (arXiv 2509.23653): after step i of a block the best ``i / S`` of all its positions stand.

    Masked and committed positions are ranked together by the model's confidence in the token that would stand there;
    committed ones that fall behind are masked again. One forward per step.

    Args:
        block_length: generated positions per block, None for one block.
        by: "quality", the confidence stream; "probability", the token's own probability, as the released code gathers.
    """

    block_length: int | None = 32
    by: str = "quality"

    def parts(self) -> Sampler:
        _checks.choice("by", self.by, "quality", "probability")
        ranks = ("quality", "quality") if self.by == "quality" else ("logprob", "current_logprob")
        return Sampler(
            name="RemeDi",
            steps=self.steps,
            plan=Pool(Kappa(), masked=ranks[0], committed=ranks[1]),
            window=Blocks(self.block_length),
            scoring=self._scoring(mask_token="forbid"),
        )


@dataclass(frozen=True, kw_only=True)
class CoRe(Preset):
    """Context-robust remasking of a LLaDA decoder (arXiv 2602.04096), without training.

    LLaDA's steps; every ``correct_every``-th asks once more with the shakiest tokens masked together and rewrites
    those that do not stand without one another. ``steps (1 + 1 / correct_every)`` forwards.

    Args:
        block_length: generated positions per block, None for one block.
        candidates, revise, correct_every: see :class:`HideAndAsk`.
        temperature: as for :class:`LLaDA`.
    """

    block_length: int | None = None
    candidates: int = 8
    revise: int = 2
    correct_every: int = 16

    def parts(self) -> Sampler:
        return Sampler(
            name="CoRe",
            steps=self.steps,
            unmask=Unmask("confidence", EvenSplit()),
            window=Blocks(self.block_length),
            correct=HideAndAsk(self.candidates, self.revise, self.correct_every),
            scoring=self._scoring(**LLADA),
        )


@dataclass(frozen=True, kw_only=True)
class HistoryRemasking(Preset):
    """Training-free self-correction by history (arXiv 2602.02927): MaskGIT's schedule, and see :class:`HistoryRemask`.

    One forward per step.

    Args:
        numbers: ``(until, number)`` pairs, how many are masked again by the share of steps made.
        order_temperature: of the Gumbel noise on the commit order.
    """

    numbers: tuple[tuple[float, int], ...] = ((0.4, 0), (0.6, 16), (0.8, 8), (1.0, 4))
    temperature: float = 1.0
    order_temperature: float = 0.0

    def parts(self) -> Sampler:
        unmask = Unmask("confidence", CosineTarget(), temperature=self.order_temperature)
        return Sampler(
            name="HistoryRemasking",
            steps=self.steps,
            plan=HistoryRemask(unmask=unmask, numbers=self.numbers),
            scoring=self._scoring(),
        )


@dataclass(frozen=True, kw_only=True)
class NAVIRA(Preset):
    """Decoupled detection and replacement (arXiv 2606.06031), from its abstract; see :class:`ScoreThenFill`.

    At most two forwards per step: one judges, one fills what the first cleaned.

    Args:
        remask_count: positions masked again per step, under PRISM's condition (:class:`Constant`).
        remask_temperature: of their draw, by ``softmax(-log quality / temperature)``; 0 takes the lowest quality.
        unmask: the commit order, as for :class:`PRISM`.
        top_p_rule: as for :class:`PRISM`.
    """

    remask_count: int = 1
    remask_temperature: float = 1.0
    unmask: str = "random"
    temperature: float = 1.0
    top_p_rule: str = "exclusive"

    def parts(self) -> Sampler:
        return Sampler(
            name="NAVIRA",
            steps=2 * self.steps,
            plan=ScoreThenFill(
                unmask=Unmask(self.unmask, CeilTarget()),
                count=Constant(self.remask_count),
                temperature=self.remask_temperature,
            ),
            scoring=self._scoring(),
        )


@dataclass(frozen=True, kw_only=True)
class MDiff4STR(Preset):
    """MDiff4STR's low-confidence decoding (OpenOCR): what is above the mean, up to the end of the word.

    At most ``steps`` forwards: all but one by the rule, the last to fill what is left.

    Args:
        eos_id: end of sequence; positions after the first proposed one wait. None commits anywhere.
    """

    steps: int = 3
    eos_id: int | None = None

    def parts(self) -> Sampler:
        if self.steps < 2:
            raise ValueError(f"steps: expected at least 2, got {self.steps}")
        return Sampler(
            name="MDiff4STR",
            steps=self.steps - 1,
            plan=UnmaskThenRemask(BeforeEnd("confidence", AboveMean(self.eos_id), eos_id=self.eos_id)),
            scoring=self._scoring(),
        )
