"""Dense noise: one Gumbel per id, the law of the draw, and the score of the noisy logits that P2 ranks by."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from mdmcorrect import reference
from mdmcorrect.ops import score_tokens
from mdmcorrect.rng import Purpose
from mdmcorrect.selfcheck.inputs.scoring import assert_same_bits, assert_scores, expected, peaked_logits


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("vocab", [1, 15, 512, 513, 9000])
def test_equals_reference(vocab, dtype):
    logits = peaked_logits(2, 3, vocab, dtype, seed=vocab)
    filtered = {"top_p": 0.9, "top_k": 40, "forbid": [0] if vocab > 1 else []}
    for temperature in (0.0, 1.0, 0.7):
        for more in ({}, {"law": "proposal"}, {**filtered, "law": "proposal"}):
            options = {"noise": "dense", "temperature": temperature, "seed": 5, "step": 3, "call": 2, **more}
            scores = score_tokens(logits, **options)
            assert_scores(scores, expected(logits, **options), rtol=1e-5, atol=1e-5)
            if temperature == 0:
                assert torch.equal(scores.noised_logprob, scores.proposal_logprob)


def test_statistics_are_those_of_lazy_noise():
    logits = peaked_logits(2, 4, 700)
    names = ("argmax", "max_logprob", "second_logprob", "entropy", "margin", "logsumexp")
    lazy, dense = (score_tokens(logits, temperature=0.8, noise=n, want=names) for n in ("lazy", "dense"))
    assert_same_bits(lazy, dense)
    assert score_tokens(logits, temperature=0.8).noised_logprob is None


def test_chi_square():
    """30,000 draws of 3000 ids against their probabilities, by rank and by id."""
    row = peaked_logits(1, 1, 3000, seed=8)[0, 0]
    tokens = score_tokens(row.expand(1, 30_000, 3000), temperature=0.9, noise="dense", want=("token",)).token[0].numpy()
    p = (row.double() / 0.9).softmax(0).numpy()
    for order in (np.argsort(-p, kind="stable"), np.arange(len(p))):
        place = np.minimum((np.cumsum(p[order]) * 300).astype(int), 299)
        seen, wanted = np.zeros(300), np.zeros(300)
        np.add.at(wanted, place, p[order] * len(tokens))
        bins = np.empty(len(p), int)
        bins[order] = place
        np.add.at(seen, bins[tokens], 1)
        kept = wanted > 5
        assert stats.chisquare(seen[kept], wanted[kept] * seen[kept].sum() / wanted[kept].sum()).pvalue > 1e-5


def test_near_ties_are_rare():
    count, vocab = 200_000, 6
    row = torch.randn(vocab, generator=torch.Generator().manual_seed(0))
    seed = reference.sequence_seeds(1, 1)[0]
    bits = reference.random_bits(seed, np.arange(vocab), np.arange(count)[:, None], 0, Purpose.DENSE)
    exact = (row.double().numpy() / 0.5 + reference.gumbel(bits)).argmax(1)
    token = score_tokens(row.expand(1, count, vocab), temperature=0.5, noise="dense", seed=1, want=("token",)).token[0]
    assert (token.numpy() != exact).sum() < 1e-5 * count + 1


def test_empty_and_broken_rows():
    logits = peaked_logits(1, 3, 600)
    logits[0, 1], logits[0, 2, 4] = -torch.inf, torch.nan
    scores = score_tokens(logits, temperature=1.0, noise="dense")
    assert scores.token[0, 1:].tolist() == [-1, -1]
    assert scores.noised_logprob[0].isnan().tolist() == [False, True, True]
