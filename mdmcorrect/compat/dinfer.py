"""inclusionAI/dInfer: ``decoding/parallel_strategy.py``, decoders for ``BlockWiseDiffusionLLM`` and the others."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from . import _steps as steps
from .fast_dllm import get_transfer_index, get_transfer_index_dynamic

MODULES = ("dinfer.decoding.parallel_strategy",)
_NEAR = 1e-5  # confidences this close to the row's best go with it


class ParallelDecoder:
    """Decodes masks of a block in place; made and driven by dInfer's own loops."""

    def __init__(self, temperature: float, remasking: str = "low_confidence", mask_id: int = 126336) -> None:
        self.temperature, self.remasking, self.mask_id = temperature, remasking, mask_id

    def block_init(self, block_x: Tensor, block_id: int) -> None:
        """Called when a block is entered."""

    def decode(
        self, logits: Tensor, block_start: int, block_end: int, x: Any, iter_threshold: float | None = None
    ) -> None:
        """Write tokens into ``x[:, block_start:block_end]``, for logits ``[B, block_end - block_start, V]`` of it."""
        tokens = x[:, block_start:block_end]
        masked = tokens == self.mask_id
        if masked.shape != logits.shape[:2]:
            raise ValueError(f"logits: expected [{', '.join(map(str, masked.shape))}, V], got {list(logits.shape)}")
        proposals, commit = self._choose(logits, masked, block_start, iter_threshold)
        x[:, block_start:block_end] = torch.where(commit & masked & (proposals >= 0), proposals, tokens)

    def _choose(
        self, logits: Tensor, masked: Tensor, block_start: int, threshold: float | None
    ) -> tuple[Tensor, Tensor]:
        """Proposals and which to commit."""
        raise NotImplementedError


class ThresholdParallelDecoder(ParallelDecoder):
    """Commits every proposal at least as probable as the threshold, and all within 1e-5 of the row's most probable.

    Where the mask itself is proposed nothing is committed in this step; a row in which it is everywhere commits, at
    temperature 0, by its other proposals, where the original commits none for ever.

    Args:
        use_float64: not used: confidences are float32 of exact sums either way.
    """

    def __init__(
        self,
        temperature: float,
        threshold: float,
        remasking: str = "low_confidence",
        mask_id: int = 126336,
        eos_id: int = 126081,
        use_float64: bool = False,
    ) -> None:
        super().__init__(temperature, remasking, mask_id)
        self.threshold, self.eos_id, self.use_float64 = threshold, eos_id, use_float64

    def batch_decode(
        self, logits: Tensor, block_start: Tensor, x: Any, block_length: int, iter_threshold: float | None = None
    ) -> None:
        """As :meth:`decode`, each row at a block of its own: ``block_start`` int64 ``[B]``."""
        data = getattr(x, "data", x)
        columns = (block_start[:, None] + torch.arange(block_length, device=logits.device)).clamp(max=data.shape[1] - 1)
        tokens = data.gather(1, columns)
        masked = tokens == self.mask_id
        proposals, commit = self._choose(logits, masked, -1, iter_threshold)
        data.scatter_(1, columns, torch.where(commit & masked & (proposals >= 0), proposals, tokens))

    def _choose(
        self, logits: Tensor, masked: Tensor, block_start: int, threshold: float | None
    ) -> tuple[Tensor, Tensor]:
        scores = steps.propose(logits, masked, temperature=self.temperature)
        assert scores.token is not None
        assert scores.confidence is not None
        token, confidence = scores.token, scores.confidence
        if self.temperature == 0:  # a draw of the mask is another draw's turn in the next step
            stuck = masked & (~masked | (token == self.mask_id)).all(1, keepdim=True)
            others = steps.propose(logits, stuck, mask_id=self.mask_id)
            assert others.token is not None
            assert others.confidence is not None
            token = torch.where(stuck, others.token, token)
            confidence = torch.where(stuck, others.confidence, confidence)
        confidence = confidence.masked_fill(~masked | (token == self.mask_id), -torch.inf)
        limit = (confidence.nan_to_num(nan=-torch.inf).amax(1, keepdim=True) - _NEAR).clamp(
            max=self.threshold if threshold is None else threshold
        )
        return token, confidence >= limit


