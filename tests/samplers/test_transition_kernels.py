"""The law of whole runs over sequences against the papers' kernels, computed exactly, by G-tests that can fail."""

import functools
import itertools

import kernels
import numpy as np
import pytest
import torch
from scipy import stats

from mdmcorrect import rng
from mdmcorrect.ops import _by_address as by_address
from mdmcorrect.samplers import (
    DFM,
    MDLM,
    P2,
    FirstHitting,
    ForwardBackward,
    InformedCorrector,
    LearnedOrder,
    ProSeCo,
    ReMDM,
    Scoring,
)
from mdmcorrect.samplers import engine as engine_module

CHAINS, BATCH = 60_000, 60_000
# The laws that the papers state are held on a million chains; their relatives, which the same code runs, on fewer.
MILLION = ("mdlm", "remdm-cap", "first-hitting", "p2", "informed-confidence")


def g_test(counts, law):
    """p-value of the likelihood-ratio test of the observed counts; rare outcomes are taken together."""
    counts, expected = counts.flatten(), law.flatten() * counts.sum()
    assert law.sum() == pytest.approx(1)
    if (counts[expected < 1e-9] > 0).any():
        return 0.0
    rare = expected < 10
    counts, expected = (np.append(each[~rare], each[rare].sum() + 1e-12) for each in (counts, expected))
    return stats.power_divergence(counts, expected, lambda_="log-likelihood").pvalue


def model(tokens):
    return {"logits": kernels.exact_model(tokens), "quality": torch.tensor(kernels.WEIGHTS).expand(tokens.shape)}


def run(preset, middle, chains=CHAINS, seed=17):
    """Counts of the canvases after `middle` steps and at the end."""
    counts = 0
    for first in range(0, chains, BATCH):
        halfway = []

        def look(event, halfway=halfway):
            if event.index == middle - 1:
                halfway.append(event.tokens)

        tokens = torch.full((min(BATCH, chains - first), kernels.L), kernels.MASK)
        result = preset(model, tokens, mask_id=kernels.MASK, seed=seed + first, history=False, callback=look)
        counts = counts + kernels.path_counts(halfway[0], result.tokens)
    return counts


def nothing(t, s, alpha_t, alpha_s):
    return 0.0


def limit(t, s, alpha_t, alpha_s):
    return min(1.0, (1 - alpha_s) / alpha_t) if alpha_t > 0 else 1.0


def cap(eta):
    return lambda *moment: min(eta, limit(*moment))


def detour(scale, power):
    def sigma(t, s, alpha_t, alpha_s):
        if alpha_t == 0:
            return 0.0 if power else 1.0  # of committed positions there are none
        return min(scale * (t * (1 - t)) ** power * (alpha_s - alpha_t) / alpha_t, limit(t, s, alpha_t, alpha_s))

    return sigma


def plateau(t_on, t_off, alpha_on):
    def alpha(t):
        if t > t_on:
            return (1 - t) / (1 - t_on) * alpha_on
        return alpha_on if t > t_off else 1 - t / t_off * (1 - alpha_on)

    return alpha


def within(sigma, t_on, t_off):
    return lambda t, *rest: sigma(t, *rest) if t_off < t <= t_on else 0.0


