"""PRISM's static top-k sampler and its arms: counts per row and step, who is masked again, what it costs."""

import math

import pytest
import torch
from toys import Toy

from mdmcorrect.samplers import PRISM, BlockPRISM

MASK = 11
ARMS = [
    {"remask": None},
    {"remask": "random", "remask_count": 3},
    {"remask": "confidence", "remask_count": 3},
    {"remask": "quality", "remask_count": 3},
]
ORDERS = ["random", "confidence", "max_probability", "margin", "entropy"]


def ragged(lengths, width=26):
    """One row per number of masks."""
    tokens = torch.full((len(lengths), width), 2)
    for row, length in enumerate(lengths):
        tokens[row, width - length :] = MASK
    return tokens


def published_counts(N, steps, R, step_on=0, step_off=None):
    """(committed after step i, remasked in step i) of one row, from the formulas of arXiv 2510.01384, algorithm 3."""
    committed, rows = 0, []
    for i in range(steps):
        on = step_on <= i < (steps if step_off is None else step_off)
        remasked = R if on and 0 < R < committed < N - R else 0
        target = min(math.ceil(N * (i + 1) / steps), N)
        remasked -= max(target - committed + remasked - (N - committed), 0)  # refilled at once where masks run short
        rows.append((target, remasked))
        committed = target
    return rows


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("arm", ARMS, ids=lambda arm: str(arm["remask"]))
def test_each_row_follows_the_published_counts(order, arm):
    lengths = [24, 17, 8, 5, 1]
    tokens = ragged(lengths)
    preset = PRISM(steps=12, unmask=order, step_on=1, step_off=10, **arm)
    result = preset(Toy(), tokens, mask_id=MASK, seed=4, history=True)
    for row, length in enumerate(lengths):
        expected = published_counts(length, 12, arm.get("remask_count", 0), 1, 10)
        for event, (target, remasked) in zip(result.history, expected, strict=False):
            assert int((event.tokens[row] != MASK)[tokens[row] == MASK].sum()) == target
            assert int(event.remasked[row].sum()) == remasked
    assert result.history[4].remasked.sum(1).tolist() == [arm.get("remask_count", 0)] * 2 + [0] * 3


@pytest.mark.parametrize("order", ORDERS)
def test_arms_of_equal_steps_cost_the_same(order):
    tokens = ragged([24, 24, 7])
    runs = [PRISM(steps=12, unmask=order, **arm)(Toy(), tokens, mask_id=MASK) for arm in ARMS]
    assert {tuple(run.nfe.tolist()) for run in runs} == {(12, 12, 7)}
    assert len({tuple(run.tokens[0].tolist()) for run in runs}) == len(ARMS)


def test_quality_masks_the_worst_committed_tokens():
    result = PRISM(steps=12, remask_count=3)(Toy(), ragged([24, 17]), mask_id=MASK, history={"quality"})
    seen = 0
    for event in result.history:
        for row in range(2):
            generated = (event.before[row] != MASK) & (ragged([24, 17])[row] == MASK)
            out = event.remasked[row]
            if out.any():
                seen += 1
                kept = generated & ~out
                assert event.scores["quality"][row][out].max() < event.scores["quality"][row][kept].min()
    assert seen > 10


def test_confidence_masks_what_was_least_probable_when_committed():
    preset = PRISM(steps=12, remask="confidence", remask_count=3)
    commit_score = torch.full((1, 26), torch.nan)
    result = preset(Toy(quality=False), ragged([24]), mask_id=MASK, history={"confidence"})
    for event in result.history:
        if event.remasked.any():
            committed = (event.before != MASK) & (ragged([24]) == MASK)
            kept = committed & ~event.remasked
            assert commit_score[event.remasked].max() <= commit_score[kept].min()
        commit_score[event.committed] = event.scores["confidence"][event.committed]
    assert sum(int(event.remasked.sum()) for event in result.history) > 10


def test_confident_orders_commit_the_best_first():
    for order, name in (("max_probability", "max_logprob"), ("confidence", "confidence"), ("margin", "margin")):
        result = PRISM(steps=6, unmask=order, remask=None)(Toy(), ragged([24]), mask_id=MASK, history={name})
        for event in result.history[:-1]:
            rest = (event.before == MASK) & ~event.committed
            assert event.scores[name][event.committed].min() >= event.scores[name][rest].max()


def test_random_order_is_uniform():
    tokens = torch.full((3000, 6), MASK)
    result = PRISM(steps=6, remask=None)(
        lambda tokens: torch.zeros(*tokens.shape, 12), tokens, mask_id=MASK, seed=9, history=True
    )
    for event in result.history[:5]:
        eligible = (event.before == MASK).sum(0).double()
        expected = event.committed.sum() / eligible.sum() * eligible
        chi2 = ((event.committed.sum(0) - expected) ** 2 / expected).sum()
        assert chi2 < 30  # 6 cells, 1e-4 beyond 25.7


def test_random_remasking_is_uniform_over_committed_positions():
    tokens = torch.full((3000, 8), MASK)
    preset = PRISM(steps=8, remask="random", remask_count=1, step_on=4, step_off=5)
    result = preset(lambda tokens: torch.zeros(*tokens.shape, 12), tokens, mask_id=MASK, seed=9, history=True)
    event = result.history[4]
    committed = (event.before != MASK).sum(0).double()
    assert (event.remasked.sum(1) == 1).all()
    expected = 3000 * committed / committed.sum()
    assert ((event.remasked.sum(0) - expected) ** 2 / expected).sum() < 33  # 8 cells


