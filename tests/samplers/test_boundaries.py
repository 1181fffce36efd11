"""Rules with a boundary, tried below, at and above it: one step of a part by itself."""

import math
from dataclasses import replace

import pytest
import torch
from moments import MASK, moment, where
from scipy import stats
from toys import Toy

from mdmcorrect import samplers
from mdmcorrect.model import Output
from mdmcorrect.samplers import (
    P2,
    AboveMean,
    BeforeEnd,
    Blocks,
    Cap,
    Constant,
    DraftAndVerify,
    During,
    Edit,
    FixedPoint,
    FixedSteps,
    HideAndAsk,
    HistoryRemask,
    Moment,
    Overwrite,
    Remask,
    RemaskDoubtful,
    Resample,
    Review,
    Sampler,
    Scores,
    ScoreThenFill,
    Scoring,
    Threshold,
    Unmask,
)
from mdmcorrect.samplers.pool import strictly_lowest
from mdmcorrect.samplers.rows import Rows

M = MASK


def scores(length, **given):
    """Scores of one row of so many positions: proposals of 1, all as sure."""
    base = {"token": torch.ones(1, length, dtype=torch.int64), "confidence": torch.full((1, length), 0.5)}
    return Scores({**base, **{name: torch.as_tensor(value)[None] for name, value in given.items()}})


def stepped(plan, state, view, given):
    """What a plan does in a step with a forward."""
    return plan(state, view, plan.prepare(state, view), given)


# ---- NAVIRA ----


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_what_is_masked_again_has_the_law_of_its_quality(temperature):
    batch, quality = 6000, torch.tensor([0.2, 0.5, 0.9])
    tokens = torch.tensor([0, 1, 2, M, M, M, M]).expand(batch, -1)
    state, view = moment(tokens, seed=torch.arange(batch))
    judged = torch.cat([quality, torch.ones(4)]).expand(batch, -1)
    given = scores(7, quality=judged[0])
    given = Scores({name: value.expand(batch, -1) for name, value in given.items()})
    update = stepped(ScoreThenFill(count=Constant(1), temperature=temperature), state, view, given)
    assert (update.remasked.sum(1) == 1).all()
    expected = torch.softmax(-quality.double().log() / temperature, 0) * batch
    assert stats.chisquare(update.remasked.sum(0)[:3].numpy(), expected.numpy()).pvalue > 1e-4


def test_even_steps_judge_and_odd_ones_fill():
    plan = ScoreThenFill(Unmask(), count=Constant(1))
    for step in range(4):
        intent = plan.prepare(*moment([0, 1, 2, M, M, M, M], step=step, steps=8, quota=7))
        assert (int(intent.unmask) > 0, int(intent.remask) > 0) == ((False, True) if step % 2 == 0 else (True, False))


# ---- history ----


@pytest.mark.parametrize(("step", "number"), [(1, 0), (2, 2), (3, 2), (6, 2), (7, 0)])
def test_when_history_masks_again(step, number):
    """The share of steps made at its bound, and the last step."""
    plan = HistoryRemask(numbers=((0.25, 0), (1.0, 2)))
    intent = plan.prepare(*moment([0, 1, 2, 3, M, M], step=step, steps=8, quota=6))
    assert int(intent.remask) == number


def test_history_is_a_mean_and_begins_anew_with_a_commit():
    # The last was a token once, before it was masked again.
    memory = {"believed": torch.tensor([[2.0, 0.9, 0.9, 2.0]]), "noted": torch.tensor([[4.0, 1.0, 1.0, 3.0]])}
    state, view = moment([0, 1, 2, M], step=2, steps=8, quota=4, memory=memory)
    believed = torch.tensor([0.5, 0.9, 0.9, math.nan]).log()
    plan = HistoryRemask(Unmask("confidence"), numbers=((1.0, 1),))
    update = stepped(plan, state, view, scores(4, current_logprob=believed))
    assert where(update.remasked) == [[0]]  # a mean of 0.5, a sum of 2.5
    assert where(update.committed) == [[3]]
    assert update.memory["noted"].tolist() == [[0.0, 2.0, 2.0, 0.0]]


# ---- WINO ----


def verified(tokens, quality, threshold, *, step=1, memory=None, doubt=0.5, confidence=0.5):
    kept = {} if memory is None else {"accepted": torch.tensor([memory])}
    state, view = moment(tokens, step=step, quota=len(tokens), memory=kept)
    plan = DraftAndVerify(Unmask(count=Threshold(threshold)), doubt=doubt)
    sure = torch.full((len(tokens),), confidence)
    return stepped(plan, state, view, scores(len(tokens), quality=quality, confidence=sure))


