"""CUDA's score_hidden, thread by thread: logits made by torch and taken 1024 ids at a time score as they do whole."""

from __future__ import annotations

import device_ops
import numpy as np
import pytest
import torch
from device_ops import ID_SCORES
from harness import BFloat16
from test_simt_score_tokens import TYPES, expected

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def product(rows: int, vocab: int, dtype: str, seed: int = 0) -> np.ndarray:
    """Logits [rows, V] of hidden states and an output layer with a bias."""
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(rows, 24, generator=generator).to(DTYPES[dtype])
    weight = torch.randn(vocab, 24, generator=generator).to(DTYPES[dtype])
    bias = torch.randn(vocab, generator=generator).to(DTYPES[dtype])
    logits = torch.nn.functional.linear(hidden, weight, bias)
    return logits.view(torch.uint16).numpy().view(BFloat16) if dtype == "bfloat16" else logits.numpy()


def score(simt, logits, shape, op="score_hidden", **options):
    return device_ops.score_tokens(simt, logits, op=op, shape=shape, **options)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("vocab", [1, 7, 513, 1024, 1025, 4609])
def test_equals_score_tokens_to_the_last_bit(simt, vocab, dtype):
    """And the reference: blocks that end within a chunk, and rows that lie off 16 bytes."""
    logits = product(6, vocab, dtype, seed=vocab)
    tokens = np.random.default_rng(1).integers(-1, vocab, (2, 3))
    for options in (
        {"tokens": tokens},
        {"tokens": tokens, "temperature": 1.0, "seed": np.array([5, 6]), "step": 3, "call": 2},
        {"tokens": tokens, "temperature": 0.7, "law": "proposal", "forbid": (0,), "seed": np.array([5, 6])},
    ):
        if vocab == 1:
            options.pop("forbid", None)
        scores, traffic = score(simt, logits, (2, 3), **options)
        whole = logits.reshape(2, 3, vocab).view(type(logits))
        known, _ = device_ops.score_tokens(simt, whole, **options)
        for name, value in scores.items():
            np.testing.assert_array_equal(value, known[name], err_msg=name)
        truth = expected(whole, **options)
        np.testing.assert_array_equal(scores["token"], truth["token"])
        np.testing.assert_allclose(scores["entropy"], truth["entropy"], rtol=3e-6, atol=3e-6)
        if not options.get("temperature"):
            assert traffic["logits"].bytes_read == logits.nbytes + (tokens >= 0).sum() * logits.itemsize


@pytest.mark.parametrize("dtype", TYPES)
def test_the_draw_keeps_what_leads(any_order, dtype):
    """Every block may overtake those before; the id is drawn from what was kept of it."""
    logits = product(40, 5000, dtype)
    seed, positions = np.array([3]), np.arange(40)
    scores, traffic = score(any_order, logits, (1, 40), temperature=1.5, seed=seed, positions=positions)
    whole = logits[None].view(type(logits))
    known, _ = device_ops.score_tokens(any_order, whole, temperature=1.5, seed=seed, positions=positions)
    for name, value in scores.items():
        np.testing.assert_array_equal(value, known[name], err_msg=name)
    assert len({int(token) // 1024 for token in scores["token"][0]}) == 5
    again = traffic["logits"].bytes_read - logits.nbytes
    pieces = any_order.launches[0].blocks // 40  # each follows a race of its own
    assert 40 * 136 * logits.itemsize <= again <= 40 * pieces * 3 * 512 * logits.itemsize


@pytest.mark.parametrize("filters", [{}, {"top_k": 9, "top_p": 0.8}])
def test_rows_of_an_index(simt, filters):
    """In any order, with padding, which is not read; with filters by score_tokens' own kernels."""
    op = "score_tokens" if filters else "score_hidden"
    logits = product(7, 1100, "bfloat16")
    row_index = np.array([9, -1, 0, 4, 12, 11, -7])
    options = {"temperature": 0.8, "seed": np.array([1, 2, 3]), "tokens": np.full((3, 4), 5), **filters}
    scores, traffic = score(simt, logits, (3, 4), op=op, row_index=row_index, **options)
    assert traffic["logits"].bytes_read < 30 * logits.nbytes
    whole = np.zeros((3, 4, 1100), np.uint16).view(BFloat16)
    rows = np.zeros((3, 4), bool)
    for i, place in enumerate(row_index):
        if 0 <= place < 12:
            whole[place // 4, place % 4], rows[place // 4, place % 4] = logits[i], True
    known, _ = device_ops.score_tokens(simt, whole, rows=rows, **options)
    for name, value in scores.items():
        np.testing.assert_array_equal(value, known[name], err_msg=name)


@pytest.mark.parametrize("op", ["score_hidden", "score_tokens"])
def test_some_rows_that_follow_one_another(simt, op):
    logits = product(5, 1500, "float32")
    options = {"temperature": 1.0, "seed": np.array([1, 2])}
    scores, _ = score(simt, logits[2:4], (1, 5), op=op, first_row=2, **{**options, "seed": np.array([1])})
    known, _ = device_ops.score_tokens(simt, logits[None], temperature=1.0, seed=np.array([1]))
    for name, value in scores.items():
        np.testing.assert_array_equal(value[0, 2:4], known[name][0, 2:4], err_msg=name)
        assert (value[0, [0, 1, 4]] == -1).all() if name in ID_SCORES else np.isnan(value[0, [0, 1, 4]]).all()


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_bad_rows_are_marked(simt, temperature):
    logits = product(4, 2100, "float32")
    logits[1, 2000] = np.nan
    logits[2, 3] = np.inf
    logits[3] = -np.inf
    scores, _ = score(simt, logits, (1, 4), temperature=temperature)
    assert scores["token"][0, 0] >= 0
    assert scores["token"][0, 1:].tolist() == [-1, -1, -1]
    assert np.isnan(scores["logprob"][0, 1:]).all()
    assert scores["logsumexp"][0, 3] == -np.inf


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("size", [1, 8, 200, 2056])
def test_rows_are_gathered(simt, size, dtype):
    """From any layout, by 16 bytes where rows allow it; zeros for what is no row."""
    hidden = product(30, size + 8, dtype)[:, :size].reshape(5, 6, size) if size % 8 else product(30, size, dtype)
    hidden = hidden.reshape(5, 6, size).transpose(1, 0, 2)
    hidden = hidden.view(np.uint16) if hidden.itemsize == 2 else hidden
    row_index = np.array([29, -1, 0, 30, 7, 7])
    out = np.empty((6, size), hidden.dtype)
    halves = out.view(np.uint16)
    batch_stride, position_stride, _ = hidden.strides
    simt.launch(
        "gather_rows",
        hidden=hidden,
        batch=6,
        length=5,
        batch_stride=batch_stride,
        position_stride=position_stride,
        row_bytes=size * hidden.itemsize,
        row_index=row_index,
        row_count=6,
        out=halves,
    )
    for i, place in enumerate(row_index):
        row = hidden[place // 5, place % 5] if 0 <= place < 30 else np.zeros(size, hidden.dtype)
        np.testing.assert_array_equal(out[i], row)
