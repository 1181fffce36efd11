"""compat.smdm: its two algorithms against plain statements of them, guidance, and a mask beyond the vocabulary."""

import numpy as np
import pytest
import torch
from hash_model import HashModel
from recorded import check, recorded
from scipy import stats

from mdmcorrect.compat.smdm import diff_sample

SPEC = {"V": 33, "mask_id": 32, "dtype": "float32", "scale": 12.0, "mask_logit": -30.0}


def sample(model, prompt, **options):
    settings = {"steps": 6, "temperature": 0.0, "cfg_scale": 0.0, "context_length": 20, "dim": 32, "device": "cpu"}
    return diff_sample(model, None, prompt, **settings | options)


def greedy(model, prompt, steps=6, length=20, eps=1e-5, flattened=True, scale=0.0):
    """The published rule, in words of tensors: per step, the most confident ``n (1 - s / t)`` masks, all at the end."""
    x = torch.full((len(prompt), length), 32)
    x[:, : prompt.shape[1]] = prompt
    times = torch.linspace(1, eps, steps + 1)
    for i in range(steps):
        logits = model(x)
        if scale:
            blank = x.clone()
            blank[:, : prompt.shape[1]] = 32
            blind = model(blank)
            logits = blind + (scale + 1) * (logits - blind)
        p = logits[..., :32].double().softmax(-1)
        best, token = p.max(-1)
        mask = x == 32
        for rows in [slice(None)] if flattened else [slice(b, b + 1) for b in range(len(x))]:
            number = int(mask[rows].sum() * (1 - times[i + 1] / times[i])) if i < steps - 1 else int(mask[rows].sum())
            keys = best[rows].masked_fill(~mask[rows], -1).flatten()
            chosen = keys.argsort(descending=True, stable=True)[:number]
            flat = x[rows].flatten()
            flat[chosen] = token[rows].flatten()[chosen]
            x[rows] = flat.reshape(x[rows].shape)
    return x


@recorded("smdm")
def test_equals_the_recorded_runs(case):
    def run(model, ties):
        prompt = torch.tensor(case["inputs"]["prompt"])
        return diff_sample(lambda tokens: model(tokens).logits, None, prompt, **case["kwargs"], flattened=True), None

    check(case, run)


def test_a_run_that_draws_nothing_leaves_torchs_generator():
    before = torch.manual_seed(4).get_state()
    sample(HashModel(SPEC), PROMPT, alg="greddy")
    assert torch.equal(torch.get_rng_state(), before)
    sample(HashModel(SPEC), PROMPT, alg="origin")
    assert not torch.equal(torch.get_rng_state(), before)


PROMPT = torch.tensor([[3, 9, 1], [30, 2, 2]])


@pytest.mark.parametrize("flattened", [False, True])
@pytest.mark.parametrize("scale", [0.0, 1.5])
def test_the_greedy_algorithm(flattened, scale):
    model = HashModel(SPEC)
    ours = sample(model, PROMPT, alg="greddy", flattened=flattened, cfg_scale=scale)
    assert torch.equal(ours, greedy(model, PROMPT, flattened=flattened, scale=scale))


def test_rows_are_their_own_unless_flattened():
    model = HashModel(SPEC)
    alone = torch.cat([sample(model, PROMPT[b : b + 1], alg="greddy") for b in range(2)])
    assert torch.equal(sample(model, PROMPT, alg="greddy"), alone)
    assert torch.equal(alone[:1], sample(model, PROMPT[:1], alg="greddy", flattened=True))


def test_the_original_algorithm_commits_at_its_rate_and_everything_at_the_end():
    seen = []

    def model(tokens):
        seen.append((tokens == 3).float().mean().item())
        return torch.zeros(*tokens.shape, 3)

    result = sample(model, None, batch_size=400, steps=4, temperature=1.0, context_length=50, dim=3)
    np.testing.assert_allclose(seen, [1, 0.75, 0.5, 0.25], atol=0.02)
    assert stats.chisquare(np.bincount(result.flatten().numpy(), minlength=3)).pvalue > 1e-4


def test_a_mask_beyond_the_vocabulary_and_guidance_of_two_forwards():
    calls = []

    def model(tokens):
        calls.append(len(tokens))
        return torch.nn.functional.one_hot((tokens[:, :1] + torch.arange(12)) % 5, 5).float() * 4

    result = sample(model, torch.tensor([[1], [2]]), alg="greddy", context_length=12, dim=5, cfg_scale=2.0, steps=3)
    assert calls == [4, 4, 4]
    assert (result < 5).all()
    with pytest.raises(NotImplementedError, match="beam"):
        sample(model, PROMPT, alg="beam")
