"""``Diffusion._cbg_denoise`` and ``_nos_denoise`` as ddg and ProSeCo have them: steps guided by a classifier.

What a step cannot change is not looked at: with masked diffusion the classifier is asked about masked positions alone,
and the distance that NOS keeps small is that of their distributions.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .. import ops, rng

_JUMPS = 4096  # canvases a classifier is asked about at once


def cbg_denoise(
    self: Any,
    conditioning_class: int,
    gamma: float,
    classifier_model: Any,
    xt: Tensor,
    time_conditioning: Tensor,
    move_chance_t: Tensor,
    move_chance_s: Tensor,
    use_approx: bool = False,
    cache: dict[str, Tensor] | None = None,
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """For ``Diffusion._cbg_denoise``: a step guided by a classifier (D-CBG, arXiv 2412.10193, section 3.2).

    Draws each position from ``q(token) p(class | canvas with this token)^gamma``, the mask one of the tokens.

    Args:
        classifier_model: ``get_log_probs(x, sigma)`` gives log-probabilities ``[n, classes]``, for tokens or, with
            ``use_approx``, one-hot vectors.
        use_approx: the classifier's change by its gradient, one call in place of one canvas per position and token.
        cache: what an earlier step returned, of the same masked positions.

    Returns:
        int64 ``[B, L]``; probabilities ``[B, L, V]``; a cache.
    """
    cache = cache or {}
    log_x_theta = cache.get("log_x_theta")
    if log_x_theta is None:
        log_x_theta = self.forward(xt, time_conditioning, cond=None)
    open_ = _open(self, xt)
    by_class = cache.get("classifier_log_prob")
    if by_class is None:
        ask = _by_gradient if use_approx else _by_jumps
        by_class = ask(self, classifier_model, conditioning_class, xt, time_conditioning, open_)
    with torch.no_grad():
        guided = gamma * by_class + _posterior(self, log_x_theta, xt, move_chance_t, move_chance_s)
        xs, probs = _drawn(self, guided, xt, open_)
    return xs, probs, {"log_x_theta": log_x_theta, "classifier_log_prob": by_class}


def nos_denoise(
    self: Any,
    classifier_model: Any,
    num_nos_steps: int,
    nos_step_size: float,
    nos_stability_coef: float,
    conditioning_class: int,
    xt: Tensor,
    time_conditioning: Tensor,
    move_chance_t: Tensor,
    move_chance_s: Tensor,
) -> tuple[Tensor, Tensor, None]:
    """For ``Diffusion._nos_denoise``: a step whose hidden states are moved towards a class (NOS, arXiv 2305.20009).

    Args:
        classifier_model: ``get_log_probs(x, sigma, x_emb=hidden)`` gives log-probabilities ``[B, classes]``.
        num_nos_steps, nos_step_size: of Adagrad on what is added to the last hidden states.
        nos_stability_coef: of the divergence from the distribution of the unmoved ones.

    Returns:
        int64 ``[B, L]``; probabilities ``[B, L, V]``; None.
    """
    open_ = _open(self, xt)
    sigma = self._process_sigma(time_conditioning)
    with torch.no_grad():
        logits, hidden = self.backbone(xt, sigma, cond=None, return_hidden_states=True)
        target = _posterior(self, _parameterized(self, logits, xt), xt, move_chance_t, move_chance_s)[open_]
    delta = torch.zeros_like(hidden[-1], requires_grad=True)
    optimizer = torch.optim.Adagrad([delta], lr=nos_step_size)
    with torch.enable_grad():
        for _ in range(num_nos_steps):
            moved = hidden[-1] + delta
            aim = classifier_model.get_log_probs(xt, sigma, x_emb=moved)[..., conditioning_class].sum()
            log_x_theta = self.forward(xt, sigma, cond=None, x_emb=moved)
            guided = _posterior(self, log_x_theta, xt, move_chance_t, move_chance_s)[open_]
            apart = F.kl_div(guided, target, reduction="sum", log_target=True) / len(xt)
            optimizer.zero_grad()
            (nos_stability_coef * apart - aim).backward()
            optimizer.step()
    with torch.no_grad():
        log_x_theta = self.forward(xt, sigma, cond=None, x_emb=hidden[-1] + delta)
        guided = _posterior(self, log_x_theta, xt, move_chance_t, move_chance_s)
        xs, probs = _drawn(self, guided, xt, open_)
    return xs, probs, None


def _open(self: Any, xt: Tensor) -> Tensor:
    """bool ``[B, L]``: positions that a step may write."""
    return xt == self.mask_index if self.diffusion == "absorbing_state" else torch.ones_like(xt, dtype=torch.bool)


def _parameterized(self: Any, logits: Tensor, xt: Tensor) -> Tensor:
    """Log-probabilities ``[B, L, V]`` of the backbone's logits, as ``Diffusion.forward`` makes them."""
    if self.parameterization == "subs":
        return self._subs_parameterization(logits=logits, xt=xt)
    if self.parameterization != "d3pm":
        raise ValueError(f"parameterization: expected 'subs' or 'd3pm', got {self.parameterization!r}")
    if self.subs_masking:
        logits[:, :, self.mask_index] += self.neg_infinity
    return logits.log_softmax(-1)


