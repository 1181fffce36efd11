"""Rows of logits that are hard on a softmax, options to score them with, and what their scores may be.

Rows have every scale and offset, plateaus, jumps between chunks, masks by the constants people use, and the whole range
of a dtype. The float64 reference judges; a draw or the end of a nucleus may fall on the other side of a near tie.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mdmcorrect import reference
from mdmcorrect.purpose import Purpose
from mdmcorrect.reference.random import gumbel, random_bits
from mdmcorrect.reference.scoring import CHUNK

LARGEST = {"float32": 3.4028234663852886e38, "bfloat16": 3.3895313892515355e38, "float16": 65504.0}
SMALLEST = {"float32": 2.0**-149, "bfloat16": 2.0**-133, "float16": 2.0**-24}  # subnormal
MASKS = (-90.0, -1e4, -65504.0, -1e6, -1e9, "finfo.min", -np.inf)
ID_SCORES = ("token", "argmax")


# ------------------------------------------------------------------------------------------------------------ the rows


def rounded(x, dtype: str) -> np.ndarray:
    """float32 [V] of values of ``dtype``; what is finite stays so."""
    x = np.asarray(x, np.float64)
    return reference.rounded(np.where(np.isfinite(x), np.clip(x, -LARGEST[dtype], LARGEST[dtype]), x), dtype)


def masked_by(constant, dtype: str) -> float:
    return -LARGEST[dtype] if constant == "finfo.min" else constant


def size(random: np.random.Generator, low: float, high: float) -> float:
    return 10.0 ** random.uniform(low, high)


def noise(random, vocab, dtype):
    """Noise of any scale."""
    return random.normal(size=vocab) * size(random, -3, np.log10(LARGEST[dtype]))


def peaked(random, vocab, dtype):
    """A model's: a few likely ids."""
    x = random.normal(size=vocab) * 2
    x[random.integers(0, vocab, 4)] += random.random(4) * 10
    return x


def plateau(random, vocab, dtype):
    """One value throughout, or a few."""
    levels = random.normal(size=random.integers(1, 4)) * size(random, -3, np.log10(LARGEST[dtype]))
    return levels[random.integers(0, len(levels), vocab)]


