"""Masking schedules of absorbing diffusion: how many tokens are masked at time t, and what a token's loss weighs.

Time runs from 1 (all masked) to 0 (clean). ``alpha(t)`` is the probability that a token is still clean, and
``weight(t) = -alpha'(t) / (1 - alpha(t))`` is the factor of the cross-entropy of a masked token in the continuous-time
bound (MDLM, arXiv 2406.07524). Every method takes and returns a floating tensor of any shape.
"""

from __future__ import annotations

import mdmcorrect._requires_torch

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from mdmcorrect import _checks


@runtime_checkable
class Schedule(Protocol):
    """What a loss or a sampler asks of a schedule."""

    def alpha(self, t: Tensor) -> Tensor:
        """Probability that a token is clean at time ``t``."""

    def mask_probability(self, t: Tensor) -> Tensor:
        """``1 - alpha(t)``, without the cancellation of computing it so."""

    def weight(self, t: Tensor) -> Tensor:
        """``-alpha'(t) / (1 - alpha(t))``, the weight of the bound."""


@dataclass(frozen=True)
class Linear:
    """``alpha(t) = 1 - t``: the mask probability is the time itself (LLaDA, arXiv 2502.09992); weight ``1/t``."""

    def alpha(self, t: Tensor) -> Tensor:
        return 1 - t

    def mask_probability(self, t: Tensor) -> Tensor:
        return t

    def weight(self, t: Tensor) -> Tensor:
        return t.reciprocal()


@dataclass(frozen=True)
class LogLinear:
    """``sigma(t) = -log(1 - (1 - eps) t)``, hence ``alpha(t) = exp(-sigma(t)) = 1 - (1 - eps) t`` (MDLM, PRISM).

    The factor ``1 - eps`` cancels in the weight, which is ``sigma' / expm1(sigma) = 1/t`` exactly, not up to ``eps``.
    """

    eps: float = 1e-3

    def __post_init__(self) -> None:
        _checks.settle(self, eps=_checks.below_one)

    def alpha(self, t: Tensor) -> Tensor:
        return 1 - (1 - self.eps) * t

    def mask_probability(self, t: Tensor) -> Tensor:
        return (1 - self.eps) * t

    def weight(self, t: Tensor) -> Tensor:
        return t.reciprocal()

    def sigma(self, t: Tensor) -> Tensor:
        """Total noise, what MDLM's denoisers take as their time input."""
        return -torch.log1p(-(1 - self.eps) * t)


@dataclass(frozen=True)
class Cosine:
    """``alpha(t) = 1 - cos(pi/2 (1 - t))`` (MaskGIT, arXiv 2202.04200; as a bound MD4, arXiv 2406.04329).

    The weight ``pi/2 tan(pi/2 (1 - t))`` diverges at 0 like ``1/t`` and vanishes at 1.
    """

    def alpha(self, t: Tensor) -> Tensor:
        return 1 - self.mask_probability(t)

    def mask_probability(self, t: Tensor) -> Tensor:
        return torch.sin(0.5 * math.pi * t)

    def weight(self, t: Tensor) -> Tensor:
        angle = 0.5 * math.pi * t
        return 0.5 * math.pi * torch.cos(angle) / torch.sin(angle)


_BY_NAME: dict[str, type[Linear] | type[LogLinear] | type[Cosine]] = {
    "linear": Linear,
    "loglinear": LogLinear,
    "cosine": Cosine,
}


def get_schedule(schedule: str | Schedule) -> Schedule:
    """The schedule of that name ("linear", "loglinear", "cosine"), or the given object itself."""
    if isinstance(schedule, str):
        if schedule not in _BY_NAME:
            raise ValueError(f"schedule: expected one of {sorted(_BY_NAME)} or a Schedule, got {schedule!r}")
        return _BY_NAME[schedule]()
    if not isinstance(schedule, Schedule) or isinstance(schedule, type):
        raise TypeError(
            f"schedule: expected a name or an object with alpha, mask_probability and weight, got {type(schedule)}"
        )
    return schedule


def sample_times(
    batch: int,
    *,
    t_min: float = 1e-3,
    t_max: float = 1.0,
    antithetic: bool = True,
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Draw one diffusion time per row, uniform on ``[t_min, t_max)``.

    Args:
        batch: number of rows B.
        t_min: smallest time. Below it the weight ``1/t`` makes a few rows dominate the gradient.
        t_max: largest time.
        antithetic: stratify: row b draws its time from the b-th of B equal slices of the interval (the antithetic
            sampler of VDM, arXiv 2107.00630, but with its own uniform per row). Every row's marginal over a
            shuffled batch stays uniform; the variance of the batch mean falls.
        generator: source of the uniforms; they are drawn on its device, then moved.
        device: where the result lies.
        dtype: floating dtype of the result.

    Returns:
        ``[batch]`` times; with ``antithetic`` in increasing order of their slices.
    """
    batch = _checks.integer("batch", batch, minimum=0, what="a number of rows >= 0")
    t_min, t_max = _checks.number("t_min", t_min), _checks.number("t_max", t_max)
    antithetic = _checks.flag("antithetic", antithetic)
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise TypeError(f"dtype: expected a floating-point dtype, got {dtype}")
    if generator is not None and not isinstance(generator, torch.Generator):
        raise TypeError(f"generator: expected a torch.Generator or None, got {type(generator).__name__}")
    if not 0 <= t_min < t_max <= 1:
        raise ValueError(f"t_min, t_max: expected 0 <= t_min < t_max <= 1, got {t_min} and {t_max}")
    draw_device = device if generator is None else generator.device
    u = torch.rand(batch, generator=generator, device=draw_device, dtype=dtype)
    if antithetic and batch:
        u = (u + torch.arange(batch, device=u.device, dtype=dtype)) / batch
    return (t_min + (t_max - t_min) * u).to(device)
