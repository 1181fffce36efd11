"""Likelihood of given text under a masked diffusion model: a Monte Carlo bound, conditional on what is not scored.

For an exact model the bound is the log-likelihood itself, since the terms average the chain rule over all orders of the
scored positions (arXiv 2310.14819; LLaDA, arXiv 2502.09992, equation 6 and appendix B.5, evaluates multiple choice so).
"""

from __future__ import annotations

import mdmcorrect._requires_torch

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from . import _checks, ops, rng
from .conditions import take_rows
from .model import Request, as_model, check_logits, combine, model_name, takes_positions
from .samplers.state import check_mask, initial_state

__all__ = ["LogLikelihood", "log_likelihood"]


@dataclass(frozen=True)
class LogLikelihood:
    """Estimates per row.

    Attributes:
        value: float64 ``[B]``, the estimated bound in nats, summed over the scored positions; 0 where none is.
        stderr: float64 ``[B]``, its standard error, from the spread of the samples; NaN for a single one. With
            ``stratified`` it is an upper estimate.
        count: int64 ``[B]``, scored positions; ``value / count`` is per token.
        nfe: forwards each row made.
        seed: int64 ``[B]``, what the masks were drawn with: given as ``seed=``, it makes them again.
    """

    value: Tensor
    stderr: Tensor
    count: Tensor
    nfe: int
    seed: Tensor


@torch.no_grad()
def log_likelihood(
    model: Any,
    tokens: Tensor,
    *,
    mask_id: int,
    scored: Tensor | None = None,
    lengths: Tensor | None = None,
    attention_mask: Tensor | None = None,
    condition: Any = None,
    samples: int = 128,
    by: str = "count",
    stratified: bool = True,
    mask_token: str = "suppress",
    batch_size: int | None = None,
    seed: rng.Seed = None,
) -> LogLikelihood:
    """Estimate ``log p(scored tokens | the others)`` from below.

    ``by="count"``: mask n of the N scored positions, n uniform on 1 to N, and add up ``N / n log p`` of the tokens
    under the masks (LLaDA, equation 6). ``by="time"``: mask each with probability t, uniform on (0, 1), with ``1 / t``:
    the continuous-time bound, of the same expectation and larger variance.

    Args:
        model: as any sampler takes, see :mod:`mdmcorrect.model`.
        tokens: int64 ``[B, L]``, complete.
        mask_id: the mask token.
        scored: bool ``[B, L]``, an answer behind its prompt, say; default all but padding.
        lengths, attention_mask, condition, seed: as for any sampler.
        samples: S, draws of masks per row, one forward each.
        stratified: spread the S counts, or times, evenly, each row from a random start; False draws each by itself.
        mask_token: "suppress" gives the mask probability 0, "forbid" leaves its share in the normaliser, as LLaDA does.
        batch_size: rows per forward; default B.

    Returns:
        :class:`LogLikelihood`.

    Raises:
        TypeError, ValueError: an argument, or what the model returns, has the wrong type, dtype or shape.

    Example:
        >>> uniform = lambda tokens: torch.zeros(*tokens.shape, 5)  # four ids and the mask
        >>> log_likelihood(uniform, torch.tensor([[0, 1, 2]]), mask_id=4, samples=2).value
        tensor([-4.1589], dtype=torch.float64)
    """
    _checks.choice("by", by, "count", "time")
    _checks.choice("mask_token", mask_token, "suppress", "forbid")
    stratified, mask_id = _checks.flag("stratified", stratified), _checks.token_id("mask_id", mask_id)
    samples = _checks.integer("samples", samples)
    batch_size = None if batch_size is None else _checks.integer("batch_size", batch_size)
    if samples < 1 or (batch_size is not None and batch_size < 1):
        raise ValueError(f"samples, batch_size: expected at least 1, got {samples} and {batch_size}")
    state = initial_state(tokens, mask_id=mask_id, lengths=lengths, attention_mask=attention_mask, seed=seed)
    real = state.attention_mask
    scored = real if scored is None else check_mask("scored", scored, tokens) & real
    batch, device = tokens.shape[0], tokens.device
    call, padded = as_model(model), state.padded and not bool(real.all())
    unpassed = frozenset({"position_ids"} if padded and not takes_positions(model) else ())
    run: dict[Any, Any] = {}
    pairs = torch.arange(batch * samples, device=device)  # sample-major: a chunk has as many rows as it can
    total, square = (torch.zeros(batch, dtype=torch.float64, device=device) for _ in range(2))
    for chunk in pairs.split(batch_size or max(batch, 1)):
        row, sample = chunk % batch, torch.div(chunk, batch, rounding_mode="floor")
        masked, share = _masks(state.seed, state.positions, scored, row, sample, samples, by, stratified)
        x = state.tokens[row].masked_fill(masked, mask_id)
        request = Request(
            batch=row,
            wanted=masked,
            time=share,
            step=sample,
            position_ids=state.positions[row],
            attention_mask=real[row] if padded else None,
            condition=take_rows(condition, batch, partial(torch.index_select, dim=0, index=row)),
            mask_id=mask_id,
            fixed=~scored[row],
            unpassed=unpassed,
            run=run,
        )
        output = call(x, request)
        check_logits(output.logits, x, mask_id, f"model {model_name(model)}")
        logits = combine(output)
        logits = logits.float() if logits.dtype == torch.float64 else logits
        excluded: dict[str, Any] = {"suppress": [mask_id]} if mask_token == "suppress" else {}
        read = ops.score_tokens(logits, tokens=state.tokens[row], rows=masked, want=["current_logprob"], **excluded)
        assert read.current_logprob is not None
        term = torch.where(masked, read.current_logprob.double(), 0.0).sum(1) / share.clamp(min=1e-300)
        total, square = total.index_add(0, row, term), square.index_add(0, row, term**2)
    value = total / samples
    variance = (square / samples - value**2).clamp(min=0) / (samples - 1 or torch.nan)
    return LogLikelihood(value, variance.sqrt(), scored.sum(1), samples, state.seed)


def _masks(
    seed: Tensor,
    positions: Tensor,
    scored: Tensor,
    row: Tensor,
    sample: Tensor,
    samples: int,
    by: str,
    stratified: bool,
) -> tuple[Tensor, Tensor]:
    """Masks bool ``[b, L]`` of some (row, sample) pairs, and the share of scored positions, float64 ``[b]``."""
    # One number per pair, or one per row and an even grid from there: both are uniform on (0, 1).
    start = rng.uniform(seed[row], 1, 0 if stratified else sample, rng.Purpose.COUNT, dtype=torch.float64)[:, 0]
    u = (start + sample.double() / samples) % 1 if stratified else start
    order = rng.uniform(seed[row], positions[row], sample, rng.Purpose.ORDER, dtype=torch.float64)
    if by == "time":
        t = u.clamp(min=1e-12)
        return scored[row] & (order < t[:, None]), t
    total = scored[row].sum(1)
    count = torch.minimum((u * total).floor().long() + 1, total)
    return ops.select_positions(order.float(), count, eligible=scored[row]), count.double() / total.clamp(min=1)
