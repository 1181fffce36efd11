"""mdmcorrect.compat.fast_dllm_dream and its block form against recorded runs of the originals."""

import pytest
import torch
from hash_model import HashLM
from recorded import MASK, check, inputs_of, recorded

from mdmcorrect.compat import dream, fast_dllm_dream, fast_dllm_dream_block


def generated(function, case, quirks):
    settings = dict(case["kwargs"])
    settings["max_new_tokens"] = settings.pop("new")

    def run(model, ties):
        options = {"ties": ties, "quirks": quirks, "mask_token_id": MASK}
        return function(model, **inputs_of(case), **settings, **options), None

    check(case, run)


@recorded("fast_dllm_dream")
def test_generation_equals_the_recorded_run(case):
    generated(fast_dllm_dream.diffusion_generate, case, "rounded_nucleus")


@recorded("fast_dllm_dream_block")
def test_blocks_with_caches_equal_the_recorded_run(case):
    generated(fast_dllm_dream_block.diffusion_generate, case, "upstream")


SPEC = {"V": 97, "mask_id": MASK, "dtype": "float32", "scale": 20.0}
PROMPTS = torch.tensor([[5, 6, 7], [1, 2, 3]])
THRESHOLD = {"alg": "confidence_threshold", "threshold": 0.6, "mask_token_id": MASK, "max_new_tokens": 12, "steps": 4}
BOTH = pytest.mark.parametrize("module", [fast_dllm_dream, fast_dllm_dream_block])


@BOTH
def test_rows_of_a_batch_are_decoded_as_alone(module):
    """Where the originals insist on one row."""
    settings = {**THRESHOLD, "block_length": 6} if module is fast_dllm_dream_block else THRESHOLD
    tokens = module.diffusion_generate(HashLM(SPEC), PROMPTS, **settings)
    alone = [module.diffusion_generate(HashLM(SPEC), row[None], **settings) for row in PROMPTS]
    assert torch.equal(tokens, torch.cat(alone))
    assert (tokens != MASK).all()


@BOTH
def test_a_predicted_mask_ends_no_run(module):
    settings = {**THRESHOLD, "block_length": 6} if module is fast_dllm_dream_block else THRESHOLD
    tokens = module.diffusion_generate(HashLM({**SPEC, "boost": {str(MASK): 60.0}}), PROMPTS, **settings)
    assert (tokens != MASK).all()


@BOTH
def test_methods_configurations_and_arguments(module):
    class Mixed(module.DreamGenerationMixin, HashLM):
        pass

    assert Mixed(SPEC).diffusion_generate(PROMPTS, **{**THRESHOLD, "max_new_tokens": 32}).shape == (2, 35)
    with pytest.raises(TypeError, match=r"got \['stepz'\]"):
        module.diffusion_generate(HashLM(SPEC), PROMPTS, stepz=3)
    with pytest.raises(ValueError, match="inputs: expected token ids"):
        module.diffusion_generate(HashLM(SPEC))


def test_other_algorithms_are_dreams():
    settings = {**THRESHOLD, "alg": "entropy"}
    del settings["threshold"]
    theirs = dream.diffusion_generate(HashLM(SPEC), PROMPTS, **settings)
    assert torch.equal(fast_dllm_dream.diffusion_generate(HashLM(SPEC), PROMPTS, **settings), theirs)


def test_a_block_of_one_step_is_filled_unless_asked_not_to():
    settings = {"alg": "entropy", "mask_token_id": MASK, "max_new_tokens": 12, "steps": 3, "block_length": 4}
    tokens = fast_dllm_dream_block.diffusion_generate(HashLM(SPEC), PROMPTS, **settings)
    assert (tokens != MASK).all()
    left = fast_dllm_dream_block.diffusion_generate(HashLM(SPEC), PROMPTS, **settings, quirks="unfilled_masks")
    assert (left[:, 3:] == MASK).sum(1).tolist() == [9, 9]
    with pytest.raises(ValueError, match="the number of new tokens: expected a multiple of block_length = 5, got 12"):
        fast_dllm_dream_block.diffusion_generate(HashLM(SPEC), PROMPTS, **{**settings, "block_length": 5})


@pytest.mark.parametrize("dual_cache", [False, True])
def test_a_padded_row_is_decoded_as_alone_against_its_own_keys(dual_cache):
    """The model gets one row of its mask for each query, one column for each key, and positions without the padding."""
    seen = []

    class Watched(HashLM):
        def forward(self, tokens, mask, place, past_key_values=None, **options):
            seen.append((tuple(mask.shape), place.tolist(), tokens.shape[1]))
            return super().forward(tokens, mask, past_key_values=past_key_values, **options)

    settings = {**THRESHOLD, "max_new_tokens": 8, "block_length": 4, "dual_cache": dual_cache, "threshold": 1.0}
    fast_dllm_dream_block.diffusion_generate(
        Watched(SPEC), torch.tensor([[0, 5, 6]]), attention_mask=torch.tensor([[0, 1, 1]]), **settings
    )
    assert [shape for shape, _, _ in seen[:2]] == [(1, 1, 11, 11), (1, 1, 4 if dual_cache else 8, 11)]
    assert seen[1][1] == [list(range(2, 6 if dual_cache else 10))]
    assert all(len(place[0]) == width for _, place, width in seen)
