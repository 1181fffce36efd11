"""CUDA's linear_cross_entropy, thread by thread, against the float64 reference; NumPy multiplies."""

from __future__ import annotations

import device_ops
import harness
import numpy as np
import pytest
from harness import bfloat16, widen
from kernel_mutants import CUDA, compile_mutant

from mdmcorrect import reference

TYPES = {"float32": np.float32, "bfloat16": bfloat16, "float16": np.float16}
# Of the largest gradient: sums in float32, and the rounding of the logits' gradient and of the result.
TOLERANCE = {"float32": 3e-6, "bfloat16": 8e-3, "float16": 1e-3}


def problem(n, width, vocab, dtype="float32", counted=0.6, seed=0):
    """Hidden states and weights whose logits have spread 3, and targets of which a share counts."""
    random = np.random.default_rng(seed + n + width + vocab)
    hidden = TYPES[dtype](random.normal(size=(n, width)))
    weight = TYPES[dtype](random.normal(size=(vocab, width)) * 3 / width**0.5)
    targets = np.where(random.random(n) < counted, random.integers(0, vocab, n), -100)
    return hidden, weight, targets


def check(simt, hidden, weight, targets, dtype="float32", block_ids=None, tolerance=2e-6, **options):
    """Forward and backward; returns both and their traffic."""
    random = np.random.default_rng(1)
    upstream = random.normal(size=len(hidden)).astype(np.float32)
    upstream[targets == options.get("ignore_index", -100)] = np.nan  # not looked at
    counted = reference.loss.counted_rows(targets, options.get("ignore_index", -100), options.get("row_index"))
    expected = reference.linear_cross_entropy(
        widen(hidden), widen(weight), targets, grad_losses=np.nan_to_num(upstream), **options
    )
    (losses, normaliser, correct, marked), moved = device_ops.linear_cross_entropy(
        simt, hidden, weight, targets, block_ids=block_ids, **options
    )
    np.testing.assert_allclose(losses, expected[0], rtol=tolerance, atol=tolerance)
    np.testing.assert_array_equal(marked, counted)
    assert not correct[~counted].any()
    gradients, moved_back = device_ops.linear_cross_entropy(
        simt,
        hidden,
        weight,
        targets,
        block_ids=block_ids,
        normaliser=normaliser,
        grad_losses=upstream,
        **options,
    )
    for mine, truth in zip(gradients, expected[1:], strict=True):
        scale = max(np.abs(truth).max(initial=0.0), 1e-30)
        np.testing.assert_allclose(widen(mine) / scale, truth / scale, rtol=0, atol=TOLERANCE[dtype])
    return (losses, normaliser, correct), gradients, (moved, moved_back)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("shape", [(1, 1, 1), (7, 5, 11), (9, 33, 1025), (5, 8, 3001)], ids=str)
