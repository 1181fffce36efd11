"""remask_step against the float64 reference and the rules its docstring states."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mdmcorrect import reference
from mdmcorrect.ops import remask_step

MASK = 9
FLOATS = [0.0, -0.0, 0.25, 0.5, 1.0, -1.0, float("inf"), float("-inf"), float("nan")]


def as_arrays(kwargs: dict) -> dict:
    return {
        name: v.float().numpy()
        if isinstance(v, torch.Tensor) and v.is_floating_point()
        else v.numpy()
        if isinstance(v, torch.Tensor)
        else v
        for name, v in kwargs.items()
    }


def check_against_reference(tokens, proposals, **kwargs):
    before = tokens.clone()
    got = remask_step(tokens, proposals, mask_id=MASK, **kwargs)
    want = reference.remask_step(tokens.numpy(), proposals.numpy(), mask_id=MASK, **as_arrays(kwargs))
    for mine, truth in zip(got, want, strict=True):
        torch.testing.assert_close(mine, torch.from_numpy(truth))
    assert torch.equal(tokens, before)
    check_invariants(tokens, proposals, got, kwargs)
    return got


def check_invariants(tokens, proposals, result, kwargs):
    """What holds whatever the mode: every change is announced, allowed, and real."""
    new, committed, remasked = result
    assert torch.equal(new != tokens, committed | remasked)
    assert torch.equal(new[committed], proposals[committed])
    assert (tokens[committed] == MASK).all()
    assert (tokens[remasked] != MASK).all()
    assert (new[remasked] == MASK).all()
    assert (new[committed] >= 0).all()
    for name, untouched in (("fixed", True), ("eligible", False)):
        if kwargs.get(name) is not None:
            assert not ((committed | remasked) & (kwargs[name] == untouched)).any()


@st.composite
def cases(draw):
    batch, length = draw(st.integers(0, 3)), draw(st.integers(0, 24))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = (batch, length)
    tokens = torch.from_numpy(np.where(random.random(shape) < draw(st.sampled_from([0.0, 0.2, 0.6, 1.0])), MASK, 3))
    proposals = torch.from_numpy(random.integers(-1, MASK + 1, shape))  # some are -1, some the mask itself

    def scores():
        dtype = draw(st.sampled_from([torch.float32, torch.bfloat16, torch.float16]))
        return torch.from_numpy(random.choice(FLOATS, shape)).to(dtype)

    def mask():
        return torch.from_numpy(random.random(shape) < 0.5)

    def counts():
        as_int = draw(st.booleans())
        return int(random.integers(0, 8)) if as_int else torch.from_numpy(random.integers(-2, length + 3, batch))

    kwargs = {"fixed": mask() if draw(st.booleans()) else None, "eligible": mask() if draw(st.booleans()) else None}
    kwargs["refill"] = draw(st.sampled_from(["if_short", "never"]))
    mode = draw(st.sampled_from(["bands", "masks", "pool", "unmask only", "commit mask, remask count"]))
    if mode == "pool":
        kwargs |= {"unmask_score": scores(), "keep_score": scores(), "keep_count": counts()}
    elif mode == "masks":
        kwargs |= {"commit": mask(), "remask": mask()}
    elif mode == "commit mask, remask count":
        kwargs |= {"commit": mask(), "keep_score": scores(), "remask_count": counts()}
    else:
        kwargs |= {"unmask_score": scores(), "unmask_count": counts()}
        if mode == "bands":
            kwargs |= {"keep_score": scores(), "remask_count": counts()}
    return tokens, proposals, kwargs


@settings(max_examples=300, deadline=None)
@given(cases())
def test_equals_reference(case):
    tokens, proposals, kwargs = case
    check_against_reference(tokens, proposals, **kwargs)


@pytest.mark.parametrize("length", [1, 255, 256, 257, 1024, 20_000])
def test_lengths(length):
    generator = torch.Generator().manual_seed(length)
    tokens = torch.where(torch.rand(2, length, generator=generator) < 0.5, MASK, 1)
    scores = torch.rand(2, length, generator=generator)
    check_against_reference(
        tokens,
        torch.full_like(tokens, 2),
        unmask_score=scores,
        keep_score=scores,
        unmask_count=torch.tensor([length // 4, length]),
        remask_count=torch.tensor([length // 5, 3]),
    )


def step(tokens, proposals, **kwargs):
    as_scores = {n: torch.tensor([v]) if n.endswith("score") else v for n, v in kwargs.items()}
    new, committed, remasked = check_against_reference(torch.tensor([tokens]), torch.tensor([proposals]), **as_scores)
    return new[0].tolist(), committed[0].tolist(), remasked[0].tolist()


def test_a_remasked_position_is_not_filled_in_the_same_step():
    new, committed, remasked = step(
        [3, 9], [7, 8], unmask_score=[0.9, 0.1], keep_score=[0.1, 0.9], unmask_count=1, remask_count=1
    )
    assert (new, committed, remasked) == ([9, 8], [False, True], [True, False])


def test_refill_keeps_the_best_when_masks_run_out():
    """One mask, three asked for: two of the three that would be masked stay, the best by keep_score."""
    scores = {"unmask_score": [0.0] * 4, "keep_score": [0.3, 0.1, 0.2, 0.0]}
    counts = {"unmask_count": 3, "remask_count": 3}
    new, _, remasked = step([5, 5, 5, 9], [7] * 4, **scores, **counts, refill="if_short")
    assert (new, remasked) == ([5, 9, 5, 7], [False, True, False, False])
    new, _, remasked = step([5, 5, 5, 9], [7] * 4, **scores, **counts, refill="never")
    assert (new, remasked) == ([9, 9, 9, 7], [True, True, True, False])


def test_ties_go_to_the_lowest_index():
    new, _, _ = step(
        [9, 9, 9, 5, 5], [1] * 5, unmask_score=[0.5] * 5, keep_score=[0.5] * 5, unmask_count=2, remask_count=1
    )
    assert new == [1, 1, 9, 9, 5]


def test_neither_minus_one_nor_the_mask_is_committed():
    new, committed, _ = step([9, 9, 9], [-1, MASK, 4], unmask_score=[0.9, 0.8, 0.1], unmask_count=3)
    assert (new, committed) == ([9, 9, 4], [False, False, True])
    commit = torch.ones(1, 3, dtype=torch.bool)
    assert step([9, 9, 9], [-1, MASK, 4], commit=commit)[0] == [9, 9, 4]


def test_one_pool_is_path_planning():
    """P2's rule: of all positions the keep_count best hold a token afterwards."""
    new, committed, remasked = step(
        [9, 9, 5, 5], [1, 2, 0, 0], unmask_score=[0.9, 0.2, 0.0, 0.0], keep_score=[0.0, 0.0, 0.8, 0.1], keep_count=2
    )
    assert (new, committed, remasked) == ([1, 9, 5, 9], [True, False, False, False], [False, False, False, True])


