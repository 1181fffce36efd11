"""Drop-in for ML-GSAI/SMDM: ``diff_sample`` of its evaluation scripts (arXiv 2410.18514).

    from mdmcorrect.compat.smdm import diff_sample

The original's "greddy" counts and ranks masks over the whole batch, so that a row's tokens depend on the others;
``flattened=True`` does so too, the default is per row, equal for a batch of one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from .. import _checks, ops
from ..model import Output, Request
from ..samplers import Ancestral, Sampler, Scores, Scoring, State, Unmask, View
from . import _common as common


@torch.no_grad()
def diff_sample(
    model: Any,
    tokenizer: Any,
    prompt: Tensor | None = None,
    batch_size: int = 1,
    alg: str = "origin",
    steps: int = 512,
    temperature: float = 1.0,
    cfg_scale: float = 2.0,
    context_length: int = 2048,
    eps: float = 1e-5,
    dim: int = 32000,
    device: torch.device | str = "cuda",
    *,
    flattened: bool = False,
    seed: int | Tensor | torch.Generator | None = None,
) -> Tensor:
    """Fill a canvas ``[B, context_length]`` behind ``prompt [B, P]``.

    Args:
        model: tokens -> logits ``[B, L, V]``.
        tokenizer: not read.
        alg: "origin", a Bernoulli draw per mask; "greddy", the most confident.
        steps, eps: grid ``linspace(1, eps, steps + 1)``; the last step fills all.
        temperature: of the draw; confidences are those at temperature 1.
        cfg_scale: guidance against a canvas whose prompt is masked too; 0 for none.
        dim: the mask token, which may lie one past the vocabulary.
        flattened: "greddy" counts and ranks over the batch.
        seed: default torch's own generator.

    Raises:
        NotImplementedError: another ``alg``, as the original does.
    """
    if alg not in ("origin", "greddy"):
        raise NotImplementedError(alg)
    dim, cfg_scale = _checks.token_id("dim", dim), _checks.number("cfg_scale", cfg_scale)
    context_length = _checks.integer("context_length", context_length, minimum=0)
    prompt = None if prompt is None else common.token_ids("prompt", prompt)
    if prompt is not None and prompt.shape[1] > context_length:
        raise ValueError(
            f"context_length: expected the prompt's {prompt.shape[1]} columns or more, got {context_length}"
        )
    rows = _checks.integer("batch_size", batch_size, minimum=1) if prompt is None else prompt.shape[0]
    tokens = torch.full((rows, context_length), dim, dtype=torch.int64, device=device)
    given = 0 if prompt is None else prompt.shape[1]
    if prompt is not None:
        tokens[:, :given] = prompt
    fixed = torch.zeros_like(tokens, dtype=torch.bool)
    fixed[:, :given] = tokens[:, :given] != dim
    sampler = Sampler(
        name="diff_sample",
        steps=steps,
        plan=Ancestral(eps=eps, alpha=_Landing(eps)) if alg == "origin" else None,
        unmask=None if alg == "origin" else (_Flat if flattened else Unmask)("confidence", _Shrinking(eps, flattened)),
        scoring=Scoring(temperature=temperature, mask_token="forbid"),
        cache=False,
    )
    result = sampler(
        _guided(model, given, cfg_scale, dim),
        tokens,
        mask_id=dim,
        fixed=fixed,
        seed=seed,
        history=False,
    )
    return common.completed(result).tokens


def _guided(model: Any, given: int, scale: float, mask_id: int) -> Any:
    """The model with its unconditional half, and with a logit for a mask token outside its vocabulary."""

    def call(tokens: Tensor, request: Request) -> Output:
        if scale <= 0:
            return Output(logits=_with_mask(model(tokens), mask_id))
        blank = tokens.clone()
        blank[:, :given] = mask_id
        logits, blind = _with_mask(model(torch.cat([tokens, blank])), mask_id).chunk(2)
        return Output(logits=logits, uncond_logits=blind, guidance=scale, forwards=2)

    return call


def _with_mask(logits: Tensor, mask_id: int) -> Tensor:
    missing = mask_id + 1 - logits.shape[-1]
    # A finite number: guidance subtracts two of these.
    return logits if missing <= 0 else torch.nn.functional.pad(logits, (0, missing), value=-1e4)


@dataclass(frozen=True)
class _Landing:
    """``alpha_t = 1 - t``, and 1 at the end of the grid, so that the last step commits everything."""

    eps: float

    def __call__(self, t: Tensor) -> Tensor:
        return torch.where(t <= self.eps * (1 + 1e-9), 1.0, 1 - t)


@dataclass(frozen=True)
class _Shrinking:
    """``floor(n (1 - s / t))`` of the n masks there are, at the last step all; of the batch's if ``flattened``."""

    random: ClassVar[bool] = False

    eps: float
    flattened: bool

    def before(self, state: State, view: View) -> Tensor:
        masks = ((state.tokens == view.mask_id) & view.eligible).sum(1)
        steps = view.steps.clamp(min=1)
        u = view.step[:, None] + torch.arange(2, device=masks.device)  # as float32 counts, like the original
        t, s = (1 + (self.eps - 1) * (u.float() / steps[:, None])).unbind(1)
        total = masks.sum() if self.flattened else masks
        return torch.where(view.step + 1 >= steps, total, (total * (1 - s / t)).long())

    def after(self, quota: Tensor, masked: Tensor, scores: Scores) -> Tensor:
        return quota


@dataclass(frozen=True)
class _Flat(Unmask):
    """Ranks the masks of all rows together."""

    def choose(self, rank: Tensor, count: Tensor, masked: Tensor, view: View) -> dict[str, Tensor]:
        chosen = ops.select_positions(rank.reshape(1, -1), count.max()[None], eligible=masked.reshape(1, -1))
        return {"commit": chosen.reshape(rank.shape)}


MODULES = ("eval.gen_model_answer", "gen_model_answer")
REPLACES = {"diff_sample": diff_sample}
