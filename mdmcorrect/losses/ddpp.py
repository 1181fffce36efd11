"""Reward steering of a masked diffusion model (DDPP-LB, arXiv 2410.08134).

The steered model is to satisfy ``q(x0 | z) ~ p(x0 | z) R(x0)^(1/beta)``, p the pretrained model. For a clean sequence
of known reward, masked at a random time, the squared residual of that equation is the loss; the normaliser
``log Z(z, t)`` is learned beside it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .._checks import positive
from ..schedules import Schedule
from .arguments import divisor, tensor
from .averaging import check_averaged
from .masking import check_tokens
from .mdlm import MaskedTerm
from .outputs import Forward, LossOutput, call_model, read_logits
from .terms import Count, logit_scores

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


def ddpp_loss(
    model: Any,
    reference: Any,
    log_partition: Any,
    x0: Tensor,
    log_reward: Tensor,
    *,
    mask_id: int,
    beta: float = 1.0,
    t: Tensor | None = None,
    t_min: float = 1e-3,
    antithetic: bool = True,
    schedule: str | Schedule = "linear",
    fixed: Tensor | None = None,
    attention_mask: Tensor | None = None,
    condition: Tensor | None = None,
    num_items_in_batch: Count = None,
    generator: torch.Generator | None = None,
    forward: Forward | None = None,
    check: bool = True,
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
    beta = positive("beta", beta)
    term = MaskedTerm(mask_id, schedule, fixed, attention_mask=attention_mask)
    check_tokens(x0, t)
    check_averaged(model=model, log_partition=log_partition)
    if tensor("log_reward", log_reward).shape != x0.shape[:1] or not log_reward.is_floating_point():
        raise ValueError(f"log_reward: expected floating [{len(x0)}], got {log_reward.dtype} {list(log_reward.shape)}")
    if check and not log_reward.isfinite().all():
        raise ValueError("log_reward: expected finite numbers, got others")
    z, t = term.draw(x0, t, t_min=t_min, antithetic=antithetic, generator=generator, check=check)
    masked = (z == term.mask_id) & term.roles(x0).free

    def log_probability(network: Any) -> Tensor:
        output = call_model(network, z, forward=forward, time=t, attention_mask=attention_mask, condition=condition)
        return logit_scores(read_logits(output), x0, term.mask_id)(masked)[0].sum(1)

    with torch.no_grad():
        log_p = log_probability(reference)
    log_q, log_z = log_probability(model), log_partition(z, t)
    if log_z.shape != x0.shape[:1]:
        raise ValueError(f"log_partition: expected [{len(x0)}] from it, got {list(log_z.shape)}")
    some = masked.any(1)
    residual = log_q - log_p - log_reward.to(x0.device) / beta + log_z
    total = torch.where(some, residual, 0).square().sum()
    rows = (
        some.sum().clamp(min=1)
        if num_items_in_batch is None
        else divisor("num_items_in_batch", num_items_in_batch, total)
    )
    loss = total / rows
    parts = {
        "ddpp": loss.detach(),
        "log_ratio": (log_q - log_p).detach().mean(),
        "log_z": log_z.detach().mean(),
        "masked": masked.sum().float() / max(len(x0), 1),
    }
    return LossOutput(loss, parts)
