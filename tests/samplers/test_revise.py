"""Samplers that take back what they wrote, each against its rule on models that make the rule visible."""

import pytest
import torch
from toys import Toy

from mdmcorrect.adapters import Combined, ShadowBlock
from mdmcorrect.model import Output
from mdmcorrect.samplers import (
    NAVIRA,
    WINO,
    Blocks,
    CoRe,
    Edit,
    EntropyBounded,
    FastDLLM,
    HistoryRemasking,
    LLaDA,
    LLaDA2,
    LLaDA21,
    MDiff4STR,
    Overwrite,
    RemeDi,
    Sampler,
    Threshold,
    Unmask,
)

MASK = 11


def blank(batch=2, length=24):
    return torch.full((batch, length), MASK)


def run(preset, tokens=None, model=None, **options):
    return preset(model or Toy(), blank() if tokens is None else tokens, mask_id=MASK, **options)


def fickle(tokens, request):
    """Proposes 1 everywhere until half of the canvas is written, then 2; sure of both."""
    late = (tokens != MASK).sum(1) >= tokens.shape[1] // 2
    logits = torch.zeros(*tokens.shape, 12)
    logits[..., 1] = torch.where(late, 0.0, 9.0)[:, None]
    logits[..., 2] = torch.where(late, 9.0, 0.0)[:, None]
    return logits + torch.arange(tokens.shape[1])[:, None] * 1e-3 * (torch.arange(12) < 3)


def test_editing_overwrites_on_the_forward_that_commits_and_after():
    result = run(
        LLaDA21(block_length=24, threshold=0.9999, at_least=4, editing_threshold=0.5), model=fickle, history=True
    )
    assert (result.tokens == 2).all()
    edits = [int(event.corrected[0].sum()) for event in result.history]
    assert edits == [0, 0, 0, 12, 0, 0, 0]  # the twelve 1s turn in the fourth step; the seventh changes nothing
    assert result.nfe.tolist() == [7, 7]


def test_post_steps_bound_a_model_that_never_settles():
    def flipping(tokens, request):
        logits = torch.zeros(*tokens.shape, 12)
        return logits.scatter(2, ((tokens + 1) % 5)[..., None], 9.0)

    for post_steps in (0, 1, 5):
        preset = LLaDA21(block_length=8, threshold=0.5, editing_threshold=0.0, post_steps=post_steps)
        result = run(preset, model=flipping)
        assert result.nfe.tolist() == [3 * (1 + post_steps)] * 2


@pytest.mark.parametrize("by", ["low_prob", "t2t_remask", "logit_diff"])
def test_t2m_masks_instead_of_overwriting_and_stops(by):
    threshold = {"low_prob": 0.1, "t2t_remask": 0.5, "logit_diff": 0.3}[by]
    preset = LLaDA21(
        block_length=24, threshold=0.9999, at_least=4, remask=by, remask_threshold=threshold, per_position=2, ratio=0.25
    )
    result = run(preset, model=fickle, history=True)
    remasked = [int(event.remasked[0].sum()) for event in result.history]
    assert not any(event.corrected.any() for event in result.history)
    assert max(remasked) == 6  # a quarter of the block
    assert sum(remasked) >= 6
    assert result.complete(MASK).all()
    assert (result.state.commits <= 3).all()


def test_llada2_keeps_up_with_its_schedule():
    result = run(LLaDA2(steps=4, block_length=8, threshold=0.99), history=True)
    committed = [event.committed.sum(1).tolist() for event in result.history]
    assert committed == [[2, 2]] * 12


def test_parallel_decoders_commit_what_their_rule_admits():
    result = run(FastDLLM(block_length=8, threshold=0.3), history={"confidence"})
    for event in result.history:
        for row in range(2):
            chosen = event.scores["confidence"][row][event.committed[row]]
            assert (chosen >= 0.3).all() or len(chosen) == 1
    result = run(EntropyBounded(gamma=1.5), history={"entropy"})
    for event in result.history:
        for row in range(2):
            chosen = event.scores["entropy"][row][event.committed[row]]
            assert chosen.sum() - chosen.max() <= 1.5 + 1e-6
    assert int(result.nfe.max()) < 24


class Shadowed:
    """A model that reads the masks it is given: logits depend on the tokens each query sees."""

    def __call__(self, tokens, attention_mask, position_ids):
        seen = (attention_mask[:, 0].long() * ((tokens + 3) * (position_ids + 7) * 31 % 1009)[:, None]).sum(-1)
        state = seen * 17 + position_ids * 101
        return ((state[..., None] * 65537 + torch.arange(12) * 40503) % 997 / 120).float()


