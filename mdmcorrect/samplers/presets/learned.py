"""Samplers whose models learned what to decode, or to change, first: learned orders and GIDD."""

from __future__ import annotations

from dataclasses import dataclass

from ..counts import CeilTarget
from ..informed import Resample
from ..pool import Kappa, Noise, Pool
from ..sampler import Sampler
from ..unmask import Unmask
from .preset import Preset


@dataclass(frozen=True, kw_only=True)
class LearnedOrder(Preset):
    """Commit masks in an order drawn by learned weights, without replacement (Plackett-Luce; arXiv 2511.19152).

    With the masking schedules ``1 - alpha_l(t) = t^(w_l)`` the positions are unmasked in Plackett-Luce order of their
    weights w; here each step draws its share of the masks so, by Gumbel top-k of ``log w``. One forward per step.

    The model gives w as its ``quality``, positive; it may depend on the canvas, and is read anew each step.
    """

    temperature: float = 1.0

    def parts(self) -> Sampler:
        return Sampler(
            name="LearnedOrder",
            steps=self.steps,
            plan=Pool(Kappa(), masked="log_quality", committed="stays", noise=Noise(1.0, annealed=False)),
            scoring=self._scoring(),
        )


@dataclass(frozen=True, kw_only=True)
class GIDD(Preset):
    """Self-correction of generalized interpolating diffusion: every step changes a token (arXiv 2503.04482, section 5).

    Every step draws a token for every filled position at a low temperature and takes the ``count`` most probable of
    those that differ from what stands there. For canvases that come filled (``fixed`` says what is given); masks in
    them are committed evenly over the steps, in random order, on the same forward. One forward per step.

    The authors also stop when the share of positions that hold the argmax has not risen for 32 steps; here ``steps``
    and the sampler's ``stop`` say when.

    Args:
        count: tokens changed per step at most.
    """

    steps: int = 128
    count: int = 1
    temperature: float = 0.1

    def parts(self) -> Sampler:
        return Sampler(
            name="GIDD",
            steps=self.steps,
            unmask=Unmask("random", CeilTarget()),
            correct=Resample(self.count),
            scoring=self._scoring(),
        )
