"""Reward steering of a masked diffusion model (DDPP-LB, arXiv 2410.08134).

The steered model is to satisfy ``q(x0 | z) ~ p(x0 | z) R(x0)^(1/beta)``, p the pretrained model. For a clean sequence
of known reward, masked at a random time, the squared residual of that equation is the loss; the normaliser
``log Z(z, t)`` is learned beside it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from .._checks import positive
from .arguments import divisor, tensor
from .corruption import Corruption, State
from .objective import Objective, Term
from .options import Steering, made, of_call, takes
from .outputs import LossOutput
from .reader import Reader, Run, Said
from .reading import Reading
from .sources import Inputs, Source
from .targets import Target, read
from .terms import Count

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["LogPartition", "ddpp_loss"]


class LogPartition(nn.Module):
    """``log Z(z, t)``: token embeddings, averaged, beside the time, through a small network; 0 at first.

    Args:
        vocab_size: V, the mask token included.
        width: of the embeddings and the hidden layer.
    """

    def __init__(self, vocab_size: int, width: int = 64) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, width)
        self.hidden = nn.Linear(width + 1, width)
        self.out = nn.Linear(width, 1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, z: Tensor, t: Tensor) -> Tensor:
        """``[B]`` for tokens ``z [B, L]`` and times ``t [B]``."""
        pooled = torch.cat([self.embedding(z).mean(1), t.to(self.hidden.weight.dtype)[:, None]], 1)
        return self.out(nn.functional.silu(self.hidden(pooled)))[:, 0]


@takes(Steering)
def ddpp_loss(
    model: Any,
    reference: Any,
    log_partition: Any,
    x0: Tensor,
    log_reward: Tensor,
    *,
    mask_id: int,
    beta: float = 1.0,
    t_min: float = 1e-3,
    **options: Unpack[Steering],
) -> LossOutput:
    """Mask x0 and return ``mean((log q(x0|z) - log p(x0|z) - log R(x0) / beta + log Z(z, t))^2)``.

    ``log q`` and ``log p`` add up over the masks. Two forwards, the reference's without gradient.

    Args:
        model, reference: the steered and the pretrained model, as for :func:`mdmcorrect.losses.mdlm_loss`.
        log_partition: ``(z [B, L], t [B]) -> [B]``, such as :class:`LogPartition`; its parameters learn too.
        x0: int64 ``[B, L]`` clean sequences, of a replay buffer of the steered model's samples, say.
        log_reward: ``[B]``, ``log R(x0)``.
        mask_id: id of the mask token; the arguments not described here are those of
            :func:`mdmcorrect.losses.mdlm_loss`.
        beta: temperature of the reward; small ones follow it closely.
        num_items_in_batch: divide by this number of rows instead of by those of this batch that have a mask: where
            gradients are accumulated, the rows of the whole accumulated batch.

    Returns:
        ``LossOutput`` with parts "ddpp" (the loss), "log_ratio" (mean of ``log q - log p``), "log_z" and "masked"
        (masks per sequence). A row without a mask says nothing about the model and is left out.

    Raises:
        ValueError, TypeError: shapes, dtypes or ids that do not fit, named by argument; a ``beta`` not above 0.
    """
    target = Residual(log_partition, log_reward, beta)
    target.check(x0, finite=options.get("check", True))
    corruption = made(Corruption, options, t_min=t_min)
    objective = Objective([Term(Referred(reference), target)], corruption, made(Reader, options))
    counts = {"ddpp": options.get("num_items_in_batch")}
    return objective(model, x0, mask_id=mask_id, counts=counts, **of_call(options))


@dataclass(frozen=True, eq=False)
class Referred(Source):
    """z itself, and what a pretrained model says of x0's tokens at its masks: ``extra``, ``[B]``."""

    reference: Any

    def draw(self, state: State, reading: Reading | None, run: Run) -> Inputs:
        masked = state.masked & state.positions.free
        with torch.no_grad():
            output = run.answer(self.reference, state.z, state)
            said = Reading.of_output(output, None, state.z, state.mask_id)
            log_p = said.score(state.x0, masked)[0].sum(1)
        return Inputs(state.z, masked, extra=log_p)


@dataclass(frozen=True, eq=False)
class Residual(Target):
    """``(log q(x0 | z) - log p(x0 | z) - log R(x0) / beta + log Z(z, t))^2``, the mean over rows that have a mask."""

    log_partition: Any
    log_reward: Tensor
    beta: float = 1.0

    name: ClassVar[str] = "ddpp"

    def __post_init__(self) -> None:
        object.__setattr__(self, "beta", positive("beta", self.beta))

    @property
    def modules(self) -> dict[str, Any]:
        return {"log_partition": self.log_partition}

    def check(self, x0: Any, *, finite: bool) -> None:
        """Raise unless there is one reward for each row of x0, and with ``finite`` a finite one."""
        reward, rows = tensor("log_reward", self.log_reward), tensor("x0", x0).shape[:1]
        if reward.shape != rows or not reward.is_floating_point():
            raise ValueError(f"log_reward: expected floating [{len(x0)}], got {reward.dtype} {list(reward.shape)}")
        if finite and not reward.isfinite().all():
            raise ValueError("log_reward: expected finite numbers, got others")

    def loss(self, said: Said, inputs: Inputs, state: State, count: Count = None) -> LossOutput:
        masked, log_p = inputs.selected, inputs.extra
        log_q = read(said).score(state.x0, masked)[0].sum(1)
        log_z = self.log_partition(state.z, state.t)
        if log_z.shape != state.x0.shape[:1]:
            raise ValueError(f"log_partition: expected [{len(state.x0)}] from it, got {list(log_z.shape)}")
        some = masked.any(1)
        residual = log_q - log_p - self.log_reward.to(state.x0.device) / self.beta + log_z
        total = torch.where(some, residual, 0).square().sum()
        rows = some.sum().clamp(min=1) if count is None else divisor(self.count, count, total)
        loss = total / rows
        parts = {
            "ddpp": loss.detach(),
            "log_ratio": (log_q - log_p).detach().mean(),
            "log_z": log_z.detach().mean(),
            "masked": masked.sum().float() / max(len(state.x0), 1),
        }
        return LossOutput(loss, parts)
