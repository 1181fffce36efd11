"""Ancestral sampling of masked diffusion, and the correctors of its posterior."""

from __future__ import annotations

from dataclasses import dataclass

from ... import _checks
from ..ancestral import Ancestral, JumpTimes
from ..informed import Informed
from ..sampler import Sampler
from ..sigma import Cap, Confidence, Detour, During, Plateau, Rescale, Sigma
from ..window import Blocks
from .preset import Filling, Preset


@dataclass(frozen=True, kw_only=True)
class MDLM(Preset):
    """Ancestral sampling of masked diffusion (arXiv 2406.07524, section 3), with its cache and its noise removal.

    At most one forward per step: a row makes one only in steps that commit something, and one more if masks are left.

    Args:
        top_p_rule: the authors drop the token that crosses top_p.
        eps: last time of the grid ``linspace(1, eps, steps + 1)``.
    """

    temperature: float = 1.0
    top_p_rule: str = "exclusive"
    eps: float = 1e-5

    def parts(self) -> Sampler:
        return Sampler(
            name="MDLM",
            steps=self.steps,
            plan=Ancestral(eps=self.eps),
            scoring=self._scoring(),
        )


@dataclass(frozen=True, kw_only=True)
class ReMDM(Preset):
    """MDLM with a posterior that masks committed tokens again (arXiv 2503.00307, sections 4.1 and 4.2).

    At most one forward per step, as MDLM; a row goes on through all its steps, since filled positions may be masked.

    Args:
        rule: "cap", ``sigma = min(eta, sigma_max)``; "rescale", ``sigma = eta sigma_max``; "conf", the mass of
            ``min(eta, sigma_max)`` shared among committed tokens by the softmax of minus their commit-time probability.
        eta: see ``rule``; "conf" takes 1 where none is given.
        t_on, t_off: remask only at times ``t_off < t <= t_on`` (ReMDM-switch); together, or neither.
        alpha_on: with these, hold the share of clean tokens at ``alpha_on`` in between (ReMDM-loop; the paper takes
            t_on 0.55, t_off 0.05, alpha_on 0.9, eta 0.02, rule "cap").
        eps: as for :class:`MDLM`.
    """

    rule: str = "cap"
    eta: float | None = None
    t_on: float | None = None
    t_off: float | None = None
    alpha_on: float | None = None
    temperature: float = 1.0
    top_p_rule: str = "exclusive"
    eps: float = 1e-5

    def parts(self) -> Sampler:
        sigma = self._sigma()
        if (self.t_on is None) != (self.t_off is None):
            raise ValueError(f"t_on, t_off: expected both or neither, got {self.t_on} and {self.t_off}")
        if self.t_on is None or self.t_off is None:
            if self.alpha_on is not None:
                raise ValueError("alpha_on: expected t_on and t_off with it, the times between which it holds")
            plan = Ancestral(sigma, eps=self.eps)
        else:
            sigma = During(sigma, self.t_on, self.t_off)
            if self.alpha_on is None:
                plan = Ancestral(sigma, eps=self.eps)
            elif self.rule == "conf":  # which commits at MDLM's rate: not at all where alpha stands
                raise ValueError(
                    "alpha_on: rule 'conf' would fill nothing between t_on and t_off; take 'cap' or 'rescale'"
                )
            else:
                plan = Ancestral(sigma, eps=self.eps, alpha=Plateau(self.t_on, self.t_off, self.alpha_on))
        return Sampler(
            name=f"ReMDM-{self.rule}",
            steps=self.steps,
            plan=plan,
            scoring=self._scoring(),
        )

    def _sigma(self) -> Sigma:
        if _checks.choice("rule", self.rule, "cap", "rescale", "conf") == "conf":
            return Confidence(1.0 if self.eta is None else self.eta)
        if self.eta is None:
            raise ValueError(f"eta: ReMDM-{self.rule} needs one (the paper, at 1024 steps: cap 0.008, rescale 0.015)")
        return Cap(self.eta) if self.rule == "cap" else Rescale(self.eta)


