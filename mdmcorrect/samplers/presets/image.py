"""Samplers of masked image models: MaskGIT and Token-Critic."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..pool import Kappa, Noise, Pool
from ..review import Review
from ..sampler import Sampler
from .preset import Preset


@dataclass(frozen=True, kw_only=True)
class MaskGIT(Preset):
    """Commit the proposals of highest noisy log-probability, on a cosine schedule (arXiv 2202.04200, section 3.3).

    Step i leaves ``floor(N cos(pi (i + 1) / (2 S)))`` of N masks, at least one but at the end, and fills at least one.
    Committed tokens stay. One forward per step.

    Args:
        choice_temperature: of the Gumbel noise on the log-probabilities, falling linearly to 0 at the last step.
        schedule: "cosine", "linear", "sine", or the committed share after each step.
    """

    choice_temperature: float = 4.5
    schedule: str | tuple[float, ...] = "cosine"
    temperature: float = 1.0

    def parts(self) -> Sampler:
        return Sampler(
            name="MaskGIT",
            steps=self.steps,
            plan=Pool(
                Kappa(self.schedule, advance=True),
                masked="logprob",
                committed="stays",
                noise=Noise(self.choice_temperature) if self.choice_temperature else None,
            ),
            scoring=self._scoring(),
        )


@dataclass(frozen=True, kw_only=True)
class TokenCritic(Preset):
    """A critic reads the filled canvas and every step masks what it trusts least (arXiv 2209.04439, algorithm 1).

    Step i masks ``floor(N cos(pi (i + 1) / (2 S)))`` of N positions, whether they were masked or not. One forward of
    the model and one of the critic per step.

    Args:
        critic: a model that gives quality ``[b, L]``, the probability that a token is real.
        noise: factor of the uniform noise on the critic's scores, falling linearly to 0 at the last step.
        schedule: as for :class:`MaskGIT`.
    """

    critic: Any = None
    noise: float = 1.0
    schedule: str | tuple[float, ...] = "cosine"
    temperature: float = 1.0

    def parts(self) -> Sampler:
        if self.critic is None:
            raise ValueError("critic: expected a model that gives quality [b, L]; PRISM takes the model's own")
        return Sampler(
            name="TokenCritic",
            steps=self.steps,
            plan=Pool(
                Kappa(self.schedule),
                masked="review",
                committed="review",
                noise=Noise(self.noise, "uniform") if self.noise else None,
            ),
            review=Review(self.critic),
            scoring=self._scoring(),
        )
