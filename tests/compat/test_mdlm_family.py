"""compat.mdlm, remdm, bd3lms, sedd: the law of one draw and of one step against closed forms."""

import importlib
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import stats

from mdmcorrect import compat
from mdmcorrect.compat import bd3lms, mdlm, remdm, sedd

MASK = 4
CHAINS = 60_000
P = torch.tensor([[0.5, 0.3, 0.15, 0.05, 0.0], [0.1, 0.2, 0.3, 0.4, 0.0]], dtype=torch.float64)


def fits(counts, law):
    counts, law = np.asarray(counts, float), np.asarray(law, float)
    assert counts[law == 0].sum() == 0
    if (law > 0).sum() == 1:
        return True
    return stats.chisquare(counts[law > 0], law[law > 0] / law.sum() * counts.sum()).pvalue > 1e-4


def joint(x, V=MASK + 1):
    return np.bincount((x[:, -2] * V + x[:, -1]).numpy(), minlength=V * V).reshape(V, V)


def fits_both_ways(x, law):
    """Each position, and the two jointly."""
    counts, law = joint(x), np.asarray(law)
    return fits(counts.flatten(), law.flatten()) and all(fits(counts.sum(i), law.sum(i)) for i in (0, 1))


DRAWS = {
    "mdlm": mdlm._sample_categorical,
    "remdm": remdm._sample_categorical,
    "bd3lms": bd3lms._sample_categorical,
    "sedd": sedd.sample_categorical,
}


