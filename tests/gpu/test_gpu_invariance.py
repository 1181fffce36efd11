"""Bits do not depend on what else is in a call, on how a device cuts it up, or on where memory begins."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mdmcorrect.ops import score_tokens
from mdmcorrect.selfcheck import scoring_cases
from mdmcorrect.selfcheck.cases import assert_same_bits, moved, run
from mdmcorrect.selfcheck.families import BY_NAME
from mdmcorrect.selfcheck.inputs.scoring import peaked_logits

BATCHED = [  # cases whose tensors have one entry per sequence
    "score_tokens: draw, float32",
    "score_tokens: nucleus, bfloat16",
    "score_tokens: dense noise, bfloat16",
    "score_tokens: temperature of each position, float16",
    "uniform: [2, 4097] float32",
    "select_positions: drawn, [2, 1025] float32",
    "select_positions: ranked, [2, 4097] bfloat16",
    "count_positions: cumulative, [5, 257] float32",
    "remask_step: two bands, [2, 1025] float32",
    "bidirectional_attention: length 300, bfloat16",
]


@pytest.mark.parametrize("name", BATCHED)
def test_a_sequence_alone(name, device):
    case = BY_NAME[name]
    arguments = moved(case.make(0), device)
    together = run(case, arguments)
    batch = len(next(value for value in arguments.values() if isinstance(value, Tensor)))

    def alone(value, b: int):
        if isinstance(value, tuple):
            return tuple(alone(item, b) for item in value)
        return value[b : b + 1] if isinstance(value, Tensor) and value.shape[:1] == (batch,) else value

    for b in range(batch):
        results = run(case, {name: alone(value, b) for name, value in arguments.items()})
        assert_same_bits(results, {name: alone(value, b) for name, value in together.items()})


@pytest.mark.parametrize("dtype", scoring_cases.DTYPES.values(), ids=scoring_cases.DTYPES)
@pytest.mark.parametrize("vocab", [40, 6000])
def test_a_row_among_few_and_many(vocab, dtype, device):
    """Few rows are cut into pieces, many are a block's each."""
    one = peaked_logits(1, 1, vocab, dtype).to(device)
    options = {"temperature": 0.8, "seed": torch.tensor([3], device=device)}
    few = score_tokens(one, **options)
    place = torch.zeros(2000, dtype=torch.int64, device=device)
    many = score_tokens(one.repeat(1, 2000, 1), positions=place, **options)
    assert_same_bits(
        {name: value.expand(1, 2000) for name, value in few._asdict().items() if value is not None},
        {name: value for name, value in many._asdict().items() if value is not None},
    )


@pytest.mark.parametrize("dtype", scoring_cases.DTYPES.values(), ids=scoring_cases.DTYPES)
def test_rows_at_any_alignment(dtype, device):
    logits = peaked_logits(2, 3, 1300, dtype).to(device)
    options = {"temperature": 0.8, "top_p": 0.9, "seed": torch.tensor([3, 4], device=device)}
    aligned = score_tokens(logits, **options)
    for offset in (1, 3, 7):
        wide = torch.full((2, 3, 1300 + offset + 5), torch.nan, dtype=dtype, device=device)
        wide[..., offset : offset + 1300] = logits
        moved_rows = score_tokens(wide[..., offset : offset + 1300], **options)
        assert_same_bits(
            {name: value for name, value in aligned._asdict().items() if value is not None},
            {name: value for name, value in moved_rows._asdict().items() if value is not None},
        )
