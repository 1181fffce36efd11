"""score_tokens against the float64 reference: every output, dtype, layout, and what a row may hold."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
from scipy import stats

from mdmcorrect.ops import TokenScores, score_tokens
from mdmcorrect.selfcheck.inputs.scoring import (
    ID_SCORES,
    VALUE_SCORES,
    assert_same_bits,
    assert_scores,
    expected,
    peaked_logits,
)

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
# Around the vector (16), the chunk (512) and sixteen chunks, whose noise is drawn together (8192).
VOCABULARIES = [1, 2, 15, 16, 17, 511, 512, 513, 1000, 8191, 8193, 50257]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("vocab", VOCABULARIES)
def test_equals_reference(vocab, dtype):
    logits = peaked_logits(2, 3, vocab, dtype, seed=vocab)
    if vocab > 2:
        logits[0, 1, 1:] = -torch.inf
        logits[1, 1, ::2] = -torch.inf
    tokens = torch.randint(0, vocab, (2, 3), generator=torch.Generator().manual_seed(1))
    for temperature in (0.0, 1.0, 0.7):
        for law in ("raw", "proposal"):
            options = {"temperature": temperature, "law": law, "seed": 5, "step": 3, "call": 2}
            assert_scores(score_tokens(logits, tokens=tokens, **options), expected(logits, tokens=tokens, **options))


@pytest.mark.parametrize("temperature", [0.1, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("dtype", DTYPES)
def test_draws_agree_with_reference_except_near_ties(dtype, temperature):
    """Design target: fewer than 1e-5 of draws differ. Here none of 2000 may; test_score_tokens_law.py counts more."""
    logits = peaked_logits(4, 500, 700, dtype, seed=2)
    token = score_tokens(logits, temperature=temperature, seed=9, want=("token",)).token
    np.testing.assert_array_equal(token.numpy(), expected(logits, temperature=temperature, seed=9)["token"])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("vocab", [1000, 50257, 126464])
def test_error_is_within_twice_that_of_plain_torch(vocab, dtype):
    """Error at most twice that of the float32 torch expression on the same input, plus 1 ulp."""
    logits = peaked_logits(1, 24, vocab, dtype, seed=3)
    tokens = torch.randint(0, vocab, (1, 24))
    ours = score_tokens(logits, tokens=tokens)
    truth = expected(logits, tokens=tokens)
    x = logits.float()
    logprobs = torch.log_softmax(x, -1)
    top = logprobs.topk(2, -1).values
    plain = TokenScores(
        logprob=top[..., 0],
        proposal_logprob=top[..., 0],
        current_logprob=logprobs.gather(-1, tokens[..., None])[..., 0],
        max_logprob=top[..., 0],
        second_logprob=top[..., 1],
        entropy=-(logprobs.exp() * logprobs).sum(-1),
        margin=torch.softmax(x, -1).topk(2, -1).values.diff(dim=-1).neg()[..., 0],
        logsumexp=torch.logsumexp(x, -1),
        confidence=torch.softmax(x, -1).amax(-1),
    )
    for name in VALUE_SCORES:
        exact = truth[name]
        error = np.abs(getattr(ours, name).numpy() - exact).max()
        theirs = np.abs(getattr(plain, name).numpy() - exact).max()
        assert error <= 2 * theirs + np.spacing(np.abs(exact).max().astype(np.float32)), name


def test_layouts():
    logits = peaked_logits(4, 3, 600)
    scores = score_tokens(logits, temperature=0.8, seed=3)
    padded = torch.full((4, 5, 640), torch.nan)
    padded[:, 1:4, 7:607] = logits
    assert_same_bits(score_tokens(padded[:, 1:4, 7:607], temperature=0.8, seed=3), scores)
    swapped = logits.transpose(0, 1).contiguous().transpose(0, 1)
    assert not swapped.is_contiguous()
    assert_same_bits(score_tokens(swapped, temperature=0.8, seed=3), scores)
    # Dimensions before the position are sequences; [L, V] is one sequence.
    four = score_tokens(logits.reshape(2, 2, 3, 600), temperature=0.8, seed=3)
    assert four.token.shape == (2, 2, 3)
    assert_same_bits(TokenScores(*(s if s is None else s.reshape(4, 3) for s in four)), scores)
    single = score_tokens(logits[0], temperature=0.8, seed=3)
    assert_same_bits(
        TokenScores(*(s if s is None else s[None] for s in single)), score_tokens(logits[:1], temperature=0.8, seed=3)
    )
    # One row for all positions: a stride of 0.
    assert score_tokens(logits[:1, :1].expand(1, 50, 600), temperature=2.0).token.unique().numel() > 5


@pytest.mark.parametrize("shape", [(0, 3, 10), (2, 0, 10), (0, 10)])
def test_no_rows(shape):
    scores = score_tokens(torch.zeros(shape), temperature=1.0)
    assert all(score.shape == shape[:-1] for score in scores if score is not None)


def test_ties_go_to_the_lowest_id():
    for ids in ([3, 4], [511, 512], [100, 1200], [0, 1299]):
        logits = torch.zeros(1, 1, 1300)
        logits[0, 0, ids] = 2.0
        scores = score_tokens(logits)
        assert scores.token.item() == scores.argmax.item() == ids[0]
        assert scores.second_logprob.item() == scores.max_logprob.item()
        assert scores.margin.item() == 0.0


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("place", [0, 17, 511, 512, 699])
def test_bad_rows_are_marked_and_leave_others_alone(place, temperature, dtype):
    logits = peaked_logits(1, 5, 700, dtype)
    clean = score_tokens(logits, temperature=temperature)
    logits[0, 1, place] = torch.nan
    logits[0, 2, place] = torch.inf
    logits[0, 3] = -torch.inf
    scores = score_tokens(logits, tokens=torch.zeros(1, 5, dtype=torch.int64), temperature=temperature)
    assert scores.token[0, 1:4].tolist() == scores.argmax[0, 1:4].tolist() == [-1, -1, -1]
    for name in VALUE_SCORES:
        value = getattr(scores, name)[0]
        assert value[1:3].isnan().all(), name
        assert value[3].item() == -np.inf if name == "logsumexp" else value[3].isnan(), name
    for name in ("token", "logprob", "entropy"):
        assert torch.equal(getattr(scores, name)[0, [0, 4]], getattr(clean, name)[0, [0, 4]])


def test_suppressed_ids_are_gone_and_forbidden_ones_only_from_proposals():
    logits = peaked_logits(2, 40, 900)
    logits[..., 5] += 20
    logits[..., 700] = torch.nan  # suppressed before anything looks at it
    for options in (
        {"suppress": [5, 700]},
        {"suppress": torch.tensor([700]), "forbid": 5},
        {"suppress": 700, "forbid": [5, 899, 0], "law": "proposal"},
    ):
        for temperature in (0.0, 1.0, 0.6):
            scores = score_tokens(logits, temperature=temperature, seed=4, **options)
            plain = {k: np.atleast_1d(v) if k != "law" else v for k, v in options.items()}
            assert_scores(scores, expected(logits, temperature=temperature, seed=4, **plain))
            assert not (scores.token == 5).any()
            assert (scores.argmax == 5).all() == ("forbid" in options and "law" not in options)
    everything = score_tokens(logits, suppress=range(900))
    assert (everything.token == -1).all()
    assert (everything.logsumexp == -torch.inf).all()
    nothing_proposable = score_tokens(logits, suppress=700, forbid=range(900))
    assert (nothing_proposable.token == -1).all()
    assert nothing_proposable.confidence.isnan().all()
    assert (nothing_proposable.argmax == 5).all()


def test_rows_left_out_are_marked():
    logits = peaked_logits(3, 6, 520)
    rows = torch.rand(3, 6, generator=torch.Generator().manual_seed(0)) < 0.5
    broken = torch.where(rows[..., None], logits, torch.nan)
    scores, every = (score_tokens(x, rows=r, temperature=1.0, seed=1) for x, r in ((broken, rows), (logits, None)))
    for score, full in zip(scores, every, strict=True):
        if score is not None:
            assert torch.equal(score[rows], full[rows])
            left_out = score[~rows]
            assert left_out.isnan().all() if score.is_floating_point() else (left_out == -1).all()


def test_rows_left_out_are_not_read():
    """Their memory may not even be readable: the pages are protected, and a read would end the process."""
    program = """
        import ctypes, mmap, torch
        from mdmcorrect.ops import score_tokens
        pages = 8
        memory = mmap.mmap(-1, pages * mmap.PAGESIZE)
        logits = torch.frombuffer(memory, dtype=torch.float32).view(1, pages, -1)
        logits.copy_(torch.randn_like(logits))
        address, libc = logits.data_ptr(), ctypes.CDLL(None, use_errno=True)
        for page in (0, 3, 7):
            assert libc.mprotect(ctypes.c_void_p(address + page * mmap.PAGESIZE), mmap.PAGESIZE, 0) == 0
        rows = torch.tensor([[False, True, True, False, True, True, True, False]])
        print(score_tokens(logits, rows=rows, temperature=1.0, top_p=0.9).token.tolist())
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("-1") == 3


