"""mdmcorrect.compat.remdm_llada: runs of the original with every draw its most probable token, and the law of draws."""

from types import SimpleNamespace

import draft_laws
import pytest
import torch
from hash_model import HashLM
from recorded import inputs_of, recorded
from test_laws import fits, prompt

from mdmcorrect import compat
from mdmcorrect.compat import remdm_llada


def harness(model, mask_id=96, eos=2, **settings):
    return SimpleNamespace(model=model, mask_id=mask_id, tokenizer=SimpleNamespace(eos_token_id=eos), **settings)


@recorded("remdm_llada")
def test_positions_equal_the_recorded_run(case, monkeypatch):
    propose = remdm_llada.propose
    monkeypatch.setattr(remdm_llada, "propose", lambda *args, **given: propose(*args, **{**given, "temperature": 0.0}))
    settings, model = dict(case["kwargs"]), HashLM(case["model"])
    sample = getattr(remdm_llada, settings.pop("function"))
    assert sample(harness(model, **settings), **inputs_of(case)).tolist() == case["output"]
    assert model.calls <= case["nfe"]


def cooled(tokens):
    return SimpleNamespace(logits=draft_laws.model(tokens).logits / draft_laws.T)


def probability(position, token):
    return (draft_laws.TABLE[position, draft_laws.MASK].double() / draft_laws.T).softmax(-1)[token].item()


@pytest.mark.parametrize(("name", "steps"), [("conf", 2), ("remdm", 2), ("remdm", 1)])
def test_the_law(name, steps):
    """Exchanged or not, the surer of two drafts stands and the other is drawn given it."""
    settings = {"mask_length": 2, "block_size": 2, "sampling_steps": steps, "remdm_number": 1}
    sample = getattr(remdm_llada, f"llada_{name}_sample")
    tokens = sample(harness(cooled, draft_laws.MASK, -1, **settings), prompt(20_000), seed=3)
    assert fits(tokens, draft_laws.one_by_one(probability)) > 1e-4


def test_rows_of_a_batch_end_by_themselves_and_masks_are_never_proposed():
    spec = {"V": 97, "mask_id": 96, "dtype": "float32", "scale": 14.0, "boost": {"96": 30.0}}
    settings = {"mask_length": 16, "block_size": 8, "sampling_steps": 16, "remdm_number": 2}
    prompts = torch.tensor([[5, 2, 7], [5, 6, 7]])  # the first holds the end of sequence
    tokens = remdm_llada.llada_remdm_sample(harness(HashLM(spec), **settings), prompts, seed=torch.tensor([1, 2]))
    assert (tokens[0] == 96).sum() == 8
    for row in (0, 1):
        alone = harness(HashLM(spec), **settings)
        seed = torch.tensor([row + 1])
        assert torch.equal(remdm_llada.llada_remdm_sample(alone, prompts[row : row + 1], seed=seed)[0], tokens[row])


def test_lengths_are_checked_and_the_methods_replaced():
    settings = {"mask_length": 16, "block_size": 8, "sampling_steps": 12, "remdm_number": 2}
    with pytest.raises(ValueError, match="mask_length: expected a multiple of sampling_steps = 12, got 16"):
        remdm_llada.llada_conf_sample(harness(None, **settings), torch.tensor([[1]]))
    theirs = type("LLaDAEvalHarness", (), {"llada_remdm_sample": lambda self, prompt: "theirs"})
    module = type(torch)("eval_llada")
    module.LLaDAEvalHarness = theirs
    with compat.patch("remdm_llada", module):
        assert theirs.llada_remdm_sample is remdm_llada.llada_remdm_sample
    assert theirs().llada_remdm_sample(None) == "theirs"
