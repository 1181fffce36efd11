"""CUDA's score_tokens, thread by thread, against the float64 reference: every form, dtype and option."""

from __future__ import annotations

import device_ops
import numpy as np
import pytest
from device_ops import ID_SCORES
from harness import bfloat16, widen

from mdmcorrect import reference

TYPES = {"float32": np.float32, "bfloat16": bfloat16, "float16": np.float16}


def peaked(batch: int, length: int, vocab: int, dtype: str = "float32", seed: int = 0) -> np.ndarray:
    """Noise of spread 2 and a few likely ids per row, rounded to dtype: ties in 16 bits, mass in head and tail."""
    random = np.random.default_rng(seed)
    logits = random.normal(size=(batch, length, vocab)) * 2
    head = random.integers(0, vocab, (batch, length, 4))
    np.put_along_axis(logits, head, random.random((batch, length, 4)) * 6 + 6, -1)
    return TYPES[dtype](logits.astype(np.float32))


def expected(logits, *, tokens=None, rows=None, seed=0, positions=None, confidence="float32", want=None, **options):
    batch, length, _ = logits.shape
    seeds = reference.sequence_seeds(seed, batch) if np.ndim(seed) == 0 else seed
    grids = {name: options.pop(name) for name in ("temperature", "top_k", "top_p") if name in options}
    truth: dict[str, np.ndarray] = {}
    for b in range(batch):
        for place in range(length):
            row = reference.score_row(
                widen(logits)[b, place],
                token=None if tokens is None else int(tokens[b, place]),
                seed=int(seeds[b]),
                position=place if positions is None else int(positions[place]),
                **{name: np.broadcast_to(value, (batch, length))[b, place].item() for name, value in grids.items()},
                **options,
            )
            for name, value in row.items():
                truth.setdefault(name, np.empty((batch, length), int if name in ID_SCORES else float))
                asked = rows is None or rows[b, place]
                truth[name][b, place] = value if asked else -1 if name in ID_SCORES else np.nan
    return truth


def check(simt, logits, tolerance: float = 3e-6, **options):
    scores, traffic = device_ops.score_tokens(simt, logits, **options)
    truth = expected(logits, **options)
    for name, value in scores.items():
        if name in ID_SCORES:
            np.testing.assert_array_equal(value, truth[name], err_msg=name)
        else:
            np.testing.assert_allclose(value, truth[name], rtol=tolerance, atol=tolerance, err_msg=name)
    return scores, traffic


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("vocab", [1, 2, 7, 9, 511, 512, 513, 1000, 4609, 8193])
def test_equals_reference(simt, vocab, dtype):
    """Around the vector, the chunk, and where rows are cut into pieces (4609 is more than 8 chunks)."""
    logits = peaked(2, 2, vocab, dtype, seed=vocab)
    tokens = np.random.default_rng(1).integers(0, vocab, (2, 2))
    if vocab > 2:
        logits[0, 1, 1:] = TYPES[dtype](np.float32([-np.inf]))[0]
    for temperature in (0.0, 1.0, 0.7):
        for law in ("raw", "proposal"):
            check(simt, logits, tokens=tokens, temperature=temperature, law=law, seed=5, step=3, call=2)


def test_many_rows(simt):
    """More rows than fill the device: each block scores a row by itself; more than blocks: it takes several."""
    for shape in ((2, 300, 600), (1, 1030, 3)):
        logits = peaked(*shape, "bfloat16")
        rows = np.random.default_rng(1).random(shape[:2]) < 0.8
        _, traffic = check(simt, logits, rows=rows, temperature=1.0, seed=np.arange(shape[0]))
        assert traffic["workspace"].bytes_written == 0


