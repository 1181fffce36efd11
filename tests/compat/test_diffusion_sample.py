"""The small models' samplers of ddg and ProSeCo: the law of whole runs against counts of runs of the originals."""

import json
from types import MethodType, SimpleNamespace

import numpy as np
import pytest
import torch
from recorded import DATA
from scipy import stats
from toy_diffusion import MASK, Judge, Toy, V

from mdmcorrect import compat
from mdmcorrect.compat import discrete_diffusion_guidance, proseco_diffusion

MODULES = {"discrete_diffusion_guidance": discrete_diffusion_guidance, "proseco_diffusion": proseco_diffusion}
RUNS = 8_000


def diffusion(module, rows, **settings):
    """The toy with the drop-in's methods, and the originals' plain steps where those are not replaced."""
    if isinstance(settings.get("guidance"), dict):
        settings["guidance"] = SimpleNamespace(**settings["guidance"])
    toy = Toy(rows, **settings)
    for name, method in module.REPLACES.items():
        if "." in name:
            setattr(toy, name.split(".")[1], MethodType(method, toy))
    return toy


def cases(name):
    runs = json.loads((DATA / f"{name}.json").read_text())["cases"]
    return [pytest.param(name, case, id=f"{name}/{case['name']}") for case in runs]


@pytest.mark.parametrize(("name", "case"), cases("discrete_diffusion_guidance") + cases("proseco_diffusion"))
def test_a_run_has_the_law_of_the_original(name, case):
    torch.manual_seed(5)
    method = case["kind"].get("guidance", {}).get("method")
    toy = diffusion(MODULES[name], RUNS, sampling=case["sampling"], **case["kind"])
    cond = torch.ones(RUNS, dtype=torch.int64) if method == "cfg" else None
    answer = toy._diffusion_sample(classifier_model=Judge() if method in ("cbg", "nos") else None, cond=cond)
    if name == "proseco_diffusion":
        answer, forwards = answer
        assert forwards["total_NFEs"] == forwards["total_denoising_NFEs"] + forwards["total_corrector_NFEs"]
        assert forwards["total_NFEs"] <= case["nfe"]
    counts = np.bincount((answer[:, 0] * V + answer[:, 1]).numpy(), minlength=V * V)
    recorded = np.asarray(case["counts"])
    seen = counts + recorded > 0
    assert stats.chi2_contingency([counts[seen], recorded[seen]]).pvalue > 1e-4


def moment(t, s, rows):
    chances = {"move_chance_t": torch.full((rows, 1, 1), t), "move_chance_s": torch.full((rows, 1, 1), s)}
    return {"time_conditioning": torch.zeros(rows), **chances}


def posterior(toy, xt, t, s):
    q = toy.forward(xt, torch.zeros(len(xt))).exp() * (1 - s / t)
    q[..., MASK] = s / t
    return q


@pytest.mark.parametrize("use_approx", [False, True])
def test_a_classifiers_step_weighs_every_token_and_the_mask_by_its_class(use_approx):
    toy, judge = diffusion(discrete_diffusion_guidance, 1), Judge()
    xt = torch.tensor([[MASK, 1], [MASK, MASK], [0, 2]])
    how = {"conditioning_class": 1, "gamma": 1.5, "classifier_model": judge, "use_approx": use_approx}
    xs, probs, cache = toy._cbg_denoise(xt=xt, **how, **moment(0.8, 0.4, 3))
    expected = posterior(toy, xt, 0.8, 0.4)
    for row, column in (xt == MASK).nonzero().tolist():
        canvases = xt[row].repeat(V, 1)
        canvases[:, column] = torch.arange(V)
        by_class = judge.get_log_probs(canvases, torch.zeros(V))[:, 1]
        if use_approx:  # of log sigmoid(2 a), whose slope is 2 sigmoid(-2 a)
            scores = Judge.WEIGHT[column]
            by_class = by_class[MASK] + (scores - scores[MASK]) * 2 * (1 - by_class[MASK].exp())
        guided = expected[row, column] * (1.5 * by_class).exp()
        torch.testing.assert_close(probs[row, column], guided / guided.sum())
    assert torch.equal(xs[2], xt[2])
    torch.testing.assert_close(probs[2], torch.nn.functional.one_hot(xt[2], V).float())
    judge.rows = 0
    again = toy._cbg_denoise(xt=xt, **how, **moment(0.8, 0.4, 3), cache=cache)
    assert judge.rows == 0
    torch.testing.assert_close(again[1], probs)


