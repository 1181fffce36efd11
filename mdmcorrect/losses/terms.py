"""The arithmetic the losses share: log-probabilities without the mask token, time weights, normalisers, drawing."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F

from .. import _checks
from ..schedules import Schedule
from .arguments import check_generator, divisor

NORMALIZERS = ("token", "BL", "answer")
Count: TypeAlias = float | Tensor | None
Weight = str | Callable[[Tensor], Tensor]
Normalizer: TypeAlias = str | float


def upcast(x: Tensor) -> Tensor:
    """float32, or float64 as it came: softmax and cross-entropy in half precision lose the tail."""
    return x if x.dtype == torch.float64 else x.float()


def without_mask(logits: Tensor, mask_id: int | None) -> Tensor:
    """Upcast logits with the mask token at -inf (SUBS, arXiv 2406.07524), or as they are where that is None.

    The input is left as it is.
    """
    if mask_id is None:
        return upcast(logits)
    index = torch.full((1,), mask_id, dtype=torch.int64, device=logits.device)
    return upcast(logits).index_fill(-1, index, float("-inf"))


def score_targets(logits: Tensor, targets: Tensor, used: Tensor, mask_id: int | None) -> tuple[Tensor, Tensor]:
    """``log softmax(logits without mask)[targets]`` and whether the argmax is the target, both ``[B, L]``.

    Only ``used`` positions count: elsewhere the log-probability is 0 and sends no gradient, whatever the target there.
    float32 or float64, also under autocast.
    """
    check_targets(targets, used, logits.shape[-1])
    with torch.autocast(logits.device.type, enabled=False):
        scores = without_mask(logits, mask_id)
        nll = F.cross_entropy(
            scores.flatten(0, 1), targets.masked_fill(~used, -100).flatten(), ignore_index=-100, reduction="none"
        )
    return -nll.view_as(targets), scores.detach().argmax(-1) == targets


def check_targets(targets: Tensor, used: Tensor, vocab: int) -> None:
    """Raise for a used target outside the vocabulary, where looking costs nothing: on the CPU."""
    if targets.device.type != "cpu" or torch.compiler.is_compiling():
        return
    outside = used & ((targets < 0) | (targets >= vocab))
    if outside.any():
        raise ValueError(f"x0: expected ids within the {vocab} of the logits, got {targets[outside][0]}")


def time_weight(weight: Weight, schedule: Schedule, t: Tensor) -> Tensor:
    """``[B]`` weights: "elbo" is the schedule's, "uniform" is 1, a callable maps t to them."""
    if callable(weight):
        weights = weight(t)
        if not isinstance(weights, Tensor) or weights.shape != t.shape:
            got = list(weights.shape) if isinstance(weights, Tensor) else type(weights).__name__
            raise ValueError(f"weight: expected one number per row from it, {list(t.shape)}, got {got}")
        return weights
    if weight == "elbo":
        return schedule.weight(t)
    if weight == "uniform":
        return torch.ones_like(t)
    raise ValueError(f"weight: expected 'elbo', 'uniform' or a callable of t, got {weight!r}")


def own_count(scored: Tensor, normalizer: Normalizer) -> Tensor:
    """What a batch's sum is divided by, int64 ``[]`` (float64 of a number): see :func:`normalize`."""
    if normalizer == "token":
        return scored.sum()
    if normalizer == "BL":
        return torch.full((), scored.numel(), dtype=torch.int64, device=scored.device)
    if normalizer == "answer":
        return scored.any(-1).sum()
    if isinstance(normalizer, str):
        raise ValueError(f"normalizer: expected one of {NORMALIZERS} or a number for each row, got {normalizer!r}")
    each = _checks.positive("normalizer", normalizer)
    return torch.full((), each * len(scored), dtype=torch.float64, device=scored.device)


def share(part: Tensor, whole: Tensor) -> Tensor:
    """How much of the positions ``whole`` marks ``part`` marks, float32 ``[]``; 0 of none."""
    return part.sum().float() / whole.sum().clamp(min=1)


def normalize(
    per_token: Tensor, scored: Tensor, normalizer: Normalizer, count: Count = None, name: str = "num_items_in_batch"
) -> Tensor:
    """Sum ``per_token [B, L]`` over scored positions and divide.

    "token": by the number of scored positions in the batch, masked or not. "BL": by B * L, padding and fixed positions
    too. "answer": each row by its own number of scored positions, then the mean over the rows that have any. A number:
    by that times B, such as the padded length of an original's rows. ``count`` (the argument called ``name``) stands
    for the last of these divisors: that of the whole batch of which this is a part. Nothing scored gives 0.
    """
    own = own_count(scored, normalizer)
    total = torch.where(scored, per_token, 0)
    if normalizer == "answer":
        total = total.sum(-1) / scored.sum(-1).clamp(min=1)
    total = total.sum()
    if count is not None:
        return total / divisor(name, count, total)
    return total / (own.to(total.dtype) if own.is_floating_point() else own.clamp(min=1))


def check_drawing(temperature: float, top_p: float, generator: torch.Generator | None) -> tuple[float, float]:
    """Temperature and ``top_p`` as floats; raises where one of the three is none."""
    check_generator(generator)
    temperature = _checks.temperature("temperature", temperature)
    top_p = _checks.number("top_p", top_p, low=0, high=1, expected="0 < top_p <= 1")
    if top_p == 0:
        raise ValueError(f"top_p: expected 0 < top_p <= 1, got {top_p}")
    return temperature, top_p


def draw_tokens(
    scores: Tensor, *, temperature: float = 1.0, top_p: float = 1.0, generator: torch.Generator | None = None
) -> Tensor:
    """One token per row of ``scores [..., V]`` (logits, -inf allowed), no gradient.

    ``temperature`` 0 is the argmax. ``top_p`` keeps the most probable tokens whose cumulated mass stays within it, and
    always the first (the token that crosses is dropped, as MDLM, PRISM and ProSeCo do). The draw is an exponential race
    in float64, whose tail float32 noise would cut.
    """
    temperature, top_p = check_drawing(temperature, top_p, generator)
    scores = scores.detach()
    if temperature == 0:
        return scores.argmax(-1)
    probability = torch.softmax(scores.double() / temperature, -1)
    if top_p < 1:
        ordered, order = probability.sort(dim=-1, descending=True, stable=True)
        keep = ordered.cumsum(-1) <= top_p
        keep[..., 0] = True
        probability = torch.zeros_like(probability).scatter(-1, order, ordered * keep)
    device = scores.device if generator is None else generator.device
    race = torch.empty(scores.shape, dtype=torch.float64, device=device).exponential_(generator=generator)
    return (probability / race.to(scores.device)).argmax(-1)
