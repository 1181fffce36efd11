"""mdmcorrect.compat.fast_dllm_v2 against recorded runs of the original, and the law of its draws."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from block_model import BlockLM
from recorded import MASK, inputs_of, recorded
from scipy import stats

from mdmcorrect import compat
from mdmcorrect.compat import fast_dllm_v2

TOKENIZER = SimpleNamespace(pad_token_id=0)
SPEC = {"V": 97, "mask_id": MASK, "dtype": "float32", "scale": 16.0}


@recorded("fast_dllm_v2")
def test_rows_equal_the_recorded_run(case):
    settings, model = dict(case["kwargs"]), BlockLM(case["model"])
    settings["seq_len"] = torch.tensor(settings["seq_len"])
    rows = fast_dllm_v2.batch_sample(model, **inputs_of(case), tokenizer=TOKENIZER, **settings, quirks="upstream")
    assert [rows[row].tolist() for row in range(len(rows))] == case["output"]
    assert model.calls <= case["nfe"]


def sample(lengths, model=None, **settings):
    prompts = torch.full((len(lengths), max(lengths)), MASK)
    for row, length in enumerate(lengths):
        prompts[row, :length] = torch.randint(3, 95, (length,), generator=torch.Generator().manual_seed(row))
    settings = {"threshold": 0.5, "mask_id": MASK, "stop_token": 2, "block_size": 8, "small_block_size": 4, **settings}
    model = BlockLM(SPEC) if model is None else model
    given = {"tokenizer": TOKENIZER, "min_len": min(lengths), "seq_len": torch.tensor(lengths), "max_new_tokens": 16}
    return fast_dllm_v2.batch_sample(model, prompts, **{**given, **settings})


@pytest.mark.parametrize("use_block_cache", [False, True])
def test_a_row_does_not_depend_on_its_batch(use_block_cache):
    """Prompts that end with a block among them; of one whose block another row needs again, the cache differs."""
    lengths = [5, 8, 16, 17]
    small = 8 if use_block_cache else 4  # the block's keys are then never older than its tokens
    together = sample(lengths, use_block_cache=use_block_cache, small_block_size=small)
    for row, length in enumerate(lengths):
        prompt = together[row][:length]
        alone = fast_dllm_v2.batch_sample(
            BlockLM(SPEC), prompt[None], TOKENIZER, 8, 16, small, length, torch.tensor([length]), MASK, 0.5, 2,
            use_block_cache,
        )  # fmt: skip
        width = min(len(alone[0]), len(together[row]))
        assert torch.equal(alone[0][:width], together[row][:width])


class Stopping(BlockLM):
    """Gives a stop token, 7, after every block it keeps."""

    def forward(self, update_past_key_values=False, **options):
        output = super().forward(update_past_key_values=update_past_key_values, **options)
        output.logits[:, -1, 7] += 99.0 * update_past_key_values
        return output


def test_a_stop_token_ends_a_row_wherever_it_stands():
    assert sample([5], Stopping(SPEC), stop_token=7)[0][8:].tolist() == [7]
    assert len(sample([5], Stopping(SPEC), stop_token=7, quirks="stop_as_next_token")[0]) > 9


def test_a_prompt_of_one_block_is_seen():
    model = BlockLM(SPEC)
    seen = sample([8], model, max_new_tokens=8)[0]
    other = sample([8], BlockLM(SPEC), max_new_tokens=8, quirks="prompts_ending_with_a_block")[0]
    assert model.tokens == 8 * model.calls
    assert not torch.equal(seen, other)


def test_draws_follow_the_nucleus_and_the_seed():
    logits = torch.tensor([1.0, 0.5, 0.0, -1.0, 3.0])  # the last is the mask

    class Constant:
        device = "cpu"

        def forward(self, input_ids, **_options):
            logits_of = logits.expand(*input_ids.shape, 5).clone()
            return SimpleNamespace(logits=logits_of, past_key_values=None, block_past_key_values=None)

    def run(seed):
        prompts, lengths = torch.zeros(20_000, 1, dtype=torch.int64), torch.ones(20_000, dtype=torch.int64)
        given = {"tokenizer": TOKENIZER, "block_size": 2, "small_block_size": 2, "max_new_tokens": 2, "min_len": 1}
        settings = {"mask_id": 4, "stop_token": 4, "top_p": 0.8, "temperature": 0.7, "seq_len": lengths, "seed": seed}
        rows = fast_dllm_v2.batch_sample(Constant(), prompts, **given, **settings)
        return torch.stack([rows[row] for row in range(20_000)])[:, 1]

    tokens = run(3)
    law = np.exp(logits[:4].double().numpy() / 0.7)
    law /= law.sum()
    law[np.concatenate([[0], law.cumsum()[:-1]]) > 0.8] = 0  # sorted already; the token that crosses is kept
    counts = np.bincount(tokens.numpy(), minlength=4)
    assert counts[law == 0].sum() == 0
    assert stats.chisquare(counts[law > 0], law[law > 0] / law.sum() * 20_000).pvalue > 1e-4
    assert torch.equal(tokens, run(3))
    assert not torch.equal(tokens, run(4))


def test_a_predicted_mask_is_overruled_and_arguments_are_named():
    rows = sample([5, 9], BlockLM({**SPEC, "boost": {str(MASK): 60.0}}))
    assert all((row != MASK).all() for row in rows.values())
    with pytest.raises(ValueError, match="block_size: expected a multiple of small_block_size = 3, got 8"):
        sample([5], small_block_size=3)
    with pytest.raises(ValueError, match=r"seq_len: expected \[1\] lengths from min_len = 4 to 5, got \[5\]"):
        sample([5], min_len=4)

    class Silent(BlockLM):
        def forward(self, *args, **options):
            output = super().forward(*args, **options)
            output.logits = torch.full_like(output.logits, torch.nan)
            return output

    with pytest.raises(ValueError, match="model: expected logits that admit a token"):
        sample([5], Silent(SPEC))


def test_the_method_is_put_into_the_original():
    def batch_sample(
        self, input_ids, tokenizer, block_size, max_new_tokens, small_block_size, min_len, seq_len, mask_id=151665
    ):
        return "theirs"

    module = type(torch)("generation_functions")
    module.Fast_dLLM_QwenForCausalLM = type("Fast_dLLM_QwenForCausalLM", (), {"batch_sample": batch_sample})
    with compat.patch("fast_dllm_v2", module) as done:
        assert done.replaced == ("generation_functions.Fast_dLLM_QwenForCausalLM.batch_sample",)
