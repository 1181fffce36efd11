"""sgl-project/sglang: ``srt/dllm/algorithm``, algorithms that ``--dllm-algorithm`` names.

Each is importable without sglang; where sglang is installed it derives from its ``DllmAlgorithm``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from . import _steps as steps

if TYPE_CHECKING:
    Base = object
else:
    try:
        from sglang.srt.dllm.algorithm.base import DllmAlgorithm as Base
    except ImportError:
        Base = object

MODULES = ("sglang.srt.dllm.algorithm.low_confidence", "sglang.srt.dllm.algorithm.joint_threshold")


class _Algorithm(Base):
    """What both read of a ``DllmConfig``: ``block_size``, ``mask_id``, ``algorithm_config``."""

    block_size: int
    mask_id: int

    def __init__(self, config: Any) -> None:
        if Base is not object:
            super().__init__(config)  # type: ignore[call-arg]
        self.block_size, self.mask_id = config.block_size, config.mask_id
        self.settings = dict(config.algorithm_config or {})

    def _blocks(self, forward_batch: Any, full_logits: Any) -> tuple[Tensor, Tensor]:
        """Tokens ``[B, block]`` and logits ``[B, block, V]``, both views."""
        logits = full_logits if isinstance(full_logits, Tensor) else full_logits.full_logits
        batch = forward_batch.batch_size
        return forward_batch.input_ids.view(batch, self.block_size), logits.view(batch, self.block_size, -1)

    def _propose(self, tokens: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
        everywhere = torch.ones_like(tokens, dtype=torch.bool)
        scores = steps.propose(logits, everywhere, mask_id=self.mask_id, confidence_dtype=logits.dtype)
        assert scores.token is not None
        assert scores.confidence is not None
        return scores.token, scores.confidence.to(logits.dtype)


class LowConfidence(_Algorithm):
    """Commits proposals more confident than ``threshold`` (0.95), and the best one of a row if there are none."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.threshold = self.settings.get("threshold", 0.95)

    def step(self, forward_batch: Any, full_logits: Any, states: list[Any] | None = None) -> list[bool]:
        """Write ``forward_batch.input_ids`` in place; which blocks had no mask before."""
        tokens, logits = self._blocks(forward_batch, full_logits)
        masked = tokens == self.mask_id
        proposals, confidence = self._propose(tokens, logits)
        commit = steps.above(confidence, self.threshold, masked)
        tokens.copy_(torch.where(commit, proposals, tokens))
        return (~masked.any(1)).tolist()


class JointThreshold(_Algorithm):
    """Commits masks above ``threshold`` and edits tokens above ``edit_threshold`` on the same forward (LLaDA2.1).

    A block ends when a forward changes nothing, or after ``max_post_edit_steps`` forwards without a mask.
    ``penalty_lambda`` is taken from the logit of the token before each position.
    """

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.threshold = self.settings.get("threshold", 0.5)
        self.edit_threshold = self.settings.get("edit_threshold", 0)
        self.max_post_edit_steps = self.settings.get("max_post_edit_steps", 16)
        self.penalty_lambda = self.settings.get("penalty_lambda", 0)

    def max_steps(self, block_size: int) -> int:
        """Forwards a block takes at most."""
        return block_size + self.max_post_edit_steps + 1

    def init_step_state(self, forward_batch: Any) -> list[Any]:
        """One state per block: what is given, and the forwards without a mask."""
        tokens = forward_batch.input_ids.view(forward_batch.batch_size, self.block_size)
        return [{"post_edit_steps": 0, "finished": False, "prompt_mask": row != self.mask_id} for row in tokens]

    def step(self, forward_batch: Any, full_logits: Any, states: list[Any]) -> list[bool]:
        """Write ``forward_batch.input_ids`` and ``states`` in place; which blocks a step before this one finished."""
        finished = [state["finished"] for state in states]
        tokens, logits = self._blocks(forward_batch, full_logits)
        if self.penalty_lambda > 0:
            penalty = torch.full_like(tokens[:, :-1, None], -self.penalty_lambda, dtype=logits.dtype)
            logits[:, 1:].scatter_add_(2, tokens[:, :-1, None], penalty)
        masked = tokens == self.mask_id
        given = torch.stack([state["prompt_mask"] for state in states])
        proposals, confidence = self._propose(tokens, logits)
        commit = steps.above(confidence, self.threshold, masked)
        edit = (confidence > self.edit_threshold) & (proposals != tokens) & ~masked & ~given
        host = torch.stack([masked.any(1), (commit | edit).any(1)]).tolist()
        active = [self._goes_on(state, *flags) for state, *flags in zip(states, *host, strict=True)]
        writes = (commit | edit) & torch.tensor(active, dtype=torch.bool, device=tokens.device)[:, None]
        tokens.copy_(torch.where(writes, proposals, tokens))
        return finished

    def _goes_on(self, state: Any, has_mask: bool, changes: bool) -> bool:
        """Whether the block is written in this step; keeps its state."""
        if state["finished"]:
            return False
        state["post_edit_steps"] += not has_mask
        state["finished"] = state["post_edit_steps"] > self.max_post_edit_steps or not changes
        return not state["finished"]


Algorithm = LowConfidence
REPLACES = {"LowConfidence": LowConfidence, "JointThreshold": JointThreshold}
