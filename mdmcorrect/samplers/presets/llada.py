"""LLaDA's decoding in blocks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ... import _checks
from ..counts import EvenSplit
from ..sampler import Sampler
from ..scoring import Scoring
from ..unmask import Unmask
from ..window import Blocks
from .preset import Preset

# LLaDA's softmax counts the mask token and is rounded to the logits' dtype before positions are compared.
LLADA: dict[str, Any] = {"mask_token": "forbid", "confidence_dtype": "logits"}


@dataclass(frozen=True, kw_only=True)
class LLaDA(Preset):
    """LLaDA's decoding in blocks (arXiv 2502.09992, section 2.4).

    One forward per step. A mask the model predicts is overruled, so that no mask is left. Classifier-free guidance is
    an adapter of the model: :class:`mdmcorrect.adapters.Guided`.

    Args:
        block_length: generated positions per block, None for one block.
        remasking: "low_confidence" commits the proposals of highest probability, "random" any.
        temperature: 0 proposes the argmax; else a draw of ``softmax(logits / temperature)``, ranked by its probability
            at temperature 1, rounded to the logits' dtype.
        suppress: as in every preset; the authors' ``logits_eos_inf``.
        confidence_forbid: ids committed last, their confidence being zero (``confidence_eos_eot_inf``).
        ties: "lowest" or "torch"; see :class:`Unmask`.
    """

    block_length: int | None = None
    remasking: str = "low_confidence"
    confidence_forbid: tuple[int, ...] = ()
    ties: str = "lowest"

    def parts(self) -> Sampler:
        return Sampler(
            name="LLaDA",
            steps=self.steps,
            unmask=Unmask(commit_order(self.remasking), EvenSplit(), ties=self.ties),
            window=Blocks(self.block_length),
            scoring=self._scoring(**LLADA, confidence_forbid=self.confidence_forbid),
        )


def commit_order(remasking: str) -> str:
    """The order of :class:`Unmask` that LLaDA and its descendants call "low_confidence" or "random" remasking."""
    _checks.choice("remasking", remasking, "low_confidence", "random")
    return "confidence" if remasking == "low_confidence" else "random"


def llada_scoring(
    temperature: float, *, suppress: tuple[int, ...] = (), confidence_forbid: tuple[int, ...] = ()
) -> Scoring:
    """How LLaDA's proposals are scored."""
    return Scoring(temperature=temperature, suppress=suppress, confidence_forbid=confidence_forbid, **LLADA)
