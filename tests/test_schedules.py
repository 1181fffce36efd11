import math

import numpy as np
import pytest
import torch
from scipy import stats

from mdmcorrect.schedules import Cosine, Linear, LogLinear, get_schedule, sample_times

SCHEDULES = [Linear(), LogLinear(), LogLinear(eps=0.1), Cosine()]


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_weight_is_minus_alpha_derivative_over_mask_probability(schedule):
    t = torch.linspace(0.01, 0.99, 50, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(schedule.alpha(t).sum(), t)
    torch.testing.assert_close(schedule.weight(t), -slope / (1 - schedule.alpha(t)), rtol=1e-10, atol=0)
    torch.testing.assert_close(schedule.mask_probability(t), 1 - schedule.alpha(t), rtol=1e-12, atol=1e-15)


def test_ends():
    ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
    for schedule in (Linear(), Cosine()):
        torch.testing.assert_close(
            schedule.alpha(ends), torch.tensor([1.0, 0.0], dtype=torch.float64), atol=1e-15, rtol=0
        )
    torch.testing.assert_close(LogLinear().alpha(ends), torch.tensor([1.0, 1e-3], dtype=torch.float64))


def test_loglinear_weight_from_sigma_is_one_over_t_exactly():
    t = np.linspace(0.01, 1, 100)
    sigma, slope = -np.log1p(-0.999 * t), 0.999 / (1 - 0.999 * t)
    np.testing.assert_allclose(slope / np.expm1(sigma), 1 / t, rtol=1e-12)
    np.testing.assert_allclose(LogLinear().sigma(torch.from_numpy(t)).numpy(), sigma, rtol=1e-14)


def test_cosine_mask_probability_keeps_precision_near_zero():
    t = torch.tensor([1e-6])
    assert Cosine().mask_probability(t).item() == pytest.approx(math.pi / 2 * 1e-6, rel=1e-6)


def test_names_and_errors():
    assert get_schedule("linear") == Linear()
    assert get_schedule("loglinear") == LogLinear()
    own = Cosine()
    assert get_schedule(own) is own
    with pytest.raises(ValueError, match=r"schedule: expected one of .*'linear'.* got 'sqrt'"):
        get_schedule("sqrt")
    with pytest.raises(TypeError, match="schedule: expected a name"):
        get_schedule(3)
    with pytest.raises(ValueError, match="eps: expected"):
        LogLinear(eps=1.0)


@pytest.mark.parametrize("batch", [1, 7, 64])
def test_antithetic_times_take_one_from_each_slice(batch):
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        t = sample_times(batch, t_min=0.1, generator=generator, dtype=torch.float64)
        slices = ((t - 0.1) / 0.9 * batch).floor().long()
        assert torch.equal(slices, torch.arange(batch))


def test_independent_times_do_not():
    t = sample_times(64, t_min=0.0, antithetic=False, generator=torch.Generator().manual_seed(0))
    assert len(set((t * 64).floor().tolist())) < 60


@pytest.mark.parametrize("antithetic", [True, False])
def test_times_are_uniform_within_their_range(antithetic):
    generator = torch.Generator().manual_seed(1)
    draws = torch.cat(
        [
            sample_times(8, t_min=0.2, t_max=0.7, antithetic=antithetic, generator=generator, dtype=torch.float64)
            for _ in range(500)
        ]
    )
    assert draws.min() >= 0.2
    assert draws.max() < 0.7
    assert stats.kstest(draws.numpy(), "uniform", args=(0.2, 0.5)).pvalue > 1e-3


def test_antithetic_times_lower_the_variance_of_the_mean():
    generator = torch.Generator().manual_seed(2)
    means = {
        a: torch.stack([sample_times(16, antithetic=a, generator=generator).mean() for _ in range(400)])
        for a in (True, False)
    }
    # Stratified: 1 / (12 B^3); independent: 1 / (12 B).
    assert means[True].var() < 0.02 * means[False].var()


def test_times_are_reproducible_and_checked():
    first, second = (sample_times(5, generator=torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first, second)
    assert sample_times(0).shape == (0,)
    with pytest.raises(ValueError, match="batch: expected"):
        sample_times(-1)
    with pytest.raises(ValueError, match="t_min, t_max: expected"):
        sample_times(3, t_min=0.5, t_max=0.5)
