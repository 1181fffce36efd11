"""CUDA's remask_step, thread by thread, against the float64 reference."""

from __future__ import annotations

import device_ops
import numpy as np
import pytest
from harness import bfloat16, widen

from mdmcorrect import reference

MASK = 9
TYPES = {"float32": np.float32, "bfloat16": bfloat16, "float16": np.float16}
MODES = ["bands", "unmask only", "masks", "commit mask, remask count", "pool"]


def check(simt, tokens, proposals, **options):
    found, traffic = device_ops.remask_step(simt, tokens, proposals, mask_id=MASK, **options)
    plain = {name: widen(value) if name.endswith("_score") else value for name, value in options.items()}
    for mine, truth in zip(found, reference.remask_step(tokens, proposals, mask_id=MASK, **plain), strict=True):
        np.testing.assert_array_equal(mine, truth)
    return traffic


def case(mode: str, length: int, dtype: str, seed: int) -> tuple[np.ndarray, np.ndarray, dict]:
    random = np.random.default_rng(seed)
    shape = (3, length)
    tokens = np.where(random.random(shape) < random.choice([0.1, 0.5, 0.9]), MASK, 3)
    proposals = random.integers(-1, MASK + 1, shape)
    values = [0.0, -0.0, 0.25, 0.5, 1.0, -1.0, np.inf, -np.inf, np.nan]

    def scores():
        return TYPES[dtype](random.choice(values, shape) if seed % 2 else random.normal(size=shape))

    def mask():
        return random.random(shape) < 0.5

    def counts():
        return random.integers(-2, length + 3, 3)

    options: dict = {"refill": ("if_short", "never")[seed % 2]}
    if seed % 3:
        options |= {"fixed": mask(), "eligible": mask()}
    if mode == "pool":
        options |= {"unmask_score": scores(), "keep_score": scores(), "keep_count": counts()}
    elif mode == "masks":
        options |= {"commit": mask(), "remask": mask()}
    elif mode == "commit mask, remask count":
        options |= {"commit": mask(), "keep_score": scores(), "remask_count": counts()}
    else:
        options |= {"unmask_score": scores(), "unmask_count": counts()}
        if mode == "bands":
            options |= {"keep_score": scores(), "remask_count": counts()}
    return tokens, proposals, options


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("mode", MODES)
def test_modes(any_order, mode, dtype):
    for seed, length in enumerate([1, 31, 300, 1030]):
        tokens, proposals, options = case(mode, length, dtype, seed)
        check(any_order, tokens, proposals, **options)


@pytest.mark.parametrize("mode", ["bands", "pool"])
def test_keys_in_the_workspace(simt, mode):
    tokens, proposals, options = case(mode, 5000, "float32", 5)
    traffic = check(simt, tokens, proposals, **options)
    assert traffic["workspace"].bytes_written == 3 * 5000 * 8
    # Scores are read once and only where they count; a token twice: to rank it, and to write what becomes of it.
    assert traffic["unmask_score"].bytes_read <= tokens.size * 4
    assert traffic["tokens"].bytes_read <= 2 * tokens.nbytes


@pytest.mark.parametrize("shape", [(0, 5), (3, 0)])
def test_nothing_to_do(simt, shape):
    tokens = np.zeros(shape, np.int64)
    score = np.zeros(shape, np.float32)
    check(simt, tokens, tokens.copy(), unmask_score=score, unmask_count=1)
