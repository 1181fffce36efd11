"""CUDA's correct_pass, thread by thread, against the CPU's, on the calls that samplers make."""

from __future__ import annotations

import device_ops
import numpy as np
import pytest
import torch
from combinations import MASK
from test_simt_sampler_step import recorded
from toys import Toy

from mdmcorrect.samplers import BlockProSeCo, FixedPoint, FixedSteps, LLaDA, ProSeCo, Sampler, Scoring

PASS = torch.ops.mdmcorrect.correct_pass.default
SAMPLERS = {
    "proseco": ProSeCo(steps=4),
    "block-proseco": BlockProSeCo(steps=8, block_length=8),
    "carries over, 16 bits": Sampler(
        steps=5,
        plan=LLaDA(steps=5).parts().plan,
        correct=FixedPoint(passes=2, carry_over=True, update="sample"),
        scoring=Scoring(confidence_dtype=torch.bfloat16),
    ),
}


def check(simt, arguments, results):
    made, _ = device_ops.correct_pass(simt, arguments)
    assert [one.kernel for one in simt.launches] == ["correct_pass_rows"] * (len(arguments["draft"]) > 0)
    for place, (found, expected) in enumerate(zip(made, results, strict=True)):
        if found is not None:
            np.testing.assert_array_equal(found, expected, err_msg=f"result {place}")


def calls(sampler, batch, length):
    tokens = torch.full((batch, length), MASK)
    tokens[:, : length // 3] = torch.arange(batch)[:, None] % 3
    run = FixedSteps(sampler, Toy(), mask_id=MASK)
    return recorded(lambda: run(tokens, steps=3, seed=torch.arange(batch)), PASS)


@pytest.mark.parametrize("shape", [(3, 37), (1, 1), (2, 517), (2, 0)], ids=str)
@pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS)
def test_passes(simt, sampler, shape):
    made = calls(sampler, *shape)
    assert {arguments["first"] for arguments, _ in made} == {True, False}
    for arguments, results in made[-4:]:
        check(simt, arguments, results)


def test_any_order(any_order):
    for arguments, results in calls(SAMPLERS["proseco"], 3, 300)[:2]:
        check(any_order, arguments, results)
