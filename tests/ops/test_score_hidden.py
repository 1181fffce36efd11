"""score_hidden against score_tokens on the same logits, and against the float64 reference.

Where bits are compared, hidden states and weights are small integers: every sum of their products is exact in float32
whatever its order, so the logits are the same for any number of rows and ids that are multiplied together.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from mdmcorrect import _native, reference, rng
from mdmcorrect.ops import TokenScores, score_hidden, score_tokens
from mdmcorrect.selfcheck.inputs.scoring import VALUE_SCORES, assert_same_bits, integer_layer

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
SETTINGS = [
    {},
    {"temperature": 1.0},
    {"temperature": 0.7, "law": "proposal", "forbid": [0], "suppress": [2]},
    {"temperature": 1.0, "top_p": 0.9, "law": "proposal"},
    {"temperature": 0.9, "top_k": 5, "top_p": 0.7, "top_p_rule": "exclusive", "filter_order": "top_p_first"},
]


def pick(scores: TokenScores, *index) -> TokenScores:
    return TokenScores(*(score if score is None else score[index] for score in scores))


@pytest.mark.parametrize("options", SETTINGS, ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("vocab", [3, 17, 511, 513, 1024, 1025, 5000])
def test_equals_score_tokens_on_the_same_logits(vocab, dtype, options):
    hidden, weight, bias = integer_layer((2, 3), vocab, dtype)
    tokens = torch.randint(0, vocab, (2, 3), generator=torch.Generator().manual_seed(1))
    options = {**options, "tokens": tokens, "seed": torch.tensor([4, -5]), "step": 3, "call": 2}
    assert_same_bits(score_hidden(hidden, weight, **options), score_tokens(F.linear(hidden, weight), **options))
    logits = F.linear(hidden, weight, bias)
    assert_same_bits(score_hidden(hidden, weight, bias, **options), score_tokens(logits, **options))


@pytest.mark.parametrize("rows", [1, 31, 33, 65])
@pytest.mark.parametrize(("size", "vocab"), [(1, 50), (2, 1), (23, 47), (24, 49), (1030, 60)])
def test_odd_sizes(size, vocab, rows):
    """Around the tiles of the product of bfloat16 pairs: 2 values, 12 and 48 ids, 32 rows."""
    hidden, weight, bias = integer_layer((1, rows), vocab, torch.bfloat16, size=size)
    logits = F.linear(hidden, weight, bias)
    assert_same_bits(score_hidden(hidden, weight, bias, seed=1), score_tokens(logits, seed=1))
    wide = torch.full((vocab, size + 3), torch.nan, dtype=torch.bfloat16)
    wide[:, 2 : size + 2] = weight
    assert_same_bits(score_hidden(hidden, wide[:, 2 : size + 2], bias), score_tokens(logits))


def test_no_width():
    hidden, weight, bias = torch.zeros(1, 2, 0), torch.zeros(40, 0), torch.randn(40)
    for dtype in DTYPES:
        layer = (hidden.to(dtype), weight.to(dtype), bias.to(dtype))
        assert_same_bits(score_hidden(*layer), score_tokens(F.linear(*layer)))


@pytest.mark.parametrize("options", SETTINGS, ids=str)
def test_many_rows(options):
    """More rows than are multiplied at once, with a different temperature and seed for each sequence."""
    hidden, weight, bias = integer_layer((3, 700), 1300, torch.bfloat16, size=8)
    options = {**options, "positions": torch.arange(700) - 9, "seed": rng.sequence_seeds(3, 3)}
    options["temperature"] = torch.tensor([0.0, 0.6, 1.0])
    assert_same_bits(
        score_hidden(hidden, weight, bias, **options), score_tokens(F.linear(hidden, weight, bias), **options)
    )


@pytest.mark.parametrize("options", SETTINGS, ids=str)
def test_row_index(options):
    """Any order, duplicates, and padding; what is left out may hold anything."""
    hidden, weight, _ = integer_layer((4, 300), 1500, torch.float32, size=8)
    index = torch.tensor([700, -1, 3, 1199, 4, 5, -1, 3, 1200, 10**15, 0])
    rows = torch.zeros(1200, dtype=torch.bool)
    rows[[700, 3, 1199, 4, 5, 0]] = True
    rows = rows.view(4, 300)
    every = score_hidden(hidden, weight, seed=1, **options)
    some = score_hidden(torch.where(rows[..., None], hidden, torch.nan), weight, row_index=index, seed=1, **options)
    assert_same_bits(pick(some, rows), pick(every, rows))
    for score in some:
        if score is not None:
            assert score[~rows].isnan().all() if score.is_floating_point() else (score[~rows] == -1).all()
    none = score_hidden(hidden, weight, row_index=torch.tensor([-1, -1]), **options)
    assert (none.token == -1).all()
    assert none.entropy.isnan().all()


def test_rows_left_out_are_not_read():
    """Their memory may not even be readable: the pages are protected, and a read would end the process."""
    program = """
        import ctypes, mmap, torch
        from mdmcorrect.ops import score_hidden
        pages = 8
        memory = mmap.mmap(-1, pages * mmap.PAGESIZE)
        hidden = torch.frombuffer(memory, dtype=torch.float32).view(pages, -1)
        hidden.copy_(torch.randn_like(hidden))
        address, libc = hidden.data_ptr(), ctypes.CDLL(None, use_errno=True)
        for page in (0, 3, 7):
            assert libc.mprotect(ctypes.c_void_p(address + page * mmap.PAGESIZE), mmap.PAGESIZE, 0) == 0
        weight = torch.randn(40, hidden.shape[1])
        for index in ([1, 2, 4, 5, 6], [4, 5, 6]):
            print(score_hidden(hidden, weight, row_index=torch.tensor(index), temperature=1.0).token.tolist())
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("-1") == 8


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("vocab", [1000, 9001])
def test_error_is_within_twice_that_of_plain_torch(vocab, dtype):
    """On real numbers: at most twice the error of the torch expression in the same dtype, plus 1 ulp."""
    generator = torch.Generator().manual_seed(2)
    hidden = torch.randn(1, 40, 96, generator=generator).to(dtype)
    weight = (torch.randn(vocab, 96, generator=generator) / 3).to(dtype)
    tokens = torch.randint(0, vocab, (1, 40), generator=generator)
    ours = score_hidden(hidden, weight, tokens=tokens)
    rows = [
        reference.score_hidden_row(hidden[0, i].double().numpy(), weight.double().numpy(), token=int(tokens[0, i]))
        for i in range(40)
    ]
    x = F.linear(hidden, weight).float()
    logprobs = torch.log_softmax(x, -1)
    top = logprobs.topk(2, -1).values
    plain = TokenScores(
        logprob=top[..., 0],
        proposal_logprob=top[..., 0],
        current_logprob=logprobs.gather(-1, tokens[..., None])[..., 0],
        max_logprob=top[..., 0],
        second_logprob=top[..., 1],
        entropy=-(logprobs.exp() * logprobs).sum(-1),
        margin=top[..., 0].exp() - top[..., 1].exp(),
        logsumexp=torch.logsumexp(x, -1),
        confidence=top[..., 0].exp(),
    )
    for name in VALUE_SCORES:
        exact = np.array([[row[name] for row in rows]])
        error = np.abs(getattr(ours, name).numpy() - exact).max()
        theirs = np.abs(getattr(plain, name).numpy() - exact).max()
        assert error <= 2 * theirs + np.spacing(np.abs(exact).max().astype(np.float32)), name


