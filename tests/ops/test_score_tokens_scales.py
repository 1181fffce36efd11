"""score_tokens and score_hidden on logits of every scale: only NaN, +inf or nothing admissible gives no token."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hard_rows import LARGEST, MASKS, hard_case, hard_probabilities, judge, masked_by

from mdmcorrect import _native, reference
from mdmcorrect.ops import TokenScores, score_hidden, score_tokens
from mdmcorrect.selfcheck.inputs.scoring import assert_same_bits, assert_scores, expected, peaked_logits

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
INFO = _native.build_info()
ISAS = INFO["isas_supported"]


def tensor(rows: np.ndarray, dtype: str) -> torch.Tensor:
    """[1, L, V]."""
    return torch.from_numpy(rows)[None].to(DTYPES[dtype])


def numpy(scores: TokenScores) -> dict[str, np.ndarray]:
    return {name: value[0].numpy() for name, value in scores._asdict().items() if value is not None}


# ---------------------------------------------------------------------------------------------------- randomised cases

WANTED = [("token",), ("token", "entropy"), ("token", "margin", "proposal_logprob"), ("token", "logprob", "confidence")]


def check_cases(first: int, count: int) -> None:
    """Scores equal the reference's, and the token does not depend on what is wanted beside it."""
    turned = 0
    for seed in range(first, first + count):
        dtype = list(DTYPES)[seed % 3]
        vocab = (2, 31, 513, 1500, 2600)[seed // 3 % 5]
        case = hard_case(seed, dtype=dtype, vocab=vocab, length=4)
        logits, tokens = tensor(case.rows, dtype), torch.from_numpy(case.tokens)[None]
        sequence = int(reference.sequence_seeds(case.options["seed"], 1)[0])
        scores = score_tokens(logits, tokens=tokens, **case.options)
        turned += judge(case, numpy(scores), sequence)
        for want in WANTED:
            alone = score_tokens(logits, want=want, **case.options)
            assert torch.equal(alone.token, scores.token), f"{want}, seed {seed}"
    assert turned <= 0.002 * 4 * count + 1


def check_probabilities() -> None:
    for seed in range(40):
        rows = hard_probabilities(seed, vocab=(5, 700)[seed % 2], length=3)
        options = {"temperature": (0.0, 1.0)[seed // 2 % 2], "seed": seed, "input": "probs"}
        scores = score_tokens(torch.from_numpy(rows)[None], **options)
        assert_scores(scores, expected(torch.from_numpy(rows)[None], **options), 1e-5, 1e-5)


def check_hidden() -> None:
    """Logits that jump between the blocks of a product: exact products, so those of score_tokens to the last bit."""
    for dtype in DTYPES.values():
        for level in (-90.0, -100.0, -1000.0, -60000.0):
            weight = peaked_logits(1, 1, 2600, dtype, seed=int(-level))[0, 0][:, None]
            weight[:600] = level
            hidden, weight = torch.ones(1, 9, 1, dtype=dtype), weight.to(dtype)
            for options in ({}, {"temperature": 1.0, "seed": 3}, {"temperature": 0.5, "top_p": 0.9, "law": "proposal"}):
                logits = (hidden @ weight.T).to(dtype)
                scores = score_hidden(hidden, weight, **options)
                assert (scores.token >= 600).all()
                assert_same_bits(scores, score_tokens(logits, **options))
                assert_scores(scores, expected(logits, **options), 5e-6, 5e-6)


def check_all() -> None:
    check_cases(0, 300)
    check_probabilities()
    check_hidden()


@pytest.mark.parametrize("isa", ISAS)
def test_random_rows_on_every_instruction_set(isa):
    """The choice is made once per process, so each instruction set gets its own."""
    here = Path(__file__).parent
    done = subprocess.run(
        [sys.executable, "-c", f"import test_score_tokens_scales as t; assert t.INFO['isa'] == {isa!r}; t.check_all()"],
        env={
            **os.environ,
            "MDMCORRECT_ISA": isa,
            "PYTHONPATH": os.pathsep.join([str(here), str(here.parent), os.environ.get("PYTHONPATH", "")]),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]


# ------------------------------------------------------------------------------------------------------ single examples


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("temperature", [0.0, 1e-3, 0.7, 1.0, 1e3])
@pytest.mark.parametrize("level", [-88.0, -90.0, -100.0, -200.0, -1e3, *MASKS[1:]])
def test_a_chunk_far_above_all_before_it(level, temperature, dtype):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(1, 20, 2048, generator=generator) * 3
    logits[..., :512] = masked_by(level, dtype)
    logits = logits.to(DTYPES[dtype])
    options = {"temperature": temperature, "seed": 1}
    scores = score_tokens(logits, **options)
    assert (scores.token >= 0).all()
    if temperature < 100:
        assert (scores.token >= 512).all()
    assert all(value.isfinite().all() for value in scores if value is not None)
    assert torch.equal(score_tokens(logits, want=("token",), **options).token, scores.token)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_ends_of_the_range(dtype):
    """Differences that no float32 holds."""
    top = LARGEST[dtype]
    logits = torch.full((1, 3, 1200), -top)
    logits[0, 0, [700, 900]] = top
    logits[0, 1] = top
    logits[0, 2, 5] = -top / 2
    logits = logits.to(DTYPES[dtype])
    for temperature in (0.0, 1e-30, 1e-3, 1.0, 1e3):
        scores = score_tokens(logits, temperature=temperature, seed=2, law="proposal")
        assert_scores(
            score_tokens(logits, temperature=temperature, seed=2, want=("token", "entropy", "margin", "max_logprob")),
            expected(logits, temperature=temperature, seed=2),
        )
        assert scores.token[0, 0] in (700, 900)
        assert scores.token[0, 2] == 5
        np.testing.assert_allclose(scores.entropy[0].numpy(), [np.log(2), np.log(1200), 0.0], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("place", [0, 511, 512, 1100])
def test_nan_and_infinity_are_found_among_any_levels(place, dtype):
    """In the first chunk, in one that exceeds all before it, and in one that does not."""
    for levels in ([0.0, 0.0, 0.0], [-200.0, 0.0, 200.0], [200.0, 0.0, -200.0], [-torch.inf, 0.0, -torch.inf]):
        for bad in (torch.nan, torch.inf):
            logits = torch.tensor(levels).repeat_interleave(512)[None, None, :1200].repeat(1, 2, 1)
            logits[0, 1, place] = bad
            logits = logits.to(DTYPES[dtype])
            for options in ({}, {"want": ("token",)}, {"temperature": 1.0}, {"temperature": 0.7, "top_p": 0.9}):
                assert (score_tokens(logits, **options).token < 0).tolist() == [[False, True]]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("noise", ["lazy", "dense"])
def test_a_filtered_draw_does_not_depend_on_what_is_wanted(noise, dtype):
    """Whose sums must run in one order: of many rows some would show another."""
    logits = peaked_logits(4, 50, 3000, DTYPES[dtype], seed=3)
    for filters in ({"top_k": 700}, {"top_p": 0.97}, {"top_k": 900, "top_p": 0.99, "filter_order": "top_p_first"}):
        options = {"temperature": 0.9, "seed": 8, "noise": noise, "law": "proposal", **filters}
        full = score_tokens(logits, **options)
        for name in ("proposal_logprob", "entropy", "second_logprob", "logsumexp"):
            alone = score_tokens(logits, want=("token", name), **options)
            assert torch.equal(alone.token, full.token)
            assert torch.equal(getattr(alone, name), getattr(full, name)), name


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("level", [0.0, -0.0])
def test_a_nucleus_that_reaches_zero(level, dtype):
    """Many ids at 0, where the search first looks (four nats below the maximum): each counts once."""
    logits = torch.full((1, 1, 2000), -20.0)
    logits[..., 1500] = 4.0
    logits[..., 200:230] = level
    logits[..., 210:220] = -0.0
    logits = logits.to(DTYPES[dtype])
    for top_p in (0.2, 0.63, 0.7, 0.9, 0.99, 0.999, 0.999999):
        for rule in ("inclusive", "exclusive"):
            options = {"temperature": 1.0, "top_p": top_p, "top_p_rule": rule, "law": "proposal", "seed": 1}
            assert_scores(score_tokens(logits, **options), expected(logits, **options), 1e-5, 1e-5)
