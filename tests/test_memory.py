"""Memory that is not there: the error names the op and the size, and the process goes on."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from mdmcorrect import ops, rng

ROWS = 2**20


def huge(value: float | int | bool, *shape: int) -> torch.Tensor:
    """A number seen as a tensor of any size."""
    return torch.tensor(value).expand(*shape)


def vectors(width: int, *shape: int) -> torch.Tensor:
    """A vector, contiguous, seen as a tensor of any size."""
    return torch.ones(width).expand(*shape, width)


CASES: dict[str, Callable[[int], object]] = {
    "select_positions": lambda n: ops.select_positions(huge(0.5, n, n), 1),
    "count_positions": lambda n: ops.count_positions(huge(0.5, n * n, 1), "threshold", 0.5),
    "uniform": lambda n: rng.uniform(torch.arange(n), n, 0, 1),
    "score_tokens": lambda n: ops.score_tokens(huge(0.5, n, n, 1), want=("token", "entropy")),
    "score_quality": lambda n: ops.score_quality(vectors(8, n, n), torch.ones(1, 8)),
    "remask_step": lambda n: ops.remask_step(
        huge(1, n, n),
        huge(1, n, n),
        unmask_score=huge(0.5, n, n),
        keep_score=huge(0.5, n, n),
        unmask_count=1,
        remask_count=1,
        mask_id=0,
    ),
    "bidirectional_attention": lambda n: ops.bidirectional_attention(*[vectors(64, n, n, 1)] * 3),
}


@pytest.mark.parametrize("op", CASES)
def test_the_error_names_op_and_size(op: str) -> None:
    with pytest.raises(RuntimeError, match=rf"{op}: CPU out of memory\. It could not have [\d.e+]+ GB"):
        CASES[op](ROWS)
    CASES[op](2)
