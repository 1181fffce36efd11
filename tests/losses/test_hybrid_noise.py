"""Masks and random tokens together: GIDD, SCDD and RemeDi against their formulas, written out with dense matrices."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mdmcorrect.heads import QualityHead, attach
from mdmcorrect.losses import (
    Confidence,
    Corruption,
    Denoise,
    Gidd,
    Given,
    Hybrid,
    Objective,
    Reader,
    Roles,
    Scdd,
    State,
    Term,
    WrongTokens,
)

V, MASK, B, L = 5, 2, 3, 4  # the mask in the middle: ids on both sides of it
K = V - 1
IDS = [v for v in range(V) if v != MASK]


def batch(noise: Corruption, t: Tensor, seed: int = 0) -> tuple[State, Tensor]:
    """A noisy batch and logits for it, float64."""
    generator = torch.Generator().manual_seed(seed)
    x0 = torch.tensor(IDS)[torch.randint(0, K, (B, L), generator=generator)]
    objective = Objective([Term(Given(), Denoise())], noise)
    state = objective.draw(x0, mask_id=MASK, t=t, generator=generator)
    return state, torch.randn(B, L, V, generator=generator, dtype=torch.float64)


def c_of(noise: Hybrid, t: float) -> float:
    a, b = noise.gamma * noise.t_peak, noise.gamma * (1 - noise.t_peak)
    top = noise.t_peak**a * (1 - noise.t_peak) ** b
    return noise.p_uniform / (1 - noise.p_uniform) / top * t**a * (1 - t) ** b


def law(noise: Hybrid, t: float) -> np.ndarray:
    """``q_t(z | x)``, ``[V, V]`` by x, z."""
    c = c_of(noise, t)
    dense = np.full((V, V), c / (1 + c) / K) + np.eye(V) * (1 - t) / (1 + c)
    dense[:, MASK] = t / (1 + c)
    dense[MASK] = np.eye(V)[MASK]
    return dense


def softmax(logits: np.ndarray) -> np.ndarray:
    logits = np.where(np.arange(V) == MASK, -np.inf, logits)
    exp = np.exp(logits - logits.max(-1, keepdims=True))
    return exp / exp.sum(-1, keepdims=True)


NOISES = {
    "gidd": Hybrid(vocab_size=V, p_uniform=0.2),
    "late, steep": Hybrid(vocab_size=V, p_uniform=0.4, gamma=1.7, t_peak=0.7),
}


@pytest.mark.parametrize("name", NOISES)
def test_noise_has_its_marginals(name):
    noise, rows = NOISES[name], 40_000
    x0 = torch.tensor(IDS).repeat(rows, 1)
    for t in (0.15, 0.5, 0.9):
        times, free = torch.full((rows,), t), torch.ones_like(x0, dtype=torch.bool)
        z = noise.noise(x0, times, mask_id=MASK, free=free, generator=torch.Generator().manual_seed(1))
        for column, x in enumerate(IDS):
            found = np.bincount(z[:, column], minlength=V) / rows
            assert found == pytest.approx(law(noise, t)[x], abs=5 * 0.5 / math.sqrt(rows))
    ratio = torch.linspace(0.01, 0.99, 99, dtype=torch.float64)
    peak = ratio[noise.ratio(ratio).argmax()].item()
    assert peak == pytest.approx(noise.t_peak, abs=0.011)
    share = noise.marginal(torch.tensor([noise.t_peak]))[1].item()
    assert share == pytest.approx(noise.p_uniform, rel=1e-5)
    h = 1e-6
    slope = (noise.ratio(ratio + h) - noise.ratio(ratio - h)) / (2 * h)
    torch.testing.assert_close(noise.slope(ratio), slope, rtol=1e-6, atol=1e-6)


def gidd_by_hand(noise: Hybrid, state: State, logits: Tensor, weighting: str) -> np.ndarray:
    x_theta, per_token = softmax(logits.numpy()), np.zeros((B, L))
    for b, i in np.ndindex(B, L):
        t, x, z = state.t[b].item(), state.x0[b, i].item(), state.z[b, i].item()
        dense, c = law(noise, t), c_of(noise, t)
        slope = (noise.gamma * noise.t_peak / t - noise.gamma * (1 - noise.t_peak) / (1 - t)) * c
        q, p = dense[x], x_theta[b, i] @ dense
        r = q[z] / p[z]
        if weighting == "dynamic":
            peak = 2**noise.gamma * noise.p_uniform / (1 - noise.p_uniform)
            w = 2 if z == MASK else 1
            w = peak / V * math.exp(noise.gamma / 2 / (1 + math.exp(t))) if z == x else w
        elif z == MASK:
            w = 1 / (t * (1 - t))
        elif z == x:
            w = (c + (1 - t) * slope) / K / ((1 - t) * (1 - t + c / K))
        else:
            w = (c + (1 - t) * slope) / ((1 - t) * c)
        w = w if weighting == "elbo" else min(w, 2)
        per_token[b, i] = w * ((q * np.log(q / p)).sum() + r - math.log(r) - 1)
    return per_token


@pytest.mark.parametrize("weighting", ["elbo", "clip", "dynamic"])
@pytest.mark.parametrize("name", NOISES)
def test_gidd_is_its_formula(name, weighting):
    noise = NOISES[name]
    for seed in range(3):
        state, logits = batch(noise, torch.tensor([0.2, 0.5, 0.8], dtype=torch.float64), seed)
        logits.requires_grad_()
        objective = Objective([Term(Given(), Gidd(weighting, normalizer="BL"))], noise)
        result = objective.from_outputs(state, logits)
        expected = gidd_by_hand(noise, state, logits.detach(), weighting)
        assert result.loss.item() == pytest.approx(expected.mean(), rel=1e-9)
        assert torch.autograd.gradcheck(lambda x: objective.from_outputs(state, x).loss, logits)  # noqa: B023


def gidds_bound(noise: Hybrid, data: np.ndarray, answer: Any) -> float:
    """Of one token: quadrature over t, all x and z; ``answer(law)`` gives ``x_theta [V, V]`` by z.

    t = u^2 (3 - 2 u), since the weights have roots at both ends.
    """
    nodes, weights = np.polynomial.legendre.leggauss(60)
    x0, z = torch.tensor(IDS).repeat_interleave(V)[:, None], torch.arange(V).repeat(K)[:, None]
    total = 0.0
    for u, weight in zip((nodes + 1) / 2, weights / 2, strict=True):
        node, weight = u**2 * (3 - 2 * u), weight * 6 * u * (1 - u)
        dense, t = law(noise, node), torch.full((V * K,), node, dtype=torch.float64)
        logits = torch.tensor(np.log(np.maximum(answer(dense), 1e-300))).repeat(K, 1)[:, None]
        chance = torch.tensor([data[x] * dense[x, v] for x in IDS for v in range(V)])
        rows = [
            Objective([Term(Given(), Gidd("elbo"))], noise)
            .from_outputs(State(x0[i : i + 1], z[i : i + 1], t[:1], MASK, Roles(), noise), logits[i : i + 1])
            .loss.item()
            for i in range(V * K)
        ]
        total += weight * (chance * torch.tensor(rows)).sum().item()
    return total


def test_gidds_bound_is_tight_where_the_model_leaves_the_token_out():
    """It equals the entropy for p(x_l | the other tokens), here the data's law; the posterior given z_l is worse.

    The bound takes the ratio of q_t(. | x_theta) at two tokens for that of the marginals, which is the one of the data,
    not of what is left of it beside z_l.
    """
    noise, data = Hybrid(vocab_size=V, p_uniform=0.3), np.array([0.5, 0.3, 0.0, 0.15, 0.05])
    entropy = -sum(p * math.log(p) for p in data if p)
    assert gidds_bound(noise, data, lambda dense: np.tile(data, (V, 1))) == pytest.approx(entropy, rel=2e-3)

    def posterior(dense: np.ndarray) -> np.ndarray:
        joint = data[:, None] * dense
        return (joint / np.maximum(joint.sum(0), 1e-300)).T

    assert gidds_bound(noise, data, posterior) > 1.2 * entropy


def steps(noise: Hybrid, t: float, s: float) -> np.ndarray:
    """The step of SCDD's chain from s to t, ``[V, V]`` by z_s, z_t: masks stay."""
    alpha_t, alpha_s = (1 - t) / (1 + c_of(noise, t)), (1 - s) / (1 + c_of(noise, s))
    beta_t, beta_s = (c_of(noise, u) / (1 + c_of(noise, u)) for u in (t, s))
    alpha = alpha_t / alpha_s
    beta = (alpha_t + beta_t) / (alpha_s + beta_s) - alpha
    dense = np.full((V, V), beta / K) + np.eye(V) * alpha
    dense[:, MASK] = 1 - alpha - beta
    dense[MASK] = np.eye(V)[MASK]
    return dense