def test_the_shadow_hides_each_token_from_its_own_judgement():
    model, tokens = Shadowed(), torch.randint(0, 11, (2, 10), generator=torch.Generator().manual_seed(0))
    tokens[:, 5] = MASK
    seen = {}

    def record(tokens, request):
        seen.update(request=request)
        return ShadowBlock(model)(tokens, request)

    record.reads_windows = True
    canvas = torch.full((2, 10), MASK)
    canvas[:, :4] = 3
    WINO(block_length=3)(record, canvas, mask_id=MASK, callback=lambda event: True)
    output = ShadowBlock(model)(tokens, seen["request"])
    everything = torch.ones(2, 1, 10, 10, dtype=torch.bool)
    plain = model(tokens, everything, torch.arange(10).expand(2, -1))
    assert torch.equal(output.logits, plain)  # no real token sees the shadow
    assert output.quality.isnan().tolist() == [[c not in (4, 5, 6) for c in range(10)]] * 2
    for column in (4, 6):
        for other in range(11):
            changed = tokens.clone()
            changed[:, column] = other
            again = ShadowBlock(model)(changed, seen["request"])
            judged = again.quality[:, column]
            shadow = torch.cat([changed, torch.full((2, 3), MASK)], 1)
            sees = torch.ones(13, dtype=torch.bool)
            sees[column] = False
            places = torch.cat([torch.arange(10), torch.arange(4, 7)]).expand(2, -1)
            logits = model(shadow, sees.expand(2, 1, 13, 13), places)[:, 10 + column - 4]
            torch.testing.assert_close(judged, logits.softmax(-1)[:, other])


def test_wino_takes_back_less_than_it_accepted_before():
    tokens = torch.full((2, 30), MASK)
    tokens[:, 0] = torch.tensor([1, 2])
    result = run(
        WINO(block_length=15, accept=0.2, doubt=0.5), tokens=tokens, model=ShadowBlock(Shadowed()), history=True
    )
    assert result.complete(MASK).all()
    accepted, taken_back = 30, 0
    for event in result.history:
        accepted_now, back = int(event.committed[0].sum()), int(event.remasked[0].sum())
        if event.step[0] and back:
            assert back < accepted
        accepted, taken_back = accepted_now, taken_back + back
        assert accepted_now <= 20
    assert taken_back > 0


