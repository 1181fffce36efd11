"""Schedulers to be put into diffusers' pipelines for masked models.

    pipe.scheduler = mdmcorrect.compat.diffusers.BlockRefinementScheduler.from_config(pipe.scheduler.config)

Subclasses of diffusers' own, with their configuration; ``step`` is replaced, and what it asks of the host. With a
``generator`` its draws are torch's, by ``torch.multinomial`` as in diffusers, so that seeds give what they gave there,
at diffusers' cost; without one they are exact draws of one read of the logits. The module imports without diffusers.
"""

from __future__ import annotations

import importlib
import math
from typing import Any

import torch
from torch import Tensor

from .. import ops
from ._rounded import HALF, in_nucleus
from ._steps import entropies

__all__ = ["AmusedScheduler", "BlockRefinementScheduler", "EntropyBoundScheduler"]


class _Missing:
    """Stands for a class that the installed diffusers, if any, does not have."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        raise ImportError("a subclass of a scheduler of diffusers that is not there: pip install diffusers")

    @classmethod
    def from_config(cls, *args: Any, **kwargs: Any) -> _Missing:
        return cls(*args, **kwargs)


def _theirs(module: str, name: str) -> tuple[Any, Any]:
    """A scheduler of diffusers and its output class."""
    try:
        found = importlib.import_module(f"diffusers.schedulers.{module}")
    except ImportError:
        return _Missing, _Missing
    return getattr(found, name), getattr(found, f"{name}Output")


_Amused: Any
_BlockRefinement: Any
_EntropyBound: Any
_Amused, AmusedSchedulerOutput = _theirs("scheduling_amused", "AmusedScheduler")
_BlockRefinement, BlockRefinementSchedulerOutput = _theirs("scheduling_block_refinement", "BlockRefinementScheduler")
_EntropyBound, EntropyBoundSchedulerOutput = _theirs("scheduling_entropy_bound", "EntropyBoundScheduler")


class BlockRefinementScheduler(_BlockRefinement):
    """Commits all proposals above a threshold, or the step's quota of the most probable; edits tokens (LLaDA2)."""

    def step(
        self,
        model_output: Tensor,
        timestep: int | Tensor,
        sample: Tensor,
        *,
        mask_token_id: int | None = None,
        temperature: float = 0.0,
        top_p: float | None = None,
        top_k: int | None = None,
        sampling_method: str = "auto",
        threshold: float | None = None,
        editing_threshold: float | None = None,
        minimal_topk: int | None = None,
        prompt_mask: Tensor | None = None,
        generator: torch.Generator | None = None,
        return_dict: bool = True,
    ) -> Any:
        """One step over a block; arguments and result as in diffusers. Without ``mask_token_id``, diffusers' own step.

        Args:
            model_output: logits ``[B, block, V]``.
            timestep: step within the block, from 0.
            sample: int64 ``[B, block]``.
        """
        if mask_token_id is None:
            return super().step(
                model_output,
                timestep,
                sample,
                temperature=temperature,
                top_p=top_p,
                top_k=top_k,
                sampling_method=sampling_method,
                threshold=threshold,
                editing_threshold=editing_threshold,
                minimal_topk=minimal_topk,
                prompt_mask=prompt_mask,
                generator=generator,
                return_dict=return_dict,
            )
        if temperature < 0:
            raise ValueError(f"`temperature` must be >= 0, got {temperature}.")
        threshold = float(self.config.threshold if threshold is None else threshold)
        editing = self.config.editing_threshold if editing_threshold is None else editing_threshold
        drawn = sampling_method == "multinomial" or (sampling_method == "auto" and temperature != 0.0)
        token, confidence = _propose(model_output, temperature if drawn else 0.0, top_k, top_p, generator)
        masked = sample == mask_token_id
        commit = self._commits(confidence, masked, int(timestep), threshold)
        edit = torch.zeros_like(masked)
        if editing is not None and editing > 0:
            edit = ~masked & (confidence > float(editing)) & (token != sample)
            if prompt_mask is not None:
                edit &= ~prompt_mask
        previous = torch.where(commit | edit, token, sample)
        if not return_dict:
            return previous, commit, edit, token, confidence, model_output
        return BlockRefinementSchedulerOutput(
            prev_sample=previous,
            transfer_index=commit,
            editing_transfer_index=edit,
            sampled_tokens=token,
            sampled_probs=confidence,
            pred_logits=model_output,
        )

    def _commits(self, confidence: Tensor, masked: Tensor, step: int, threshold: float) -> Tensor:
        """bool ``[B, block]``: the proposals above the threshold, or the quota's best where these are fewer."""
        schedule = self._transfer_schedule
        if schedule is None:
            return torch.zeros_like(masked)
        quota = schedule[min(step, len(schedule) - 1)].to(masked.device)
        above = (masked & (confidence > threshold)).sum(1)
        return ops.select_positions(confidence, torch.maximum(above, quota), eligible=masked)

    @staticmethod
    def check_eos_finished(
        cur_x: Tensor,
        sampled_tokens: Tensor,
        final_transfer: Tensor,
        finished: Tensor,
        eos_token_id: int,
        mask_token_id: int,
        prompt_length: int,
    ) -> Tensor:
        """``finished [B]``, true also where an end of sequence was written now and no mask is before the first."""
        written = ((sampled_tokens == eos_token_id) & final_transfer).any(1)
        ends = cur_x == eos_token_id
        first = torch.where(ends.any(1), ends.long().argmax(1), -1)
        place = torch.arange(cur_x.shape[1], device=cur_x.device)
        before = (place >= prompt_length) & (place < first[:, None]) & (cur_x == mask_token_id)
        finished |= written & (first >= prompt_length) & ~before.any(1)
        return finished


