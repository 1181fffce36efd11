"""vLLM's dLLM plug-in: a ``RemaskingPolicy`` that never reads logits on the host. Importable without vLLM."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from . import _steps as steps

MODULES = ("vllm_dllm_plugin.remasking.llada2_default", "dllm_plugin.remasking.llada2_default")
DRAFT_SIZE = 32
_MASK_ID, _THRESHOLD, _STEPS = 156895, 0.95, 32


@dataclass(frozen=True)
class RemaskStepResult:
    """``committed_token_ids``: the block once it holds no mask, else (). ``next_input_block``: what comes next."""

    committed_token_ids: tuple[int, ...]
    next_input_block: tuple[int, ...]


class Llada2DefaultRemaskingPolicy:
    """LLaDA2.0's step: all proposals at least as confident as the threshold, or the step's number of best ones.

    Ties go to the smaller index. Logits are scored where they are, in one read; the original converts each to a Python
    number.
    """

    def apply(
        self,
        *,
        input_draft: Sequence[int],
        logits: Tensor | Sequence[Sequence[float]] | None = None,
        remasking_config: Mapping[str, Any] | None = None,
    ) -> RemaskStepResult:
        """One step on a block.

        Args:
            input_draft: the block's tokens.
            logits: ``[len(input_draft), V]``.
            remasking_config: ``commit_confidence_threshold``, ``mask_token_id``, ``denoise_steps``,
                ``denoise_step_index``, ``num_transfer``.

        Raises:
            ValueError: no logits, or of another shape; a negative number of transfers; no steps.
        """
        config = dict(remasking_config or {})
        mask_id = int(config.get("mask_token_id", _MASK_ID))
        size = len(input_draft)
        if logits is None:
            raise ValueError("logits: expected [block, V], got None")
        scored = torch.as_tensor(logits)
        if scored.ndim != 2 or scored.shape[0] != size:
            raise ValueError(f"logits: expected [{size}, V] for the block, got {list(scored.shape)}")
        tokens = torch.tensor([list(input_draft)], dtype=torch.int64, device=scored.device)
        masked = tokens == mask_id
        result = steps.propose(scored[None], masked, mask_id=mask_id)
        assert result.token is not None
        assert result.confidence is not None
        confidence = result.confidence.masked_fill(~masked, -torch.inf)
        sure = confidence >= float(config.get("commit_confidence_threshold", _THRESHOLD))
        count = sure.sum(1).clamp(min=self._number(config, size))
        commit = torch.where(sure.sum(1) >= count, sure, steps.best_of(confidence, count, masked))
        after = torch.where(commit & (result.token >= 0), result.token, tokens)[0].tolist()
        if mask_id in after:
            return RemaskStepResult((), tuple(after))
        return RemaskStepResult(tuple(after), (mask_id,) * size)

    @staticmethod
    def _number(config: Mapping[str, Any], size: int) -> int:
        """Commits this step asks for at least."""
        number = config.get("num_transfer")
        if number is not None:
            if int(number) < 0:
                raise ValueError(f"num_transfer: expected at least 0, got {number}")
            return int(number)
        total = int(config.get("denoise_steps", _STEPS))
        if total < 1:
            raise ValueError(f"denoise_steps: expected at least 1, got {total}")
        step = max(0, min(int(config.get("denoise_step_index", 0)), total - 1))
        return size // total + (step < size % total)


RemaskingPolicy = Llada2DefaultRemaskingPolicy
REPLACES = {"Llada2DefaultRemaskingPolicy": Llada2DefaultRemaskingPolicy}
