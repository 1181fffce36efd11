"""What a model says of tokens, wherever it comes from: logits, or hidden states whose logits are never made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..model import check_logits
from ..ops import linear_cross_entropy
from .output_layer import Product, model_hidden, read_layer, rows_of, score_product
from .outputs import read_logits
from .terms import check_drawing, check_targets, draw_tokens, score_targets, without_mask


@dataclass(frozen=True)
class Reading:
    """One forward's answer about every position of its tokens.

    Args:
        states: logits ``[B, L, V]``, or hidden states ``[B, L, D]``.
        product: the output layer that makes logits of hidden states; None where ``states`` are the logits.
        suppress: the mask token, -inf in every softmax, argmax and draw; None where it keeps its share.
    """

    states: Tensor
    product: Product | None = None
    suppress: int | None = None

    @classmethod
    def of_logits(
        cls, logits: Any, tokens: Tensor, mask_id: int, *, keep_mask: bool = False, name: str = "logits"
    ) -> Reading:
        check_logits(logits, tokens, mask_id, name)
        return cls(logits, None, None if keep_mask else mask_id)

    @classmethod
    def of_hidden(
        cls, hidden: Any, layer: Any, tokens: Tensor, mask_id: int, *, keep_mask: bool = False, name: str = "hidden"
    ) -> Reading:
        """Of ``layer(hidden)``, which is made only where the layer is no product that is known."""
        states, product = read_layer(hidden, layer, tokens, mask_id, name)
        return cls(states, product, None if keep_mask else mask_id)

    @classmethod
    def of_output(cls, output: Any, layer: Any, tokens: Tensor, mask_id: int, **options: Any) -> Reading:
        """Of a model's output: its logits, or where there is an output layer its hidden states."""
        if layer is None:
            return cls.of_logits(read_logits(output), tokens, mask_id, **options)
        return cls.of_hidden(model_hidden(output), layer, tokens, mask_id, **options)

    def score(self, targets: Tensor, used: Tensor) -> tuple[Tensor, Tensor]:
        """``log p(targets)`` and whether the argmax is the target, both ``[B, L]``, for ``used`` positions.

        Elsewhere the log-probability is 0. A target as likely as another counts as right where hidden states are read.
        """
        if self.product is None:
            return score_targets(self.states, targets, used, self.suppress)
        weight, bias = self.product.weight, self.product.bias
        check_targets(targets, used, weight.shape[0])
        loss, right = linear_cross_entropy(
            self.states,
            weight,
            targets.masked_fill(~used, -100),
            bias=bias,
            suppress=self.suppress,
            row_index=rows_of(used),
            reduction="none",
            return_correct=True,
        )
        return -loss, right

    def logits(self) -> Tensor:
        """``[B, L, V]``, made of the hidden states where that is what there is."""
        if self.product is None:
            return self.states
        return torch.nn.functional.linear(self.states, self.product.weight, self.product.bias)

    def log_probs(self) -> Tensor:
        """``[B, L, V]``, float32 or float64, for the losses that compare whole distributions."""
        logits = self.logits()
        with torch.autocast(logits.device.type, enabled=False):
            return without_mask(logits, self.suppress).log_softmax(-1)

    def confidence(self, used: Tensor) -> Tensor:
        """``[B, L]``: the largest log-probability, of the positions used at least; no gradient."""
        if self.product is not None:
            return score_product(self.states, self.product, used, self.suppress, "max_logprob")
        scores = without_mask(self.states.detach(), self.suppress)
        return -(scores - scores.amax(-1, keepdim=True)).logsumexp(-1)

    def at(self, index: Tensor) -> Reading:
        """The same of the positions ``index [B, K]`` alone, without gradient."""
        states = self.states.detach()
        rows = states.gather(1, index.unsqueeze(-1).expand(-1, -1, states.shape[-1]))
        return Reading(rows, self.product, self.suppress)

    def draw(
        self,
        used: Tensor | None = None,
        *,
        temperature: float = 1.0,
        top_p: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """A token for each position, ``[B, L]``; where not ``used`` any, or -1. Of hidden states the draws are others,
        of the same law."""
        if self.product is None:
            scores = without_mask(self.states.detach(), self.suppress)
            return draw_tokens(scores, temperature=temperature, top_p=top_p, generator=generator)
        temperature, top_p = check_drawing(temperature, top_p, generator)
        device = "cpu" if generator is None else generator.device
        seed = torch.randint(-(2**63), 2**63 - 1, (), generator=generator, device=device) if temperature else 0
        options = {"temperature": temperature, "top_p": None if top_p == 1 else top_p, "top_p_rule": "exclusive"}
        return score_product(self.states, self.product, used, self.suppress, "token", seed=seed, **options)