def jumps(random, vocab, dtype):
    """Each chunk on a level of its own: rising, falling or neither, by any step up to the whole range."""
    chunks = -(-vocab // CHUNK)
    levels = random.choice([np.arange(chunks), -np.arange(chunks), random.permutation(chunks)])
    step = random.choice([size(random, 0, 3), size(random, 1.8, 2.1), size(random, 0, np.log10(LARGEST[dtype]))])
    return random.normal(size=vocab) * 3 + np.repeat(levels, CHUNK)[:vocab] * step


def low_start(random, vocab, dtype):
    """The first chunks far below the rest."""
    x = random.normal(size=vocab) * 3
    x[: CHUNK * random.integers(1, 4)] = masked_by(MASKS[random.integers(len(MASKS))], dtype)
    return x


def extremes(random, vocab, dtype):
    """The ends of the range and what is next to 0."""
    tiny = SMALLEST[dtype]
    return random.choice([LARGEST[dtype], -LARGEST[dtype], 0.0, -0.0, tiny, -tiny, 1.0], vocab)


def subnormal(random, vocab, dtype):
    return random.integers(-1000, 1000, vocab) * SMALLEST[dtype]


KINDS = (noise, peaked, plateau, jumps, low_start, extremes, subnormal)


def hard_row(random: np.random.Generator, vocab: int, dtype: str) -> np.ndarray:
    """float32 [V] of values of ``dtype``, at least one of them above -inf."""
    x = np.asarray(KINDS[random.integers(len(KINDS))](random, vocab, dtype), np.float64)
    if random.random() < 0.3:
        x = x + random.choice([-1, 1]) * size(random, 0, np.log10(LARGEST[dtype]))
    if random.random() < 0.4:
        absent = random.random(vocab) < random.choice([0.1, 0.9, 1.0])
        if random.random() < 0.5:  # whole chunks
            absent = np.repeat(random.random(-(-vocab // CHUNK)) < 0.5, CHUNK)[:vocab]
        x[absent] = masked_by(MASKS[random.integers(len(MASKS))], dtype)
    if np.all(x == -np.inf):
        x[random.integers(vocab)] = 0.0
    return rounded(x, dtype)


# --------------------------------------------------------------------------------------------------------- the options


@dataclass
class Case:
    """``rows`` [L, V] of ``dtype`` and how to score them; ``tokens`` [L] for current_logprob."""

    dtype: str
    rows: np.ndarray
    tokens: np.ndarray
    options: dict[str, Any] = field(default_factory=dict)


def hard_case(seed: int, *, dtype: str, vocab: int, length: int, filters: bool = True) -> Case:
    """A case of its own for every seed, whose rows share their options, among them the seed of the draw."""
    random = np.random.default_rng([seed, vocab])
    rows = np.stack([hard_row(random, vocab, dtype) for _ in range(length)])
    options: dict[str, Any] = {"seed": int(random.integers(1 << 40)), "step": int(random.integers(1000))}
    options["temperature"] = float(random.choice([0.0, 1.0, size(random, -3, 3)]))
    options["law"] = str(random.choice(["raw", "proposal"]))
    if filters and random.random() < 0.5:
        chosen = random.integers(1, 4)
        if chosen & 1:
            options["top_k"] = int(random.choice([1, 3, 50, vocab // 2 + 1]))
        if chosen & 2:
            options["top_p"] = float(random.choice([0.05, 0.5, 0.9, 0.999]))
            options["top_p_rule"] = str(random.choice(["inclusive", "exclusive"]))
            options["filter_order"] = str(random.choice(["top_k_first", "top_p_first"]))
    if vocab > 2 and random.random() < 0.4:
        name = str(random.choice(["suppress", "forbid"]))
        options[name] = [int(i) for i in np.unique(random.integers(0, vocab, random.choice([1, 2, vocab // 3])))]
    if filters and random.random() < 0.25:
        options["noise"] = "dense"
    return Case(dtype, rows, random.integers(0, vocab, length), options)


def hard_probabilities(seed: int, *, vocab: int, length: int) -> np.ndarray:
    """Unnormalised float32 probabilities [L, V] over the whole range, 0 and subnormals among them."""
    random = np.random.default_rng([seed, vocab, 1])
    rows = 10.0 ** (random.normal(size=(length, vocab)) * random.choice([0.1, 3, 20], (length, 1)))
    rows[random.random(rows.shape) < 0.2] = 0.0
    rows[:, 0] = 10.0 ** random.uniform(-44, 38, length)
    return np.clip(rows, 0, LARGEST["float32"]).astype(np.float32)


# ---------------------------------------------------------------------------------------------------------- the judge


def draw_gap(y: np.ndarray, ours: int, truth: int, position: int, options: dict[str, Any], seed: int) -> float:
    """By how much ``truth`` leads ``ours`` in the race that decides between them, in nats."""

    def at(ids, purpose):
        return gumbel(random_bits(seed, np.asarray(ids), position, options["step"], purpose, 0))

    relative = y - y.max()
    if options.get("noise") == "dense" or ours // CHUNK == truth // CHUNK:
        purpose = Purpose.DENSE if options.get("noise") == "dense" else Purpose.TOKEN
        values = relative[[truth, ours]] + at([truth, ours], purpose)
    else:
        chunks = np.array([truth, ours]) // CHUNK
        masses = [np.log(np.exp(relative[c * CHUNK : (c + 1) * CHUNK]).sum()) for c in chunks]
        values = np.array(masses) + at(chunks, Purpose.CHUNK)
    return float(values[0] - values[1])


def is_near_tie(row: np.ndarray, case: Case, ours: int, truth: int, position: int, seed: int) -> bool:
    """Whether rounding may turn the draw of ``truth`` into ``ours``."""
    x = row.astype(np.float64)
    x[np.array(case.options.get("suppress", ()), np.int64)] = -np.inf
    x[np.array(case.options.get("forbid", ()), np.int64)] = -np.inf
    known = {name: case.options.get(name) for name in ("top_k", "top_p")}
    rule, order = case.options.get("top_p_rule", "inclusive"), case.options.get("filter_order", "top_k_first")
    y = reference.proposal_logits(x, case.options["temperature"], known["top_k"], known["top_p"], rule, order)
    return bool(np.isfinite(y[ours])) and abs(draw_gap(y, ours, truth, position, case.options, seed)) < 1e-4


def nucleus_is_on_edge(row: np.ndarray, case: Case) -> bool:
    """Whether the kept set changes with p within what float32 sums of masses leave open."""
    p = case.options.get("top_p")
    if p is None:
        return False
    sets = [
        reference.score_row(row, **{**case.options, "top_p": p + change, "law": "proposal", "step": 0})
        for change in (-3e-6, 3e-6)
    ]
    return any(not np.isclose(sets[0][name], sets[1][name], rtol=0, atol=2e-6) for name in ("logsumexp", "entropy"))


def judge(case: Case, scores: dict[str, np.ndarray], seed: int) -> int:
    """Raises where scores [L] are not the reference's; returns how many draws fell on the other side of a near tie.

    ``seed`` is the sequence's own.
    """
    turned = 0
    for place, row in enumerate(case.rows):
        where = f"row {place} of {case.dtype}, {case.options}"
        truth = reference.score_row(
            row, token=int(case.tokens[place]), position=place, **{**case.options, "seed": seed}
        )
        ours, token = {name: value[place] for name, value in scores.items()}, int(scores["token"][place])
        if token != truth["token"]:
            if nucleus_is_on_edge(row, case):
                continue
            assert token >= 0, where
            assert case.options["temperature"] > 0, where
            assert is_near_tie(row, case, token, int(truth["token"]), place, seed), where
            turned += 1
            continue
        for name, value in ours.items():
            if name in ID_SCORES:
                assert value == truth[name], f"{name}: {value}, not {truth[name]}; {where}"
                continue
            with np.errstate(over="ignore"):
                expected = np.float32(truth[name])
            if not np.isclose(value, expected, rtol=5e-6, atol=5e-6, equal_nan=True):
                assert nucleus_is_on_edge(row, case), f"{name}: {value}, not {expected}; {where}"
    return turned
