"""A JSONL file that a command writes and, after a kill, goes on with: nothing is lost, nothing comes twice."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from ._told import UserError


def fingerprint(settings: Mapping[str, Any]) -> str:
    """Sixteen characters that stand for settings: what was written with others is not gone on with."""
    text = json.dumps(settings, sort_keys=True, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


class Journal:
    """One line per answer, each with ``index``, the question it answers, and ``run``, the fingerprint of the settings.

    A line counts once it ends with a line break; what a kill left after the last one is cut off. The file is locked, so
    that two processes do not answer the same questions.

    Args:
        path: the file; made if it is missing.
        run: the fingerprint.
        overwrite: begin anew.

    Raises:
        UserError: the file cannot be written, is being written by another process, or holds something else.
    """

    def __init__(self, path: Path, run: str, *, overwrite: bool = False) -> None:
        self.path, self.run = path, run
        try:
            self._file: IO[bytes] = open(path, "a+b")  # noqa: SIM115
        except OSError as error:
            raise UserError(f"--out {path}: {error.strerror}") from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.close()
            raise UserError(f"--out {path}: another process is writing it") from None
        try:
            if overwrite:
                self._file.truncate(0)
            self.done = self._read()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._file.close()

    def write(self, lines: Iterable[Mapping[str, Any]]) -> None:
        """Add answers; when this returns they are on the disk."""
        for line in lines:
            self.done[line["index"]] = dict(line)
            self._file.write(json.dumps({**line, "run": self.run}).encode("ascii") + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def _read(self) -> dict[int, dict[str, Any]]:
        self._file.seek(0)
        text = self._file.read()
        whole = text.rfind(b"\n") + 1
        done: dict[int, dict[str, Any]] = {}
        for number, line in enumerate(text[:whole].splitlines(), 1):
            entry = self._entry(number, line)
            if entry["index"] in done:
                raise UserError(f"--out {self.path}, line {number}: index {entry['index']} is there twice")
            done[entry["index"]] = entry
        if whole < len(text):
            self._file.truncate(whole)
        self._file.seek(0, os.SEEK_END)
        return done

    def _entry(self, number: int, line: bytes) -> dict[str, Any]:
        hint = "name another file, or give --overwrite to begin anew"
        try:
            entry = json.loads(line)
        except ValueError:
            entry = None
        if not isinstance(entry, dict) or not isinstance(entry.get("index"), int) or "run" not in entry:
            raise UserError(f"--out {self.path}, line {number}: this command did not write it; {hint}")
        if entry["run"] != self.run:
            raise UserError(f"--out {self.path}, line {number}: it was written with other settings; {hint}")
        return entry
