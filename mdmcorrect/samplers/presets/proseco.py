"""ProSeCo: the sampler for small models and its variant for LLaDA."""

from __future__ import annotations

from dataclasses import dataclass

from ..ancestral import Ancestral
from ..correct import FixedPoint
from ..counts import CountRule, EvenSplit, Threshold
from ..sampler import Sampler
from ..unmask import Unmask
from ..window import Blocks
from .llada import commit_order
from .preset import Filling, Preset


@dataclass(frozen=True, kw_only=True)
class ProSeCo(Preset):
    """MDLM with a corrector that rewrites its own tokens (arXiv 2602.11590, algorithms 2 and 3).

    Every omega-th step, up to S forwards of a canvas filled by argmax rewrite it until nothing changes; committed
    tokens take the outcome, and the step's commits are drawn from the last of these forwards, not from the predictor's.
    At most ``steps (1 + S / omega)`` forwards and one to remove noise; a row leaves at its fixed point, and a step
    that commits nothing and has nothing new to correct makes none.

    Args:
        corrector_steps: S, forwards per correction at most; 0 is MDLM.
        correct_every: omega.
        correct_start: no correction in steps ``i + 1 < correct_start``.
        carry_over: committed tokens enter the first guess as they are; False takes the argmax there as well.
        corrector: "argmax"; "sample", draws with the step's temperature and filter; "top_k", changes at the
            ``corrector_top_k`` positions that the model would change most surely, a number for that corrector alone.
        eps: as for :class:`MDLM`.
    """

    corrector_steps: int = 1
    correct_every: int = 1
    correct_start: int = 0
    carry_over: bool = True
    corrector: str = "argmax"
    corrector_top_k: int | None = None
    temperature: float = 1.0
    top_p_rule: str = "exclusive"
    eps: float = 1e-5

    def parts(self) -> Sampler:
        corrector = FixedPoint(
            self.corrector_steps,
            self.correct_every,
            self.correct_start,
            self.carry_over,
            update=self.corrector,
            top_k=self.corrector_top_k,
        )
        return Sampler(
            name="ProSeCo",
            steps=self.steps,
            plan=Ancestral(eps=self.eps),
            correct=corrector if self.corrector_steps else None,
            scoring=self._scoring(),
        )


@dataclass(frozen=True, kw_only=True)
class BlockProSeCo(Filling):
    """ProSeCo on LLaDA: blocks, commits by confidence, corrections from the prompt to the block's end (2602.11590).

    At most ``steps (1 + S / omega)`` forwards. With a threshold a block lasts until it is filled, and there are no
    ``steps`` to choose.

    Args:
        block_length: generated positions per block, None for one block.
        corrector_steps, correct_every: S and omega, of the steps of a block.
        threshold: commit all proposals this probable, at least one; None splits evenly.
        temperature, remasking, ties: as for :class:`LLaDA`.
    """

    block_length: int | None = None
    corrector_steps: int = 4
    correct_every: int = 2
    threshold: float | None = None
    remasking: str = "low_confidence"
    ties: str = "lowest"

    def parts(self) -> Sampler:
        corrector = FixedPoint(self.corrector_steps, self.correct_every, revisits=False)
        return Sampler(
            name="BlockProSeCo",
            steps=1 if self._until_filled or self.steps is None else self.steps,
            unmask=self.unmask(),
            window=Blocks(self.block_length, until_filled=self._until_filled),
            correct=corrector if self.corrector_steps else None,
            scoring=self._scoring(mask_token="forbid"),
        )

    @property
    def _until_filled(self) -> bool:
        return self.threshold is not None

    def unmask(self) -> Unmask:
        """Which positions it commits, and how many."""
        if not self._until_filled and self.steps is None:
            raise ValueError("steps: expected an int of at least 1, or a threshold, got neither")
        count: CountRule = EvenSplit() if self.threshold is None else Threshold(self.threshold)
        return Unmask(commit_order(self.remasking), count, ties=self.ties)
