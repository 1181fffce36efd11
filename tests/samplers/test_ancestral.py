"""MDLM and ReMDM: the distribution over sequences against the papers' kernels, by enumeration."""

import itertools

import numpy as np
import pytest
import torch
from scipy import stats
from toys import Toy

from mdmcorrect.model import Output
from mdmcorrect.samplers import MDLM, Ancestral, Confidence, FirstHitting, InformedCorrector, Moment, ReMDM, State
from mdmcorrect.samplers.state import initial_state
from mdmcorrect.samplers.window import Blocks

MASK = 2
# Logits of each token at each of two positions, given what stands at the other (0, 1 or the mask).
TABLE = torch.tensor(
    [
        [[2.2, -1.5, 9.0], [-1.8, 1.9, 9.0], [0.3, 0.0, 9.0]],
        [[2.1, -1.5, 9.0], [-2.0, 1.8, 9.0], [-0.4, 0.2, 9.0]],
    ]
)  # [position, other token, id]; the mask's own logit is the highest and must not matter


def pair_model(tokens):
    return TABLE[torch.arange(2), tokens.flip(1)]


def law(steps, sigma_of, eps=1e-5):
    """Probabilities of the 4 sequences under the ancestral kernel with remasking probability `sigma_of(limit)`."""
    states = list(itertools.product(range(3), repeat=2))
    p_table = torch.softmax(TABLE[..., :2].double(), -1).numpy()
    p_state = np.zeros(9)
    p_state[states.index((MASK, MASK))] = 1
    t_grid = np.linspace(1, eps, steps + 1)
    for t, s in itertools.pairwise(t_grid):
        sigma = sigma_of(min(1.0, s / (1 - t) if t < 1 else 1.0))
        commit = ((1 - s) - (1 - sigma) * (1 - t)) / t
        kernel = np.zeros((9, 9))
        for a, old in enumerate(states):
            for b, new in enumerate(states):
                weight = 1.0
                for i in range(2):
                    p = p_table[i, old[1 - i]]
                    if old[i] == MASK:
                        weight *= 1 - commit if new[i] == MASK else commit * p[new[i]]
                    else:
                        weight *= sigma if new[i] == MASK else (1 - sigma) * (new[i] == old[i])
                kernel[a, b] = weight
        np.testing.assert_allclose(kernel.sum(1), 1)
        p_state = p_state @ kernel
    final = np.zeros(4)
    for old, weight in zip(states, p_state, strict=True):  # noise removal
        new = tuple(int(p_table[i, old[1 - i]].argmax()) if old[i] == MASK else old[i] for i in range(2))
        final[new[0] * 2 + new[1]] += weight
    return final


def observed(preset, rows=20000):
    result = preset(pair_model, torch.full((rows, 2), MASK), mask_id=MASK, seed=11, history=False)
    return np.bincount((result.tokens[:, 0] * 2 + result.tokens[:, 1]).numpy(), minlength=4)


@pytest.mark.parametrize(
    ("preset", "sigma_of"),
    [
        (MDLM(steps=1), lambda limit: 0.0),
        (MDLM(steps=5), lambda limit: 0.0),
        (ReMDM(steps=5, eta=0.3), lambda limit: min(0.3, limit)),
        (ReMDM(steps=6, rule="rescale", eta=0.4), lambda limit: 0.4 * limit),
    ],
    ids=["mdlm-1", "mdlm-5", "cap", "rescale"],
)
def test_distribution_over_sequences(preset, sigma_of):
    counts, expected = observed(preset), law(preset.steps, sigma_of)
    assert stats.chisquare(counts, expected * counts.sum()).pvalue > 1e-4
    # The test can fail: twice the steps have another law, and remasking has another than none.
    others = [law(2 * preset.steps, sigma_of)] + [law(preset.steps, lambda limit: 0.0)] * isinstance(preset, ReMDM)
    for other in others:
        assert stats.chisquare(counts, other * counts.sum()).pvalue < 1e-4


def test_temperature_and_nucleus_shape_the_draw():
    def model(tokens):
        return torch.tensor([2.0, 1.0, 0.0, -1.0, 5.0]).expand(*tokens.shape, 5)

    tokens = torch.full((20000, 1), 4)
    p = torch.softmax(torch.tensor([2.0, 1.0, 0.0, -1.0], dtype=torch.float64) / 0.5, 0).numpy()
    drawn = MDLM(steps=1, temperature=0.5)(model, tokens, mask_id=4, history=False).tokens
    assert stats.chisquare(np.bincount(drawn[:, 0].numpy(), minlength=4), p * 20000).pvalue > 1e-4
    # 0.64, 0.24, 0.09, 0.03: the token that crosses 0.9 is dropped.
    drawn = MDLM(steps=1, top_p=0.9)(model, tokens, mask_id=4, history=False).tokens
    assert drawn.max() == 1
    greedy = MDLM(steps=1, temperature=0.0)(model, tokens, mask_id=4, history=False).tokens
    assert greedy.max() == 0


