"""PRISM (arXiv 2510.01384): teach a head the probability that a token is right given all the others.

z = mask(x0);  S: k masked positions of z;  y = z with y_S drawn from the model (no gradient)
L = E[ mean_{i in S} BCE( 1[x0_i = y_i], g_i(y) ) ] + lambda L_MDM
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypedDict

import torch
from torch import Tensor

from .._checks import flag, number, token_id
from .corruption import Corruption, State
from .masking import check_tokens
from .objective import Objective, Term
from .options import Training, made, of_call, takes
from .outputs import LossOutput
from .reader import Reader, Said
from .reading import Reading
from .sources import Given, Inputs, JointDraw, PrismInputs
from .targets import Denoise, Right
from .terms import Count

if TYPE_CHECKING:
    from typing_extensions import Unpack


class Choosing(TypedDict, total=False):
    """How S is chosen and filled: fields of :class:`JointDraw`."""

    k: int
    n_y: int
    positions: str
    leftmost: int | None
    temperature: float
    top_p: float


class PrismOptions(Training, Choosing, total=False):
    """Of :func:`prism_loss`."""


class InputOptions(Choosing, total=False):
    """Of the functions that only choose and fill."""

    generator: torch.Generator | None


@takes(PrismOptions)
def prism_loss(
    model: Any,
    x0: Tensor,
    *,
    mask_id: int,
    head: Callable[..., Tensor] | None = None,
    train_backbone: bool = True,
    mdlm_weight: float | None = None,
    t_min: float = 1e-3,
    num_chosen_in_batch: Count = None,
    **options: Unpack[PrismOptions],
) -> LossOutput:
    """One step of PRISM's fine-tuning: a forward on z, n_y draws of y, a forward on every y, the head on its states.

    The minimiser of the first term at k = 1 is ``g_i(y) = p(x_i = y_i | y with i masked)``, whatever model drew y
    (Proposition 1); at k > 1 it averages ``p(x_i = y_i | y with S masked)`` over S, less informed (docs/losses.md).

    Args:
        model: as in :func:`mdlm_loss`. Best made by ``heads.attach``, wrapped or not (DDP, FSDP, ``torch.compile``):
            its head is then asked within its forward. Another one has hidden states in its output: ``hidden``,
            ``last_hidden_state``, or the last of ``hidden_states``.
        x0, mask_id, t, t_min, antithetic, schedule, fixed, loss_mask, attention_mask, condition, generator, forward,
            output_layer, check: as in :func:`mdlm_loss`. ``loss_mask`` also keeps S within the scored positions. The
            condition of the model's output, not the argument, goes to the head.
        head: ``head(hidden, condition) -> logits [B * n_y, L]``; None takes that of the model.
        k: number of masked positions filled and judged per y, 1 <= k <= L; a row with fewer masks fills all of them.
        n_y: draws of y per z; positions are drawn anew for each.
        positions: "random" (uniform among the masks) or "confidence" (the k with the highest maximum probability,
            PRISM's variant for LLaDA).
        leftmost: choose only among each row's leftmost masks, this many (LLaDA variant: 512); None for all.
        temperature, top_p: how y is drawn; temperature 0 is the argmax (LLaDA variant), which any top_p keeps; top_p
            drops the crossing token.
        train_backbone: False runs both forwards without gradient and detaches the head's inputs. Dropout is not
            switched off: call ``model.eval()``.
        mdlm_weight: lambda (paper: 5 on Sudoku, 0.5 on OpenWebText). None: 1 with a trained backbone, 0 with a frozen.
        weight, normalizer, num_items_in_batch: of the masked diffusion term alone. The quality term is the mean over
            chosen positions.
        num_chosen_in_batch: divide the quality term by this number instead of by that of the chosen positions:
            ``k * n_y`` for each row of the whole batch where gradients are accumulated, or where rows with fewer masks
            shall weigh less (PRISM's code for LLaDA).

    Returns:
        ``LossOutput`` with parts "quality" (mean BCE), "mdlm", "right" (share of chosen tokens that were right) and
        "chosen" (their number). No mask drawn anywhere: the quality term is 0.

    Raises:
        ValueError, TypeError: besides those of :func:`mdlm_loss`: k > L, n_y < 1, a frozen backbone with
            mdlm_weight > 0, a head or hidden states that are missing or of the wrong shape; a head whose gradients
            processes would not share.
    """
    train_backbone = flag("train_backbone", train_backbone)
    mdlm_weight = float(train_backbone) if mdlm_weight is None else number("mdlm_weight", mdlm_weight)
    if not train_backbone and mdlm_weight:
        raise ValueError(f"mdlm_weight: expected 0 with train_backbone=False, got {mdlm_weight}")
    items = options.get("num_items_in_batch")
    _check_counts(mdlm_weight, items, num_chosen_in_batch)
    denoise = Term(Given(), made(Denoise, options), mdlm_weight)
    quality = Term(made(JointDraw, options), Right())
    objective = Objective(
        [quality, denoise] if mdlm_weight else [quality],
        made(Corruption, options, t_min=t_min),
        made(Reader, options, head=head, train_backbone=train_backbone),
    )
    counts = {"mdlm": items, "quality": num_chosen_in_batch} if mdlm_weight else {"quality": num_chosen_in_batch}
    return objective(model, x0, mask_id=mask_id, counts=counts, **of_call(options))


@takes(InputOptions)
def prism_inputs(
    logits: Tensor, z: Tensor, *, mask_id: int, eligible: Tensor | None = None, **options: Unpack[InputOptions]
) -> PrismInputs:
    """Choose S among the masks of ``z`` and fill it from ``logits [B, L, V]``, without gradient.

    S depends on z alone, never on the drawn tokens: the proposition needs that. Tokens are drawn at S only, so the
    float64 work is on ``[B, n_y * k, V]``.
    """
    mask_id = token_id("mask_id", mask_id)
    return _choose(Reading.of_logits(logits, z, mask_id), z, mask_id, eligible, options)


@takes(InputOptions)
def prism_inputs_from_hidden(
    hidden: Tensor,
    output_layer: Any,
    z: Tensor,
    *,
    mask_id: int,
    eligible: Tensor | None = None,
    **options: Unpack[InputOptions],
) -> PrismInputs:
    """:func:`prism_inputs` of ``output_layer(hidden)`` without those logits; its draws are others, of one law."""
    mask_id = token_id("mask_id", mask_id)
    with torch.no_grad():
        reading = Reading.of_hidden(hidden, output_layer, z, mask_id)
    return _choose(reading, z, mask_id, eligible, options)


def _choose(reading: Reading, z: Tensor, mask_id: int, eligible: Tensor | None, options: InputOptions) -> PrismInputs:
    source = made(JointDraw, options)
    inputs = source.fill(z, source.choose(z, mask_id, eligible), reading, options.get("generator"))
    return PrismInputs(inputs.tokens, inputs.selected)


def prism_loss_from_logits(
    quality_logit: Tensor, x0: Tensor, y: Tensor, selected: Tensor, *, num_chosen_in_batch: Count = None
) -> LossOutput:
    """The quality term alone: mean over ``selected`` of ``BCE(1[x0 = y], sigmoid(quality_logit))``.

    Args:
        quality_logit: ``[B * n_y, L]`` logits of g on y.
        x0: int64 ``[B, L]`` clean tokens.
        y, selected: from :func:`prism_inputs`, ``[B * n_y, L]``. Where x0 is -100 nothing counts as selected.
        num_chosen_in_batch: as in :func:`prism_loss`.
    """
    check_tokens(x0)
    state = State(x0, x0, torch.ones(len(x0), dtype=torch.float32, device="cpu"), mask_id=-1)
    return Right().loss(Said(quality=quality_logit), Inputs(y, selected), state, num_chosen_in_batch)


def _check_counts(mdlm_weight: float, items: Count, chosen: Count) -> None:
    """Both terms are sums over the whole accumulated batch, or neither is."""
    if not mdlm_weight and items is not None:
        raise ValueError(f"num_items_in_batch: expected None where mdlm_weight is 0, got {items}")
    if mdlm_weight and (items is None) != (chosen is None):
        missing, given = ("num_items_in_batch", "num_chosen_in_batch")[:: 1 if items is None else -1]
        raise ValueError(
            f"{missing}: expected it beside {given}; the masked term is divided by the one, the quality term, of "
            "k * n_y positions a row, by the other"
        )
