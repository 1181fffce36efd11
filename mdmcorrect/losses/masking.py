"""Which positions a loss may mask, and drawing the masks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .._checks import token_id
from ..schedules import Schedule, get_schedule, sample_times
from .arguments import IGNORED, check_generator, tensor, tokens_like, with_values
from .terms import own_count


@dataclass(frozen=True)
class Positions:
    """What each position of a batch is for, bool ``[B, L]``.

    ``free``: may be masked or replaced (not fixed, not padding). ``scored``: carries loss (free and in ``loss_mask``).
    ``present``: not padding.
    """

    free: Tensor
    scored: Tensor
    present: Tensor


@dataclass(frozen=True)
class Roles:
    """What a caller says of a batch's positions, and the model's condition.

    Args:
        fixed: bool ``[B, L]``, tokens that are never masked and carry no loss: prompts, givens.
        loss_mask: bool ``[B, L]``; where False, tokens may be masked but carry no loss.
        attention_mask: bool or 0/1 ``[B, L]``; where 0, padding: never masked, no loss.
        condition: passed to the model; tensors in it with a leading dimension of B follow the rows.
    """

    fixed: Tensor | None = None
    loss_mask: Tensor | None = None
    attention_mask: Tensor | None = None
    condition: Any = None

    def positions(self, x0: Tensor) -> Positions:
        """The three masks combined; what x0 says to ignore (-100) is not scored."""
        present = torch.ones_like(x0, dtype=torch.bool)
        if self.attention_mask is not None:
            present = bool_like("attention_mask", self.attention_mask, x0)
        free = present if self.fixed is None else present & ~bool_like("fixed", self.fixed, x0)
        scored = free & (x0 != IGNORED)
        if self.loss_mask is not None:
            scored = scored & bool_like("loss_mask", self.loss_mask, x0)
        return Positions(free, scored, present)

    @property
    def masks(self) -> dict[str, Tensor | None]:
        return {"fixed": self.fixed, "loss_mask": self.loss_mask, "attention_mask": self.attention_mask}


def bool_like(name: str, value: Tensor, x0: Tensor, source: str = "x0") -> Tensor:
    """A mask of the shape of ``x0``, which the error calls ``source``, as bool on its device."""
    if with_values(name, value).shape != x0.shape:
        raise ValueError(f"{name}: expected the shape of {source}, {tuple(x0.shape)}, got {tuple(value.shape)}")
    if value.is_complex():
        raise TypeError(f"{name}: expected bool or 0/1, got {value.dtype}")
    return value.to(device=x0.device, dtype=torch.bool)


def count_items(
    x0: Tensor,
    *,
    fixed: Tensor | None = None,
    loss_mask: Tensor | None = None,
    attention_mask: Tensor | None = None,
    normalizer: str = "token",
) -> Tensor:
    """What the losses divide a batch's sum by, an int64 tensor ``[]`` on x0's device.

    Added up over the micro-batches of an optimizer step it is their ``num_items_in_batch``.

    Args:
        x0, fixed, loss_mask, attention_mask, normalizer: as in :func:`mdmcorrect.losses.mdlm_loss`. Where x0 is -100
            (labels) nothing is scored.

    Raises:
        ValueError, TypeError: as :func:`mdmcorrect.losses.mdlm_loss`.
    """
    check_tokens(x0)
    return own_count(Roles(fixed, loss_mask, attention_mask).positions(x0).scored, normalizer)


def check_tokens(x0: Tensor, t: Tensor | None = None) -> None:
    """Raise unless x0 is int64 ``[B, L]`` and t floating ``[B]``."""
    if with_values("x0", x0).ndim != 2:
        raise ValueError(f"x0: expected [B, L], got {tuple(x0.shape)}")
    if x0.dtype != torch.int64:
        raise TypeError(f"x0: expected int64 token ids, got {x0.dtype}")
    if t is not None:
        if tensor("t", t).shape != x0.shape[:1]:
            raise ValueError(f"t: expected one time per row, [{x0.shape[0]}], got {tuple(t.shape)}")
        if not t.is_floating_point():
            raise TypeError(f"t: expected a floating dtype, got {t.dtype}")


def check_batch(x0: Tensor, z: Tensor, t: Tensor, **others: Tensor) -> None:
    """:func:`check_tokens`, and z and other tokens like x0."""
    check_tokens(x0, tensor("t", t))
    for name, tokens in {"z": z, **others}.items():
        tokens_like(name, tokens, x0)


def check_values(x0: Tensor, mask_id: int, roles: Positions, t: Tensor | None = None, **masks: Tensor | None) -> None:
    """Raise if clean tokens contain the mask or are none, nothing can be masked, a time is no time, or one of ``masks``
    is neither 0 nor 1 somewhere. One host synchronisation."""
    facts = [
        ((x0 == mask_id) & roles.present).sum(),
        roles.free.sum(),
        (x0 < 0).sum(),
        x0.min() if x0.numel() else x0.sum(),
    ]
    if t is not None:
        facts.append((~((t > 0) & (t <= 1))).sum())
    others = {name: mask for name, mask in masks.items() if mask is not None and mask.dtype != torch.bool}
    facts += [((mask != 0) & (mask != 1)).sum() for mask in others.values()]
    numbers = iter(torch.stack([fact.to(x0.device, torch.int64) for fact in facts]).tolist())
    found, free, negative, lowest = (next(numbers) for _ in range(4))
    if negative:
        raise ValueError(
            f"x0: expected token ids, found {negative} below 0, down to {lowest}; the model reads x0, so give it "
            "input_ids, and labels that are -100 as loss_mask=labels != -100"
        )
    if found:
        raise ValueError(f"x0: expected clean tokens, found mask_id {mask_id} at {found} positions outside padding")
    if not free and x0.numel():
        raise ValueError("fixed, attention_mask: expected some position that may be masked, all are fixed or padding")
    if t is not None and (outside := next(numbers)):
        raise ValueError(f"t: expected times in (0, 1], got {outside} outside")
    for name, wrong in zip(others, numbers, strict=True):
        if wrong:
            raise ValueError(f"{name}: expected bool or 0/1, got {wrong} other numbers")


def draw_times(
    x0: Tensor, t: Tensor | None, *, t_min: float, antithetic: bool, generator: torch.Generator | None
) -> Tensor:
    """The given times, or one per row from :func:`mdmcorrect.schedules.sample_times`."""
    check_generator(generator)
    if t is not None:
        return t.to(x0.device)
    return sample_times(x0.shape[0], t_min=t_min, antithetic=antithetic, generator=generator, device=x0.device)


def mask_tokens(
    x0: Tensor,
    t: Tensor,
    *,
    mask_id: int,
    schedule: str | Schedule = "linear",
    free: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Draw ``z_t ~ q_t(. | x_0)``: each free token becomes ``mask_id`` with the schedule's mask probability.

    Args:
        x0: int64 ``[B, L]`` clean tokens.
        t: ``[B]`` times.
        mask_id: id of the mask token.
        schedule: gives the mask probability, by name or as an object.
        free: bool ``[B, L]``, positions that may be masked; None for all.
        generator: source of the uniforms; they are drawn on its device, then moved.

    Returns:
        int64 ``[B, L]``. A row may come out without any mask, as the law says.
    """
    check_tokens(x0, t)
    check_generator(generator)
    mask_id = token_id("mask_id", mask_id)
    device = x0.device if generator is None else generator.device
    u = torch.rand(x0.shape, generator=generator, dtype=torch.float32, device=device).to(x0.device)
    masked = u < get_schedule(schedule).mask_probability(t.to(x0.device)).unsqueeze(-1)
    if free is not None:
        masked = masked & bool_like("free", free, x0)
    return torch.where(masked, mask_id, x0)
