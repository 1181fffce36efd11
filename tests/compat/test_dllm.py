"""mdmcorrect.compat.dllm against recorded runs of the original."""

from types import SimpleNamespace

import torch
from recorded import MASK, check, recorded

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
