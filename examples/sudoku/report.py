"""The evaluation's table: solved against measured calls, and what each arm gains over its rivals, puzzle by puzzle."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from .figures import figure

__all__ = ["Row", "paired_gain", "picture", "read_rows", "table"]


METHODS = {"PRISM": "prism/PRISM", "ProSeCo": "proseco/ProSeCo"}


@dataclass(frozen=True)
class Row:
    """One arm at one number of calls: `solved` [seeds, puzzles] of 0 and 1, and means over seeds."""

    arm: str
    order: str
    calls: int
    solved: npt.NDArray[np.float64]
    cells: float
    nfe: float
    settings: dict[str, float]

    @property
    def rate(self) -> float:
        return float(self.solved.mean())


def read_rows(folder: Path) -> list[Row]:
    """The rows of every arm that was tested, its seeds stacked.

    Raises:
        FileNotFoundError: `folder` holds no results.
    """
    groups: dict[tuple[str, str, int], list[dict]] = {}
    for path in sorted(folder.glob("*.json")):
        entry = json.loads(path.read_text())
        groups.setdefault((entry["arm"], entry["order"], entry["calls"]), []).append(entry)
    if not groups:
        raise FileNotFoundError(f"no results in {folder}; run `evaluate search` and `evaluate test` first")
    return [
        Row(
            arm,
            order,
            calls,
            np.array([[float(one) for one in entry["solved"]] for entry in entries]),
            float(np.mean([entry["cells"] for entry in entries])),
            float(np.mean([entry["nfe"] for entry in entries])),
            entries[0]["settings"],
        )
        for (arm, order, calls), entries in groups.items()
    ]


def paired_gain(ours: Row, other: Row, *, resamples: int = 10_000, seed: int = 0) -> tuple[float, float, float]:
    """Mean difference in solved, and its 95 % interval from resampling puzzles (seeds of a puzzle stay together)."""
    difference = ours.solved.mean(0) - other.solved.mean(0)
    picks = np.random.default_rng(seed).integers(0, len(difference), (resamples, len(difference)))
    low, high = np.quantile(difference[picks].mean(1), [0.025, 0.975])
    return float(difference.mean()), float(low), float(high)


def table(folder: Path) -> str:
    """Markdown: every row, then the gains of PRISM and of ProSeCo over the best of their rivals at the same calls."""
    rows = read_rows(folder)
    lines = [
        "| calls | order | arm | measured NFE | solved | cells right | settings |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in sorted(rows, key=lambda one: (one.calls, one.order, one.arm)):
        spread = row.solved.mean(1).std() if len(row.solved) > 1 else 0.0
        settings = ", ".join(f"{name} {value:g}" for name, value in row.settings.items())
        lines.append(
            f"| {row.calls} | {row.order} | {row.arm} | {row.nfe:.1f} | {row.rate:.3f} ± {spread:.3f} "
            f"| {row.cells:.4f} | {settings} |"
        )
    lines += ["", "| calls | order | arm | against | gain in solved | 95 % interval |", "|---|---|---|---|---|---|"]
    for calls in sorted({row.calls for row in rows}):
        for order in sorted({row.order for row in rows}):
            here = [row for row in rows if (row.calls, row.order) == (calls, order)]
            lines += _gains(here, calls, order)
    return "\n".join(lines)


def picture(folder: Path, path: Path) -> None:
    """Solved against measured calls, one panel per order of commits, one line per arm, as a PNG."""
    rows = read_rows(folder)
    orders = sorted({row.order for row in rows}, reverse=True)
    with figure(path, width=4.6, height=4.4, panels=len(orders)) as panels:
        for axes, order in zip(panels, orders, strict=True):
            for arm in sorted({row.arm for row in rows}):
                points = sorted((row.nfe, row.rate) for row in rows if (row.arm, row.order) == (arm, order))
                width = 2.2 if arm in METHODS.values() else 1.0
                axes.plot(*zip(*points, strict=True), label=arm, marker="o", linewidth=width)
            title = f"commits in {order.replace('_', ' ')} order"
            axes.set(xlabel="model calls per puzzle (NFE)", title=title, ylim=(0, 1.02))
            axes.grid(alpha=0.3)
        panels[0].set_ylabel("puzzles solved")
        panels[0].legend(fontsize=8)


def _gains(rows: list[Row], calls: int, order: str) -> list[str]:
    def best(chosen: list[Row]) -> Row:
        return max(chosen, key=lambda row: row.rate)

    uncorrected = [row for row in rows if row.arm.endswith("no correction")]
    training_free = [row for row in rows if row.arm.endswith("remasking")]
    lines = []
    for label, arm in METHODS.items():
        ours = [row for row in rows if row.arm == arm]
        if not ours:
            continue
        rivals = {
            "best uncorrected": uncorrected,
            "best training-free": training_free,
            "own checkpoint uncorrected": [row for row in uncorrected if row.arm.split("/")[0] == arm.split("/")[0]],
        }
        for against, candidates in rivals.items():
            if candidates:
                rival = best(candidates)
                gain, low, high = paired_gain(best(ours), rival)
                who = f"{label} | {against} ({rival.arm})"
                lines.append(f"| {calls} | {order} | {who} | {gain:+.3f} | [{low:+.3f}, {high:+.3f}] |")
    return lines