@pytest.mark.parametrize(("threshold", "again"), [(0.9, []), (0.1, [0, 1])])
def test_one_that_is_accepted_takes_nothing_back(threshold, again):
    assert where(verified([0, 1, 2, M, M, M], [0.1, 0.2, 0.9, 0, 0, 0], threshold).remasked) == [again]


def test_doubt_at_its_bound():
    assert where(verified([0, 1, 2, M, M, M], [0.25, 0.5, 0.75, 0, 0, 0], 0.1).remasked) == [[0]]


@pytest.mark.parametrize(("before", "again"), [(4, 3), (3, 2), (2, 1), (1, 0)])
def test_fewer_go_back_than_came_before(before, again):
    update = verified([0, 1, 2, 3, *[M] * 6], [0.1, 0.2, 0.3, 0.9, *[0.0] * 6], 0.1, memory=before)
    assert where(update.remasked) == [list(range(again))]


def test_a_window_knows_nothing_of_the_one_before():
    update = verified([0, 1, 2, 3, *[M] * 6], [0.1, 0.2, 0.3, 0.9, *[0.0] * 6], 0.1, memory=1, step=0)
    assert where(update.remasked) == [[0, 1, 2]]


@pytest.mark.parametrize(("masks", "accepted"), [(1, 1), (4, 4), (7, 5), (8, 5), (9, 6), (28, 19), (29, 20), (40, 20)])
def test_how_many_are_accepted(masks, accepted):
    update = verified([M] * masks, [0.0] * masks, 0.1)
    assert int(update.committed.sum()) == accepted


# ---- editing ----


@pytest.mark.parametrize(("confidence", "edited"), [(0.4, []), (0.5, []), (0.6, [0, 1])])
def test_an_edit_at_its_threshold(confidence, edited):
    state, view = moment([0, 2, 1, M])  # the third is what is proposed
    given = scores(4, confidence=torch.full((4,), confidence))
    overwrite, remask = Overwrite(0.5)(state, view, given, view.eligible & ~view.masked)
    assert where(overwrite) == [edited]
    assert not remask.any()


def doubted(rule, tokens, current, commits=0, window=None, index=0):
    state, view = moment(tokens, window=window, index=index, commits=torch.full((1, len(tokens)), commits))
    given = scores(len(tokens), current_logprob=torch.tensor(current).log())
    return where(rule(state, view, given, view.eligible & ~view.masked)[1])


def test_doubt_of_a_token_at_its_threshold():
    at = float(torch.tensor(0.25).log().exp())
    rule = RemaskDoubtful("low_prob", at, per_position=1, ratio=1.0)
    assert doubted(rule, [0, 1, 2, M], [0.125, 0.25, 0.5, 0.5]) == [[0]]


@pytest.mark.parametrize(("commits", "again"), [(2, [0]), (3, [0]), (4, [])])
def test_how_often_a_position_goes_back(commits, again):
    assert doubted(RemaskDoubtful(per_position=3), [0, 1, 2, M], [0.01, 0.5, 0.5, 0.5], commits) == [again]


def test_the_share_is_of_the_window():
    rule = RemaskDoubtful(ratio=0.5)
    assert doubted(rule, [0] * 8, [0.01] * 8, window=Blocks(4), index=1) == [[4, 5]]


def test_editing_ends_after_its_steps_and_counts_anew_in_each_window():
    plan = Edit(edit=Overwrite(0.1), post_steps=3)
    given = scores(4, confidence=[0.9] * 4)
    for step, post, goes_on in ((5, 0, True), (5, 1, True), (5, 2, False), (0, 2, True)):
        state, view = moment([0, 2, 3, 4], step=step, quota=4, memory={"post": torch.tensor([post])})
        update = stepped(plan, state, view, given)
        assert bool(update.memory["editing"]) == goes_on


# ---- correctors ----


def due(corrector, tokens, given, rescored=None, asked=None):
    """What a corrector makes of a row; ``asked`` gets what it asked its forward."""
    state, view = moment(tokens)

    def rescore(tokens, rows, where, correction, judged=None):
        if asked is not None:
            asked.append((tokens.tolist(), where.tolist(), correction, None if judged is None else judged.tolist()))
        return rescored

    return corrector(state, view, Rows(torch.tensor([True]), (0,)), given, rescore)


def test_a_draw_that_changes_nothing_uses_up_no_correction():
    given = scores(4, token=[0, 5, 6, 7], proposal_logprob=[-0.1, -0.5, -0.9, -0.2])
    tokens, _ = due(Resample(1), [0, 1, 2, M], given)
    assert tokens.tolist() == [[0, 5, 2, M]]


