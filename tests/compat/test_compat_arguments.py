"""Arguments of drop-ins as tokenizers, NumPy and configurations hand them over: taken, or named in one sentence."""

import numpy as np
import pytest
import torch
from hash_model import HashLM
from recorded import MASK

from mdmcorrect.compat import dream, fast_dllm, llada, mmada, p2, proseco

SPEC = {"V": 97, "mask_id": MASK, "dtype": "float32", "scale": 12.0}
PROMPT = torch.tensor([[5, 6, 7], [1, 2, 3]])
BLOCKS = {"steps": 4, "gen_length": 8, "block_length": 4, "mask_id": MASK}


def of_blocks(function):
    def run(prompt=PROMPT, **changes):
        answer = function(HashLM(SPEC), prompt, **{**BLOCKS, **changes})
        return answer[0] if isinstance(answer, tuple) else answer

    return run


def of_dream(prompt=PROMPT, **changes):
    settings = {**BLOCKS, **changes}
    settings = {
        "steps": settings["steps"],
        "max_new_tokens": settings["gen_length"],
        "mask_token_id": settings["mask_id"],
    }
    return dream.diffusion_generate(HashLM(SPEC), prompt, **settings, alg="entropy")


def of_mmada(prompt=PROMPT, **changes):
    settings = {**BLOCKS, **changes}
    settings["max_new_tokens"] = settings.pop("gen_length")
    return mmada.mmu_generate(lambda tokens, attention_bias: HashLM(SPEC)(tokens), prompt, **settings)


RUNS = {
    "llada": of_blocks(llada.generate),
    "fast_dllm": of_blocks(fast_dllm.generate),
    "fast_dllm-dual": of_blocks(fast_dllm.generate_with_dual_cache),
    "proseco": of_blocks(proseco.generate),
    "dream": of_dream,
    "mmada": of_mmada,
}


@pytest.mark.parametrize("name", RUNS)
def test_the_integers_of_others_are_taken(name):
    run, expected = RUNS[name], RUNS[name]()
    for changes in (
        {"prompt": PROMPT.tolist()},
        {"prompt": PROMPT.numpy()},
        {"prompt": PROMPT.int()},
        {"mask_id": np.int64(MASK)},
        {"mask_id": torch.tensor(MASK)},
        {"steps": np.int32(4), "gen_length": np.int64(8), "block_length": torch.tensor(4)},
    ):
        assert torch.equal(run(**changes), expected)


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompt": "hello"}, "expected token ids .* got str"),
        ({"prompt": PROMPT.float()}, r"expected token ids, got torch\.float32"),
        ({"prompt": PROMPT[0]}, r"expected token ids \[B, P\], got \[3\]"),
        ({"prompt": [[1, 2], [3]]}, "got rows that do not make a tensor"),
        ({"mask_id": [MASK]}, r"mask(_token)?_id: expected an int, got list \[96\]"),
        ({"mask_id": 97}, "mask_id: expected an id within the 97 ids"),
        ({"mask_id": -1}, "mask(_token)?_id: expected a token id >= 0, got -1"),
        ({"steps": 4.0}, r"steps: expected an int, got float 4\.0"),
        ({"steps": 0}, "steps: expected at least 1, got 0"),
        ({"gen_length": 8.0}, r"(gen_length|max_new_tokens): expected an int, got float 8\.0"),
        ({"gen_length": -8}, "(gen_length|max_new_tokens): expected at least [01], got -8"),
    ],
)
def test_what_is_none_is_named(name, changes, message):
    with pytest.raises((TypeError, ValueError), match=message):
        RUNS[name](**changes)


def test_p2_names_what_it_cannot_take():
    xt = torch.full((1, 4), MASK)
    model = lambda tokens: HashLM(SPEC)(tokens).logits  # noqa: E731
    with pytest.raises(TypeError, match=r"num_steps: expected an int, got float 2\.5"):
        p2.p2_sampling(xt, model, MASK, 2.5)
    filled = p2.p2_sampling(xt.clone(), model, np.int64(MASK), np.int64(2), 0.0)
    assert torch.equal(filled, p2.p2_sampling(xt, model, MASK, 2, 0.0))
