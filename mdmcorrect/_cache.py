"""The user's cache folder: compiled CUDA kernels, and what ``mdmcorrect tune`` measured."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path


def cache_dir() -> Path:
    """``$MDMCORRECT_CACHE``, or ``mdmcorrect`` in the user's cache folder."""
    chosen = os.environ.get("MDMCORRECT_CACHE")
    if chosen:
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mdmcorrect"


def read_own(path: Path) -> bytes | None:
    """What a file holds, None where there is none.

    Raises:
        OSError: it cannot be read.
        PermissionError: someone else may have written it.
    """
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            held = file.read()
    except FileNotFoundError:
        return None
    if status.st_uid != os.geteuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise PermissionError(f"others may write to {path}")
    return held


def write_whole(path: Path, data: bytes) -> None:
    """Write a file for this user alone, whole or not at all, whoever else writes it at the same time.

    Raises:
        OSError: it could not be written; nothing is left of it.
    """
    temporary = None
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:  # made with mode 0600
            temporary = Path(file.name)
            file.write(data)
        os.replace(temporary, path)
    except OSError:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        raise
