"""PRISM: the static top-k sampler and its variant for LLaDA."""

from __future__ import annotations

from dataclasses import dataclass

from ..counts import CeilTarget, EvenSplit
from ..loop import Looped
from ..plan import UnmaskThenRemask
from ..remask import Binomial, Centred, Constant, Remask, RemaskCount
from ..sampler import Sampler
from ..unmask import Unmask
from ..window import Blocks
from .llada import LLADA
from .preset import Preset


@dataclass(frozen=True, kw_only=True)
class PRISM(Preset):
    """PRISM's static top-k sampler (arXiv 2510.01384, algorithm 3), and the baselines it is measured against.

    Step i brings the row to ``ceil(N (i + 1) / steps)`` committed of N positions. In steps that remask, R more are
    committed and R committed ones masked again, on the same forward. One forward per step that commits something,
    whatever the arm, so arms of equal ``steps`` cost the same.

    Args:
        unmask: order in which masked positions are committed: "random" as published, "confidence" (probability of the
            drawn token), "max_probability", "margin", "entropy".
        remask: whom to mask again: "quality", the model's estimate (PRISM); "confidence", its probability when
            committed (ReMDM-conf's score); "random"; None for no remasking.
        remask_count: R, every row in every step where ``0 < R < n < N - R`` for its n committed positions.
        eta: instead, ``R ~ Binomial(n, min(eta, (1 - alpha_s) / alpha_t))``.
        step_on, step_off: steps ``step_on <= i < step_off`` remask.
        loop_start, loop_steps, loop_count: after ``loop_start`` steps, ``loop_steps`` further ones make no progress and
            exchange ``loop_count`` random committed tokens each: a step masks them, the next fills as many. Other
            settings count steps without these; what they remask in the step before goes on in between.
        top_p_rule: the authors drop the token that crosses top_p.
    """

    unmask: str = "random"
    remask: str | None = "quality"
    remask_count: int | None = None
    eta: float | None = None
    step_on: int = 0
    step_off: int | None = None
    loop_start: int = 1
    loop_steps: int = 0
    loop_count: int = 0
    temperature: float = 1.0
    top_p_rule: str = "exclusive"

    def parts(self) -> Sampler:
        unmask, remask = Unmask(self.unmask, CeilTarget()), self._remask()
        plan = UnmaskThenRemask(unmask, remask)
        if self.loop_steps:
            plan = Looped(unmask, remask, loop_start=self.loop_start, loops=self.loop_steps, loop_count=self.loop_count)
        return Sampler(
            name="PRISM",
            steps=self.steps + self.loop_steps,
            plan=plan,
            scoring=self._scoring(),
        )

    def _remask(self) -> Remask | None:
        if self.remask is None:
            return None
        if (self.remask_count is None) == (self.eta is None):
            raise ValueError(
                f"remask_count, eta: expected exactly one of them, got {self.remask_count} and {self.eta}; "
                f"remask=None turns remasking off"
            )
        count: RemaskCount
        if self.eta is not None:
            count = Binomial(self.eta)
        else:
            assert self.remask_count is not None
            count = Constant(self.remask_count)
        return Remask(self.remask, count, self.step_on, self.step_off)


@dataclass(frozen=True, kw_only=True)
class BlockPRISM(Preset):
    """PRISM on LLaDA: blocks, an even split of the commits, remasking about the middle of each block (2510.01384).

    Step i commits ``U_i + R_i`` of the positions masked before it and masks ``R_i`` of those committed before it: what
    was just masked waits a step. A block ends early when no mask is left. At most one forward per step.

    Args:
        block_length: generated positions per block, None for one block.
        remask_count: positions masked again per block, the sum of its ``R_i``; None for none.
        unmask, remask: as for :class:`PRISM`.
        temperature: as for :class:`LLaDA`.
        finish: fill what was masked in a block's last steps by one more forward; False leaves it, as the released code.
        ties: "lowest" or "torch"; see :class:`Unmask`.
    """

    block_length: int | None = None
    remask_count: int | None = None
    unmask: str = "confidence"
    remask: str | None = "quality"
    finish: bool = True
    ties: str = "lowest"

    def parts(self) -> Sampler:
        return Sampler(
            name="BlockPRISM",
            steps=self.steps,
            finish=self.finish,
            plan=UnmaskThenRemask(
                Unmask(self.unmask, EvenSplit(), ties=self.ties),
                None if self.remask is None else Remask(self.remask, Centred(self.remask_count or 0)),
                refill="never",
            ),
            window=Blocks(self.block_length),
            scoring=self._scoring(**LLADA),
        )
