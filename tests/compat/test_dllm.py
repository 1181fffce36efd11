"""mdmcorrect.compat.dllm against recorded runs of the original."""

from types import SimpleNamespace

import pytest
import torch
from hash_model import HashLM
from recorded import MASK, Seeing, check, recorded

from mdmcorrect.compat import dllm

TOKENIZER = SimpleNamespace(mask_token_id=MASK, bos_token_id=1, eos_token_id=2, pad_token_id=0)
SAMPLERS = {"mdlm": "MDLMSampler", "infill": "MDLMSampler", "bd3lm": "BD3LMSampler"}


def of_kind(case):
    return case["name"].split("/")[0]


@recorded("dllm", where=lambda case: "inputs" in case["inputs"])
def test_sampling_equals_the_recorded_run(case):
    kind = of_kind(case)

    def run(model, ties):
        sampler = getattr(dllm, SAMPLERS.get(kind, kind))(model, TOKENIZER)
        method = sampler.infill if kind == "infill" else sampler.sample
        return method(case["inputs"]["inputs"], **case["kwargs"], ties=ties), None

    check(case, run)


@recorded("dllm", where=lambda case: of_kind(case) == "get_num_transfer_tokens")
def test_the_schedule_equals_the_recorded_one(case):
    counts = dllm.get_num_transfer_tokens(torch.tensor(case["inputs"]["mask_index"]), case["kwargs"]["steps"])
    assert counts.tolist() == case["output"]


@recorded("dllm_settings")
def test_its_settings_equal_the_recorded_runs(case):
    """Guidance of ragged prompts, ends, masks of prompts and models, padding that is generated; histories too."""

    def run(model, ties):
        sampler = getattr(dllm, case["sampler"])(model, TOKENIZER)
        settings = {**case["kwargs"], "ties": ties, "quirks": case.get("quirks", ()), "return_dict": True}
        output = getattr(sampler, case["method"])(case["inputs"]["inputs"], **settings)
        assert len(output.histories) <= case["histories"]  # but for steps that change nothing
        assert torch.equal(output.histories[-1], output.sequences)
        return output.sequences, None

    check(case, run)


SPEC = {"V": 97, "mask_id": MASK, "dtype": "float32", "scale": 14.0}
PROMPTS = [[5, 6, 7], [1, 2]]


@pytest.mark.parametrize(
    ("name", "settings", "boost"),
    [
        ("MDLMSampler", {}, {}),
        ("MDLMSampler", {}, {"96": 60.0}),
        ("BD3LMSampler", {}, {"96": 60.0}),
        ("LLaDA2Sampler", {"minimal_topk": 99}, {}),
        ("LLaDA2Sampler", {"eos_early_stop": True}, {"2": 6.0}),
        ("LLaDA21Sampler", {"eos_early_stop": True}, {"2": 6.0}),
    ],
)
def test_without_quirks_no_mask_is_left_before_an_end(name, settings, boost):
    sampler = getattr(dllm, name)(HashLM({**SPEC, "boost": boost}), TOKENIZER)
    prompts = [[5, MASK, 7], [1, MASK, 3]] if name == "MDLMSampler" else [[5, 6, 7], [1, 2, 3]]
    tokens = sampler.sample(prompts, max_new_tokens=9, block_size=4, **settings)
    for row in tokens:
        left = (row == MASK).nonzero().flatten().tolist()
        assert not left or 2 in row[: left[0]].tolist()


def test_quirks_are_those_of_the_sampler():
    sampler = dllm.LLaDA21Sampler(HashLM(SPEC), TOKENIZER)
    with pytest.raises(
        ValueError, match=r"quirks: expected some of \['rounded_nucleus'\] or 'upstream', got \['unfilled_masks'\]"
    ):
        sampler.sample([[1, 2]], quirks="unfilled_masks")
    sampler.sample([[1, 2]], max_new_tokens=2, block_size=2, quirks="upstream")


def test_an_editing_block_is_left_before_its_end_of_sequence_counts():
    """LLaDA2.1 edits a filled block on; an end of sequence that is edited away ends nothing."""
    answers = iter([[2, 7], [2, 7], [8, 7], [8, 7], [8, 9], [8, 9], [8, 9], [8, 9]])

    def model(tokens, attention_mask, position_ids):
        block = next(answers)
        logits = torch.zeros(1, tokens.shape[1], 20)
        for column, token in zip((-2, -1), block, strict=True):
            logits[:, column, token] = 9.0
        return SimpleNamespace(logits=logits)

    tokenizer = SimpleNamespace(mask_token_id=19, bos_token_id=1, eos_token_id=2, pad_token_id=0)
    sampler = dllm.LLaDA21Sampler(model, tokenizer)
    tokens = sampler.sample(
        [[4, 4]], max_new_tokens=4, block_size=2, threshold=0.5, editing_threshold=0.5, eos_early_stop=True
    )
    assert tokens.tolist() == [[4, 4, 2, 7, 19, 19]]  # unchanged by its second answer: left, and ended
    answers = iter([[2, 7], [8, 7], [8, 7], [8, 9], [8, 9]])
    tokens = sampler.sample(
        [[4, 4]], max_new_tokens=4, block_size=2, threshold=0.5, editing_threshold=0.5, eos_early_stop=True
    )
    assert tokens.tolist() == [[4, 4, 8, 7, 8, 9]]


def test_what_a_block_sees_is_settled_when_it_is_entered():
    masks = []

    class Watched(Seeing):
        def forward(self, input_ids, attention_mask=None, **options):
            masks.append(attention_mask)
            return super().forward(input_ids, attention_mask=attention_mask, **options)

    model = Watched({**SPEC, "boost": {"0": 20.0}})  # generates padding
    tokens = dllm.BD3LMSampler(model, TOKENIZER).sample(PROMPTS, max_new_tokens=8, block_size=4, steps=8)
    assert (tokens[:, 4:] == 0).any()
    first, second = masks[1:5], masks[6:]
    for block in (first, second):
        assert all(torch.equal(mask, block[0]) for mask in block)
    assert not second[0][..., 4:8].all()  # the next block does not see what became padding


def test_a_history_grows_with_the_blocks():
    output = dllm.BD3LMSampler(HashLM(SPEC), TOKENIZER).sample(
        PROMPTS, max_new_tokens=6, block_size=4, steps=8, return_dict=True
    )
    assert [canvas.shape[1] for canvas in output.histories] == [4, 8, 8, 8, 8, 10, 10]


def test_an_interrupted_run_raises():
    def model(tokens, **_options):
        raise KeyboardInterrupt

    for name in ("MDLMSampler", "BD3LMSampler", "LLaDA2Sampler", "LLaDA21Sampler"):
        with pytest.raises(KeyboardInterrupt):
            getattr(dllm, name)(model, TOKENIZER).sample([[1, 2]])
