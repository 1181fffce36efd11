"""Drop-ins for kuleshov-group/mdlm, ``diffusion.py`` (arXiv 2406.07524).

    import diffusion
    diffusion._sample_categorical = mdmcorrect.compat.mdlm._sample_categorical        # every predictor uses it
    diffusion.Diffusion._ddpm_caching_update = mdmcorrect.compat.mdlm._ddpm_caching_update

The functions replace the drawing; the methods replace the step: a Bernoulli number per position says which masks are
filled, and only these rows are read. :func:`posterior_step` is the same step for logits, without the class.

The original's noise is float32, which cuts its tail at 16.6 (arXiv 2409.02908, section 5); with ``noise="fp32"`` the
functions draw so.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import ops, rng
from ._noise import check_noise
from .sedd import draw


def _sample_categorical(
    categorical_probs: Tensor,
    *,
    noise: str = "exact",
    seed: int | Tensor | torch.Generator | None = None,
    step: int | Tensor = 0,
) -> Tensor:
    """One draw per row of unnormalised probabilities ``[..., V]``: int64 ``[...]``; see :mod:`mdmcorrect.compat.sedd`.

    Raises:
        ValueError: ``noise`` is neither "exact" nor "fp32".
    """
    return draw(categorical_probs, noise=noise, seed=seed, step=step)


def posterior_step(
    logits: Tensor,
    x: Tensor,
    t: float | Tensor,
    s: float | Tensor,
    *,
    mask_id: int,
    temperature: float = 1.0,
    top_p: float | None = None,
    seed: int | Tensor | torch.Generator | None = None,
    step: int | Tensor = 0,
) -> Tensor:
    """One ancestral step from mask probability ``t`` to ``s < t``: the new ``[B, L]``.

    A mask is filled with probability ``(t - s) / t``, by a draw of the model without the mask token. Of the logits only
    the rows that are filled are read.

    Args:
        logits: ``[B, L, V]`` float32, bfloat16 or float16.
        x: int64 ``[B, L]``.
        t, s: numbers or ``[B]``.
        mask_id: the mask token.
        temperature, top_p: of the draw; top_p drops the token that crosses it.
        seed, step: as of :func:`mdmcorrect.ops.score_tokens`; by default torch's own generator gives a seed.
    """
    seeds, uniform = uniforms(x, seed, step, rng.Purpose.COMMIT)
    t, s = (_column(value, x) for value in (t, s))
    commit = (x == mask_id) & (uniform < (t - s) / t)
    token = ops.score_tokens(
        logits,
        rows=commit,
        temperature=temperature,
        top_p=top_p,
        top_p_rule="exclusive",
        suppress=[mask_id],
        want=["token"],
        seed=seeds,
        step=step,
    ).token
    assert token is not None
    return torch.where(commit & (token >= 0), token, x)


def _ddpm_update(self: Any, x: Tensor, t: Tensor, dt: float, *, noise: str = "exact") -> Tensor:
    """For ``Diffusion._ddpm_update``: the canvas after a step from ``t`` to ``t - dt``."""
    sigma_t, sigma_s = (self.noise(time)[0].reshape(-1) for time in (t, t - dt))
    log_p = self.forward(x, sigma_t)
    if check_noise(noise) == "fp32":
        return _competing(log_p.exp(), x, -torch.expm1(-sigma_t), -torch.expm1(-sigma_s), self.mask_index)
    return posterior_step(log_p, x, -torch.expm1(-sigma_t), -torch.expm1(-sigma_s), mask_id=self.mask_index)


def _ddpm_caching_update(
    self: Any, x: Tensor, t: Tensor, dt: float, p_x0: Tensor | None = None, *, noise: str = "exact"
) -> tuple[Tensor, Tensor]:
    """For ``Diffusion._ddpm_caching_update``: probabilities and canvas after a step from ``t`` to ``t - dt``.

    With ``noise="fp32"`` (``functools.partialmethod``) tokens and the mask compete under the original's noise.
    """
    if self.config.noise.type != "loglinear":
        raise ValueError(f"noise.type: expected 'loglinear', got {self.config.noise.type!r}")
    t = t.reshape(-1)
    if p_x0 is None:
        p_x0 = self.forward(x, self.noise(t)[0].reshape(-1)).exp()
    if check_noise(noise) == "fp32":
        return p_x0, _competing(p_x0, x, t, t - dt, self.mask_index)
    seeds, uniform = uniforms(x, None, 0, rng.Purpose.COMMIT)
    commit = (x == self.mask_index) & (uniform < dt / t.double()[:, None])
    return p_x0, torch.where(commit, draw(p_x0, rows=commit, seed=seeds), x)


def _competing(p_x0: Tensor, x: Tensor, t: Tensor, s: Tensor, mask_id: int) -> Tensor:
    """A step in which the mask is one more outcome of each position's draw, as the original has it."""
    q_xs = p_x0 * (t - s)[:, None, None]
    q_xs[..., mask_id] = s[:, None]
    return torch.where(x == mask_id, draw(q_xs, noise="fp32"), x)


def uniforms(
    x: Tensor, seed: int | Tensor | torch.Generator | None, step: int | Tensor, purpose: rng.Purpose
) -> tuple[Tensor, Tensor]:
    """Seeds ``[B]`` of the rows of ``x [B, L]`` and one uniform number per position, float64."""
    seeds = rng.sequence_seeds(seed, x.shape[0], device=x.device)
    return seeds, rng.uniform(seeds, x.shape[1], step, purpose, dtype=torch.float64)


def _column(value: float | Tensor, x: Tensor) -> Tensor:
    column = torch.as_tensor(value, dtype=torch.float64, device=x.device)
    return column.reshape(-1, 1) if column.dim() else column


MODULES = ("diffusion",)
REPLACES = {
    "_sample_categorical": _sample_categorical,
    "Diffusion._ddpm_update": _ddpm_update,
    "Diffusion._ddpm_caching_update": _ddpm_caching_update,
}
