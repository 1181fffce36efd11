"""ProSeCo's corrector: what it writes, when it stops, which scores the step goes on with."""

import pytest
import torch
from toys import Toy

from mdmcorrect.model import Output
from mdmcorrect.samplers import MDLM, BlockProSeCo, CeilTarget, EvenSplit, FixedPoint, ProSeCo, Sampler, Scoring, Unmask

MASK = 5


def one_hot(ids, V=6):
    return torch.nn.functional.one_hot(ids, V).float() * 30


class Countdown:
    """Predicts 4 on a canvas with masks; on a full one, one less than what stands there, down to `floor` per row."""

    def __init__(self, floor):
        self.floor, self.full, self.corrections = floor, [], []

    def __call__(self, tokens, request):
        self.corrections.append((request.correction, request.batch.tolist()))
        masked = (tokens == MASK).any(1, keepdim=True)
        floor = self.floor[request.batch][:, None]
        less = torch.maximum(tokens - 1, floor).clamp(max=4)
        return Output(logits=one_hot(torch.where(masked, torch.full_like(tokens, 4), less)))


def greedy(corrector, steps=4, order="max_probability"):
    return Sampler(steps=steps, unmask=Unmask(order, CeilTarget()), correct=corrector, scoring=Scoring())


def test_each_row_runs_to_its_own_fixed_point_and_no_further():
    model = Countdown(floor=torch.tensor([3, 1, 2]))
    tokens = torch.full((3, 4), MASK)
    result = greedy(FixedPoint(passes=10, revisits=False))(model, tokens, mask_id=MASK)
    assert (result.tokens == model.floor[:, None]).all()
    # From 4: passes down to the floor, and one that sees no change; the predictor before each.
    assert result.nfe.tolist() == [4 * (1 + 2), 4 * (1 + 4), 4 * (1 + 3)]
    assert result.calls == 4 * (1 + 4)
    assert model.corrections[:5] == [(0, [0, 1, 2]), (1, [0, 1, 2]), (2, [0, 1, 2]), (3, [1, 2]), (4, [1])]


def test_passes_bound_a_correction_that_does_not_settle():
    model = Countdown(floor=torch.tensor([0]))
    result = greedy(FixedPoint(passes=2, revisits=False))(model, torch.full((1, 4), MASK), mask_id=MASK, history=True)
    assert result.nfe.tolist() == [4 * 3]
    assert (result.history[0].tokens == MASK).sum() == 3


def test_commits_come_from_the_corrector_not_from_the_predictor():
    model = Countdown(floor=torch.tensor([1]))
    result = greedy(FixedPoint(passes=10))(model, torch.full((1, 4), MASK), mask_id=MASK, history=True)
    for event in result.history:
        assert (event.tokens[event.committed] == 1).all()  # the predictor says 4
    without = greedy(None)(model, torch.full((1, 4), MASK), mask_id=MASK, history=True)
    assert (without.tokens == 4).all()


def test_only_committed_positions_are_corrected():
    tokens = torch.tensor([[3, MASK, MASK, MASK, MASK, 3]])
    model = Countdown(floor=torch.tensor([0]))
    result = greedy(FixedPoint(passes=1, revisits=False))(model, tokens, mask_id=MASK, history=True)
    assert result.tokens[0, [0, 5]].tolist() == [3, 3]
    corrected = 0
    for event in result.history:
        corrected += int(event.corrected.sum())
        assert (event.before[event.corrected] != MASK).all()
        assert not event.corrected[:, [0, 5]].any()
        assert int((event.tokens == MASK).sum()) == int((event.before == MASK).sum()) - 1
    assert corrected > 0


def test_corrected_tokens_take_the_correctors_probability():
    model = Countdown(floor=torch.tensor([1]))
    result = greedy(FixedPoint(passes=9))(model, torch.full((1, 4), MASK), mask_id=MASK)
    assert (result.state.commit_score[0] > 0.99).all()


def test_every_and_start_say_when():
    for every, start, expected in ((3, 0, [2, 5]), (2, 4, [3, 5]), (1, 6, [5])):
        model = Countdown(floor=torch.tensor([0]))
        corrector = FixedPoint(passes=1, every=every, start=start, revisits=False)
        greedy(corrector, steps=6)(model, torch.full((1, 6), MASK), mask_id=MASK)
        calls = [correction for correction, _ in model.corrections]
        steps = [index for index in range(6) if _correction_follows(calls, index)]
        assert steps == expected


def _correction_follows(calls, index):
    """Whether the predictor call number `index` is followed by a corrector's."""
    predictors = [n for n, correction in enumerate(calls) if correction == 0]
    after = predictors[index] + 1
    return after < len(calls) and calls[after] == 1


def test_carry_over_decides_what_the_first_guess_holds_at_committed_positions():
    seen = []

    def model(tokens, request):
        seen.append((request.correction, tokens.clone()))
        return Output(logits=one_hot(torch.full_like(tokens, 1 if request.correction else 2)))

    tokens = torch.tensor([[MASK, 3, MASK, MASK]])
    fixed = torch.tensor(
        [[False, False, False, True]]
    )  # 3 was committed by the caller; the last mask is not to be filled
    for carry_over, guess in ((True, [2, 3, 2, MASK]), (False, [2, 2, 2, MASK])):
        seen.clear()
        sampler = greedy(FixedPoint(passes=1, carry_over=carry_over), steps=2)
        result = sampler(model, tokens, mask_id=MASK, fixed=fixed)
        assert seen[1][0] == 1
        assert seen[1][1].tolist() == [guess]
        assert result.tokens.tolist() == [[1, 1, 1, MASK]]


