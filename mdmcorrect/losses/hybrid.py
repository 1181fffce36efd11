"""Noise of masks and random tokens together: GIDD (arXiv 2503.04482), SCDD (arXiv 2603.02230), RemeDi's wrong tokens.

With c_t = B t^a (1 - t)^b and K tokens besides the mask, a token of the hybrid noise is at time t

    clean with alpha_t = (1 - t) / (1 + c_t),   any of the K with beta_t = c_t / (1 + c_t),   masked with t / (1 + c_t).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from .. import _checks
from .arguments import uniforms
from .corruption import Corruption, State
from .masking import mask_tokens
from .outputs import LossOutput
from .reader import Said
from .sources import Inputs
from .targets import Target, one_each, read
from .terms import Count, Normalizer, normalize, share, upcast


def other_tokens(
    x0: Tensor, mask_id: int, vocab_size: int, generator: torch.Generator | None, *, but: Tensor
) -> Tensor:
    """A uniform token besides the mask for each position, and besides x0's where ``but``."""
    count = vocab_size - 1 - but.long()
    drawn = torch.minimum((uniforms(x0, generator) * count).long(), count - 1)
    # Counted on over the ids left out, the lower first.
    for left in torch.stack([torch.where(but, x0, vocab_size), torch.full_like(x0, mask_id)]).sort(0).values:
        drawn = drawn + (drawn >= left).long()
    return drawn


