"""The law of the drop-ins' draws at temperatures above 0, against the closed forms of :mod:`draft_laws`."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from draft_laws import (
    MASK,
    T,
    V,
    any_order,
    at_once,
    by_confidence,
    by_threshold,
    corrected,
    dreams,
    dreams_origin,
    edited,
    exchanged,
    model,
    one_by_one,
    p,
    replanned,
    shifted,
)
from scipy import stats

from mdmcorrect.compat import d1, dinfer, dllm, dream, fast_dllm, llada, mmada, open_dllm, p2, prism, proseco, smdm
from mdmcorrect.ops import _by_address as by_address
from mdmcorrect.samplers import BlockProSeCo, EntropyBounded, LLaDA2, LLaDA21, Scoring

CHAINS, GIVEN, PAD = 20_000, 1, 9


def prompt(rows):
    return torch.full((rows, 1), GIVEN)


BLOCK = {"steps": 2, "block_length": 2, "temperature": T, "mask_id": MASK}
DREAM = {"max_new_tokens": 3, "steps": 2, "temperature": T, "mask_token_id": MASK}
TOKENIZER = SimpleNamespace(mask_token_id=MASK, bos_token_id=GIVEN, eos_token_id=GIVEN, pad_token_id=PAD)


def dllm_run(rows, seed):
    with_device = type("Model", (), {"device": torch.device("cpu"), "__call__": lambda self, *a, **k: model(*a, **k)})
    settings = {"max_new_tokens": 2, "block_size": 2, "steps": 2, "temperature": T, "seed": seed}
    return dllm.MDLMSampler(with_device(), TOKENIZER).sample([[GIVEN]] * rows, **settings)


def prism_run(rows, seed, **options):
    """Rows of one given token, two masks and one more block that a second given token fills."""
    tokens = torch.cat([prompt(rows), torch.full((rows, 2), PAD), prompt(rows)], 1)
    settings = dict(zip(("steps", "max_length", "model_type", "block_length"), (6, 4, "PRISM", 2), strict=True))
    settings |= {"unmasking": "prob_max", "remasking": True, "remasking_mode": "PRISM", "num_remasking": 1}

    def judged(canvas):
        return {"logits": model(canvas).logits, "remasking_conf": torch.zeros(canvas.shape)}

    tokenizer = SimpleNamespace(pad_token_id=PAD)
    settings |= {"temperature": T, "mask_id": MASK, "finish": True, "seed": seed, **options}
    return prism.llada_inference(judged, tokens, tokenizer, **settings)


def preset(sampler):
    def run(rows, seed):
        canvas = torch.cat([prompt(rows), torch.full((rows, 2), MASK)], 1)
        return sampler(model, canvas, mask_id=MASK, origin=1, seed=seed, history=False).tokens

    return run


def p2_run(rows, seed):
    xt = torch.cat([prompt(rows), torch.full((rows, 2), MASK)], 1)
    kappa = {1 / 3: 0.5, 2 / 3: 0.5}
    settings = {"tau": T, "kappa_fn": lambda t: kappa.get(t, t), "score_fn": p2.random_score, "seed": seed}
    return p2.p2_sampling(xt, lambda tokens: model(tokens).logits, MASK, 3, **settings)


def smdm_run(alg):
    settings = {"alg": alg, "steps": 2, "temperature": T, "cfg_scale": 0.0, "context_length": 3, "dim": MASK}
    return lambda rows, seed: smdm.diff_sample(
        lambda tokens: model(tokens).logits, None, prompt(rows), **settings, device="cpu", seed=seed
    )


def dinfer_run(rows, seed):
    torch.manual_seed(seed)
    x = torch.cat([prompt(rows), torch.full((rows, 2), MASK)], 1)
    decoder = dinfer.ThresholdParallelDecoder(T, 0.35, mask_id=MASK)
    while (x == MASK).any():
        decoder.decode(model(x).logits[:, 1:], 1, 3, x)
    return x


def with_dream(function, called, **settings):
    return lambda rows, seed: function(called, prompt(rows), **DREAM, **settings, seed=seed)


def with_blocks(function, **settings):
    return lambda rows, seed: function(model, prompt(rows), gen_length=2, **{**BLOCK, **settings}, seed=seed)


def first(run):
    return lambda rows, seed: run(rows, seed)[0]


CASES = {
    "llada": (with_blocks(llada.generate), by_confidence),
    "llada-random": (with_blocks(llada.generate, remasking="random"), any_order),
    "llada-one-step": (with_blocks(llada.generate, steps=1), at_once),
    "llada-fp32": (with_blocks(llada.generate, noise="fp32"), by_confidence),
    "d1": (with_blocks(d1.generate), by_confidence),
    "d1-fp32": (with_blocks(d1.generate, noise="fp32"), by_confidence),
    "mmada": (
        lambda rows, seed: mmada.mmu_generate(model, prompt(rows), max_new_tokens=2, **BLOCK, seed=seed),
        by_confidence,
    ),
    "dllm": (dllm_run, by_confidence),
    "fast-dllm": (first(with_blocks(fast_dllm.generate)), by_confidence),
    "fast-dllm-threshold": (first(with_blocks(fast_dllm.generate, threshold=0.35)), lambda: by_threshold(0.35)),
    "fast-dllm-factor": (first(with_blocks(fast_dllm.generate, factor=1.0)), at_once),
    "dream-origin": (with_dream(dream.diffusion_generate, shifted, alg="origin"), dreams_origin),
    "dream-maskgit": (
        with_dream(dream.diffusion_generate, shifted, alg="maskgit_plus"),
        lambda: dreams("maskgit_plus"),
    ),
    "dream-maskgit-drawn": (
        with_dream(dream.diffusion_generate, shifted, alg="maskgit_plus", alg_temp=0.3, top_k=2),
        lambda: dreams("maskgit_plus", 0.3, top_k=2),
    ),
    "dream-margin-drawn": (
        with_dream(dream.diffusion_generate, shifted, alg="topk_margin", alg_temp=0.2),
        lambda: dreams("topk_margin", 0.2),
    ),
    "dream-entropy": (with_dream(dream.diffusion_generate, shifted, alg="entropy"), lambda: dreams("entropy")),
    "dream-entropy-drawn": (
        with_dream(dream.diffusion_generate, shifted, alg="entropy", alg_temp=0.5),
        lambda: dreams("entropy", 0.5),
    ),
    "open-dllm": (
        with_dream(open_dllm.diffusion_generate, shifted, alg="maskgit_plus", alg_temp=0.3),
        lambda: dreams("maskgit_plus", 0.3),
    ),
    "smdm": (smdm_run("origin"), lambda: dreams_origin(1e-5)),
    "smdm-greedy": (smdm_run("greddy"), at_once),  # int(2 (1 - s / t)) is 0 before the last step
    "dinfer": (dinfer_run, lambda: by_threshold(0.35, masks=True)),
    "prism": (prism_run, exchanged),
    "prism-fp32": (lambda rows, seed: prism_run(rows, seed, noise="fp32"), exchanged),
    "proseco": (
        first(with_blocks(proseco.generate, max_corrector_steps_per_loop=1, apply_corrector_every_n_steps=1)),
        corrected,
    ),
    "proseco-preset": (
        preset(BlockProSeCo(steps=2, block_length=2, corrector_steps=1, correct_every=1, temperature=T)),
        corrected,
    ),
    "p2-random": (p2_run, replanned),
    "entropy-bounded": (
        preset(EntropyBounded(gamma=0.0, temperature=T)),
        lambda: one_by_one(lambda i, _: (p(i, MASK) * np.log(p(i, MASK))).sum()),
    ),
    "llada2": (
        preset(LLaDA2(steps=2, block_length=2, threshold=1.0, temperature=T)),
        lambda: one_by_one(lambda i, token: p(i, MASK, T)[token]),
    ),
    "llada21": (
        preset(LLaDA21(block_length=2, threshold=1.0, editing_threshold=0.4, post_steps=0, temperature=T)),
        lambda: edited(0.4),
    ),
}


def fits(tokens, law):
    """The smallest p-value of the two positions and of the pair."""
    assert law.sum() == pytest.approx(1)
    counts = np.bincount((tokens[:, 1] * V + tokens[:, 2]).numpy(), minlength=V * V)
    assert len(counts) == V * V  # no mask is left
    counts = counts.reshape(V, V)
    pairs = [(counts.flatten(), law.flatten()), (counts.sum(0), law.sum(0)), (counts.sum(1), law.sum(1))]
    values = []
    for seen, expected in pairs:
        assert seen[expected == 0].sum() == 0
        possible = expected > 0
        values.append(stats.chisquare(seen[possible], expected[possible] * seen.sum()).pvalue)
    return min(values)


@pytest.mark.parametrize("name", CASES)
def test_the_law(name):
    run, law = CASES[name]
    assert fits(run(CHAINS, 3), law()) > 1e-4


@pytest.mark.parametrize("name", [name for name in CASES if not name.endswith(("fp32", "dinfer"))])
def test_draws_shared_by_positions_and_steps_are_noticed(name, monkeypatch):
    score = Scoring.__call__

    def coupled(self, logits, *, positions, step, **options):
        return score(self, logits, positions=torch.zeros_like(positions), step=torch.zeros_like(step), **options)

    monkeypatch.setattr(Scoring, "__call__", coupled)
    monkeypatch.setattr(by_address, "library", None)  # which would not ask the class
    run, law = CASES[name]
    assert fits(run(CHAINS, 3), law()) < 1e-6


def test_the_laws_are_not_one_law():
    laws = {name: law() for name, (_, law) in CASES.items()}
    assert np.abs(laws["llada"] - laws["llada-random"]).max() > 0.02
    assert np.abs(laws["dream-maskgit"] - laws["dream-entropy"]).max() > 0.02
    assert np.abs(laws["prism"] - laws["llada"]).max() > 0.02
    assert np.abs(laws["proseco"] - laws["llada"]).max() > 0.02
    assert np.abs(laws["p2-random"] - laws["llada-random"]).max() > 0.005


class Uniform:
    """torch.rand of the largest float32 uniform for one id, and of 1/e, whose noise is 0, for the others."""

    def __init__(self, lucky):
        self.lucky = lucky

    def __call__(self, *size, generator=None, **options):
        drawn = torch.full(*size, 1 / np.e)
        drawn[..., self.lucky] = 1 - 2.0**-24
        return drawn


@pytest.mark.parametrize(("behind", "wins"), [(16.5, True), (16.7, False)])
def test_float32_noise_lifts_a_token_by_16_point_6_and_no_more(behind, wins, monkeypatch):
    logits = torch.tensor([behind, 0.0, -50.0, -50.0])
    monkeypatch.setattr(torch, "rand", Uniform(lucky=1))
    settings = {**BLOCK, "steps": 1, "temperature": 1.0, "gen_length": 2, "noise": "fp32"}
    answer = SimpleNamespace(logits=logits.expand(1, 3, 4))
    for generate in (llada.generate, d1.generate):
        tokens = generate(lambda *_, **__: answer, prompt(1), **settings)
        assert tokens[0, 1:].tolist() == [int(wins)] * 2


def test_float32_noise_has_a_stream_of_its_own():
    run = with_blocks(llada.generate, noise="fp32")
    assert torch.equal(run(50, 4), run(50, 4))
    assert not torch.equal(run(50, 4), run(50, 5))
    generators = [torch.Generator().manual_seed(4) for _ in range(2)]
    assert torch.equal(*(run(50, generator) for generator in generators))
    with pytest.raises(TypeError, match="seed: noise='fp32' draws all rows from one stream"):
        run(3, torch.arange(3))
    with pytest.raises(ValueError, match="noise: expected 'exact' or 'fp32', got 'fp8'"):
        llada.generate(model, prompt(1), gen_length=2, **BLOCK, noise="fp8")


def test_float32_noise_ranks_by_the_same_confidences():
    """With a suppressed end of sequence and one that is only committed last, in bfloat16."""
    logits = torch.zeros(1, 4, 126_400, dtype=torch.bfloat16)
    logits[..., 126_081], logits[..., 126_348] = 30.0, 31.0
    logits[:, 2, 126_348] = -30.0

    def answer(*_, **__):
        return SimpleNamespace(logits=logits)

    settings = {"steps": 3, "gen_length": 3, "block_length": 3, "temperature": 0.01, "confidence_eos_eot_inf": True}
    for noise in ("exact", "fp32"):
        tokens = llada.generate(answer, prompt(1), **settings, noise=noise, seed=1)
        assert tokens[0, 1:].tolist() == [126_348, 126_081, 126_348]
        tokens = llada.generate(answer, prompt(1), **settings, logits_eos_inf=True, noise=noise, seed=1)
        assert 126_081 not in tokens[0].tolist()