@pytest.mark.parametrize("name", NOISES)
def test_scdd_is_the_divergence_of_its_chains_posteriors_up_to_what_no_model_changes(name):
    noise, t_steps = NOISES[name], 10
    times = torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64)
    state, logits = batch(noise, times)
    _, other = batch(noise, times, seed=9)
    for t in (0.2, 0.5, 0.9):  # the chain's steps make its marginals
        np.testing.assert_allclose(law(noise, t - 0.1) @ steps(noise, t, t - 0.1), law(noise, t), atol=1e-12)
    objective = Objective([Term(Given(), Scdd(t_steps, normalizer="BL"))], noise)
    ours, divergences, crossed = [], [], []
    for one in (logits, other):
        x_theta, divergence, cross = softmax(one.numpy()), np.zeros((B, L)), np.zeros((B, L))
        for b, i in np.ndindex(B, L):
            t, x, z = state.t[b].item(), state.x0[b, i].item(), state.z[b, i].item()
            s = t - 1 / t_steps
            step, before, after = steps(noise, t, s), law(noise, s), law(noise, t)
            q = step[:, z] * before[x] / after[x, z]
            p = step[:, z] * (x_theta[b, i] @ before) / (x_theta[b, i] @ after)[z]
            assert q.sum() == pytest.approx(1)
            assert p.sum() == pytest.approx(1)
            some = q > 0
            divergence[b, i] = (q[some] * np.log(q[some] / p[some])).sum()
            given = (x_theta[b, i] @ before) / (1 if z == MASK else (x_theta[b, i] @ after)[z])
            cross[b, i] = -sum(q[v] * math.log(given[v]) for v in IDS)
        ours.append(objective.from_outputs(state, one).loss.item())
        divergences.append(t_steps * divergence.mean())
        crossed.append(t_steps * cross.mean())
    assert ours == pytest.approx(crossed, rel=1e-9)
    assert ours[0] - ours[1] == pytest.approx(divergences[0] - divergences[1], rel=1e-8)
    logits.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: objective.from_outputs(state, x).loss, logits)


