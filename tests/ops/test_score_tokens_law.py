"""The law of score_tokens' draws: chi-square over whole vocabularies, and tails reached by construction."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from mdmcorrect import reference
from mdmcorrect.ops import score_tokens
from mdmcorrect.rng import Purpose
from mdmcorrect.selfcheck.inputs.scoring import peaked_logits

# Every counter of seed 1 and index 1, among steps 0 to 2 and all 2^32 positions, whose 64 random bits lie below 2^37:
# u < 2^-27, E < 7.5e-9. Found once by exhaustive search; test_tail_counters checks them.
TAIL_COUNTERS = np.loadtxt(
    Path(__file__).parents[1] / "data" / "tail_counters.csv", np.int64, delimiter=",", skiprows=1
)
TAIL = 2.0**-27


def draws(row: torch.Tensor, count: int, seed: int = 1, **options) -> np.ndarray:
    """count independent draws from one row [V] of logits, each at its own position."""
    logits = row.expand(1, count, len(row))
    return score_tokens(logits, seed=seed, want=("token",), **options).token[0].numpy()


def chi_square(tokens: np.ndarray, probability: np.ndarray, order: np.ndarray, least: float = 20.0) -> float:
    """p-value; ids are taken in `order` and gathered into bins that expect at least `least` draws each."""
    expected = probability[order] * len(tokens)
    bins = np.minimum(np.floor(np.cumsum(expected) / least), np.floor(len(tokens) / least) - 1).astype(int)
    _, bins = np.unique(bins, return_inverse=True)
    place = np.empty(len(order), int)
    place[order] = bins
    seen = np.bincount(place[tokens], minlength=bins.max() + 1)
    wanted = np.bincount(bins, weights=expected)
    keep = wanted > 0
    assert seen[~keep].sum() == 0
    if keep.sum() < 2:
        return 1.0
    return stats.chisquare(seen[keep], wanted[keep] * seen[keep].sum() / wanted[keep].sum()).pvalue


def softmax(row: torch.Tensor, temperature: float = 1.0) -> np.ndarray:
    x = row.double().numpy() / temperature
    p = np.exp(x - x.max())
    return p / p.sum()


@pytest.mark.parametrize("temperature", [0.1, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("vocab", "count"), [(2, 100_000), (37, 100_000), (513, 60_000), (5000, 30_000), (126464, 4000)]
)
def test_chi_square(vocab, count, dtype, temperature):
    row = peaked_logits(1, 1, vocab, dtype, seed=vocab)[0, 0]
    if vocab == 2:
        row = torch.tensor([0.0, -0.3], dtype=dtype)
    tokens, p = draws(row, count, temperature=temperature), softmax(row, temperature)
    # By rank, where a wrong temperature shows, and by id, where a wrong race between chunks shows.
    for order in (np.argsort(-p, kind="stable"), np.arange(vocab)):
        assert chi_square(tokens, p, order) > 1e-5


def test_chi_square_can_fail():
    """The same test refuses a temperature 5 % off and noise that float32 uniforms near 1 would make."""
    row = peaked_logits(1, 1, 5000, seed=5000)[0, 0]
    p = softmax(row)
    order = np.argsort(-p, kind="stable")
    assert chi_square(draws(row, 30_000, temperature=1.05), p, order) < 1e-5
    flat = np.full(2, 0.5)
    assert chi_square(np.repeat([0, 1], [50_900, 49_100]), flat, np.arange(2)) < 1e-5


@pytest.mark.parametrize("rule", ["inclusive", "exclusive"])
def test_chi_square_of_filtered_draws(rule):
    row = peaked_logits(1, 1, 3000, seed=8)[0, 0]
    options = {"temperature": 0.9, "top_k": 400, "top_p": 0.8, "top_p_rule": rule}
    kept = reference.proposal_logits(row.double().numpy(), 0.9, 400, 0.8, rule, "top_k_first")
    p = softmax(torch.from_numpy(kept))
    tokens = draws(row, 40_000, **options)
    assert (p[tokens] > 0).all()
    assert chi_square(tokens, p, np.argsort(-p, kind="stable")) > 1e-5


def test_ids_and_positions_are_independent():
    """Pairs of neighbouring positions, and of sequences, fill their table evenly."""
    row = torch.zeros(6)
    batch = score_tokens(row.expand(30_000, 2, 6), temperature=1.0, want=("token",)).token
    tokens = draws(row, 60_000, temperature=1.0)
    for pair in ((batch[:, 0], batch[:, 1]), (batch[:-1, 0], batch[1:, 0]), (tokens[::2], tokens[1::2])):
        table = np.histogram2d(np.asarray(pair[0]), np.asarray(pair[1]), bins=6)[0]
        assert stats.chi2_contingency(table).pvalue > 1e-5


def test_near_ties_are_rarer_than_one_in_a_hundred_thousand():
    """400,000 draws against the float64 reference with the same bits: how many tokens differ."""
    count, vocab = 400_000, 6
    row = torch.randn(vocab, generator=torch.Generator().manual_seed(0))
    seed = reference.sequence_seeds(1, 1)[0]
    bits = reference.random_bits(seed, np.arange(vocab), np.arange(count)[:, None], 0, Purpose.TOKEN)
    for temperature in (1.0, 0.3):
        exact = (row.double().numpy() / temperature + reference.gumbel(bits)).argmax(1)
        different = (draws(row, count, temperature=temperature) != exact).sum()
        assert different < 1e-5 * count


def test_tail_counters():
    for purpose in (Purpose.CHUNK, Purpose.TOKEN):
        _, step, position = TAIL_COUNTERS[TAIL_COUNTERS[:, 0] == purpose].T
        bits = reference.random_bits(1, 1, position, step, purpose)
        assert (bits < 2**37).all()
        assert len(bits) > 90  # 96 expected of 3 * 2^32 draws
        assert stats.kstest(bits.astype(float) / 2.0**37, "uniform").pvalue > 1e-4


@pytest.mark.parametrize("weight", [1e-9, 3e-9, 1e-8, 1e-7])
@pytest.mark.parametrize(("purpose", "vocab", "rare"), [(Purpose.TOKEN, 2, 1), (Purpose.CHUNK, 513, 512)])
def test_tails_are_reached(purpose, vocab, rare, weight):
    """An id of probability 1e-9, alone in the other half of the race, is drawn where and as often as it should be.

    Waiting for it would take 10^9 draws, so we go where it can win. Against an id of weight 1 it wins where its noise
    E < weight * E', with E' the other's: at the listed counters E < 2^-27, uniform there, so it wins with probability
    mean of min(1, weight E' 2^27). With noise cut at 16.6 (E >= 6e-8) it would never win for these weights.
    """
    _, step, position = TAIL_COUNTERS[TAIL_COUNTERS[:, 0] == purpose].T
    row = torch.full((vocab,), -torch.inf)
    row[0], row[rare] = 0.0, float(np.log(weight))
    count = len(step)
    tokens = score_tokens(
        row.expand(count, 1, vocab),
        temperature=1.0,
        seed=torch.ones(count, dtype=torch.int64),
        step=torch.from_numpy(step),
        positions=torch.from_numpy(position)[:, None],
    ).token[:, 0]
    noise = [reference.exponential(reference.random_bits(1, index, position, step, purpose)) for index in (0, 1)]
    wins = noise[1] < np.exp(float(row[rare])) * noise[0]
    np.testing.assert_array_equal(tokens.numpy() == rare, wins)
    c = weight / TAIL
    assert stats.binomtest(int(wins.sum()), count, c * -np.expm1(-1 / c)).pvalue > 1e-4
    assert wins.any()


def test_the_far_tail_needs_no_luck():
    """Probabilities down to 1e-9 spread over many ids: their whole mass is drawn as often as it should be."""
    vocab, count = 126464, 20_000
    row = torch.full((vocab,), float(np.log(1e-9 / 0.9)))
    row[77] = 0.0  # the others share 1.4e-4 of the mass, 1e-9 each
    share = softmax(row)[77]
    others = (draws(row, count, temperature=1.0) != 77).sum()
    assert stats.binomtest(int(others), count, 1 - share).pvalue > 1e-4
    row[78:] = float(np.log(3e-6))  # 0.27 of the mass on ids of 2e-6
    p = softmax(row)
    assert chi_square(draws(row, count, temperature=1.0), p, np.arange(vocab)) > 1e-5