def test_a_classifier_is_asked_about_masks_alone_and_never_about_too_much_at_once(monkeypatch):
    toy, judge = diffusion(proseco_diffusion, 1), Judge()
    xt = torch.tensor([[MASK, 1], [MASK, MASK], [0, 2]])
    how = {"conditioning_class": 0, "gamma": 1.0, "classifier_model": judge}
    whole = toy._cbg_denoise(xt=xt, **how, **moment(0.8, 0.4, 3))[1]
    assert judge.rows == 3 * V
    monkeypatch.setattr("mdmcorrect.compat._class_guidance._JUMPS", 5)
    torch.testing.assert_close(toy._cbg_denoise(xt=xt, **how, **moment(0.8, 0.4, 3))[1], whole)


def test_nos_without_steps_is_the_models_own_step_and_with_them_nearer_to_the_class():
    toy, judge = diffusion(discrete_diffusion_guidance, 1), Judge()
    xt = torch.tensor([[MASK, 1], [MASK, MASK], [0, 2]])
    how = {"conditioning_class": 1, "classifier_model": judge, "nos_step_size": 0.3, "xt": xt, **moment(0.8, 0.4, 3)}
    xs, plain, _ = toy._nos_denoise(num_nos_steps=0, nos_stability_coef=0.1, **how)
    open_ = xt == MASK
    torch.testing.assert_close(plain[open_], posterior(toy, xt, 0.8, 0.4)[open_])
    assert torch.equal(xs[~open_], xt[~open_])
    moved = toy._nos_denoise(num_nos_steps=4, nos_stability_coef=0.1, **how)[1]
    held = toy._nos_denoise(num_nos_steps=4, nos_stability_coef=100.0, **how)[1]
    assert (held - plain).abs().max() < (moved - plain).abs().max() / 2


def test_a_grid_of_t_times_begins_at_the_noise():
    torch.manual_seed(0)
    tokens, forwards = diffusion(proseco_diffusion, 50, T=4)._diffusion_sample()
    assert set(tokens.flatten().tolist()) == {0, 1, 2, MASK}
    assert forwards["total_NFEs"] == 3


def test_bad_settings_are_named_and_the_originals_methods_replaced():
    with pytest.raises(ValueError, match=r"guidance\.method: expected 'cfg', 'cbg' or 'nos', got 'cfgg'"):
        diffusion(proseco_diffusion, 2, guidance={"method": "cfgg"})._diffusion_sample()
    settings = {"corrector_steps": 1, "corrector_sampling": "best"}
    with pytest.raises(ValueError, match=r"sampling\.corrector_sampling: expected one of .* got 'best'"):
        diffusion(proseco_diffusion, 2, sampling=settings)._diffusion_sample()
    settings = {"corrector_steps": 1}
    nos = {"method": "nos", "condition": 1, "num_nos_steps": 0, "nos_step_size": 1.0, "nos_stability_coef": 1.0}
    with pytest.raises(ValueError, match=r"sampling\.corrector_steps: expected 0 with this guidance"):
        diffusion(proseco_diffusion, 2, sampling=settings, guidance=nos)._diffusion_sample(Judge())
    for name, drop_in in MODULES.items():
        module = type(torch)("diffusion")
        module.Diffusion = type("Diffusion", (), {"_cbg_denoise": lambda self: "theirs"})
        module._sample_categorical = lambda categorical_probs: "theirs"
        with compat.patch(name, module) as done:
            assert module.Diffusion._cbg_denoise is drop_in._cbg_denoise
        assert set(done.replaced) == {"diffusion._sample_categorical", "diffusion.Diffusion._cbg_denoise"}