@dataclass(frozen=True, kw_only=True)
class ForwardBackward(Preset):
    """MDLM with a forward-backward corrector (arXiv 2205.14987, section 4.4; as ReMDM, 2503.00307, section 3.3).

    Each step goes twice as far towards the data as MDLM's and one step back: ``sigma = (alpha_s - alpha_t) / alpha_t``,
    at most sigma_max. At most one forward per step; a row goes on through all its steps.

    Args:
        eps: as for :class:`MDLM`.
    """

    temperature: float = 1.0
    top_p_rule: str = "exclusive"
    eps: float = 1e-5

    def parts(self) -> Sampler:
        return Sampler(
            name="ForwardBackward",
            steps=self.steps,
            plan=Ancestral(Detour(), eps=self.eps),
            scoring=self._scoring(),
        )


@dataclass(frozen=True, kw_only=True)
class DFM(Preset):
    """MDLM with the corrector of discrete flow matching (arXiv 2407.15595, section 3.2; as ReMDM, 2503.00307).

    Commits ``a_t = 1 + b_t`` times and masks ``b_t`` times as fast as MDLM's forward process, ``b_t = scale (t (1 -
    t))^power``. The authors shorten a step whose rates exceed it; here the grid stands and sigma_max holds the rates.
    At most one forward per step; a row goes on through all its steps.

    Args:
        scale, power: of ``b_t``.
        eps: as for :class:`MDLM`.
    """

    scale: float = 10.0
    power: float = 0.25
    temperature: float = 1.0
    top_p_rule: str = "exclusive"
    eps: float = 1e-5

    def parts(self) -> Sampler:
        return Sampler(
            name="DFM",
            steps=self.steps,
            plan=Ancestral(Detour(self.scale, self.power), eps=self.eps),
            scoring=self._scoring(),
        )


@dataclass(frozen=True, kw_only=True)
class FirstHitting(Filling):
    """MDLM in continuous time, one commit per forward (arXiv 2409.02908, algorithm 1).

    No steps to choose: a row of N masks makes N forwards, at the times at which MDLM with infinitely many steps would
    commit its next token, and has exactly that sampler's law.
    """

    temperature: float = 1.0
    top_p_rule: str = "exclusive"

    def parts(self) -> Sampler:
        return Sampler(
            name="FirstHitting",
            steps=1,
            plan=JumpTimes(),
            window=Blocks(until_filled=True),
            scoring=self._scoring(),
        )


@dataclass(frozen=True, kw_only=True)
class InformedCorrector(Preset):
    """MDLM with correctors that draw again the tokens the model doubts most (arXiv 2407.21243, section 4).

    Before every omega-th step but the first, ``rounds`` times: k committed tokens, chosen by Gumbel top-k of how little
    the model thinks of them, are drawn again. At most ``steps (1 + rounds / omega)`` forwards and one to remove noise:
    the step's own forward serves the first round. A row goes on through all its steps.

    Args:
        count: k.
        by: "confidence", log-probability of the token; "margin", its lead over the best other token.
        position_temperature: of the choice of positions; 0 takes the lowest.
        rounds: corrections in a row.
        correct_every: omega.
        eps: as for :class:`MDLM`.
    """

    count: int = 1
    by: str = "confidence"
    position_temperature: float = 1.0
    rounds: int = 1
    correct_every: int = 1
    temperature: float = 1.0
    top_p_rule: str = "exclusive"
    eps: float = 1e-5

    def parts(self) -> Sampler:
        return Sampler(
            name="InformedCorrector",
            steps=self.steps,
            plan=Ancestral(eps=self.eps),
            correct=Informed(self.count, self.by, self.position_temperature, self.rounds, self.correct_every),
            scoring=self._scoring(),
        )