def _posterior(self: Any, log_x_theta: Tensor, xt: Tensor, chance_t: Tensor, chance_s: Tensor) -> Tensor:
    """Log-probabilities ``[B, L, V]`` of a step; of masked diffusion right at the masks."""
    if self.diffusion == "absorbing_state":
        stays = chance_s / chance_t
        log_q = log_x_theta + torch.log1p(-stays)
        mask = torch.arange(log_q.shape[-1], device=log_q.device) == self.mask_index
        return torch.where(mask, stays.log(), log_q)
    if self.diffusion != "uniform":
        raise ValueError(f"diffusion: expected 'absorbing_state' or 'uniform', got {self.diffusion!r}")
    alphas = {"alpha_s": 1 - chance_s, "alpha_t": 1 - chance_t}
    return self._compute_posterior(x=log_x_theta.exp(), xt=xt, **alphas).log()


def _drawn(self: Any, guided: Tensor, xt: Tensor, open_: Tensor) -> tuple[Tensor, Tensor]:
    """One draw per open position of unnormalised log-probabilities, and all probabilities."""
    token = ops.score_tokens(
        guided.float(),
        rows=open_,
        temperature=1.0,
        want=["token"],
        seed=rng.sequence_seeds(None, len(xt), device=xt.device),
    ).token
    assert token is not None
    stands = F.one_hot(xt, guided.shape[-1]).to(guided.dtype)
    return torch.where(open_ & (token >= 0), token, xt), torch.where(open_[..., None], guided.softmax(-1), stands)


def _by_jumps(self: Any, classifier_model: Any, wanted: int, xt: Tensor, sigma: Tensor, open_: Tensor) -> Tensor:
    """``[B, L, V]``: log-probability of the class with each token at each open position, 0 elsewhere."""
    vocab = self.vocab_size
    row, column = open_.nonzero(as_tuple=True)
    answers = []
    for start in range(0, len(row) * vocab, _JUMPS):
        jump = torch.arange(start, min(start + _JUMPS, len(row) * vocab), device=xt.device)
        which, token = jump // vocab, jump % vocab
        canvas = xt[row[which]]
        canvas[torch.arange(len(jump), device=xt.device), column[which]] = token
        answers.append(classifier_model.get_log_probs(canvas, sigma[row[which]])[..., wanted])
    found = torch.zeros(*xt.shape, vocab, dtype=torch.float32, device=xt.device)
    if answers:
        found[open_] = torch.cat(answers).reshape(-1, vocab).to(found)
    return found.detach()


def _by_gradient(self: Any, classifier_model: Any, wanted: int, xt: Tensor, sigma: Tensor, open_: Tensor) -> Tensor:
    """The same to first order of the tokens' one-hot vectors, of all positions."""
    with torch.enable_grad():
        one_hot = F.one_hot(xt, self.vocab_size).float().requires_grad_()
        here = classifier_model.get_log_probs(one_hot, sigma)[..., wanted]
        (slope,) = torch.autograd.grad(here.sum(), one_hot)
    standing = slope.gather(-1, xt[..., None])
    return (slope - standing + here[:, None, None]).detach()
