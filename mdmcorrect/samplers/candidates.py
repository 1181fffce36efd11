"""The tokens a model thought of at each position, for whoever looks at a run afterwards."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

TOP = 5
_AT_ONCE = 1 << 24  # logits in float32 that may exist beside the model's own


class Candidates(NamedTuple):
    """The best tokens of a step's first forward, most probable first.

    Attributes:
        token: int64 ``[B, L, K]``, -1 where a position was not asked about or no more tokens are admitted.
        logprob: float32 ``[B, L, K]``, natural log-probability; NaN or -inf there.
    """

    token: Tensor
    logprob: Tensor


class Watch:
    """Keeps the candidates of the forward it is shown until they are taken: one of each step.

    They are those of the distribution at temperature 1 and without filters, of which the tokens ``suppress`` are no
    part. A forward of a corrector is passed over, since it reads another canvas than the step began with.

    Args:
        top: K, how many.
        suppress: ids of probability zero.
        barred: ids that are not listed though their probability counts.
    """

    def __init__(self, *, top: int = TOP, suppress: Sequence[int] = (), barred: Sequence[int] = ()) -> None:
        self.top, self.suppress, self.barred = top, tuple(suppress), tuple(barred)
        self._kept: Candidates | None = None

    def __call__(self, logits: Tensor, wanted: Tensor, rows: Tensor, shape: torch.Size, start: int) -> None:
        """Look at ``logits [b, W, V]`` where ``wanted`` (bool ``[b, W]``).

        ``rows``: int64 ``[b]``, which of the ``shape`` (B, L) they are of; ``start``: the column their first is.
        """
        top, at_once = min(self.top, logits.shape[-1]), max(1, _AT_ONCE // logits.shape[-1])
        kept = self._nothing(shape, logits.device)
        row, column = wanted.nonzero(as_tuple=True)
        for part in range(0, len(row), at_once):
            some = slice(part, part + at_once)
            scores = logits[row[some], column[some]].float()
            scores[:, list(self.suppress)] = -torch.inf
            whole = scores.logsumexp(-1, keepdim=True)
            scores[:, list(self.barred)] = -torch.inf
            best, token = scores.topk(top, -1)
            where = rows[row[some]], column[some] + start
            kept.token[..., :top][where] = torch.where(best > -torch.inf, token, -1)
            kept.logprob[..., :top][where] = best - whole
        self._kept = kept

    def taken(self, shape: torch.Size, device: torch.device) -> Candidates:
        """Those of the step, which has ended; none where it made no forward."""
        kept, self._kept = self._kept, None
        return self._nothing(shape, device) if kept is None else kept

    def _nothing(self, shape: torch.Size, device: torch.device) -> Candidates:
        whole = (*shape, self.top)
        return Candidates(
            torch.full(whole, -1, dtype=torch.int64, device=device),
            torch.full(whole, torch.nan, dtype=torch.float32, device=device),
        )
