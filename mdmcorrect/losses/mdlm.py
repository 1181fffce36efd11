"""The masked diffusion loss: weighted cross-entropy at masked positions (MDLM, arXiv 2406.07524).

L = E_{t, z_t} [ w(t) sum_{l: z_t^l = m} -log x_theta^l(x_0^l | z_t) ],    w(t) = -alpha'(t) / (1 - alpha(t)).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from .corruption import Corruption, State
from .masking import Roles
from .objective import Objective, Term
from .options import Scoring, Training, made, of_call, takes
from .outputs import LossOutput
from .reader import Reader
from .sources import Given
from .targets import Denoise

if TYPE_CHECKING:
    from typing_extensions import Unpack


@takes(Training)
def mdlm_loss(model: Any, x0: Tensor, *, mask_id: int, t_min: float = 1e-3, **options: Unpack[Training]) -> LossOutput:
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
            have any: LLaDA's fine-tuning), or a number n for B * n.
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
    corruption = made(Corruption, options, t_min=t_min)
    objective = Objective([Term(Given(), made(Denoise, options))], corruption, made(Reader, options))
    counts = {"mdlm": options.get("num_items_in_batch")}
    return objective(model, x0, mask_id=mask_id, counts=counts, **of_call(options))


@takes(Scoring)
def mdlm_loss_from_logits(
    logits: Tensor, x0: Tensor, z: Tensor, t: Tensor, *, mask_id: int, **options: Unpack[Scoring]
) -> LossOutput:
    """:func:`mdlm_loss` for who masks and calls the model alone: ``logits [B, L, V]`` of ``z [B, L]`` at ``t [B]``.

    Where ``x0`` is -100, as in labels, nothing is scored.
    """
    return _of_outputs(logits, Reader(), x0, z, t, mask_id, options)


@takes(Scoring)
def mdlm_loss_from_hidden(
    hidden: Tensor, output_layer: Any, x0: Tensor, z: Tensor, t: Tensor, *, mask_id: int, **options: Unpack[Scoring]
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
    return _of_outputs(hidden, Reader(output_layer=output_layer), x0, z, t, mask_id, options)


def _of_outputs(
    output: Tensor, reader: Reader, x0: Tensor, z: Tensor, t: Tensor, mask_id: int, options: Scoring
) -> LossOutput:
    corruption, roles = made(Corruption, options), made(Roles, options)
    objective = Objective([Term(Given(), made(Denoise, options))], corruption, reader)
    state = State.given(x0, z, t, mask_id=mask_id, roles=roles, corruption=corruption)
    names = ("logits" if reader.output_layer is None else "hidden", "")
    return objective.from_outputs(state, output, counts={"mdlm": options.get("num_items_in_batch")}, names=names)
