"""The benchmark's plain steps are the samplers they stand for: where nothing is drawn, ours gives the same canvas."""

from __future__ import annotations

import pytest
import torch
from counting import counted
from step_cases import contest

VOCAB, MASK = 300, 250
DETERMINISTIC = ["llada", "dream", "fast_dllm", "p2", "proseco", "prism"]
SAMPLERS = [*DETERMINISTIC, "mdlm", "remdm"]


def logits_of(batch, length):
    """float32, where no two confidences tie; the mask is never the best."""
    logits = torch.randn(batch, length, VOCAB, generator=torch.Generator().manual_seed(batch)) * 3
    logits[..., MASK] = -20
    return logits


@pytest.mark.parametrize("size", [(1, 64), (3, 128)])
@pytest.mark.parametrize("name", DETERMINISTIC)
def test_the_same_canvas(name, size):
    steps = contest(name, 0.0, logits_of(*size), MASK)
    expected = steps.theirs()
    assert torch.equal(steps.same_rows(), expected)
    assert torch.equal(steps.ours(), expected)


@pytest.mark.parametrize("name", SAMPLERS)
def test_draws_leave_a_canvas(name):
    """Of drawn steps only what can be: given tokens stand, masks become tokens or stay."""
    steps = contest(name, 0.7, logits_of(2, 128), MASK)
    for run in (steps.theirs, steps.same_rows, steps.ours):
        tokens = run()
        assert tokens.shape == (2, 128)
        assert ((tokens >= 0) & (tokens < VOCAB)).all()
    assert torch.equal(steps.same_rows(), steps.ours()), "which rows are read changes no draw"


@pytest.mark.parametrize("name", SAMPLERS)
def test_ours_asks_less(name):
    steps = contest(name, 0.7, logits_of(2, 128), MASK)
    assert len(counted(steps.ours).waits) < len(counted(steps.theirs).waits) or name == "proseco"