@pytest.mark.parametrize("target", [Gidd("elbo"), Gidd(), Scdd(1000)], ids=["bound", "dynamic", "scdd"])
@pytest.mark.parametrize("p_uniform", [0.0, 0.3])
def test_float32_is_finite_and_right_from_the_first_step_to_the_last(target, p_uniform):
    noise = Hybrid(vocab_size=V, p_uniform=p_uniform, steps=1000)
    objective = Objective([Term(Given(), target)], noise)
    for t in (0.001, 0.002, 0.5, 0.9999):
        state, logits = batch(noise, torch.full((B,), t, dtype=torch.float32))
        single = (4 * logits).float().requires_grad_()
        result = objective.from_outputs(state, single)
        result.loss.backward()
        assert single.grad.isfinite().all()
        whole = State(state.x0, state.z, state.t.double(), MASK, Roles(), noise)
        expected = objective.from_outputs(whole, single.detach().double()).loss
        assert result.loss.item() == pytest.approx(expected.item(), rel=1e-3, abs=1e-3)


def test_scdds_times_are_on_its_grid():
    noise = Hybrid(vocab_size=V, steps=4)
    times = noise.grid(torch.tensor([0.0, 0.249, 0.25, 0.999]))
    assert times.tolist() == pytest.approx([0.25, 0.25, 0.5, 1 - 1e-4])
    objective = Objective([Term(Given(), Scdd(4))], noise)
    state = objective.draw(torch.tensor(IDS).repeat(8, 1), mask_id=MASK)
    assert set((state.t * 4).round(decimals=2).tolist()) <= {1.0, 2.0, 3.0, 4.0}


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.norm, self.out = nn.Embedding(V, 8), nn.LayerNorm(8), nn.Linear(8, V)
        self.calls = 0

    def forward(self, tokens: Tensor) -> Tensor:
        self.calls += 1
        x = self.embed(tokens)
        return self.out(self.norm(x + x.mean(1, keepdim=True)))


@pytest.mark.parametrize("target", [Gidd(), Gidd("clip"), Scdd(100)])
def test_a_model_learns_and_fixed_tokens_stay(target):
    noise, net = Hybrid(vocab_size=V, p_uniform=0.2, t_min=0.05, steps=100), Net()
    x0 = torch.tensor(IDS).repeat(6, 2)
    fixed = torch.arange(8).expand(6, 8) < 3
    objective = Objective([Term(Given(), target)], noise)
    state = objective.draw(x0, mask_id=MASK, roles=Roles(fixed=fixed), generator=torch.Generator().manual_seed(0))
    assert torch.equal(state.z[:, :3], x0[:, :3])
    optimizer, losses = torch.optim.Adam(net.parameters(), 0.05), []
    for step in range(60):
        generator = torch.Generator().manual_seed(step % 4)
        loss = objective(net, x0, mask_id=MASK, roles=Roles(fixed=fixed), generator=generator).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert np.mean(losses[-8:]) < np.mean(losses[:8])


