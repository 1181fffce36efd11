"""Drop-ins for HKUNLP/diffusion-vs-ar, ``src/llmtuner/tuner/mdm/trainer.py`` (arXiv 2410.14157).

    CustomDiffusionTrainer.generate_samples = mdmcorrect.compat.diffusion_vs_ar.generate_samples

Every step of its ``topk_decoding`` writes the most probable token to every open position, committed ones too, and masks
the least probable of them again. Deterministic runs are equal to the original's.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from ..model import Output, Request
from ..samplers import Ancestral, Kappa, Noise, Pool, Resample, Sampler, Scores, Scoring
from ..samplers.pool import strictly_lowest
from . import _common as common

_SCHEDULES = ("linear", "cosine")


def topk_decoding(
    x0: Tensor,
    x0_scores: Tensor,
    decoding_strategy: str,
    init_maskable_mask: Tensor,
    t: int,
    max_step: int,
    noise: int | float | Tensor,
    *,
    generator: torch.Generator | None = None,
) -> Tensor:
    """``x0 [B, L]`` with its lowest-scored open positions replaced by ``noise``.

    Args:
        x0: int64, the tokens predicted.
        x0_scores: floating, their log-probabilities.
        decoding_strategy: "deterministic-linear", "deterministic-cosine", or "stochastic0.5-linear" and the like, whose
            number is the factor of Gumbel noise on the scores, falling with the share of masks.
        init_maskable_mask: bool, open positions.
        t, max_step: t of max_step steps are left after this one.
        noise: the mask token, or a tensor ``[B, L]`` to take from.
        generator: of the noise; default torch's own.

    Raises:
        ValueError: a strategy that is neither of these.
    """
    scale, schedule = _strategy(decoding_strategy)
    rate = _rate(schedule, t, max_step)
    scores = x0_scores.masked_fill(~init_maskable_mask, 1000.0)
    if scale:
        drawn = torch.empty_like(scores, dtype=torch.float64).exponential_(generator=generator)
        scores = scores - scale * rate * drawn.log()
    count = (init_maskable_mask.sum(1) * rate).long()
    low = strictly_lowest(scores, count, torch.ones_like(init_maskable_mask))
    return torch.where(low, noise.to(x0) if isinstance(noise, Tensor) else torch.full_like(x0, int(noise)), x0)


def generate_samples(
    self: Any, inputs: dict[str, Tensor], *, seed: int | Tensor | torch.Generator | None = None
) -> Tensor:
    """For ``CustomDiffusionTrainer.generate_samples``: ``inputs["input_ids"] [B, L]``, its open positions filled.

    Reads ``self.model``, called as ``model(x, t, attention_mask=...)`` with logits shifted right by one, of
    ``self.tokenizer`` its ``mask_token_id`` and ``vocab_size``, ids from which on are never proposed, and, of
    ``self.diff_args``, ``diffusion_steps``, ``decoding_strategy`` and ``topk_decoding``; without the latter every step
    commits each mask with probability ``1 / (t + 1)``. The mask is never proposed either.

    Args:
        seed: default drawn from torch's global generator if anything is random.
    """
    args, mask_id = self.diff_args, int(self.tokenizer.mask_token_id)
    source = inputs["src_mask"].bool()
    tokens = inputs["input_ids"].masked_fill(~source, mask_id)
    steps = int(args.diffusion_steps)

    def model(tokens: Tensor, request: Request) -> Output:
        t = steps - 1 - request.step
        answer = self.model(tokens, t, attention_mask=torch.ones_like(tokens))
        return Output(logits=getattr(answer, "logits", answer), shift=1)

    scoring = _Rounded(mask_token="forbid", size=getattr(self.tokenizer, "vocab_size", None))
    scale = 0.0
    if args.topk_decoding:
        scale, schedule = _strategy(args.decoding_strategy)
        rates = [_rate(schedule, t, steps) for t in range(steps - 1, -1, -1)]
        sampler = Sampler(
            name="topk_decoding",
            steps=steps,
            plan=Pool(
                Kappa(tuple(1 - rate for rate in rates)),
                masked="logprob",
                committed="logprob",
                noise=Noise(tuple(scale * rate for rate in rates), annealed=False) if scale else None,
                cut="strict",
            ),
            correct=Resample(count=tokens.shape[1]),
            scoring=scoring,
            cache=False,
        )
    else:
        sampler = Sampler(name="generate_samples", steps=steps, plan=Ancestral(eps=0.0), scoring=scoring, cache=False)
    result = sampler(model, tokens, mask_id=mask_id, fixed=source, seed=seed, history=False)
    return common.completed(result).tokens


@dataclass(frozen=True, kw_only=True)
class _Rounded(Scoring):
    """Half-precision logits are scored by torch's own log-softmax, whose rounding decides by ties what is masked.

    Args:
        size: ids from this one on are not the tokenizer's and never proposed; None for no such limit.
    """

    reads_logits = True

    size: int | None = None

    def __call__(self, logits: Tensor, *, want: Iterable[str], mask_id: int, **options: Any) -> Scores:
        vocab = logits.shape[-1]
        beyond = range(vocab if self.size is None else min(self.size, vocab), vocab)
        plain = Scoring(**{f.name: getattr(self, f.name) for f in fields(Scoring)} | {"forbid": tuple(beyond)})
        scores = plain(logits, want=want, mask_id=mask_id, **options)
        if logits.dtype in (torch.bfloat16, torch.float16) and "logprob" in scores:
            log_p = logits.log_softmax(-1)
            log_p[..., [mask_id, *beyond]] = -torch.inf
            best, token = log_p.max(-1)
            scores["logprob"] = best.float()
            scores["token"] = torch.where(scores["token"] >= 0, token, scores["token"])
        return scores


def _strategy(name: str) -> tuple[float, str]:
    """Factor of the noise, and the schedule."""
    mode, _, schedule = name.partition("-")
    number = mode.removeprefix("stochastic")
    if schedule in _SCHEDULES and mode == "deterministic":
        return 0.0, schedule
    if schedule in _SCHEDULES and mode.startswith("stochastic"):
        try:
            return float(number), schedule
        except ValueError:
            pass
    raise ValueError(
        f"decoding_strategy: expected 'deterministic-SCHEDULE' or 'stochasticNUMBER-SCHEDULE' with one of "
        f"{list(_SCHEDULES)}, got {name!r}"
    )


def _rate(schedule: str, t: int, max_step: int) -> float:
    """Share of open positions that are masks after the step."""
    return t / max_step if schedule == "linear" else math.cos((max_step - t) / max_step * math.pi * 0.5)


MODULES = ("llmtuner.tuner.mdm.trainer",)
REPLACES = {"topk_decoding": topk_decoding, "CustomDiffusionTrainer.generate_samples": generate_samples}
