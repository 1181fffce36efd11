"""Plans that write the whole canvas and then go over it: subsets masked again, or a bound on what is accepted."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from .. import _checks, ops, rng
from .plan import Counts, Intent, UnmaskThenRemask, Update
from .scoring import Scores, Scoring
from .state import State
from .unmask import Unmask
from .window import View


@dataclass(frozen=True)
class FillThenRefine(UnmaskThenRemask):
    """Fill the canvas, then mask random subsets of it and fill each at once: Tolerator (arXiv 2510.05090, section 3).

    The last ``refine`` of S steps go over it: before the r-th of these R, from 0, ``n - floor(n (1 - rho_r))`` of the
    n positions, any of them, are masked, ``rho_r = last + (first - last) (1 + cos(pi r / (R - 1))) / 2``; its forward
    fills them all. The steps before split the masks evenly.

    Args:
        unmask: which masked positions first, while the canvas is filled.
        refine: R, less than S.
        first, last: the share masked in the first and in the last of these steps.
    """

    random: ClassVar[bool] = True  # type: ignore[assignment,misc]
    takes: ClassVar[tuple[str, ...]] = ()

    unmask: Unmask = field(default_factory=Unmask)
    refine: int = 16
    first: float = 0.8
    last: float = 0.4

    def __post_init__(self) -> None:
        super().__post_init__()
        _checks.settle(self, refine=_checks.at_least(0), first=_checks.share, last=_checks.share)

    @property
    def revisits(self) -> bool:
        return self.refine > 0

    def prepare(self, state: State, view: View) -> Counts:
        masks = view.masked.sum(1)
        fill = (view.steps - self.refine).clamp(min=1)
        even = view.quota // fill + (view.step < view.quota % fill)
        count = torch.where(view.step < fill, even, masks).minimum(masks)
        return Counts(need=count > 0, unmask=count, remask=torch.zeros_like(count))

    def __call__(self, state: State, view: View, intent: Counts, scores: Scores) -> Update:
        masked = view.masked
        tokens, committed, _ = ops.remask_step(
            state.tokens,
            scores["token"],
            **self.unmask.choose(self.unmask.rank(state, scores), intent.unmask, masked, view),
            mask_id=view.mask_id,
            fixed=state.fixed,
            eligible=view.eligible,
        )
        again = ops.select_positions(state.uniform(rng.Purpose.ORDER, 1), self._again(view), eligible=view.own)
        again &= ~(masked & ~committed)
        tokens = torch.where(again, view.mask_id, tokens)
        return Update(tokens, committed & ~again, again & ~masked)

    def _again(self, view: View) -> Tensor:
        """int64 ``[B]``: positions to mask for the next step."""
        number = view.step + 1 - (view.steps - self.refine).clamp(min=1)  # r of the next step
        along = number.double() / max(self.refine - 1, 1) if self.refine > 1 else torch.ones_like(number).double()
        share = self.last + (self.first - self.last) * (1 + torch.cos(math.pi * along)) / 2
        positions = view.own.sum(1)
        count = positions - (positions * (1 - share)).floor().long()
        return torch.where((number >= 0) & (view.step + 1 < view.steps) & ~view.finishing, count, 0)


@dataclass(frozen=True)
class BoundedCanvas:
    """A canvas of random tokens that accepts what it is sure of and draws the rest anew: DiffusionGemma's decoding.

    As transformers' ``EntropyBoundSampler`` and ``StableAndConfidentStoppingCriteria`` (release 5.24.0) do: a step
    accepts the model's draws at the positions of least entropy, as many as keep the sum of their entropies, less the
    largest, within ``gamma`` (arXiv 2505.24857), and gives all others a new random token; nothing is settled. A row
    ends, and holds the argmax, when that has been the same for ``stable`` steps before and the mean entropy is below
    ``sure``, or with its last step. The first step draws the canvas and makes no forward.

    Args:
        gamma: in nats.
        vocab: tokens are drawn from ids below it that are not the mask.
        stable: steps, 0 for none.
        sure: in nats.
    """

    random: ClassVar[bool] = True
    revisits: ClassVar[bool] = False

    vocab: int
    gamma: float = 0.1
    stable: int = 1
    sure: float = 0.005

    def __post_init__(self) -> None:
        _checks.settle(self, vocab=_checks.at_least(2), gamma=_checks.weight, stable=_checks.at_least(0))
        _checks.settle(self, sure=_checks.number)

    @property
    def wants(self) -> frozenset[str]:
        return frozenset({"token", "argmax", "entropy"})

    def waiting(self, state: State) -> Tensor:
        stopped = state.memory.get("stopped")
        return torch.ones_like(state.done) if stopped is None else ~stopped

    def time(self, state: State, view: View) -> Tensor:
        return 1 - (view.step - 1).clamp(min=0).double() / (view.steps - 1).clamp(min=1)

    def prepare(self, state: State, view: View) -> Intent:
        going = self.waiting(state) & view.own.any(1) & ~view.finishing
        return Intent(need=(view.step > 0) & going, wanted=view.own)

    def __call__(self, state: State, view: View, intent: Intent, scores: Scores) -> Update:
        known = view.own & (scores["argmax"] >= 0)
        entropy, argmax = scores["entropy"].float(), torch.where(known, scores["argmax"], state.tokens)
        within = ops.count_positions(entropy, "entropy_bound", self.gamma, eligible=known, at_least=1)
        accepted = ops.select_positions(entropy, within, eligible=known, largest=False)
        before = state.memory.get("argmax", torch.full_like(state.tokens, -1))
        same = (argmax == before).all(1)
        run = torch.where(same, state.memory.get("run", torch.zeros_like(view.step)) + 1, 0)
        mean = torch.where(known, entropy, 0.0).sum(1) / known.sum(1).clamp(min=1)
        stopped = intent.need & (run >= self.stable) & (mean < self.sure)
        ends = (stopped | (view.step + 1 >= view.steps)) & intent.need
        stopped = stopped | ~self.waiting(state)
        drawn = torch.where(accepted & (scores["token"] >= 0), scores["token"], self._noise(state, view))
        last = torch.where(known, argmax, view.mask_id)  # what cannot be known is left, and told
        goes = intent.need | ((view.step == 0) & ~view.finishing)
        new = torch.where(ends[:, None], last, drawn)
        tokens = torch.where(view.own & goes[:, None], new, state.tokens)
        kept = {"argmax": torch.where(intent.need[:, None], argmax, before), "run": run, "stopped": stopped}
        nothing = torch.zeros_like(known)  # a random token is no commit, and nothing is ever settled
        return Update(tokens, nothing, nothing, memory=kept, corrected=tokens != state.tokens)

    def _noise(self, state: State, view: View) -> Tensor:
        """int64 ``[B, L]``, uniform over the ids that are not the mask."""
        within = view.mask_id < self.vocab
        u = state.uniform(rng.Purpose.ORDER, 1, dtype=torch.float64)
        ids = (u * (self.vocab - within)).long().clamp(max=self.vocab - within - 1)
        return ids + (ids >= view.mask_id) if within else ids


@dataclass(frozen=True, kw_only=True)
class Annealed(Scoring):
    """A scoring whose logits are divided by a temperature that falls from ``high`` to ``low`` over a row's steps.

    At step i, from 1, of S it is ``low + (high - low) (S - i + 1) / S``; confidences and entropies are those of the
    divided logits. Step 0 has the first. Costs a copy of the logits.

    Args:
        high, low: positive.
        over: S.
    """

    reads_logits: ClassVar[bool] = True

    high: float = 0.8
    low: float = 0.4
    over: int = 48

    def __post_init__(self) -> None:
        super().__post_init__()
        _checks.settle(self, high=_checks.number, low=_checks.number, over=_checks.at_least(1))
        if self.high <= 0 or self.low <= 0:
            raise ValueError(f"high, low: expected positive temperatures, got {self.high} and {self.low}")

    def __call__(self, logits: Tensor, *, want: Iterable[str], step: Tensor, **options: Any) -> Scores:
        left = 1 - (step.clamp(1, self.over) - 1).double() / self.over
        temperature = (self.low + (self.high - self.low) * left).to(logits.dtype)
        return super().__call__(logits / temperature[:, None, None], want=want, step=step, **options)
