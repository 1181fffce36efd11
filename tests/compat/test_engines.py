"""Decoders for engines with loops of their own: dInfer and sglang against recorded runs, vLLM against its rules."""

import ast
from types import SimpleNamespace

import pytest
import torch
from hash_model import HashLM
from recorded import MASK, check, recorded

from mdmcorrect.compat import dinfer, sglang, vllm

DECODERS = {
    "threshold.9": lambda: dinfer.ThresholdParallelDecoder(0.0, 0.9, mask_id=MASK),
    "threshold.5_f64": lambda: dinfer.ThresholdParallelDecoder(0.0, 0.5, mask_id=MASK, use_float64=True),
    "credit": lambda: dinfer.CreditThresholdParallelDecoder(temperature=0.0, threshold=0.9, mask_id=MASK),
    "hierarchy": lambda: dinfer.HierarchyDecoder(0.0, mask_id=MASK, threshold=0.9, low_threshold=0.4),
}


@recorded("dinfer", where=lambda case: "decoder" in case["kwargs"])
def test_dinfer_decodes_as_recorded(case):
    settings = case["kwargs"]

    def run(model, ties):
        x, decoder = torch.tensor(case["inputs"]["x"]), DECODERS[settings["decoder"]]()
        for number, start in enumerate(range(settings["prompt_len"], x.shape[1], settings["block"])):
            stop = min(start + settings["block"], x.shape[1])
            decoder.block_init(x[:, start:stop], number)
            while (x[:, start:stop] == MASK).any():
                decoder.decode(model(x).logits[:, start:stop], start, stop, x)
        return x, None

    check(case, run)


@recorded("dinfer_settings")
def test_dinfer_settings_decode_as_recorded(case):
    """Credits that repeat, and masks that the model proposes."""
    settings = case["kwargs"]

    def run(model, ties):
        x, decoder = torch.tensor(case["inputs"]["x"]), getattr(dinfer, case["class"])(mask_id=MASK, **case["settings"])
        for number, start in enumerate(range(settings["prompt_len"], x.shape[1], settings["block"])):
            stop = start + settings["block"]
            decoder.block_init(x[:, start:stop], number)
            while (x[:, start:stop] == MASK).any():
                decoder.decode(model(x).logits[:, start:stop], start, stop, x)
        return x, model.calls

    check(case, run)


def test_dinfer_credits_a_token_once_however_often_it_is_best():
    decoder = dinfer.CreditThresholdParallelDecoder(temperature=0.0, threshold=0.999, mask_id=4, boost_gamma=0.0)
    logits = torch.tensor([[[2.0, 0.0, 0.0, 0.0, -9.0]] * 2])
    credit = 0.0
    for step in range(4):
        x = torch.full((1, 2), 4)
        decoder.decode(logits.clone(), 0, 2, x)
        credit = credit * 0.8 * (step > 0) + 1
        held = decoder._credits[0, 0] * (decoder._ids[0, 0] == 0)
        assert held.sum().item() == pytest.approx(credit)


def test_dinfer_fills_a_row_in_which_the_mask_is_proposed_everywhere():
    logits = torch.tensor([0.0, 1.0, 0.5, 5.0]).expand(2, 3, 4)
    for decoder in (
        dinfer.ThresholdParallelDecoder(0.0, 0.9, mask_id=3),
        dinfer.CreditThresholdParallelDecoder(temperature=0.0, threshold=0.9, mask_id=3),
    ):
        x = torch.full((2, 3), 3)
        for _ in range(3):
            decoder.decode(logits, 0, 3, x)
        assert x.tolist() == [[1, 1, 1]] * 2


@recorded("dinfer", where=lambda case: "one_step" in case["name"])
def test_dinfer_takes_one_step_as_recorded(case):
    function = getattr(dinfer, case["name"].split("/")[-2])
    settings = {name: ast.literal_eval(value.removeprefix("tensor")) for name, value in case["kwargs"].items()}
    if settings["num_transfer_tokens"] is not None:
        settings["num_transfer_tokens"] = torch.tensor(settings["num_transfer_tokens"])

    def run(model, ties):
        x = torch.tensor(case["inputs"]["x"])
        x0, commit = function(model(x).logits, 0.0, "low_confidence", x == MASK, x, **settings)
        return torch.where(commit, x0, x), None

    check(case, run)