LAWS = {
    "mdlm": (MDLM(steps=3), lambda: kernels.grid_kernels(3, nothing)),
    "mdlm-coarse": (MDLM(steps=2, eps=0.3), lambda: kernels.grid_kernels(2, nothing, eps=0.3)),
    "remdm-cap": (ReMDM(steps=4, eta=0.3), lambda: kernels.grid_kernels(4, cap(0.3))),
    "remdm-rescale": (
        ReMDM(steps=5, rule="rescale", eta=0.5),
        lambda: kernels.grid_kernels(5, lambda *moment: 0.5 * limit(*moment)),
    ),
    "remdm-switch": (
        ReMDM(steps=6, eta=0.6, t_on=0.7, t_off=0.2),
        lambda: kernels.grid_kernels(6, within(cap(0.6), 0.7, 0.2)),
    ),
    "remdm-loop": (
        ReMDM(steps=6, eta=0.3, t_on=0.7, t_off=0.2, alpha_on=0.6),
        lambda: kernels.grid_kernels(6, within(cap(0.3), 0.7, 0.2), alpha=plateau(0.7, 0.2, 0.6)),
    ),
    "forward-backward": (ForwardBackward(steps=5), lambda: kernels.grid_kernels(5, detour(1, 0))),
    "dfm": (DFM(steps=6, scale=2.0), lambda: kernels.grid_kernels(6, detour(2.0, 0.25))),
    "first-hitting": (FirstHitting(), lambda: [kernels.one_by_one_kernel()] * kernels.L),
    "p2": (P2(steps=3, eta=1.0), lambda: [kernels.pool_kernel(keep, 1.0) for keep in (1, 2, 3)]),
    "p2-eta": (P2(steps=4, eta=3.0), lambda: [kernels.pool_kernel(keep, 3.0) for keep in (1, 2, 3, 3)]),
    "proseco": (ProSeCo(steps=3), lambda: kernels.corrected_kernels(3)),
    "learned-order": (LearnedOrder(steps=3), lambda: [kernels.learned_order_kernel(kernels.WEIGHTS)] * kernels.L),
    "informed-confidence": (
        InformedCorrector(steps=2, count=2),
        lambda: kernels.grid_kernels(2, nothing, before=kernels.informed_kernel(2, 1.0, margin=False)),
    ),
    "informed-margin": (
        InformedCorrector(steps=3, by="margin", position_temperature=0.5),
        lambda: kernels.grid_kernels(3, nothing, before=kernels.informed_kernel(1, 0.5, margin=True)),
    ),
}


def middle_of(name):
    return 2 if name == "first-hitting" else (LAWS[name][0].steps + 1) // 2


@functools.cache
def law_of(name):
    return kernels.path_law(LAWS[name][1](), middle_of(name))


@functools.cache
def counts_of(name):
    return run(LAWS[name][0], middle_of(name), 1_000_000 if name in MILLION else CHAINS)


@pytest.mark.parametrize("name", LAWS)
def test_distribution_over_sequences(name):
    assert g_test(counts_of(name), law_of(name)) > 1e-4
    assert g_test(counts_of(name).sum(0), law_of(name).sum(0)) > 1e-4


def test_one_commit_per_forward_draws_from_the_joint_itself():
    full = [number for number, state in enumerate(kernels.STATES) if kernels.MASK not in state]
    np.testing.assert_allclose(law_of("first-hitting").sum(0)[full], kernels.JOINT.flatten(), atol=1e-12)


def test_every_two_samplers_can_be_told_apart():
    for one, other in itertools.permutations(LAWS, 2):
        assert g_test(counts_of(one), law_of(other)) < 1e-6, (one, other)


def test_bernoulli_draws_shared_by_all_steps_are_noticed(monkeypatch):
    """Each step alone has the right law, all together have not."""
    uniform = rng.uniform

    def without_step(seed, positions, step, *rest, **options):
        return uniform(seed, positions, torch.zeros_like(step), *rest, **options)

    monkeypatch.setattr(rng, "uniform", without_step)
    monkeypatch.setattr(engine_module, "plan_of", lambda engine: None)  # the parts' own draws
    assert g_test(run(LAWS["mdlm"][0], middle_of("mdlm")), law_of("mdlm")) < 1e-6


@pytest.mark.parametrize("name", ["mdlm", "remdm-cap", "first-hitting", "p2", "proseco", "informed-confidence"])
def test_token_draws_shared_by_all_positions_and_steps_are_noticed(name, monkeypatch):
    score = Scoring.__call__

    def coupled(self, logits, *, positions, step, **options):
        return score(self, logits, positions=torch.zeros_like(positions), step=torch.zeros_like(step), **options)

    monkeypatch.setattr(Scoring, "__call__", coupled)
    monkeypatch.setattr(by_address, "library", None)  # which would not ask the class
    assert g_test(run(LAWS[name][0], middle_of(name)), law_of(name)) < 1e-6
