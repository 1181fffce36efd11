"""Ancestral posteriors of absorbing diffusion, with and without remasking: MDLM, ReMDM, first-hitting."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from .. import _checks, ops, rng
from .lowering import Lowered, PlanKind, is_exactly, lowered
from .plan import Intent, Update
from .scoring import Scores
from .sigma import Confidence, During, Moment, Sigma, Straight
from .state import State
from .window import View


@dataclass(frozen=True)
class Draws(Intent):
    """Which positions a step commits and masks again: bool ``[B, L]`` each."""

    commit: Tensor
    remask: Tensor


_LIKE = {"sigma": "Cap(0.1)", "alpha": "Straight()"}


@dataclass(frozen=True)
class Ancestral:
    """The posterior of absorbing diffusion on the grid ``linspace(1, eps, S + 1)``.

    A masked position is committed with probability ``[alpha_s - (1 - sigma) alpha_t] / (1 - alpha_t)`` to a draw of the
    model, a committed one masked with probability sigma: MDLM (arXiv 2406.07524, section 3) for ``sigma=None``, ReMDM
    (arXiv 2503.00307, section 3) otherwise. The Bernoulli draws come first: only positions that are to be committed are
    scored, and a row that commits nothing needs no forward, which costs what MDLM's cached sampler costs, without
    keeping probabilities from one step to the next.

    Args:
        sigma: None, or how likely a committed position is masked: :class:`Cap`, :class:`Rescale`,
            :class:`Confidence`, :class:`Detour`, :class:`During`.
        eps: last time of the grid.
        alpha: share of clean tokens at time t, :class:`Straight` or :class:`Plateau`.
        complete: the last step commits whatever is masked (Dream), so that no noise is left to remove.
    """

    random: ClassVar[bool] = True

    sigma: Sigma | None = None
    eps: float = 1e-5
    alpha: Callable[[Tensor], Tensor] = field(default_factory=Straight)
    complete: bool = False

    def __post_init__(self) -> None:
        _checks.settle(self, eps=_checks.below_one, complete=_checks.flag)
        for name in ("sigma", "alpha"):
            part = getattr(self, name)
            if not callable(part) and not (name == "sigma" and part is None):
                raise TypeError(f"{name}: expected a part such as {_LIKE[name]}, got {part!r}")

    @property
    def wants(self) -> frozenset[str]:
        return frozenset({"confidence"}) if self._by_confidence else frozenset()

    @property
    def revisits(self) -> bool:
        return self.sigma is not None

    def time(self, state: State, view: View) -> Tensor:
        return torch.where(view.finishing, self.eps, self._at(view.step, view))

    def prepare(self, state: State, view: View) -> Draws:
        t, s = self._at(view.step, view)[:, None], self._at(view.step + 1, view)[:, None]
        moment = Moment(t, s, self.alpha(t), self.alpha(s))
        masked = view.masked
        committed = view.eligible & ~view.masked
        remask = torch.zeros_like(masked)
        gained = moment.alpha_s - moment.alpha_t
        if self.sigma is not None:
            sigma = self.sigma(state, committed, moment)
            remask = committed & (state.uniform(rng.Purpose.REMASK, dtype=torch.float64) < sigma)
            if not self._by_confidence:
                gained = moment.alpha_s - (1 - sigma) * moment.alpha_t
        commit = masked & (state.uniform(rng.Purpose.COMMIT, dtype=torch.float64) < gained / (1 - moment.alpha_t))
        if self.complete:
            commit = torch.where((view.step + 1 >= view.steps)[:, None], masked, commit)
        return Draws(need=commit.any(1), wanted=commit, commit=commit, remask=remask)

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

    def lower(self) -> Lowered | None:
        parts = lowered(self.sigma, self.alpha)
        if parts is None or not is_exactly(self, Ancestral):
            return None
        return parts | Lowered({"plan": PlanKind.DRAWN, "eps": self.eps, "complete": self.complete})

    @property
    def _by_confidence(self) -> bool:
        """Whether sigma is 0 on masks, which are then committed at MDLM's rate."""
        inner = self.sigma.sigma if isinstance(self.sigma, During) else self.sigma
        return isinstance(inner, Confidence)

    def _at(self, step: Tensor, view: View) -> Tensor:
        share = step.double() / view.steps.clamp(min=1)
        return 1 - (1 - self.eps) * share.clamp(max=1)


@dataclass(frozen=True)
class JumpTimes:
    """One uniformly random masked position per step, at the time at which it would be committed.

    With n masks left the time of the next commit is ``t u^(1/n)``, u uniform: the jump times of MDLM's continuous-time
    sampler, without the steps in which nothing happens and without a grid's error (arXiv 2409.02908, algorithm 1).
    """

    random: ClassVar[bool] = True

    @property
    def wants(self) -> frozenset[str]:
        return frozenset()

    @property
    def revisits(self) -> bool:
        return False

    def time(self, state: State, view: View) -> Tensor:
        masks = view.masked.sum(1).clamp(min=1)
        # One number per row: its address has no position of the row's own, so padding does not move it.
        u = rng.uniform(state.seed, 1, state.step, rng.Purpose.COUNT, dtype=torch.float64)[:, 0]
        before = self._time_before(state)
        return torch.where(view.finishing, before, before * u ** (1 / masks.float()))

    def prepare(self, state: State, view: View) -> Draws:
        masked = view.masked
        rank = state.uniform(rng.Purpose.ORDER)
        commit = ops.select_positions(rank, 1, eligible=masked)
        return Draws(need=commit.any(1), wanted=commit, commit=commit, remask=torch.zeros_like(commit))

    def __call__(self, state: State, view: View, intent: Draws, scores: Scores) -> Update:
        tokens, committed, remasked = ops.remask_step(
            state.tokens,
            scores["token"],
            mask_id=view.mask_id,
            fixed=state.fixed,
            eligible=view.eligible,
            commit=intent.commit,
        )
        time = torch.where(intent.need, self.time(state, view), self._time_before(state))
        return Update(tokens, committed, remasked, memory={"time": time})

    @staticmethod
    def _time_before(state: State) -> Tensor:
        return state.memory.get("time", torch.ones(state.seed.shape, dtype=torch.float64, device=state.seed.device))
