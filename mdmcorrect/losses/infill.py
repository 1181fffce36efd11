"""MARIA (arXiv 2502.06901): one linear decoder on the states of a masked and of an autoregressive model, both frozen.

    L = sum_{l : z_l = m} -log softmax( W [h_AR(x)_{l-1}; h_MLM(z)_l] )_{x_l}

The autoregressive model reads the clean sequence, of which its state before l has seen only what is left of l; so the
decoder learns ``p(x_l | x_{<l}, z)``, the next token of an infilling from left to right.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from .corruption import State
from .output_layer import Product, model_hidden
from .outputs import LossOutput, shifted
from .reader import Run, Said
from .reading import Reading
from .sources import Inputs, Source
from .targets import Denoise, Target, read
from .terms import Count, Normalizer, Weight


class InfillDecoder(nn.Linear):
    """``[h_AR; h_MLM] -> logits``, at first the mean of the two models' own logits (a product of experts).

    Args:
        autoregressive: output layer of the autoregressive model, ``[V, D1]``: its weight, or ``nn.Linear``.
        masked: of the masked model, ``[V, D2]``.
    """

    def __init__(self, autoregressive: Tensor | nn.Linear, masked: Tensor | nn.Linear) -> None:
        parts = [layer if isinstance(layer, Tensor) else layer.weight for layer in (autoregressive, masked)]
        if parts[0].ndim != 2 or parts[1].ndim != 2 or parts[0].shape[0] != parts[1].shape[0]:
            shapes = [list(part.shape) for part in parts]
            raise ValueError(f"autoregressive, masked: expected weights [V, D] of one V, got {shapes}")
        biases = [None if isinstance(layer, Tensor) else layer.bias for layer in (autoregressive, masked)]
        weight = torch.cat([part.detach() for part in parts], 1) / 2
        super().__init__(weight.shape[1], weight.shape[0], device=weight.device, dtype=weight.dtype)
        with torch.no_grad():
            self.weight.copy_(weight)
            self.bias.zero_()
            for bias in biases:
                if bias is not None:
                    self.bias.add_(bias.detach() / 2)


@dataclass(frozen=True, eq=False)
class TeacherForced(Source):
    """z itself, and the states of an autoregressive model before each position: ``extra``, ``[B, L, D1]``.

    The first position has none before it and reads its own, so it must not be masked: ``fixed`` there, a token that
    begins every sequence.

    Args:
        model: ``tokens [B, L] -> hidden states``, causal; called on x0 without gradient.
    """

    model: Any

    def draw(self, state: State, reading: Reading | None, run: Run) -> Inputs:
        if state.z.device.type == "cpu" and bool(state.masked[:, 0].any()):
            raise ValueError("fixed: expected the first position to be fixed, which no state is before")
        with torch.no_grad():
            hidden = shifted(model_hidden(self.model(state.x0)))
        return Inputs(state.z, state.masked & state.positions.scored, extra=hidden)


@dataclass(frozen=True, eq=False)
class Infill(Target):
    """The sum above. The masked model's states are read: ``Reader(output_layer=its layer)``, which is left alone.

    Args:
        decoder: :class:`InfillDecoder`, what learns.
        weight, normalizer: as in :class:`Denoise`.
    """

    decoder: nn.Linear
    weight: Weight = "uniform"
    normalizer: Normalizer = "token"

    name: ClassVar[str] = "infill"

    @property
    def learns(self) -> frozenset[str]:
        return frozenset()

    @property
    def modules(self) -> dict[str, Any]:
        return {"decoder": self.decoder}

    def loss(self, said: Said, inputs: Inputs, state: State, count: Count = None) -> LossOutput:
        states = read(said).states
        if said.reading is None or said.reading.product is None:
            raise ValueError("output_layer: expected that of the masked model, whose hidden states are read")
        both = torch.cat([inputs.extra.to(states), states.detach()], -1)
        product = Product(self.decoder.weight, self.decoder.bias)
        own = Said(Reading(both, product, said.reading.suppress))
        result = Denoise(self.weight, self.normalizer).loss(own, inputs, state, count)
        return LossOutput(result.loss, {"infill": result.loss.detach(), "accuracy": result.parts["accuracy"]})