def test_nan_scores_leave_a_position_as_it_is():
    nan = float("nan")
    kwargs = {"unmask_score": [nan, 0.1, 0, 0], "keep_score": [0, 0, nan, 0.9]}
    assert step([9, 9, 5, 5], [1] * 4, **kwargs, unmask_count=2, remask_count=2, refill="never")[0] == [9, 1, 5, 9]
    assert step([9, 9, 5, 5], [1] * 4, **kwargs, keep_count=0)[0] == [9, 9, 5, 9]


def test_any_strides():
    tokens = torch.where(torch.rand(20, 8) < 0.5, MASK, 1).t()
    scores = torch.rand(8, 20, 2)[..., 1]
    kwargs = {"unmask_count": torch.arange(16)[::2], "remask_count": 2, "mask_id": MASK}
    got = remask_step(tokens, tokens.clone().fill_(4), unmask_score=scores, keep_score=scores, **kwargs)
    dense = scores.contiguous()
    want = remask_step(tokens.contiguous(), torch.full((8, 20), 4), unmask_score=dense, keep_score=dense, **kwargs)
    for mine, truth in zip(got, want, strict=True):
        torch.testing.assert_close(mine, truth)


def test_opcheck():
    tokens = torch.where(torch.rand(3, 12) < 0.5, MASK, 1)
    scores, count = torch.rand(3, 12), torch.tensor([1, 2, 3])
    op = torch.ops.mdmcorrect.remask_step.default
    keep, zeros = scores > 0.9, torch.zeros_like(tokens)
    bands = (tokens, zeros, scores, scores, count, torch.tensor(2), MASK, keep, keep, True, None, None, None)
    pool = (tokens, zeros, scores, scores, None, None, MASK, None, None, False, count, None, None)
    masks = (tokens, zeros, None, None, None, None, MASK, None, None, False, None, keep, keep)
    for arguments in (bands, pool, masks):
        torch.library.opcheck(op, arguments)


