"""mdmcorrect.compat.dllm_branches: Nemotron's decoder against recorded runs, DiffusionGemma's step and its parts."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from nemotron_model import CausalLM
from recorded import MASK, inputs_of, recorded
from scipy import stats

from mdmcorrect.compat import diffusion_gemma, dllm_branches

THINK = 90
TOKENIZER = SimpleNamespace(convert_tokens_to_ids=lambda token: THINK, unk_token_id=None)
SPEC = {"V": 97, "mask_id": MASK, "dtype": "float32", "scale": 16.0}


def nemotron(model=None, tokenizer=TOKENIZER):
    return dllm_branches.NemotronDiffusionSampler(CausalLM(SPEC) if model is None else model, tokenizer)


@recorded("nemotron")
def test_a_run_equals_the_recorded_one(case):
    model = CausalLM(case["model"])
    given = {**inputs_of(case), **case["kwargs"]}
    output = nemotron(model).sample(**given, return_dict=True, quirks="upstream", ties="torch")
    assert output.sequences.tolist() == case["output"]
    assert output.nfe == case["nfe"] == model.calls - 1  # but for the prompt's
    assert model.seen.count(False) == 1 + (output.sequences.shape[1] - len(case["inputs"]["inputs"][0]) + 7) // 8 or (
        case["kwargs"]["block_length"] != 8
    )


def test_rows_leave_a_block_by_themselves_and_end_padded():
    spec = {**SPEC, "boost": {"7": 3.0}}
    prompts = torch.randint(3, 90, (6, 5), generator=torch.Generator().manual_seed(2))
    settings = {"max_new_tokens": 40, "eos_token_id": 7, "threshold": 0.5, "max_thinking_tokens": None}
    together = nemotron(CausalLM(spec)).sample(prompts, **settings)
    assert (together != MASK).all()
    for row, prompt in enumerate(prompts):
        alone = nemotron(CausalLM(spec)).sample(prompt, **settings)[0]
        assert torch.equal(together[row, : len(alone)], alone)
        assert (together[row, len(alone) :] == 7).all()


def test_thinking_ends_in_time_and_arguments_are_named():
    tokens = nemotron().sample(torch.tensor([[3, 4]]), max_new_tokens=24, max_thinking_tokens=10, threshold=0.5)
    assert (tokens[0, 2:13] == THINK).any()
    with pytest.raises(ValueError, match="max_new_tokens: expected a multiple of block_length = 8, got 12"):
        nemotron().sample(torch.tensor([[3]]), max_new_tokens=12)
    with pytest.raises(ValueError, match="inputs: expected at least one token"):
        nemotron().sample(torch.zeros(1, 0, dtype=torch.int64))
    unknown = SimpleNamespace(convert_tokens_to_ids=lambda token: None)
    with pytest.raises(ValueError, match="max_thinking_tokens: expected a tokenizer that knows '</think>'"):
        nemotron(tokenizer=unknown).sample(torch.tensor([[3]]), max_new_tokens=8)


def test_draws_have_the_law_of_the_model():
    logits = torch.tensor([1.0, 0.5, 0.0, -1.0, 3.0])  # the last is the mask

    def model(tokens, past_key_values=None, use_cache=False, use_causal_mask=False):
        return SimpleNamespace(logits=logits.expand(*tokens.shape, 5), past_key_values=None)

    model.mask_token_id = 4
    settings = {"max_new_tokens": 2, "block_length": 2, "temperature": 0.7, "max_thinking_tokens": None, "seed": 1}
    tokens = nemotron(model).sample(torch.zeros(20_000, 1, dtype=torch.int64), **settings)[:, 1:]
    law = (logits[:4].double() / 0.7).softmax(0).numpy()
    pairs = np.bincount((tokens[:, 0] * 4 + tokens[:, 1]).numpy(), minlength=16)
    assert stats.chisquare(pairs, np.outer(law, law).flatten() * 20_000).pvalue > 1e-4


def gemma(logits):
    weight = torch.zeros(1, dtype=torch.float32)
    decoder = SimpleNamespace(embed_tokens=SimpleNamespace(weight=weight))
    return SimpleNamespace(
        model=SimpleNamespace(
            forward=lambda **_: SimpleNamespace(logits=logits), model=SimpleNamespace(decoder=decoder)
        )
    )


def step(logits, canvas, argmax, finished, history, **changes):
    settings = {
        "input_ids": None, "decoder_position_ids": None, "self_conditioning_logits": logits.flip(0),
        "mask_mapping": None, "past_key_values": None, "cur_step": 3, "vocab_size": 11, "entropy_bound": 1.5,
        "min_temperature": 0.4, "max_temperature": 0.8, "max_denoising_steps": 4, "stability_threshold": 1,
        "confidence_threshold": 0.5, **changes,
    }  # fmt: skip
    return dllm_branches.denoising_step(gemma(logits), canvas, argmax, finished_denoising=finished,
                                        argmax_canvas_history=history, **settings)  # fmt: skip


def test_gemmas_step_is_that_of_transformers_classes():
    logits = 3 * torch.randn(4, 7, 11, generator=torch.Generator().manual_seed(0))
    logits[0] *= 30  # sure
    cooled = logits / 0.7
    canvas, argmax = torch.zeros(4, 7, dtype=torch.int64), torch.full((4, 7), 5)
    finished = torch.tensor([False, False, False, True])
    history = torch.stack([cooled.argmax(-1)])
    new, best, kept, over, after = step(logits, canvas, argmax, finished, history)
    sampler = diffusion_gemma.EntropyBoundSampler(SimpleNamespace(entropy_bound=1.5), 7, 11, 4)
    sampler.accept_canvas(canvas, canvas, cooled, 3)
    assert torch.equal(best[:3], cooled.argmax(-1)[:3])
    assert torch.equal(new[0], cooled[0].argmax(-1))  # all accepted, each draw the argmax
    assert torch.equal(best[3], argmax[3])  # ended before: left as it is
    assert torch.equal(new[3], canvas[3])
    assert over.tolist() == [True, False, False, True]
    torch.testing.assert_close(kept[:3], cooled[:3])
    assert torch.equal(kept[3], logits[0])
    assert torch.equal(after[0], best)
    accepted = sampler.accepted_token_mask
    draws = torch.stack([step(logits, canvas, argmax, finished, history)[0] for _ in range(400)])
    column = (2, int(accepted[2].nonzero()[0]))
    law = cooled[column].double().softmax(-1).numpy()
    counts = np.bincount(draws[:, column[0], column[1]].numpy(), minlength=11)
    common = law * 400 > 5
    assert (
        stats.chisquare([*counts[common], counts[~common].sum()], [*law[common] * 400, law[~common].sum() * 400]).pvalue
        > 1e-4
    )
    noise = draws[:, 1:3][:, ~accepted[1:3]].flatten()
    assert stats.chisquare(np.bincount(noise.numpy(), minlength=11)).pvalue > 1e-4


def test_gemmas_step_without_a_schedule_and_a_stop():
    logits = torch.randn(2, 5, 11, generator=torch.Generator().manual_seed(1))
    never = {"min_temperature": None, "confidence_threshold": None, "self_conditioning_logits": None}
    zeros = torch.zeros(2, 5, dtype=torch.int64)
    _, best, kept, over, history = step(logits, zeros, zeros, torch.zeros(2, dtype=torch.bool), None, **never)
    assert torch.equal(best, logits.argmax(-1))
    assert torch.equal(kept, logits)
    assert not over.any()
    assert history is None