def test_forwards_are_those_of_the_cached_sampler():
    tokens = torch.full((6, 10), 11)
    model = Toy()
    result = MDLM(steps=50)(model, tokens, mask_id=11, seed=2, history=True)
    changes = sum(event.committed.any(1).long() for event in result.history)
    assert torch.equal(result.nfe, changes)  # noise removal is a change too
    assert result.nfe.tolist() == model.nfe(6)
    assert result.nfe.max() <= 10
    assert result.steps.max() > 40
    uncached = MDLM(steps=50).parts()
    uncached = type(uncached)(steps=50, plan=uncached.plan, scoring=uncached.scoring, cache=False)
    every = uncached(Toy(), tokens, mask_id=11, seed=2, history=True)
    assert torch.equal(every.tokens, result.tokens)
    assert torch.equal(every.nfe, every.steps)


def test_noise_removal_takes_the_argmax_in_one_forward():
    tokens = torch.full((1, 300), 11)
    preset = MDLM(steps=2, eps=0.3)  # 30 % of the masks are left at the end
    result = preset(Toy(), tokens, mask_id=11, history={"argmax"})
    assert len(result.history) == 3
    last = result.history[-1]
    assert 60 < int(last.committed.sum()) < 120
    assert torch.equal(last.tokens[last.committed], last.scores["argmax"][last.committed])


def confidence_share(scores, tokens):
    state = initial_state(tokens, mask_id=11, fixed=torch.zeros_like(tokens, dtype=torch.bool), seed=0)
    state = State(**{**state.state_dict(), "commit_score": scores})
    half = torch.full((len(tokens), 1), 0.5, dtype=torch.float64)
    moment = Moment(t=half, s=half / 2, alpha_t=half, alpha_s=1 - half / 2)  # sigma_max is 0.5
    return Confidence(eta=0.4)(state, tokens != 11, moment)


def test_conf_shares_sigma_by_commit_confidence():
    tokens = torch.tensor([[1, 2, 11, 3], [11, 11, 11, 11]])
    scores = torch.tensor([[0.9, 0.1, torch.nan, 0.5], [torch.nan] * 4])
    sigma = confidence_share(scores, tokens)
    weights = np.exp([-0.9, -0.1, -0.5])
    np.testing.assert_allclose(sigma[0, [0, 1, 3]], 0.4 * weights / weights.sum(), rtol=1e-6)
    assert sigma[0, 2] == 0
    assert (sigma[1] == 0).all()  # a row with nothing committed: no NaN


def test_conf_masks_unsure_tokens_more_often_and_commits_at_mdlms_rate():
    def model(tokens):  # even positions are certain, odd ones not
        sure = torch.tensor([8.0, 0, 0, 0, 0])
        unsure = torch.tensor([0.1, 0, 0, 0, 0])  # committed at 0.25: weight e^-0.25 against e^-1 of the certain ones
        return torch.where((torch.arange(tokens.shape[1]) % 2 == 0)[:, None], sure, unsure).expand(*tokens.shape, 5)

    tokens = torch.full((500, 40), 4)
    result = ReMDM(steps=12, rule="conf")(model, tokens, mask_id=4, seed=3, history=True)
    fifth = result.history[5]
    share = [(fifth.remasked[:, i::2].sum() / (fifth.before[:, i::2] != 4).sum()).item() for i in (0, 1)]
    assert 1.7 < share[1] / share[0] < 2.2  # e^0.75 = 2.1, less as rows with more unsure tokens share among more
    third = result.history[3]
    t, s = 1 - 3 / 12, 1 - 4 / 12
    rate = third.committed.sum() / (third.before == 4).sum()
    assert abs(rate - (t - s) / t) < 0.02


def test_remdm_goes_on_when_nothing_is_masked():
    result = ReMDM(steps=30, eta=0.3)(Toy(), torch.full((3, 4), 11), mask_id=11, seed=5, history=True)
    assert result.steps.tolist() == [30, 30, 30] or result.steps.max() == 31
    full = [not (event.before == 11).any(1).all() for event in result.history]
    assert any(full)


def test_times_of_the_grid():
    state = initial_state(torch.full((1, 4), 11), mask_id=11)
    _, view = Blocks().view(state, Blocks().layout(state, 4), 11)
    plan = Ancestral(eps=0.2)
    assert plan.time(state, view).tolist() == [1.0]
    told = []

    def model(tokens, request):
        told.append(request.time.item())
        return torch.zeros(*tokens.shape, 12)

    parts = MDLM(steps=4, eps=0.2).parts()
    type(parts)(steps=4, plan=plan, cache=False)(model, torch.full((1, 200), 11), mask_id=11)
    assert told == pytest.approx([1.0, 0.8, 0.6, 0.4, 0.2])