class AmusedScheduler(_Amused):
    """MaskGIT's schedule: masks again the proposals of lowest noisy log-probability."""

    def step(
        self,
        model_output: Tensor,
        timestep: int | Tensor,
        sample: Tensor,
        starting_mask_ratio: float = 1,
        generator: torch.Generator | None = None,
        return_dict: bool = True,
    ) -> Any:
        """One step; arguments and result as in diffusers.

        Args:
            model_output: logits ``[B, L, V]``, or ``[B, V, H, W]`` for ``sample [B, H, W]``.
            timestep: steps left.
            starting_mask_ratio: share of the canvas that was masked at the start.
        """
        shape = sample.shape
        if sample.ndim == 3 and model_output.ndim == 4:
            model_output = model_output.flatten(2).transpose(1, 2).contiguous()
            sample = sample.flatten(1)
        unknown = sample == self.config.mask_token_id
        token, probability = _image_proposal(model_output, unknown, generator)
        original = torch.where(unknown, token, sample)
        left = int(timestep)
        if left == 0:
            previous = original
        else:
            done = len(self.timesteps) - left
            share = (
                self._share(torch.tensor(done, dtype=torch.float32, device="cpu") / len(self.timesteps))
                * starting_mask_ratio
            )
            masks = (sample.shape[1] * share).floor().long().to(sample.device)
            masks = torch.minimum(unknown.sum(1) - 1, masks).clamp(min=1)
            scale = self.temperatures[done - 1 : done]  # float32, one element: it lifts half precision, as it should
            previous = original.masked_fill(
                self._least_sure(probability, unknown, masks, scale, generator), self.config.mask_token_id
            )
        previous, original = previous.reshape(shape), original.reshape(shape)
        return AmusedSchedulerOutput(previous, original) if return_dict else (previous, original)

    def _share(self, ratio: Tensor) -> Tensor:
        """Masks left when ``ratio`` of the steps are done, in float32, whose rounding decides what a floor gives."""
        if self.config.masking_schedule == "cosine":
            return torch.cos(ratio * math.pi / 2)
        if self.config.masking_schedule == "linear":
            return 1 - ratio
        raise ValueError(f"unknown masking schedule {self.config.masking_schedule}")

    @staticmethod
    def _least_sure(
        probability: Tensor, unknown: Tensor, masks: Tensor, scale: Tensor, generator: torch.Generator | None
    ) -> Tensor:
        """bool ``[B, L]``: positions to mask again."""
        if generator is None:
            kept = ops.select_positions(
                probability.clamp(min=1e-20).log().float(),
                unknown.sum(1) - masks,
                eligible=unknown,
                temperature=max(float(scale), 0.0),
                seed=None if float(scale) > 0 else 0,
            )
            return unknown & ~kept
        sure = probability.masked_fill(~unknown, torch.finfo(probability.dtype).max)
        u = torch.empty_like(sure, device=generator.device).uniform_(generator=generator).to(sure.device)
        gumbel = -(-u.clamp(min=1e-20).log()).clamp(min=1e-20).log()
        noisy = sure.clamp(min=1e-20).log() + scale.to(sure.device) * gumbel
        return noisy < noisy.sort(dim=1).values.gather(1, masks[:, None])