@pytest.mark.parametrize("temperature", [0.5, 1.0])
def test_draws_agree_with_reference_except_near_ties(temperature):
    hidden, weight, bias = integer_layer((3, 100), 1200, torch.float32)
    token = score_hidden(hidden, weight, bias, temperature=temperature, seed=9, want=("token",)).token
    seeds = reference.sequence_seeds(9, 3)
    layer = weight.double().numpy(), bias.double().numpy()
    for b in range(3):
        for place in range(100):
            row = reference.score_hidden_row(
                hidden[b, place].double().numpy(), *layer, temperature=temperature, seed=int(seeds[b]), position=place
            )
            assert row["token"] == token[b, place]


def test_layouts():
    hidden, weight, bias = integer_layer((4, 3), 700, torch.bfloat16)
    options = {"temperature": 0.8, "seed": 3}
    scores = score_hidden(hidden, weight, bias, **options)
    padded = torch.full((4, 5, 40), torch.nan, dtype=torch.bfloat16)
    padded[:, 1:4, 7:31] = hidden
    assert_same_bits(score_hidden(padded[:, 1:4, 7:31], weight, bias, **options), scores)
    swapped = hidden.transpose(0, 1).contiguous().transpose(0, 1)
    assert_same_bits(score_hidden(swapped, weight, bias, **options), scores)
    transposed = weight.T.contiguous().T
    assert_same_bits(score_hidden(hidden, transposed, bias.repeat(2).view(2, -1).T[:, 1], **options), scores)
    four = score_hidden(hidden.view(2, 2, 3, 24), weight, bias, **options)
    assert four.token.shape == (2, 2, 3)
    assert torch.equal(four.token.view(4, 3), scores.token)
    single = score_hidden(hidden[0], weight, bias, **options)
    assert torch.equal(single.token, scores.token[0])
    same = score_hidden(hidden[:1, :1].expand(1, 50, 24), weight, temperature=3.0)
    assert same.token.unique().numel() > 5


