"""Ancestral posteriors of absorbing diffusion, with and without remasking: MDLM and ReMDM."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from .. import ops, rng
from .plan import Intent, Update
from .scoring import Scores
from .state import State
from .window import View


class Sigma(Protocol):
    """Remasking probability of ReMDM's posterior (arXiv 2503.00307, section 4.1).

    At most ``sigma_max = min(1, (1 - alpha_s) / alpha_t)``.
    """

    def __call__(self, state: State, committed: Tensor, limit: Tensor) -> Tensor:
        """float64 ``[B, L]`` for the ``committed`` positions, at most ``limit [B, 1]``, which is ``sigma_max``."""


@dataclass(frozen=True)
class Cap:
    """``sigma = min(eta, sigma_max)``: ReMDM-cap."""

    eta: float

    def __post_init__(self) -> None:
        _check_eta(self.eta)

    def __call__(self, state: State, committed: Tensor, limit: Tensor) -> Tensor:
        return limit.clamp(max=self.eta)


@dataclass(frozen=True)
class Rescale:
    """``sigma = eta sigma_max``: ReMDM-rescale."""

    eta: float

    def __post_init__(self) -> None:
        _check_eta(self.eta)

    def __call__(self, state: State, committed: Tensor, limit: Tensor) -> Tensor:
        return limit * self.eta


@dataclass(frozen=True)
class Confidence:
    """``sigma_l = softmax_l(-psi_l) min(eta, sigma_max)`` over committed positions: ReMDM-conf.

    ``psi`` is the token's probability when it was committed. A masked position has sigma 0, so it is committed at
    MDLM's rate. The paper's eta is 1.
    """

    eta: float = 1.0

    def __post_init__(self) -> None:
        _check_eta(self.eta)

    def __call__(self, state: State, committed: Tensor, limit: Tensor) -> Tensor:
        # A token committed by the caller has no psi: 1, the least likely to go. A row without any committed token has
        # an empty softmax, whose NaN no Bernoulli below may see.
        psi = state.commit_score.double().nan_to_num(nan=1.0)
        share = torch.softmax((-psi).masked_fill(~committed, -torch.inf), dim=1).nan_to_num(nan=0.0)
        return share * limit.clamp(max=self.eta)


@dataclass(frozen=True)
class Draws(Intent):
    """Which positions a step commits and masks again: bool ``[B, L]`` each."""

    commit: Tensor
    remask: Tensor


@dataclass(frozen=True)
class Ancestral:
    """The posterior of absorbing diffusion on the grid ``linspace(1, eps, S + 1)``, ``alpha_t = 1 - t``.

    A masked position is committed with probability ``[alpha_s - (1 - sigma) alpha_t] / (1 - alpha_t)`` to a draw of the
    model, a committed one masked with probability sigma: MDLM (arXiv 2406.07524, section 3) for ``sigma=None``, ReMDM
    (arXiv 2503.00307, section 3) otherwise. The Bernoulli draws come first: a row that commits nothing needs no
    forward, which costs what MDLM's cached sampler costs, without keeping probabilities from one step to the next.

    Args:
        sigma: None, :class:`Cap`, :class:`Rescale` or :class:`Confidence`.
        eps: last time of the grid.
    """

    sigma: Sigma | None = None
    eps: float = 1e-5

    def __post_init__(self) -> None:
        if not 0 <= self.eps < 1:
            raise ValueError(f"eps: expected 0 <= eps < 1, got {self.eps}")

    @property
    def wants(self) -> frozenset[str]:
        return frozenset({"confidence"}) if isinstance(self.sigma, Confidence) else frozenset()

    @property
    def revisits(self) -> bool:
        return self.sigma is not None

    def time(self, state: State, view: View) -> Tensor:
        return torch.where(view.finishing, self.eps, self._at(view.step, view))

    def prepare(self, state: State, view: View) -> Draws:
        t, s = self._at(view.step, view)[:, None], self._at(view.step + 1, view)[:, None]
        masked = (state.tokens == view.mask_id) & view.eligible
        committed = (state.tokens != view.mask_id) & view.eligible
        remask = torch.zeros_like(masked)
        commit_probability = (t - s) / t
        if self.sigma is not None:
            limit = (s / (1 - t)).clamp(max=1.0)  # (1 - alpha_s) / alpha_t, infinite at t = 1
            sigma = self.sigma(state, committed, limit)
            remask = committed & (self._uniform(state, rng.Purpose.REMASK) < sigma)
            if not isinstance(self.sigma, Confidence):
                commit_probability = ((1 - s) - (1 - sigma) * (1 - t)) / t
        commit = masked & (self._uniform(state, rng.Purpose.COMMIT) < commit_probability)
        return Draws(need=commit.any(1), commit=commit, remask=remask)

    def __call__(self, state: State, view: View, intent: Draws, scores: Scores) -> Update:
        tokens, committed, remasked = ops.remask_step(
            state.tokens,
            scores["token"],
            mask_id=view.mask_id,
            fixed=state.fixed,
            eligible=view.eligible,
            commit=intent.commit,
            remask=intent.remask,
        )
        return Update(tokens, committed, remasked)

    def _at(self, step: Tensor, view: View) -> Tensor:
        share = step.double() / view.steps.clamp(min=1)
        return 1 - (1 - self.eps) * share.clamp(max=1)

    @staticmethod
    def _uniform(state: State, purpose: rng.Purpose) -> Tensor:
        return rng.uniform(state.seed, state.positions, state.step, purpose, dtype=torch.float64)


def _check_eta(eta: float) -> None:
    if not 0 <= eta <= 1:
        raise ValueError(f"eta: expected 0 <= eta <= 1, got {eta}")