class CreditThresholdParallelDecoder(ThresholdParallelDecoder):
    """The threshold on logits to which tokens earn credit by having been the best before.

    Each step the credits of a position decay by ``decay_beta`` and its best token earns ``p^boost_gamma``; then
    ``credit_alpha log(1 + credit)`` is added to the logits. Credits are kept per token that has earned any, not per
    vocabulary.
    """

    def __init__(
        self, credit_alpha: float = 0.7, boost_gamma: float = 0.2, decay_beta: float = 0.8, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.credit_alpha, self.boost_gamma, self.decay_beta = credit_alpha, boost_gamma, decay_beta
        self._block: int | None = None
        self._ids: Tensor | None = None  # int64 [B, L, n], tokens with credit
        self._credits: Tensor | None = None  # float32 [B, L, n]

    def block_init(self, block_x: Tensor, block_id: int) -> None:
        """Forget the credits of the block before."""
        self._block = self._ids = self._credits = None

    def _choose(
        self, logits: Tensor, masked: Tensor, block_start: int, threshold: float | None
    ) -> tuple[Tensor, Tensor]:
        everywhere = torch.ones_like(masked)
        best = steps.propose(logits, everywhere, want=("argmax", "max_logprob"))
        assert best.argmax is not None
        assert best.max_logprob is not None
        earned = best.max_logprob.exp() ** self.boost_gamma * masked
        if (
            self._ids is None
            or self._credits is None
            or self._block != block_start
            or self._ids.shape[:2] != masked.shape
        ):
            ids, credits = best.argmax[..., None], earned[..., None]
        else:
            known = self._ids == best.argmax[..., None]
            credits = self._credits * self.decay_beta + known * earned[..., None]
            listed = known.any(-1)  # a token is kept once: what is appended for one that is listed is nothing, -1
            ids = torch.cat([self._ids, torch.where(listed, -1, best.argmax)[..., None]], -1)
            credits = torch.cat([credits, torch.where(listed, 0.0, earned)[..., None]], -1)
        self._block, self._ids, self._credits = block_start, ids, credits
        raised = logits.float().scatter_add(2, ids.clamp(min=0), self.credit_alpha * torch.log1p(credits))
        return super()._choose(raised, masked, block_start, threshold)


class FixedParallelDecoder(ParallelDecoder):
    """An even split of a block's masks over ``steps``. The original of this name fails with a NameError."""

    def __init__(
        self, temperature: float, steps: int, remasking: str = "low_confidence", mask_id: int = 126336
    ) -> None:
        super().__init__(temperature, remasking, mask_id)
        self.steps, self.iter = steps, 0
        self._masks: Tensor | None = None

    def block_init(self, block_x: Tensor, block_id: int) -> None:
        """Count the block's masks."""
        self._masks, self.iter = (block_x == self.mask_id).sum(1), 0

    def _choose(
        self, logits: Tensor, masked: Tensor, block_start: int, threshold: float | None
    ) -> tuple[Tensor, Tensor]:
        masks = masked.sum(1) if self._masks is None else self._masks
        count = masks // self.steps + (self.iter < masks % self.steps)
        self.iter += 1
        scores = steps.propose(logits, masked, mask_id=self.mask_id, temperature=self.temperature)
        assert scores.token is not None
        assert scores.confidence is not None
        return scores.token, steps.best_of(scores.confidence, count, masked)


class HierarchyDecoder(ParallelDecoder):
    """The most probable proposal of each run of masks, if above ``low_threshold``, and all above ``threshold``.

    The row's best is always committed. Batches are decoded row by row; the original asserts a batch of one.
    """

    def __init__(
        self,
        temperature: float,
        remasking: str = "low_confidence",
        mask_id: int = 126336,
        eos_id: int = 126081,
        threshold: float | None = None,
        low_threshold: float | None = 0.4,
    ) -> None:
        super().__init__(temperature, remasking, mask_id)
        self.eos_id, self.threshold, self.low_threshold = eos_id, threshold, low_threshold

    def _choose(
        self, logits: Tensor, masked: Tensor, block_start: int, threshold: float | None
    ) -> tuple[Tensor, Tensor]:
        scores = steps.propose(logits, masked, mask_id=self.mask_id, temperature=self.temperature, want=("logprob",))
        assert scores.token is not None
        assert scores.logprob is not None
        # As there: the logarithm is rounded to the logits' dtype, then its exponential.
        confidence = scores.logprob.to(logits.dtype).exp().masked_fill(~masked, -torch.inf)
        commit = confidence == _best_of_run(confidence, masked)
        if self.low_threshold is not None:
            commit &= confidence > self.low_threshold
        limit = self.threshold if threshold is None else threshold
        if limit is not None:
            commit |= confidence > limit
        first = torch.nn.functional.one_hot(confidence.argmax(1), masked.shape[1]).bool()
        return scores.token, (commit | first) & masked


def get_transfer_index_hierarchy_fast_v2(
    logits: Tensor,
    temperature: float,
    remasking: str,
    mask_index: Tensor,
    x: Tensor,
    num_transfer_tokens: Tensor | None,
    mask_id: int,
    threshold: float | None = None,
    low_threshold: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Proposals (``x`` where nothing is masked) and which to commit: a number, or the best of each run of masks.

    A row whose best proposal stays below ``low_threshold`` commits that one only.
    """
    if remasking != "low_confidence":
        raise ValueError(f"remasking: expected 'low_confidence', got {remasking!r}")
    scores = steps.propose(logits, mask_index, mask_id=mask_id, temperature=temperature)
    assert scores.token is not None
    assert scores.confidence is not None
    x0 = torch.where(mask_index, scores.token, x)
    confidence = scores.confidence.masked_fill(~mask_index, -torch.inf)
    if num_transfer_tokens is not None:
        return x0, steps.best_of(confidence, num_transfer_tokens.reshape(-1).long(), mask_index)
    commit = (confidence == _best_of_run(confidence, mask_index)) & mask_index
    if low_threshold is not None:
        doubtful = (confidence.amax(1) < low_threshold)[:, None]
        best = steps.best_of(confidence, torch.ones_like(mask_index[:, 0], dtype=torch.int64), mask_index)
        commit = torch.where(doubtful, best, commit & (confidence > low_threshold))
    if threshold is not None:
        commit |= confidence > threshold
    return x0, commit


def _best_of_run(confidence: Tensor, masked: Tensor) -> Tensor:
    """``[B, L]``: the largest confidence of the run of masks that a position belongs to, NaN outside."""
    begins = masked & ~torch.nn.functional.pad(masked[:, :-1], (1, 0))
    run = (begins.long().cumsum(1) - 1).clamp(min=0)
    best = torch.full_like(confidence, -torch.inf).scatter_reduce(1, run, confidence, "amax")
    return best.gather(1, run).masked_fill(~masked, torch.nan)


REPLACES = {
    "ThresholdParallelDecoder": ThresholdParallelDecoder,
    "CreditThresholdParallelDecoder": CreditThresholdParallelDecoder,
    "FixedParallelDecoder": FixedParallelDecoder,
    "HierarchyDecoder": HierarchyDecoder,
    "get_transfer_index": get_transfer_index,
    "get_transfer_index_dynamic": get_transfer_index_dynamic,
    "get_transfer_index_hierarchy_fast_v2": get_transfer_index_hierarchy_fast_v2,
}
