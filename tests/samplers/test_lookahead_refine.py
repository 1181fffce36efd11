"""Info-Gain, Tolerator and DiffusionGemma's canvas, each against its rule written anew."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import stats
from toys import Toy

from mdmcorrect.compat.diffusion_gemma import EntropyBoundSampler, StableAndConfidentStoppingCriteria
from mdmcorrect.samplers import EntropyCanvas, InfoGain, Tolerator

MASK = 11


def blank(batch=2, length=12):
    return torch.full((batch, length), MASK)


def entropy(logits):
    return torch.distributions.Categorical(logits=logits.double()).entropy()


def plain(tokens):
    """Logits that depend on the whole canvas, the mask's left out."""
    context = tokens.sum(1, keepdim=True) + 3 * torch.arange(tokens.shape[1]) + tokens
    logits = torch.sin(context[..., None] * (torch.arange(12).float() + 1)) * 3
    return logits.masked_fill(torch.arange(12) == MASK, -1e9)


@pytest.mark.parametrize(("cost_weight", "cost"), [(1.0, "sum"), (0.0, "sum"), (0.5, "mean")])
def test_info_gain_commits_what_leaves_the_least_uncertainty(cost_weight, cost):
    """So many candidates that every single position is among them, and pairs never."""
    preset = InfoGain(steps=5, candidates=60, position_temperature=9.0, cost_weight=cost_weight, cost=cost)
    tokens = blank(3, 5)
    tokens[1, 2], tokens[2, 0] = 4, 7
    result = preset(plain, tokens, mask_id=MASK, seed=1, history=True)
    for event in result.history:
        for row in range(3):
            before = event.before[row]
            masks = (before == MASK).nonzero().flatten().tolist()
            if not event.committed[row].any() or len(masks) == 1:
                continue
            logits = plain(before[None])[0]
            values = []
            for position in masks:
                after = before.clone()
                after[position] = logits[position].argmax()
                left = entropy(plain(after[None])[0])[after == MASK].mean()
                values.append(-cost_weight * entropy(logits)[position] - left)
            best = masks[int(torch.stack(values).argmax())]
            assert event.committed[row].nonzero().flatten().tolist() == [best]


def test_info_gain_draws_its_candidates_by_confidence_and_pays_for_them():
    seen = []

    def model(tokens):
        seen.append(tokens)
        peaks = torch.tensor([2.0, 1.0, 0.5, 0.0])
        logits = torch.zeros(len(tokens), 4, 12)
        logits[..., 3] = peaks
        return logits

    result = InfoGain(steps=4, candidates=2, position_temperature=0.1)(model, blank(20_000, 4), mask_id=MASK, seed=3)
    confidence = np.exp([2, 1, 0.5, 0]) / (np.exp([2, 1, 0.5, 0]) + 10)
    law = np.exp(confidence / 0.1)
    assert (seen[1] != MASK).sum(0).tolist() == [20_000, 0, 0, 0]  # the first candidate is the surest position
    counts = (seen[2] != MASK).sum(0).numpy()
    assert counts.sum() == 20_000
    assert stats.chisquare(counts, law / law.sum() * 20_000).pvalue > 1e-4
    assert result.nfe.unique().tolist() == [3 + 3 + 3 + 1]  # the last step has no choice


def test_info_gain_of_one_candidate_is_llada():
    one = InfoGain(steps=6, candidates=1)(Toy(), blank(), mask_id=MASK)
    assert one.nfe.tolist() == [6, 6]
    assert one.seed is None or one.complete(MASK).all()


def test_tolerator_masks_the_share_that_the_authors_code_masks():
    seen = []

    def model(tokens):
        seen.append(tokens.clone())
        return plain(tokens)

    preset = Tolerator(steps=9, refine_steps=5, first_share=0.8, last_share=0.3)
    result = preset(model, blank(2, 24), mask_id=MASK, seed=1, history=True)
    masks = [int((tokens == MASK).sum(1).unique()) for tokens in seen]
    ratios = [0.3 + 0.5 * 0.5 * (1 + math.cos(math.pi * r / 4)) for r in range(5)]
    assert masks == [24, 18, 12, 6, *(24 - int(24 * (1 - ratio)) for ratio in ratios)]
    assert result.complete(MASK).all()
    assert result.nfe.tolist() == [9, 9]
    for before, after in zip(seen[4:], [*seen[5:], result.tokens], strict=True):
        filled = torch.where(before == MASK, plain(before).argmax(-1), before)
        assert ((after == filled) | (after == MASK)).all()  # all at once, and nothing else is touched


