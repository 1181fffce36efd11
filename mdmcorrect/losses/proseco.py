"""ProSeCo (arXiv 2602.11590): train the model itself to map its own outputs back to the data.

    y_t = argmax x_theta(z_t) at all positions, without gradient
    L = E[ w(t) ( sum_{l: z_t^l = m} -log x_theta^l(x_0^l | z_t)  +  sum_l -log x_theta^l(x_0^l | y_t) ) ]

The second sum also runs over positions that were clean, where w(t) = 1/t has no mask probability t to cancel it: its
expectation grows like log(1/t_min). Hence ``t_min`` is an argument that matters, 0.1 in the paper's OpenWebText runs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from .._checks import choice, number, token_id
from ..model import check_logits
from ..schedules import Schedule
from .arguments import IGNORED
from .averaging import check_averaged
from .masking import check_batch
from .mdlm import MaskedTerm
from .output_layer import (
    check_output_layer,
    draw_from_hidden,
    hidden_scores,
    model_scores,
    read_layer,
    read_model,
    scores_of,
)
from .outputs import Forward, LossOutput, call_model
from .terms import Count, Scores, Weight, check_drawing, draw_tokens, logit_scores, normalize, share, without_mask


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
    num_items_in_batch: Count = None,
    num_corrector_items_in_batch: Count = None,
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
        temperature: of "sample"; "argmax" is a temperature of 0, whatever this says.
        weighted: multiply the corrector's term by the same w(t) as the masked term; False weighs it 1.
        upweight_errors: where the input is already right, the loss is ``-p(x0)`` instead of ``-log p(x0)``, so wrong
            inputs have the larger gradients.
        score_fixed: also score the corrector at fixed positions (its input is right there); never at padding.
        mdlm_weight, corrector_weight: factors of the two terms.
        num_items_in_batch: as in :func:`mdlm_loss`, the divisor of both terms.
        num_corrector_items_in_batch: the corrector term's, where it is another: with ``score_fixed``
            (``count_items`` without ``fixed``).

    Returns:
        ``LossOutput`` with parts "mdlm", "corrector" (both before their factors), "masked", "accuracy" (as in
        :func:`mdlm_loss`), "input_errors" (wrong share of the corrector's scored inputs), "corrected" (share of those
        that its argmax mends) and "broken" (share of right inputs that its argmax changes).

    Raises:
        ValueError, TypeError: as :func:`mdlm_loss`, and unknown ``inputs`` or ``input_positions``.
    """
    term = MaskedTerm(mask_id, schedule, fixed, loss_mask, attention_mask, weight, normalizer, num_items_in_batch)
    corrector = CorrectorTerm(
        term, weighted, upweight_errors, score_fixed, mdlm_weight, corrector_weight, num_corrector_items_in_batch
    )
    temperature, _ = check_drawing(temperature, 1.0, generator)
    check_output_layer(model, output_layer)
    check_averaged(model=model, output_layer=output_layer)
    z, t = term.draw(x0, t, t_min=t_min, antithetic=antithetic, generator=generator, check=check)
    call = {"forward": forward, "time": t, "attention_mask": attention_mask, "condition": condition}
    output = call_model(model, z, **call)
    drawing: dict[str, Any] = {
        "mask_id": term.mask_id,
        "free": term.roles(x0).free,
        "inputs": inputs,
        "input_positions": input_positions,
        "temperature": temperature,
        "generator": generator,
    }
    states, product = read_model(output, output_layer, x0, term.mask_id)
    if product is None:
        tokens = corrector_inputs(states, x0, z, **drawing)
    else:
        tokens = corrector_inputs_from_hidden(states, product, x0, z, **drawing)
    corrector_output = call_model(model, tokens, **call)
    return corrector.loss(
        scores_of(states, product, x0, term.mask_id),
        model_scores(corrector_output, output_layer, x0, term.mask_id),
        x0,
        z,
        tokens,
        t,
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
        free: bool ``[B, L]``; elsewhere (fixed, padding) x0 stays, and z where x0 is -100. None for all free.
        inputs, input_positions, temperature, generator: as in :func:`proseco_loss`.
    """
    mask_id = token_id("mask_id", mask_id)
    check_logits(logits, z, mask_id)
    replaced = replaced_positions(z, mask_id, free, inputs, input_positions)
    with torch.no_grad():
        scores = without_mask(logits, mask_id)
        drawn = draw_tokens(scores, temperature=temperature if inputs == "sample" else 0.0, generator=generator)
        return torch.where(replaced, drawn, kept_tokens(x0, z))


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
    mask_id = token_id("mask_id", mask_id)
    with torch.no_grad():
        states, product = read_layer(hidden, output_layer, z, mask_id)
    if product is None:
        given: dict[str, Any] = {"free": free, "inputs": inputs, "input_positions": input_positions}
        return corrector_inputs(states, x0, z, mask_id=mask_id, temperature=temperature, generator=generator, **given)
    replaced = replaced_positions(z, mask_id, free, inputs, input_positions)
    temperature = temperature if inputs == "sample" else 0.0
    drawn = draw_from_hidden(states, product, replaced, mask_id, temperature=temperature, generator=generator)
    return torch.where(replaced, drawn, kept_tokens(x0, z))


def kept_tokens(x0: Tensor, z: Tensor) -> Tensor:
    """What the corrector reads where nothing is replaced: the clean token, where labels leave it out that of z."""
    return torch.where(x0 == IGNORED, z, x0)


def replaced_positions(z: Tensor, mask_id: int, free: Tensor | None, inputs: str, input_positions: str) -> Tensor:
    """Where the corrector reads what the model says, bool ``[B, L]``; raises for unknown options."""
    choice("inputs", inputs, "argmax", "sample")
    choice("input_positions", input_positions, "all", "masked")
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
    num_items_in_batch: Count = None,
    num_corrector_items_in_batch: Count = None,
) -> LossOutput:
    """:func:`proseco_loss` for who calls the model alone: ``logits`` of ``z``, ``corrector_logits`` of ``tokens``.

    Both terms are divided alike, by the positions the masked term may score (``score_fixed`` adds to the corrector's
    sum and to its own divisor).
    """
    term = MaskedTerm(mask_id, schedule, fixed, loss_mask, attention_mask, weight, normalizer, num_items_in_batch)
    corrector = CorrectorTerm(
        term, weighted, upweight_errors, score_fixed, mdlm_weight, corrector_weight, num_corrector_items_in_batch
    )
    check_batch(x0, z, t, tokens=tokens)
    return corrector.loss(
        logit_scores(logits, x0, term.mask_id),
        logit_scores(corrector_logits, x0, term.mask_id, "corrector_logits"),
        x0,
        z,
        tokens,
        t,
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
    num_items_in_batch: Count = None,
    num_corrector_items_in_batch: Count = None,
) -> LossOutput:
    """:func:`proseco_loss_from_logits` of ``output_layer(hidden)`` and ``output_layer(corrector_hidden)`` without
    those logits."""
    term = MaskedTerm(mask_id, schedule, fixed, loss_mask, attention_mask, weight, normalizer, num_items_in_batch)
    corrector = CorrectorTerm(
        term, weighted, upweight_errors, score_fixed, mdlm_weight, corrector_weight, num_corrector_items_in_batch
    )
    check_batch(x0, z, t, tokens=tokens)
    return corrector.loss(
        hidden_scores(hidden, output_layer, x0, term.mask_id),
        hidden_scores(corrector_hidden, output_layer, x0, term.mask_id, "corrector_hidden"),
        x0,
        z,
        tokens,
        t,
    )


@dataclass
class CorrectorTerm:
    """ProSeCo's loss less its inputs: the masked term, and the arguments of :func:`proseco_loss` about the other."""

    masked: MaskedTerm
    weighted: bool
    upweight_errors: bool
    score_fixed: bool
    mdlm_weight: float
    corrector_weight: float
    num_items_in_batch: Count

    def __post_init__(self) -> None:
        self.mdlm_weight = number("mdlm_weight", self.mdlm_weight)
        self.corrector_weight = number("corrector_weight", self.corrector_weight)
        if self.num_items_in_batch is not None or self.masked.num_items_in_batch is None:
            return
        if self.score_fixed and self.masked.fixed is not None and self.masked.normalizer != "BL":
            raise ValueError(
                "num_corrector_items_in_batch: expected it beside num_items_in_batch with score_fixed=True, where the "
                "corrector is scored at more positions"
            )
        self.num_items_in_batch = self.masked.num_items_in_batch

    def loss(
        self, scores: Scores, corrector_scores: Scores, x0: Tensor, z: Tensor, tokens: Tensor, t: Tensor
    ) -> LossOutput:
        """Of what the model says of z and of ``tokens``, wherever that comes from."""
        masked = self.masked
        mdlm = masked.loss(scores, x0, z, t)
        scored = (replace(masked, fixed=None) if self.score_fixed else masked).roles(x0).scored
        log_prob, mended = corrector_scores(scored)
        wrong = tokens != x0
        gain = torch.where(wrong, log_prob, log_prob.exp()) if self.upweight_errors else log_prob
        w = (masked if self.weighted else replace(masked, weight="uniform")).time_weight(t.to(x0.device))
        corrector = normalize(
            -w * gain, scored, masked.normalizer, self.num_items_in_batch, "num_corrector_items_in_batch"
        )
        loss = self.mdlm_weight * mdlm.loss + self.corrector_weight * corrector
        with torch.no_grad():
            errors, rights = wrong & scored, ~wrong & scored
            parts = {
                **mdlm.parts,
                "corrector": corrector.detach(),
                "input_errors": share(errors, scored),
                "corrected": share(errors & mended, errors),
                "broken": share(rights & ~mended, rights),
            }
        return LossOutput(loss, parts)
