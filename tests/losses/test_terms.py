import numpy as np
import pytest
import torch
from scipy import stats

from mdmcorrect.losses import mask_tokens
from mdmcorrect.losses.terms import draw_tokens, normalize, without_mask
from mdmcorrect.schedules import Cosine, Linear


def test_normalizers_against_hand_sums():
    per_token = torch.tensor([[1.0, 2, 4], [8, 16, 32], [64, 128, 256]])
    scored = torch.tensor([[1, 1, 0], [1, 0, 0], [0, 0, 0]]).bool()
    assert normalize(per_token, scored, "token").item() == pytest.approx(11 / 3)
    assert normalize(per_token, scored, "BL").item() == pytest.approx(11 / 9)
    assert normalize(per_token, scored, "answer").item() == pytest.approx((3 / 2 + 8) / 2)
    for normalizer in ("token", "BL", "answer"):
        assert normalize(per_token, torch.zeros_like(scored), normalizer).item() == 0
    with pytest.raises(ValueError, match=r"normalizer: expected one of .*'BL'.* got 'mean'"):
        normalize(per_token, scored, "mean")


def test_without_mask_leaves_its_input_alone():
    logits = torch.zeros(2, 3, 4, dtype=torch.bfloat16)
    result = without_mask(logits, 1)
    assert result.dtype == torch.float32
    assert result[..., 1].eq(float("-inf")).all()
    assert logits.eq(0).all()
    assert without_mask(torch.zeros(1, 1, 2, dtype=torch.float64), 0).dtype == torch.float64


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_drawn_tokens_follow_the_softmax(temperature):
    scores = torch.tensor([2.0, 0.0, -1.0, float("-inf"), 1.0], dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    draws = draw_tokens(scores.expand(40_000, 5), temperature=temperature, generator=generator)
    counts = torch.bincount(draws, minlength=5).numpy()
    expected = torch.softmax(scores / temperature, -1).numpy() * len(draws)
    assert counts[3] == 0
    keep = expected > 0
    assert stats.chisquare(counts[keep], expected[keep]).pvalue > 1e-3


def test_nucleus_drops_the_token_that_crosses_and_keeps_the_first():
    probability = torch.tensor([0.1, 0.5, 0.15, 0.25], dtype=torch.float64)
    scores = probability.log().expand(5000, 4)
    generator = torch.Generator().manual_seed(0)
    for top_p, allowed in ((0.8, {1, 3}), (0.76, {1, 3}), (0.7, {1}), (0.2, {1}), (1.0, {0, 1, 2, 3})):
        assert set(draw_tokens(scores, top_p=top_p, generator=generator).tolist()) == allowed
    draws = draw_tokens(scores, top_p=0.8, generator=generator)
    assert stats.binomtest(int((draws == 1).sum()), len(draws), 0.5 / 0.75).pvalue > 1e-3


def test_draw_tokens_errors_and_argmax():
    scores = torch.tensor([[0.0, 3.0, 1.0]])
    assert draw_tokens(scores, temperature=0).tolist() == [1]
    with pytest.raises(ValueError, match="temperature: expected a number >= 0, got -1"):
        draw_tokens(scores, temperature=-1)
    with pytest.raises(ValueError, match="top_p: expected 0 < top_p <= 1, got 0"):
        draw_tokens(scores, top_p=0)


@pytest.mark.parametrize("schedule", [Linear(), Cosine()], ids=repr)
def test_mask_counts_follow_the_schedule_and_spare_fixed_tokens(schedule):
    length, t = 6, torch.full((20_000,), 0.4)
    x0 = torch.arange(length).expand(len(t), length)
    free = torch.ones_like(x0, dtype=torch.bool)
    free[:, 0] = False
    z = mask_tokens(x0, t, mask_id=9, schedule=schedule, free=free, generator=torch.Generator().manual_seed(0))
    assert torch.equal(z[:, 0], x0[:, 0])
    masked = z == 9
    assert torch.equal(z[~masked], x0[~masked])
    counts = torch.bincount(masked.sum(-1), minlength=length).numpy()
    law = stats.binom.pmf(np.arange(length), length - 1, schedule.mask_probability(t[:1]).item())
    assert stats.chisquare(counts, law * len(t)).pvalue > 1e-3
