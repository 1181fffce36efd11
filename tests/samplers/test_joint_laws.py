"""Where draws happen in more than one place, what they give together has a law too.

The model knows nothing: every token of four is as likely at every position, whatever stands elsewhere. So the tokens
that any method leaves are independent and uniform, a token drawn again is another one in three of four cases, and when
a position was written says nothing about what stands there. Equal noise in two places breaks one of these.
"""

import functools
import itertools

import numpy as np
import pytest
import torch
from combinations import critic, planner
from scipy import stats

from mdmcorrect import samplers as s
from mdmcorrect.model import Output

V, MASK, BATCH, LENGTH = 4, 4, 3000, 6


def knows_nothing(tokens, request=None):
    return Output(torch.zeros(*tokens.shape, V + 1), quality=torch.full(tokens.shape, 0.5))


PRESETS = {
    "mdlm": s.MDLM(steps=4),
    "remdm": s.ReMDM(steps=6, eta=0.4),
    "remdm-conf": s.ReMDM(steps=6, rule="conf"),
    "forward-backward": s.ForwardBackward(steps=5),
    "first-hitting": s.FirstHitting(),
    "informed": s.InformedCorrector(steps=4, count=2, rounds=2),
    "informed-margin": s.InformedCorrector(steps=4, count=1, by="margin"),
    "p2": s.P2(steps=4, eta=1.0),
    "p2-random": s.P2(steps=4, score="random"),
    "p2-planner": s.P2(steps=4, planner=planner),
    "p2-plus": s.P2Plus(steps=4),
    "maskgit": s.MaskGIT(steps=4),
    "token-critic": s.TokenCritic(steps=4, critic=critic),
    "learned-order": s.LearnedOrder(steps=4),
    "gidd": s.GIDD(steps=4, temperature=1.0, count=2),
    "prism": s.PRISM(steps=6, remask_count=1),
    "prism-random": s.PRISM(steps=6, remask_count=1, remask="random"),
    "prism-loop": s.PRISM(steps=6, remask_count=1, loop_start=3, loop_steps=2, loop_count=1),
    "proseco-sampled": s.ProSeCo(steps=4, corrector_steps=2, corrector="sample"),
    "wino": s.WINO(block_length=LENGTH, accept=0.2, doubt=0.6, temperature=1.0),
    "history": s.HistoryRemasking(steps=5, numbers=((1.0, 1),)),
    "navira": s.NAVIRA(steps=5),
    "llada": s.LLaDA(steps=3, temperature=1.0),
    "dream": s.Dream(steps=4, temperature=1.0, alg="entropy", alg_temp=1.0),
}
# A reviewer that prefers tokens, or a proposal that must beat another, leaves tokens that are not uniform.
PREFERS = {"p2-planner", "token-critic", "proseco-sampled"}


@functools.cache
def run(name):
    tokens = torch.full((BATCH, LENGTH), MASK)
    return PRESETS[name](knows_nothing, tokens, mask_id=MASK, seed=torch.arange(BATCH) + 77, history=True)


def fits(counts, share):
    """Whether counts could be draws of shares, at one in a million."""
    return stats.chisquare(counts, np.asarray(share) * np.sum(counts)).pvalue > 1e-6


@pytest.mark.parametrize("name", [name for name in PRESETS if name not in PREFERS])
def test_tokens_are_independent_and_uniform(name):
    tokens = run(name).tokens.numpy()
    assert (tokens < V).all()
    for one, other in itertools.combinations(range(LENGTH), 2):
        pairs = np.bincount(tokens[:, one] * V + tokens[:, other], minlength=V * V)
        assert fits(pairs, np.full(V * V, 1 / V**2)), (one, other)


@pytest.mark.parametrize("name", PRESETS)
def test_what_is_written_again_has_nothing_of_what_stood(name):
    """A position that was masked and filled again, or drawn anew: the new token against the old one."""
    result = run(name)
    stood = torch.full((BATCH, LENGTH), -1)
    same = again = 0
    for event in result.history:
        written = event.committed & (stood >= 0)
        again += int(written.sum())
        same += int((event.tokens == stood)[written].sum())
        holds = event.tokens != MASK
        stood = torch.where(holds, event.tokens, stood)
    if name in PREFERS or again < 50:
        return
    assert stats.binomtest(same, again, 1 / V).pvalue > 1e-6, (same, again)


@pytest.mark.parametrize("rounds", [1, 2])
def test_a_corrector_draws_another_token_in_three_of_four_cases(rounds):
    preset = s.InformedCorrector(steps=4, count=2, rounds=rounds, position_temperature=1.0)
    result = preset(
        knows_nothing, torch.full((BATCH, LENGTH), MASK), mask_id=MASK, seed=torch.arange(BATCH), history=True
    )
    event = result.history[-1 if rounds == 1 else 2]
    stood = (event.before != MASK).sum(1)
    rows = stood >= 2
    changed = event.corrected[rows].sum().item()
    chosen = 2 * int(rows.sum())
    if rounds == 1:
        assert stats.binomtest(changed, chosen, 3 / 4).pvalue > 1e-6
    else:  # positions chosen twice are counted once
        assert changed > 0.75 * chosen


@pytest.mark.parametrize("name", ["maskgit", "p2-random", "p2-plus", "prism", "dream", "informed", "first-hitting"])
def test_when_a_position_is_written_says_nothing_of_its_token(name):
    result = run(name)
    when = torch.full((BATCH, LENGTH), -1)
    for index, event in enumerate(result.history):
        when[event.committed] = index
    table = torch.zeros(len(result.history), V)
    known = when >= 0
    table.index_put_((when[known], result.tokens[known]), torch.ones(int(known.sum())), accumulate=True)
    table = table[table.sum(1) > 100]
    assert len(table) > 1
    assert stats.chi2_contingency(table.numpy()).pvalue > 1e-6


def test_equal_noise_in_two_steps_is_noticed(monkeypatch):
    """Tokens drawn by the numbers of the first step whatever the step is."""
    score = s.Scoring.__call__

    def coupled(scoring, logits, *, step, positions, **options):
        return score(scoring, logits, step=torch.zeros_like(step), positions=positions * 0, **options)

    monkeypatch.setattr(s.Scoring, "__call__", coupled)
    run.cache_clear()
    with pytest.raises(AssertionError):
        test_tokens_are_independent_and_uniform("maskgit")
    run.cache_clear()
