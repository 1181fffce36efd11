"""What a term asks of the model's answer: the clean token at masks or anywhere, or whether a token is right."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from .. import _checks
from .arguments import IGNORED, tensor
from .corruption import State
from .masking import bool_like
from .outputs import LossOutput
from .reader import Said
from .reading import Reading
from .sources import Inputs
from .terms import Count, Normalizer, Weight, normalize, share, upcast


class Target:
    """A sum over positions, of what a model said of a source's inputs.

    Attributes:
        name: of the part that is the loss itself.
        reads: "tokens", "quality" or both: what of the model's answer.
        learns: what of that it sends a gradient to; all, by default.
        count: the argument that errors about a given divisor name.
        modules: parts of its own that learn, by argument.
    """

    name: ClassVar[str]
    reads: ClassVar[frozenset[str]] = frozenset({"tokens"})
    count: ClassVar[str] = "num_items_in_batch"

    @property
    def learns(self) -> frozenset[str]:
        return self.reads

    @property
    def modules(self) -> dict[str, Any]:
        return {}

    def loss(self, said: Said, inputs: Inputs, state: State, count: Count = None) -> LossOutput:
        """The term before its factor, and parts to log.

        Args:
            said: of ``inputs.tokens``.
            inputs: of the source.
            state: the batch.
            count: a divisor that stands for the batch's own.
        """
        raise NotImplementedError


def check_target(target: Target) -> None:
    """
    Raises:
        TypeError: a class of one's own without a name, or with another ``reads``.
    """
    kind, reads = type(target).__name__, target.reads
    if not isinstance(getattr(target, "name", None), str):
        raise TypeError(f"target: expected a name in the class {kind}, as name = {kind.lower()!r}")
    if isinstance(reads, str) or not set(reads) <= {"tokens", "quality"}:
        raise TypeError(f"target: expected reads of {kind} as frozenset({{'tokens', 'quality'}}), got {reads!r}")


def one_each(inputs: Inputs, state: State) -> None:
    """
    Raises:
        ValueError: there are several inputs for a row of the batch, beside a target that asks each for x0.
    """
    if inputs.tokens.shape != state.x0.shape:
        got = f"{tuple(inputs.tokens.shape)} for {tuple(state.x0.shape)}"
        raise ValueError(f"source: expected one input for each row beside this target (n_y=1), got {got}")


def read(said: Said) -> Reading:
    if said.reading is None:
        raise ValueError("terms: a target that reads tokens got none; its ``reads`` leaves them out")
    return said.reading


@dataclass(frozen=True)
class Denoise(Target):
    """The masked diffusion loss: weighted cross-entropy at the masks (MDLM, arXiv 2406.07524).

    L = E_{t, z_t} [ w(t) sum_{l: z_t^l = m} -log x_theta^l(x_0^l | z_t) ],    w(t) = -alpha'(t) / (1 - alpha(t)).

    Args:
        weight: "elbo" (w(t), 1/t for the linear schedules), "uniform", or a function of t.
        normalizer: "token" (all scored tokens of the batch, masked or not: MDLM), "BL" (B * L), "answer" (each row by
            its number of scored tokens, then by the number of rows that have any), or a number n for B * n.
    """

    weight: Weight = "elbo"
    normalizer: Normalizer = "token"

    name: ClassVar[str] = "mdlm"

    def loss(self, said: Said, inputs: Inputs, state: State, count: Count = None) -> LossOutput:
        one_each(inputs, state)
        positions = state.positions
        masked = state.masked & positions.scored
        w = state.weight(self.weight)
        log_prob, right = read(said).score(state.x0, masked)
        # The weight is masked too: at t = 0 it is infinite, and 0 * inf would reach the gradient as NaN.
        per_token = -w.where(masked, 0) * log_prob
        loss = normalize(per_token, positions.scored, self.normalizer, count, self.count)
        with torch.no_grad():
            parts = {
                "mdlm": loss.detach(),
                "masked": share(state.masked & positions.free, positions.free),
                "accuracy": share(right & masked, masked),
            }
        return LossOutput(loss, parts)


@dataclass(frozen=True)
class Right(Target):
    """Cross-entropy of the quality with ``1[x0 = y]`` at the positions the source wrote (PRISM, arXiv 2510.01384).

    Args:
        weight: "uniform", "elbo" (the schedule's w(t): Token-Critic in PRISM's code) or a function of t (PRISM's
            ``reweight_loss``: ``lambda t: 1 / (1 - t)``).
        normalizer: "token" (the mean over the positions judged), "selected" (over those the source wrote, padding and
            ignored ones too: PRISM's code), or as in :class:`Denoise`, over the rows of y.
    """

    weight: Weight = "uniform"
    normalizer: Normalizer = "token"

    name: ClassVar[str] = "quality"
    reads: ClassVar[frozenset[str]] = frozenset({"quality"})
    count: ClassVar[str] = "num_chosen_in_batch"

    def loss(self, said: Said, inputs: Inputs, state: State, count: Count = None) -> LossOutput:
        x0, y, logit = state.x0, inputs.tokens, said.quality
        logit = check_judged(x0, y, logit)
        times = len(y) // max(len(x0), 1)
        clean = torch.repeat_interleave(x0, times, dim=0)
        right = clean == y
        wrote = bool_like("selected", inputs.selected, y, "y")
        chosen = wrote & (clean != IGNORED)
        if state.roles.attention_mask is not None:
            chosen = chosen & torch.repeat_interleave(state.positions.present, times, dim=0)
        with torch.autocast(logit.device.type, enabled=False):
            logit = upcast(logit)
            bce = F.binary_cross_entropy_with_logits(logit, right.to(logit.dtype), reduction="none")
            if self.weight != "uniform":
                w = torch.repeat_interleave(state.weight(self.weight), times, dim=0)
                bce = w.where(chosen, 0) * bce
            rule: Normalizer = "token" if self.normalizer == "selected" else self.normalizer
            divisor = wrote.sum() if count is None and self.normalizer == "selected" else count
            loss = normalize(bce, chosen, rule, divisor, self.count)
        parts = {"quality": loss.detach(), "right": share(right & chosen, chosen), "chosen": chosen.sum()}
        return LossOutput(loss, parts)


def check_judged(x0: Tensor, y: Tensor, logit: Any) -> Tensor:
    """The quality logits, if they fit y, and y fits x0."""
    if (
        tensor("y", y).ndim != 2
        or y.shape[1] != x0.shape[1]
        or (y.shape[0] % x0.shape[0] if x0.shape[0] else y.shape[0])
    ):
        raise ValueError(f"y: expected [B * n_y, L] for x0 {tuple(x0.shape)}, got {tuple(y.shape)}")
    if tensor("quality_logit", logit).shape != y.shape:
        raise ValueError(f"head: expected logits {tuple(y.shape)}, got {tuple(logit.shape)}")
    if not logit.is_floating_point():
        raise TypeError(f"head: expected floating logits, got {logit.dtype}")
    return logit


@dataclass(frozen=True)
class Correct(Target):
    """ProSeCo's second sum (arXiv 2602.11590): the clean token at every scored position, whatever the input there.

    Args:
        weight, normalizer: as in :class:`Denoise`.
        weighted: multiply by that weight; False weighs 1.
        upweight_errors: where the input is already right, the loss is ``-p(x0)`` instead of ``-log p(x0)``, so wrong
            inputs have the larger gradients.
        score_fixed: also score fixed positions (their input is right); never padding.
        selected_only: score only what the source wrote.
    """

    weight: Weight = "elbo"
    normalizer: Normalizer = "token"
    weighted: bool = True
    upweight_errors: bool = False
    score_fixed: bool = False
    selected_only: bool = False

    name: ClassVar[str] = "corrector"
    count: ClassVar[str] = "num_corrector_items_in_batch"

    def __post_init__(self) -> None:
        flags = ("weighted", "upweight_errors", "score_fixed", "selected_only")
        _checks.settle(self, **dict.fromkeys(flags, _checks.flag))

    def loss(self, said: Said, inputs: Inputs, state: State, count: Count = None) -> LossOutput:
        one_each(inputs, state)
        x0 = state.x0
        scored = self.scored(state)
        if self.selected_only:
            scored = scored & inputs.selected
        log_prob, mended = read(said).score(x0, scored)
        wrong = inputs.tokens != x0
        gain = torch.where(wrong, log_prob, log_prob.exp()) if self.upweight_errors else log_prob
        w = state.weight(self.weight if self.weighted else "uniform")
        loss = normalize(-w * gain, scored, self.normalizer, count, self.count)
        with torch.no_grad():
            errors, rights = wrong & scored, ~wrong & scored
            parts = {
                "corrector": loss.detach(),
                "input_errors": share(errors, scored),
                "corrected": share(errors & mended, errors),
                "broken": share(rights & ~mended, rights),
            }
        return LossOutput(loss, parts)

    def scored(self, state: State) -> Tensor:
        roles = state.roles
        if not self.score_fixed:
            return state.positions.scored
        return type(roles)(None, roles.loss_mask, roles.attention_mask).positions(state.x0).scored