def test_both_forms_give_the_same_bits(simt):
    logits = peaked(1, 1, 6000, "bfloat16")
    few, _ = device_ops.score_tokens(simt, logits, temperature=0.8, seed=np.array([3]))
    again = np.repeat(logits, 600, 1).view(type(logits))
    many, _ = device_ops.score_tokens(simt, again, temperature=0.8, seed=np.array([3]), positions=np.zeros(600, int))
    for name, value in few.items():
        np.testing.assert_array_equal(np.broadcast_to(value, (1, 600)), many[name], err_msg=name)


@pytest.mark.parametrize("op", ["score_tokens", "score_hidden"])
def test_bits_do_not_depend_on_the_device(simt, op):
    """Rows are cut by the multiprocessors: blocks for whole rows, for pieces of many chunks, for a chunk each."""
    logits = peaked(1, 3, 9001)
    if op == "score_hidden":
        logits = np.ascontiguousarray(logits[0])
    options = {"temperature": 0.8, "tokens": np.array([[5, 1024, 8999]]), "seed": np.array([3])}
    options["shape"] = (1, 3) if op == "score_hidden" else None
    known, _ = device_ops.score_tokens(simt, logits, op=op, **options)
    blocks = set()
    try:
        for multiprocessors in (1, 4, 16, 1000):
            simt.library.simt_set_multiprocessors(multiprocessors)
            scores, _ = device_ops.score_tokens(simt, logits, op=op, **options)
            blocks.add(simt.launches[0].blocks)
            for name, value in scores.items():
                np.testing.assert_array_equal(value, known[name], err_msg=f"{name} {multiprocessors}")
    finally:
        simt.library.simt_set_multiprocessors(128)
    assert len(blocks) >= 2


# -------------------------------------------------------------------------------------------------------------- traffic


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("shape", [(1, 3, 9001), (1, 520, 1030)])
def test_each_logit_is_read_once(simt, shape, dtype):
    """In both forms; a draw reads one chunk more, filters what they need; only outputs are written."""
    logits = peaked(*shape, dtype)
    rows, size = shape[1], logits.itemsize
    _, traffic = device_ops.score_tokens(simt, logits, law="proposal")
    assert traffic["logits"].bytes_read == logits.nbytes
    assert traffic["logits"].read_sectors <= 1.2 * logits.nbytes / 32  # two chunks may share a sector
    _, traffic = device_ops.score_tokens(simt, logits, temperature=0.7)
    assert logits.nbytes < traffic["logits"].bytes_read <= logits.nbytes + rows * 512 * size
    written = {name for name, moved in traffic.items() if moved.bytes_written}
    assert written <= {f"{kind}[{i}]" for kind in ("ids", "values") for i in range(11)} | {"workspace"}
    assert all(moved.bytes_written == 4 * rows for name, moved in traffic.items() if name.startswith("values"))


def test_rows_left_out_are_not_read(simt):
    logits = peaked(2, 30, 700, "bfloat16")
    rows = np.zeros((2, 30), bool)
    rows[1, 4] = rows[0, 29] = True
    _, traffic = check(simt, logits, rows=rows, temperature=0.0)
    assert traffic["logits"].bytes_read == 2 * 700 * 2
    _, traffic = check(simt, peaked(1, 3, 9001), rows=np.array([[False, True, False]]))  # rows in pieces
    assert traffic["logits"].bytes_read == 9001 * 4


def test_what_is_not_wanted_costs_nothing(simt):
    logits = peaked(1, 4, 700)
    tokens = np.zeros((1, 4), np.int64)
    every, _ = device_ops.score_tokens(simt, logits, tokens=tokens, temperature=0.9)
    for name in every:
        alone, _ = device_ops.score_tokens(simt, logits, tokens=tokens, temperature=0.9, want=(name,))
        assert alone.keys() == {name}
        np.testing.assert_array_equal(alone[name], every[name], err_msg=name)