def test_only_what_is_committed_is_scored():
    asked = []

    def model(tokens, request):
        asked.append(int(request.wanted.sum()))
        return Output(logits=torch.zeros(*tokens.shape, 12))

    result = ReMDM(steps=6, eta=0.3)(model, torch.full((2, 50), 11), mask_id=11, seed=1, history=True)
    committed = [int(event.committed.sum()) for event in result.history]
    assert asked == [number for number in committed if number]
    asked.clear()
    again = ReMDM(steps=6, eta=0.3)(model, torch.full((2, 50), 11), mask_id=11, seed=1, history={"entropy"})
    assert torch.equal(again.tokens, result.tokens)
    assert sum(asked) > sum(committed)  # a history of scores is one of every mask
    assert again.history[0].scores["entropy"][again.history[0].before == 11].isfinite().all()


def test_first_hitting_commits_one_token_per_forward_at_falling_times():
    told = []

    def model(tokens, request):
        told.append(request.time.clone())
        return torch.zeros(*tokens.shape, 12)

    rows = 4000
    result = FirstHitting()(model, torch.full((rows, 3), 11), mask_id=11, seed=3, history=True)
    assert result.nfe.tolist() == [3] * rows
    assert all((event.committed.sum(1) == 1).all() for event in result.history)
    # The times at which 3 independent uniforms are passed, falling: means 3/4, 2/4, 1/4.
    times = torch.stack(told)
    assert (times.diff(dim=0) < 0).all()
    np.testing.assert_allclose(times.mean(1), [0.75, 0.5, 0.25], atol=0.015)
    assert stats.kstest(times[0], lambda t: t**3).pvalue > 1e-3
    assert stats.kstest(times[2], lambda t: 1 - (1 - t) ** 3).pvalue > 1e-3


def test_the_informed_corrector_goes_for_what_the_others_contradict():
    def model(tokens, request):  # every token should equal the others' majority
        counts = torch.nn.functional.one_hot(tokens, 12)[..., :4].float()
        others = counts.sum(1, keepdim=True) - counts
        return torch.nn.functional.pad(others * 3, (0, 8), value=-30.0)

    tokens = torch.tensor([[2, 2, 1, 2, 2, 2]])
    free = torch.zeros_like(tokens, dtype=torch.bool)
    preset = InformedCorrector(steps=2, position_temperature=0.0, temperature=0.0)
    result = preset(model, tokens, mask_id=11, fixed=free, history=True)
    assert result.history[1].corrected.tolist() == [[False, False, True, False, False, False]]
    assert result.tokens.tolist() == [[2] * 6]


def test_settings_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="rule: expected 'cap', 'rescale' or 'conf', got 'loop'"):
        ReMDM(steps=3, rule="loop", eta=0.1)
    with pytest.raises(ValueError, match="eta: ReMDM-cap needs one"):
        ReMDM(steps=3)
    with pytest.raises(ValueError, match=r"eta: expected 0 <= eta <= 1, got -0\.1"):
        ReMDM(steps=3, eta=-0.1)
    with pytest.raises(ValueError, match=r"t_on, t_off: expected both or neither, got 0\.5 and None"):
        ReMDM(steps=3, eta=0.1, t_on=0.5)
    with pytest.raises(ValueError, match=r"t_on, t_off: expected 0 <= t_off < t_on <= 1, got 0\.2 and 0\.5"):
        ReMDM(steps=3, eta=0.1, t_on=0.2, t_off=0.5)
    with pytest.raises(ValueError, match="alpha_on: expected t_on and t_off with it"):
        ReMDM(steps=3, eta=0.1, alpha_on=0.9)
    with pytest.raises(ValueError, match="alpha_on: rule 'conf' would fill nothing"):
        ReMDM(steps=3, rule="conf", t_on=0.5, t_off=0.1, alpha_on=0.9)
    with pytest.raises(ValueError, match="informed by: expected 'confidence' or 'margin', got 'quality'"):
        InformedCorrector(steps=3, by="quality")
    with pytest.raises(ValueError, match="count, rounds, every: expected at least 0, 0 and 1, got -1, 1 and 1"):
        InformedCorrector(steps=3, count=-1)
    with pytest.raises(ValueError, match="eps: expected 0 <= eps < 1, got 1"):
        MDLM(steps=3, eps=1)
    with pytest.raises(ValueError, match="steps: expected an int of at least 1, got 0"):
        MDLM(steps=0)
    with pytest.raises(ValueError, match="temperature: expected a number >= 0, got nan"):
        MDLM(steps=3, temperature=float("nan"))