@dataclass(frozen=True)
class Hybrid(Corruption):
    """Masks and uniform tokens, as above.

    Args:
        vocab_size: V, mask included; K = V - 1.
        p_uniform: the share of uniform noise at its peak, below 1 (GIDD 0 to 0.2).
        gamma: how fast it comes and goes: a = gamma t_peak, b = gamma (1 - t_peak).
        t_peak: when it is largest (GIDD 1/2).
        steps: put drawn times on the grid 1/T, 2/T, ..., 1 (at most 0.9999), as SCDD does; None leaves them.
    """

    vocab_size: int = 0
    p_uniform: float = 0.1
    gamma: float = 1.0
    t_peak: float = 0.5
    steps: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        size = partial(_checks.integer, minimum=3, what="a vocabulary of at least two tokens and the mask")
        between = partial(_checks.number, low=0, high=1, expected="a share between 0 and 1")
        _checks.settle(self, vocab_size=size, p_uniform=_checks.below_one, gamma=_checks.positive, t_peak=between)
        steps = _checks.optional(partial(_checks.integer, minimum=1, what="at least one step or None"))
        _checks.settle(self, steps=steps)

    def grid(self, t: Tensor) -> Tensor:
        if self.steps is None:
            return t
        return (((t * self.steps).floor() + 1) / self.steps).clamp(max=1 - 1e-4)

    def ratio(self, t: Tensor) -> Tensor:
        """c_t, in t's dtype."""
        a, b = self.gamma * self.t_peak, self.gamma * (1 - self.t_peak)
        top = self.t_peak**a * (1 - self.t_peak) ** b
        share = max(self.p_uniform, math.exp(-20))  # as in GIDD's code: logarithms stay finite
        return share / (1 - share) / top * t.pow(a) * (1 - t).pow(b)

    def slope(self, t: Tensor) -> Tensor:
        """c'_t."""
        a, b = self.gamma * self.t_peak, self.gamma * (1 - self.t_peak)
        return (a / t - b / (1 - t)) * self.ratio(t)

    def marginal(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """alpha_t and beta_t."""
        c = self.ratio(t)
        return (1 - t) / (1 + c), c / (1 + c)

    def noise(self, x0: Tensor, t: Tensor, *, mask_id: int, free: Tensor, generator: torch.Generator | None) -> Tensor:
        alpha, beta = (each.unsqueeze(-1) for each in self.marginal(t.to(x0.device)))
        u = uniforms(x0, generator)
        drawn = other_tokens(x0, mask_id, self.vocab_size, generator, but=torch.zeros_like(free))
        z = torch.where(u < alpha, x0, torch.where(u < alpha + beta, drawn, mask_id))
        return torch.where(free, z, x0)


def tokens_besides(log_probs: Tensor, mask_id: int) -> Tensor:
    """True for every id but the mask, ``[V]``."""
    ids = torch.arange(log_probs.shape[-1], device=log_probs.device)
    return ids != mask_id


def mixed(log_probs: Tensor, alpha: Tensor, floor: Tensor) -> Tensor:
    """``log(alpha p + floor)`` for ``alpha, floor [B]``, without losing small p; p is of ids besides the mask, whose
    logarithm of 0 would send NaN backwards."""
    scaled = log_probs + alpha.log()[:, None, None]
    return torch.logaddexp(scaled, floor.log()[:, None, None].expand_as(scaled))


@dataclass(frozen=True)
class Gidd(Target):
    """GIDD's bound on the likelihood, at every position of z from :class:`Hybrid`.

        sum_l w_t(z_l, x_l) ( KL(q_t(. | x_l) || q_t(. | x_theta)) + r_l - log r_l - 1 )
        r_l = q_t(z_l | x_l) / q_t(z_l | x_theta)

        w at masks        1 / (t (1 - t))
        w at x itself     (c + (1 - t) c') / K / ((1 - t) (1 - t + c / K))
        w at other tokens (c + (1 - t) c') / ((1 - t) c)

    Args:
        weighting: "elbo", those weights; "clip", at most ``most``; "dynamic", 2 at masks, 1 at other tokens, and at x
            itself ``B / V exp(gamma / 2 sigmoid(-t))``, at most ``most`` (the code's; its gamma is 1, t_peak 1/2).
        most: bound of the weight.
        normalizer: as in :class:`Denoise`; the code's is "BL", padding included.
    """

    weighting: str = "dynamic"
    most: float = 2.0
    normalizer: Normalizer = "token"

    name: ClassVar[str] = "gidd"

    def __post_init__(self) -> None:
        _checks.choice("weighting", self.weighting, "elbo", "clip", "dynamic")
        _checks.settle(self, most=_checks.positive)

    def loss(self, said: Said, inputs: Inputs, state: State, count: Count = None) -> LossOutput:
        noise = hybrid(state)
        one_each(inputs, state)
        log_probs, scored = read(said).log_probs(), state.positions.scored
        t, x0, z = state.t.double(), state.x0.clamp(min=0), inputs.tokens
        alpha, beta = (each.to(log_probs) for each in noise.marginal(t))
        besides = tokens_besides(log_probs, state.mask_id)
        floor = beta / (noise.vocab_size - 1)
        log_p = mixed(log_probs[..., besides], alpha, floor)
        log_q = clean_marginal(x0, besides, alpha, floor)
        # What is masked has the same chance under both, so only the tokens are summed.
        kl = (log_q.exp() * (log_q - log_p)).sum(-1)
        is_mask, is_x = z == state.mask_id, z == state.x0
        index = place_of(z, state.mask_id).unsqueeze(-1)
        log_ratio = torch.where(is_mask, 0, (log_q - log_p).gather(-1, index)[..., 0])
        per_token = self.weights(noise, t, is_mask, is_x).to(kl) * (kl + log_ratio.exp() - log_ratio - 1)
        loss = normalize(per_token, scored, self.normalizer, count, self.count)
        masked, wrong = is_mask & scored, ~is_mask & ~is_x & scored
        parts = {"gidd": loss.detach(), "masked": share(masked, scored), "wrong": share(wrong, scored)}
        return LossOutput(loss, parts)

    def weights(self, noise: Hybrid, t: Tensor, is_mask: Tensor, is_x: Tensor) -> Tensor:
        """``[B, L]``."""
        t = t.double()[:, None]
        c, slope, k = noise.ratio(t), noise.slope(t), noise.vocab_size - 1
        rate = c + (1 - t) * slope
        if self.weighting == "dynamic":
            peak = noise.p_uniform / (1 - noise.p_uniform) * 2**noise.gamma
            x = peak / noise.vocab_size * torch.exp(noise.gamma / 2 * torch.sigmoid(-t))
            masks, others = torch.full_like(t, 2.0), torch.ones_like(t)
        else:
            x = rate / k / ((1 - t) * (1 - t + c / k))
            masks, others = 1 / (t * (1 - t)), rate / ((1 - t) * c)
        w = torch.where(is_mask, masks, torch.where(is_x, x, others))
        return w if self.weighting == "elbo" else w.clamp(max=self.most)


@dataclass(frozen=True)
class Scdd(Target):
    """SCDD's bound in T steps, at every position of z from :class:`Hybrid` at times that are multiples of 1 / T.

        -T sum_{v not m} q(z_s = v | z_t, x) log p(z_s = v | z_t),    s = t - 1 / T,
        p(z_s = v | z_t) ~ q(z_t | z_s = v) (beta_s / K + alpha_s x_theta(v))

    Masks stay masks in this forward process, so its self-correction comes from the uniform part alone. What does not
    depend on the model is left out, as in the authors' code: the loss of a true model is not 0.

    Args:
        steps: T.
        normalizer: as in :class:`Denoise`.
    """

    steps: int = 1000
    normalizer: Normalizer = "token"

    name: ClassVar[str] = "scdd"

    def __post_init__(self) -> None:
        _checks.settle(self, steps=partial(_checks.integer, minimum=1, what="at least one step"))

    def times(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """t and s, float64; a time that is a step's, but for its rounding, is that step's."""
        steps = t.double() * self.steps
        steps = torch.where((steps - steps.round()).abs() < 1e-3, steps.round(), steps)
        return steps / self.steps, (steps - 1).clamp(min=0) / self.steps

    def loss(self, said: Said, inputs: Inputs, state: State, count: Count = None) -> LossOutput:
        noise = hybrid(state)
        one_each(inputs, state)
        log_probs, scored = read(said).log_probs(), state.positions.scored
        x0, z = state.x0.clamp(min=0), inputs.tokens
        t, s = self.times(state.t)
        (alpha_t, beta_t), (alpha_s, beta_s) = noise.marginal(t), noise.marginal(s)
        alpha = alpha_t / alpha_s  # of the step from s to t
        beta = (alpha_t + beta_t) / (alpha_s + beta_s) - alpha
        mask_t, mask = 1 - alpha_t - beta_t, 1 - alpha - beta  # differences, made in float64
        numbers = (alpha_t, beta_t, alpha_s, beta_s, alpha, beta, mask_t, mask)
        alpha_t, beta_t, alpha_s, beta_s, alpha, beta, mask_t, mask = (each.to(log_probs) for each in numbers)
        besides, k = tokens_besides(log_probs, state.mask_id), noise.vocab_size - 1
        log_p = mixed(log_probs[..., besides], alpha_s, beta_s / k)
        index, is_mask = place_of(z, state.mask_id).unsqueeze(-1), z == state.mask_id
        # q(z_t | z_s = v) for every v besides the mask, then the posterior of v by what a clean x0 makes likely.
        same = torch.zeros_like(log_p).scatter(-1, index, 1)
        step = alpha[:, None, None] * same + (beta / k)[:, None, None]
        step = torch.where(is_mask.unsqueeze(-1), mask[:, None, None], step)
        prior = clean_marginal(x0, besides, alpha_s, beta_s / k).exp()
        token = at(clean_marginal(x0, besides, alpha_t, beta_t / k), index).exp()
        likely = torch.where(is_mask, mask_t[:, None], token)
        q = step * prior / likely.unsqueeze(-1)
        log_likely = at(mixed(log_probs[..., besides], alpha_t, beta_t / k), index)
        given = log_p - torch.where(is_mask, 0, log_likely).unsqueeze(-1)
        loss = normalize(-self.steps * (q * given).sum(-1), scored, self.normalizer, count, self.count)
        parts = {"scdd": loss.detach(), "masked": share(is_mask & scored, scored)}
        return LossOutput(loss, parts)


def hybrid(state: State) -> Hybrid:
    noise = state.corruption
    if not isinstance(noise, Hybrid):
        raise TypeError(f"corruption: expected Hybrid(...) for this target, got {type(noise).__name__}")
    return noise


def place_of(tokens: Tensor, mask_id: int) -> Tensor:
    """Where a token stands among the ids without the mask; 0 for the mask itself."""
    return torch.where(tokens == mask_id, 0, tokens - (tokens > mask_id).long())


def at(values: Tensor, index: Tensor) -> Tensor:
    return values.gather(-1, index)[..., 0]


def clean_marginal(x0: Tensor, besides: Tensor, alpha: Tensor, floor: Tensor) -> Tensor:
    """``log(alpha 1[v = x0] + floor)``, ``[B, L, K]``, over the ids besides the mask."""
    ids = torch.arange(len(besides), device=x0.device)[besides]
    is_x = x0.unsqueeze(-1) == ids
    return (alpha[:, None, None] * is_x + floor[:, None, None]).log()


@dataclass(frozen=True)
class WrongTokens(Corruption):
    """Masks, and among the tokens that are left random wrong ones, with probability ``4 r t (1 - t)`` (RemeDi).

    Args:
        vocab_size: V, mask included.
        r: the largest share, at t = 1/2.
    """

    vocab_size: int = 0
    r: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        size = partial(_checks.integer, minimum=3, what="a vocabulary of at least two tokens and the mask")
        _checks.settle(self, vocab_size=size, r=_checks.share)

    def noise(self, x0: Tensor, t: Tensor, *, mask_id: int, free: Tensor, generator: torch.Generator | None) -> Tensor:
        z = mask_tokens(x0, t, mask_id=mask_id, schedule=self.law, free=free, generator=generator)
        t = t.to(x0.device)
        wrong = uniforms(x0, generator) < (4 * self.r * t * (1 - t)).unsqueeze(-1)
        drawn = other_tokens(x0, mask_id, self.vocab_size, generator, but=torch.ones_like(free))
        return torch.where(wrong & free & (z != mask_id), drawn, z)


@dataclass(frozen=True)
class Confidence(Target):
    """RemeDi's unmasking policy (arXiv 2509.23653): a quality at every position, with labels

        1 where the clean token stands, 0 where a wrong one does, x_theta(x_0 | z) without gradient at masks.

    Args:
        normalizer: as in :class:`Denoise`.
    """

    normalizer: Normalizer = "token"

    name: ClassVar[str] = "confidence"
    reads: ClassVar[frozenset[str]] = frozenset({"tokens", "quality"})

    @property
    def learns(self) -> frozenset[str]:
        return frozenset({"quality"})

    def loss(self, said: Said, inputs: Inputs, state: State, count: Count = None) -> LossOutput:
        quality, scored, z = said.quality, state.positions.scored, inputs.tokens
        assert quality is not None
        one_each(inputs, state)
        masks = (z == state.mask_id) & scored
        with torch.no_grad():
            sure = read(said).score(state.x0, masks)[0].exp()
            label = torch.where(masks, sure, (z == state.x0).to(sure))
        with torch.autocast(quality.device.type, enabled=False):
            logit = upcast(quality)
            bce = torch.nn.functional.binary_cross_entropy_with_logits(logit, label.to(logit), reduction="none")
            loss = normalize(bce, scored, self.normalizer, count, self.count)
        wrong = scored & ~masks & (z != state.x0)
        return LossOutput(loss, {"confidence": loss.detach(), "wrong": share(wrong, scored)})
