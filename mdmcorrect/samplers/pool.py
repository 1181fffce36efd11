"""Plans that rank all generated positions together, masked or not: path planning, and a decoding order fixed ahead."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from .. import _checks, ops, rng
from .._tables import device_table
from .draws import draws
from .lowering import Lowered, Order, PlanKind, PoolNoise, is_exactly, lowered
from .plan import Intent, Update
from .scoring import Scores
from .state import State
from .window import View

_KAPPAS = ("linear", "sine", "cosine")
_READS: dict[str, set[str]] = {
    "random": set(),
    "stays": set(),
    "review": set(),
    "lead": {"max_logprob", "second_logprob"},
    "log_quality": {"quality"},
}
_DERIVED = ("review", "lead", "log_quality")  # made of other scores
_CUTS = ("count", "strict")


def kappa_values(name: str, value: object) -> str | tuple[float, ...]:
    """The name of a schedule, or its values."""
    if isinstance(value, str) and value not in _KAPPAS:
        raise ValueError(f"{name}: expected one of {list(_KAPPAS)} or one number per step, got {value!r}")
    if isinstance(value, str):
        return value
    values = _checks.several(_checks.number)(name, value)
    if not values:
        raise ValueError(f"{name}: expected one number per step, got none")
    return values


class Keep(Protocol):
    """How many positions of the window hold a token after a step."""

    def __call__(self, state: State, view: View) -> Tensor:
        """int64 ``[B]``."""

    # A rule that draws nothing says so by a false attribute `random`.


@dataclass(frozen=True)
class Kappa:
    """``N - floor(N (1 - kappa(u)))`` of N positions, with ``u = (i + 1) / S`` at the i-th of S steps (P2, MaskGIT).

    Args:
        schedule: "linear", ``u``; "sine", ``sin(pi u / 2)``; "cosine", ``1 - cos(pi u / 2)``, which leaves the masks
            of MaskGIT (arXiv 2202.04200); or one value per step, rounded as float32 multiplication rounds.
        advance: every step fills one mask at least, and all but the last leave one at least (MaskGIT's code).
    """

    random: ClassVar[bool] = False

    schedule: str | tuple[float, ...] = "linear"
    advance: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "schedule", kappa_values("kappa", self.schedule))
        _checks.settle(self, advance=_checks.flag)

    def __call__(self, state: State, view: View) -> Tensor:
        total, steps = view.eligible.sum(1), view.steps.clamp(min=1)
        done = torch.minimum(view.step + 1, steps)
        if self.schedule == "linear":
            masked = total * (steps - done) // steps
        elif isinstance(self.schedule, str):
            angle = done.double() / steps * (math.pi / 2)
            share = 1 - torch.sin(angle) if self.schedule == "sine" else torch.cos(angle)
            # The last share is a rounding error that must leave no mask.
            masked = torch.where(done == steps, 0, (total * share).floor().long())
        else:
            table = device_table(tuple(1 - value for value in self.schedule), torch.float32, total.device)
            masked = (total.float() * table[(done - 1).clamp(max=len(self.schedule) - 1)]).long()
        masked = torch.minimum(masked.clamp(min=0), total)
        if self.advance:
            now = view.masked.sum(1)
            masked = torch.where(done == steps, 0, torch.minimum(masked, now - 1).clamp(min=1))
            masked = torch.minimum(masked, now)
        return total - masked

    def lower(self) -> Lowered | None:
        named = isinstance(self.schedule, str)
        if (named and self.schedule != "linear") or not is_exactly(self, Kappa):
            return None
        shares = {} if named else {"kept_share": tuple(1 - float(value) for value in self.schedule)}
        return Lowered({"advance": self.advance}, tables=shares)


@dataclass(frozen=True)
class Noise:
    """Random numbers added to every score of a pool.

    Args:
        scale: their factor, or one per step.
        kind: "gumbel", which draws positions without replacement from ``softmax(score / scale)`` (MaskGIT, arXiv
            2202.04200, section 3.3); "uniform", on (-1/2, 1/2) (Token-Critic, 2209.04439).
        annealed: times ``1 - (i + 1) / S``, so that the last step adds none.
    """

    scale: float | tuple[float, ...]
    kind: str = "gumbel"
    annealed: bool = True

    def __post_init__(self) -> None:
        _checks.choice("noise kind", self.kind, "gumbel", "uniform")
        several = isinstance(self.scale, (tuple, list)) or getattr(self.scale, "ndim", 0) == 1
        rule = _checks.several(_checks.weight) if several else _checks.weight
        _checks.settle(self, "noise", scale=rule, annealed=_checks.flag)

    @property
    def random(self) -> bool:
        return any(value > 0 for value in self._scales)

    def __call__(self, state: State, view: View) -> Tensor:
        """float32 ``[B, L]``."""
        if self.kind == "uniform":
            drawn = state.uniform(rng.Purpose.ORDER, 1) - 0.5
        else:
            drawn = state.gumbel(rng.Purpose.POSITION)
        if isinstance(self.scale, tuple):
            table = device_table(self.scale, torch.float32, drawn.device)
            drawn = drawn * table[view.step.clamp(max=len(table) - 1)][:, None]
        else:
            drawn = drawn * self.scale
        if self.annealed:
            drawn = drawn * (1 - (view.step + 1).float() / view.steps.clamp(min=1)).clamp(min=0)[:, None]
        return drawn

    def lower(self) -> Lowered | None:
        if not is_exactly(self, Noise):
            return None
        kind = {"gumbel": PoolNoise.GUMBEL, "uniform": PoolNoise.UNIFORM}[self.kind]
        own = Lowered({"noise": kind, "annealed": self.annealed})
        if isinstance(self.scale, tuple):
            return own | Lowered(tables={"noise_scales": self.scale})
        return own | Lowered({"noise_scale": self.scale})

    @property
    def _scales(self) -> tuple[float, ...]:
        return self.scale if isinstance(self.scale, tuple) else (self.scale,)


@dataclass(frozen=True)
class Pool:
    """Masked and committed positions compete: the best ``keep`` of them hold a token after the step.

    Masked ones among these take their proposal, committed ones among the others are masked: path planning (P2, arXiv
    2502.03540, section 3), RemeDi (2509.23653), Token-Critic (2209.04439).

    Args:
        keep: how many.
        masked, committed: names of the scores that rank masked and committed positions, high is kept. Beyond the
            scores of the step: "random", "lead" (best over second log-probability), "log_quality", "review", and
            "stays" for positions that are kept whatever happens.
        eta: factor of the scores of committed positions; log-probabilities are negative, so more than 1 masks more of
            them, and 0 none.
        noise: None, or what is added to all scores.
        cut: "count" keeps exactly so many, ties to the lowest index; "strict" masks what scores strictly below the
            best of the others, so that ties mask fewer (the authors' code of P2).
    """

    keep: Keep = Kappa()
    masked: str = "logprob"
    committed: str = "current_logprob"
    eta: float = 1.0
    noise: Noise | None = None
    cut: str = "count"

    def __post_init__(self) -> None:
        _checks.settle(self, eta=_checks.weight)
        _checks.choice("cut", self.cut, *_CUTS)
        for name in ("masked", "committed"):
            if not isinstance(getattr(self, name), str):
                raise TypeError(f"{name}: expected the name of a score, got {type(getattr(self, name)).__name__}")
        if not callable(self.keep):
            raise TypeError(f"keep: expected a rule such as Kappa('linear'), got {self.keep!r}")
        if self.noise is not None and not callable(self.noise):
            raise TypeError(f"noise: expected None or a part such as Noise(1.0), got {self.noise!r}")

    @property
    def random(self) -> bool:
        """Whether scores hold noise, are drawn, or their number is."""
        return "random" in (self.masked, self.committed) or draws(self.keep, self.noise)

    @property
    def wants(self) -> frozenset[str]:
        read = (_READS.get(name, {name}) for name in (self.masked, self.committed))
        return frozenset[str]().union(*read)

    @property
    def revisits(self) -> bool:
        return self.committed != "stays"

    def time(self, state: State, view: View) -> Tensor:
        return state.masked(view.mask_id).sum(1).double() / (~state.fixed).sum(1).clamp(min=1)

    def prepare(self, state: State, view: View) -> Intent:
        masked = view.masked
        if self.committed == "stays":
            return Intent(need=masked.any(1), wanted=masked)
        need = masked.any(1) | (self.keep(state, view) < view.eligible.sum(1))
        return Intent(need=need, wanted=view.eligible)

    def __call__(self, state: State, view: View, intent: Intent, scores: Scores) -> Update:
        masked = view.masked
        rank = self._score(self.masked, state, scores)
        keep_rank = self._score(self.committed, state, scores) * self.eta
        if self.noise is not None:
            drawn = self.noise(state, view)
            rank, keep_rank = rank + drawn, keep_rank + drawn
        # A row without a forward stays as it is: nothing is asked of its pool, and its scores are NaN.
        keep = self.keep(state, view)
        chosen: dict[str, Tensor] = {"unmask_score": rank, "keep_score": keep_rank, "keep_count": keep}
        if self.cut == "strict":
            low = strictly_lowest(torch.where(masked, rank, keep_rank), view.eligible.sum(1) - keep, view.eligible)
            chosen = {"commit": masked & ~low, "remask": low & view.eligible & ~masked}
        tokens, committed, remasked = ops.remask_step(
            state.tokens,
            scores["token"],
            mask_id=view.mask_id,
            fixed=state.fixed,
            eligible=view.eligible,
            **chosen,
        )
        return Update(tokens, committed, remasked)

    def lower(self) -> Lowered | None:
        parts = lowered(self.keep, self.noise)
        unknown = {"stays", *_DERIVED} & {self.masked} | {*_DERIVED} & {self.committed}
        if parts is None or unknown or not is_exactly(self, Pool):
            return None
        orders = {"random": Order.RANDOM, "stays": Order.STAYS}
        scores = {"rank": self.masked, "keep": self.committed}
        own = {
            "plan": PlanKind.POOL,
            "order": orders.get(self.masked, Order.SCORE),
            "keep_order": orders.get(self.committed, Order.SCORE),
            "keep_eta": self.eta,
            "strict": self.cut == "strict",
            "steady": self.committed == "stays",
        }
        return parts | Lowered(own, {slot: name for slot, name in scores.items() if name not in orders})

    @staticmethod
    def _score(name: str, state: State, scores: Scores) -> Tensor:
        if name == "random":
            return state.uniform(rng.Purpose.ORDER).log()
        if name == "lead":
            return scores["max_logprob"] - scores["second_logprob"]
        if name == "log_quality":
            return scores["quality"].log()
        if name == "stays":
            return torch.full(state.tokens.shape, torch.inf, dtype=torch.float32, device=state.tokens.device)
        return scores[name]


@dataclass(frozen=True)
class FixedOrder:
    """Rank the masks once, by a first forward that commits nothing, and commit them in that order, evenly (P2+).

    The first of S + 1 steps ranks, the others commit ``ceil(N / S)`` of the N masks each (P2+, the authors' code of
    arXiv 2502.03540).

    Args:
        by: name of the score; high comes first, ties by lowest index.
        shared: the order of row 0 for all rows, as that code takes it; they must have their masks at the same places.
    """

    random: ClassVar[bool] = False

    by: str = "logprob"
    shared: bool = False

    def __post_init__(self) -> None:
        _checks.settle(self, "order", by=_checks.one_of(*ops.TokenScores._fields, "quality"))
        _checks.settle(self, shared=_checks.flag)

    @property
    def wants(self) -> frozenset[str]:
        return frozenset({self.by})

    @property
    def revisits(self) -> bool:
        return False

    def time(self, state: State, view: View) -> Tensor:
        return state.masked(view.mask_id).sum(1).double() / (~state.fixed).sum(1).clamp(min=1)

    def prepare(self, state: State, view: View) -> Intent:
        masked = view.masked
        commit = self._due(state, view, masked)
        first = view.step == 0
        return Intent(need=(first | commit.any(1)) & masked.any(1), wanted=torch.where(first[:, None], masked, commit))

    def __call__(self, state: State, view: View, intent: Intent, scores: Scores) -> Update:
        masked = view.masked
        tokens, committed, remasked = ops.remask_step(
            state.tokens,
            scores["token"],
            mask_id=view.mask_id,
            fixed=state.fixed,
            eligible=view.eligible,
            commit=self._due(state, view, masked),
        )
        score = scores[self.by].nan_to_num(nan=-torch.inf).masked_fill(~masked, -torch.inf)
        if self.shared:
            score = score[:1].expand_as(score)
        place = score.sort(dim=1, descending=True, stable=True).indices.argsort(1)
        first = (view.step == 0)[:, None]
        return Update(tokens, committed, remasked, memory={"place": torch.where(first, place, self._place(state))})

    def _due(self, state: State, view: View, masked: Tensor) -> Tensor:
        each = -(-view.quota // (view.steps - 1).clamp(min=1))
        upto = (each * view.step)[:, None]
        return masked & (self._place(state) < upto) & (view.step > 0)[:, None]

    @staticmethod
    def _place(state: State) -> Tensor:
        return state.memory.get("place", torch.zeros_like(state.tokens))


def strictly_lowest(score: Tensor, count: Tensor, eligible: Tensor) -> Tensor:
    """bool ``[B, L]``: positions that score strictly less than the one ranked ``count`` (from 0), NaN never."""
    padded = score.masked_fill(~eligible | score.isnan(), torch.inf)
    ranked = torch.nn.functional.pad(padded.sort(dim=1).values, (0, 1), value=torch.inf)
    return (padded < ranked.gather(1, count.clamp(0, score.shape[1])[:, None])) & eligible
