"""What the losses need of logits, from hidden states and the output layer: logits ``[B, L, V]`` need not exist.

They are not made where the layer is known to be a product with a weight. Any other layer is called, once a forward, and
its logits go the way of a model's logits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from ..layers import hooked, is_plain
from ..model import check_logits
from ..ops import score_hidden
from ..wrappers import unwrapped
from .outputs import Shifted, read_field, read_hidden, shifted

# What language models of transformers do to logits behind their output layer: names of their configurations, and the
# values that do nothing.
_AFTER_THE_LAYER = {"final_logit_softcapping": None, "logits_scaling": 1, "logit_scale": 1, "lm_head_multiplier": 1}


@dataclass(frozen=True)
class Product:
    """An output layer that is a product: ``weight [V, D]`` and ``bias [V]`` or None."""

    weight: Tensor
    bias: Tensor | None = None


def check_output_layer(model: Any, output_layer: Any) -> None:
    """Raise if the model's configuration says that its logits are more than its output layer makes.

    A function or a module of the caller's own is taken to know that.
    """
    if output_layer is None:
        return
    bare = isinstance(output_layer, (Tensor, nn.Linear, nn.Embedding)) or hasattr(output_layer, "base_layer")
    config = getattr(unwrapped(model), "config", None)
    if not bare or config is None:
        return
    config = config.get_text_config() if hasattr(config, "get_text_config") else config
    for name, neutral in _AFTER_THE_LAYER.items():
        value = getattr(config, name, neutral)
        if value is not None and value != neutral:
            raise ValueError(
                f"output_layer: the model's configuration says {name}={value}, which this layer leaves out; give a "
                "function of the hidden states that returns the model's logits, or let the model return them"
            )


def as_product(hidden: Tensor, output_layer: Any) -> tuple[Tensor, Product] | None:
    """Hidden states and weights whose product is ``output_layer(hidden)``, None where that is not known.

    Known are a weight, an ``nn.Linear`` and an ``nn.Embedding`` (tied weights) that are no more than their class says,
    each also behind ``torch.compile``, and peft's LoRA on such a linear layer, whose adapter widens D by its rank.

    Raises:
        TypeError: an embedding that is more than a table, a weight that is not ``[V, D]``, or no layer at all.
    """
    if isinstance(output_layer, Product):
        return hidden, output_layer
    if isinstance(output_layer, Tensor):
        return hidden, Product(_matrix(output_layer))
    if "_orig_mod" in getattr(output_layer, "_modules", ()) and not hooked(output_layer):  # torch.compile
        output_layer = output_layer._orig_mod
    if is_plain(output_layer, nn.Linear):
        return hidden, Product(_matrix(output_layer.weight), output_layer.bias)
    if is_plain(output_layer, nn.Embedding):
        return hidden, Product(_matrix(output_layer.weight))
    if isinstance(getattr(output_layer, "base_layer", output_layer), nn.Embedding):
        raise TypeError(
            f"output_layer: an embedding with hooks, adapters or a class of its own ({type(output_layer).__name__}) "
            "does not say what logits it makes; give its weight [V, D], or a function of the hidden states"
        )
    if not callable(output_layer):
        raise TypeError(
            "output_layer: expected a weight [V, D], a layer or a function of the hidden states, "
            f"got {type(output_layer).__name__}"
        )
    if (type(output_layer).__module__, type(output_layer).__qualname__) == ("peft.tuners.lora.layer", "Linear"):
        return _lora_product(hidden, output_layer)
    return None


def _matrix(weight: Tensor) -> Tensor:
    if is_traceable_wrapper_subclass(weight):
        raise TypeError(
            f"output_layer: expected an ordinary tensor, got {type(weight).__name__}; give the layer it belongs to, "
            "which knows how to multiply with it"
        )
    if weight.ndim != 2:
        raise TypeError(
            f"output_layer: expected a weight [V, D], got {list(weight.shape)}; of a sharded layer, let the model make "
            "the logits"
        )
    return weight


def _lora_product(hidden: Tensor, layer: Any) -> tuple[Tensor, Product] | None:
    """``W x + s B A dropout(x)`` is one product, of ``[W, s B]`` with ``[x, A dropout(x)]``.

    Other than ``W + s B A`` this is right with dropout too, and a small adapter is not lost in the rounding of W.
    """
    active = [name for name in layer.active_adapters if name in layer.lora_A]
    adapters = [part[name] for part in (layer.lora_A, layer.lora_B) for name in active]
    known = (
        is_plain(layer, type(layer))
        and is_plain(layer.base_layer, nn.Linear)
        and all(is_plain(part, nn.Linear) and part.bias is None for part in adapters)
        and not layer.lora_variant  # DoRA and others
        and not (layer.disable_adapters and layer.merged)  # which its call unmerges
    )
    if not known:
        return None
    base = layer.base_layer
    if layer.disable_adapters or layer.merged or not active:
        return hidden, Product(_matrix(base.weight), base.bias)
    states, weights = [hidden], [base.weight]
    for name in active:
        down, up = layer.lora_A[name], layer.lora_B[name]
        low = down(layer.lora_dropout[name](hidden.to(down.weight.dtype)))
        states.append(low.to(hidden.dtype))
        weights.append((up.weight * layer.scaling[name]).to(base.weight.dtype))
    return torch.cat(states, -1), Product(torch.cat(weights, 1), base.bias)


def read_layer(hidden: Any, output_layer: Any, tokens: Tensor, mask_id: int, source: str = "hidden") -> tuple[Any, Any]:
    """Hidden states and the :class:`Product` that makes logits of them; or logits ``[B, L, V]`` and None.

    Raises:
        TypeError, ValueError: ``hidden`` is not floating ``[B, L, D]`` over ``tokens [B, L]``, the layer's weight not
            of D, its answer not logits, ``mask_id`` not in V.
    """
    if not isinstance(hidden, Tensor) or not hidden.is_floating_point():
        got = hidden.dtype if isinstance(hidden, Tensor) else type(hidden).__name__
        raise TypeError(f"{source}: expected floating hidden states, got {got}")
    if hidden.ndim != 3 or hidden.shape[:2] != tokens.shape:
        raise ValueError(f"{source}: expected [{tokens.shape[0]}, {tokens.shape[1]}, D], got {list(hidden.shape)}")
    found = as_product(hidden, output_layer)
    if found is None:
        logits = _call(output_layer, hidden)
        check_logits(logits, tokens, mask_id, "output_layer")
        return logits, None
    hidden, product = found
    weight = product.weight
    if weight.shape[1] != hidden.shape[2]:
        raise ValueError(f"output_layer: expected weights [V, {hidden.shape[2]}], got {list(weight.shape)}")
    if not 0 <= mask_id < weight.shape[0]:
        raise ValueError(f"mask_id: expected an id within the {weight.shape[0]} ids of output_layer, got {mask_id}")
    return hidden, product


def _call(output_layer: Any, hidden: Tensor) -> Any:
    """All positions: a layer that is not known may do with ``[B, L, D]`` what it does not with some rows of it."""
    weight = getattr(output_layer, "weight", None) if isinstance(output_layer, nn.Linear) else None
    if type(weight).__name__ == "DTensor" and type(hidden) is Tensor and not hooked(output_layer):
        raise ValueError(
            "output_layer: its weight is a shard outside the model's forward; shard the layer by itself "
            "(fully_shard(layer)), which gathers it when it is called, or let the model make the logits"
        )
    answer = output_layer(hidden)
    logits = None if isinstance(answer, Tensor) else read_field(answer, "logits")
    return answer if logits is None else logits


def rows_of(used: Tensor) -> Tensor | None:
    """Numbers ``b * L + l`` of the positions used, for ``row_index``, so that no others are multiplied.

    How many they are is known on the host: on a GPU that waits for it. None, for all rows, where nobody may wait: in
    ``torch.compile`` and while a CUDA graph is captured.
    """
    if torch.compiler.is_compiling() or (used.is_cuda and torch.cuda.is_current_stream_capturing()):
        return None
    return used.flatten().nonzero()[:, 0]


def score_product(
    hidden: Tensor, product: Product, used: Tensor | None, suppress: int | None, score: str, **options: Any
) -> Tensor:
    """The score of that name of :func:`mdmcorrect.ops.score_hidden`, ``[B, L]``; ``used`` None is all positions."""
    if hidden.dtype == torch.float64:  # which the loss takes: a draw needs no more than float32
        bias = None if product.bias is None else product.bias.float()
        hidden, product = hidden.float(), Product(product.weight.float(), bias)
    scores = score_hidden(
        hidden.detach().contiguous(),
        product.weight.detach(),
        None if product.bias is None else product.bias.detach().to(hidden.dtype),
        row_index=None if used is None else rows_of(used),
        suppress=suppress,
        want=(score,),
        **options,
    )
    return getattr(scores, score)


def model_hidden(output: Any) -> Tensor:
    """Hidden states of a model that leaves its output layer to the loss: its output itself, or what that holds."""
    if isinstance(output, Shifted):
        return shifted(model_hidden(output.answer))
    return output if isinstance(output, Tensor) else read_hidden(output)
