"""Published samplers as combinations of parts: each names its paper, its settings, and nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from .ancestral import Ancestral, Cap, Confidence, Rescale, Sigma
from .correct import FixedPoint
from .plan import UnmaskThenRemask
from .remask import Binomial, Centred, Constant, Remask, RemaskCount
from .result import SampleResult
from .sampler import Sampler
from .scoring import Scoring
from .unmask import CeilTarget, CountRule, EvenSplit, Threshold, Unmask
from .window import Blocks


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A published sampler. Called, it is the :class:`Sampler` that :meth:`parts` returns.

    ``steps`` is S (T, N in some papers), the steps of a row; what one costs in forwards is said at each preset.
    """

    steps: int

    def parts(self) -> Sampler:
        """The parts it is made of."""
        raise NotImplementedError

    def __post_init__(self) -> None:
        self.parts()  # so that a wrong setting is refused where it is written

    def __call__(self, model: Any, tokens: Tensor | None = None, *, mask_id: int, **options: Any) -> SampleResult:
        """Fill the masks of ``tokens``; every argument of :meth:`Sampler.__call__`."""
        return self.parts()(model, tokens, mask_id=mask_id, **options)


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


@dataclass(frozen=True, kw_only=True)
class LLaDA(Preset):
    """LLaDA's decoding in blocks (arXiv 2502.09992, section 2.4).

    One forward per step. A mask the model predicts is overruled, so that no mask is left.

    Args:
        block_length: generated positions per block, None for one block.
        remasking: "low_confidence" commits the proposals of highest probability, "random" any.
        temperature: 0 proposes the argmax; else a draw of ``softmax(logits / temperature)``, ranked by its probability
            at temperature 1, rounded to the logits' dtype.
    """

    block_length: int | None = None
    remasking: str = "low_confidence"
    temperature: float = 0.0

    def parts(self) -> Sampler:
        if self.remasking not in ("low_confidence", "random"):
            raise ValueError(f"remasking: expected 'low_confidence' or 'random', got {self.remasking!r}")
        return Sampler(
            name="LLaDA",
            steps=self.steps,
            unmask=Unmask("confidence" if self.remasking == "low_confidence" else "random", EvenSplit()),
            window=Blocks(self.block_length),
            scoring=_llada_scoring(self.temperature),
        )


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
        temperature, top_p: of the draw; top_p drops the token that crosses it.
    """

    unmask: str = "random"
    remask: str | None = "quality"
    remask_count: int | None = None
    eta: float | None = None
    step_on: int = 0
    step_off: int | None = None
    temperature: float = 1.0
    top_p: float | None = None

    def parts(self) -> Sampler:
        return Sampler(
            name="PRISM",
            steps=self.steps,
            unmask=Unmask(self.unmask, CeilTarget()),
            remask=self._remask(),
            scoring=Scoring(temperature=self.temperature, top_p=self.top_p),
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
        remask_count: positions masked again per block, the sum of its ``R_i``.
        unmask, remask: as for :class:`PRISM`.
        temperature: as for :class:`LLaDA`.
        finish: fill what was masked in a block's last steps by one more forward; False leaves it, as the released code.
    """

    block_length: int | None = None
    remask_count: int = 0
    unmask: str = "confidence"
    remask: str | None = "quality"
    temperature: float = 0.0
    finish: bool = True

    def parts(self) -> Sampler:
        return Sampler(
            name="BlockPRISM",
            steps=self.steps,
            finish=self.finish,
            plan=UnmaskThenRemask(
                Unmask(self.unmask, EvenSplit()),
                Remask(self.remask, Centred(self.remask_count)) if self.remask else None,
                refill="never",
            ),
            window=Blocks(self.block_length),
            scoring=_llada_scoring(self.temperature),
        )


@dataclass(frozen=True, kw_only=True)
class ProSeCo(Preset):
    """MDLM with a corrector that rewrites its own tokens (arXiv 2602.11590, algorithms 2 and 3).

    Every omega-th step, up to S forwards of a canvas filled by argmax rewrite it until nothing changes; committed
    tokens take the outcome, and the step's commits are drawn from the last of these forwards, not from the predictor's.
    At most ``steps (1 + S / omega)`` forwards and one to remove noise; a row leaves at its fixed point, and a step
    that commits nothing and has nothing new to correct makes none.

    Args:
        corrector_steps: S, forwards per correction at most; 0 is MDLM.
        correct_every: omega.
        correct_start: no correction in steps ``i + 1 < correct_start``.
        carry_over: committed tokens enter the first guess as they are; False takes the argmax there as well.
        temperature, top_p, eps: as for :class:`MDLM`.
    """

    corrector_steps: int = 1
    correct_every: int = 1
    correct_start: int = 0
    carry_over: bool = True
    temperature: float = 1.0
    top_p: float | None = None
    eps: float = 1e-5

    def parts(self) -> Sampler:
        corrector = FixedPoint(self.corrector_steps, self.correct_every, self.correct_start, self.carry_over)
        return Sampler(
            name="ProSeCo",
            steps=self.steps,
            plan=Ancestral(eps=self.eps),
            correct=corrector if self.corrector_steps else None,
            scoring=Scoring(temperature=self.temperature, top_p=self.top_p),
        )


@dataclass(frozen=True, kw_only=True)
class BlockProSeCo(Preset):
    """ProSeCo on LLaDA: blocks, commits by confidence, corrections from the prompt to the block's end (2602.11590).

    At most ``steps (1 + S / omega)`` forwards. With a threshold a block lasts until it is filled, whatever ``steps``.

    Args:
        block_length: generated positions per block, None for one block.
        corrector_steps, correct_every: S and omega, of the steps of a block.
        threshold: commit all proposals this probable, at least one; None splits evenly.
        temperature: as for :class:`LLaDA`.
    """

    block_length: int | None = None
    corrector_steps: int = 4
    correct_every: int = 2
    threshold: float | None = None
    temperature: float = 0.0

    def parts(self) -> Sampler:
        count: CountRule = EvenSplit() if self.threshold is None else Threshold(self.threshold)
        corrector = FixedPoint(self.corrector_steps, self.correct_every, revisits=False)
        return Sampler(
            name="BlockProSeCo",
            steps=self.steps,
            unmask=Unmask("confidence", count),
            window=Blocks(self.block_length, until_filled=self.threshold is not None),
            correct=corrector if self.corrector_steps else None,
            scoring=Scoring(temperature=self.temperature, mask_token="forbid"),
        )


def _llada_scoring(temperature: float) -> Scoring:
    """LLaDA's softmax counts the mask token and is rounded to the logits' dtype before positions are compared."""
    return Scoring(temperature=temperature, mask_token="forbid", confidence_dtype="logits")
