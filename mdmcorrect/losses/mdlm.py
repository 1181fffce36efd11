"""The masked diffusion loss: weighted cross-entropy at masked positions (MDLM, arXiv 2406.07524).

L = E_{t, z_t} [ w(t) sum_{l: z_t^l = m} -log x_theta^l(x_0^l | z_t) ],    w(t) = -alpha'(t) / (1 - alpha(t)).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .._checks import token_id
from ..schedules import Schedule, get_schedule
from .arguments import check_generator
from .averaging import check_averaged
from .masking import Roles, assign_roles, check_batch, check_tokens, check_values, draw_times, mask_tokens
from .output_layer import check_output_layer, hidden_scores, model_scores
from .outputs import Forward, LossOutput, call_model
from .terms import Count, Scores, Weight, logit_scores, normalize, share, time_weight


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
    num_items_in_batch: Count = None,
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
        t_min: smallest drawn time. Beside a ``t`` that is given, neither this nor ``antithetic`` has an effect.
        antithetic: one time from each of B equal slices (see ``schedules.sample_times``).
        schedule: "linear", "loglinear", "cosine" or an object with the methods of ``schedules.Schedule``.
        fixed: bool ``[B, L]``, tokens that are never masked and carry no loss: prompts, givens.
        loss_mask: bool ``[B, L]``; where False, tokens may be masked but carry no loss (loss on answers only).
        attention_mask: bool or 0/1 ``[B, L]``; where 0, padding: never masked, no loss, in no denominator but "BL".
        condition: passed to the model.
        weight: "elbo" (w(t), 1/t for the linear schedules), "uniform", or a function of t.
        normalizer: "token" (all scored tokens of the batch, masked or not: MDLM), "BL" (B * L: LLaDA pre-training,
            PRISM's regulariser), "answer" (each row by its number of scored tokens, then by the number of rows that
            have any: LLaDA's fine-tuning).
        num_items_in_batch: divide by this count, an int or a tensor of one number, instead of the batch's own: where
            gradients are accumulated, that of the whole accumulated batch (:func:`count_items`, transformers'
            ``num_items_in_batch``). The losses of its parts then add up to the whole batch's.
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
    term = MaskedTerm(mask_id, schedule, fixed, loss_mask, attention_mask, weight, normalizer, num_items_in_batch)
    check_output_layer(model, output_layer)
    check_averaged(model=model, output_layer=output_layer)
    z, t = term.draw(x0, t, t_min=t_min, antithetic=antithetic, generator=generator, check=check)
    output = call_model(model, z, forward=forward, time=t, attention_mask=attention_mask, condition=condition)
    return term.loss(model_scores(output, output_layer, x0, term.mask_id), x0, z, t)


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
    num_items_in_batch: Count = None,
) -> LossOutput:
    """:func:`mdlm_loss` for who masks and calls the model alone: ``logits [B, L, V]`` of ``z [B, L]`` at ``t [B]``.

    Where ``x0`` is -100, as in labels, nothing is scored.
    """
    term = MaskedTerm(mask_id, schedule, fixed, loss_mask, attention_mask, weight, normalizer, num_items_in_batch)
    check_batch(x0, z, t)
    return term.loss(logit_scores(logits, x0, term.mask_id), x0, z, t)


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
    num_items_in_batch: Count = None,
) -> LossOutput:
    """:func:`mdlm_loss_from_logits` of ``output_layer(hidden)`` without those logits, to their rounding.

    On a GPU one host synchronisation says how many positions carry loss, and only those are multiplied;
    ``torch.compile`` and CUDA graphs multiply all instead.

    Args:
        hidden: ``[B, L, D]`` of ``z``, as the output layer gets them.
        output_layer: ``nn.Linear``, ``nn.Embedding`` of tied weights, or a weight ``[V, D]``, of the dtype of
            ``hidden`` outside autocast. Gradients flow to both.
        x0, z, t, mask_id, schedule, fixed, loss_mask, attention_mask, weight, normalizer, num_items_in_batch: as in
            :func:`mdlm_loss_from_logits`.

    Raises:
        ValueError, TypeError: shapes, dtypes or ids that do not fit, named by argument.
    """
    term = MaskedTerm(mask_id, schedule, fixed, loss_mask, attention_mask, weight, normalizer, num_items_in_batch)
    check_batch(x0, z, t)
    return term.loss(hidden_scores(hidden, output_layer, x0, term.mask_id), x0, z, t)


@dataclass
class MaskedTerm:
    """The masked diffusion loss less its inputs: the arguments of :func:`mdlm_loss` that say what is masked, what is
    scored and how the sum is weighed and divided. What a loss of several terms does of it, it does through this."""

    mask_id: int
    schedule: str | Schedule
    fixed: Tensor | None = None
    loss_mask: Tensor | None = None
    attention_mask: Tensor | None = None
    weight: Weight = "elbo"
    normalizer: str = "token"
    num_items_in_batch: Count = None

    def __post_init__(self) -> None:
        self.mask_id = token_id("mask_id", self.mask_id)
        self.law = get_schedule(self.schedule)

    def roles(self, x0: Tensor) -> Roles:
        return assign_roles(x0, fixed=self.fixed, loss_mask=self.loss_mask, attention_mask=self.attention_mask)

    def draw(
        self,
        x0: Tensor,
        t: Tensor | None,
        *,
        t_min: float,
        antithetic: bool,
        generator: torch.Generator | None,
        check: bool,
    ) -> tuple[Tensor, Tensor]:
        """Masked tokens ``[B, L]`` and their times ``[B]``, everything checked that the loss was given."""
        check_tokens(x0, t)
        check_generator(generator)
        roles = self.roles(x0)
        if check:
            masks = {"fixed": self.fixed, "loss_mask": self.loss_mask, "attention_mask": self.attention_mask}
            check_values(x0, self.mask_id, roles, t, **masks)
        t = draw_times(x0, t, t_min=t_min, antithetic=antithetic, generator=generator)
        z = mask_tokens(x0, t, mask_id=self.mask_id, schedule=self.law, free=roles.free, generator=generator)
        return z, t

    def time_weight(self, t: Tensor) -> Tensor:
        """``[B, 1]``."""
        return time_weight(self.weight, self.law, t).unsqueeze(-1)

    def loss(self, scores: Scores, x0: Tensor, z: Tensor, t: Tensor) -> LossOutput:
        """Of what the model says of z, wherever that comes from."""
        roles = self.roles(x0)
        masked = (z == self.mask_id) & roles.scored
        w = self.time_weight(t.to(x0.device))
        log_prob, right = scores(masked)
        # The weight is masked too: at t = 0 it is infinite, and 0 * inf would reach the gradient as NaN.
        per_token = -w.where(masked, 0) * log_prob
        loss = normalize(per_token, roles.scored, self.normalizer, self.num_items_in_batch)
        with torch.no_grad():
            parts = {
                "mdlm": loss.detach(),
                "masked": share((z == self.mask_id) & roles.free, roles.free),
                "accuracy": share(right & masked, masked),
            }
        return LossOutput(loss, parts)
