"""Plans that rank masked and committed positions together, and second models that read their drafts."""

import math

import pytest
import torch
from toys import Toy

from mdmcorrect.model import Output
from mdmcorrect.samplers import P2, FixedOrder, Kappa, P2Plus, Pool, Review, Sampler
from mdmcorrect.samplers.pool import strictly_lowest
from mdmcorrect.samplers.state import initial_state
from mdmcorrect.samplers.window import Blocks

MASK = 11


def kept(schedule, total=10, steps=4):
    state = initial_state(torch.full((1, total), MASK), mask_id=MASK)
    counts = []
    for step in range(steps):
        _, view = Blocks().view(state, Blocks().layout(state, steps), MASK)
        view = type(view)(**{**vars(view), "step": torch.tensor([step])})
        counts.append(Kappa(schedule)(state, view).item())
    return counts


def test_schedules_keep_what_they_say():
    assert kept("linear") == [10 - math.floor(10 * (1 - i / 4)) for i in (1, 2, 3, 4)]
    assert kept("sine") == [10 - math.floor(10 * (1 - math.sin(math.pi * i / 8))) for i in (1, 2, 3, 4)]
    assert kept("cosine") == [10 - math.floor(10 * math.cos(math.pi * i / 8)) for i in (1, 2, 3)] + [10]
    assert kept((0.0, 0.5, 0.55, 1.0)) == [0, 5, 6, 10]
    for steps in (3, 7, 24, 49):  # in integers, whatever 1 - i / S rounds to
        assert kept("linear", 24, steps)[-1] == 24
        assert kept("linear", steps, steps) == list(range(1, steps + 1))


def test_strict_cuts_mask_fewer_where_scores_tie():
    score = torch.tensor([[1.0, 1.0, 2.0, 0.5], [3.0, 1.0, torch.nan, 2.0]])
    low = strictly_lowest(score, torch.tensor([2, 4]), torch.ones(2, 4, dtype=torch.bool))
    assert low.tolist() == [[False, False, False, True], [True, True, False, True]]
    none = strictly_lowest(score, torch.tensor([0, 0]), torch.ones(2, 4, dtype=torch.bool))
    assert not none.any()


def test_the_worst_of_all_positions_are_masked():
    def model(tokens, request):  # position i is sure of token i to a degree that falls once it stands
        sure = torch.tensor([3.0, 2.0, 5.0, 4.0])
        stands = tokens != MASK
        logits = torch.zeros(*tokens.shape, 12)
        logits.scatter_(2, torch.arange(4).expand_as(tokens)[..., None], torch.where(stands, sure - 4, sure)[..., None])
        return logits

    result = P2(steps=4, temperature=0.0)(model, torch.full((1, 4), MASK), mask_id=MASK, history=True)
    first, second = result.history[:2]
    assert first.committed[0].tolist() == [False, False, True, False]
    # The token at 2 is now the least sure: of four it is the first to go when two may stand.
    assert second.committed[0].tolist() == [True, False, False, True]
    assert second.remasked[0].tolist() == [False, False, True, False]
    never = P2(steps=4, temperature=0.0, eta=0.0)(model, torch.full((1, 4), MASK), mask_id=MASK, history=True)
    assert not any(event.remasked.any() for event in never.history)
    assert never.nfe.tolist() == [4]


def test_more_eta_masks_more():
    tokens = torch.full((64, 24), MASK)
    masked = [
        sum(
            int(event.remasked.sum())
            for event in P2(steps=12, eta=eta)(Toy(), tokens, mask_id=MASK, history=True).history
        )
        for eta in (0.0, 1.0, 2.0)
    ]
    assert masked[0] == 0
    assert masked[0] < masked[1] < masked[2]


def test_a_planner_reads_the_draft_and_is_counted():
    seen = []

    def planner(tokens, request):
        seen.append((tokens.clone(), request.batch.tolist()))
        return torch.zeros(*tokens.shape, 12)

    tokens = torch.full((2, 6), MASK)
    tokens[0, :3] = 4
    model = Toy()
    result = P2(steps=3, planner=planner, temperature=0.0)(model, tokens, mask_id=MASK)
    assert len(seen) == len(model.rows)
    assert all((draft != MASK).all() for draft, _ in seen)
    assert all((draft[rows.index(0), :3] == 4).all() for draft, rows in seen if 0 in rows)
    assert result.nfe.tolist() == [2 * count for count in model.nfe(2)]
    assert result.calls == 2 * len(model.rows)


def test_a_critic_may_give_quality_alone():
    def critic(tokens):
        return (tokens == 5).float()

    def model(tokens):
        return torch.nn.functional.one_hot(5 - tokens.new_tensor(range(6)) % 2, 12).float().expand(*tokens.shape, 12)

    sampler = Sampler(steps=2, plan=Pool(masked="review", committed="review"), review=Review(critic))
    result = sampler(model, torch.full((1, 6), MASK), mask_id=MASK, history=True)
    assert result.history[0].tokens.tolist() == [[5, MASK, 5, MASK, 5, MASK]]
    assert result.tokens.tolist() == [[5, 4] * 3]
    broken = Sampler(steps=2, plan=Pool(committed="review"), review=Review(lambda x: x[:, 1:].float()))
    with pytest.raises(ValueError, match=r"expected quality \[1, 6\], got \[1, 5\]"):
        broken(model, torch.full((1, 6), MASK), mask_id=MASK, history=True)


def test_a_fixed_order_is_that_of_the_first_forward():
    calls = []

    def model(tokens, request):
        calls.append(tokens.clone())
        sure = torch.tensor([1.0, 5.0, 3.0, 4.0, 2.0]) * (1 if len(calls) == 1 else -1)
        return Output(logits=torch.nn.functional.one_hot(tokens * 0 + 2, 12) * sure[:, None])

    result = P2Plus(steps=4, temperature=0.0)(model, torch.full((1, 5), MASK), mask_id=MASK, history=True)
    committed = [event.committed[0].nonzero()[:, 0].tolist() for event in result.history]
    assert committed == [[], [1, 3], [2, 4], [0]]
    assert result.nfe.tolist() == [4]


def test_settings_that_make_no_sense_are_refused():
    for make, message in (
        (lambda: P2(steps=3, score="quality"), "score: expected .*, got 'quality'"),
        (lambda: P2(steps=3, revisit="both"), "revisit: expected 'token' or 'draft', got 'both'"),
        (lambda: P2(steps=3, kappa="square"), "kappa: expected one of .* or one number per step, got 'square'"),
        (lambda: P2(steps=3, eta=-1), "eta: expected a number >= 0, got -1"),
        (lambda: Pool(cut="loose"), "cut: expected .*, got 'loose'"),
        (lambda: Review(None, reads="mind"), "review reads: expected .*, got 'mind'"),
        (lambda: Review(None, draft="half"), "review draft: expected .*, got 'half'"),
    ):
        with pytest.raises(ValueError, match=message):
            make()
    assert FixedOrder().shared is False
