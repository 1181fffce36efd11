"""mdmcorrect.compat.llada against recorded runs of the original."""

import inspect
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hash_model import HashLM
from recorded import MASK, check, inputs_of, recorded

from mdmcorrect.compat import llada

SPEC = {"V": 97, "mask_id": MASK, "dtype": "float32", "scale": 14.0}


@recorded("llada", where=lambda case: "prompt" in case.get("inputs", ()))
def test_generate_equals_the_recorded_run(case):
    dtype = None if case["name"].startswith("4fc3cd2") else "logits"

    def run(model, ties):
        return llada.generate(model, **inputs_of(case), **case["kwargs"], ties=ties, confidence_dtype=dtype), None

    check(case, run)


@recorded("llada", where=lambda case: "mask_index" in case.get("inputs", ()))
def test_the_schedule_equals_the_recorded_one(case):
    assert llada.get_num_transfer_tokens(**inputs_of(case), steps=case["kwargs"]["steps"]).tolist() == case["output"]


@recorded("llada", where=lambda case: case.get("model", {}).get("V") == 97)
def test_the_quirks_change_nothing_where_nothing_is_wrong(case):
    dtype = None if case["name"].startswith("4fc3cd2") else "logits"

    def run(model, ties):
        options = {"ties": ties, "confidence_dtype": dtype, "quirks": "upstream"}
        return llada.generate(model, **inputs_of(case), **case["kwargs"], **options), None

    check(case, run)


def loves_the_mask(tokens, attention_mask=None):
    """A model that predicts the mask at every third column."""
    logits = HashLM(SPEC)(tokens).logits
    logits[:, ::3, MASK] = 30.0
    return SimpleNamespace(logits=logits)


def test_a_predicted_mask_is_overruled_or_left():
    prompt = torch.tensor([[5, 6, 7]])
    settings = {"steps": 8, "gen_length": 16, "block_length": 8, "mask_id": MASK}
    assert (llada.generate(loves_the_mask, prompt, **settings) != MASK).all()
    left = llada.generate(loves_the_mask, prompt, **settings, quirks={"unfilled_masks"})
    assert (left[:, 3:][:, ::3] == MASK).all()  # columns 3, 6, ...: predicted to be masks, and their quota is lost


def test_masks_in_the_prompt_are_filled_or_compete_for_the_first_block():
    prompt = torch.tensor([[5, MASK, MASK, 7]])
    settings = {"steps": 4, "gen_length": 8, "block_length": 4, "mask_id": MASK}
    assert (llada.generate(HashLM(SPEC), prompt, **settings) != MASK).all()
    left = llada.generate(HashLM(SPEC), prompt, **settings, quirks="upstream")
    assert int((left == MASK).sum()) == 2  # two positions' worth of quota went to the prompt


def test_guidance_needs_no_attention_mask():
    settings = {"steps": 8, "gen_length": 16, "block_length": 8, "mask_id": MASK, "cfg_scale": 1.5}
    prompt = torch.tensor([[5, 6, 7], [1, 2, 3]])
    with_mask = llada.generate(HashLM(SPEC), prompt, torch.ones_like(prompt), **settings)
    assert torch.equal(llada.generate(HashLM(SPEC), prompt, **settings), with_mask)
    unguided = llada.generate(HashLM(SPEC), prompt, **{**settings, "cfg_scale": 0.0})
    assert not torch.equal(unguided, with_mask)


def test_the_end_of_sequence_is_spared_by_temperature_only_upstream():
    scores = []
    for quirks in ((), {"eos_by_temperature"}):
        model = HashLM({"V": 126400, "mask_id": 126336, "dtype": "float32", "scale": 3.0, "boost": {126081: 14.0}})
        tokens = llada.generate(
            model,
            torch.tensor([[5, 6]]),
            steps=2,
            gen_length=6,
            block_length=6,
            temperature=0.01,
            confidence_eos_eot_inf=True,
            quirks=quirks,
            seed=3,
        )
        scores.append(tokens)
    assert (scores[0] == 126081).any()  # proposed all the same, only committed last


def test_both_orders_of_arguments():
    prompt = torch.tensor([[5, 6, 7]])
    new = llada.generate(HashLM(SPEC), prompt, None, 8, 16, 8, 0.0, 0.0, "low_confidence", MASK)
    earlier = llada.generate(HashLM(SPEC), prompt, 8, 16, 8, 0.0, 0.0, "low_confidence", MASK)
    mixed = llada.generate(HashLM(SPEC), prompt, 8, 16, block_length=8, mask_id=MASK)
    assert torch.equal(new, earlier)
    assert torch.equal(new, mixed)
    assert list(inspect.signature(llada.generate).parameters)[:5] == [
        "model", "prompt", "attention_mask", "steps", "gen_length",
    ]  # fmt: skip
    counted = llada.generate(HashLM(SPEC), prompt, np.int64(8), 16, 8, mask_id=MASK)  # a number, not a mask
    assert torch.equal(new, counted)
    with pytest.raises(TypeError, match=r"got \['steps'\] twice"):
        llada.generate(HashLM(SPEC), prompt, 8, 16, steps=8)


@recorded("llada", where=lambda case: case["name"].startswith("4fc3cd2"))
@pytest.mark.parametrize("is_mps", [True, False])
def test_the_version_for_apple_has_confidences_in_full_precision(case, is_mps):
    prompt, settings = inputs_of(case)["prompt"], case["kwargs"]
    order = ("steps", "gen_length", "block_length", "temperature", "cfg_scale", "remasking", "mask_id")
    defaults = {"temperature": 0.0, "cfg_scale": 0.0, "remasking": "low_confidence"}
    earlier = [{**defaults, **settings}[name] for name in order]
    named = llada.generate(HashLM(case["model"]), prompt, **settings, is_mps=is_mps)
    assert named.tolist() == case["output"]
    assert torch.equal(llada.generate(HashLM(case["model"]), prompt, *earlier, is_mps), named)
    with pytest.raises(TypeError, match="expected at most 8 arguments after prompt, got 9"):
        llada.generate(HashLM(case["model"]), prompt, *earlier, is_mps, 1)


def test_torch_seeds_the_draws():
    prompt = torch.tensor([[5, 6, 7]])
    settings = {"steps": 8, "gen_length": 16, "block_length": 8, "mask_id": MASK}
    runs = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        runs.append(llada.generate(HashLM(SPEC), prompt, **settings, temperature=1.0))
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])
    torch.manual_seed(1)
    before = torch.get_rng_state()
    llada.generate(HashLM(SPEC), prompt, **settings)
    assert torch.equal(torch.get_rng_state(), before)  # nothing is drawn at temperature 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"gen_length": 15}, "gen_length: expected a multiple of block_length = 8, got 15"),
        ({"steps": 7}, "steps: expected a multiple of the number of blocks = 2, got 7"),
        ({"remasking": "best"}, "remasking: expected 'low_confidence' or 'random', got 'best'"),
        ({"ties": "first"}, "ties: expected 'lowest' or 'torch', got 'first'"),
        ({"quirks": "all"}, r"quirks: expected some of .* or 'upstream', got \['all'\]"),
    ],
)
def test_settings_that_do_not_fit(settings, message):
    settings = {"steps": 8, "gen_length": 16, "block_length": 8, "mask_id": MASK, **settings}
    with pytest.raises(ValueError, match=message):
        llada.generate(HashLM(SPEC), torch.tensor([[5, 6, 7]]), **settings)
