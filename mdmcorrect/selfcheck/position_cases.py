"""Cases of select_positions, count_positions, remask_step and uniform."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import cycle, product

import numpy as np
import torch
from torch import Tensor

from mdmcorrect import reference, rng
from mdmcorrect.ops import count_positions, remask_step, select_positions
from mdmcorrect.ops.count_positions import RULES

from .cases import Arguments, Case, Results
from .comparison import expect_near

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# Around a block's threads, around what fits shared memory (4096 positions), and far beyond.
SHAPES = [(3, 1), (2, 255), (2, 256), (2, 1025), (2, 4096), (2, 4097), (1, 20_000), (0, 9), (4, 0), (2100, 3)]
MASK = 9


def confidences(batch: int, length: int, dtype: torch.dtype, seed: int) -> Tensor:
    """Nearly sure with a long tail of doubt, ties where 16 bits make them, some NaN; every second place of memory."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.sigmoid(4 + 3 * torch.randn(batch, length, generator=generator))
    scores[torch.rand(batch, length, generator=generator) < 0.02] = torch.nan
    return torch.stack([scores, scores + 1], 2).to(dtype)[..., 0]


def numbers(high: int, batch: int, seed: int, *, low: int = 0) -> Tensor:
    return torch.randint(low, high, (batch,), generator=torch.Generator().manual_seed(seed + 77))


def coins(batch: int, length: int, share: float, seed: int) -> Tensor:
    return torch.rand(batch, length, generator=torch.Generator().manual_seed(seed + 99)) < share


def arrays(arguments: Arguments) -> Arguments:
    def array(value):
        if not isinstance(value, Tensor):
            return value
        return (value.double() if value.is_floating_point() else value).numpy()

    return {name: array(value) for name, value in arguments.items()}


def check_selection(results: Results, arguments: Arguments) -> None:
    truth = reference.select_positions(**arrays(arguments))
    selected = results["output 0"].numpy()
    expect_near("selected", selected, truth, most=2e-5 * truth.size)  # near ties come in pairs
    expect_near("selected in each row", selected.sum(1), truth.sum(1))


def selections() -> Iterator[Case]:
    for dtype_name, dtype in DTYPES.items():
        for shape in SHAPES:

            def ranked(seed: int, shape: tuple[int, int] = shape, dtype: torch.dtype = dtype) -> Arguments:
                return {
                    "scores": confidences(*shape, dtype, seed),
                    "k": numbers(shape[1] + 3, shape[0], seed, low=-1),
                    "eligible": coins(*shape, 0.8, seed),
                    "largest": False,
                }

            def drawn(seed: int, shape: tuple[int, int] = shape, dtype: torch.dtype = dtype) -> Arguments:
                return {
                    "scores": confidences(*shape, dtype, seed),
                    "k": numbers(shape[1] + 3, shape[0], seed),
                    "temperature": 0.5,
                    "positions": torch.arange(shape[1]) * 3 + seed,
                    "seed": numbers(2**62, shape[0], seed),
                    "step": numbers(2**31, shape[0], seed),
                    "call": numbers(2**16, 1, seed)[0],
                }

            for name, make in {"ranked": ranked, "drawn": drawn}.items():
                title = f"{name}, {list(shape)} {dtype_name}"
                yield Case("select_positions", title, select_positions, make, check_selection)


def check_counts(results: Results, arguments: Arguments) -> None:
    given = arrays(arguments)
    if "threshold" in given["rule"]:
        given["bound"] = arguments["bound"].to(arguments["scores"].dtype).double().numpy()
    expect_near("count", results["output 0"], reference.count_positions(**given))


