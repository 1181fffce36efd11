"""The operator that makes a sampler's bookkeeping: it closes one step and opens the next.

Not for users: its arguments are what :mod:`mdmcorrect.samplers.native_steps` packs. The definition of what it computes
is the Python parts of :mod:`mdmcorrect.samplers`; ``csrc/core/sampler_step.h`` composes one function per part.
"""

from __future__ import annotations

import mdmcorrect._requires_torch

from array import array
from typing import TypeAlias

import torch
from torch import Tensor

from mdmcorrect.ops import _by_address as by_address

MARKS, ROW_FIELDS = 6, 22
Opened: TypeAlias = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


@torch.library.register_fake("mdmcorrect::sampler_step")
def _fake(
    rows: Tensor,
    tokens: Tensor,
    fixed: Tensor,
    block: Tensor | None,
    positions: Tensor,
    real: Tensor | None,
    commit_score: Tensor,
    commits: Tensor,
    drawn: Tensor | None,
    plan: str,
    close: int,
    open: int,
    token: Tensor | None,
    argmax: Tensor | None,
    confidence: Tensor | None,
    rank: Tensor | None,
    keep: Tensor | None,
    revised: Tensor | None,
    revised_logprob: Tensor | None,
    nfe: Tensor | None,
    forwards: int,
    kept_share: Tensor | None,
    noise_scales: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    shape, device = tokens.shape, tokens.device
    return (
        torch.empty(rows.shape, dtype=torch.int64, device=device),
        torch.empty(shape, dtype=torch.int64, device=device),
        torch.empty(shape, dtype=torch.float32, device=device),
        torch.empty(shape, dtype=torch.int64, device=device),
        torch.empty((MARKS, *shape), dtype=torch.bool, device=device),
        torch.empty(shape[:1], dtype=torch.float64, device=device),
    )


sampler_step = torch.ops.mdmcorrect.sampler_step.default


class PreparedStep:
    """The operator with what stays the same through a run.

    Args:
        plan: the bytes of the operator's two structs, as hexadecimal digits.
        fixed, block, positions, real, kept_share, noise_scales: as the operator takes them.
    """

    def __init__(
        self,
        plan: str,
        fixed: Tensor,
        block: Tensor | None,
        positions: Tensor,
        real: Tensor | None,
        kept_share: Tensor | None,
        noise_scales: Tensor | None,
    ) -> None:
        self.plan, self.tables = plan, (kept_share, noise_scales)
        self.canvas = (fixed, block, positions, real)
        self.numbers: tuple[int, ...] | None = None  # what the library takes by address first; None: it does not
        if not by_address.usable(fixed):
            return
        fixed, positions = fixed.contiguous(), positions.contiguous()
        block, real = (None if tensor is None else tensor.contiguous() for tensor in (block, real))
        self.shape = shape = tuple(fixed.shape)
        fits = by_address.fits(shape, torch.int64, block, positions) and by_address.fits(shape, torch.bool, fixed, real)
        if fits and all(table is None or by_address.fits((len(table),), torch.float32, table) for table in self.tables):
            self.canvas = (fixed, block, positions, real)
            self._packed = array("B", bytes.fromhex(plan))
            self.numbers = (self._packed.buffer_info()[0], *shape)
            self.table_numbers = tuple(
                number
                for table in self.tables
                for number in (by_address.address(table), 0 if table is None else len(table))
            )

    def __call__(
        self,
        rows: Tensor,
        tokens: Tensor,
        commit_score: Tensor,
        commits: Tensor,
        marks: Tensor,
        close: int,
        open: int,
        token: Tensor | None = None,
        argmax: Tensor | None = None,
        confidence: Tensor | None = None,
        rank: Tensor | None = None,
        keep: Tensor | None = None,
        revised: Tensor | None = None,
        revised_logprob: Tensor | None = None,
        nfe: Tensor | None = None,
        forwards: int = 0,
    ) -> Opened:
        """``rows, tokens, commit_score, commits, marks, time`` after the step, the next one opened."""
        if self.numbers is not None and by_address.usable(tokens):
            floats = by_address.floats(self.shape, confidence, rank, keep, revised_logprob)
            ids = (tokens, commits, token, argmax, revised)
            if floats is not None and self._fits(rows, commit_score, marks, nfe, *ids):
                return self.write(
                    rows, tokens, commit_score, commits, marks, close, open, by_address.address(token),
                    by_address.address(argmax), *floats[:6],
                    by_address.address(revised), *floats[6:], by_address.address(nfe), forwards,
                )  # fmt: skip
        fixed, block, positions, real = self.canvas
        return sampler_step(
            rows, tokens, fixed, block, positions, real, commit_score, commits, marks, self.plan, close, open, token,
            argmax, confidence, rank, keep, revised, revised_logprob, nfe, forwards, *self.tables,
        )  # fmt: skip

    def _fits(
        self,
        rows: Tensor,
        commit_score: Tensor,
        marks: Tensor,
        nfe: Tensor | None,
        *ids: Tensor | None,
    ) -> bool:
        fits, shape, batch = by_address.fits, self.shape, self.shape[0]
        return (
            fits(shape, torch.int64, *ids)
            and fits(shape, torch.float32, commit_score)
            and fits((batch, ROW_FIELDS), torch.int64, rows)
            and fits((batch,), torch.int64, nfe)
            and fits((MARKS, *shape), torch.bool, marks)
        )

    def write(
        self,
        rows: Tensor,
        tokens: Tensor,
        commit_score: Tensor,
        commits: Tensor,
        marks: Tensor,
        *numbers: int,
    ) -> Opened:
        """The same by address: tensors of an earlier step, then ``SamplerStepAddresses`` from ``close_mode`` on."""
        assert self.numbers is not None
        like = torch.empty_like
        made = (like(rows), like(tokens), like(commit_score), like(commits), like(marks), _times(rows))
        by_address.library.sampler_step(
            *self.numbers, *map(by_address.address, self.canvas), *self.table_numbers, rows.data_ptr(),
            tokens.data_ptr(), commit_score.data_ptr(), commits.data_ptr(), marks.data_ptr(), *numbers,
            *map(by_address.address, made),
        )  # fmt: skip
        return made


def _times(rows: Tensor) -> Tensor:
    return torch.empty(rows.shape[0], dtype=torch.float64, device=rows.device)