# -------------------------------------------------------------------------------------------------------------- layouts


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("vocab", [1, 3, 9, 521, 1030])
def test_bits_do_not_depend_on_alignment(simt, vocab, dtype):
    """Rows that start at any element of a vector, with neighbours that belong to nobody, and each logit read once."""
    row = peaked(1, 1, vocab, dtype, seed=vocab)
    aligned, _ = check(simt, row, temperature=0.6, seed=np.array([2]))
    for start in range(17, 26):
        base = TYPES[dtype](np.full((2, 1, vocab + 50), np.nan, np.float32))
        base[:, :, start : start + vocab] = row
        placed = base[:, :, start : start + vocab]
        scores, _ = device_ops.score_tokens(simt, placed, temperature=0.6, seed=np.array([2, 2]))
        for name, value in scores.items():
            np.testing.assert_array_equal(value, np.repeat(aligned[name], 2, 0), err_msg=f"{name} {start}")
        _, traffic = device_ops.score_tokens(simt, placed)
        assert traffic["logits"].bytes_read == 2 * row.nbytes


@pytest.mark.parametrize("dtype", TYPES)
def test_any_strides(simt, dtype):
    base = peaked(3, 2, 560, dtype)
    base[..., :20] = base[..., 550:] = TYPES[dtype](np.float32([np.nan]))[0]
    check(simt, base[::2, :, 25:546], temperature=0.6, seed=2)
    swapped = np.ascontiguousarray(base.transpose(1, 0, 2)).view(type(base)).transpose(1, 0, 2)
    check(simt, swapped[..., 20:550], temperature=1.0, positions=np.array([7, 3]))
    shifted, _ = device_ops.score_tokens(simt, base[..., 20:550], shift=1)
    plain, _ = device_ops.score_tokens(simt, base[:, [0, 0], 20:550].view(type(base)))
    for name, value in shifted.items():
        np.testing.assert_array_equal(value, plain[name], err_msg=name)


# --------------------------------------------------------------------------------------------------- what rows may hold


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("dtype", TYPES)
def test_bad_rows_are_marked(simt, dtype, temperature):
    logits = peaked(2, 5, 700, dtype)
    for b, place in ((0, 17), (1, 699)):
        logits[b, 1, place] = TYPES[dtype](np.float32([np.nan]))[0]
        logits[b, 2, place] = TYPES[dtype](np.float32([np.inf]))[0]
    logits[:, 3] = TYPES[dtype](np.float32([-np.inf]))[0]
    for options in ({}, {"top_k": 5, "top_p": 0.5}):
        scores, _ = check(simt, logits, tokens=np.zeros((2, 5), np.int64), temperature=temperature, **options)
        assert (scores["token"][:, 1:4] == -1).all()


def test_negative_nan_is_nan(simt):
    logits = peaked(1, 2, 600)
    logits[0, 1, 3] = np.uint32(0xFFC00001).view(np.float32)
    scores, _ = device_ops.score_tokens(simt, logits)
    assert scores["token"][0, 1] == -1
    assert np.isnan(scores["logsumexp"][0, 1])


def test_ties_go_to_the_lowest_id(any_order):
    for ids in ([3, 4], [511, 512], [100, 1200], [0, 1299], [9, 9 + 256]):
        logits = np.zeros((1, 1, 1300), np.float32)
        logits[0, 0, ids] = 2.0
        scores, _ = check(any_order, logits)
        assert scores["token"].item() == scores["argmax"].item() == ids[0]
        assert scores["second_logprob"].item() == scores["max_logprob"].item()