def test_eta_draws_a_binomial_number():
    tokens = torch.full((1500, 20), MASK)
    preset = PRISM(steps=20, remask="random", eta=0.3)
    result = preset(lambda tokens: torch.zeros(*tokens.shape, 12), tokens, mask_id=MASK, seed=1, history=True)
    counts = result.history[10].remasked.sum(1).double()  # 10 of 20 committed, sigma = min(0.3, 0.45 / 0.5)
    assert abs(counts.mean() - 3.0) < 4 * math.sqrt(10 * 0.3 * 0.7 / 1500)
    assert 1.7 < counts.var() < 2.5  # 2.1
    assert result.history[18].remasked.sum(1).max() == 1  # 18 of 20 committed: 2 would need the last masks


def test_more_steps_than_masks_cost_no_forwards():
    result = PRISM(steps=40, remask=None)(Toy(), ragged([10, 24]), mask_id=MASK)
    assert result.nfe.tolist() == [10, 24]
    assert result.complete(MASK).all()


def test_block_variant_spreads_remasking_about_the_centre():
    tokens = torch.full((1, 40), MASK)
    preset = BlockPRISM(steps=20, block_length=20, remask_count=13)
    result = preset(Toy(), tokens, mask_id=MASK, history=True)
    masked_again = [int(event.remasked.sum()) for event in result.history]
    # 13 over 10 steps: one each, and the three left over to the steps nearest 4.5, the earlier first.
    assert masked_again[1:10] == [1, 1, 2, 2, 2, 1, 1, 1, 1]
    assert masked_again[0] == 0  # nothing committed yet
    for event in result.history:
        assert not (event.committed & event.remasked).any()
    assert result.complete(MASK).all()
    left = BlockPRISM(steps=20, block_length=20, remask_count=13, finish=False)(
        Toy(), tokens, mask_id=MASK, history=True
    )
    assert int((left.tokens == MASK).sum()) > 0
    assert left.nfe.item() == result.nfe.item() - 1


def test_settings_that_contradict_are_refused():
    with pytest.raises(ValueError, match="exactly one of them, got None and None"):
        PRISM(steps=3)
    with pytest.raises(ValueError, match=r"exactly one of them, got 2 and 0\.1"):
        PRISM(steps=3, remask_count=2, eta=0.1)
    with pytest.raises(ValueError, match="remask by: expected 'quality', 'confidence' or 'random', got 'qualty'"):
        PRISM(steps=3, remask="qualty", remask_count=1)
    with pytest.raises(ValueError, match="unmask order: expected one of"):
        PRISM(steps=3, unmask="best", remask=None)
    with pytest.raises(ValueError, match="remask_count: expected at least 0, got -1"):
        PRISM(steps=3, remask_count=-1)
    with pytest.raises(ValueError, match="eta: expected 0 <= eta <= 1, got 2"):
        PRISM(steps=3, eta=2)


def test_the_loop_holds_the_count_and_exchanges_random_tokens():
    tokens = torch.full((3, 24), 11)
    preset = PRISM(steps=12, remask=None, loop_start=6, loop_steps=5, loop_count=4)
    result = preset(Toy(), tokens, mask_id=11, seed=3, history=True)
    before = [int((event.before[0] != 11).sum()) for event in result.history]
    assert before == [0, 2, 4, 6, 8, 10, *[12 - 4] * 5, 12, 14, 16, 18, 20, 22]
    assert result.nfe.tolist() == [17, 17, 17]
    exchanged = [event for event in result.history if event.remasked.any()]
    assert len(exchanged) == 5
    assert all((event.remasked.sum(1) <= 4).all() for event in exchanged)
    assert (result.state.commits.sum(1) > 24 + 8).all()
    with pytest.raises(ValueError, match="loop_start, loops, loop_count: expected at least 1, 0 and 0, got 0, 3 and 0"):
        PRISM(steps=3, remask=None, loop_start=0, loop_steps=3)


def test_remasking_goes_on_in_the_loop():
    tokens = torch.full((3, 24), 11)
    preset = PRISM(steps=12, remask_count=2, loop_start=6, loop_steps=3, loop_count=3)
    result = preset(Toy(), tokens, mask_id=11, seed=3, history=True)
    inside = result.history[6:9]
    for event in inside:
        assert ((event.before != 11).sum(1) == 12 - 3).all()
        assert (event.committed.sum(1) >= 3 + 2 - 3).all()  # of 3 + 2 that were filled, some were at once exchanged
    counts = [int((event.before[0] != 11).sum()) for event in result.history]
    assert counts == [0, 2, 4, 6, 8, 10, 9, 9, 9, 12, 14, 16, 18, 20, 22]
    alone = PRISM(steps=12, remask=None, loop_start=6, loop_steps=3, loop_count=3)(
        Toy(), tokens, mask_id=11, seed=3, history=True
    )
    taken = [sum(int(event.remasked.sum()) for event in run.history[6:8]) for run in (result, alone)]
    assert taken[0] > taken[1]