def test_dinfer_decodes_what_the_original_cannot():
    """A fixed number of steps, several rows by hierarchy, blocks of their own per row."""
    spec = {"V": 97, "mask_id": MASK, "dtype": "float32", "scale": 14.0}
    for decoder in (dinfer.FixedParallelDecoder(0.0, 4, mask_id=MASK), DECODERS["hierarchy"]()):
        x = torch.full((3, 12), MASK)
        decoder.block_init(x, 0)
        forwards = 0
        while (x == MASK).any():
            decoder.decode(HashLM(spec)(x).logits, 0, 12, x)
            forwards += 1
        assert forwards <= 12
    x = torch.full((2, 8), MASK)
    decoder = DECODERS["threshold.5_f64"]()
    while (x[0, :4] == MASK).any() or (x[1, 4:] == MASK).any():
        logits = HashLM(spec)(x).logits
        own = torch.stack([logits[0, :4], logits[1, 4:]])
        decoder.batch_decode(own, torch.tensor([0, 4]), x, 4)
    assert (x[0, 4:] == MASK).all()
    assert (x[1, :4] == MASK).all()
    with pytest.raises(ValueError, match=r"logits: expected \[2, 8, V\], got \[2, 4, 97\]"):
        decoder.decode(own, 0, 8, x)


@recorded("sglang")
def test_sglang_steps_as_recorded(case):
    name = "LowConfidence" if case["name"].startswith("low") else "JointThreshold"

    def run(model, ties):
        tokens = torch.tensor(case["inputs"]["input_ids"])
        config = SimpleNamespace(block_size=tokens.shape[1], mask_id=MASK, algorithm_config=case["kwargs"])
        algorithm = getattr(sglang, name)(config)
        batch = SimpleNamespace(batch_size=len(tokens), input_ids=tokens.view(-1))
        size = tokens.shape[1]
        joint = name == "JointThreshold"
        states = algorithm.init_step_state(batch) if joint else []
        for _ in range(algorithm.max_steps(size) if joint else size + 1):  # as many as sglang's own loop
            logits = model(batch.input_ids.view_as(tokens)).logits.flatten(0, 1)
            if all(algorithm.step(batch, logits, states)):
                break
        return batch.input_ids.view_as(tokens), None

    check(case, run)


def test_a_block_of_sglangs_is_finished_one_forward_after_its_last_change():
    """The step that finds nothing to change says False: what it read is stored by the next."""
    tokens = torch.full((8,), MASK)
    tokens[4:] = 5
    batch = SimpleNamespace(batch_size=2, input_ids=tokens)
    config = SimpleNamespace(block_size=4, mask_id=MASK, algorithm_config={"threshold": 0.1, "edit_threshold": 0.9})
    algorithm = sglang.JointThreshold(config)
    states = algorithm.init_step_state(batch)
    logits = torch.nn.functional.one_hot(torch.arange(8), 97).float() * 9
    seen = [algorithm.step(batch, logits, states) for _ in range(3)]
    assert seen == [[False, False], [False, True], [True, True]]
    assert batch.input_ids.tolist() == [0, 1, 2, 3, 5, 5, 5, 5]


def test_vllm_commits_by_threshold_or_number():
    p = torch.tensor([0.99, 0.5, 0.96, 0.7])
    logits = torch.stack([p.log(), (1 - p).log(), torch.full((4,), -40.0)], -1)  # token 0 with probability p
    policy = vllm.Llada2DefaultRemaskingPolicy()
    settings = {"mask_token_id": 2, "denoise_steps": 4}
    step = policy.apply(input_draft=[2, 2, 2, 2], logits=logits, remasking_config=settings)
    assert step == vllm.RemaskStepResult((), (0, 2, 0, 2))
    settings["num_transfer"] = 3
    assert policy.apply(input_draft=[2, 2, 2, 2], logits=logits, remasking_config=settings).next_input_block == (
        0, 2, 0, 0,
    )  # fmt: skip
    step = policy.apply(input_draft=[1, 2, 1, 1], logits=logits.tolist(), remasking_config=settings)
    assert step == vllm.RemaskStepResult((1, 0, 1, 1), (2, 2, 2, 2))
    with pytest.raises(ValueError, match=r"logits: expected \[2, V\]"):
        policy.apply(input_draft=[2, 2], logits=logits)
    with pytest.raises(ValueError, match="logits: expected"):
        policy.apply(input_draft=[2, 2])
    with pytest.raises(ValueError, match="num_transfer: expected at least 0, got -1"):
        policy.apply(input_draft=[2] * 4, logits=logits, remasking_config={"mask_token_id": 2, "num_transfer": -1})
