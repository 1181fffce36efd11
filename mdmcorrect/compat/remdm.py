"""Drop-ins for kuleshov-group/remdm, ``diffusion.py`` (arXiv 2503.00307).

    import diffusion
    diffusion.Diffusion._ddpm_caching_update = mdmcorrect.compat.remdm._ddpm_caching_update
    diffusion.Diffusion._dfm_caching_update = mdmcorrect.compat.remdm._dfm_caching_update

One step reads the vocabulary only where a mask is filled: a committed position needs a Bernoulli number and no more.
Of the original, three things differ: "conf" of a row without committed tokens is 0 instead of a hidden NaN, ``conf``
takes any dtype (there float32 probabilities do not fit its bfloat16 buffer), and sigma is held at its limit, which
"forward-backward" passes in its last steps and "loop" where a step crosses ``t_on``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import ops, rng
from ..samplers.sigma import Moment, Plateau
from .mdlm import _sample_categorical, uniforms

__all__ = ["_ddpm_caching_update", "_dfm_caching_update", "_sample_categorical"]

_SAMPLERS = ("mdlm", "forward-backward", "remdm-cap", "remdm-rescale", "remdm-conf", "remdm-loop")


def _ddpm_caching_update(
    self: Any, x: Tensor, t: Tensor, dt: float, p_x0: Tensor | None = None, conf: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """For ``Diffusion._ddpm_caching_update``: ``(p_x0, canvas, conf)`` after a step from ``t`` to ``t - dt``.

    Reads ``self.config.sampling``: ``sampler``, ``eta``, ``t_on``, ``t_off``, ``alpha_on``, ``nucleus_p``; and
    ``self.noise``, ``self.forward``, ``self.mask_index``. ``p_x0`` is returned unfiltered: the nucleus is taken where a
    token is drawn.

    Raises:
        ValueError: an unknown ``sampling.sampler``, or noise that is not log-linear.
    """
    settings = self.config.sampling
    if self.config.noise.type != "loglinear":
        raise ValueError(f"noise.type: expected 'loglinear', got {self.config.noise.type!r}")
    if settings.sampler not in _SAMPLERS:
        raise ValueError(f"sampling.sampler: expected one of {list(_SAMPLERS)}, got {settings.sampler!r}")
    t = t.reshape(-1)
    if p_x0 is None:
        p_x0 = self.forward(x, self.noise(t)[0].reshape(-1)).exp()
    masked = x == self.mask_index
    sigma, moment = _sigma(settings, t.double()[:, None], dt, conf, masked)
    shared = 0.0 if settings.sampler == "remdm-conf" else sigma  # conf is 0 on masks
    gain = (moment.alpha_s - (1 - shared) * moment.alpha_t) / (1 - moment.alpha_t)
    xs, commit, remask, logprob = _write(self, x, p_x0, gain, sigma)
    if conf is not None:
        conf = torch.where(commit, -logprob.exp().to(conf.dtype), conf.masked_fill(remask, -torch.inf))
    return p_x0, xs, conf


def _dfm_caching_update(
    self: Any, x: Tensor, t: Tensor, p_x0: Tensor | None = None
) -> tuple[Tensor | None, Tensor, float]:
    """For ``Diffusion._dfm_caching_update``: ``(p_x0, canvas, time)`` after a step of the DFM corrector from ``t``.

    Rates ``a_t = 1 + b_t`` forwards and ``b_t = 10 (t (1 - t))^(1/4)`` back (arXiv 2407.15595): a mask is filled with
    probability ``a_t (alpha_s - alpha_t) / (1 - alpha_t)``, a token masked with ``b_t (alpha_s - alpha_t) / alpha_t``.
    A step is ``1 / steps`` long, or as short as makes the two sum to 1. ``p_x0`` is returned, unfiltered, where the
    step changed nothing and the model does not see the time, else None.

    Raises:
        ValueError: noise that is not log-linear.
    """
    if self.config.noise.type != "loglinear":
        raise ValueError(f"noise.type: expected 'loglinear', got {self.config.noise.type!r}")
    t = t.reshape(-1)
    if p_x0 is None:
        p_x0 = self.forward(x, self.noise(t)[0].reshape(-1)).exp()
    time = float(t[0])
    back = 10 * (time * (1 - time)) ** 0.25
    dt = 1 / self.config.sampling.steps
    if time < 1:
        dt = min(dt, 1 / ((1 + back) / time + back / (1 - time)))
    gain = torch.full_like(t, (1 + back) * dt / time, dtype=torch.float64)[:, None]
    sigma = torch.full_like(gain, back * dt / (1 - time) if time < 1 else 0.0)
    xs = _write(self, x, p_x0, gain, sigma)[0]
    return (p_x0 if torch.equal(xs, x) and not self.time_conditioning else None), xs, time - dt


def _write(self: Any, x: Tensor, p_x0: Tensor, gain: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Fill masks with probability ``gain``, mask tokens with ``sigma``: the canvas, who, and log-probabilities."""
    masked, nucleus = x == self.mask_index, self.config.sampling.nucleus_p
    seeds, uniform = uniforms(x, None, 0, rng.Purpose.COMMIT)
    commit, remask = masked & (uniform < gain), ~masked & (uniform < sigma)
    drawn = ops.score_tokens(
        p_x0.float() if p_x0.dtype == torch.float64 else p_x0,
        rows=commit,
        input="probs",
        temperature=1.0,
        top_p=nucleus if nucleus < 1 else None,
        top_p_rule="exclusive",
        want=["token", "proposal_logprob"],
        seed=seeds,
    )
    assert drawn.token is not None
    assert drawn.proposal_logprob is not None
    commit &= drawn.token >= 0
    xs = torch.where(commit, drawn.token, x.masked_fill(remask, self.mask_index))
    return xs, commit, remask, drawn.proposal_logprob


def _sigma(settings: Any, t: Tensor, dt: float, conf: Tensor | None, masked: Tensor) -> tuple[Tensor, Moment]:
    """Remasking probability, float64 ``[B, L]`` or ``[B, 1]``, and the step's times and shares."""
    s = t - dt
    if settings.sampler == "remdm-loop":
        alpha = Plateau(settings.t_on, settings.t_off, settings.alpha_on)
        moment = Moment(t, s, alpha(t), alpha(s))
        on = (t <= settings.t_on) & (t > settings.t_off)
        return torch.where(on, moment.limit.clamp(max=settings.eta), 0.0), moment
    moment = Moment(t, s, 1 - t, 1 - s)
    if settings.sampler == "mdlm":
        return torch.zeros_like(t), moment
    if settings.sampler == "remdm-cap":
        return moment.limit.clamp(max=settings.eta), moment
    if settings.sampler == "remdm-rescale":
        return settings.eta * moment.limit, moment
    if settings.sampler == "forward-backward":
        back = (moment.alpha_s - moment.alpha_t) / moment.alpha_t
        return torch.minimum(back, moment.limit), moment
    if conf is None:
        raise ValueError("conf: sampler 'remdm-conf' needs the confidences [B, L], -inf where nothing is committed")
    share = torch.softmax(conf.double().masked_fill(masked, -torch.inf), dim=1).nan_to_num(nan=0.0)
    return share * moment.limit, moment


MODULES = ("diffusion",)
REPLACES = {
    "_sample_categorical": _sample_categorical,
    "Diffusion._ddpm_caching_update": _ddpm_caching_update,
    "Diffusion._dfm_caching_update": _dfm_caching_update,
}
