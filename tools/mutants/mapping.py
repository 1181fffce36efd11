"""Which test runs which line, and how long it takes: kept in build/mutants."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .areas import ROOT, TESTS

KEPT = ROOT / "build" / "mutants"
LINES, SECONDS = KEPT / "lines.sqlite", KEPT / "seconds.json"


class Recorder:
    """A pytest plugin that notes the lines and the seconds of each test."""

    def __init__(self) -> None:
        import coverage

        self.coverage = coverage.Coverage(data_file=str(LINES), source=[str(ROOT / "mdmcorrect")], config_file=False)
        self.seconds: dict[str, float] = defaultdict(float)
        self.failed: set[str] = set()  # without a bug: they would notice each

    def pytest_configure(self) -> None:
        self.coverage.load()
        self.coverage.start()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[Any]:
        self.coverage.switch_context(item.nodeid)
        answer = yield
        self.coverage.switch_context("")
        return answer

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.failed.add(report.nodeid)
        if not report.skipped:
            self.seconds[report.nodeid] += report.duration

    def pytest_unconfigure(self) -> None:
        self.coverage.stop()
        self.coverage.save()
        known = json.loads(SECONDS.read_text()) if SECONDS.exists() else {}
        times = {**known, **self.seconds}
        SECONDS.write_text(json.dumps({test: time for test, time in times.items() if test not in self.failed}))


def make(tests: list[str]) -> int:
    """Run the tests, all of them or those given, and note what they run beside what is known."""
    KEPT.mkdir(parents=True, exist_ok=True)
    if not tests:
        LINES.unlink(missing_ok=True)
        SECONDS.unlink(missing_ok=True)
    paths = [path for path in tests or TESTS if (ROOT / path).exists()]
    code = "import sys, pytest; from mutants.mapping import Recorder; sys.exit(pytest.main(sys.argv[1:], [Recorder()]))"
    command = [sys.executable, "-c", code, "-q", "-p", "no:cacheprovider", "-p", "no:benchmark", *paths]
    return subprocess.run(command, cwd=ROOT, check=False, env=_environment()).returncode


def _environment() -> dict[str, str]:
    import os

    return {**os.environ, "PYTHONPATH": f"{ROOT / 'tools'}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}


class Map:
    """The tests of a line.

    Raises:
        FileNotFoundError: nobody has made the map.
    """

    def __init__(self) -> None:
        from coverage import CoverageData

        if not LINES.exists():
            raise FileNotFoundError(f"{LINES} is missing: make it by `python tools/mutants map`")
        self.data = CoverageData(basename=str(LINES))
        self.data.read()
        self.seconds: dict[str, float] = json.loads(SECONDS.read_text())

    def tests(self, path: Path, lines: list[int]) -> list[str]:
        """Tests that run one of the lines; of what runs at import, those that run anything of the module."""
        by_line = self.data.contexts_by_lineno(str(path))
        found = {test for line in self._nearest(by_line, lines) for test in by_line[line]}
        if found <= {""}:
            found = {test for tests in by_line.values() for test in tests}
        return sorted(found & self.seconds.keys())

    @staticmethod
    def _nearest(by_line: dict[int, list[str]], lines: list[int]) -> set[int]:
        """Of a statement of several lines coverage knows the first."""
        return {
            max((line for line in by_line if line <= wanted), default=min(by_line, default=0)) for wanted in lines
        } & set(by_line)

    def within(self, tests: list[str], limit: float) -> list[str]:
        """Of the tests, so many seconds' worth: the files take turns, the quickest of each first."""
        files: dict[str, list[str]] = defaultdict(list)
        for test in sorted(tests, key=lambda test: (self.seconds[test], test)):
            files[test.split("::")[0]].append(test)
        chosen, spent = [], 0.0
        turns = max(map(len, files.values()), default=0)
        for turn in range(turns):
            for queue in files.values():
                if turn < len(queue) and spent + self.seconds[queue[turn]] <= limit:
                    spent += self.seconds[queue[turn]]
                    chosen.append(queue[turn])
        return chosen
