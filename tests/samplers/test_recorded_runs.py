"""Block presets against recorded runs of the published code on a hash model; each entry names repo, commit, path."""

import json
from pathlib import Path

import pytest
import torch
from hash_model import integer_hash_logits, integer_hash_quality

from mdmcorrect.samplers import BlockPRISM, BlockProSeCo, LLaDA

RUNS = json.loads((Path(__file__).parent / "data" / "recorded_runs.json").read_text())


def llada(case):
    kwargs = case["kwargs"]
    return LLaDA(
        steps=kwargs["steps"],
        block_length=kwargs["block_length"],
        remasking=kwargs.get("remasking", "low_confidence"),
        temperature=kwargs["temperature"],
    )


def prism(case):
    kwargs = case["kwargs"]
    return BlockPRISM(
        steps=kwargs["steps"],
        block_length=kwargs["block_length"],
        remask_count=kwargs["num_remasking"],
        remask="quality" if kwargs["remasking"] else None,
        temperature=kwargs["temperature"],
        finish=False,  # the released code leaves positions masked in the last steps of a block
    )


def proseco(case):
    kwargs = case["kwargs"]
    return BlockProSeCo(
        steps=kwargs["steps"],
        block_length=kwargs["block_length"],
        corrector_steps=kwargs["max_corrector_steps_per_loop"],
        correct_every=kwargs["apply_corrector_every_n_steps"],
        threshold=kwargs["threshold"],
        temperature=kwargs["temperature"],
    )


PRESETS = {"ML-GSAI/LLaDA": llada, "SeunggeunKimkr/PRISM": prism, "kuleshov-group/proseco": proseco}
CASES = [
    pytest.param(run["repo"], case, id=f"{run['repo'].split('/')[1]}-{case['name']}")
    for run in RUNS
    for case in run["cases"]
]


@pytest.mark.parametrize(("repo", "case"), CASES)
def test_equals_the_recorded_run(repo, case):
    kwargs, spec = case["kwargs"], dict(case["model"])
    spec["dtype"] = getattr(torch, spec["dtype"])
    mask_id, prompt = spec["mask_id"], torch.tensor(case["inputs"]["prompt"])
    options = {}
    if "max_length" in kwargs:  # prompts come right-padded with 0 up to the canvas
        tokens = torch.where(prompt == 0, mask_id, prompt)
        tokens = torch.nn.functional.pad(tokens, (0, kwargs["max_length"] - tokens.shape[1]), value=mask_id)
    else:
        tokens = torch.nn.functional.pad(prompt, (0, kwargs["gen_length"]), value=mask_id)
    if "attention_mask" in case["inputs"]:
        attention_mask = torch.tensor(case["inputs"]["attention_mask"])
        options["attention_mask"] = torch.nn.functional.pad(attention_mask, (0, kwargs["gen_length"]), value=1)

    def model(tokens, attention_mask=None):
        visible = torch.ones_like(tokens) if attention_mask is None else attention_mask.long()
        logits = integer_hash_logits(tokens, visible, **spec)
        return {"logits": logits, "quality": integer_hash_quality(tokens)}

    result = PRESETS[repo](case)(model, tokens, mask_id=mask_id, history=False, **options)
    assert result.tokens.tolist() in (case["output"], case.get("output_low"))
    assert result.calls == case["nfe"]