@pytest.mark.parametrize("target", [Gidd(), Scdd()])
def test_another_noise_is_refused(target):
    with pytest.raises(TypeError, match="corruption: expected Hybrid"):
        Objective([Term(Given(), target)])(Net(), torch.tensor([IDS]), mask_id=MASK)
    with pytest.raises(ValueError, match="vocab_size: expected a vocabulary"):
        Hybrid()


# ---- RemeDi ----


def test_wrong_tokens_are_as_many_as_said_and_never_right():
    noise, rows = WrongTokens(vocab_size=V, r=0.3), 40_000
    x0 = torch.tensor(IDS).repeat(rows, 1)
    for t in (0.2, 0.5):
        free = torch.ones_like(x0, dtype=torch.bool)
        z = noise.noise(x0, torch.full((rows,), t), mask_id=MASK, free=free, generator=torch.Generator().manual_seed(0))
        masked, wrong = (z == MASK).double().mean().item(), ((z != MASK) & (z != x0)).double().mean().item()
        assert masked == pytest.approx(t, abs=0.01)
        assert wrong == pytest.approx(4 * 0.3 * t * (1 - t) * (1 - t), abs=0.01)
        for column, x in enumerate(IDS):  # uniform over the others
            counts = np.bincount(z[:, column], minlength=V)
            others = [counts[v] for v in IDS if v != x]
            assert max(others) - min(others) < 6 * math.sqrt(sum(others) / 3) + 1


def test_remedis_two_terms_are_its_formula_and_one_forward():
    """A masked cross-entropy over B L with weight 1/t, and a BCE at every position whose label at masks is p(x0)."""
    net, head = Net(), QualityHead(8)
    with torch.no_grad():
        head.out.weight.normal_()
    model = attach(net, head, module="norm")
    noise = WrongTokens(vocab_size=V, r=0.4)
    x0 = torch.tensor(IDS).repeat(6, 2)
    terms = [Term(Given(), Denoise(normalizer="BL")), Term(Given(), Confidence("BL"), 0.5)]
    objective = Objective(terms, noise)
    result = objective(model, x0, mask_id=MASK, generator=torch.Generator().manual_seed(3))
    assert net.calls == 1
    state = objective.draw(x0, mask_id=MASK, generator=torch.Generator().manual_seed(3))
    out = model(state.z)
    p = softmax(out.logits.detach().double().numpy())
    right = np.take_along_axis(p, x0.numpy()[..., None], -1)[..., 0]
    masks, wrong = (state.z == MASK).numpy(), (state.z != MASK).numpy() & (state.z != x0).numpy()
    label = np.where(masks, right, np.where(wrong, 0.0, 1.0))
    g = out.quality.detach().double().numpy()
    bce = -(label * np.log(g) + (1 - label) * np.log1p(-g))
    ce = np.where(masks, -np.log(right) / state.t.numpy()[:, None], 0)
    assert wrong.any()
    assert result.loss.item() == pytest.approx(ce.mean() + 0.5 * bce.mean(), rel=1e-5)
    result.loss.backward()
    assert net.out.weight.grad.abs().sum() > 0
    assert head.out.weight.grad.abs().sum() > 0


def test_the_confidence_alone_leaves_a_frozen_backbone_alone():
    head = QualityHead(8)
    with torch.no_grad():
        head.out.weight.normal_()
    for model, options in (
        (attach(Net(), head, module="norm"), {}),
        (Net(), {"output_layer": Net().out, "head": head}),
    ):
        reader = Reader(train_backbone=False, **options)
        objective = Objective([Term(Given(), Confidence())], WrongTokens(vocab_size=V), reader)
        if options:
            model.out = nn.Identity()
        objective(model, torch.tensor([IDS] * 3), mask_id=MASK).loss.backward()
        assert {name for name, p in model.named_parameters() if p.grad is not None} <= {
            f"quality_head.{name}" for name, _ in head.named_parameters()
        }
        assert head.out.weight.grad.abs().sum() > 0
        head.zero_grad()


def test_the_label_at_masks_sends_no_gradient():
    state = State(torch.tensor([[0, 1]]), torch.tensor([[MASK, 1]]), torch.ones(1), MASK)
    logits: Any = torch.randn(1, 2, V, requires_grad=True)
    quality: Any = torch.zeros(1, 2, requires_grad=True)
    output = {"logits": logits, "quality_logit": quality}
    loss = Objective([Term(Given(), Confidence())], reader=Reader()).from_outputs(state, output).loss
    loss.backward()
    assert logits.grad is None
    label = torch.softmax(logits.detach().index_fill(-1, torch.tensor([MASK]), -torch.inf), -1)[0, 0, 0]
    assert quality.grad[0].tolist() == pytest.approx([(0.5 - label.item()) / 2, -0.25])
