"""CUDA's sampler_step, thread by thread, against the CPU's, on the calls that samplers make."""

from __future__ import annotations

import random

import device_ops
import numpy as np
import pytest
import torch
from combinations import MASK, PRESETS
from test_native_steps import NATIVE, drawn_sampler
from torch.utils._python_dispatch import TorchDispatchMode
from toys import Toy

from mdmcorrect.samplers import (
    MDLM,
    Ancestral,
    Confidence,
    EntropyBound,
    FixedSteps,
    LLaDA,
    Pool,
    Sampler,
    Unmask,
    UnmaskThenRemask,
)

STEP = torch.ops.mdmcorrect.sampler_step.default


class Calls(TorchDispatchMode):
    """Keeps the arguments and results of every call of an operator."""

    def __init__(self, operator=STEP):
        super().__init__()
        self.operator, self.names = operator, [argument.name for argument in operator._schema.arguments]
        self.made: list[tuple[dict, tuple]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        results = func(*args, **(kwargs or {}))
        if func is self.operator:
            given = {**dict(zip(self.names, args, strict=False)), **(kwargs or {})}
            self.made.append(
                (
                    {name: device_ops.array(value) for name, value in given.items()},
                    tuple(map(device_ops.array, results)),
                )
            )
        return results


def recorded(run, operator=STEP) -> list[tuple[dict, tuple]]:
    with Calls(operator) as calls:
        run()
    assert calls.made
    return calls.made


def check(simt, arguments, results):
    """Every output equal to the last bit, and written."""
    made, traffic = device_ops.sampler_step(simt, arguments)
    for (name, found), expected in zip(made.items(), results, strict=True):
        np.testing.assert_array_equal(found, expected, err_msg=f"{name}, {arguments['close']}, {arguments['open']}")
    assert [one.kernel for one in simt.launches] == ["sampler_step_rows"] * (len(arguments["rows"]) > 0)
    return traffic


def some(calls, most=3):
    """The first, the last, and between them as many more."""
    places = np.linspace(0, len(calls) - 1, min(most, len(calls))).round().astype(int)
    return [calls[place] for place in places]


@pytest.mark.parametrize("seed", range(150))
def test_parts_in_any_combination(simt, seed):
    """The samplers of test_native_steps.py, on more positions than a block has threads, on few, and with ends."""
    rng, sampler = random.Random(seed + 1000), drawn_sampler(seed)
    batch, length = rng.choice([(1, 1), (3, 16), (2, 33), (1, 301), (1, 517)])
    tokens = torch.full((batch, length), MASK)
    tokens[torch.rand(tokens.shape, generator=torch.Generator().manual_seed(seed)) < rng.choice([0.0, 0.2, 0.6])] = 4
    options = {"seed": torch.arange(batch) + 3}
    if rng.random() < 0.4:
        options["lengths"] = (torch.arange(batch) % 3 * (length // 2) + length // 3).clamp_(max=length)
    if rng.random() < 0.3:
        options["eos_id"] = rng.choice([[5], [5, 2, 9]])
    dtype, scale = rng.choice([torch.float32, torch.bfloat16, torch.float16]), rng.choice([2.0, 6.0])
    calls = recorded(lambda: sampler(Toy(dtype=dtype, scale=scale), tokens, mask_id=MASK, **options))
    for arguments, results in some(calls):
        check(simt, arguments, results)


def fixed_steps(sampler, batch, length, steps):
    """Calls of the modes in which rows wait for the last step, of a canvas with prompts of several lengths."""
    tokens = torch.full((batch, length), MASK)
    tokens[:, : length // 3] = torch.arange(batch)[:, None] % 3
    run = FixedSteps(sampler, Toy(), mask_id=MASK, eos_id=5)
    return recorded(lambda: run(tokens, steps=steps, seed=torch.arange(batch)))


@pytest.mark.parametrize("name", NATIVE)
def test_presets_by_fixed_steps(simt, name):
    calls = fixed_steps(PRESETS[name], 2, 37, 30)
    for arguments, results in [*some(calls[:-1], 4), calls[-1]]:
        check(simt, arguments, results)


DEMANDING = {
    "ranked": Sampler(steps=9, plan=UnmaskThenRemask(Unmask("entropy", EntropyBound(2.5)))),
    "confidence": Sampler(steps=9, plan=Ancestral(Confidence(0.7))),
    "pool": Sampler(steps=9, plan=Pool(cut="strict")),
}


@pytest.mark.parametrize("sampler", DEMANDING.values(), ids=DEMANDING)
def test_any_order(any_order, sampler):
    """Threads and blocks forward, backward, shuffled: ties and sums come out the same."""
    calls = fixed_steps(sampler, 3, 90, 5)
    for call in calls[4:6]:
        check(any_order, *call)


@pytest.mark.parametrize("name", DEMANDING)
def test_rows_that_shared_memory_does_not_hold(simt, name):
    calls = fixed_steps(DEMANDING[name], 2, 4099, 3)
    written = [check(simt, *call)["workspace"].bytes_written for call in calls[2:4]]
    assert (max(written) >= 8 * 2 * 4099) == (name != "confidence")  # which ranks nothing


def test_more_rows_than_blocks(simt):
    for call in fixed_steps(LLaDA(steps=3), 2051, 2, 3)[2:4]:
        check(simt, *call)


@pytest.mark.parametrize("shape", [(0, 5), (3, 0)], ids=["no row", "no position"])
def test_rows_without_positions_are_written(simt, shape):
    """Their fields and their time."""
    tokens = torch.full(shape, MASK)
    run = FixedSteps(MDLM(steps=3), lambda tokens: torch.zeros(*tokens.shape, 12), mask_id=MASK)
    for arguments, results in recorded(lambda: run(tokens, steps=3, seed=torch.arange(shape[0]))):
        check(simt, arguments, results)


def test_traffic(simt):
    """Scores are read once, and only where they count."""
    arguments, results = next(call for call in fixed_steps(LLaDA(steps=3), 2, 300, 3) if call[0]["close"])
    traffic = check(simt, arguments, results)
    masks = (arguments["tokens"] == MASK).sum()
    assert traffic["rank"].bytes_read == 4 * masks
    assert traffic["confidence"].bytes_read == 4 * results[4][0].sum()  # of what was committed