def test_suppressed_and_forbidden_ids(simt):
    logits = peaked(2, 6, 900)
    logits[..., 5] += 20
    logits[..., 700] = np.nan  # suppressed before anything looks at it
    tokens = np.tile(np.array([5, 700, 1, 2, 3, 899]), (2, 1))
    for options in (
        {"suppress": (5, 700)},
        {"suppress": (700,), "forbid": (5,)},
        {"suppress": (900, 700, -1, 700), "forbid": (899, 5, 0), "law": "proposal"},  # any order, ids of nobody
        {"suppress": (700,), "forbid": tuple(range(100)), "law": "proposal", "top_k": 3},
    ):
        for temperature in (0.0, 1.0, 0.6):
            known = {**options, "suppress": tuple(i for i in options["suppress"] if 0 <= i < 900)}
            scores, _ = device_ops.score_tokens(simt, logits, tokens=tokens, temperature=temperature, seed=4, **options)
            again, _ = check(simt, logits, tokens=tokens, temperature=temperature, seed=4, **known)
            for name, value in scores.items():
                np.testing.assert_array_equal(value, again[name], err_msg=name)
    check(simt, logits, suppress=tuple(range(900)))
    check(simt, logits, suppress=(700,), forbid=tuple(range(900)), temperature=1.0)


@pytest.mark.parametrize("dtype", TYPES)
def test_probabilities(simt, dtype):
    x = widen(peaked(2, 3, 1100))
    weights = np.exp(x - x.max(-1, keepdims=True)) * 3  # unnormalised
    weights[..., ::3] = 0
    weights = TYPES[dtype](weights.astype(np.float32))
    tokens = np.ones((2, 3), np.int64)
    for options in ({}, {"temperature": 1.0}, {"temperature": 0.5, "top_p": 0.9, "suppress": (4,)}):
        check(simt, weights, 1e-5, tokens=tokens, input="probs", seed=2, **options)
    tokens[0, 0] = 3
    for value, valid in ((-1.0, True), (-1e-8, True), (np.nan, False)):  # what is below 0 is 0
        weights[0, 0, 3] = TYPES[dtype](np.float32([value]))[0]
        scores, _ = check(simt, weights, 1e-5, tokens=tokens, input="probs")
        assert (scores["token"][0, 0] >= 0) == valid
        check(simt, weights, 1e-5, tokens=tokens, input="probs", temperature=0.5, top_p=0.9, seed=2)
    weights[0, 1] = TYPES[dtype](np.float32([0.0]))[0]
    scores, _ = check(simt, weights, 1e-5, input="probs")
    assert scores["token"][0, :2].tolist() == [-1, -1]


@pytest.mark.parametrize("confidence", ["bfloat16", "float16"])
def test_confidence_is_rounded(simt, confidence):
    logits = peaked(1, 40, 300)
    plain, _ = device_ops.score_tokens(simt, logits, want=("confidence",))
    rounded, _ = device_ops.score_tokens(simt, logits, want=("confidence",), confidence=confidence)
    np.testing.assert_array_equal(rounded["confidence"], widen(TYPES[confidence](plain["confidence"])))


def test_current_token_outside_the_vocabulary(simt):
    tokens = np.array([[-1, 4, 3]])
    scores, _ = device_ops.score_tokens(simt, np.zeros((1, 3, 4), np.float32), tokens=tokens)
    assert np.isnan(scores["current_logprob"]).tolist() == [[True, True, False]]


def test_extreme_temperatures(simt):
    logits = peaked(1, 5, 700)
    for temperature in (1e-30, 1e-310):
        scores, _ = device_ops.score_tokens(simt, logits, temperature=temperature)
        np.testing.assert_array_equal(scores["token"], logits.argmax(-1))
        np.testing.assert_array_equal(scores["proposal_logprob"], np.zeros((1, 5)))
    check(simt, logits, temperature=1e6, law="proposal", tolerance=1e-5)


@pytest.mark.parametrize("shape", [(0, 3, 10), (2, 0, 10)])
def test_no_rows(simt, shape):
    scores, _ = device_ops.score_tokens(simt, np.zeros(shape, np.float32), temperature=1.0)
    assert all(value.shape == shape[:2] for value in scores.values())


