"""One way to make a figure: drawn without a display, written as a PNG into a folder made for it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = ["figure"]


@contextmanager
def figure(
    path: Path, *, width: float, height: float, panels: int = 1, columns: int | None = None
) -> Iterator[list[Any]]:
    """The axes of `panels` in rows of `columns` (default one row), each `width` x `height` inches; saved to `path` when
    the block ends."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    columns = min(columns or panels, panels)
    rows = -(-panels // columns)
    size = (width * columns, height * rows)
    drawn, axes = pyplot.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False)
    for unused in axes.flat[panels:]:
        unused.remove()
    try:
        yield list(axes.flat[:panels])
        path.parent.mkdir(parents=True, exist_ok=True)
        drawn.savefig(path, dpi=150)
    finally:
        pyplot.close(drawn)
