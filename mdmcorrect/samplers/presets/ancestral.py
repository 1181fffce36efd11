"""Ancestral sampling of masked diffusion: MDLM and ReMDM."""

from __future__ import annotations

from dataclasses import dataclass

from ..ancestral import Ancestral, Cap, Confidence, Rescale, Sigma
from ..sampler import Sampler
from ..scoring import Scoring
from .preset import Preset


@dataclass(frozen=True, kw_only=True)
class MDLM(Preset):
    """Ancestral sampling of masked diffusion (arXiv 2406.07524, section 3), with its cache and its noise removal.

    At most one forward per step: a row makes one only in steps that commit something, and one more if masks are left.

    Args:
        temperature, top_p: of the draw; top_p drops the token that crosses it.
        eps: last time of the grid ``linspace(1, eps, steps + 1)``.
    """

    temperature: float = 1.0
    top_p: float | None = None
    eps: float = 1e-5

    def parts(self) -> Sampler:
        return Sampler(
            name="MDLM",
            steps=self.steps,
            plan=Ancestral(eps=self.eps),
            scoring=Scoring(temperature=self.temperature, top_p=self.top_p),
        )


@dataclass(frozen=True, kw_only=True)
class ReMDM(Preset):
    """MDLM with a posterior that masks committed tokens again (arXiv 2503.00307, section 4.1).

    At most one forward per step, as MDLM; a row goes on through all its steps, since filled positions may be masked.

    Args:
        rule: "cap", ``sigma = min(eta, sigma_max)``; "rescale", ``sigma = eta sigma_max``; "conf", the mass of
            ``min(eta, sigma_max)`` shared among committed tokens by the softmax of minus their commit-time probability.
        eta: see ``rule``; "conf" takes 1 where none is given.
        temperature, top_p, eps: as for :class:`MDLM`.
    """

    rule: str = "cap"
    eta: float | None = None
    temperature: float = 1.0
    top_p: float | None = None
    eps: float = 1e-5

    def parts(self) -> Sampler:
        return Sampler(
            name=f"ReMDM-{self.rule}",
            steps=self.steps,
            plan=Ancestral(sigma=self._sigma(), eps=self.eps),
            scoring=Scoring(temperature=self.temperature, top_p=self.top_p),
        )

    def _sigma(self) -> Sigma:
        if self.rule == "conf":
            return Confidence(1.0 if self.eta is None else self.eta)
        if self.rule not in ("cap", "rescale"):
            raise ValueError(f"rule: expected 'cap', 'rescale' or 'conf', got {self.rule!r}")
        if self.eta is None:
            raise ValueError(f"eta: ReMDM-{self.rule} needs one (the paper, at 1024 steps: cap 0.008, rescale 0.015)")
        return Cap(self.eta) if self.rule == "cap" else Rescale(self.eta)
