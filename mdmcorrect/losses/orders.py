"""Learned orders: each position has a schedule of its own, and the bound says which positions come first.

    L = E_z sum_{l : z_l = m} w_l / t (-log x_theta(x_l | z)),    1 - alpha_{t,l} = t^{w_l}

(masked diffusion as learned-order autoregression, arXiv 2511.19152, equation 8). Positions are then written in the
order of Plackett and Luce with the weights w: a large w_l is masked late and written early.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from .. import _checks
from .arguments import divisor, uniforms
from .corruption import Corruption, State
from .outputs import LossOutput
from .reader import Said
from .sources import Inputs
from .targets import Denoise, Target, read
from .terms import Count, Weight


class OrderWeights(nn.Module):
    """``w = exp(logits)``, one for each position; 1 at first, which is the linear schedule.

    Args:
        length: L.
    """

    def __init__(self, length: int) -> None:
        super().__init__()
        length = _checks.integer("length", length, minimum=1, what="a positive length")
        self.logits = nn.Parameter(torch.zeros(length, dtype=torch.float32, device="cpu"))

    def forward(self) -> Tensor:
        return self.logits.exp()


@dataclass(frozen=True, eq=False)
class Orders(Corruption):
    """Masks each position with probability ``t^w_l``; "elbo" weighs it ``w_l / t``.

    Args:
        weights: w ``[L]`` above 0, or a module that gives them.
    """

    weights: Tensor | OrderWeights | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.weights, (Tensor, nn.Module)):
            raise TypeError(f"weights: expected a tensor [L] or OrderWeights, got {type(self.weights).__name__}")

    @property
    def modules(self) -> dict[str, Any]:
        return {"weights": self.weights} if isinstance(self.weights, nn.Module) else {}

    def powers(self, t: Tensor) -> Tensor:
        """w, on t's device."""
        w = self.weights if isinstance(self.weights, Tensor) else self.weights()  # type: ignore[misc]
        return w.to(t.device)

    def mask_probability(self, t: Tensor) -> Tensor:
        """``[B, L]``."""
        return t.unsqueeze(-1) ** self.powers(t)

    def weight(self, weight: Weight, t: Tensor) -> Tensor:
        if weight != "elbo":
            return super().weight(weight, t)
        return self.powers(t) / t.unsqueeze(-1)

    def noise(self, x0: Tensor, t: Tensor, *, mask_id: int, free: Tensor, generator: torch.Generator | None) -> Tensor:
        with torch.no_grad():
            masked = uniforms(x0, generator) < self.mask_probability(t.to(x0.device))
        return torch.where(masked & free, mask_id, x0)

    def log_prob(self, z: Tensor, t: Tensor, mask_id: int, free: Tensor) -> Tensor:
        """``log q(z | x0)``, ``[B]``, with a gradient to w."""
        p = self.mask_probability(t)
        # The other case's logarithm would send 0 * inf to w.
        chance = torch.where(z == mask_id, p, 1 - p).masked_fill(~free, 1)
        return chance.log().sum(-1)


@dataclass(frozen=True)
class LearnedOrder(Target):
    """:class:`Denoise` with the gradient of w that runs through the masking, estimated by leave-one-out (RLOO).

    Give every sequence ``samples`` times, neighbours together: each is the baseline of the others. The value is that of
    :class:`Denoise`; the schedule is :class:`Orders`.

    Args:
        samples: rows of a sequence, at least 2.
    """

    samples: int = 2

    name: ClassVar[str] = "order"

    def loss(self, said: Said, inputs: Inputs, state: State, count: Count = None) -> LossOutput:
        noise = state.corruption
        if not isinstance(noise, Orders):
            raise TypeError(f"corruption: expected Orders(...) for this target, got {type(noise).__name__}")
        rows = len(state.x0)
        samples = _checks.integer("samples", self.samples, minimum=2, what="at least two rows of a sequence")
        if rows % samples:
            raise ValueError(f"samples: expected each sequence {samples} times, got {rows} rows")
        result = Denoise().loss(said, inputs, state, count)
        scored = state.positions.scored
        whole = scored.sum().clamp(min=1) if count is None else divisor(self.count, count, result.loss)
        with torch.no_grad():
            masked = state.masked & scored
            log_prob, _ = read(said).score(state.x0, masked)
            per_row = -(state.weight("elbo").where(masked, 0) * log_prob).sum(-1)
            groups = per_row.view(-1, samples)
            others = (groups.sum(-1, keepdim=True) - groups) / (samples - 1)
            gain = (groups - others).view(-1)
        log_q = noise.log_prob(state.z, state.t, state.mask_id, state.positions.free)
        moved = (gain * log_q).sum() / whole
        parts = {"order": result.loss.detach(), "accuracy": result.parts["accuracy"]}
        return LossOutput(result.loss + moved - moved.detach(), parts)
