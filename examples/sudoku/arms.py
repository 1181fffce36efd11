"""The samplers that the evaluation compares, each with the settings that validation puzzles choose from.

All arms of one checkpoint share one sampler, the static top-k loop: every call commits the same net number of cells, so
arms differ only in the order of commits and in what is taken back. Every arm chooses among four settings.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mdmcorrect.samplers import PRISM, Sampler
from mdmcorrect.samplers.correct import FixedPoint
from mdmcorrect.samplers.counts import CeilTarget
from mdmcorrect.samplers.scoring import Scoring
from mdmcorrect.samplers.unmask import Unmask

__all__ = ["ARMS", "SETTINGS", "AllSettings", "Arm", "Settings", "load_settings", "settings_of"]

Settings = dict[str, Any]
AllSettings = dict[str, dict[str, dict[str, Settings]]]  # by arm, order of commits, calls
SETTINGS = "settings.json"
_REMASKING = [{"temperature": 0.0, "remask_count": count} for count in (1, 2, 4, 6)]
_PLAIN = [{"temperature": t} for t in (0.0, 0.25, 0.5, 1.0)]
_CORRECTING = [
    {"every": every, "passes": passes, "carry_over": carry}
    for every, passes in ((1, 1), (3, 1))
    for carry in (False, True)
]


@dataclass(frozen=True)
class Arm:
    """One row of the table: a checkpoint, an order of commits, and how to sample in at most `calls` calls a puzzle."""

    name: str
    checkpoint: str
    order: str
    make: Callable[[int, Settings], Callable[..., Any]]
    grid: list[Settings]

    def is_random(self, settings: Settings) -> bool:
        """Whether another seed can give another board."""
        return self.order == "random" or "random" in self.name or settings.get("temperature", 0.0) > 0


def _static(order: str, remask: str | None) -> Callable[[int, Settings], Callable[..., Any]]:
    def make(calls: int, settings: Settings) -> Callable[..., Any]:
        return PRISM(steps=calls, unmask=order, remask=remask, **settings)

    return make


def _corrected(order: str) -> Callable[[int, Settings], Callable[..., Any]]:
    def make(calls: int, settings: Settings) -> Callable[..., Any]:
        every, passes, carry_over = settings["every"], settings["passes"], settings["carry_over"]
        # A correction costs up to `passes` calls on top of the step's own, every `every` steps.
        return Sampler(
            steps=max(1, calls * every // (every + passes)),
            unmask=Unmask(order=order, count=CeilTarget()),
            correct=FixedPoint(every=every, passes=passes, carry_over=carry_over),
            scoring=Scoring(temperature=0.0),
        )

    return make


def _arms() -> list[Arm]:
    arms = []
    for order in ("random", "max_probability"):
        for remask in (None, "random", "confidence", "quality"):
            label = {None: "no correction", "quality": "PRISM"}.get(remask, f"{remask} remasking")
            grid = _PLAIN if remask is None else _REMASKING
            arms.append(Arm(f"prism/{label}", "prism", order, _static(order, remask), grid))
        arms.append(Arm("trained on/no correction", "longer", order, _static(order, None), _PLAIN))
        arms.append(Arm("proseco/no correction", "proseco", order, _static(order, None), _PLAIN))
        arms.append(Arm("proseco/ProSeCo", "proseco", order, _corrected(order), _CORRECTING))
    return arms


ARMS = _arms()


def load_settings(folder: Path) -> AllSettings:
    """What `evaluate search` chose on validation puzzles; empty if it has not run there."""
    path = folder / SETTINGS
    return json.loads(path.read_text()) if path.exists() else {}


def settings_of(chosen: AllSettings, arm: Arm, calls: int) -> Settings:
    """The chosen settings of an arm, or the first of its grid where nothing was chosen."""
    return chosen.get(arm.name, {}).get(arm.order, {}).get(str(calls), arm.grid[0])
