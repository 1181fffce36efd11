"""Cases of correct_pass: a corrector's draft made and rewritten, against the definition in a few lines of torch."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ..ops.correct_pass import correct_pass
from ..samplers.lowering import RowField
from .cases import Arguments, Case, Results
from .comparison import expect_near

VOCABULARY, MASK = 13, 12
SHAPES = [(3, 37), (2, 300), (2, 4100)]
NAMES = ("draft", "reach", "moved", "token", "value_0", "value_1", "value_2")


def passed(**arguments: object) -> tuple[Tensor, ...]:
    return correct_pass(**arguments)


def made(first: bool, carry_over: bool, shape: tuple[int, int], seed: int) -> Arguments:
    draw = torch.Generator().manual_seed(seed)

    def ids(low: int, high: int, *size: int) -> Tensor:
        return torch.randint(low, high, size or shape, generator=draw)

    rows = torch.zeros(shape[0], len(RowField), dtype=torch.int64)
    for column in (RowField.LIVE, RowField.CORRECT):
        rows[:, column] = ids(0, 5, shape[0]).clamp(max=1)
    rows[:, RowField.WINDOW] = ids(0, 3, shape[0])
    arguments: Arguments = {
        "rows": rows, "draft": ids(0, VOCABULARY), "fixed": ids(0, 4) == 0, "block": ids(0, 4), "mask_id": MASK,
        "first": first, "carry_over": carry_over, "proposal": ids(-1, MASK),
        "token": None, "earlier_token": None,
        **{f"{kind}_{index}": None for index in range(3) for kind in ("value", "earlier")},
    }  # fmt: skip
    if not first:
        arguments |= {"token": ids(-1, MASK), "earlier_token": ids(0, MASK)}
        for index, dtype in enumerate((torch.bfloat16, torch.float32)):
            for kind in ("value", "earlier"):
                arguments[f"{kind}_{index}"] = torch.rand(shape, generator=draw).to(dtype)
    return arguments


def check(results: Results, arguments: Arguments) -> None:
    rows, draft, proposal, first = (arguments[name] for name in ("rows", "draft", "proposal", "first"))
    open_, mask = ~arguments["fixed"], draft == MASK
    live, correct = rows[:, RowField.LIVE, None] != 0, rows[:, RowField.CORRECT, None] != 0
    reach = open_ & live & (arguments["block"] <= rows[:, RowField.WINDOW, None])
    takes = correct & open_ & (mask | (not arguments["carry_over"])) if first else reach
    after = torch.where(takes & (proposal >= 0), proposal, draft)
    expected = {"draft": after, "moved": (after != draft).any(1)}
    if first:
        expected["reach"] = reach
    else:
        scored = arguments["token"] >= 0
        expected["token"] = torch.where(scored, arguments["token"], arguments["earlier_token"])
        for index in range(2):
            value, earlier = arguments[f"value_{index}"], arguments[f"earlier_{index}"]
            expected[f"value_{index}"] = torch.where(scored, value, earlier)
    for name, truth in expected.items():
        found = results[f"output {NAMES.index(name)}"]
        expect_near(name, found, (truth.double() if truth.is_floating_point() else truth).numpy())


def passes() -> Iterator[Case]:
    for shape in SHAPES:
        for title, first, carry_over in (
            ("first", True, True),
            ("first, everywhere", True, False),
            ("later", False, True),
        ):

            def make(
                seed: int, first: bool = first, carry_over: bool = carry_over, shape: tuple[int, int] = shape
            ) -> Arguments:
                return made(first, carry_over, shape, seed)

            yield Case("correct_pass", f"{title}, {list(shape)}", passed, make, check)


CASES = [*passes()]
