"""States that look back at the model's own mistakes: Decoupled Self-Correction with Future-Context Augmentation, and
the states of one ancestral step."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from .. import _checks
from .arguments import uniforms
from .corruption import State
from .reader import Run
from .reading import Reading
from .sources import Inputs, Source


@dataclass(frozen=True)
class LookBack(Source):
    """Tokens drawn where more was masked, judged where less is (DSC with FCA, arXiv 2601.06428).

        z_u = z_t with more masks, u = t + t', t' uniform on [step, 1 - t]
        y   = z_t, with tokens drawn from x_theta(. | z_u) at some of its visible positions that z_u masks:
              the ceil(step N) whose drawn token is the most probable

    N counts a row's free positions. The head so sees errors of early states beside true tokens of later ones. Use it
    with :class:`Right` and a frozen backbone, as the paper does.

    Args:
        step: the smallest t', and the share of positions written: one step of the sampler.
        temperature: how tokens are drawn; 0 is the argmax.
        judge: "visible" (all tokens that are no masks; the true ones are right) or "written" (the drawn ones).
    """

    step: float = 1 / 32
    temperature: float = 1.0
    judge: str = "visible"

    def __post_init__(self) -> None:
        between = partial(_checks.number, low=0, high=1, expected="a share between 0 and 1")
        _checks.settle(self, step=between, temperature=_checks.temperature)
        _checks.choice("judge", self.judge, "visible", "written")

    def draw(self, state: State, reading: Reading | None, run: Run) -> Inputs:
        z, t, free, generator = state.z, state.t, state.positions.free, run.generator
        with torch.no_grad():
            u = (t + self.step + uniforms(t, generator) * (1 - t - self.step).clamp(min=0)).clamp(max=1)
            z_u = self.more_masks(state, u, generator)
            eligible = (z_u == state.mask_id) & (z != state.mask_id) & free & state.positions.scored
            said = run.reader.read(run.answer(run.model, z_u, state, u), z_u, state.mask_id)
            drawn = said.draw(eligible, temperature=self.temperature, generator=generator)
            sure = said.score(drawn, eligible)[0].masked_fill(~eligible, -math.inf)
            rank = sure.argsort(dim=-1, descending=True, stable=True).argsort(-1)
            wrote = eligible & (rank < (self.step * free.sum(1, keepdim=True)).ceil())
            y = torch.where(wrote, drawn, z)
        visible = (y != state.mask_id) & state.positions.scored
        return Inputs(y, visible if self.judge == "visible" else wrote, extra=z_u)

    @staticmethod
    def more_masks(state: State, u: Tensor, generator: torch.Generator | None) -> Tensor:
        """z at the later time u, each token that is still visible masked so that in all u's law holds."""
        law = state.corruption.law
        kept = law.alpha(u) / law.alpha(state.t).clamp(min=1e-6)
        more = uniforms(state.z, generator) >= kept.clamp(0, 1).unsqueeze(-1)
        return torch.where(more & state.positions.free, state.mask_id, state.z)


@dataclass(frozen=True)
class AncestralStep(Source):
    """z after one ancestral step of the model's own; selected are the tokens that this step wrote.

    From t to s = max(t - step, 0) a mask is written with probability ``(alpha_s - alpha_t) / (1 - alpha_t)``. With
    ``Correct("uniform", selected_only=True)`` and :class:`Denoise`, half each, it is the fine-tuning that goes with
    informed correctors (arXiv 2407.21243) in a fork of MD4 ("SIC"), whose step is 2 / T.

    Args:
        step: how far in time.
        temperature: how tokens are drawn.
    """

    step: float
    temperature: float = 1.0

    reads_z = True

    def __post_init__(self) -> None:
        between = partial(_checks.number, low=0, high=1, expected="a share between 0 and 1")
        _checks.settle(self, step=between, temperature=_checks.temperature)

    def draw(self, state: State, reading: Reading | None, run: Run) -> Inputs:
        assert reading is not None
        law, s = state.corruption.law, (state.t - self.step).clamp(min=0)
        # In mask probabilities: 1 - alpha cancels where t is small.
        share = 1 - law.mask_probability(s) / law.mask_probability(state.t)
        with torch.no_grad():
            chosen = uniforms(state.z, run.generator) < share.unsqueeze(-1)
            wrote = chosen & state.masked & state.positions.free
            drawn = reading.draw(wrote, temperature=self.temperature, generator=run.generator)
            y = torch.where(wrote, drawn, state.z)
        return Inputs(y, wrote & state.positions.scored, s)
