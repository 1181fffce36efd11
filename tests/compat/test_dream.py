"""mdmcorrect.compat.dream against recorded runs of the original."""

from types import SimpleNamespace

import pytest
import torch
from hash_model import HashLM
from recorded import MASK, check, inputs_of, recorded

from mdmcorrect.adapters import RightShifted
from mdmcorrect.compat import dream
from mdmcorrect.samplers import Dream


@recorded("dream")
def test_generation_equals_the_recorded_run(case):
    settings = dict(case["kwargs"])
    settings["max_new_tokens"] = settings.pop("new")

    def run(model, ties):
        options = {"ties": ties, "quirks": {"batch_mean_counts", "rounded_nucleus"}}
        return dream.diffusion_generate(model, **inputs_of(case), **settings, mask_token_id=MASK, **options), None

    check(case, run)


SPEC = {"V": 97, "mask_id": MASK, "dtype": "float32", "scale": 14.0}
SETTINGS = {"max_new_tokens": 12, "steps": 6, "mask_token_id": MASK, "alg": "entropy"}
PROMPTS = torch.tensor([[5, MASK, MASK, MASK, MASK, 7], [1, 2, 3, 4, 5, 6]])


def test_rows_of_unequal_masks_are_all_filled():
    tokens = dream.diffusion_generate(HashLM(SPEC), PROMPTS, **SETTINGS)
    assert (tokens != MASK).all()
    alone = [dream.diffusion_generate(HashLM(SPEC), row[None], **SETTINGS) for row in PROMPTS]
    assert torch.equal(tokens, torch.cat(alone))
    mean = dream.diffusion_generate(HashLM(SPEC), PROMPTS, **SETTINGS, quirks="upstream")
    assert (mean == MASK).any()


@pytest.mark.parametrize("alg", ["origin", "maskgit_plus", "topk_margin", "entropy"])
def test_every_algorithm_fills_the_canvas_and_draws_from_torch(alg):
    runs = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        settings = {**SETTINGS, "alg": alg, "alg_temp": 0.5, "temperature": 0.8, "top_p": 0.9, "top_k": 8}
        runs.append(dream.diffusion_generate(HashLM(SPEC), PROMPTS, **settings))
        assert (runs[-1] != MASK).all()
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


def test_hooks_see_every_step_and_may_rewrite_it():
    seen = []

    def tokens_hook(step, x, logits):
        seen.append((step, None if logits is None else tuple(logits.shape)))
        x = x.clone()
        x[:, 7] = 42
        return x

    def logits_hook(step, x, logits):
        seen.append(step)
        logits[..., 3] = 50.0
        return logits

    tokens = dream.diffusion_generate(
        HashLM(SPEC),
        PROMPTS[1:],
        **SETTINGS,
        generation_tokens_hook_func=tokens_hook,
        generation_logits_hook_func=logits_hook,
    )
    assert seen[:3] == [(None, None), 0, (0, (1, 18, 97))]
    assert seen[-1][0] == 5
    assert tokens[0, 7] == 42
    assert (tokens[0, 8:] == 3).all()


def test_configuration_sequences_and_history():
    model = HashLM(SPEC)
    model.generation_config = SimpleNamespace(mask_token_id=MASK, steps=4, alg="entropy")
    config = SimpleNamespace(max_length=10, num_return_sequences=2, return_dict_in_generate=True, output_history=True)
    output = dream.diffusion_generate(model, PROMPTS, config)
    assert output.sequences.shape == (4, 10)
    assert len(output.history) == 4
    assert torch.equal(output.history[-1], output.sequences)
    assert torch.equal(output.sequences[0], output.sequences[1])

    class Mixed(dream.DreamGenerationMixin, HashLM):
        pass

    assert Mixed(SPEC).diffusion_generate(PROMPTS, **SETTINGS).shape == (2, 18)
    with pytest.raises(TypeError, match=r"got \['stepz'\]"):
        dream.diffusion_generate(model, PROMPTS, stepz=3)
    with pytest.raises(ValueError, match="max_length: expected more than the prompt's 6 tokens, got 6"):
        dream.diffusion_generate(model, PROMPTS, max_length=6)
    model.generation_config.mask_token_id = model.config.mask_token_id = None
    with pytest.raises(ValueError, match="mask_token_id"):
        dream.diffusion_generate(model, PROMPTS)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("top_p", [None, 0.8])
def test_sample_tokens_gives_the_confidences_of_plain_torch(dtype, top_p):
    logits = (torch.randn(40, 30, generator=torch.Generator().manual_seed(0)) * 3).to(dtype)
    filtered = logits
    if top_p:
        order = logits.float().softmax(-1).sort(-1, descending=True)
        outside = order.values.cumsum(-1) - order.values > top_p
        filtered = logits.masked_fill(torch.zeros_like(outside).scatter(-1, order.indices, outside), -torch.inf)
    p = filtered.float().softmax(-1)
    best, second = p.topk(2, -1).values.T
    tolerance = {"rtol": 2e-2, "atol": 2e-2} if dtype == torch.bfloat16 else {"rtol": 1e-5, "atol": 1e-6}
    for flags, expected in (
        ({}, best),
        ({"margin_confidence": True}, best - second),
        ({"neg_entropy": True}, (p * (p + 1e-10).log()).sum(-1)),
    ):
        confidence, x0 = dream.sample_tokens(logits, top_p=top_p, **flags)
        assert confidence.dtype == dtype
        torch.testing.assert_close(confidence.float(), expected, **tolerance)
        assert torch.equal(x0, p.argmax(-1))


@pytest.mark.parametrize("alg", ["origin", "maskgit_plus"])
@pytest.mark.parametrize("filters", [{}, {"top_p": 0.9}, {"top_k": 5}, {"top_p": 0.9, "top_k": 5}])
def test_settings_that_go_together_are_the_presets(alg, filters):
    settings = {**SETTINGS, "alg": alg, "temperature": 0.7, **filters}
    tokens = dream.diffusion_generate(HashLM(SPEC), PROMPTS, **settings, seed=3)
    canvas = torch.nn.functional.pad(PROMPTS, (0, 12), value=MASK)
    preset = Dream(steps=6, alg=alg, temperature=0.7, **filters)
    expected = preset(RightShifted(lambda tokens: HashLM(SPEC)(tokens).logits), canvas, mask_id=MASK, seed=3)
    assert torch.equal(tokens, expected.tokens)
