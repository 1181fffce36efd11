"""Which positions a loss may mask, and drawing the masks."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..schedules import Schedule, sample_times


@dataclass(frozen=True)
class Roles:
    """What each position of a batch is for, bool ``[B, L]``.

    ``free``: may be masked or replaced (not fixed, not padding). ``scored``: carries loss (free and in ``loss_mask``).
    ``present``: not padding.
    """

    free: Tensor
    scored: Tensor
    present: Tensor


def _bool_like(name: str, value: Tensor, x0: Tensor) -> Tensor:
    if value.shape != x0.shape:
        raise ValueError(f"{name}: expected the shape of x0, {tuple(x0.shape)}, got {tuple(value.shape)}")
    return value.to(device=x0.device, dtype=torch.bool)


def assign_roles(x0: Tensor, *, fixed: Tensor | None, loss_mask: Tensor | None, attention_mask: Tensor | None) -> Roles:
    """Combine the three masks; each is bool or 0/1 of x0's shape, or None."""
    present = torch.ones_like(x0, dtype=torch.bool)
    if attention_mask is not None:
        present = _bool_like("attention_mask", attention_mask, x0)
    free = present if fixed is None else present & ~_bool_like("fixed", fixed, x0)
    scored = free if loss_mask is None else free & _bool_like("loss_mask", loss_mask, x0)
    return Roles(free, scored, present)


def check_tokens(x0: Tensor, mask_id: int, t: Tensor | None = None) -> None:
    """Raise unless x0 is int64 ``[B, L]``, mask_id an id, and t floating ``[B]``."""
    if x0.ndim != 2:
        raise ValueError(f"x0: expected [B, L], got {tuple(x0.shape)}")
    if x0.dtype != torch.int64:
        raise TypeError(f"x0: expected int64 token ids, got {x0.dtype}")
    if mask_id < 0:
        raise ValueError(f"mask_id: expected a token id >= 0, got {mask_id}")
    if t is not None:
        if t.shape != x0.shape[:1]:
            raise ValueError(f"t: expected one time per row, [{x0.shape[0]}], got {tuple(t.shape)}")
        if not t.is_floating_point():
            raise TypeError(f"t: expected a floating dtype, got {t.dtype}")


def check_values(x0: Tensor, mask_id: int, roles: Roles, t: Tensor | None = None) -> None:
    """Raise if clean tokens contain the mask, nothing can be masked or a time is no time. One host synchronisation."""
    facts = [((x0 == mask_id) & roles.present).sum(), roles.free.sum()]
    if t is not None:
        facts.append((~((t > 0) & (t <= 1))).sum().to(x0.device))
    found, free, *bad_times = torch.stack(facts).tolist()
    if found:
        raise ValueError(f"x0: expected clean tokens, found mask_id {mask_id} at {found} positions outside padding")
    if not free and x0.numel():
        raise ValueError("fixed, attention_mask: expected some position that may be masked, all are fixed or padding")
    if any(bad_times):
        raise ValueError(f"t: expected times in (0, 1], got {bad_times[0]} outside")


def draw_times(
    x0: Tensor, t: Tensor | None, *, t_min: float, antithetic: bool, generator: torch.Generator | None
) -> Tensor:
    """The given times, or one per row from :func:`mdmcorrect.schedules.sample_times`."""
    if t is not None:
        return t.to(x0.device)
    return sample_times(x0.shape[0], t_min=t_min, antithetic=antithetic, generator=generator, device=x0.device)


def mask_tokens(
    x0: Tensor,
    t: Tensor,
    *,
    mask_id: int,
    schedule: Schedule,
    free: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Draw ``z_t ~ q_t(. | x_0)``: each free token becomes ``mask_id`` with the schedule's mask probability.

    Args:
        x0: int64 ``[B, L]`` clean tokens.
        t: ``[B]`` times.
        mask_id: id of the mask token.
        schedule: gives the mask probability.
        free: bool ``[B, L]``, positions that may be masked; None for all.
        generator: source of the uniforms; they are drawn on its device, then moved.

    Returns:
        int64 ``[B, L]``. A row may come out without any mask, as the law says.
    """
    device = x0.device if generator is None else generator.device
    u = torch.rand(x0.shape, generator=generator, device=device).to(x0.device)
    masked = u < schedule.mask_probability(t).unsqueeze(-1)
    if free is not None:
        masked = masked & free
    return torch.where(masked, mask_id, x0)