def test_losses_and_gradients_are_the_references(simt, shape, dtype):
    hidden, weight, targets = problem(*shape, dtype)
    vocab = shape[2]
    suppress = [] if vocab < 3 else [vocab // 2, vocab - 1]
    targets[np.isin(targets, suppress)] = 0
    bias = np.random.default_rng(2).normal(size=vocab).astype(np.float32)
    rows = np.array([-1, *range(0, shape[0], 2), *range(0, shape[0], 3), 10**6])
    for block_ids in (None, 520):  # one block, several
        check(simt, hidden, weight, targets, dtype, block_ids)
        options = {"bias": bias, "suppress": suppress, "row_index": rows, "ignore_index": 0}
        check(simt, hidden, weight, targets.clip(min=0), dtype, block_ids, **options)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(
    "options", [{"label_smoothing": 0.1}, {"softcap": 3.0}, {"label_smoothing": 1.0, "softcap": 30.0}]
)
def test_label_smoothing_and_softcap(simt, dtype, options):
    """Odd sizes, suppressed ids in any order, twice and outside, several blocks, one of them suppressed whole."""
    for shape in ((1, 1, 2), (7, 5, 11), (6, 33, 1603)):
        hidden, weight, targets = problem(*shape, dtype)
        vocab = shape[2]
        suppress = [] if vocab < 3 else [vocab - 1, vocab // 2, vocab - 1, -3, vocab + 7]
        if vocab > 1100:
            suppress += range(520, 1040)
        targets[np.isin(targets, suppress)] = 0
        bias = np.random.default_rng(2).normal(size=vocab).astype(np.float32)
        kept = [id for id in suppress if 0 <= id < vocab]
        for block_ids in (None, 520):
            results = []
            for ids in (suppress, sorted(set(kept))):
                one = {"bias": bias, "suppress": ids, **options}
                results.append(
                    device_ops.linear_cross_entropy(simt, hidden, weight, targets, block_ids=block_ids, **one)[0]
                )
            for mine, other in zip(*results, strict=True):
                np.testing.assert_array_equal(mine, other)
            check(simt, hidden, weight, targets, dtype, block_ids, bias=bias, suppress=sorted(set(kept)), **options)


@pytest.mark.parametrize("scale", [1e-3, 1e2, 1e6, 1e30])
def test_label_smoothing_and_softcap_at_any_scale(simt, scale):
    hidden, weight, targets = problem(6, 4, 700, counted=1.0)
    bias = np.float32(scale) * np.random.default_rng(3).normal(size=700).astype(np.float32)
    for options in ({"label_smoothing": 0.2}, {"softcap": 20.0}, {"label_smoothing": 0.2, "softcap": 5.0}):
        truth = reference.linear_cross_entropy(hidden, weight, targets, bias=bias, **options)[0]
        (losses, *_), _ = device_ops.linear_cross_entropy(simt, hidden, weight, targets, bias=bias, **options)
        np.testing.assert_allclose(losses, truth, rtol=1e-6, atol=3e-6 + 2e-7 * scale * ("softcap" not in options))
    # The mean of logits that are all large: relative to the largest, since nothing of it is left beside them.
    offset = np.full(700, scale, np.float32)
    plain, *_ = device_ops.linear_cross_entropy(simt, hidden, weight, targets, label_smoothing=0.2)[0]
    moved, *_ = device_ops.linear_cross_entropy(simt, hidden, weight, targets, bias=offset, label_smoothing=0.2)[0]
    np.testing.assert_allclose(moved, plain, rtol=0, atol=1e-5 + (4e-7 * scale if scale < 1e7 else 1e3))


def test_infinite_logits_with_label_smoothing(simt):
    """An id of mass 0 that is not suppressed makes the mean infinite; one that is suppressed does not."""
    hidden, weight, targets = problem(3, 4, 9, counted=1.0)
    bias = np.zeros(9, np.float32)
    bias[4], targets[:] = -np.inf, 2
    for options, expected in (({}, np.inf), ({"suppress": [4]}, None)):
        (losses, *_), _ = device_ops.linear_cross_entropy(
            simt, hidden, weight, targets, bias=bias, label_smoothing=0.1, **options
        )
        assert np.isfinite(losses).all() if expected is None else np.isinf(losses).all()


@pytest.mark.parametrize("dtype", TYPES)
def test_a_large_odd_vocabulary(simt, dtype):
    hidden, weight, targets = problem(2, 3, 50257, dtype, counted=1.0)
    targets[:] = 50256, 16400
    check(simt, hidden, weight, targets, dtype, block_ids=16768)


def test_any_order_gives_the_same_bits(library):
    hidden, weight, targets = problem(6, 4, 1300, "bfloat16", counted=1.0)
    options = {"row_index": np.array([5, 1, 1, 5, 0, 7]), "suppress": [3, 1299]}
    results = [
        check(harness.Simt(library, order), hidden, weight, targets, "bfloat16", 640, **options)
        for order in harness.ORDERS
    ]
    for other in results[1:]:
        for one, two in zip((*results[0][0], *results[0][1]), (*other[0], *other[1]), strict=True):
            np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("dtype", TYPES)
def test_layouts(simt, dtype):
    """Rows of hidden at any stride and alignment: copied 16 bytes at a time where they allow it."""
    for width, start, stride in ((16, 0, 24), (16, 3, 25), (24, 8, 40), (5, 1, 7)):
        hidden, weight, targets = problem(5, width, 40, dtype)
        spaced = TYPES[dtype](np.full((5, stride), np.nan, np.float32))
        spaced[:, start : start + width] = hidden
        check(simt, spaced[:, start : start + width], weight, targets, dtype)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_rows_without_a_loss(simt, dtype):
    """NaN and +inf logits, no id left, targets outside: NaN there and nowhere else. -inf logits are ids of mass 0."""
    hidden, weight, targets = problem(8, 4, 9, dtype, counted=1.0)
    hidden[1, 2], hidden[2, 0] = TYPES[dtype](np.float32([np.nan, np.inf]))
    hidden[6] = TYPES[dtype](np.float32([np.nan]))[0]
    targets[3], targets[4], targets[6] = 9, -7, -100
    (losses, normaliser, _, counted), _ = device_ops.linear_cross_entropy(simt, hidden, weight, targets)
    bad = np.isin(np.arange(8), [1, 2, 3, 4])
    np.testing.assert_array_equal(np.isnan(losses), bad)
    assert not losses[6]
    assert not counted[6]
    upstream = np.ones(8, np.float32)
    back = {"normaliser": normaliser, "grad_losses": upstream}
    (grad_hidden, _, _), _ = device_ops.linear_cross_entropy(simt, hidden, weight, targets, **back)
    np.testing.assert_array_equal(np.isnan(widen(grad_hidden)).any(1), bad)
    check(simt, hidden, weight, targets, dtype, row_index=np.array([0, 5, 6, 7]))  # row 6 is NaN, and ignored

    row, target = TYPES[dtype](np.ones((1, 4), np.float32)), np.array([2])
    losses = [
        device_ops.linear_cross_entropy(simt, row, weight, target, **options)[0][0][0]
        for options in ({"suppress": range(9)}, {"suppress": [2]}, {"bias": np.full(9, -np.inf, np.float32)})
    ]
    np.testing.assert_array_equal(losses, [np.nan, np.inf, np.nan])
    bias = np.zeros(9, np.float32)
    bias[[4, 5]] = -np.inf
    check(simt, row, weight, target, dtype, bias=bias)


def test_suppressed_target(simt):
    hidden, weight, targets = problem(4, 5, 30, counted=1.0)
    targets[1] = 7
    check(simt, hidden, weight, targets, suppress=[7])
    plain = device_ops.linear_cross_entropy(simt, hidden, weight, targets, suppress=[7])[0]
    again = device_ops.linear_cross_entropy(simt, hidden, weight, targets, suppress=[40, 7, -1, 7])[0]
    for one, other in zip(plain, again, strict=True):
        np.testing.assert_array_equal(one, other)


def test_correct(simt):
    hidden = np.float32([[1], [1], [-1], [1]])
    weight = np.float32([[2], [2], [1]])
    results = [
        device_ops.linear_cross_entropy(simt, hidden, weight, np.array([0, 1, 2, -100]), **options)[0][2].tolist()
        for options in ({}, {"suppress": [0]})
    ]
    assert results == [[True, True, True, False], [False, True, True, False]]


def test_huge_logits(simt):
    hidden, weight = np.float32([[3e4], [-3e4]]), np.float32([[1.0], [-1.0], [0.5]])
    (losses, *_), _ = device_ops.linear_cross_entropy(simt, hidden, weight, np.array([0, 0]))
    np.testing.assert_allclose(losses, [0.0, 6e4])


def test_nothing_counts(simt):
    hidden, weight, targets = problem(3, 4, 5)
    for h, t, rows in (
        (hidden, np.full(3, -100), None),
        (hidden[:0], targets[:0], None),
        (hidden, targets, np.zeros(0, np.int64)),
        (hidden, targets, np.array([-1, 3])),
    ):
        (losses, normaliser, correct, counted), _ = device_ops.linear_cross_entropy(simt, h, weight, t, row_index=rows)
        assert not any(output.any() for output in (losses, correct, counted))
        if len(h) == 0 or (rows is not None and len(rows) == 0):  # the backward has nothing to launch
            continue
        back = {"normaliser": normaliser, "grad_losses": np.ones(len(h), np.float32), "row_index": rows}
        gradients, _ = device_ops.linear_cross_entropy(simt, h, weight, t, **back)
        assert not any(gradient.any() for gradient in gradients)


@pytest.mark.parametrize("dtype", TYPES)
def test_logits_are_read_once_and_become_their_gradient(simt, dtype):
    hidden, weight, targets = problem(4, 8, 2000, dtype, counted=1.0)
    _, _, (forward, backward) = check(simt, hidden, weight, targets, dtype)
    size, logits = hidden.itemsize, 4 * 2000
    assert forward["logits"].bytes_read == backward["logits"].bytes_read == 4 * logits
    assert forward["logits"].read_requests == 4 * 16  # 512 bytes each: a warp's 16 bytes a lane
    assert forward["logits"].bytes_written == 0
    assert backward["logits"].bytes_written == size * logits
    if dtype != "float32":  # whose stores of 16 bytes g++ takes apart; csrc/cuda/budgets.txt holds nvcc to them
        assert backward["logits"].write_sectors == size * logits / 32
    assert forward["hidden"].bytes_read == hidden.nbytes


# What a kernel says -> what a defective one says instead.
DEFECTS = {
    "if (id + 4 <= ids) {": "if (id < ids) {",  # reads logits that nobody made
    "kernel.first_named[place] != r": "false",  # counts a row as often as it is named
    "const void* source = place < 0 ? nullptr : hidden;": "const void* source = hidden;",  # multiplies all
    "sum = sum * static_cast<double>(expf(max - top)) +": "sum = sum +",  # sums of chunks keep their own maxima
}


@pytest.mark.slow
@pytest.mark.parametrize("text", DEFECTS)
def test_a_defect_is_found(library, text, tmp_path):
    source = (CUDA / "linear_cross_entropy.cuh").read_text()
    assert source.count(text) == 1
    mutant = compile_mutant(
        "linear_cross_entropy.cuh", source.replace(text, DEFECTS[text]), "linear_cross_entropy", tmp_path
    )
    hidden, weight, targets = problem(6, 4, 1301, "bfloat16", counted=1.0)
    targets[1], hidden[1] = -100, bfloat16(np.full(4, np.nan))
    weight[1000:] = bfloat16(2 * widen(weight[1000:]))  # the largest logit is not in the first chunk
    for kernels, found in ((harness.Simt(library), False), (harness.Simt(mutant), True)):
        caught = False
        try:
            check(kernels, hidden, weight, targets, "bfloat16", row_index=np.array([-1, 5, 1, 5, 0, 2]))
        except AssertionError:  # of which a Fault is one
            caught = True
        assert caught == found