def test_only_what_becomes_less_likely_is_rewritten():
    before = scores(
        4, margin=[0.1, 0.2, 0.3, 9.0], current_logprob=[-1.0, -1.0, -1.0, math.nan], max_logprob=[-0.1] * 4
    )
    after = scores(4, argmax=[7, 7, 7, -1], current_logprob=[-2.0, -1.0, -0.5, math.nan], max_logprob=[-0.2] * 4)
    asked = []
    tokens, _ = due(HideAndAsk(3, revise=3, every=1), [0, 1, 2, M], before, after, asked)
    assert tokens.tolist() == [[7, 1, 2, M]]
    assert asked == [([[M, M, M, M]], [[True, True, True, False]], 1, [[0, 1, 2, M]])]  # what stood, of the hidden


# ---- ranks and counts ----


def test_a_token_whose_commit_nobody_saw_is_kept():
    score = torch.tensor([[math.nan, 0.9, 0.8, math.nan, *[math.nan] * 6]])
    state, _ = moment([0, 1, 2, 3, *[M] * 6], commit_score=score)
    keep = Remask("confidence").keep(state, scores(10))
    assert keep[0, :4].tolist() == [math.inf, pytest.approx(0.9), pytest.approx(0.8), math.inf]


@pytest.mark.parametrize(("committed", "count"), [(2, 0), (3, 2), (7, 2), (8, 0), (9, 0)])
def test_when_a_constant_number_is_masked(committed, count):
    state, view = moment([*range(committed), *[M] * (10 - committed)], quota=10)
    assert int(Constant(2)(state, view)) == count


@pytest.mark.parametrize("length", [1, 2, 3, 7, 11, 24, 100])
@pytest.mark.parametrize("confidence", [1 / 11, 0.1, 1 / 3, 0.7])
def test_what_is_as_sure_as_all_reaches_their_mean(length, confidence):
    sure = torch.full((1, length), confidence)
    masked = torch.ones(1, length, dtype=torch.bool)
    assert (
        int(AboveMean().after(masked.sum(1), masked, Scores(confidence=sure, token=torch.ones_like(masked).long())))
        == length
    )


def test_nothing_is_committed_behind_the_first_end():
    state, _ = moment([M] * 5)
    rank = BeforeEnd(eos_id=2).rank(state, scores(5, token=[1, 2, 1, 2, 1]))
    assert rank[0].isinf().tolist() == [False, False, True, True, True]


def test_strictly_lowest_at_the_cut():
    score = torch.tensor([[1.0, 2.0, 2.0, 3.0, math.nan]])
    eligible = torch.ones_like(score, dtype=torch.bool)
    for count, low in ((0, []), (1, [0]), (2, [0]), (3, [0, 1, 2]), (4, [0, 1, 2, 3])):
        assert where(strictly_lowest(score, torch.tensor([count]), eligible)) == [low]


# ---- the sampler ----


def test_rows_that_have_stopped_hold_no_others():
    tokens = torch.full((2, 8), M)
    sampler = Sampler(steps=8, window=Blocks(4, together=True))

    def first_row(tokens, fixed):
        return torch.tensor([True, False])[: len(tokens)]

    both = sampler(Toy(), tokens, mask_id=M, stop=first_row, seed=0)
    assert both.nfe.tolist() == [0, 8]
    assert (both.tokens[1] != M).all()
    uneven = Sampler(steps=2, unmask=Unmask(count=Threshold(0.0)), window=Blocks(4, together=True, until_filled=True))
    run = uneven(Toy(), tokens, mask_id=M, stop=first_row, history=True)
    assert run.nfe.tolist() == [0, 2]
    assert run.steps.tolist() == [0, 2]


@pytest.mark.parametrize("finish", [False, True])
def test_fixed_steps_leave_what_the_sampler_leaves(finish):
    sampler = Sampler(steps=2, unmask=Unmask(count=Threshold(2.0)), finish=finish)
    tokens = torch.full((2, 8), M)
    expected = sampler(Toy(), tokens, mask_id=M, seed=0)
    fixed = FixedSteps(sampler, Toy(), mask_id=M)(tokens, seed=0)
    assert torch.equal(fixed.tokens, expected.tokens)
    assert bool((fixed.tokens == M).any()) != finish
    one = FixedSteps(sampler, Toy(), mask_id=M)(tokens, steps=1, seed=0)  # no closing step where none is to be made
    assert (one.tokens != M).sum(1).tolist() == ([2, 2] if finish else [1, 1])


