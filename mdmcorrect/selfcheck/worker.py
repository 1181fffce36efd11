"""A child process that is asked for one family of cases after the other, and what can become of a family.

A wrong address ends a CUDA context, a missing instruction the process, and a wrong barrier never ends: so the kernels
run in a process of their own, which is replaced after anything but a pass, and ended when its time is up.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from .child import CASES

PACKAGES = Path(__file__).resolve().parents[2]
SECONDS_TO_START = 120.0  # importing torch from a cold disk, making a CUDA context
TIMES_AS_LONG_TO_COMPILE = 20.0


@dataclass(frozen=True)
class Outcome:
    """What became of one family on one device or instruction set."""

    family: str
    where: str
    status: str
    """ "ok", "FAILED" (results differ, or an error was raised), "crashed", "timed out" or "skipped"."""
    cases: int
    """Cases that were begun."""
    failed: int = 0
    message: str = ""
    """Of the first case that failed: what was asked, what came, what was expected; or why it was skipped."""
    seconds: float = 0.0


class NotStarted(RuntimeError):
    """The child ended, or hung, before it could be asked anything; the message says why."""


class Worker:
    """Asks a child for families. The process starts with the object, and anew when it is needed again.

    Args:
        where: what outcomes call this worker: an instruction set or a device.
        device: "cpu", "cuda" or "cuda:1".
        isa: the instruction set that the child's operators are forced to.
        seconds: what a family may take; more where its kernels are compiled first.
        cases: the module whose ``FAMILIES`` the child runs.
    """

    def __init__(
        self, where: str, *, device: str, isa: str | None = None, seconds: float = 20.0, cases: str = CASES
    ) -> None:
        self.where, self._seconds = where, seconds
        self._command = [sys.executable, "-m", "mdmcorrect.selfcheck.child", "--device", device, "--cases", cases]
        paths = [str(PACKAGES), os.environ.get("PYTHONPATH", "")]
        self._environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
        if isa is not None:
            self._environment["MDMCORRECT_ISA"] = isa
        self._process: subprocess.Popen[str] | None = None
        self._refusal: str | None = None
        self._start()

    def _start(self) -> None:
        self._about: dict[str, Any] | None = None
        self._errors: IO[str] = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115
        self._answers: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env=self._environment,
        )
        threading.Thread(target=_pass_on, args=(self._process.stdout, self._answers), daemon=True).start()

    def about(self) -> dict[str, Any]:
        """What ``child.about`` says, once the child is ready.

        Raises:
            NotStarted: with the child's last words; once that happened, at every call.
        """
        if self._refusal is not None:
            raise NotStarted(self._refusal)
        if self._process is None:
            self._start()
        if self._about is None:
            try:
                answer = self._answers.get(timeout=SECONDS_TO_START)
            except queue.Empty:
                self.close()
                self._refusal = f"not ready after {SECONDS_TO_START:.0f} s"
                raise NotStarted(self._refusal) from None
            if answer is None:
                self._refusal = self._death()
                raise NotStarted(self._refusal)
            self._about = answer["ready"]
        return self._about

    def ask(self, family: str) -> Outcome:
        """Run a family, in a new process if the last one is gone.

        Raises:
            NotStarted: no process could be made ready.
        """
        about = self.about()
        lacking = about["lacking"].get(family)
        if lacking is not None:
            return Outcome(family, self.where, "skipped", 0, message=lacking)
        assert self._process is not None
        assert self._process.stdin is not None
        limit = self._seconds * (TIMES_AS_LONG_TO_COMPILE if family in about["compiled_here"] else 1.0)
        start = time.monotonic()
        case, begun, failures = "", 0, list[str]()

        def outcome(status: str, message: str = "") -> Outcome:
            messages = [*failures, message] if message else failures
            seconds = time.monotonic() - start
            return Outcome(family, self.where, status, begun, len(messages), next(iter(messages), ""), seconds)

        try:
            self._process.stdin.write(family + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            return outcome("crashed", self._death())
        while True:
            try:
                answer = self._answers.get(timeout=max(0.0, start + limit - time.monotonic()))
            except queue.Empty:
                self.close()
                return outcome("timed out", f"{case}: no end after {limit:.0f} s")
            if answer is None:
                return outcome("crashed", f"{case}: {self._death()}")
            if "case" in answer:
                case, begun = answer["case"], begun + 1
            elif "failed" in answer:
                failures.append(f"{case}: {answer['failed']}")
            elif "done" in answer:
                break
        if failures:
            self.close()  # an error on a device stays with its context
        return outcome("FAILED" if failures else "ok")

    def _death(self) -> str:
        """How the process ended, and the last it said on stderr."""
        assert self._process is not None
        code = self._process.wait()
        how = f"ended by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
        self._errors.seek(0)
        said = [line.strip() for line in self._errors.read().splitlines() if line.strip()]
        fatal = [line for line in said if "rror" in line and not line.startswith("Fatal Python error")]
        self.close()
        return f"the process {how}" + (f" ({fatal[-1]})" if fatal else "")

    def close(self) -> None:
        """End the process; :meth:`ask` makes another."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            for stream in (self._process.stdin, self._errors):
                if stream is not None:
                    _close(stream)
        self._process = self._about = None


def _pass_on(lines: IO[str], answers: queue.Queue[dict[str, Any] | None]) -> None:
    """The child's answers, and None when it is gone."""
    with lines:
        for line in lines:
            if line.endswith("\n"):  # the last one may be cut off
                answers.put(json.loads(line))
    answers.put(None)


def _close(stream: IO[str]) -> None:
    with contextlib.suppress(BrokenPipeError):  # what was still to be written to a process that is gone
        stream.close()