def test_tolerators_subsets_are_uniform_and_independent_of_what_stands():
    seen = []

    def model(tokens):
        seen.append(tokens)
        return torch.zeros(*tokens.shape, 12).index_fill(-1, torch.tensor([3]), 5.0)

    Tolerator(steps=3, refine_steps=2, first_share=0.5, last_share=0.5)(model, blank(12_000, 4), mask_id=MASK, seed=2)
    pairs = (seen[1] == MASK).long() @ torch.tensor([8, 4, 2, 1])
    counts = np.bincount(pairs.numpy(), minlength=16)
    assert counts[[3, 5, 6, 9, 10, 12]].sum() == 12_000  # two of four
    assert stats.chisquare(counts[[3, 5, 6, 9, 10, 12]]).pvalue > 1e-4
    both = np.bincount((pairs * 16 + (seen[2] == MASK).long() @ torch.tensor([8, 4, 2, 1])).numpy(), minlength=256)
    assert stats.chisquare(both[both > 0]).pvalue > 1e-4  # the second subset knows nothing of the first
    assert (both > 0).sum() == 36


def test_refining_needs_steps_of_its_own():
    with pytest.raises(ValueError, match="refine_steps: expected fewer than steps = 4, got 4"):
        Tolerator(steps=4, refine_steps=4)
    untouched = Tolerator(steps=4, refine_steps=0)(plain, blank(), mask_id=MASK)
    assert untouched.nfe.tolist() == [4, 4]


def smooth(tokens):
    """Logits that a canvas agrees with more and more the more of it is 5."""
    share = (tokens == 5).double().mean(1)[:, None, None]
    logits = torch.randn(tokens.shape[1], 12, generator=torch.Generator().manual_seed(2)).double() * 1.5
    logits = logits + torch.nn.functional.one_hot(torch.tensor(5), 12) * (4 + 9 * share)
    return logits.masked_fill(torch.arange(12) == MASK, -1e9).float()


def test_a_canvas_goes_as_transformers_classes_say():
    """What is accepted, what is drawn anew, and when a row stops."""
    preset = EntropyCanvas(vocab=12, steps=20, gamma=0.3, sure=0.02)
    tokens = blank(6, 10)
    tokens[:, 0] = torch.arange(6)
    result = preset(smooth, tokens, mask_id=MASK, seed=5, history={"token", "argmax"})
    first, *steps = result.history
    assert (first.tokens != MASK).all()
    assert torch.equal(first.tokens[:, 0], tokens[:, 0])
    sampler = EntropyBoundSampler(SimpleNamespace(entropy_bound=0.3), 9, 12, 20)
    stop = StableAndConfidentStoppingCriteria(1, 0.02)
    over = torch.zeros(6, dtype=torch.bool)
    for number, event in enumerate(steps, 1):
        logits = smooth(event.before)[:, 1:] / (0.4 + 0.4 * (21 - number) / 20)
        drawn, argmax = event.scores["token"][:, 1:], logits.argmax(-1)
        sampler.accept_canvas(event.before[:, 1:], drawn, logits, 21 - number)
        stopped = stop(argmax, logits)
        live = ~over
        assert torch.equal(live, event.live)
        going = live & ~stopped
        accepted = sampler.accepted_token_mask & going[:, None]
        assert torch.equal(event.tokens[:, 1:][accepted], drawn[accepted])
        assert torch.equal(event.tokens[:, 1:][live & stopped], argmax[live & stopped])
        assert (event.tokens != MASK).all()
        over = over | stopped
    assert over.all()
    assert len(steps) < 20
    assert result.nfe.tolist() == [int(event) for event in sum(e.live.long() for e in steps)]


def test_a_canvas_begins_and_goes_on_with_uniform_tokens():
    def model(tokens):
        return torch.zeros(*tokens.shape, 12)  # entropy log 11: of ten positions one is accepted

    preset = EntropyCanvas(vocab=12, steps=2, gamma=0.1)
    result = preset(model, torch.full((3000, 10), 4), mask_id=4, seed=4, history=True)
    first, second, last = result.history
    for tokens in (first.tokens, second.tokens[:, 1:]):
        counts = np.bincount(tokens.flatten().numpy(), minlength=12)
        assert counts[4] == 0
        assert stats.chisquare(np.delete(counts, 4)).pvalue > 1e-4
    pairs = np.bincount((first.tokens * 12 + second.tokens)[:, 1:].flatten().numpy(), minlength=144).reshape(12, 12)
    assert stats.chisquare(np.delete(np.delete(pairs, 4, 0), 4, 1).flatten()).pvalue > 1e-4
    assert (last.tokens == 0).all()  # the argmax, and not a draw
    assert result.nfe.unique().tolist() == [2]
    with pytest.raises(ValueError, match="vocab: expected"):
        EntropyCanvas(vocab=1)
    with pytest.raises(ValueError, match="high, low: expected positive temperatures"):
        EntropyCanvas(vocab=12, low=0.0)
