"""LLaDA's decoding in blocks."""

from __future__ import annotations

from dataclasses import dataclass

from ..sampler import Sampler
from ..scoring import Scoring
from ..unmask import EvenSplit, Unmask
from ..window import Blocks
from .preset import Preset


@dataclass(frozen=True, kw_only=True)
class LLaDA(Preset):
    """LLaDA's decoding in blocks (arXiv 2502.09992, section 2.4).

    One forward per step. A mask the model predicts is overruled, so that no mask is left.

    Args:
        block_length: generated positions per block, None for one block.
        remasking: "low_confidence" commits the proposals of highest probability, "random" any.
        temperature: 0 proposes the argmax; else a draw of ``softmax(logits / temperature)``, ranked by its probability
            at temperature 1, rounded to the logits' dtype.
    """

    block_length: int | None = None
    remasking: str = "low_confidence"
    temperature: float = 0.0

    def parts(self) -> Sampler:
        if self.remasking not in ("low_confidence", "random"):
            raise ValueError(f"remasking: expected 'low_confidence' or 'random', got {self.remasking!r}")
        return Sampler(
            name="LLaDA",
            steps=self.steps,
            unmask=Unmask("confidence" if self.remasking == "low_confidence" else "random", EvenSplit()),
            window=Blocks(self.block_length),
            scoring=llada_scoring(self.temperature),
        )


def llada_scoring(temperature: float) -> Scoring:
    """LLaDA's softmax counts the mask token and is rounded to the logits' dtype before positions are compared."""
    return Scoring(temperature=temperature, mask_token="forbid", confidence_dtype="logits")
