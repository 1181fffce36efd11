"""What a drop-in takes from torch's generator: nothing that neither it nor its original draws."""

from types import SimpleNamespace

import pytest
import torch
from hash_model import HashLM, integer_hash_quality
from recorded import MASK

from mdmcorrect.compat import d1, llada, p2, prism

SPEC = {"V": 97, "mask_id": MASK, "dtype": "float32", "scale": 14.0}
PROMPT = torch.tensor([[5, 6, 7], [1, 2, 3]])


class Judged(HashLM):
    def forward(self, input_ids, **options):
        quality = torch.logit(integer_hash_quality(input_ids))[..., None]
        return {"logits": super().forward(input_ids, **options).logits, "remasking_conf": quality}


def of_llada(model=None, **options):
    settings = {"steps": 4, "gen_length": 8, "block_length": 4, "mask_id": MASK}
    return llada.generate(model or HashLM(SPEC), PROMPT, **settings | options)


def of_d1(model=None, **options):
    settings = {"steps": 4, "gen_length": 8, "block_length": 4, "mask_id": MASK}
    return d1.generate(model or HashLM(SPEC), PROMPT, **settings | options)


def of_prism(model=None, temperature=0.0, remasking="low_confidence", **options):
    canvas = torch.nn.functional.pad(PROMPT, (0, 9), value=0)
    return prism.llada_inference(
        Judged(SPEC), canvas, SimpleNamespace(pad_token_id=0), 12, 12, "PRISM", 4,
        "random" if remasking == "random" else "prob_max", True, "PRISM", 1, temperature, MASK, **options,
    )  # fmt: skip


RUNS = {"llada": of_llada, "d1": of_d1, "prism": of_prism}


def drawn(call):
    """Whether torch's generator moved, and what the call returned."""
    before = torch.manual_seed(7).get_state()
    result = call()
    return not torch.equal(torch.get_rng_state(), before), result


@pytest.mark.parametrize("name", RUNS)
def test_a_run_without_draws_leaves_the_generator(name):
    for noise in ("exact", "fp32"):
        assert not drawn(lambda noise=noise: RUNS[name](noise=noise))[0]
        assert drawn(lambda noise=noise: RUNS[name](noise=noise, temperature=0.8))[0]
        assert drawn(lambda noise=noise: RUNS[name](noise=noise, remasking="random"))[0]


@pytest.mark.parametrize("name", RUNS)
def test_float32_noise_begins_where_the_generator_stands(name, monkeypatch):
    """A seed that only the engine would use is not drawn first."""
    seen, rand = [], torch.rand

    def watched(*size, **options):
        seen.append(torch.get_rng_state())
        return rand(*size, **options)

    monkeypatch.setattr(torch, "rand", watched)
    before = torch.manual_seed(7).get_state()
    RUNS[name](noise="fp32", temperature=0.8)
    assert torch.equal(seen[0], before)


@pytest.mark.parametrize("score_fn", [p2.logP, p2.random_score, p2.diff_top2])
@pytest.mark.parametrize("noise", ["exact", "truncated"])
def test_p2_draws_what_it_needs(score_fn, noise, monkeypatch):
    def run(tau):
        canvas = torch.nn.functional.pad(PROMPT, (0, 6), value=MASK)
        model = HashLM(SPEC)
        return p2.p2_sampling(canvas, lambda tokens: model(tokens).logits, MASK, 4, tau, score_fn=score_fn, noise=noise)

    assert drawn(lambda: run(0.0))[0] == (score_fn is p2.random_score)
    assert drawn(lambda: run(0.7))[0]
    if noise == "truncated" and score_fn is p2.logP:
        seen, uniform = [], torch.Tensor.uniform_

        def watched(self, *args, generator=None, **options):
            seen.append(torch.get_rng_state())
            return uniform(self, *args, generator=generator, **options)

        monkeypatch.setattr(torch.Tensor, "uniform_", watched)
        before = torch.manual_seed(7).get_state()
        run(0.7)
        assert torch.equal(seen[0], before)


def test_p2_plus_draws_what_it_needs():
    def run(tau):
        canvas = torch.nn.functional.pad(PROMPT, (0, 6), value=MASK)
        model = HashLM(SPEC)
        return p2.p2_plus_sampling(canvas, lambda tokens: model(tokens).logits, MASK, 3, tau)

    assert not drawn(lambda: run(0.0))[0]
    assert drawn(lambda: run(0.7))[0]