class EntropyBoundScheduler(_EntropyBound):
    """Accepts the positions of least entropy within a bound; the others become random tokens (arXiv 2505.24857)."""

    def step(
        self,
        model_output: Tensor,
        timestep: int | Tensor,
        sample: Tensor,
        *,
        entropy_bound: float | None = None,
        generator: torch.Generator | None = None,
        return_dict: bool = True,
    ) -> Any:
        """One step over a block; arguments and result as in diffusers.

        Args:
            model_output: logits ``[B, block, V]``.
            timestep: step within the block, from 0; it sets the temperature, from ``t_max`` to ``t_min``.
            sample: int64 ``[B, block]``.
        """
        left = (self.num_inference_steps - int(timestep)) / self.num_inference_steps
        temperature = self.config.t_min + (self.config.t_max - self.config.t_min) * left
        logits = model_output / temperature  # what a pipeline conditions its next step on
        token, probability = _propose(logits, 1.0, None, None, generator)
        bound = float(self.config.entropy_bound if entropy_bound is None else entropy_bound)
        ranked, order = entropies(logits).sort(dim=-1)  # equal ones in the order diffusers takes them
        accepted = torch.zeros_like(sample, dtype=torch.bool).scatter(-1, order, ranked.cumsum(-1) - ranked <= bound)
        renoised = torch.randint(0, logits.shape[-1], sample.shape, device=sample.device, generator=generator)
        previous = torch.where(accepted, token, renoised)
        if not return_dict:
            return previous, accepted, token, probability, logits
        return EntropyBoundSchedulerOutput(
            prev_sample=previous,
            accepted_index=accepted,
            sampled_tokens=token,
            sampled_probs=probability,
            pred_logits=logits,
        )


def _propose(
    logits: Tensor, temperature: float, top_k: int | None, top_p: float | None, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """One token per position and its probability after temperature and filters, float32."""
    top_k = top_k if top_k is not None and 0 < top_k < logits.shape[-1] else None
    top_p = top_p if top_p is not None and top_p < 1 else None
    if temperature and (generator is not None or logits.dtype in HALF):
        # Half precision is divided and filtered in its own dtype, which shapes what is drawn, whoever draws.
        logits = _filtered(logits / temperature, top_k, top_p)
        temperature, top_k, top_p = 1.0, None, None
        if generator is not None:
            return _multinomial(logits, generator)
    scores = ops.score_tokens(
        logits,
        temperature=temperature,
        top_k=top_k if temperature else None,
        top_p=top_p if temperature else None,
        law="proposal" if temperature else "raw",
        want=["token", "confidence"],
        seed=None if temperature else 0,
    )
    assert scores.token is not None
    assert scores.confidence is not None
    return scores.token, scores.confidence


def _filtered(logits: Tensor, top_k: int | None, top_p: float | None) -> Tensor:
    """Logits -inf outside the filters, by operations in their own dtype."""
    if top_k is not None:
        logits = logits.masked_fill(logits < logits.topk(top_k, dim=-1).values[..., -1:], -torch.inf)
    return logits if top_p is None else in_nucleus(logits, top_p, rounded=True)


def _multinomial(logits: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """The draw that diffusers makes with this generator."""
    probs = logits.float().softmax(-1)
    flat = probs.reshape(-1, probs.shape[-1]).to(generator.device)
    token = torch.multinomial(flat, 1, generator=generator).to(probs.device).reshape(*probs.shape[:-1], 1)
    return token[..., 0], probs.gather(-1, token)[..., 0]


def _image_proposal(logits: Tensor, unknown: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
    """One token per unknown position and its probability."""
    if generator is None:
        scores = ops.score_tokens(
            logits,
            rows=unknown,
            temperature=1.0,
            want=["token", "confidence"],
            confidence_dtype=logits.dtype if logits.dtype in HALF else None,
            seed=None,
        )
        assert scores.token is not None
        assert scores.confidence is not None
        return scores.token, scores.confidence.to(logits.dtype)
    probs = logits.softmax(-1)
    flat = probs.reshape(-1, probs.shape[-1]).to(generator.device)
    flat = flat.float() if flat.device.type == "cpu" else flat
    token = torch.multinomial(flat, 1, generator=generator).to(probs.device).reshape(*probs.shape[:-1], 1)
    return token[..., 0], probs.gather(-1, token)[..., 0]


MODULES = ("diffusers",)
REPLACES = {
    "AmusedScheduler": AmusedScheduler,
    "BlockRefinementScheduler": BlockRefinementScheduler,
    "EntropyBoundScheduler": EntropyBoundScheduler,
}