def test_remedi_keeps_the_best_so_far():
    result = run(RemeDi(steps=12, block_length=8), history={"quality"})
    for event in result.history:
        step = int(event.step[0])
        assert int((event.tokens[0] != MASK).sum()) == step // 4 * 8 + 2 * (step % 4 + 1)
        block = slice(step // 4 * 8, step // 4 * 8 + 8)
        stands = event.tokens[0, block] != MASK
        quality = event.scores["quality"][0, block]
        assert stands.all() or quality[stands].min() >= quality[~stands].max()
    assert any(event.remasked.any() for event in result.history)


def test_core_rewrites_tokens_that_hold_each_other_up():
    """Two neighbours vouch for each other's 7; asked with both hidden, the model wants 3."""

    def model(tokens, request):
        logits = torch.zeros(*tokens.shape, 12)
        mutual = (tokens[:, 0] == 7) | (tokens[:, 1] == 7)
        logits[..., 5] = 6.0
        logits[:, :2, 5] = 0.0
        logits[:, :2, 7] = torch.where(mutual, 4.0, 1.0)[:, None]
        logits[:, :2, 3] = torch.where(mutual, 3.9, 3.0)[:, None]
        return logits

    tokens = blank(1, 8)
    state = {"first": True}

    def start_wrong(tokens, logits):  # as if sampling had put the pair there
        if state.pop("first", False):
            tokens = tokens.clone()
            tokens[:, :2] = 7
        return tokens

    preset = CoRe(steps=8, candidates=2, revise=2, correct_every=4)
    result = run(preset, tokens=tokens, model=model, tokens_processor=start_wrong)
    assert result.tokens[0].tolist() == [3, 3, 5, 5, 5, 5, 5, 5]
    assert result.nfe.item() == 7  # six steps, for two tokens came of themselves, and one question
    with pytest.raises(ValueError, match="revise: expected between 1 and candidates = 2, got 3"):
        CoRe(steps=8, candidates=2, revise=3)


def test_history_masks_what_was_least_believed():
    result = run(HistoryRemasking(steps=10, numbers=((0.4, 0), (1.0, 3))), history={"current_logprob"})
    believed, noted = torch.zeros(2, 24), torch.zeros(2, 24)
    seen = 0
    for event in result.history:
        committed = event.before != MASK
        believed += torch.where(committed, event.scores["current_logprob"].exp().nan_to_num(), 0)
        noted += committed
        if event.remasked.any():
            seen += 1
            mean = believed / noted
            for row in range(2):
                kept = committed[row] & ~event.remasked[row]
                assert int(event.remasked[row].sum()) == min(3, int(committed[row].sum()))
                assert mean[row][event.remasked[row]].max() <= mean[row][kept].min() + 1e-6
        anew = event.committed | event.remasked
        believed, noted = believed.masked_fill(anew, 0), noted.masked_fill(anew, 0)
    assert seen >= 4
    assert result.complete(MASK).all()


def test_navira_fills_from_the_canvas_it_cleaned():
    seen = []

    def model(tokens, request):
        seen.append(tokens.clone())
        return Toy()(tokens, request)

    result = run(NAVIRA(steps=12, remask_count=3, remask_temperature=0.0), model=model, history={"quality"})
    assert result.complete(MASK).all()
    for event in result.history:
        assert not (event.committed.any() and event.remasked.any())
        for row in range(2):
            if event.remasked[row].any():
                kept = (event.before[row] != MASK) & ~event.remasked[row]
                quality = event.scores["quality"][row]
                assert quality[event.remasked[row]].max() <= quality[kept].min()
    assert 12 < int(result.nfe[0]) <= 24


def test_navira_draws_positions_by_their_quality():
    tokens = torch.full((4000, 8), MASK)

    def model(tokens, request):
        quality = torch.tensor([0.5, 0.25, 0.125] + [1.0] * 5).expand(tokens.shape[0], -1)
        order = torch.arange(8.0).neg()[:, None] * torch.ones(12)
        return Output(order.expand(tokens.shape[0], -1, -1) * torch.linspace(0.1, 1, 12), quality=quality)

    preset = NAVIRA(steps=8, remask_count=1, unmask="max_probability", remask_temperature=1.0)
    result = preset(model, tokens, mask_id=MASK, seed=3, history=True)
    event = result.history[6]  # three committed, one masked again: softmax(-log quality) = 2 : 4 : 8 over positions
    committed = event.before != MASK
    drawn = event.remasked & committed
    assert (drawn.sum(1) == 1).all()
    weight = torch.tensor([2.0, 4.0, 8.0] + [1.0] * 5) * committed
    expected = (weight / weight.sum(1, keepdim=True)).sum(0)
    chi2 = ((drawn.sum(0) - expected) ** 2 / expected.clamp(min=1e-9))[expected > 0].sum()
    assert chi2 < 25


def test_mdiff4str_commits_what_is_above_the_mean_up_to_the_end():
    result = run(MDiff4STR(eos_id=2), history={"confidence", "token"})
    assert (result.nfe <= 3).all()
    for event in result.history[:-1]:
        for row in range(2):
            proposals, confidence = event.scores["token"][row], event.scores["confidence"][row]
            ends = (proposals == 2).nonzero()
            last = int(ends[0]) if len(ends) else 24
            masked = (event.before[row] == MASK) & (torch.arange(24) <= last)
            assert not event.committed[row][last + 1 :].any()
            expected = masked & (confidence >= confidence[masked].mean())
            assert torch.equal(event.committed[row], expected)


def test_combined_reads_what_came_before_and_what_stands_around():
    def before(tokens):
        return (tokens + 1.0).cumsum(1)[..., None]

    def around(tokens):
        return (tokens + 1.0).sum(1, keepdim=True).expand(-1, tokens.shape[1])[..., None] - (tokens + 1.0)[..., None]

    seen = []

    def decoder(hidden):
        seen.append(hidden)
        return hidden @ torch.ones(2, 12) * torch.arange(12) / 100

    result = run(LLaDA(steps=3), model=Combined(before, around, decoder), tokens=blank(2, 6))
    assert seen[0][0, :, 0].tolist() == [0, 12, 24, 36, 48, 60]  # moved right: nothing comes before the first
    assert result.nfe.tolist() == [6, 6]
    with pytest.raises(TypeError, match="expected hidden states"):
        run(LLaDA(steps=3), model=Combined(before, lambda tokens: {}, decoder))


def test_edit_is_a_part_like_any_other():
    by_hand = Sampler(
        steps=1,
        plan=Edit(unmask=Unmask("confidence", Threshold(0.25, strict=True)), edit=Overwrite(0.2), post_steps=3),
        window=Blocks(6, until_filled=True, extra=3),
    )
    result = run(by_hand, history=True)
    assert result.complete(MASK).all()
    assert any(event.corrected.any() for event in result.history)


def test_a_shadow_stands_at_the_positions_of_its_block():
    """Counted from the first real token, as the block's own are."""
    seen = []

    def model(tokens, attention_mask, position_ids):
        seen.append((tokens.clone(), position_ids.clone()))
        return torch.zeros(*tokens.shape, 12)

    tokens = torch.tensor([[0, 0, 5, *[MASK] * 8], [7, 8, 5, *[MASK] * 8]])
    real = torch.tensor([[False, False, *[True] * 9], [True] * 11])
    WINO(block_length=4)(ShadowBlock(model), tokens, mask_id=MASK, attention_mask=real)
    canvas, positions = seen[0]
    assert (canvas[:, 11:] == MASK).all()
    assert positions[:, 11:].tolist() == [[1, 2, 3, 4], [3, 4, 5, 6]]
    assert positions[:, :11].tolist() == [[0, 0, *range(9)], [*range(11)]]
    assert seen[-1][1][:, 11:].tolist() == [[5, 6, 7, 8], [7, 8, 9, 10]]
