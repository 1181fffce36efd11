"""Drop-in for pengzhangzhi/Path-Planning: ``path_planning.p2`` (arXiv 2502.03540).

    from mdmcorrect.compat.p2 import p2_sampling

The same arguments, and ``xt`` filled in place and returned. Where that is deterministic (``tau=0``) tokens and model
calls are the original's. With ``tau > 0`` one read of the logits draws the tokens and gives the score, which is that of
the noisy logits, of Gumbel noise with its whole tail: the original adds 1e-8 under both logarithms, which cuts the
noise at 18.4; ``noise="truncated"`` does so too, at the original's cost. Random numbers come from torch's default
generator unless ``seed`` is given.

A predicted mask token is overruled here; the original writes it, and returns masks.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .. import _checks
from ..samplers import FixedOrder, Kappa, Pool, Review, Sampler, Scores, Scoring
from . import _common as common

_SCORES = {"logP": "logprob", "random_score": "random"}
_REVIEWS = {"logP": "logprob", "diff_top2": "lead"}


def logP(logits: Tensor, x0: Tensor) -> Tensor:
    """Log-probability of the tokens ``x0 [B, L]``, float64 ``[B, L]``."""
    return logits.double().log_softmax(-1).gather(-1, x0[..., None])[..., 0]


def random_score(logits: Tensor, x0: Tensor) -> Tensor:
    """Log of a uniform number per position, float32 ``[B, L]``."""
    return torch.rand(x0.shape, dtype=torch.float32, device=x0.device).log()


def diff_top2(logits: Tensor, x0: Tensor) -> Tensor:
    """Difference of the two largest log-probabilities, ``[B, L]``."""
    best, second = logits.log_softmax(-1).topk(2, dim=-1).values.unbind(-1)
    return best - second


def p2_sampling(
    xt: Tensor,
    model: Any,
    mask_id: int,
    num_steps: int,
    tau: float = 1.0,
    kappa_fn: Callable[[float], float] = lambda t: t,
    eta: float = 1.0,
    planner: Any = None,
    score_fn: Callable[[Tensor, Tensor], Tensor] = logP,
    *,
    noise: str = "exact",
    seed: int | torch.Generator | None = None,
) -> Tensor:
    """Fill the masks of ``xt [B, L]`` in place and return it.

    Args:
        xt: int64, masks where tokens are wanted.
        model, planner: callables tokens -> logits.
        mask_id: the mask token.
        num_steps: steps, each one call of the model and one of the planner.
        tau: temperature, 0 for the argmax.
        kappa_fn: share of positions that hold a token after ``i / num_steps``.
        eta: factor of the scores of committed positions.
        score_fn: :func:`logP`, :func:`random_score`, or any ``(logits [B, L, V] float64, x0 [B, L]) -> [B, L]``, which
            costs the passes over the logits it makes; the first two, and the original's of these names, cost none.
        noise: "exact" or "truncated".
        seed: an int or a generator; default torch's own generator.

    Raises:
        ValueError: another ``noise``, a ``score_fn`` of your own with a planner, or arguments that no sampler takes.
    """
    _checks.choice("noise", noise, "exact", "truncated")
    _checks.called("planner", planner, "tokens -> logits")
    for name, function in (("kappa_fn", kappa_fn), ("score_fn", score_fn)):
        if not callable(function):
            raise TypeError(f"{name}: expected a function, got {type(function).__name__}")
    _canvas(xt)
    tau = _checks.temperature("tau", tau)
    mask_id, (num_steps,) = _checks.token_id("mask_id", mask_id), common.lengths(num_steps=num_steps)
    score = _SCORES.get(getattr(score_fn, "__name__", ""), "custom")
    drawn = tau != 0 and score != "random"
    materialised = drawn and (noise == "truncated" or score == "custom")
    dense = drawn and not materialised
    if dense:
        score = "noised_logprob"
    committed, review = score, None
    if planner is not None and score != "random":
        if score_fn.__name__ not in _REVIEWS:
            raise ValueError(f"score_fn: with a planner expected one of {sorted(_REVIEWS)}, got {score_fn.__name__}")
        committed = "review"
        reads = _REVIEWS[score_fn.__name__]
        review = Review(planner, reads=reads, draft="all", scoring=Scoring(mask_token="forbid"))
    kappa = tuple(_checks.number("kappa_fn", kappa_fn(i * (1 / num_steps))) for i in range(1, num_steps + 1))
    generator = torch.Generator(xt.device).manual_seed(seed) if isinstance(seed, int) else seed
    result = Sampler(
        name="p2_sampling",
        steps=num_steps,
        plan=Pool(Kappa(kappa), masked=score, committed=committed, eta=eta, cut="strict"),
        review=review,
        # Noisy logits that the operator does not draw itself are made once and read as if they were the model's.
        scoring=_ScoredBy(
            score_fn=score_fn,
            temperature=0.0 if materialised else tau,
            noise="dense" if dense else "lazy",
            mask_token="forbid",
        ),
        cache=False,
    )(
        model,
        xt,
        mask_id=mask_id,
        logits_processor=_noisy(tau, noise, generator) if materialised else None,
        seed=generator,
        history=False,
    )
    xt.copy_(result.tokens)
    common.completed(result)
    return xt


def p2_plus_sampling(
    xt: Tensor,
    model: Any,
    mask_id: int,
    num_steps: int | None = None,
    tau: float = 1.0,
    *,
    shared_order: bool = False,
    seed: int | torch.Generator | None = None,
    **kwargs: Any,
) -> Tensor:
    """Fill ``xt`` in place in an order that a first call fixes, ``ceil(N / num_steps)`` masks at a time, and return it.

    Args:
        num_steps: None fills one mask per step.
        shared_order: the order of row 0 for all rows, as the original takes it; here every row has its own.

    Raises:
        ValueError: ``num_steps`` is not between 1 and the number of masks.
    """
    _canvas(xt)
    tau = _checks.temperature("tau", tau)
    masks = int((xt == mask_id).sum(1).max()) if xt.numel() else 0
    if masks == 0:
        return xt
    if num_steps is not None and not 1 <= num_steps <= masks:
        raise ValueError(f"num_steps: expected a number from 1 to {masks}, the masks there are, got {num_steps}")
    result = Sampler(
        name="p2_plus_sampling",
        steps=(num_steps or masks) + 1,
        plan=FixedOrder(shared=shared_order),
        scoring=Scoring(temperature=tau, mask_token="forbid"),
    )(model, xt, mask_id=mask_id, seed=seed, history=False)
    xt.copy_(result.tokens)
    common.completed(result)
    return xt


def _canvas(xt: object) -> None:
    if not isinstance(xt, Tensor) or xt.dtype != torch.int64 or xt.ndim != 2:
        got = f"{xt.dtype} {list(xt.shape)}" if isinstance(xt, Tensor) else type(xt).__name__
        raise TypeError(f"xt: expected int64 [B, L], which is filled in place, got {got}")


dfm_sampling = functools.partial(p2_sampling, planner=None, score_fn=random_score)
ancestral_sampling = functools.partial(dfm_sampling, eta=0)
greedy_ancestral_sampling = functools.partial(p2_sampling, planner=None, score_fn=logP, eta=1)


@dataclass(frozen=True, kw_only=True)
class _ScoredBy(Scoring):
    """Scores that a function of the logits gives, under the name "custom"."""

    reads_logits = True

    score_fn: Callable[[Tensor, Tensor], Tensor]

    def __call__(self, logits: Tensor, *, want: Iterable[str], **options: Any) -> Scores:
        scores = super().__call__(logits, want=frozenset(want) - {"custom"}, **options)
        if "custom" in want:
            scores["custom"] = self.score_fn(logits.double(), scores["token"].clamp(min=0))
        return scores


def _noisy(tau: float, noise: str, generator: torch.Generator | None) -> Callable[[Tensor, Tensor], Tensor]:
    """``(tokens, logits) -> logits / tau + Gumbel``, in float64."""

    def add(tokens: Tensor, logits: Tensor) -> Tensor:
        drawn = torch.empty_like(logits, dtype=torch.float64)
        if noise == "exact":
            gumbel = -drawn.exponential_(generator=generator).log()
        else:
            gumbel = -(-(drawn.uniform_(generator=generator) + 1e-8).log() + 1e-8).log()
        return logits.double() / tau + gumbel

    return add


MODULES = ("path_planning.p2", "src.path_planning.p2", "p2")
REPLACES = {
    "p2_sampling": p2_sampling,
    "p2_plus_sampling": p2_plus_sampling,
    "dfm_sampling": dfm_sampling,
    "ancestral_sampling": ancestral_sampling,
    "greedy_ancestral_sampling": greedy_ancestral_sampling,
}