@pytest.mark.parametrize("shape", [(0, 3, 8), (2, 0, 8), (0, 8)])
def test_no_rows(shape):
    scores = score_hidden(torch.zeros(shape), torch.ones(10, 8), temperature=1.0)
    assert all(score.shape == shape[:-1] for score in scores if score is not None)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_bad_rows_are_marked_and_leave_others_alone(temperature):
    hidden, weight, bias = integer_layer((1, 5), 9000, torch.float32)
    clean = score_hidden(hidden, weight, bias, temperature=temperature)
    hidden[0, 1, 3] = torch.nan
    hidden[0, 2, 0] = torch.inf
    scores = score_hidden(hidden, weight, bias, temperature=temperature)
    assert scores.token[0, 1:3].tolist() == scores.argmax[0, 1:3].tolist() == [-1, -1]
    assert scores.logsumexp[0, 1:3].isnan().all()
    assert_same_bits(pick(scores, 0, [0, 3, 4]), pick(clean, 0, [0, 3, 4]))
    for bad, where in itertools.product((torch.nan, torch.inf), (0, 8999)):
        spoilt = torch.where(torch.arange(9000) == where, bad, bias)
        assert (score_hidden(hidden, weight, spoilt, temperature=temperature).token == -1).all()
    nothing = score_hidden(hidden[:, 3:], weight, torch.full_like(bias, -torch.inf), temperature=temperature)
    assert nothing.token.tolist() == [[-1, -1]]
    assert (nothing.logsumexp == -torch.inf).all()


@pytest.mark.parametrize("options", SETTINGS, ids=str)
def test_threads(options):
    hidden, weight, bias = integer_layer((2, 65), 3000, torch.bfloat16)
    threads = torch.get_num_threads()
    try:
        results = []
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            results.append(score_hidden(hidden, weight, bias, seed=1, **options))
    finally:
        torch.set_num_threads(threads)
    assert_same_bits(results[0], results[1])
    assert_same_bits(results[0], results[2])


def test_autocast_multiplies_in_its_dtype():
    hidden, weight, bias = (torch.randn(*shape) for shape in ((2, 3, 33), (1500, 33), (1500,)))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours = score_hidden(hidden, weight, bias, temperature=1.0)
        theirs = score_hidden(hidden.bfloat16(), weight.bfloat16(), bias.bfloat16(), temperature=1.0)
        mixed = score_hidden(hidden.bfloat16(), weight, bias, temperature=1.0)
    assert_same_bits(ours, theirs)
    assert_same_bits(mixed, theirs)
    plain = score_hidden(hidden, weight, bias, temperature=1.0)
    assert not torch.equal(ours.logprob, plain.logprob)


def test_want_leaves_the_rest_out():
    hidden, weight, _ = integer_layer((1, 4), 600, torch.float32)
    scores = score_hidden(hidden, weight, want=("token", "entropy"))
    assert [name for name in TokenScores._fields if getattr(scores, name) is not None] == ["token", "entropy"]
    assert score_hidden(hidden, weight).current_logprob is None


def test_gradients_do_not_flow():
    hidden, weight, bias = integer_layer((1, 2), 9, torch.float32)
    scores = score_hidden(hidden.requires_grad_(), weight.requires_grad_(), bias.requires_grad_())
    assert not scores.logprob.requires_grad


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the peak of resident memory from /proc")
@pytest.mark.parametrize("options", [{"temperature": 1.0}, {"temperature": 1.0, "top_p": 0.9}], ids=str)
def test_the_logits_never_exist(options):
    """2048 rows of 65536 logits are 268 MB; resident memory may not grow by a quarter of that."""
    program = f"""
        import re, torch
        from mdmcorrect.ops import score_hidden
        def kilobytes(name):
            return int(re.search(name + r":\\s+(\\d+)", open("/proc/self/status").read()).group(1))
        hidden, weight = torch.randn(2048, 16).bfloat16(), torch.randn(65536, 16).bfloat16()
        score_hidden(hidden[:8], weight[:600])
        open("/proc/self/clear_refs", "w").write("5")  # the peak starts again from here
        before = kilobytes("VmRSS")
        score_hidden(hidden, weight, **{options})
        print(kilobytes("VmHWM") - before)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 65_000


@pytest.mark.parametrize("isa", _native.build_info()["isas_supported"])
def test_every_instruction_set(isa):
    program = """
        import itertools, sys
        import torch
        from torch.nn import functional as F
        sys.path.insert(0, sys.argv[1])
        from mdmcorrect.selfcheck.inputs.scoring import assert_same_bits
        from test_score_hidden import DTYPES, SETTINGS, integer_layer
        from mdmcorrect import _native
        from mdmcorrect.ops import score_hidden, score_tokens
        assert _native.build_info()["isa"] == sys.argv[2]
        for vocab, dtype, options in itertools.product([16, 2100], DTYPES, SETTINGS):
            hidden, weight, bias = integer_layer((2, 3), vocab, dtype)
            logits = F.linear(hidden, weight, bias)
            assert_same_bits(score_hidden(hidden, weight, bias, **options), score_tokens(logits, **options))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), os.path.dirname(__file__), isa],
        env={**os.environ, "MDMCORRECT_ISA": isa},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
