"""Rows of a batch, as a step's parts hand them to one another."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Rows:
    """The rows that a forward is for.

    Attributes:
        mask: bool ``[B]``.
        listed: their indices, in order, as the host knows them. None where the host was not asked: the model then reads
            every row, and its answers on the others are dropped.
    """

    mask: Tensor
    listed: tuple[int, ...] | None = None

    @property
    def empty(self) -> bool:
        """Whether there is none, as far as the host knows."""
        return self.listed == ()

    @property
    def index(self) -> Tensor | None:
        """int64 ``[b]``, the rows that the model reads; None for all.

        Made where the mask is: copying a list there would make the host wait.
        """
        if self.listed is None or len(self.listed) == self.mask.shape[0]:
            return None
        return (~self.mask).long().argsort(stable=True)[: len(self.listed)]

    def those(self, mask: Tensor) -> Rows:
        """The rows of ``mask`` (bool ``[B]``) among these. Asks the host which they are, if these were asked for."""
        mask = self.mask & mask
        return Rows(mask) if self.listed is None else Rows(mask, indices(mask.tolist()))


def indices(flags: Iterable[object]) -> tuple[int, ...]:
    """Where the flags are true."""
    return tuple(row for row, flag in enumerate(flags) if flag)