@pytest.mark.parametrize("noise", ["exact", "fp32"])
@pytest.mark.parametrize("name", DRAWS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_draws_have_the_categorical_law(name, dtype, noise):
    torch.manual_seed(3)
    probs = (P * torch.tensor([[3.0], [0.2]])).to(dtype).expand(CHAINS, 2, 5)  # unnormalised
    assert fits_both_ways(DRAWS[name](probs, noise=noise), np.outer(P[0], P[1]))


@pytest.mark.parametrize("noise", ["exact", "fp32"])
@pytest.mark.parametrize("name", DRAWS)
@pytest.mark.parametrize("below", [-1e-8, -0.3])
def test_a_negative_entry_is_never_drawn_and_changes_nothing(name, noise, below):
    torch.manual_seed(3)
    probs = torch.tensor([[0.1, 0.6, 0.3, below, 0.0], [below, 0.2, 2 * below, 0.5, 0.3]])
    law = np.outer(*probs.double().clamp(min=0).numpy())
    assert fits_both_ways(DRAWS[name](probs.expand(CHAINS, 2, 5), noise=noise), law / law.sum())


@pytest.mark.parametrize("step", [0.3, 1.5])
def test_sedds_euler_step_keeps_its_law(step):
    """``one_hot(x) + step * rate`` of an absorbing graph: below 0 at the mask once a step is long."""
    torch.manual_seed(5)
    rates = torch.tensor([0.3, 0.9, 0.1, 0.2])
    x = torch.tensor([MASK, 1])
    q = torch.zeros(2, 5)
    q[0, :4], q[0, MASK] = step * rates, 1 - step * rates.sum()
    q[1, 1] = 1.0
    assert (q[0, MASK] < 0) == (step > 1)
    law = q.clamp(min=0).double()
    drawn = sedd.sample_categorical(q.expand(CHAINS, 2, 5))
    assert fits_both_ways(drawn, np.outer(law[0] / law[0].sum(), torch.nn.functional.one_hot(x[1], 5)))


def test_draws_keep_the_shape_and_follow_the_seed():
    probs = torch.rand(3, 4, 2, 7)
    for shape in ((7,), (2, 7), (4, 2, 7), (3, 4, 2, 7)):
        assert mdlm._sample_categorical(probs[(0,) * (4 - len(shape))]).shape == shape[:-1]
    for noise in ("exact", "fp32"):
        assert torch.equal(*(sedd.sample_categorical(probs, noise=noise, seed=2) for _ in range(2)))
    torch.manual_seed(0)
    one = sedd.sample_categorical(probs.repeat(1, 9, 1, 1))
    torch.manual_seed(0)
    assert torch.equal(one, sedd.sample_categorical(probs.repeat(1, 9, 1, 1)))
    assert not torch.equal(one, sedd.sample_categorical(probs.repeat(1, 9, 1, 1)))
    assert mdlm._sample_categorical(torch.zeros(2, 3, 5)).tolist() == [[0] * 3] * 2  # as the argmax of zeros


@pytest.mark.parametrize(("behind", "wins"), [(16.5, True), (16.7, False)])
def test_under_fp32_noise_a_token_beats_the_mask_by_16_point_6_and_no_more(behind, wins, monkeypatch):
    def luckiest(shape, **options):  # the largest float32 uniform for token 0, noise 0 for the others
        u = torch.full(shape, 1 / np.e)
        u[..., 0] = 1 - 2.0**-24
        return u

    monkeypatch.setattr(torch, "rand", luckiest)
    t, dt = 0.5, 0.001
    share = (t - dt) / dt * np.exp(-behind)  # of the token, whose odds against the mask are e^-behind
    model = diffusion()
    model.forward = lambda x, sigma: torch.tensor([share, 1 - share, 0.0, 0.0, 0.0]).log().expand(*x.shape, 5)
    x, times = torch.full((1, 2), MASK), torch.full((1, 1), t)
    _, xs = mdlm._ddpm_caching_update(model, x, times, dt, noise="fp32")
    assert xs.tolist() == [[0 if wins else MASK] * 2]


def test_the_fp32_noise_loses_the_tail_and_the_exact_one_does_not():
    """Half the mass on 20,000 ids, and a mask at odds of a thousand to compete with, as in an ancestral step."""
    vocab, odds = 20_000, 1000.0
    probs = torch.full((vocab + 2,), 0.5 / vocab)
    probs[vocab], probs[vocab + 1] = 0.5, odds
    token = mdlm._sample_categorical(probs.expand(20_000, 1, vocab + 2), seed=11)
    assert stats.binomtest(int((token <= vocab).sum()), 20_000, 1 / (1 + odds)).pvalue > 1e-3
    assert stats.binomtest(int((token < vocab).sum()), 20_000, 0.5 / (1 + odds)).pvalue > 1e-3
    # A tail id must beat the mask by log(1000 * 40,000) = 17.5; float32 noise ends at 16.6.
    torch.manual_seed(11)
    drawn = [mdlm._sample_categorical(probs.expand(500, 1, vocab + 2), noise="fp32") for _ in range(8)]
    assert (torch.cat(drawn) >= vocab).all()


def row_law(state, step):
    """Product over two positions of the laws that `step(old, p)` gives."""
    return np.outer(*(step(old, P[i].numpy()) for i, old in enumerate(state)))


def diffusion(**sampling):
    """What the methods read of the original's class; the model's logits do not depend on the canvas."""
    settings = {"sampler": "mdlm", "nucleus_p": 1.0, "eta": 0.3, "t_on": 0.55, "t_off": 0.05, "alpha_on": 0.9}
    settings |= {"first_hitting": False, "kv_cache": False}

    def forward(x, sigma, **options):
        log_p = P.log().float().expand(len(x), 2, 5).clone()
        stands = (x[:, -2:] != MASK)[..., None]
        return torch.where(stands, torch.nn.functional.one_hot(x[:, -2:], 5).float().log(), log_p)

    def noise(t):
        return -torch.log1p(-t), torch.ones_like(t)

    return SimpleNamespace(
        config=SimpleNamespace(
            noise=SimpleNamespace(type="loglinear"), sampling=SimpleNamespace(**settings | sampling)
        ),
        forward=forward,
        noise=noise,
        mask_index=MASK,
        block_size=2,
        _sigma_from_p=lambda p: -torch.log1p(-p),
    )


def ancestral(alpha_t, alpha_s, sigma):
    gain = (alpha_s - (1 - sigma) * alpha_t) / (1 - alpha_t)

    def step(old, p):
        if old == MASK:
            return gain * p + (1 - gain) * np.eye(5)[MASK]
        return (1 - sigma) * np.eye(5)[old] + sigma * np.eye(5)[MASK]

    return step


@pytest.mark.parametrize("state", [(MASK, MASK), (1, MASK), (1, 3)])
def test_mdlm_steps(state):
    torch.manual_seed(1)
    x, t, s = torch.tensor(state).expand(CHAINS, 2), 0.8, 0.5
    law = row_law(state, ancestral(1 - t, 1 - s, 0.0))
    assert fits_both_ways(mdlm.posterior_step(P.log().float().expand(CHAINS, 2, 5), x, t, s, mask_id=MASK), law)
    times = torch.full((CHAINS, 1), t)
    for noise in ("exact", "fp32"):
        assert fits_both_ways(mdlm._ddpm_update(diffusion(), x, times, t - s, noise=noise), law)
        p_x0, xs = mdlm._ddpm_caching_update(diffusion(), x, times, t - s, noise=noise)
        assert fits_both_ways(xs, law)
    torch.testing.assert_close(p_x0, diffusion().forward(x, None).exp())
    again, _ = mdlm._ddpm_caching_update(SimpleNamespace(**vars(diffusion()) | {"forward": None}), x, times, 0.1, p_x0)
    assert again is p_x0


@pytest.mark.parametrize("state", [(MASK, MASK), (1, MASK), (1, 3)])
@pytest.mark.parametrize(
    ("sampler", "t", "s", "moment"),
    [
        ("mdlm", 0.8, 0.5, (0.2, 0.5, 0.0)),
        ("remdm-cap", 0.8, 0.5, (0.2, 0.5, 0.3)),
        ("remdm-cap", 0.2, 0.1, (0.8, 0.9, 0.125)),  # eta is beyond sigma_max
        ("remdm-rescale", 0.3, 0.2, (0.7, 0.8, 0.3 * 0.2 / 0.7)),
        ("forward-backward", 0.6, 0.5, (0.4, 0.5, 0.25)),
        ("remdm-loop", 0.5, 0.4, (0.9, 0.9, 0.1 / 0.9)),
        ("remdm-loop", 0.8, 0.7, (0.2 / 0.45 * 0.9, 0.3 / 0.45 * 0.9, 0.0)),
    ],
)
def test_remdm_steps(sampler, t, s, moment, state):
    torch.manual_seed(2)
    x, conf = torch.tensor(state).expand(CHAINS, 2), torch.full((CHAINS, 2), -torch.inf)
    model = diffusion(sampler=sampler)
    _, xs, after = remdm._ddpm_caching_update(model, x, torch.full((CHAINS, 1), t), t - s, conf=conf)
    assert fits_both_ways(xs, row_law(state, ancestral(*moment)))
    committed = (x == MASK) & (xs != MASK)
    if committed.any():
        expected = -P.float().expand(CHAINS, 2, 5).gather(2, xs[..., None])[..., 0][committed]
        torch.testing.assert_close(after[committed], expected)
    assert (after[~committed] == -torch.inf).all()


@pytest.mark.parametrize("state", [(MASK, MASK), (1, MASK), (1, 3)])
@pytest.mark.parametrize(
    ("t", "steps", "dt", "gain", "sigma"),
    [
        (1.0, 4, 0.25, 0.25, 0.0),
        (0.5, 100, 0.01, 0.1614214, 0.1414214),  # b = 10 / sqrt(2)
        (0.5, 10, 0.0330204, 0.5330204, 0.4669796),  # shortened: gain and sigma sum to 1
    ],
)
def test_remdm_dfm_steps(t, steps, dt, gain, sigma, state):
    torch.manual_seed(12)
    x, model = torch.tensor(state).expand(CHAINS, 2), diffusion(steps=steps)
    model.time_conditioning = True
    p_x0, xs, after = remdm._dfm_caching_update(model, x, torch.full((CHAINS, 1), t))
    assert p_x0 is None
    assert after == pytest.approx(t - dt, abs=1e-6)

    def step(old, p):
        stays, share = (np.eye(5)[MASK], gain) if old == MASK else (np.eye(5)[old], 1 - sigma)
        return share * p + (1 - share) * stays if old == MASK else share * stays + (1 - share) * np.eye(5)[MASK]

    assert fits_both_ways(xs, row_law(state, step))


def test_remdm_dfm_keeps_probabilities_while_nothing_changes():
    x, model = torch.tensor([[1, MASK]]), diffusion(steps=10**9)
    model.time_conditioning = False
    p_x0, xs, _ = remdm._dfm_caching_update(model, x, torch.full((1, 1), 0.5))
    assert torch.equal(xs, x)
    again, _, _ = remdm._dfm_caching_update(SimpleNamespace(**vars(model) | {"forward": None}), x, torch.ones(1), p_x0)
    assert again is p_x0
    model.time_conditioning = True
    assert remdm._dfm_caching_update(model, x, torch.full((1, 1), 0.5))[0] is None
    model.config.noise.type = "cosine"
    with pytest.raises(ValueError, match=r"noise\.type: expected 'loglinear', got 'cosine'"):
        remdm._dfm_caching_update(model, x, torch.ones(1))


def test_remdm_conf_shares_sigma_and_takes_any_dtype():
    torch.manual_seed(4)
    x = torch.tensor([1, 3]).expand(CHAINS, 2)
    for dtype in (torch.float32, torch.bfloat16):
        conf = torch.tensor([-0.25, -1.0]).to(dtype).expand(CHAINS, 2)
        _, xs, after = remdm._ddpm_caching_update(
            diffusion(sampler="remdm-conf"), x, torch.full((CHAINS,), 0.4), 0.1, conf=conf
        )
        share = np.exp([-0.25, -1.0])
        sigma = share / share.sum() * 0.5  # sigma_max is 0.3 / 0.6
        law = np.outer(*((1 - sigma[i]) * np.eye(5)[old] + sigma[i] * np.eye(5)[MASK] for i, old in enumerate((1, 3))))
        assert fits_both_ways(xs, law)
        assert after.dtype == dtype
        assert (after[xs == MASK] == -torch.inf).all()
    blank = torch.full((5, 2), MASK)
    _, xs, after = remdm._ddpm_caching_update(
        diffusion(sampler="remdm-conf"), blank, torch.ones(5), 1.0, conf=torch.full((5, 2), -torch.inf)
    )
    assert (xs != MASK).all()
    assert after.isfinite().all()
    with pytest.raises(ValueError, match="conf: sampler 'remdm-conf' needs the confidences"):
        remdm._ddpm_caching_update(diffusion(sampler="remdm-conf"), blank, torch.ones(5), 0.1)
    with pytest.raises(ValueError, match=r"sampling\.sampler: expected one of .* got 'dfm'"):
        remdm._ddpm_caching_update(diffusion(sampler="dfm"), blank, torch.ones(5), 0.1)


def test_remdm_nucleus_drops_the_token_that_crosses():
    x = torch.full((4000, 2), MASK)
    _, xs, conf = remdm._ddpm_caching_update(
        diffusion(nucleus_p=0.9), x, torch.ones(4000), 1.0, conf=torch.full((4000, 2), -torch.inf)
    )
    assert set(xs[:, 0].tolist()) == {0, 1}
    assert set(xs[:, 1].tolist()) == {1, 2, 3}  # 0.4, 0.3, 0.2 of 0.9
    torch.testing.assert_close(conf[:, 0][xs[:, 0] == 0][0], torch.tensor(-0.5 / 0.8))


@pytest.mark.parametrize("first_hitting", [False, True])
def test_bd3lms_steps_on_its_last_block(first_hitting):
    torch.manual_seed(6)
    context = torch.full((CHAINS, 3), 2)
    x = torch.cat([context, torch.full((CHAINS, 2), MASK)], 1)
    model = diffusion(first_hitting=first_hitting)
    model.noise = lambda t: (None, t)
    p_x0, xs = bd3lms._ddpm_caching_update(model, x, torch.full((CHAINS, 1), 0.8), 0.3)
    assert p_x0 is None
    assert torch.equal(xs[:, :3], context)
    if first_hitting:
        blank = np.eye(5)[MASK]
        law = 0.5 * np.outer(P[0], blank) + 0.5 * np.outer(blank, P[1])
    else:
        law = row_law((MASK, MASK), ancestral(0.2, 0.5, 0.0))
    assert fits_both_ways(xs, law)


def test_bd3lms_keeps_its_cache_when_nothing_changed_and_stores_a_finished_block():
    stored = []
    model = diffusion(kv_cache=True)
    forward = model.forward
    model.noise = lambda t: (None, t)

    def watched(x, sigma, sample_mode=False, store_kv=False):
        if store_kv:
            stored.append(x)
        return forward(x, sigma)

    model.forward = watched
    full = torch.tensor([[2, 2, 1, 3]])
    p_x0, xs = bd3lms._ddpm_caching_update(model, full, torch.tensor([[0.5]]), 0.1)
    assert p_x0 is not None
    assert torch.equal(xs, full)
    assert torch.equal(stored[0], full[:, 2:])


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="noise: expected 'exact' or 'fp32', got 'fp8'"):
        mdlm._sample_categorical(P, noise="fp8")
    with pytest.raises(ValueError, match="Method soft for sampling categorical variables is not valid"):
        sedd.sample_categorical(P, method="soft")
    with pytest.raises(TypeError, match="seed: noise='fp32' draws all rows from one stream"):
        mdlm._sample_categorical(P[None], noise="fp32", seed=torch.arange(1))
    model = diffusion()
    model.config.noise.type = "cosine"
    for step in (mdlm._ddpm_caching_update, remdm._ddpm_caching_update):
        with pytest.raises(ValueError, match=r"noise\.type: expected 'loglinear', got 'cosine'"):
            step(model, torch.zeros(1, 2, dtype=torch.int64), torch.ones(1), 0.1)


