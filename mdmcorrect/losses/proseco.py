"""ProSeCo (arXiv 2602.11590): train the model itself to map its own outputs back to the data.

    y_t = argmax x_theta(z_t) at all positions, without gradient
    L = E[ w(t) ( sum_{l: z_t^l = m} -log x_theta^l(x_0^l | z_t)  +  sum_l -log x_theta^l(x_0^l | y_t) ) ]

The second sum also runs over positions that were clean, where w(t) = 1/t has no mask probability t to cancel it: its
expectation grows like log(1/t_min). Hence ``t_min`` is an argument that matters, 0.1 in the paper's OpenWebText runs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypedDict

import torch
from torch import Tensor

from .._checks import number, token_id
from .arguments import check_generator
from .corruption import Corruption, State
from .masking import Roles
from .objective import Objective, Term
from .options import Scoring, Training, made, of_call, takes
from .outputs import LossOutput
from .reader import Reader
from .reading import Reading
from .sources import Given, Inputs, ModelOutput
from .targets import Correct, Denoise
from .terms import Count, check_drawing

if TYPE_CHECKING:
    from typing_extensions import Unpack


class Replacing(TypedDict, total=False):
    """How the corrector's input is made: fields of :class:`ModelOutput`."""

    inputs: str
    input_positions: str
    temperature: float


class Correcting(TypedDict, total=False):
    """How it is scored: fields of :class:`Correct`, the terms' factors and counts."""

    weighted: bool
    upweight_errors: bool
    score_fixed: bool
    mdlm_weight: float
    corrector_weight: float
    num_corrector_items_in_batch: Count


class ProsecoOptions(Training, Replacing, Correcting, total=False):
    """Of :func:`proseco_loss`."""


class FormOptions(Scoring, Correcting, total=False):
    """Of the forms that take what a model said."""


class InputOptions(Replacing, total=False):
    """Of the functions that only make the input."""

    generator: torch.Generator | None


@takes(ProsecoOptions)
def proseco_loss(
    model: Any, x0: Tensor, *, mask_id: int, t_min: float = 0.1, **options: Unpack[ProsecoOptions]
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
    source, corruption = made(ModelOutput, options), made(Corruption, options, t_min=t_min)
    check_drawing(source.temperature, 1.0, options.get("generator"))
    objective = _objective(source, corruption, made(Reader, options), options)
    return objective(model, x0, mask_id=mask_id, counts=_counts(options), **of_call(options))


@takes(FormOptions)
def proseco_loss_from_logits(
    logits: Tensor,
    corrector_logits: Tensor,
    x0: Tensor,
    z: Tensor,
    tokens: Tensor,
    t: Tensor,
    *,
    mask_id: int,
    **options: Unpack[FormOptions],
) -> LossOutput:
    """:func:`proseco_loss` for who calls the model alone: ``logits`` of ``z``, ``corrector_logits`` of ``tokens``.

    Both terms are divided alike, by the positions the masked term may score (``score_fixed`` adds to the corrector's
    sum and to its own divisor).
    """
    return _of_outputs(logits, corrector_logits, Reader(), (x0, z, tokens, t), mask_id, options)


@takes(FormOptions)
def proseco_loss_from_hidden(
    hidden: Tensor, corrector_hidden: Tensor, output_layer: Any, x0: Tensor, z: Tensor, tokens: Tensor, t: Tensor,
    *, mask_id: int, **options: Unpack[FormOptions],
) -> LossOutput:  # fmt: skip
    """:func:`proseco_loss_from_logits` of ``output_layer(hidden)`` and ``output_layer(corrector_hidden)`` without
    those logits."""
    reader = Reader(output_layer=output_layer)
    return _of_outputs(hidden, corrector_hidden, reader, (x0, z, tokens, t), mask_id, options)


def _objective(source: ModelOutput, corruption: Corruption, reader: Reader, options: Any) -> Objective:
    weights = [number(name, options.get(name, 1.0)) for name in ("mdlm_weight", "corrector_weight")]
    denoise = Term(Given(), made(Denoise, options), weights[0])
    return Objective([denoise, Term(source, made(Correct, options), weights[1])], corruption, reader)


def _counts(options: Any) -> dict[str, Count]:
    """The masked term's divisor and the corrector's, which is the same one unless it is scored at more positions."""
    items, corrector = options.get("num_items_in_batch"), options.get("num_corrector_items_in_batch")
    if corrector is None and items is not None:
        more = options.get("score_fixed", False) and options.get("fixed") is not None
        if more and options.get("normalizer") != "BL":
            raise ValueError(
                "num_corrector_items_in_batch: expected it beside num_items_in_batch with score_fixed=True, where the "
                "corrector is scored at more positions"
            )
        corrector = items
    return {"mdlm": items, "corrector": corrector}


def _of_outputs(
    output: Tensor, corrector_output: Tensor, reader: Reader, tokens: tuple[Tensor, ...], mask_id: int, options: Any
) -> LossOutput:
    corruption, counts = made(Corruption, options), _counts(options)
    objective = _objective(ModelOutput(), corruption, reader, options)
    x0, z, read, t = tokens
    state = State.given(x0, z, t, mask_id=mask_id, roles=made(Roles, options), corruption=corruption, tokens=read)
    kind = "logits" if reader.output_layer is None else "hidden"
    inputs = [Inputs(read, torch.ones_like(read, dtype=torch.bool))]
    names = (kind, f"corrector_{kind}")
    return objective.from_outputs(state, output, inputs, [corrector_output], counts=counts, names=names)


@takes(InputOptions)
def corrector_inputs(
    logits: Tensor, x0: Tensor, z: Tensor, *, mask_id: int, free: Tensor | None = None, **options: Unpack[InputOptions]
) -> Tensor:
    """What the corrector reads, int64 ``[B, L]``, no gradient, no mask token.

    Args:
        logits: ``[B, L, V]`` of ``z``.
        x0, z: int64 ``[B, L]``.
        free: bool ``[B, L]``; elsewhere (fixed, padding) x0 stays, and z where x0 is -100. None for all free.
        inputs, input_positions, temperature, generator: as in :func:`proseco_loss`.
    """
    mask_id = token_id("mask_id", mask_id)
    return _replaced(Reading.of_logits(logits, z, mask_id), x0, z, mask_id, free, options)


@takes(InputOptions)
def corrector_inputs_from_hidden(
    hidden: Tensor,
    output_layer: Any,
    x0: Tensor,
    z: Tensor,
    *,
    mask_id: int,
    free: Tensor | None = None,
    **options: Unpack[InputOptions],
) -> Tensor:
    """:func:`corrector_inputs` of ``output_layer(hidden)`` without those logits; its draws are others, of one law."""
    mask_id = token_id("mask_id", mask_id)
    with torch.no_grad():
        reading = Reading.of_hidden(hidden, output_layer, z, mask_id)
    return _replaced(reading, x0, z, mask_id, free, options)


def _replaced(
    reading: Reading, x0: Tensor, z: Tensor, mask_id: int, free: Tensor | None, options: InputOptions
) -> Tensor:
    generator = options.get("generator")
    check_generator(generator)
    return made(ModelOutput, options).replace(x0, z, mask_id, free, reading, generator).tokens
