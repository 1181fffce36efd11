"""From clean tokens to what a model reads: times, noise, and the state of one batch that every part of a loss sees."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .. import _checks
from .._checks import flag, instance, token_id
from ..schedules import Schedule, get_schedule
from .arguments import check_generator
from .masking import Positions, Roles, check_batch, check_tokens, check_values, draw_times, mask_tokens
from .terms import Weight, time_weight


@dataclass(frozen=True)
class Corruption:
    """Draws times and masks: ``z_t ~ q_t(. | x0)``, each free token masked with the schedule's probability.

    Another noise is a subclass with a :meth:`noise` of its own (:class:`.hybrid.Hybrid`).

    Args:
        schedule: "linear", "loglinear", "cosine" or an object with the methods of ``schedules.Schedule``.
        t_min: smallest drawn time.
        antithetic: one time from each of B equal slices (see ``schedules.sample_times``).
    """

    schedule: str | Schedule = "linear"
    t_min: float = 1e-3
    antithetic: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "schedule", get_schedule(self.schedule))

    @property
    def law(self) -> Schedule:
        return get_schedule(self.schedule)

    def draw(
        self,
        x0: Tensor,
        *,
        mask_id: int,
        roles: Roles,
        t: Tensor | None = None,
        generator: torch.Generator | None = None,
        check: bool = True,
    ) -> State:
        """Noisy tokens and their times, everything checked that the loss was given.

        Args:
            x0: int64 ``[B, L]`` clean tokens.
            mask_id, roles: of the batch.
            t: ``[B]`` times in (0, 1]; None draws them uniform on ``[t_min, 1)``.
            generator: source of times and noise.
            check: look at the values, at the price of one host synchronisation.
        """
        check_tokens(x0, t)
        check_generator(generator)
        check = flag("check", check)
        positions = roles.positions(x0)
        if check:
            check_values(x0, mask_id, positions, t, **roles.masks)
        drawn = draw_times(x0, t, t_min=self.t_min, antithetic=self.antithetic, generator=generator)
        t = self.grid(drawn) if t is None else drawn
        z = self.noise(x0, t, mask_id=mask_id, free=positions.free, generator=generator)
        return State(x0, z, t, mask_id, roles, self)

    @property
    def modules(self) -> dict[str, Any]:
        """Parts of its own that learn, by argument."""
        return {}

    def grid(self, t: Tensor) -> Tensor:
        """Where drawn times are put: they stay."""
        return t

    def weight(self, weight: Weight, t: Tensor) -> Tensor:
        """What a position's loss weighs at times ``t [B]``, ``[B, 1]`` or ``[B, L]``: "elbo" is the schedule's,
        "uniform" is 1, a callable maps t to them."""
        return time_weight(weight, self.law, t).unsqueeze(-1)

    def noise(self, x0: Tensor, t: Tensor, *, mask_id: int, free: Tensor, generator: torch.Generator | None) -> Tensor:
        """``z [B, L]``, equal to x0 where not free."""
        return mask_tokens(x0, t, mask_id=mask_id, schedule=self.law, free=free, generator=generator)


@dataclass(frozen=True)
class State:
    """One batch: clean tokens ``x0 [B, L]``, noisy ones ``z [B, L]`` at times ``t [B]``, and what was said of them.

    Raises:
        TypeError, ValueError: tokens that are not int64, z or t of another shape, roles or a corruption that are none.
    """

    x0: Tensor
    z: Tensor
    t: Tensor
    mask_id: int
    roles: Roles = field(default_factory=Roles)
    corruption: Corruption = field(default_factory=Corruption)
    positions: Positions = field(init=False, compare=False)

    def __post_init__(self) -> None:
        check_batch(self.x0, self.z, self.t)
        instance("roles", self.roles, Roles, "Roles(fixed=...)")
        instance("corruption", self.corruption, Corruption, "a Corruption")
        _checks.settle(self, mask_id=_checks.integer)
        object.__setattr__(self, "positions", self.roles.positions(self.x0))

    @classmethod
    def given(
        cls, x0: Tensor, z: Tensor, t: Tensor, *, mask_id: int, roles: Roles, corruption: Corruption, **others: Any
    ) -> State:
        """What a caller drew alone, checked; so are ``others``, tokens like x0."""
        mask_id = token_id("mask_id", mask_id)
        check_batch(x0, z, t, **others)
        return cls(x0, z, t, mask_id, roles, corruption)

    @property
    def masked(self) -> Tensor:
        return self.z == self.mask_id

    def times(self, times: int) -> Tensor:
        """``[B * times]``, each row's time as often as it has inputs, neighbours together."""
        return torch.repeat_interleave(self.t, times)

    @property
    def modules(self) -> dict[str, Any]:
        """Parts of its own that learn, by argument."""
        return {}

    def grid(self, t: Tensor) -> Tensor:
        """Where drawn times are put: they stay."""
        return t

    def weight(self, weight: Weight) -> Tensor:
        """Of the corruption, at this batch's times."""
        return self.corruption.weight(weight, self.t.to(self.x0.device))