@pytest.mark.parametrize("name", ["mdlm", "remdm", "bd3lms", "sedd", "p2", "smdm", "maskgit", "diffusion_vs_ar"])
def test_every_drop_in_can_be_put_into_its_original(name):
    drop_in = importlib.import_module(f"mdmcorrect.compat.{name}")
    original = ModuleType(drop_in.MODULES[0])
    for path in drop_in.REPLACES:
        *owners, attribute = path.split(".")
        if owners and not hasattr(original, owners[0]):
            setattr(original, owners[0], type(owners[0], (), {}))
        setattr(getattr(original, owners[0]) if owners else original, attribute, lambda: "theirs")
    with compat.patch(name, original) as done:
        assert len(done.replaced) == len(drop_in.REPLACES)
        for path, ours in drop_in.REPLACES.items():
            *owners, attribute = path.split(".")
            assert vars(getattr(original, owners[0]) if owners else original)[attribute] is ours
    assert all(
        vars(getattr(original, path.split(".")[0]) if "." in path else original)[path.split(".")[-1]]() == "theirs"
        for path in drop_in.REPLACES
    )


@pytest.mark.parametrize(("top_p", "kept"), [(0.6, [1.0, 0.0]), (0.85, [0.625, 0.375]), (0.4, [1.0, 0.0])])
def test_the_nucleus_of_a_step_drops_the_token_that_crosses_it(top_p, kept):
    x = torch.full((CHAINS, 2), MASK)
    logits = P[0].log().float().expand(CHAINS, 2, 5)
    after = mdlm.posterior_step(logits, x, 0.5, 0.0, mask_id=MASK, top_p=top_p, seed=torch.arange(CHAINS))
    assert fits(np.bincount(after.flatten().numpy(), minlength=5), [*kept, 0, 0, 0])


def test_a_step_may_draw_at_another_temperature():
    x = torch.full((CHAINS, 2), MASK)
    logits = P[0].log().float().expand(CHAINS, 2, 5)
    after = mdlm.posterior_step(logits, x, 0.5, 0.0, mask_id=MASK, temperature=0.5, seed=torch.arange(CHAINS))
    assert fits(np.bincount(after.flatten().numpy(), minlength=5), P[0] ** 2)
