"""One way to make a figure: drawn without a display, written as a PNG into a folder made for it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = ["figure"]


@contextmanager
def figure(path: Path, *, width: float, height: float, panels: int = 1) -> Iterator[list[Any]]:
    """The axes of a row of `panels`, each `width` x `height` inches; saved to `path` when the block ends."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    drawn, axes = pyplot.subplots(1, panels, figsize=(width * panels, height), layout="constrained", squeeze=False)
    try:
        yield list(axes[0])
        path.parent.mkdir(parents=True, exist_ok=True)
        drawn.savefig(path, dpi=150)
    finally:
        pyplot.close(drawn)
