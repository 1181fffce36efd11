"""``Diffusion._diffusion_sample`` as ddg and ProSeCo have it: on the engine where it can be, else by the class's steps.

The engine runs masked diffusion with log-linear noise, unguided or guided by D-CFG (arXiv 2412.10193), with ProSeCo's
corrector or without. What else there is (classifiers, uniform corruption, other noise, a grid of T times) goes through
the steps that the class has, ``_ddpm_denoise`` and so on, in the loop below.
"""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor

from ..adapters import ConditionGuided
from ..model import Output, Request
from ..rng import Seed
from ..samplers import MDLM, FixedPoint, ProSeCo, Sampler, Scores, State, View
from ..samplers.correct import Rescore
from ..samplers.rows import Rows
from . import _common as common
from .sedd import draw

_CORRECTORS = {"argmax": "argmax", "sample": "sample", "select_top_k": "top_k"}


def diffusion_sample(
    self: Any, classifier_model: Any, cond: Tensor | None, eps: float, seed: Seed
) -> tuple[Tensor, dict[str, int]]:
    """Tokens int64 ``[B, L]``, and forwards by kind, those of a guided step counted once."""
    guidance = getattr(self.config, "guidance", None)
    method = None if guidance is None else guidance.method
    if method not in (None, "cfg", "cbg", "nos"):
        raise ValueError(f"guidance.method: expected 'cfg', 'cbg' or 'nos', got {method!r}")
    plain = self.diffusion == "absorbing_state" and self.config.noise.type == "loglinear" and not self.T
    unmasked = self.parameterization == "subs" or getattr(self, "subs_masking", False)
    if plain and unmasked and method in (None, "cfg"):
        return _on_the_engine(self, cond if method else None, guidance, eps, seed)
    return _by_its_steps(self, guidance, classifier_model, cond, eps)


def _on_the_engine(
    self: Any, cond: Tensor | None, guidance: Any, eps: float, seed: Seed
) -> tuple[Tensor, dict[str, int]]:
    settings = self.config.sampling
    backbone = _Backbone(self, eps)
    model: Any = backbone
    if cond is not None:
        null = torch.full_like(cond[0], self.config.data.num_classes)
        if guidance.gamma == 0:
            cond = null.expand_as(cond)
        elif guidance.gamma != 1:
            model = _GuidedUncorrected(backbone, ConditionGuided(backbone, guidance.gamma, null), settings)
    tokens = self._sample_prior(settings.batch_size, self.config.model.length).to(self.device)
    result = _sampler(self, eps)(model, tokens, mask_id=self.mask_index, condition=cond, seed=seed, history=False)
    common.completed(result)
    return result.tokens, counts(backbone.denoising, backbone.corrector)


class _GuidedUncorrected:
    """Guidance but in the steps that are corrected, whose draws no guided forward decides: ProSeCo's ``gamma = 1``."""

    def __init__(self, plain: _Backbone, guided: ConditionGuided, settings: Any) -> None:
        self.plain, self.guided, self.settings, self.__name__ = plain, guided, settings, "backbone"

    def __call__(self, tokens: Tensor, request: Request) -> Output:
        number = int(request.step[0]) + 1  # the rows of this sampler go step by step together
        return (self.plain if is_due(self.settings, number) else self.guided)(tokens, request)


def is_due(settings: Any, number: int) -> bool:
    """Whether the step of this number, from 1, is corrected."""
    if not getattr(settings, "corrector_steps", 0) or number < settings.corrector_start_iter:
        return False
    return number % settings.corrector_every_n_steps == 0


def counts(denoising: int, corrector: int) -> dict[str, int]:
    """Forwards, by the names that ProSeCo gives them."""
    return {
        "total_NFEs": denoising + corrector,
        "total_denoising_NFEs": denoising,
        "total_corrector_NFEs": corrector,
    }


def _sampler(self: Any, eps: float) -> Sampler:
    settings = self.config.sampling
    nucleus, passes = getattr(settings, "nucleus_p", 1.0), getattr(settings, "corrector_steps", 0)
    common_settings: dict[str, Any] = {"steps": settings.steps, "top_p": nucleus if nucleus < 1 else None, "eps": eps}
    if not passes:
        return replace(MDLM(**common_settings).parts(), finish=False)
    if settings.corrector_sampling not in _CORRECTORS:
        raise ValueError(
            f"sampling.corrector_sampling: expected one of {list(_CORRECTORS)}, got {settings.corrector_sampling!r}"
        )
    way = _CORRECTORS[settings.corrector_sampling]
    preset = ProSeCo(
        corrector_steps=passes,
        correct_every=settings.corrector_every_n_steps,
        correct_start=settings.corrector_start_iter,
        carry_over=self.parameterization == "subs",
        corrector=way,
        corrector_top_k=settings.corrector_top_k if way == "top_k" else None,
        **common_settings,
    )
    sampler = replace(preset.parts(), finish=False)
    if settings.corrector_prior_is_argmax:
        return sampler
    assert isinstance(sampler.correct, FixedPoint)
    given = {field.name: getattr(sampler.correct, field.name) for field in fields(FixedPoint)}
    return replace(sampler, correct=_FromDraws(**given))


class _FromDraws(FixedPoint):
    """A corrector whose first canvas holds the predictor's draws in place of its argmax."""

    @property
    def settles(self) -> bool:
        return False  # what is drawn next time may be something else

    def __call__(self, state: State, view: View, rows: Rows, scores: Scores, rescore: Rescore) -> tuple[Tensor, Scores]:
        drawn = Scores({**scores, "argmax": scores["token"]})
        return super().__call__(state, view, rows, drawn, rescore)


