"""CUDA's score_tokens and score_hidden on logits of every scale, thread by thread, against the float64 reference."""

from __future__ import annotations

import device_ops
import numpy as np
import pytest
from hard_rows import LARGEST, MASKS, hard_case, hard_probabilities, judge, masked_by, rounded
from test_simt_score_tokens import TYPES, check, peaked

WANTED = [("token",), ("token", "entropy"), ("token", "margin", "proposal_logprob"), ("token", "logprob", "confidence")]


@pytest.mark.parametrize("dtype", TYPES)
def test_random_rows(simt, dtype):
    """In both forms: 4609 ids are cut into pieces. The token does not depend on what is wanted beside it."""
    turned, count = 0, 60
    for seed in range(count):
        case = hard_case(seed, dtype=dtype, vocab=(2, 31, 513, 1500, 4609)[seed % 5], length=3)
        logits = TYPES[dtype](case.rows[None])
        own = np.array([case.options["seed"]])
        options = {**case.options, "seed": own}
        scores, _ = device_ops.score_tokens(simt, logits, tokens=case.tokens[None], **options)
        turned += judge(case, {name: value[0] for name, value in scores.items()}, int(own[0]))
        want = WANTED[seed % len(WANTED)]
        alone, _ = device_ops.score_tokens(simt, logits, want=want, **options)
        np.testing.assert_array_equal(alone["token"], scores["token"], err_msg=f"{want}, seed {seed}")
    assert turned <= 2


def test_random_probabilities(simt):
    for seed in range(20):
        rows = hard_probabilities(seed, vocab=(5, 700)[seed % 2], length=3)[None]
        check(simt, rows, 1e-5, temperature=(0.0, 1.0)[seed // 2 % 2], seed=seed, input="probs")


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("level", [-90.0, -100.0, -1e3, *MASKS[1:]])
def test_a_chunk_far_above_all_before_it(simt, level, dtype):
    rows = np.random.default_rng(0).normal(size=(1, 3, 2048)).astype(np.float32) * 3
    rows[..., :512] = masked_by(level, dtype)
    logits = TYPES[dtype](rounded(rows, dtype))
    for temperature in (0.0, 1e-3, 1.0):
        scores, _ = check(simt, logits, temperature=temperature, seed=1)
        assert (scores["token"] >= 512).all()


@pytest.mark.parametrize("dtype", TYPES)
def test_the_ends_of_the_range(simt, dtype):
    """Differences that no float32 holds."""
    top = LARGEST[dtype]
    rows = np.full((1, 3, 1200), -top, np.float32)
    rows[0, 0, [700, 900]] = top
    rows[0, 1] = top
    rows[0, 2, 5] = -top / 2
    logits = TYPES[dtype](rows)
    for temperature in (0.0, 1e-30, 1e-3, 1.0):
        want = ("token", "entropy", "margin", "max_logprob")
        scores, _ = check(simt, logits, temperature=temperature, seed=2, want=want)
        assert scores["token"][0, 2] == 5
        np.testing.assert_allclose(scores["entropy"][0], [np.log(2), np.log(1200), 0.0], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("dtype", TYPES)
def test_a_nucleus_that_reaches_zero(simt, dtype):
    rows = np.full((1, 1, 2000), -20.0, np.float32)
    rows[..., 1500] = 4.0
    rows[..., 200:230] = 0.0
    rows[..., 210:220] = -0.0
    for top_p in (0.2, 0.63, 0.7, 0.9, 0.99, 0.999, 0.999999):
        for rule in ("inclusive", "exclusive"):
            check(simt, TYPES[dtype](rows), 1e-5, temperature=1.0, top_p=top_p, top_p_rule=rule, law="proposal", seed=1)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("level", [-90.0, -1000.0, -60000.0])
def test_score_hidden_where_logits_jump_between_blocks(simt, level, dtype):
    rows = peaked(1, 3, 2600, seed=1)
    rows[..., :1100] = level
    logits = TYPES[dtype](rows)
    for options in ({}, {"temperature": 1.0, "seed": np.array([3])}):
        blocks = logits[0].view(type(logits))
        scores, _ = device_ops.score_tokens(simt, blocks, op="score_hidden", shape=(1, 3), **options)
        whole, _ = check(simt, logits, **options)
        assert (scores["token"] >= 1100).all()
        for name, value in scores.items():
            np.testing.assert_array_equal(value, whole[name], err_msg=name)
