"""What the losses need of logits, from hidden states and the output layer: logits ``[B, L, V]`` never exist."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..ops import linear_cross_entropy, score_hidden
from .outputs import read_hidden, read_logits
from .terms import Scores, check_drawing, logit_scores


def output_weights(output_layer: Any) -> tuple[Tensor, Tensor | None]:
    """Weight ``[V, D]`` and bias ``[V]`` or None of an output layer: a tensor, or an object with ``weight`` and maybe
    ``bias`` such as ``nn.Linear`` and the ``nn.Embedding`` of tied weights."""
    weight = output_layer if isinstance(output_layer, Tensor) else getattr(output_layer, "weight", None)
    if not isinstance(weight, Tensor) or weight.ndim != 2:
        got = type(output_layer).__name__ if not isinstance(weight, Tensor) else list(weight.shape)
        raise TypeError(f"output_layer: expected a weight [V, D], or a layer that has one, got {got}")
    return weight, None if isinstance(output_layer, Tensor) else getattr(output_layer, "bias", None)


def check_hidden(hidden: Any, output_layer: Any, tokens: Tensor, mask_id: int, source: str = "hidden") -> None:
    """Raise unless ``hidden`` is floating ``[B, L, D]`` over ``tokens [B, L]``, the layer of D, ``mask_id`` in V."""
    weight, _ = output_weights(output_layer)
    if not isinstance(hidden, Tensor) or not hidden.is_floating_point():
        got = hidden.dtype if isinstance(hidden, Tensor) else type(hidden).__name__
        raise TypeError(f"{source}: expected floating hidden states, got {got}")
    if hidden.ndim != 3 or hidden.shape[:2] != tokens.shape:
        raise ValueError(f"{source}: expected [{tokens.shape[0]}, {tokens.shape[1]}, D], got {list(hidden.shape)}")
    if weight.shape[1] != hidden.shape[2]:
        raise ValueError(f"output_layer: expected weights [V, {hidden.shape[2]}], got {list(weight.shape)}")
    if not 0 <= mask_id < weight.shape[0]:
        raise ValueError(f"mask_id: expected an id within the {weight.shape[0]} ids of output_layer, got {mask_id}")


def rows_of(used: Tensor) -> Tensor | None:
    """Numbers ``b * L + l`` of the positions used, for ``row_index``, so that no others are multiplied.

    How many they are is known on the host: on a GPU that waits for it. None, for all rows, where nobody may wait: in
    ``torch.compile`` and while a CUDA graph is captured.
    """
    if torch.compiler.is_compiling() or (used.is_cuda and torch.cuda.is_current_stream_capturing()):
        return None
    return used.flatten().nonzero()[:, 0]


def hidden_scores(hidden: Tensor, output_layer: Any, x0: Tensor, mask_id: int, source: str = "hidden") -> Scores:
    """As :func:`.terms.logit_scores`, without the logits; a target as likely as another counts as right."""
    check_hidden(hidden, output_layer, x0, mask_id, source)
    weight, bias = output_weights(output_layer)

    def scores(used: Tensor) -> tuple[Tensor, Tensor]:
        loss, right = linear_cross_entropy(
            hidden,
            weight,
            x0.masked_fill(~used, -100),
            bias=bias,
            suppress=mask_id,
            row_index=rows_of(used),
            reduction="none",
            return_correct=True,
        )
        return -loss, right

    return scores


def draw_from_hidden(
    hidden: Tensor,
    output_layer: Any,
    used: Tensor | None,
    mask_id: int,
    *,
    temperature: float,
    top_p: float = 1.0,
    generator: torch.Generator | None,
) -> Tensor:
    """``[B, L]``: a token for each position used, -1 elsewhere, of the law of :func:`.terms.draw_tokens`."""
    temperature, top_p = check_drawing(temperature, top_p, generator)
    device = "cpu" if generator is None else generator.device
    options = {
        "temperature": temperature,
        "top_p": None if top_p == 1 else top_p,
        "top_p_rule": "exclusive",
        "seed": torch.randint(-(2**63), 2**63 - 1, (), generator=generator, device=device) if temperature else 0,
    }
    return _score(hidden, output_layer, used, mask_id, "token", **options)


def max_logprob(hidden: Tensor, output_layer: Any, used: Tensor, mask_id: int) -> Tensor:
    """``[B, L]``: the largest log-probability without the mask token, NaN where not used."""
    return _score(hidden, output_layer, used, mask_id, "max_logprob")


def _score(hidden: Tensor, output_layer: Any, used: Tensor | None, mask_id: int, score: str, **options: Any) -> Tensor:
    weight, bias = output_weights(output_layer)
    scores = score_hidden(
        hidden.detach().contiguous(),
        weight,
        None if bias is None else bias.to(hidden.dtype),
        row_index=None if used is None else rows_of(used),
        suppress=mask_id,
        want=(score,),
        **options,
    )
    return getattr(scores, score)


def model_scores(output: Any, output_layer: Any, x0: Tensor, mask_id: int) -> Scores:
    """Of a model's output: its logits, or where there is an output layer its hidden states."""
    if output_layer is None:
        return logit_scores(read_logits(output), x0, mask_id)
    return hidden_scores(model_hidden(output), output_layer, x0, mask_id)


def model_hidden(output: Any) -> Tensor:
    """Hidden states of a model that leaves its output layer to the loss: its output itself, or what that holds."""
    return output if isinstance(output, Tensor) else read_hidden(output)
