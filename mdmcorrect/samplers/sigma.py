"""How likely an ancestral step masks a committed token again: the remasking schedules of ReMDM and older correctors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from .. import _checks
from .lowering import Lowered, SigmaKind, is_exactly, lowered
from .state import State


@dataclass(frozen=True)
class Moment:
    """One ancestral step from time t to s < t, as float64 ``[B, 1]`` each; alpha is the share of clean tokens."""

    t: Tensor
    s: Tensor
    alpha_t: Tensor
    alpha_s: Tensor

    @property
    def limit(self) -> Tensor:
        """``sigma_max = min(1, (1 - alpha_s) / alpha_t)``, beyond which the posterior is no distribution."""
        return ((1 - self.alpha_s) / self.alpha_t).clamp(max=1.0)


class Sigma(Protocol):
    """Remasking probability of ReMDM's posterior (arXiv 2503.00307, section 4.1), at most ``moment.limit``."""

    def __call__(self, state: State, committed: Tensor, moment: Moment) -> Tensor:
        """float64 ``[B, L]`` or ``[B, 1]`` for the ``committed`` positions."""


@dataclass(frozen=True)
class Cap:
    """``sigma = min(eta, sigma_max)``: ReMDM-cap."""

    eta: float

    def __post_init__(self) -> None:
        _checks.settle(self, eta=_checks.share)

    def __call__(self, state: State, committed: Tensor, moment: Moment) -> Tensor:
        return moment.limit.clamp(max=self.eta)

    def lower(self) -> Lowered | None:
        return Lowered({"sigma": SigmaKind.CAP, "eta": self.eta}) if is_exactly(self, Cap) else None


@dataclass(frozen=True)
class Rescale:
    """``sigma = eta sigma_max``: ReMDM-rescale."""

    eta: float

    def __post_init__(self) -> None:
        _checks.settle(self, eta=_checks.share)

    def __call__(self, state: State, committed: Tensor, moment: Moment) -> Tensor:
        return moment.limit * self.eta

    def lower(self) -> Lowered | None:
        return Lowered({"sigma": SigmaKind.RESCALE, "eta": self.eta}) if is_exactly(self, Rescale) else None


@dataclass(frozen=True)
class Confidence:
    """``sigma_l = softmax_l(-psi_l) min(eta, sigma_max)`` over committed positions: ReMDM-conf.

    ``psi`` is the token's probability when it was committed. A masked position has sigma 0, so it is committed at
    MDLM's rate. The paper's eta is 1.
    """

    eta: float = 1.0

    def __post_init__(self) -> None:
        _checks.settle(self, eta=_checks.share)

    def __call__(self, state: State, committed: Tensor, moment: Moment) -> Tensor:
        # A token committed by the caller has no psi: 1, the least likely to go. A row without any committed token has
        # an empty softmax, whose NaN no Bernoulli below may see.
        psi = state.commit_score.double().nan_to_num(nan=1.0)
        share = torch.softmax((-psi).masked_fill(~committed, -torch.inf), dim=1).nan_to_num(nan=0.0)
        return share * moment.limit.clamp(max=self.eta)

    def lower(self) -> Lowered | None:
        return Lowered({"sigma": SigmaKind.CONFIDENCE, "eta": self.eta}) if is_exactly(self, Confidence) else None


@dataclass(frozen=True)
class Detour:
    """``sigma = b_t (alpha_s - alpha_t) / alpha_t``, at most sigma_max: step ``1 + b_t`` times ahead and ``b_t`` back.

    A masked position is then committed with probability ``(1 + b_t) (alpha_s - alpha_t) / (1 - alpha_t)``. ``b_t = 1``
    is the forward-backward corrector (arXiv 2205.14987), ``b_t = scale (t (1 - t))^power`` that of discrete flow
    matching (arXiv 2407.15595), whose authors take scale 10 and power 1/4. On a fixed grid; where the rates are too
    large for its steps, sigma_max holds them.
    """

    scale: float = 1.0
    power: float = 0.0

    def __post_init__(self) -> None:
        _checks.settle(self, scale=_checks.weight, power=_checks.weight)

    def __call__(self, state: State, committed: Tensor, moment: Moment) -> Tensor:
        extra = self.scale * (moment.t * (1 - moment.t)).clamp(min=0) ** self.power
        back = extra * (moment.alpha_s - moment.alpha_t) / moment.alpha_t
        return torch.minimum(back.nan_to_num(nan=0.0), moment.limit)

    def lower(self) -> Lowered | None:
        if not is_exactly(self, Detour):
            return None
        return Lowered({"sigma": SigmaKind.DETOUR, "scale": self.scale, "power": self.power})


@dataclass(frozen=True)
class During:
    """``sigma`` at times ``t_off < t <= t_on``, else 0: ReMDM-switch, and with a :class:`Plateau` ReMDM-loop."""

    sigma: Sigma
    t_on: float
    t_off: float

    def __post_init__(self) -> None:
        for name in ("t_on", "t_off"):
            _checks.number(name, getattr(self, name))
        if not 0 <= self.t_off < self.t_on <= 1:
            raise ValueError(f"t_on, t_off: expected 0 <= t_off < t_on <= 1, got {self.t_on} and {self.t_off}")

    def __call__(self, state: State, committed: Tensor, moment: Moment) -> Tensor:
        on = (moment.t > self.t_off) & (moment.t <= self.t_on)
        return torch.where(on, self.sigma(state, committed, moment), 0.0)

    def lower(self) -> Lowered | None:
        inner = lowered(self.sigma)
        if inner is None or "during" in inner.numbers or not is_exactly(self, During):
            return None
        return inner | Lowered({"during": 1, "during_on": self.t_on, "during_off": self.t_off})


@dataclass(frozen=True)
class Straight:
    """``alpha_t = 1 - t``."""

    def __call__(self, t: Tensor) -> Tensor:
        return 1 - t

    def lower(self) -> Lowered | None:
        return Lowered() if is_exactly(self, Straight) else None


@dataclass(frozen=True)
class Plateau:
    """``alpha`` rises from 0 to ``alpha_on`` at t_on, stays until t_off, then rises to 1 (ReMDM-loop, section 4.2).

    All the steps between t_on and t_off are spent on masking and filling again.
    """

    t_on: float
    t_off: float
    alpha_on: float

    def __post_init__(self) -> None:
        for name in ("t_on", "t_off", "alpha_on"):
            _checks.number(name, getattr(self, name))
        if not 0 < self.t_off < self.t_on < 1:
            raise ValueError(f"t_on, t_off: expected 0 < t_off < t_on < 1, got {self.t_on} and {self.t_off}")
        if not 0 < self.alpha_on < 1:
            raise ValueError(f"alpha_on: expected 0 < alpha_on < 1, got {self.alpha_on}")

    def __call__(self, t: Tensor) -> Tensor:
        before = (1 - t) / (1 - self.t_on) * self.alpha_on
        after = 1 - t / self.t_off * (1 - self.alpha_on)
        return torch.maximum(before.clamp(max=self.alpha_on), after)

    def lower(self) -> Lowered | None:
        if not is_exactly(self, Plateau):
            return None
        times = {"plateau_on": self.t_on, "plateau_off": self.t_off}
        return Lowered({"plateau": 1, **times, "plateau_alpha": self.alpha_on})
