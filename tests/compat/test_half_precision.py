"""What originals round in half precision, held by recorded scores and whole runs."""

from types import SimpleNamespace

import pytest
import torch
from hash_model import HashLM, integer_hash_logits
from recorded import MASK, recorded
from scipy import stats

from mdmcorrect.compat import dllm, dream, llada, open_dllm

TOKENIZER = SimpleNamespace(mask_token_id=MASK, eos_token_id=2, bos_token_id=1, pad_token_id=0)


@recorded("half_precision", "scores")
def test_scores_of_single_rows(case):
    spec = {**case["model"], "dtype": getattr(torch, case["model"]["dtype"])}
    logits = integer_hash_logits(torch.tensor([case["tokens"]]), **spec)
    function = {"dream": dream, "open_dllm": open_dllm}[case["function"]].sample_tokens
    confidence, token = function(logits[0], **case["kwargs"], quirks="rounded_nucleus")
    if case["function"] == "dream":  # in the logits' dtype, bit for bit
        assert confidence.double().tolist() == case["confidence"]
    else:
        torch.testing.assert_close(confidence.double(), torch.tensor(case["confidence"]).double(), rtol=1e-5, atol=1e-6)
    assert token.tolist() == case["token"]


def run(case):
    prompt, settings, program = torch.tensor(case["inputs"]), case["kwargs"], case["program"]
    model = HashLM(case["model"])
    if program == "llada":
        return llada.generate(model, prompt, mask_id=MASK, ties="torch", **settings)
    if program == "dream":
        options = {"mask_token_id": MASK, "ties": "torch", "quirks": "upstream"}
        return dream.diffusion_generate(model, prompt, **settings, **options)
    if program == "open_dllm":
        options = {"mask_token_id": MASK, "ties": "torch", "quirks": "upstream"}
        return open_dllm.diffusion_generate(model, prompt, **settings, **options)
    sampler = getattr(dllm, program.removeprefix("dllm."))(model, TOKENIZER)
    return sampler.sample(list(prompt), **settings, ties="torch")


@recorded("half_precision", "run")
def test_whole_runs(case):
    assert run(case).tolist() == case["output"]


def half(dtype):
    return torch.tensor([[-0.494140625, -2.703125, -3.390625], [2.390625, -0.84375, 0.373046875]], dtype=dtype)


def test_terms_of_the_entropy_are_rounded_one_by_one():
    confidence, _ = dream.sample_tokens(half(torch.bfloat16), neg_entropy=True)
    assert confidence.tolist() == [-0.49609375, -0.498046875]  # the exact ones round to -0.498 and -0.496
    confidence, _ = dream.sample_tokens(half(torch.float32), neg_entropy=True)
    assert confidence[0] < confidence[1]


def test_a_probability_of_zero_in_float16_counts_nothing():
    confidence, token = dream.sample_tokens(torch.tensor([[0.0, -40.0, -3.0]], dtype=torch.float16), neg_entropy=True)
    p = torch.tensor([0.0, -3.0]).softmax(-1)
    torch.testing.assert_close(confidence.float(), (p * p.log()).sum()[None], rtol=4e-3, atol=1e-3)
    assert token.tolist() == [0]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rows_that_admit_nothing_have_no_scores(dtype):
    logits = torch.zeros(3, 4, dtype=dtype)
    logits[1, 2] = torch.nan
    for name in ({}, {"margin_confidence": True}, {"neg_entropy": True}):
        confidence, token = dream.sample_tokens(logits, **name)
        assert token.tolist() == [0, -1, 0]
        assert confidence.isnan().tolist() == [False, True, False]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_draws_follow_logits_divided_in_their_own_dtype(dtype):
    """At temperature 0.3 bfloat16 rounds quotients so that chances differ by several percent."""
    logits = torch.tensor([3.015625, 2.984375, 0.5]).to(dtype)
    drawn = dream.sample_tokens(logits.expand(200_000, 3), temperature=0.3, seed=3)[1].bincount(minlength=3)
    chances = (logits / 0.3).double().softmax(-1)
    assert stats.chisquare(drawn.numpy(), (chances * 200_000).numpy()).pvalue > 1e-4
