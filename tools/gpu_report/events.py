"""A pytest plugin that writes down each test as it begins and ends, so that it is known where a process died.

A failure may leave a CUDA context in which nothing runs any more; the tests that remain are then not run.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

PATH = "GPU_REPORT_EVENTS"


class Events:
    def __init__(self, path: Path) -> None:
        self._path = path

    def _write(self, **event: Any) -> None:
        with self._path.open("a") as file:
            file.write(json.dumps(event) + "\n")

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self._write(collected=len(session.items))

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._write(begin=nodeid)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
        report = yield
        if report.when == "call" or not report.passed:
            self._write(end=item.nodeid, outcome=report.outcome, message=_message(report))
        if report.failed and (problem := _context_problem()):
            self._write(dead=problem)
            item.session.shouldstop = f"the device takes no more work: {problem}"
        return report


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Events(Path(os.environ[PATH])), "gpu report's events")


def _message(report: pytest.TestReport) -> str:
    if report.passed:
        return ""
    if isinstance(report.longrepr, tuple):  # of a skip: where and why
        return str(report.longrepr[2]).removeprefix("Skipped: ")
    crash = getattr(report.longrepr, "reprcrash", None)
    return " ".join(str(crash.message if crash else report.longrepr).split())[:400]


def _context_problem() -> str | None:
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return None
    try:
        torch.cuda.synchronize()
    except Exception as error:
        return " ".join(str(error).split())[:200]
    return None