def test_a_reviewer_is_told_the_condition():
    told = []

    def planner(tokens, request):
        told.append(request.condition)
        return Toy()(tokens, request)

    P2(steps=3, planner=planner)(Toy(), torch.full((2, 6), M), mask_id=M, condition=torch.tensor([5, 7]))
    assert told
    assert all(condition.tolist() == [5, 7] for condition in told)


def test_a_confidence_without_ids_is_without_the_suppressed_ones_too():
    logits = torch.log(torch.tensor([[[0.4, 0.3, 0.2, 0.06, 0.04]]]))
    scoring = Scoring(suppress=(0,), confidence_forbid=(2,))
    where_ = {"tokens": torch.tensor([[4]]), "rows": torch.tensor([[True]]), "positions": torch.tensor([[0]])}
    drawn = {"seed": torch.tensor([0]), "step": torch.tensor([0]), "call": 0}
    read = scoring(logits, **where_, mask_id=4, want={"token", "confidence"}, **drawn)
    assert read["token"].item() == 1
    assert read["confidence"].item() == pytest.approx(0.3 / 0.36)


def test_a_committed_tokens_score_is_a_probability():
    """After a correction too: a log-probability would be below every probability."""

    def changes_its_mind(tokens, request):
        logits = torch.zeros(*tokens.shape, 12)
        logits[..., 3 if request.correction else 2] = 4.0
        return Output(logits)

    sampler = Sampler(steps=4, correct=FixedPoint(1), cache=False)
    for road in (sampler, Sampler(steps=4, unmask=Unmask(ties="torch"), correct=FixedPoint(1), cache=False)):
        run = road(changes_its_mind, torch.full((1, 8), M), mask_id=M, seed=0)
        scored = run.state.commit_score
        assert ((scored > 0) & (scored <= 1)).all()


# ---- times and drafts ----


@pytest.mark.parametrize(("t", "on"), [(0.19, False), (0.2, False), (0.21, True), (0.8, True), (0.81, False)])
def test_when_remasking_is_on(t, on):
    def at(value):
        return torch.tensor([[value]], dtype=torch.float64)

    sigma = During(Cap(0.5), t_on=0.8, t_off=0.2)(None, None, Moment(at(t), at(t - 0.1), at(1 - t), at(1.1 - t)))
    assert bool(sigma > 0) == on


@pytest.mark.parametrize(
    ("draft", "wanted"), [("masks", [[3, 4]]), ("generated", [[2, 3, 4]]), ("all", [[0, 1, 2, 3, 4]])]
)
def test_what_a_reviewers_draft_holds(draft, wanted):
    fixed = torch.tensor([[True, True, False, False, False]])
    state, _ = moment([5, M, 6, M, M])
    assert where(Review(Toy(), draft=draft).wanted(replace(state, fixed=fixed), M)) == wanted


@pytest.mark.parametrize(
    ("part", "least"),
    [
        (samplers.RoundedGrid, {"steps": 1}),
        (samplers.Blocks, {"length": 1, "steps": 1, "extra": 0}),
        (samplers.Constant, {"count": 0}),
        (samplers.Centred, {"total": 0}),
        (samplers.Binomial, {"eta": 0.0}),
        (samplers.Threshold, {"threshold": 0.0, "at_least": 0}),
        (samplers.Factor, {"factor": 0.0}),
        (samplers.EntropyBound, {"gamma": 0.0}),
        (samplers.Cap, {"eta": 1.0}),
        (samplers.Remask, {"start": 0, "stop": 0}),
        (samplers.Looped, {"loop_start": 1, "loops": 0, "loop_count": 0}),
        (samplers.Edit, {"post_steps": 0}),
        (samplers.RemaskDoubtful, {"per_position": 0, "ratio": 0.0}),
        (samplers.FixedPoint, {"passes": 0, "every": 1, "start": 0}),
        (samplers.HideAndAsk, {"candidates": 1, "revise": 1, "every": 1, "start": 0, "stop": 0}),
        (samplers.Informed, {"count": 0, "temperature": 0.0, "rounds": 0, "every": 1, "start": 0}),
        (samplers.Resample, {"count": 0, "every": 1}),
        (samplers.Noise, {"scale": 0.0}),
        (samplers.Pool, {"eta": 0.0}),
        (samplers.Sampler, {"steps": 1}),
        (samplers.Scoring, {"temperature": 0.0, "top_k": 1, "top_p": 1.0}),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_the_least_that_may_be_asked_for_is_taken(part, least):
    made = part(**least)
    assert {name: getattr(made, name) for name in least} == least