def counts() -> Iterator[Case]:
    shapes = [(3, 1), (5, 257), (2, 4097), (0, 9), (4, 0)]
    for (rule, shape), (dtype_name, dtype) in zip(product(RULES, shapes), cycle(DTYPES.items())):

        def make(seed: int, rule: str = rule, shape: tuple[int, int] = shape, dtype: torch.dtype = dtype) -> Arguments:
            scores = confidences(*shape, dtype, seed)
            bound = torch.linspace(0, 1, shape[0] + 1, dtype=torch.float64)[1:]
            return {
                "scores": scores if rule not in ("entropy_bound", "cumulative") else 1 - scores,
                "rule": rule,
                "bound": bound if rule != "cut_off" else (bound * shape[1]).round(),
                "eligible": coins(*shape, 0.8, seed),
                "at_least": 1,
            }

        yield Case("count_positions", f"{rule}, {list(shape)} {dtype_name}", count_positions, make, check_counts)


def check_update(results: Results, arguments: Arguments) -> None:
    for (name, value), truth in zip(results.items(), reference.remask_step(**arrays(arguments)), strict=True):
        expect_near(name, value, truth)


def updates() -> Iterator[Case]:
    modes = ("two bands", "refill never", "one pool", "given masks")
    for (mode, shape), (dtype_name, dtype) in zip(product(modes, SHAPES), cycle(DTYPES.items())):

        def make(seed: int, mode: str = mode, shape: tuple[int, int] = shape, dtype: torch.dtype = dtype) -> Arguments:
            proposals = torch.randint(-1, MASK + 1, shape, generator=torch.Generator().manual_seed(seed))
            arguments = {
                "tokens": torch.where(coins(*shape, 0.5, seed), MASK, 3),
                "proposals": proposals,  # some are no token, some the mask itself
                "mask_id": MASK,
                "fixed": coins(*shape, 0.1, seed + 1),
                "eligible": coins(*shape, 0.9, seed + 2),
            }
            if mode == "given masks":
                return {**arguments, "commit": coins(*shape, 0.4, seed), "remask": coins(*shape, 0.4, seed + 3)}
            scores = {
                "unmask_score": confidences(*shape, dtype, seed),
                "keep_score": confidences(*shape, dtype, seed + 1),
            }
            many = numbers(shape[1] // 2 + 3, shape[0], seed, low=-1)
            if mode == "one pool":
                return {**arguments, **scores, "keep_count": many}
            few = numbers(shape[1] // 4 + 3, shape[0], seed + 1, low=-1)
            refill = "never" if mode == "refill never" else "if_short"
            return {**arguments, **scores, "unmask_count": many, "remask_count": few, "refill": refill}

        yield Case("remask_step", f"{mode}, {list(shape)} {dtype_name}", remask_step, make, check_update)


def check_numbers(results: Results, arguments: Arguments) -> None:
    given = arrays(arguments)
    grid = np.broadcast_to(given["positions"], (len(given["seed"]), given["positions"].shape[-1]))
    bits = reference.random_bits(
        given["seed"][:, None], 0, grid, given["step"][:, None], given["purpose"], given["call"]
    )
    dtype = np.float64 if arguments["dtype"] == torch.float64 else np.float32
    expect_near("number", results["output 0"], reference.uniform(bits, dtype))


def uniform_numbers() -> Iterator[Case]:
    for dtype in (torch.float32, torch.float64):
        for shape in SHAPES:

            def make(seed: int, shape: tuple[int, int] = shape, dtype: torch.dtype = dtype) -> Arguments:
                return {
                    "seed": numbers(2**62, shape[0], seed, low=-(2**62)),
                    "positions": torch.arange(shape[1]) * 5 + seed,
                    "step": numbers(2**31, shape[0], seed + 1),
                    "purpose": rng.Purpose.COMMIT,
                    "call": numbers(2**16, 1, seed)[0],
                    "dtype": dtype,
                }

            yield Case(
                "uniform", f"{list(shape)} {str(dtype).removeprefix('torch.')}", rng.uniform, make, check_numbers
            )


CASES = [*uniform_numbers(), *selections(), *counts(), *updates()]
