"""Scores and counts over the steps of a run, drawn by matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .run import Row, Run

SCORES = ("quality", "confidence", "entropy")
_COUNTS = {
    "filled": ("filled", "returned"),
    "mended": ("mended",),
    "rewritten": ("rewritten",),
    "masked again": ("masked",),
}


def plot(run: Run, *, scores: Sequence[str] = SCORES, rows: Sequence[int] | None = None) -> Any:
    """Above, the mean of each score over all rows, with the middle half of the positions shaded; below, the counts.

    Quality is that of the tokens that stood before the step; the other scores are of what was proposed at masks.
    Entropy, in nats, has the right axis. Scores that the run did not record are left out.

    Args:
        run: what to show.
        scores: names, as they were recorded.
        rows: which, by their number in the batch; None for all.

    Returns:
        A matplotlib ``Figure``; ``figure.savefig(path)`` writes it.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: no row is left.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("plot draws with matplotlib, which is not installed: pip install matplotlib") from error
    chosen = [row for row in run.rows if rows is None or row.index in rows]
    if not chosen:
        raise ValueError(f"rows: expected some of {[row.index for row in run.rows]}, got {rows}")
    picture = Figure(figsize=(7, 4.6), layout="constrained")
    above, below = picture.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    twin = None
    for number, name in enumerate(scores):
        steps, low, mean, high = _spread(chosen, name, run.mask_id)
        if not len(steps):
            continue
        axes = above
        if name == "entropy":
            axes = twin = above.twinx()
            axes.set_ylabel("entropy, nats")
        axes.plot(steps, mean, color=f"C{number}", label=name)
        axes.fill_between(steps, low, high, color=f"C{number}", alpha=0.15, linewidth=0)
    lines = [line for axes in (above, twin) if axes is not None for line in axes.get_lines()]
    if lines:
        above.legend(lines, [str(line.get_label()) for line in lines], fontsize=8)
    above.set(ylabel="probability", ylim=(0, 1.02), title=f"{run.method or 'sampler'}, {len(chosen)} rows")
    _draw_counts(below, chosen)
    below.set(xlabel="step", ylabel="tokens per row")
    return picture


def _spread(rows: Sequence[Row], name: str, mask_id: int) -> tuple[Any, Any, Any, Any]:
    """Steps with anything to tell, and lower quartile, mean and upper quartile of the score in each."""
    found: dict[int, list[float]] = {}
    for row in rows:
        for before, frame in zip(row.canvases(), row.frames, strict=False):
            for place, value in enumerate(frame.scores.get(name, ())):
                stands = name != "quality" or before[place] != mask_id
                if value is not None and stands and not row.fixed[place]:
                    found.setdefault(frame.step + 1, []).append(value)
    steps = sorted(found)
    parts = [np.array([of(found[step]) for step in steps], np.float64) for of in (_lower, np.mean, _upper)]
    return steps, *parts  # type: ignore[return-value]


def _lower(values: list[float]) -> float:
    return float(np.quantile(values, 0.25))


def _upper(values: list[float]) -> float:
    return float(np.quantile(values, 0.75))


def _draw_counts(axes: Any, rows: Sequence[Row]) -> None:
    most = max((frame.step + 1 for row in rows for frame in row.frames), default=0)
    steps, base = np.arange(1, most + 1), np.zeros(most)
    for number, (name, kinds) in enumerate(_COUNTS.items()):
        heights = np.zeros(most)
        for row in rows:
            for frame in row.frames:
                heights[frame.step] += sum(kind in kinds for _, _, kind in frame.changes) / len(rows)
        if not heights.any():
            continue
        down = name == "masked again"
        bottom = np.zeros(most) if down else base
        axes.bar(steps, -heights if down else heights, bottom=bottom, color=f"C{number + 4}", label=name)
        base = base if down else base + heights
    axes.axhline(0, color="black", linewidth=0.8)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=8)