class _Backbone:
    """The class's network: logits without its parameterization, at the time of the step or of the corrector's pass."""

    def __init__(self, diffusion: Any, eps: float) -> None:
        self.diffusion, self.denoising, self.corrector, self.__name__ = diffusion, 0, 0, "backbone"
        passes = getattr(diffusion.config.sampling, "corrector_steps", 0)
        self.times = torch.linspace(1, eps, passes + 1, dtype=torch.float32, device="cpu")

    def __call__(self, tokens: Tensor, request: Request) -> Output:
        self.corrector += request.correction > 0
        self.denoising += request.correction == 0
        time = request.time.float()
        if request.correction:
            time = torch.full_like(time, self.times[request.correction - 1])
        sigma = self.diffusion._process_sigma(self.diffusion.noise(time[:, None])[0].reshape(-1))
        if self.diffusion.config.backbone == "hf_dit":
            return Output(logits=self.diffusion.backbone(tokens, sigma))
        return Output(logits=self.diffusion.backbone(tokens, sigma, request.condition))


def _by_its_steps(
    self: Any, guidance: Any, classifier_model: Any, cond: Tensor | None, eps: float
) -> tuple[Tensor, dict[str, int]]:
    settings = self.config.sampling
    x = self._sample_prior(settings.batch_size, self.config.model.length).to(self.device)
    dt, cache = (1 - eps) / settings.steps, None
    forwards = {"denoising": 0, "corrector": 0}
    for step, t in enumerate(torch.linspace(1, eps, settings.steps + 1, dtype=torch.float32, device=x.device)[:-1]):
        if self.T:
            t = (((t * self.T).int() + 1) / self.T).clamp(max=1)  # there the first lies beyond 1, and is NaN
        moment = _moment(self, t, t - dt, len(x))
        forwards["denoising"] += cache is None
        xs, cache = _step(self, guidance, classifier_model, cond, x, moment, cache)
        if is_due(settings, step + 1):
            x, xs, cache = _corrected(self, guidance, classifier_model, cond, x, moment, cache, eps, forwards)
        if not settings.use_cache or not torch.equal(xs, x):
            cache = None
        x = xs
    return x, counts(**forwards)


def _moment(self: Any, t: Tensor, s: Tensor, rows: int) -> dict[str, Tensor]:
    """The arguments of a step that say when it is, each for all rows."""
    sigma_t, sigma_s = (self.noise(time.expand(rows, 1))[0].reshape(-1) for time in (t, s))
    chances = [-torch.expm1(-sigma)[:, None, None] for sigma in (sigma_t, sigma_s)]
    return {"time_conditioning": sigma_t, "move_chance_t": chances[0], "move_chance_s": chances[1]}


def _step(
    self: Any,
    guidance: Any,
    classifier_model: Any,
    cond: Tensor | None,
    x: Tensor,
    moment: dict[str, Tensor],
    cache: Any,
) -> tuple[Tensor, Any]:
    """The canvas after a step, and what it keeps."""
    if guidance is None:
        return _ends(self._ddpm_denoise(xt=x, cache=cache, **moment))
    if guidance.method == "cfg":
        return _ends(self._cfg_denoise(cond=cond, gamma=guidance.gamma, xt=x, cache=cache, **moment))
    by_class = {"classifier_model": classifier_model, "conditioning_class": guidance.condition, "xt": x, **moment}
    if guidance.method == "cbg":
        return _ends(self._cbg_denoise(gamma=guidance.gamma, use_approx=guidance.use_approx, cache=cache, **by_class))
    names = ("num_nos_steps", "nos_step_size", "nos_stability_coef")
    return _ends(self._nos_denoise(**{name: getattr(guidance, name) for name in names}, **by_class))


def _ends(answer: tuple[Tensor, Any, Any]) -> tuple[Tensor, Any]:
    return answer[0], answer[2]


def _corrected(
    self: Any,
    guidance: Any,
    classifier_model: Any,
    cond: Tensor | None,
    x: Tensor,
    moment: dict[str, Tensor],
    cache: Any,
    eps: float,
    forwards: dict[str, int],
) -> tuple[Tensor, Tensor, Any]:
    """ProSeCo's corrector by the class's ``_corrector_denoise``: the corrected canvas, the step from it, its cache."""
    settings = self.config.sampling
    condition = cond if cond is not None and guidance is not None and guidance.method == "cfg" else None
    key = "log_x_theta" if condition is None else "log_x_theta_cond"
    if cache is None or cache.get(key) is None:
        raise ValueError("sampling.corrector_steps: expected 0 with this guidance, which keeps nothing to correct from")
    prior = cache[key]
    y = prior.argmax(-1) if settings.corrector_prior_is_argmax else draw(prior.exp())
    times = torch.linspace(1, eps, settings.corrector_steps + 1, dtype=torch.float32, device=x.device)
    kept = None
    for time in times[:-1]:
        when = _moment(self, time, time - (1 - eps) / settings.corrector_steps, len(x))
        forwards["corrector"] += kept is None
        names = {f"corrector_{name}": value for name, value in when.items()}
        again, _, kept = self._corrector_denoise(
            corrector_xt=y, corrector_cache=kept, corrector_cond=condition, **names
        )
        prior = kept["corrector_log_x_theta"]
        if not settings.use_cache or not torch.equal(again, y):
            kept = None
        y = again
    x = torch.where(x != self.mask_index, y, x)
    cache = {**cache, key: prior}
    if guidance is not None and guidance.method == "cbg":
        xs, cache = _step(self, guidance, classifier_model, cond, x, moment, cache)
    else:
        xs, _ = _ends(self._ddpm_denoise(xt=x, cache={"log_x_theta": prior}, **moment))
    return x, xs, cache
