"""count_positions against the float64 reference, and its contract."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mdmcorrect import ops, reference
from mdmcorrect.ops.count_positions import RULES

VALUES = [0.0, -0.0, 0.25, 0.5, 0.5000001, 0.9, 0.99, 1.0, 1e-30, float("nan")]


@settings(max_examples=200, deadline=None)
@given(data=st.data(), batch=st.integers(0, 4), length=st.integers(0, 40), rule=st.sampled_from(RULES))
def test_equals_the_reference(data, batch, length, rule):
    draw = data.draw(st.lists(st.sampled_from(VALUES), min_size=batch * length, max_size=batch * length))
    scores = torch.tensor(draw, dtype=torch.float32).reshape(batch, length)
    bound = data.draw(st.sampled_from([-1.0, 0.0, 0.5, 1.0, 2.0, 7.0]))
    at_least = data.draw(st.integers(0, 3))
    eligible = torch.from_numpy(np.random.default_rng(length).random((batch, length)) < 0.7)
    counts = ops.count_positions(scores, rule, bound, eligible=eligible, at_least=at_least)
    expected = reference.count_positions(scores.numpy(), rule, bound, eligible=eligible.numpy(), at_least=at_least)
    assert counts.tolist() == expected.tolist()


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("length", [1, 255, 4096])
def test_dtypes_lengths_and_bounds_per_row(rule, dtype, length):
    generator = torch.Generator().manual_seed(length)
    scores = torch.sigmoid(4 + 3 * torch.randn(5, length, generator=generator)).to(dtype)
    if rule in ("entropy_bound", "cumulative"):
        scores = 1 - scores
    bound = torch.tensor([0.0, 0.3, 0.9, 2.0, length / 2], dtype=torch.float64)
    counts = ops.count_positions(scores, rule, bound)
    limit = bound.to(dtype).double() if "threshold" in rule else bound
    assert counts.tolist() == reference.count_positions(scores.float().numpy(), rule, limit.numpy()).tolist()
    strided = torch.stack([scores, scores + 1], 2)[..., 0]
    assert ops.count_positions(strided, rule, bound).tolist() == counts.tolist()
    for row in range(5):
        assert ops.count_positions(scores[row : row + 1], rule, bound[row]).tolist() == counts[row : row + 1].tolist()


def test_what_is_counted_is_what_selection_takes():
    confidence = torch.tensor([[0.99, 0.6, 0.95, 0.2, 0.97]])
    count = ops.count_positions(confidence, "threshold", 0.95)
    assert ops.select_positions(confidence, count).tolist() == [(confidence[0] >= 0.95).tolist()]


def test_fast_dllm_factor_written_out():
    # 0.99 goes first; 0.97 >= 1 - 1/3; 0.8 >= 1 - 1/4; 0.75 < 1 - 1/5.
    assert ops.count_positions(torch.tensor([[0.75, 0.97, 0.99, 0.8, 0.9]]), "factor", 1.0).tolist() == [4]


def test_the_largest_entropy_is_free():
    entropies = torch.tensor([[0.5, 0.125, 0.25]])
    assert ops.count_positions(entropies, "entropy_bound", 0.375).tolist() == [3]
    assert ops.count_positions(entropies, "entropy_bound", 0.374).tolist() == [2]
    assert ops.count_positions(entropies, "cumulative", 0.375).tolist() == [2]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("bound", [0.6, 0.9, 0.95])
def test_thresholds_compare_as_torch_does(dtype, bound):
    scores = torch.linspace(bound - 0.02, bound + 0.02, 401)[None].to(dtype)
    assert ops.count_positions(scores, "threshold", bound).item() == (scores >= bound).sum()
    assert ops.count_positions(scores, "strict_threshold", bound).item() == (scores > bound).sum()


def test_ties_across_the_cut_count_for_nothing():
    assert ops.count_positions(torch.tensor([[1.0, 2.0, 2.0, 3.0]]), "cut_off", 2).tolist() == [1]
    assert ops.count_positions(torch.tensor([[1.0, 2.0, 2.0, 3.0]]), "cut_off", 4).tolist() == [4]


@pytest.mark.parametrize("rule", RULES)
def test_opcheck(rule):
    scores, bound = torch.rand(3, 9), torch.tensor(0.5, dtype=torch.float64)
    arguments = (scores, RULES.index(rule), bound, torch.rand(3, 9) < 0.5, 1)
    torch.library.opcheck(torch.ops.mdmcorrect.count_positions, arguments)


def test_compiles_without_a_graph_break():
    scores = torch.rand(3, 9)
    compiled = torch.compile(lambda s: ops.count_positions(s, "factor", 0.5, at_least=1), fullgraph=True)
    assert compiled(scores).tolist() == ops.count_positions(scores, "factor", 0.5, at_least=1).tolist()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"rule": "best"}, ValueError, r"rule: expected one of \['threshold'.*got 'best'"),
        ({"bound": "high"}, TypeError, "bound: expected a number or a floating-point tensor, got str"),
        ({"bound": torch.ones(2)}, ValueError, r"bound: expected shape \[\] or \[3\], one per row, got \[2\]"),
        ({"bound": torch.ones(3).long()}, TypeError, "bound: expected .* got torch.int64"),
        ({"at_least": -1}, ValueError, "at_least: expected at least 0, got -1"),
        ({"at_least": 1.0}, TypeError, "at_least: expected an int, got float"),
        ({"eligible": torch.ones(3, 8).bool()}, ValueError, "eligible: expected shape"),
        ({"scores": torch.ones(3)}, ValueError, r"scores: expected shape \[B, L\]"),
        ({"scores": torch.ones(3, 9).double()}, TypeError, "scores: expected dtype"),
    ],
)
def test_bad_arguments(arguments, error, message):
    arguments = {"scores": torch.rand(3, 9), "rule": "threshold", "bound": 0.5, **arguments}
    with pytest.raises(error, match=message):
        ops.count_positions(arguments.pop("scores"), arguments.pop("rule"), arguments.pop("bound"), **arguments)