def test_compiles_whole_and_does_not_recompile_per_step():
    torch.compiler.reset()
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    def update(tokens, proposals, scores, count):
        return remask_step(
            tokens,
            proposals,
            unmask_score=scores,
            keep_score=1 - scores,
            unmask_count=count,
            remask_count=1,
            mask_id=MASK,
        )

    compiled = torch.compile(update, fullgraph=True, backend=backend)
    tokens = torch.where(torch.rand(2, 12) < 0.5, MASK, 1)
    for count in range(4):
        inputs = (tokens, torch.zeros_like(tokens), torch.rand(2, 12), torch.tensor([count, 2]))
        for mine, truth in zip(compiled(*inputs), update(*inputs), strict=True):
            torch.testing.assert_close(mine, truth)
    assert len(graphs) == 1


SCORE = torch.rand(2, 4)
BANDS = {"unmask_score": SCORE, "keep_score": SCORE, "unmask_count": 1, "remask_count": 1}


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"tokens": torch.zeros(4, dtype=torch.int64)}, ValueError, r"tokens: expected shape \[B, L\], got \[4\]"),
        ({"tokens": torch.zeros(2, 4)}, TypeError, "tokens: expected dtype int64, got float32"),
        ({"proposals": torch.zeros(2, 5, dtype=torch.int64)}, ValueError, r"proposals: .*\[2, 4\].* got \[2, 5\]"),
        ({"mask_id": -1}, ValueError, "mask_id: expected a token id >= 0, got -1"),
        ({"mask_id": None}, TypeError, "mask_id: expected an int, got NoneType"),
        ({"refill": "always"}, ValueError, "refill: expected 'if_short' or 'never', got 'always'"),
        ({"unmask_count": -3}, ValueError, "unmask_count: expected at least 0, got -3"),
        ({"unmask_count": None}, ValueError, "unmask_count: expected it together with unmask_score"),
        ({"keep_score": None}, ValueError, "keep_score: expected a score"),
        ({"keep_score": SCORE.double()}, TypeError, "keep_score: expected dtype float32 .*got float64"),
        ({"fixed": torch.zeros(2, 4)}, TypeError, "fixed: expected dtype bool, got float32"),
        ({"commit": SCORE > 0}, ValueError, "commit: expected either commit or unmask_count, got both"),
        ({"remask": SCORE > 0}, ValueError, "remask: expected either remask or remask_count, got both"),
        ({"keep_count": 2}, ValueError, "unmask_count: expected None with keep_count"),
    ],
)
def test_errors_name_the_argument(change, error, words):
    tokens = torch.full((2, 4), MASK)
    arguments = {"tokens": tokens, "proposals": torch.zeros_like(tokens), "mask_id": MASK, **BANDS, **change}
    with pytest.raises(error, match=words):
        remask_step(**arguments)
