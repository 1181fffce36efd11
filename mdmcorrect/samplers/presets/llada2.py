"""LLaDA2.x: thresholds in blocks, token editing, remasking in place of overwriting."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..counts import EvenSplit, Threshold
from ..edit import Edit, EditRule, Overwrite, RemaskDoubtful
from ..sampler import Sampler
from ..state import State
from ..unmask import Unmask
from ..window import Blocks, View
from .preset import Filling, Preset

# Statistics are those of the proposals, rounded to the logits' dtype.
PROPOSALS: dict[str, Any] = {"law": "proposal", "mask_token": "forbid", "confidence_dtype": "logits"}


@dataclass(frozen=True, kw_only=True)
class LLaDA2(Preset):
    """LLaDA2.0's decoding (arXiv 2512.15745): blocks of columns, a threshold with a schedule as its floor.

    One forward per step. ``steps`` are those of a block; step i commits every proposal whose confidence exceeds the
    threshold, or, if these are fewer than an even split of the block demands, the most confident ones of its number.

    Args:
        block_length: columns per block, counted from the sampler's ``origin``.
        threshold: strict, in the logits' dtype.
        temperature, top_k, top_p: of the proposals; confidences are those after them, and with them at temperature 0.
        ties: "lowest" or "torch"; see :class:`Unmask`.
    """

    steps: int = 32
    block_length: int = 32
    threshold: float = 0.95
    ties: str = "lowest"

    def parts(self) -> Sampler:
        count = Threshold(self.threshold, strict=True, at_least=BlockSplit(self.block_length, self.steps))
        return Sampler(
            name="LLaDA2",
            steps=self.steps,
            unmask=Unmask("confidence", count, ties=self.ties),
            window=Blocks(self.block_length, steps=self.steps, by="column"),
            scoring=self._scoring(**PROPOSALS),
        )


@dataclass(frozen=True, kw_only=True)
class LLaDA21(Filling):
    """LLaDA2.1's decoding with token editing (arXiv 2602.08676), and T2M, which remasks instead (arXiv 2604.18738).

    On each forward, masked positions whose proposal's confidence exceeds ``threshold`` are committed (M2T), at least
    ``at_least`` of them; committed ones of the block whose proposal differs with a confidence above
    ``editing_threshold`` take it (T2T). A block without masks goes on being edited until a step changes nothing, for
    ``post_steps`` steps at most. The report's quality mode is (0.7, 0.5), its speed mode (0.5, 0.0).

    Args:
        block_length: columns per block, counted from the sampler's ``origin``.
        threshold, editing_threshold: strict, in the logits' dtype.
        at_least: commits per step at least.
        post_steps: steps of a block without masks at most.
        remask: None overwrites (T2T); "low_prob", "t2t_remask" or "logit_diff" masks instead, see
            :class:`RemaskDoubtful`.
        remask_threshold, per_position, ratio: of the remasking.
        temperature, top_k, top_p: of the proposals; confidences are those after them.
        ties: "lowest" or "torch"; see :class:`Unmask`.
    """

    block_length: int = 32
    threshold: float = 0.7
    editing_threshold: float = 0.5
    at_least: int = 1
    post_steps: int = 16
    remask: str | None = None
    remask_threshold: float = 0.1
    per_position: int = 3
    ratio: float = 0.25
    ties: str = "lowest"

    def parts(self) -> Sampler:
        unmask = Unmask("confidence", Threshold(self.threshold, strict=True, at_least=self.at_least), ties=self.ties)
        again = 0 if self.remask is None else self.per_position * self.block_length
        return Sampler(
            name="LLaDA21",
            steps=1,
            plan=Edit(unmask=unmask, edit=self._edit(), post_steps=self.post_steps),
            window=Blocks(self.block_length, until_filled=True, extra=self.post_steps + again, by="column"),
            scoring=self._scoring(**PROPOSALS),
        )

    def _edit(self) -> EditRule:
        if self.remask is None:
            return Overwrite(self.editing_threshold)
        return RemaskDoubtful(self.remask, self.remask_threshold, self.per_position, self.ratio)


@dataclass(frozen=True)
class BlockSplit(EvenSplit):
    """An even split of a block's columns, given tokens included, over its steps."""

    block_length: int
    steps: int

    def before(self, state: State, view: View) -> Tensor:
        return self.block_length // self.steps + (view.step < self.block_length % self.steps).long()
