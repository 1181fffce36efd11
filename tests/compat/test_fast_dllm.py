"""mdmcorrect.compat.fast_dllm against recorded runs of the original."""

import pytest
import torch
from hash_model import HashLM
from recorded import MASK, check, inputs_of, recorded

from mdmcorrect.compat import fast_dllm


@recorded("fast_dllm")
def test_generation_equals_the_recorded_run(case):
    name = case["name"].split("/")[0]
    function = getattr(fast_dllm, name)
    quirks = {"quirks": "upstream"} if name == "generate_with_dual_cache" else {}
    check(case, lambda model, ties: function(model, **inputs_of(case), **case["kwargs"], ties=ties, **quirks))


SPEC = {"V": 97, "mask_id": MASK, "dtype": "float32", "scale": 14.0}


def test_a_dual_cache_fills_its_blocks_by_default():
    prompt = torch.tensor([[5, 6, 7, 8]])
    settings = {"steps": 8, "gen_length": 32, "block_length": 16, "mask_id": MASK, "threshold": 0.9}
    tokens, forwards = fast_dllm.generate_with_dual_cache(HashLM(SPEC), prompt, **settings)
    limited, fewer = fast_dllm.generate_with_dual_cache(HashLM(SPEC), prompt, **settings, quirks="upstream")
    assert (tokens != MASK).all()
    assert (limited == MASK).any()
    assert fewer <= 8 < forwards


@pytest.mark.parametrize("name", ["generate", "generate_with_prefix_cache", "generate_with_dual_cache"])
def test_a_step_callback_hears_every_step_and_stops_nothing(name):
    heard = []

    def hear(step):
        heard.append(step)
        return True

    settings = {"steps": 6, "gen_length": 24, "block_length": 8, "mask_id": MASK, "threshold": 0.9}
    function, prompt = getattr(fast_dllm, name), torch.tensor([[5, 6, 7]])
    tokens, forwards = function(HashLM(SPEC), prompt, **settings, step_callback=hear)
    assert heard == list(range(forwards))
    assert torch.equal(tokens, function(HashLM(SPEC), prompt, **settings)[0])


@pytest.mark.parametrize("name", ["generate", "generate_with_prefix_cache", "generate_with_dual_cache"])
@pytest.mark.parametrize("rule", [{}, {"threshold": 0.9}, {"factor": 1.0}])
def test_a_predicted_mask_ends_neither_the_schedule_nor_the_run(name, rule):
    spec = {**SPEC, "mask_logit": 15.0}  # the most likely token everywhere
    settings = {"steps": 6, "gen_length": 24, "block_length": 8, "mask_id": MASK, **rule}
    tokens, _ = getattr(fast_dllm, name)(HashLM(spec), torch.tensor([[5, 6, 7]]), **settings)
    assert (tokens != MASK).all()


def test_one_step_by_threshold_factor_and_number():
    confidence = torch.tensor([[0.99, 0.5, 0.97, 0.7, 0.2]])
    logits = torch.stack([confidence.log(), (1 - confidence).log(), torch.full((1, 5), -40.0)], -1)
    masked = torch.tensor([[True, True, True, True, False]])
    x = torch.tensor([[2, 2, 2, 2, 1]])
    x0, chosen = fast_dllm.get_transfer_index(logits, 0.0, "low_confidence", masked, x, torch.tensor([2]))
    assert x0.tolist() == [[0, 0, 0, 0, 1]]
    assert chosen.tolist() == [[True, False, True, False, False]]
    _, chosen = fast_dllm.get_transfer_index(logits, 0.0, "low_confidence", masked, x, None, threshold=0.6)
    assert chosen.tolist() == [[True, False, True, True, False]]
    _, chosen = fast_dllm.get_transfer_index_dynamic(logits, 0.0, "low_confidence", masked, x, None, factor=1)
    assert chosen.tolist() == [[True, False, True, False, False]]  # 0.97 >= 2/3, 0.7 < 3/4
    with pytest.raises(ValueError, match="num_transfer_tokens: expected"):
        fast_dllm.get_transfer_index(logits, 0.0, "low_confidence", masked, x, None)


@pytest.mark.parametrize("threshold", [0.99, 0.995, 1.0])
def test_the_best_is_committed_where_none_reaches_the_threshold(threshold):
    confidence = torch.tensor([[0.5, 0.97, 0.7], [0.6, 0.5, 0.97]])
    logits = torch.stack([confidence.log(), (1 - confidence).log(), torch.full((2, 3), -40.0)], -1)
    masked, x = torch.ones(2, 3, dtype=torch.bool), torch.full((2, 3), 2)
    _, chosen = fast_dllm.get_transfer_index(logits, 0.0, "low_confidence", masked, x, None, threshold=threshold)
    assert chosen.tolist() == [[False, True, False], [False, False, True]]
