"""ProSeCo (arXiv 2602.11590): train the model itself to map its own outputs back to the data.

    y_t = argmax x_theta(z_t) at all positions, without gradient
    L = E[ w(t) ( sum_{l: z_t^l = m} -log x_theta^l(x_0^l | z_t)  +  sum_l -log x_theta^l(x_0^l | y_t) ) ]

The second sum also runs over positions that were clean, where w(t) = 1/t has no mask probability t to cancel it: its
expectation grows like log(1/t_min). Hence ``t_min`` is an argument that matters, 0.1 in the paper's OpenWebText runs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..model import check_logits
from ..schedules import Schedule, get_schedule
from .masking import assign_roles, check_tokens, check_values, draw_times, mask_tokens
from .mdlm import mdlm_loss_from_scores
from .output_layer import check_hidden, draw_from_hidden, hidden_scores, model_hidden, model_scores
from .outputs import Forward, LossOutput, call_model, read_logits
from .terms import Scores, Weight, draw_tokens, logit_scores, normalize, time_weight, without_mask


def proseco_loss(
    model: Any,
    x0: Tensor,
    *,
    mask_id: int,
    t: Tensor | None = None,
    t_min: float = 0.1,
    antithetic: bool = True,
    schedule: str | Schedule = "linear",
    fixed: Tensor | None = None,
    loss_mask: Tensor | None = None,
    attention_mask: Tensor | None = None,
    condition: Tensor | None = None,
    inputs: str = "argmax",
    input_positions: str = "all",
    temperature: float = 1.0,
    weighted: bool = True,
    upweight_errors: bool = False,
    score_fixed: bool = False,
    mdlm_weight: float = 1.0,
    corrector_weight: float = 1.0,
    weight: Weight = "elbo",
    normalizer: str = "token",
    generator: torch.Generator | None = None,
    forward: Forward | None = None,
    output_layer: Any = None,
    check: bool = True,
) -> LossOutput:
    """One step of ProSeCo's training: a forward on z_t, the corrector's input from its logits, a forward on that.

    Args:
        model, x0, mask_id, t, antithetic, schedule, fixed, loss_mask, attention_mask, condition, weight, normalizer,
            generator, forward, output_layer, check: as in :func:`mdlm_loss`. Fixed tokens and padding stay in the
            corrector's input.
        t_min: smallest drawn time. The weighted corrector term diverges as log(1/t_min) when it goes to 0.
        inputs: "argmax" or "sample": how the corrector's input is taken from the logits, the mask token excluded.
        input_positions: "all" (also where z was clean: no carry-over) or "masked" (clean tokens stay).
        temperature: of "sample".
        weighted: multiply the corrector's term by the same w(t) as the masked term; False weighs it 1.
        upweight_errors: where the input is already right, the loss is ``-p(x0)`` instead of ``-log p(x0)``, so wrong
            inputs have the larger gradients.
        score_fixed: also score the corrector at fixed positions (its input is right there); never at padding.
        mdlm_weight, corrector_weight: factors of the two terms.

    Returns:
        ``LossOutput`` with parts "mdlm", "corrector" (both before their factors), "masked", "accuracy" (as in
        :func:`mdlm_loss`), "input_errors" (wrong share of the corrector's scored inputs), "corrected" (share of those
        that its argmax mends) and "broken" (share of right inputs that its argmax changes).

    Raises:
        ValueError, TypeError: as :func:`mdlm_loss`, and unknown ``inputs`` or ``input_positions``.
    """
    schedule = get_schedule(schedule)
    check_tokens(x0, mask_id, t)
    roles = assign_roles(x0, fixed=fixed, loss_mask=loss_mask, attention_mask=attention_mask)
    if check:
        check_values(x0, mask_id, roles, t)
    t = draw_times(x0, t, t_min=t_min, antithetic=antithetic, generator=generator)
    z = mask_tokens(x0, t, mask_id=mask_id, schedule=schedule, free=roles.free, generator=generator)
    call = {"forward": forward, "time": t, "attention_mask": attention_mask, "condition": condition}
    output = call_model(model, z, **call)
    drawing: dict[str, Any] = {
        "inputs": inputs,
        "input_positions": input_positions,
        "temperature": temperature,
        "generator": generator,
    }
    if output_layer is None:
        tokens = corrector_inputs(read_logits(output), x0, z, mask_id=mask_id, free=roles.free, **drawing)
    else:
        hidden = model_hidden(output)
        tokens = corrector_inputs_from_hidden(hidden, output_layer, x0, z, mask_id=mask_id, free=roles.free, **drawing)
    corrector_output = call_model(model, tokens, **call)
    return proseco_loss_from_scores(
        model_scores(output, output_layer, x0, mask_id),
        model_scores(corrector_output, output_layer, x0, mask_id),
        x0,
        z,
        tokens,
        t,
        mask_id=mask_id,
        schedule=schedule,
        fixed=fixed,
        loss_mask=loss_mask,
        attention_mask=attention_mask,
        weighted=weighted,
        upweight_errors=upweight_errors,
        score_fixed=score_fixed,
        mdlm_weight=mdlm_weight,
        corrector_weight=corrector_weight,
        weight=weight,
        normalizer=normalizer,
    )


def corrector_inputs(
    logits: Tensor,
    x0: Tensor,
    z: Tensor,
    *,
    mask_id: int,
    free: Tensor | None = None,
    inputs: str = "argmax",
    input_positions: str = "all",
    temperature: float = 1.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """What the corrector reads, int64 ``[B, L]``, no gradient, no mask token.

    Args:
        logits: ``[B, L, V]`` of ``z``.
        x0, z: int64 ``[B, L]``.
        free: bool ``[B, L]``; elsewhere (fixed, padding) x0 stays. None for all free.
        inputs, input_positions, temperature, generator: as in :func:`proseco_loss`.
    """
    check_logits(logits, z, mask_id)
    replaced = replaced_positions(z, mask_id, free, inputs, input_positions)
    with torch.no_grad():
        scores = without_mask(logits, mask_id)
        drawn = draw_tokens(scores, temperature=temperature if inputs == "sample" else 0.0, generator=generator)
        return torch.where(replaced, drawn, x0)


def corrector_inputs_from_hidden(
    hidden: Tensor,
    output_layer: Any,
    x0: Tensor,
    z: Tensor,
    *,
    mask_id: int,
    free: Tensor | None = None,
    inputs: str = "argmax",
    input_positions: str = "all",
    temperature: float = 1.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """:func:`corrector_inputs` of ``output_layer(hidden)`` without those logits; its draws are others, of one law."""
    check_hidden(hidden, output_layer, z, mask_id)
    replaced = replaced_positions(z, mask_id, free, inputs, input_positions)
    temperature = temperature if inputs == "sample" else 0.0
    drawn = draw_from_hidden(hidden, output_layer, replaced, mask_id, temperature=temperature, generator=generator)
    return torch.where(replaced, drawn, x0)


def replaced_positions(z: Tensor, mask_id: int, free: Tensor | None, inputs: str, input_positions: str) -> Tensor:
    """Where the corrector reads what the model says, bool ``[B, L]``; raises for unknown options."""
    if inputs not in ("argmax", "sample"):
        raise ValueError(f"inputs: expected 'argmax' or 'sample', got {inputs!r}")
    if input_positions not in ("all", "masked"):
        raise ValueError(f"input_positions: expected 'all' or 'masked', got {input_positions!r}")
    replaced = torch.ones_like(z, dtype=torch.bool) if input_positions == "all" else z == mask_id
    return replaced if free is None else replaced & free


def proseco_loss_from_logits(
    logits: Tensor,
    corrector_logits: Tensor,
    x0: Tensor,
    z: Tensor,
    tokens: Tensor,
    t: Tensor,
    *,
    mask_id: int,
    schedule: str | Schedule = "linear",
    fixed: Tensor | None = None,
    loss_mask: Tensor | None = None,
    attention_mask: Tensor | None = None,
    weighted: bool = True,
    upweight_errors: bool = False,
    score_fixed: bool = False,
    mdlm_weight: float = 1.0,
    corrector_weight: float = 1.0,
    weight: Weight = "elbo",
    normalizer: str = "token",
) -> LossOutput:
    """:func:`proseco_loss` for who calls the model alone: ``logits`` of ``z``, ``corrector_logits`` of ``tokens``.

    Both terms are divided alike, by the positions the masked term may score (``score_fixed`` adds to the corrector's
    sum and to its own divisor).
    """
    return proseco_loss_from_scores(
        logit_scores(logits, x0, mask_id),
        logit_scores(corrector_logits, x0, mask_id, "corrector_logits"),
        x0,
        z,
        tokens,
        t,
        mask_id=mask_id,
        schedule=schedule,
        fixed=fixed,
        loss_mask=loss_mask,
        attention_mask=attention_mask,
        weighted=weighted,
        upweight_errors=upweight_errors,
        score_fixed=score_fixed,
        mdlm_weight=mdlm_weight,
        corrector_weight=corrector_weight,
        weight=weight,
        normalizer=normalizer,
    )


def proseco_loss_from_hidden(
    hidden: Tensor,
    corrector_hidden: Tensor,
    output_layer: Any,
    x0: Tensor,
    z: Tensor,
    tokens: Tensor,
    t: Tensor,
    *,
    mask_id: int,
    schedule: str | Schedule = "linear",
    fixed: Tensor | None = None,
    loss_mask: Tensor | None = None,
    attention_mask: Tensor | None = None,
    weighted: bool = True,
    upweight_errors: bool = False,
    score_fixed: bool = False,
    mdlm_weight: float = 1.0,
    corrector_weight: float = 1.0,
    weight: Weight = "elbo",
    normalizer: str = "token",
) -> LossOutput:
    """:func:`proseco_loss_from_logits` of ``output_layer(hidden)`` and ``output_layer(corrector_hidden)`` without
    those logits."""
    return proseco_loss_from_scores(
        hidden_scores(hidden, output_layer, x0, mask_id),
        hidden_scores(corrector_hidden, output_layer, x0, mask_id, "corrector_hidden"),
        x0,
        z,
        tokens,
        t,
        mask_id=mask_id,
        schedule=schedule,
        fixed=fixed,
        loss_mask=loss_mask,
        attention_mask=attention_mask,
        weighted=weighted,
        upweight_errors=upweight_errors,
        score_fixed=score_fixed,
        mdlm_weight=mdlm_weight,
        corrector_weight=corrector_weight,
        weight=weight,
        normalizer=normalizer,
    )


def proseco_loss_from_scores(
    scores: Scores,
    corrector_scores: Scores,
    x0: Tensor,
    z: Tensor,
    tokens: Tensor,
    t: Tensor,
    *,
    mask_id: int,
    schedule: str | Schedule,
    fixed: Tensor | None,
    loss_mask: Tensor | None,
    attention_mask: Tensor | None,
    weighted: bool,
    upweight_errors: bool,
    score_fixed: bool,
    mdlm_weight: float,
    corrector_weight: float,
    weight: Weight,
    normalizer: str,
) -> LossOutput:
    """The same, wherever scores come from."""
    if tokens.shape != x0.shape:
        raise ValueError(f"tokens: expected the shape of x0, {tuple(x0.shape)}, got {tuple(tokens.shape)}")
    schedule = get_schedule(schedule)
    mdlm = mdlm_loss_from_scores(
        scores,
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
    scored = assign_roles(
        x0, fixed=None if score_fixed else fixed, loss_mask=loss_mask, attention_mask=attention_mask
    ).scored
    log_prob, mended = corrector_scores(scored)
    wrong = tokens != x0
    gain = torch.where(wrong, log_prob, log_prob.exp()) if upweight_errors else log_prob
    w = time_weight(weight if weighted else "uniform", schedule, t).unsqueeze(-1)
    corrector = normalize(-w * gain, scored, normalizer)
    loss = mdlm_weight * mdlm.loss + corrector_weight * corrector
    with torch.no_grad():
        errors, rights = wrong & scored, ~wrong & scored
        parts = {
            **mdlm.parts,
            "corrector": corrector.detach(),
            "input_errors": errors.sum() / scored.sum().clamp(min=1),
            "corrected": (errors & mended).sum() / errors.sum().clamp(min=1),
            "broken": (rights & ~mended).sum() / rights.sum().clamp(min=1),
        }
    return LossOutput(loss, parts)
