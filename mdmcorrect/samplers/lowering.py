"""What a sampler's parts are to the operator that makes a step's bookkeeping: a few numbers each.

A part that the operator knows has a method ``lower() -> Lowered | None``; one without it, or that answers None, is made
by its Python, and with it the whole step. The names and codes are those of ``csrc/core/sampler_step_params.h``.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

MOST_ENDS = 8

# In the order of the operator's structs StepInts and StepReals.
INTS = (
    "mask_id", "plan", "window_steps", "block_steps", "extra", "behind", "column_block", "finish", "use_cache",
    "waiting", "settles", "correct_every", "correct_start", "want_masked", "want_committed", "want_span",
    "count", "score_rule", "at_least", "last_free", "order", "spend_on_masks", "refill_if_short",
    "remask", "remask_number", "remask_start", "remask_stop", "remask_by",
    "sigma", "plateau", "during", "complete",
    "keep_order", "advance", "strict", "steady", "annealed", "noise",
    *(f"end_{index}" for index in range(MOST_ENDS)),
)  # fmt: skip
REALS = (
    "order_temperature", "score_bound", "remask_eta", "eps", "eta", "scale", "power", "during_on", "during_off",
    "plateau_on", "plateau_off", "plateau_alpha", "keep_eta", "noise_scale",
)  # fmt: skip


class PlanKind(IntEnum):
    RANKED, DRAWN, POOL = range(3)


class WindowSteps(IntEnum):
    SHARE, UNTIL_FILLED, GIVEN = range(3)


class Behind(IntEnum):
    NONE, ALWAYS, FIRST = range(3)


class Waiting(IntEnum):
    NONE, ALL, UNTIL_SETTLED = range(3)


class CommitCount(IntEnum):
    EVEN, CEIL, GRID, ALL = range(4)


class ScoreRule(IntEnum):
    NONE, THRESHOLD, STRICT_THRESHOLD, FACTOR, ENTROPY_BOUND = range(5)


class Order(IntEnum):
    SCORE, NEGATED, RANDOM, STAYS, COMMITTED = range(5)


class RemaskCount(IntEnum):
    NONE, CONSTANT, BINOMIAL, CENTRED = range(4)


class SigmaKind(IntEnum):
    NONE, CAP, RESCALE, CONFIDENCE, DETOUR = range(5)


class PoolNoise(IntEnum):
    NONE, GUMBEL, UNIFORM = range(3)


class RowField(IntEnum):
    """Columns of the row tensor: the state's, the layout's, and what a step knows of itself before its forward."""

    SEED, ORIGIN, STEP, WINDOW, WINDOW_STEP, QUOTA, DONE, SETTLED, NFE = range(9)
    WINDOWS, EACH, MORE = range(9, 12)
    LIVE, NEED, CORRECT, FINISHING, UNFILLED, START, STOP, OPEN_QUOTA, UNMASK, REMASK = range(12, 22)


class Mark(IntEnum):
    """Planes of the marks, bool ``[6, B, L]``."""

    COMMITTED, REMASKED, CORRECTED, WANTED, COMMIT_DRAWN, REMASK_DRAWN = range(6)


class StepMode(IntEnum):
    """What a call of the operator does, a bit each."""

    CLOSE, OPEN, FIXED_STEPS, LAST_STEP, FIRST = (1 << bit for bit in range(5))


@dataclass(frozen=True)
class Lowered:
    """A part in numbers.

    Attributes:
        numbers: by the names of :data:`INTS` and :data:`REALS`; what no part says is 0.
        scores: names of the scores the operator ranks by: "rank" masked positions, "keep" committed ones.
        tables: numbers by step, "kept_share" and "noise_scales".
    """

    numbers: Mapping[str, float] = field(default_factory=dict)
    scores: Mapping[str, str] = field(default_factory=dict)
    tables: Mapping[str, tuple[float, ...]] = field(default_factory=dict)

    def __or__(self, other: Lowered) -> Lowered:
        return Lowered(
            {**self.numbers, **other.numbers}, {**self.scores, **other.scores}, {**self.tables, **other.tables}
        )

    def packed(self) -> str:
        """The numbers as the operator takes them: the bytes of its two structs, in hexadecimal digits."""
        ints = [int(self.numbers.get(name, 0)) for name in INTS]
        reals = [float(self.numbers.get(name, 0.0)) for name in REALS]
        return struct.pack(f"={len(ints)}q{len(reals)}d", *ints, *reals).hex()


def lowered(*parts: Any) -> Lowered | None:
    """The parts together; None if one of them does not lower. None is no part."""
    whole = Lowered()
    for part in parts:
        if part is None:
            continue
        own = part.lower() if hasattr(part, "lower") else None
        if own is None:
            return None
        whole |= own
    return whole


def is_exactly(part: object, kind: type) -> bool:
    """Whether ``part`` is of that class and no subclass, whose methods may say something else."""
    return type(part) is kind
