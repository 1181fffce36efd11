"""A row's result depends on the row alone: the same bits for any batch, padding, thread count and set of rows."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import pytest
import torch

from mdmcorrect import _native, rng
from mdmcorrect.ops import TokenScores, score_tokens
from mdmcorrect.selfcheck.inputs.scoring import assert_same_bits, peaked_logits

ISAS = _native.build_info()["isas_supported"]
SETTINGS = [
    {},
    {"temperature": 1.0},
    {"temperature": 0.7},
    {"temperature": 1.0, "top_p": 0.9, "law": "proposal"},
    {"temperature": 0.9, "top_k": 20, "forbid": [3], "suppress": [600]},
]


def pick(scores: TokenScores, *index) -> TokenScores:
    return TokenScores(*(score if score is None else score[index] for score in scores))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("options", SETTINGS, ids=str)
def test_batch_and_rows(options, dtype):
    """Batch 16 against batch 1, with odd rows so that every row starts at another address."""
    logits = peaked_logits(16, 5, 1537, dtype)
    seeds, step = rng.sequence_seeds(3, 16), torch.arange(16)
    every = score_tokens(logits, seed=seeds, step=step, **options)
    for b in (0, 7, 15):
        one = slice(b, b + 1)
        assert_same_bits(score_tokens(logits[one], seed=seeds[one], step=step[one], **options), pick(every, one))
    rows = torch.zeros(16, 5, dtype=torch.bool)
    rows[9, 2] = rows[0, 4] = True
    some = score_tokens(logits, rows=rows, seed=seeds, step=step, **options)
    assert_same_bits(pick(some, rows), pick(every, rows))


@pytest.mark.parametrize("options", SETTINGS, ids=str)
def test_padding(options):
    """A sequence padded on the left, its positions counted from its own start."""
    logits, seeds = peaked_logits(2, 6, 900), torch.tensor([7, -8])
    alone = score_tokens(logits, seed=seeds, **options)
    padded = torch.cat([torch.randn(2, 3, 900), logits], 1)
    positions = torch.arange(9) - 3
    assert_same_bits(
        pick(score_tokens(padded, positions=positions, seed=seeds, **options), slice(None), slice(3, None)), alone
    )
    each = positions.expand(2, 9)
    assert_same_bits(
        pick(score_tokens(padded, positions=each, seed=seeds, **options), slice(None), slice(3, None)), alone
    )


@pytest.mark.parametrize("options", SETTINGS, ids=str)
def test_threads(options):
    logits = peaked_logits(7, 3, 30011, torch.bfloat16)
    threads = torch.get_num_threads()
    try:
        results = []
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            results.append(score_tokens(logits, seed=1, **options))
    finally:
        torch.set_num_threads(threads)
    assert_same_bits(results[0], results[1])
    assert_same_bits(results[0], results[2])


def test_draws_depend_on_every_part_of_the_counter():
    logits = torch.zeros(1, 64, 4096)
    tokens = [
        score_tokens(logits, temperature=1.0, seed=1).token,
        score_tokens(logits, temperature=1.0, seed=2).token,
        score_tokens(logits, temperature=1.0, seed=1, step=1).token,
        score_tokens(logits, temperature=1.0, seed=1, call=1).token,
        score_tokens(logits, temperature=1.0, seed=1, positions=torch.arange(1, 65)).token,
    ]
    for i, first in enumerate(tokens):
        assert first.unique().numel() > 55  # positions differ
        for second in tokens[i + 1 :]:
            assert (first == second).sum() < 4
    again = score_tokens(logits, temperature=1.0, seed=1, step=torch.tensor([0]), call=torch.tensor(0)).token
    assert torch.equal(again, tokens[0])
    assert torch.equal(score_tokens(logits, temperature=1.0, seed=rng.sequence_seeds(1, 1)).token, tokens[0])


@pytest.mark.parametrize("isa", ISAS)
def test_every_instruction_set(isa):
    """Reference and invariances on each instruction set by itself; a process chooses once, hence one for each."""
    program = """
        import itertools, sys
        import torch
        sys.path.insert(0, sys.argv[1])
        from mdmcorrect.selfcheck.inputs.scoring import assert_same_bits, assert_scores, expected, peaked_logits
        from mdmcorrect import _native, rng
        from mdmcorrect.ops import TokenScores, score_tokens
        assert _native.build_info()["isa"] == sys.argv[2]
        options = [{}, {"temperature": 1.0, "law": "proposal"}, {"temperature": 0.6, "top_p": 0.8, "forbid": [1]},
                   {"temperature": 1.3, "top_k": 9, "top_p": 0.6, "top_p_rule": "exclusive", "suppress": [0]}]
        dtypes = [torch.float32, torch.bfloat16, torch.float16]
        for vocab, dtype, kwargs in itertools.product([3, 16, 530, 9001], dtypes, options):
            logits = peaked_logits(3, 2, vocab, dtype, seed=vocab)
            seeds = rng.sequence_seeds(6, 3)
            torch.set_num_threads(1)
            scores = score_tokens(logits, seed=seeds, **kwargs)
            assert_scores(scores, expected(logits, seed=seeds.numpy(), **kwargs))
            torch.set_num_threads(2)
            assert_same_bits(scores, score_tokens(logits, seed=seeds, **kwargs))
            last = TokenScores(*(s if s is None else s[2:] for s in scores))
            assert_same_bits(last, score_tokens(logits[2:], seed=seeds[2:], **kwargs))
        weights = peaked_logits(2, 2, 530).softmax(-1)
        assert_scores(score_tokens(weights, input="probs"), expected(weights, input="probs"), 1e-5, 1e-5)
        bad = torch.zeros(1, 3, 600)
        bad[0, 1, 599], bad[0, 2, 3] = torch.nan, torch.inf
        assert score_tokens(bad).token.tolist() == [[0, -1, -1]]
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), os.path.dirname(__file__), isa],
        env={**os.environ, "MDMCORRECT_ISA": isa},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
