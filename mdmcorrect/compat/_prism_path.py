"""SeunggeunKimkr/PRISM, ``prob_path.py``: the small models' ``MaskProbPath.generate_sample``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..model import Output, Request
from ..samplers import (
    DFM,
    MDLM,
    PRISM,
    CeilTarget,
    ForwardBackward,
    Kappa,
    Looped,
    Pool,
    ReMDM,
    Sampler,
    Scores,
    Scoring,
    State,
    TokenCritic,
    Unmask,
)
from . import _common as common

_ORDERS = {"topk_prob": "confidence", "topk_prob_margin": "margin", "ar": "random"}
_ANCESTRAL = ("mdlm", "forward-backward", "remdm-cap", "remdm-rescale", "remdm-conf", "remdm-loop")
_STATIC = ("prism", "random", *_ORDERS, "topk_hybrid_score", "token-critic")


@torch.inference_mode()
def generate_sample(
    self: Any,
    num_steps: int | None = None,
    eps: float = 1e-5,
    test_ds: Mapping[str, Tensor] | None = None,
    device: torch.device | str = "cpu",
    return_intermediates: bool = False,
    *,
    seed: int | Tensor | torch.Generator | None = None,
) -> tuple[Tensor, list[Tensor]]:
    """For ``MaskProbPath.generate_sample``: every sampler it has, on the engine.

    Reads ``self.config`` (``sampling``, ``model.length``, ``adapter.input_type``), ``self.mask_index``, ``self.noise``,
    ``self.wrapped_backbone`` and ``self.wrapped_adapter``. Numbers of masks and of remasked tokens are each row's own;
    the original takes the configuration's and row 0's. A loop that begins before ``step_on`` remasks nothing else until
    it ends.

    Args:
        num_steps: steps in all, those of ``sampling.loop_steps`` among them; None for as many as the schedule has.
        eps: last time of the ancestral samplers' grid.
        test_ds: its "input_ids" ``[N, L]`` are the canvases, the first ``sampling.sample_batch_size``; default masks.
        return_intermediates: list the canvases.
        seed: default drawn from torch's global generator.

    Returns:
        int64 ``[B, L]``; and the canvas before the first and after each step, or an empty list.

    Raises:
        ValueError: an unknown ``sampling.sampler`` or ``predictor``, an adapter that is missing, or another number of
            steps than the schedule's.
    """
    settings = self.config.sampling
    if test_ds is None:
        tokens = torch.full(
            (settings.sample_batch_size, self.config.model.length), self.mask_index, dtype=torch.int64, device="cpu"
        )
    else:
        tokens = test_ds["input_ids"][: settings.sample_batch_size]
    tokens = tokens.to(device)
    sampler = replace(_sampler(self, num_steps, eps), finish=bool(settings.noise_removal))
    result = sampler(_model(self), tokens, mask_id=self.mask_index, seed=seed, history=return_intermediates)
    common.completed(result)
    if not return_intermediates:
        return result.tokens, []
    canvases = [tokens, *(event.tokens for event in result.history or ())]
    canvases += [result.tokens] * (sampler.steps + 1 - len(canvases))
    return result.tokens, canvases[: sampler.steps + 1]


def _sampler(path: Any, num_steps: int | None, eps: float) -> Sampler:
    settings = path.config.sampling
    top_p = settings.nucleus_p if settings.nucleus_p < 1 else None
    if settings.dfm:
        return DFM(steps=settings.steps, top_p=top_p).parts()
    if settings.predictor == "ddpm_cache":
        return _ancestral(settings, num_steps or settings.steps, eps, top_p)
    if settings.predictor != "topk_static":
        raise ValueError(f"sampling.predictor: expected 'topk_static' or 'ddpm_cache', got {settings.predictor!r}")
    sampler = _static(path, Scoring(temperature=1.0, top_p=top_p, top_p_rule="exclusive"))
    if num_steps not in (None, sampler.steps):
        raise ValueError(f"num_steps: expected steps + loop_steps = {sampler.steps}, got {num_steps}")
    return sampler


def _ancestral(settings: Any, steps: int, eps: float, top_p: float | None) -> Sampler:
    if settings.sampler not in _ANCESTRAL:
        raise ValueError(f"sampling.sampler: expected one of {list(_ANCESTRAL)}, got {settings.sampler!r}")
    if settings.sampler == "mdlm":
        return MDLM(steps=steps, top_p=top_p, eps=eps).parts()
    if settings.sampler == "forward-backward":
        return ForwardBackward(steps=steps, top_p=top_p, eps=eps).parts()
    rule = settings.sampler.removeprefix("remdm-")
    if rule == "loop":
        times = {"t_on": settings.t_on, "t_off": settings.t_off, "alpha_on": settings.alpha_on}
        return ReMDM(steps=steps, eta=settings.eta, top_p=top_p, eps=eps, **times).parts()
    eta = None if rule == "conf" else settings.eta
    return ReMDM(steps=steps, rule=rule, eta=eta, top_p=top_p, eps=eps).parts()


def _static(path: Any, scoring: Scoring) -> Sampler:
    """The samplers on a schedule of ``ceil(N (i + 1) / steps)`` tokens."""
    settings = path.config.sampling
    name, steps = settings.sampler, settings.steps
    if name not in _STATIC:
        raise ValueError(f"sampling.sampler: expected one of {list(_STATIC)}, got {name!r}")
    loop_start, loop_count = settings.loop_step_on, settings.num_remask_loop
    if name in ("prism", "random"):
        remasks = name == "prism" and (settings.eta > 0 or settings.num_remask > 0)
        return PRISM(
            steps=steps,
            remask="quality" if remasks else None,
            remask_count=settings.num_remask if remasks and not settings.eta > 0 else None,
            eta=settings.eta if remasks and settings.eta > 0 else None,
            step_on=_without_loop(settings, settings.step_on),
            step_off=_without_loop(settings, settings.step_off),
            top_p=scoring.top_p,
            loop_start=loop_start if settings.loop_steps else 1,
            loop_steps=settings.loop_steps,
            loop_count=loop_count,
        ).parts()
    if name in _ORDERS:
        during = {"start": settings.step_on, "stop": settings.step_off}
        unmask = _Between(_ORDERS[name], CeilTarget(), leftmost=name == "ar", **during)
        plan = Looped(unmask, loop_start=loop_start, loops=settings.loop_steps, loop_count=loop_count)
        return Sampler(name=name, steps=steps + settings.loop_steps, plan=plan, scoring=scoring)
    if settings.loop_steps or settings.step_on > 0 or settings.step_off < steps:
        raise ValueError(f"step_on, step_off, loop_steps: {name!r} ranks all tokens in every step; expected 0, all, 0")
    if name == "token-critic" and path.config.adapter.input_type == "x0":
        preset = TokenCritic(steps=steps, critic=_critic(path), noise=0.0, schedule="linear")
        return replace(preset.parts(), scoring=scoring)
    masked = "logprob" if name == "topk_hybrid_score" else "log_quality"
    return Sampler(name=name, steps=steps, plan=Pool(Kappa(), masked, "log_quality"), scoring=scoring)


def _without_loop(settings: Any, step: int) -> int:
    """A step's number when the loop's steps are not counted."""
    before = settings.loop_step_on
    return step if step <= before else max(step - settings.loop_steps, before)


@dataclass(frozen=True)
class _Between(Unmask):
    """The order, or with ``leftmost`` the canvas's own, in steps from ``start`` to ``stop``; a random one in others."""

    start: int = 0
    stop: int = 0
    leftmost: bool = False

    def rank(self, state: State, scores: Scores) -> Tensor:
        rank = -state.positions.float() if self.leftmost else super().rank(state, scores)
        on = (state.step >= self.start) & (state.step < self.stop)
        return torch.where(on[:, None], rank, Unmask("random").rank(state, scores))


def _model(path: Any) -> Any:
    """The path's backbone and, where quality is asked for, its adapter, on hidden states or on the canvas."""

    def call(tokens: Tensor, request: Request) -> Output:
        sigma = path.noise(request.time.float()[:, None])[0]
        logits, hidden, condition = path.wrapped_backbone.get_output_and_features(tokens, sigma)
        if "quality" not in request.needs:
            return Output(logits=logits)
        kind, adapter = path.config.adapter.input_type, path.wrapped_adapter
        if adapter is None or kind == "x0":
            name = path.config.sampling.sampler
            raise ValueError(f"adapter: sampler {name!r} reads one of input_type 'embedding' or 'xt', got {kind!r}")
        read = (tokens, sigma) if kind == "xt" else (hidden, condition)
        return Output(logits=logits, quality=adapter.get_score(*read))

    return call


def _critic(path: Any) -> Any:
    """The adapter as a critic of full canvases."""

    def quality(tokens: Tensor, request: Request) -> Tensor:
        return path.wrapped_adapter.get_score(
            tokens, torch.zeros(len(tokens), dtype=torch.float32, device=tokens.device)
        )

    return quality