def test_want_leaves_the_rest_out():
    logits = peaked_logits(1, 4, 600)
    tokens = torch.zeros(1, 4, dtype=torch.int64)
    every = score_tokens(logits, tokens=tokens, temperature=0.9)
    for name in (*ID_SCORES, *VALUE_SCORES):
        alone = score_tokens(logits, tokens=tokens, temperature=0.9, want=(name,))
        assert [field for field in TokenScores._fields if getattr(alone, field) is not None] == [name]
        assert torch.equal(getattr(alone, name), getattr(every, name)), name
    assert score_tokens(logits).current_logprob is None
    assert all(score is None for score in score_tokens(logits, want=()))


def test_current_token_outside_the_vocabulary():
    scores = score_tokens(torch.zeros(1, 3, 4), tokens=torch.tensor([[-1, 4, 3]]))
    assert scores.current_logprob.isnan().tolist() == [[True, True, False]]


@pytest.mark.parametrize("dtype", DTYPES)
def test_probabilities(dtype):
    weights = (peaked_logits(2, 5, 1100).softmax(-1) * 3).to(dtype)  # unnormalised
    weights[..., ::3] = 0
    for options in ({}, {"temperature": 1.0}, {"temperature": 0.5, "top_p": 0.9, "suppress": [4]}):
        scores = score_tokens(weights, input="probs", seed=2, **options)
        assert_scores(scores, expected(weights, input="probs", seed=2, **options), rtol=1e-5, atol=1e-5)
    weights[0, 0, 3] = np.nan
    weights[0, 1] = 0
    weights[0, 2] = -weights[0, 2]
    scores = score_tokens(weights, input="probs")
    assert scores.token[0, :3].tolist() == [-1, -1, -1]
    assert scores.logsumexp[0, 0].isnan()
    assert scores.logsumexp[0, 1:3].tolist() == [-np.inf, -np.inf]


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_negative_probability_is_none(dtype):
    """Rounding makes them, and rates that sum to 0; a row is what it is with 0 in their place."""
    weights = (peaked_logits(3, 4, 1100).softmax(-1) * 3).to(dtype)
    below = torch.rand(weights.shape, generator=torch.Generator().manual_seed(1)) < 0.3
    sizes = torch.tensor([1e-30, 1e-8, 0.5, 3e4]).to(dtype)
    negative = torch.where(below, -sizes[torch.arange(1100) % 4], weights)
    zero = weights.masked_fill(below, 0)
    negative[..., 7] = -0.0
    zero[..., 7] = 0.0
    tokens = torch.arange(12).reshape(3, 4)
    for options in (
        {},
        {"temperature": 1.0},
        {"temperature": 0.5, "top_p": 0.9, "suppress": [4], "forbid": [9]},
        {"temperature": 1.0, "top_k": 5, "law": "proposal"},
        {"temperature": 1.0, "top_p": 0.7, "top_p_rule": "exclusive"},
        {"temperature": 1.0, "noise": "dense"},
    ):
        given = {**options, "input": "probs", "tokens": tokens, "seed": 2}
        scores = score_tokens(negative, **given)
        assert_same_bits(scores, score_tokens(zero, **given))
        assert_scores(scores, expected(negative, **given), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("scale", [1e-42, 1e-38, 1e-20, 1.0, 1e20, 3e37])
def test_probabilities_of_any_size(scale):
    weights = torch.tensor([0.1, 0.6, 0.3, 0.0, -0.2]) * scale
    scores = score_tokens(weights.expand(1, 20_000, 5), input="probs", temperature=1.0, seed=3)
    counts = np.bincount(scores.token.flatten(), minlength=5)
    law = np.maximum(weights.double().numpy(), 0)
    assert stats.chisquare(counts[:3], law[:3] / law.sum() * 20_000).pvalue > 1e-4
    assert counts[3:].tolist() == [0, 0]
    np.testing.assert_allclose(scores.logsumexp[0, 0].item(), np.log(law.sum()), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_confidence_is_rounded_as_a_softmax_in_that_dtype(dtype):
    logits = peaked_logits(4, 500, 300, dtype)
    scores = score_tokens(logits, confidence_dtype=dtype, want=("confidence", "token"))
    softmax = torch.softmax(logits, -1).amax(-1)
    assert torch.equal(scores.confidence.to(dtype).float(), scores.confidence)
    # The two compute in float32 before they round; a last-bit difference there may tip one rounding in thousands.
    assert (scores.confidence != softmax.float()).float().mean() < 2e-3
    # Tiny probabilities, subnormal in float16.
    tiny = torch.tensor([[[0.0, -12.3]], [[0.0, -17.0]]])
    scores = score_tokens(tiny, forbid=0, confidence_dtype=dtype)
    assert torch.equal(scores.confidence, tiny.double().softmax(-1)[..., 1].to(dtype).float())


def test_offsets_beyond_32_bits():
    far = 2**31 + 4096
    memory = torch.empty(far + 700, dtype=torch.bfloat16)  # 4 GB of address space of which three pages are touched
    logits = memory.as_strided((2, 1, 700), (far, 700, 1))
    logits.copy_(peaked_logits(2, 1, 700, torch.bfloat16))
    assert_same_bits(score_tokens(logits, temperature=1.0), score_tokens(logits.contiguous(), temperature=1.0))


def test_gradients_do_not_flow():
    logits = peaked_logits(1, 2, 9).requires_grad_()
    assert not score_tokens(logits).logprob.requires_grad