def test_a_settled_row_without_masks_ends_and_an_unsettled_one_goes_on():
    tokens = torch.full((2, 3), 4)
    fixed = torch.zeros(2, 3, dtype=torch.bool)
    model = Countdown(floor=torch.tensor([4, 0]))
    result = greedy(FixedPoint(passes=1), steps=8)(model, tokens, mask_id=MASK, fixed=fixed)
    # Row 0 stands: a predictor and one pass. Row 1 falls by 1 each step, and takes one more to see that it stands.
    assert result.nfe.tolist() == [2, 10]
    assert result.tokens.tolist() == [[4] * 3, [0] * 3]


def test_proseco_without_passes_is_mdlm():
    tokens = torch.full((3, 10), 11)
    one = ProSeCo(steps=7, corrector_steps=0)(Toy(), tokens, mask_id=11, seed=1)
    other = MDLM(steps=7)(Toy(), tokens, mask_id=11, seed=1)
    assert torch.equal(one.tokens, other.tokens)
    assert torch.equal(one.nfe, other.nfe)


@pytest.mark.parametrize(("passes", "every"), [(1, 1), (3, 2), (2, 4)])
def test_forwards_stay_within_the_published_bound(passes, every):
    tokens = torch.full((5, 24), 11)
    result = ProSeCo(steps=16, corrector_steps=passes, correct_every=every)(Toy(), tokens, mask_id=11, seed=1)
    assert (result.nfe <= 16 + passes * (16 // every) + 1).all()
    assert (result.nfe > MDLM(steps=16)(Toy(), tokens, mask_id=11, seed=1).nfe).all()


def test_no_forward_where_nothing_is_committed_and_nothing_can_be_corrected():
    model = Countdown(floor=torch.tensor([2]))
    tokens = torch.full((1, 4), MASK)
    result = ProSeCo(steps=400, corrector_steps=2)(model, tokens, mask_id=MASK, seed=1)
    # A commit costs at most a step of 3, and one of 3 more to see that it stands; the last one a noise removal.
    assert 4 * 3 <= result.nfe.item() <= 4 * 6 + 1
    parts = ProSeCo(steps=400, corrector_steps=2).parts()
    uncached = Sampler(steps=400, plan=parts.plan, correct=parts.correct, scoring=parts.scoring, cache=False)
    every = uncached(model, tokens, mask_id=MASK, seed=1)
    assert torch.equal(every.tokens, result.tokens)
    assert every.nfe.item() > 500


def test_the_corrector_reaches_back_over_blocks_and_not_ahead():
    model = Countdown(floor=torch.tensor([0]))
    preset = BlockProSeCo(steps=4, block_length=2, corrector_steps=1, correct_every=1)
    result = preset(model, torch.full((1, 4), MASK), mask_id=MASK, history=True)
    second_block = [event for event in result.history if (event.before[0, :2] != MASK).all()]
    assert any(event.corrected[0, :2].any() for event in second_block)
    for event in result.history[:2]:
        assert (event.tokens[0, 2:] == MASK).all()


def test_threshold_lasts_until_a_block_is_filled():
    def sure_of_two(tokens):
        logits = one_hot(torch.full_like(tokens, 1)) / 30 * 1.5  # 0.52
        logits[:, :2] *= 4  # 0.98
        return logits

    preset = BlockProSeCo(corrector_steps=0, threshold=0.9)
    result = preset(sure_of_two, torch.full((1, 6), MASK), mask_id=MASK, history=True)
    assert [int(event.committed.sum()) for event in result.history] == [2, 1, 1, 1, 1]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_corrector_that_would_write_the_mask_is_overruled(temperature):
    def prefers_the_mask(tokens):
        logits = one_hot(torch.full_like(tokens, 2))
        logits[..., MASK] = 90
        return logits

    preset = BlockProSeCo(steps=4, corrector_steps=2, correct_every=1, temperature=temperature)
    result = preset(prefers_the_mask, torch.full((1, 4), MASK), mask_id=MASK)
    assert result.tokens.tolist() == [[2] * 4]


def test_settings_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="corrector_steps: expected at least 0, got -1"):
        ProSeCo(steps=3, corrector_steps=-1)
    with pytest.raises(ValueError, match="correct_every: expected at least 1, got 0"):
        ProSeCo(steps=3, correct_every=0)
    with pytest.raises(ValueError, match="plan, unmask, remask: a plan has its own"):
        Sampler(steps=3, plan=MDLM(steps=3).parts().plan, unmask=Unmask("random", EvenSplit()))


@pytest.mark.parametrize(("corrector", "forwards"), [("argmax", 2), ("sample", 4)])
def test_a_draw_that_repeats_is_no_fixed_point(corrector, forwards):
    """The next pass draws anew from the same canvas: to end there would favour what repeats (authors' algorithm 3)."""

    def sure(tokens):
        return torch.tensor([0.0, 50.0, 0.0]).expand(*tokens.shape, 3)

    sampler = ProSeCo(steps=1, corrector_steps=3, corrector=corrector)
    result = sampler(sure, torch.full((2, 4), 2), mask_id=2, seed=0)
    assert result.tokens.eq(1).all()
    assert result.nfe.tolist() == [forwards] * 2
