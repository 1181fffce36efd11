"""The masked diffusion loss: weighted cross-entropy at masked positions (MDLM, arXiv 2406.07524).

L = E_{t, z_t} [ w(t) sum_{l: z_t^l = m} -log x_theta^l(x_0^l | z_t) ],    w(t) = -alpha'(t) / (1 - alpha(t)).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..schedules import Schedule, get_schedule
from .masking import assign_roles, check_tokens, check_values, draw_times, mask_tokens
from .output_layer import hidden_scores, model_scores
from .outputs import Forward, LossOutput, call_model
from .terms import Scores, Weight, logit_scores, normalize, time_weight


def mdlm_loss(
    model: Any,
    x0: Tensor,
    *,
    mask_id: int,
    t: Tensor | None = None,
    t_min: float = 1e-3,
    antithetic: bool = True,
    schedule: str | Schedule = "linear",
    fixed: Tensor | None = None,
    loss_mask: Tensor | None = None,
    attention_mask: Tensor | None = None,
    condition: Tensor | None = None,
    weight: Weight = "elbo",
    normalizer: str = "token",
    generator: torch.Generator | None = None,
    forward: Forward | None = None,
    output_layer: Any = None,
    check: bool = True,
) -> LossOutput:
    """Mask x0 at random times, run the model once, and return the weighted cross-entropy at the masks.

    Args:
        model: ``tokens [B, L] -> logits [B, L, V]``, or an output with ``logits``. ``attention_mask`` and ``condition``
            are passed on as keyword arguments when given.
        x0: int64 ``[B, L]`` clean tokens, without ``mask_id`` except under padding.
        mask_id: id of the mask token; its probability is 0 in the model's softmax.
        t: ``[B]`` times in (0, 1]; None draws them uniform on ``[t_min, 1)``.
        t_min: smallest drawn time.
        antithetic: one time from each of B equal slices (see ``schedules.sample_times``).
        schedule: "linear", "loglinear", "cosine" or an object with the methods of ``schedules.Schedule``.
        fixed: bool ``[B, L]``, tokens that are never masked and carry no loss: prompts, givens.
        loss_mask: bool ``[B, L]``; where False, tokens may be masked but carry no loss (loss on answers only).
        attention_mask: bool or 0/1 ``[B, L]``; where 0, padding: never masked, no loss, in no denominator but "BL".
        condition: passed to the model.
        weight: "elbo" (w(t), 1/t for the linear schedules), "uniform", or a function of t.
        normalizer: "token" (all scored tokens of the batch, masked or not: MDLM), "BL" (B * L: LLaDA pre-training,
            PRISM's regulariser), "answer" (each row by its number of scored tokens: LLaDA's fine-tuning).
        generator: source of times and masks.
        forward: replaces the call of the model: ``forward(model, tokens, time=, attention_mask=, condition=)``, for
            time-conditioned models and other signatures.
        output_layer: the output layer of a model that returns hidden states, as its output or as ``hidden`` or
            ``hidden_states``: an ``nn.Linear``, an ``nn.Embedding`` of tied weights, or a weight ``[V, D]``. Logits are
            then never made (:func:`mdmcorrect.ops.linear_cross_entropy`).
        check: look at x0's values (mask_id among them? nothing to mask?), at the price of one host synchronisation.

    Returns:
        ``LossOutput`` with parts "mdlm" (the loss), "masked" (masked share of the free positions) and
        "accuracy" (share of masked scored positions whose argmax is right). When no mask was drawn the loss is 0.

    Raises:
        ValueError, TypeError: shapes, dtypes or ids that do not fit, named by argument.
    """
    schedule = get_schedule(schedule)
    check_tokens(x0, mask_id, t)
    roles = assign_roles(x0, fixed=fixed, loss_mask=loss_mask, attention_mask=attention_mask)
    if check:
        check_values(x0, mask_id, roles, t)
    t = draw_times(x0, t, t_min=t_min, antithetic=antithetic, generator=generator)
    z = mask_tokens(x0, t, mask_id=mask_id, schedule=schedule, free=roles.free, generator=generator)
    output = call_model(model, z, forward=forward, time=t, attention_mask=attention_mask, condition=condition)
    return mdlm_loss_from_scores(
        model_scores(output, output_layer, x0, mask_id),
        x0,
        z,
        t,
        mask_id=mask_id,
        schedule=schedule,
        fixed=fixed,
        loss_mask=loss_mask,
        attention_mask=attention_mask,
        weight=weight,
        normalizer=normalizer,
    )


def mdlm_loss_from_logits(
    logits: Tensor,
    x0: Tensor,
    z: Tensor,
    t: Tensor,
    *,
    mask_id: int,
    schedule: str | Schedule = "linear",
    fixed: Tensor | None = None,
    loss_mask: Tensor | None = None,
    attention_mask: Tensor | None = None,
    weight: Weight = "elbo",
    normalizer: str = "token",
) -> LossOutput:
    """:func:`mdlm_loss` for who masks and calls the model alone: ``logits [B, L, V]`` of ``z [B, L]`` at ``t [B]``."""
    return mdlm_loss_from_scores(
        logit_scores(logits, x0, mask_id),
        x0,
        z,
        t,
        mask_id=mask_id,
        schedule=schedule,
        fixed=fixed,
        loss_mask=loss_mask,
        attention_mask=attention_mask,
        weight=weight,
        normalizer=normalizer,
    )


def mdlm_loss_from_hidden(
    hidden: Tensor,
    output_layer: Any,
    x0: Tensor,
    z: Tensor,
    t: Tensor,
    *,
    mask_id: int,
    schedule: str | Schedule = "linear",
    fixed: Tensor | None = None,
    loss_mask: Tensor | None = None,
    attention_mask: Tensor | None = None,
    weight: Weight = "elbo",
    normalizer: str = "token",
) -> LossOutput:
    """:func:`mdlm_loss_from_logits` of ``output_layer(hidden)`` without those logits, to their rounding.

    On a GPU one host synchronisation says how many positions carry loss, and only those are multiplied;
    ``torch.compile`` and CUDA graphs multiply all instead.

    Args:
        hidden: ``[B, L, D]`` of ``z``, as the output layer gets them.
        output_layer: ``nn.Linear``, ``nn.Embedding`` of tied weights, or a weight ``[V, D]``, of the dtype of
            ``hidden`` outside autocast. Gradients flow to both.
        x0, z, t, mask_id, schedule, fixed, loss_mask, attention_mask, weight, normalizer: as in
            :func:`mdlm_loss_from_logits`.

    Raises:
        ValueError, TypeError: shapes, dtypes or ids that do not fit, named by argument.
    """
    return mdlm_loss_from_scores(
        hidden_scores(hidden, output_layer, x0, mask_id),
        x0,
        z,
        t,
        mask_id=mask_id,
        schedule=schedule,
        fixed=fixed,
        loss_mask=loss_mask,
        attention_mask=attention_mask,
        weight=weight,
        normalizer=normalizer,
    )


def mdlm_loss_from_scores(
    scores: Scores,
    x0: Tensor,
    z: Tensor,
    t: Tensor,
    *,
    mask_id: int,
    schedule: str | Schedule,
    fixed: Tensor | None,
    loss_mask: Tensor | None,
    attention_mask: Tensor | None,
    weight: Weight,
    normalizer: str,
) -> LossOutput:
    """The same, wherever scores come from."""
    if z.shape != x0.shape:
        raise ValueError(f"z: expected the shape of x0, {tuple(x0.shape)}, got {tuple(z.shape)}")
    roles = assign_roles(x0, fixed=fixed, loss_mask=loss_mask, attention_mask=attention_mask)
    masked = (z == mask_id) & roles.scored
    w = time_weight(weight, get_schedule(schedule), t).unsqueeze(-1)
    log_prob, right = scores(masked)
    # The weight is masked too: at t = 0 it is infinite, and 0 * inf would reach the gradient as NaN.
    loss = normalize(-w.where(masked, 0) * log_prob, roles.scored, normalizer)
    with torch.no_grad():
        parts = {
            "mdlm": loss.detach(),
            "masked": ((z == mask_id) & roles.free).sum() / roles.free.sum().clamp(min=1),
            "accuracy": (right & masked).sum() / masked.sum().clamp(min=1),
        }
    return LossOutput(loss, parts)
