"""mdmcorrect.compat.proseco against recorded runs of the original."""

from types import SimpleNamespace

import pytest
import torch
from hash_model import HashLM
from recorded import MASK, check, inputs_of, recorded

from mdmcorrect.compat import proseco

SPEC = {"V": 97, "mask_id": MASK, "dtype": "float32", "scale": 12.0}
PROMPT = torch.tensor([[5, 9, 2], [1, 2, 3]])


@recorded("proseco")
def test_generation_equals_the_recorded_run(case):
    def run(model, ties):
        tokens, metrics, _ = proseco.generate(model, **inputs_of(case), **case["kwargs"], ties=ties)
        assert metrics["total_nfe"] == model.calls == metrics["predictor_nfe"] + metrics["corrector_nfe"]
        return tokens, None

    check(case, run)


@recorded("proseco", "head")
def test_defaults_ends_metrics_and_every_step_equal_the_recorded_run(case):
    tokenizer = None if case["eos"] is None else SimpleNamespace(eos_token_id=case["eos"])
    options = {"mask_id": MASK, "tokenizer": tokenizer, "save_intermediate_outputs": True, "ties": "torch"}
    tokens, metrics, steps = proseco.generate(HashLM(case["model"]), **inputs_of(case), **case["kwargs"], **options)
    assert tokens.tolist() == case["output"]
    assert {name: metrics[name] for name in case["metrics"]} == case["metrics"]
    assert metrics["nfe"] == metrics["predictor_nfe"]
    assert [[s["step"], s["applied_corrector"], s["output"].tolist()] for s in steps] == case["steps"]
    assert all(step["is_corrector"] == step["applied_corrector"] for step in steps)


def test_a_call_of_the_earlier_version_is_read_as_it_was_written():
    short = {"steps": 8, "gen_length": 8, "block_length": 8, "mask_id": MASK}
    tokens, metrics, _ = proseco.generate(HashLM(SPEC), PROMPT, **short, remasking_only_masked=True)
    assert metrics["corrector_nfe"] == 0
    assert metrics["nfe"] == 8
    with pytest.raises(ValueError, match="multiple of block_length = 128, got 8"):  # that version's default
        proseco.generate(HashLM(SPEC), PROMPT, 8, 8, remasking_only_masked=True)
    positional = (8, 8, 8, 0.0, "low_confidence", MASK, None, True)
    assert torch.equal(proseco.generate(HashLM(SPEC), PROMPT, *positional)[0], tokens)
    corrected = proseco.generate(HashLM(SPEC), PROMPT, *positional, 2, 4)
    named = {"max_corrector_steps_per_loop": 4, "apply_corrector_every_n_steps": 2}
    today = proseco.generate(HashLM(SPEC), PROMPT, **short, **named)
    assert torch.equal(corrected[0], today[0])
    assert corrected[1] == today[1]
    assert today[1]["corrector_nfe"] > 0
    assert proseco.generate(HashLM(SPEC), PROMPT, *positional[:-1], 4, 2)[1] == today[1]
    with pytest.raises(TypeError, match=r"got \['steps'\] twice"):
        proseco.generate(HashLM(SPEC), PROMPT, *positional, steps=8)
    with pytest.raises(TypeError, match="expected at most 14 arguments after prompt, got 15"):
        proseco.generate(HashLM(SPEC), PROMPT, *positional, *[1] * 7)