# -------------------------------------------------------------------------------------------------------------- filters


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("vocab", [1, 5, 513, 5000])
def test_filters(simt, vocab, dtype):
    logits = peaked(1, 2, vocab, dtype, seed=vocab)
    tokens = widen(logits).argmax(-1)
    for temperature in (0.0, 1.0, 0.6):
        for options in (
            {"top_k": 1},
            {"top_k": 40, "law": "proposal"},
            {"top_k": vocab + 3},
            {"top_p": 0.0},
            {"top_p": 0.9, "top_p_rule": "exclusive", "law": "proposal"},
            {"top_p": 0.999, "law": "proposal"},
            {"top_p": 1.0},
            {"top_k": 300, "top_p": 0.7, "filter_order": "top_p_first", "law": "proposal"},
            {"top_k": 300, "top_p": 0.7, "filter_order": "top_k_first", "forbid": (0,)},
        ):
            check(simt, logits, tokens=tokens, temperature=temperature, seed=3, **options)


@pytest.mark.parametrize("case", range(40))
def test_any_combination_with_ties(any_order, case):
    """Few different values, so that cuts fall among ties, across chunks, with both rules and orders."""
    random = np.random.default_rng(case)
    values = random.choice([0.0, -0.0, 1.0, 1.5, -2.0, 5.0, -np.inf, -90.0], random.integers(1, 41))
    logits = np.tile(values, 40)[: random.integers(1, 1500)].astype(np.float32)[None, None]
    check(
        any_order,
        logits,
        temperature=random.choice([0.0, 0.05, 1.0, 30.0]),
        top_k=random.choice([1, 2, 17, 300, 5000]),
        top_p=random.choice([0.0, 0.1, 0.5, 0.75, 0.9, 0.999, 1.0]),
        top_p_rule=str(random.choice(["inclusive", "exclusive"])),
        filter_order=str(random.choice(["top_k_first", "top_p_first"])),
        law=str(random.choice(["raw", "proposal"])),
        seed=case,
    )


def test_options_per_position(simt):
    logits = peaked(2, 3, 800)
    random = np.random.default_rng(0)
    check(
        simt,
        logits,
        temperature=np.array([[0.0, 0.5, 1.0], [2.0, 0.0, 0.7]]),
        top_k=random.integers(1, 900, (2, 3)),
        top_p=random.random((2, 3)),
        seed=np.array([4, -5]),
    )


# ---------------------------------------------------------------------------------------------------------------- draws


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("shape", [(2, 3, 1100), (1, 2, 4700)])
def test_dense_noise(any_order, shape, dtype):
    """One Gumbel per id; rows in both forms, filtered and not, and some without anything to draw."""
    logits = peaked(*shape, dtype)
    logits[0, 1, 5:] = TYPES[dtype](np.float32([-np.inf]))[0]
    for temperature in (0.0, 1.0, 0.7):
        for options in ({}, {"top_k": 40, "law": "proposal"}, {"top_p": 0.9, "forbid": (3,)}):
            check(any_order, logits, temperature=temperature, noise="dense", seed=7, step=2, **options)
    logits[0, 0] = TYPES[dtype](np.float32([-np.inf]))[0]
    scores, _ = check(any_order, logits, temperature=1.0, noise="dense")
    assert scores["token"][0, 0] == -1


@pytest.mark.parametrize("temperature", [0.3, 1.0])
def test_draws_agree_except_near_ties(simt, temperature):
    """2000 draws from one row, which must be the reference's: a near tie is rarer than one in 100,000."""
    row = np.random.default_rng(0).normal(size=1030).astype(np.float32)
    logits = np.lib.stride_tricks.as_strided(row, (1, 2000, 1030), (0, 0, 4))  # 2000 positions of the same logits
    scores, _ = device_ops.score_tokens(simt, logits, temperature=temperature, seed=np.array([9]), want=("token",))
    truth = [reference.draw(row.astype(float) / temperature, 9, position, 0, 0) for position in range(2000)]
    assert (scores["token"][0] != truth).sum() == 0
