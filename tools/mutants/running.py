"""A mutant in a process of its own, before the tests that run its line."""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from types import CodeType, ModuleType
from typing import Any

import pytest

from .areas import ROOT
from .making import Mutant

START = 40.0  # seconds that imports and collection may take
PREPARED = ("torch", "numpy", "hypothesis", "scipy.stats", "pytest", "torch.testing", "torch.utils.checkpoint")


@dataclass(frozen=True)
class Outcome:
    """``noticed``: by "a test", "time", "import"; "" for nobody. ``tests``: how many were asked at most."""

    mutant: Mutant
    noticed: str
    tests: int
    seconds: float


class Overlay(importlib.abc.MetaPathFinder):
    """Gives one module another text."""

    def __init__(self, mutant: Mutant) -> None:
        self.mutant = mutant

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> Any:
        if name != self.mutant.module:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is not None:
            spec.loader = _Loader(name, str(self.mutant.path), self.mutant.text)
        return spec


class _Loader(importlib.machinery.SourceFileLoader):
    def __init__(self, name: str, path: str, text: str) -> None:
        super().__init__(name, path)
        self.text = text

    def get_code(self, fullname: str) -> CodeType:
        return compile(self.text, self.path, "exec")


class Chosen:
    """A pytest plugin that runs these tests alone, in this order; of a whole file, all."""

    def __init__(self, tests: list[str]) -> None:
        self.order = {test: index for index, test in enumerate(tests)}

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        def place(item: pytest.Item) -> int | None:
            return self.order.get(item.nodeid, self.order.get(item.nodeid.split("::")[0]))

        items[:] = sorted((item for item in items if place(item) is not None), key=lambda item: place(item) or 0)


def prepare() -> None:
    """Import what every process needs, once, but nothing of ours."""
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    for name in PREPARED:
        __import__(name)
    import torch

    torch.set_num_threads(1)  # a fork of a process with a thread pool would wait for its threads


def run(mutant: Mutant, tests: list[str], seconds: float) -> Outcome:
    """Whether one of the tests notices the mutant. ``seconds``: what they take without it."""
    if not tests:
        return Outcome(mutant, "", 0, 0.0)
    started = time.monotonic()
    child = os.fork()
    if not child:
        os._exit(_ask(mutant, tests))
    limit = START + 4 * seconds
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            break
        if time.monotonic() - started > limit:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return Outcome(mutant, "time", len(tests), time.monotonic() - started)
        time.sleep(0.05)
    code = os.waitstatus_to_exitcode(status)
    noticed = {0: "", 1: "a test", 2: "import", 5: ""}.get(code, "a crash")
    return Outcome(mutant, noticed, len(tests), time.monotonic() - started)


def _ask(mutant: Mutant, tests: list[str]) -> int:
    os.setpgid(0, 0)
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1)
    os.dup2(nothing, 2)
    os.chdir(ROOT)
    sys.meta_path.insert(0, Overlay(mutant))
    files = list(dict.fromkeys(test.split("::")[0] for test in tests))
    options = ["-q", "-x", "-p", "no:cacheprovider", "-p", "no:benchmark", "-p", "no:xdist"]
    try:
        return int(pytest.main([*options, *files], [Chosen(tests)]))
    except BaseException:
        return 2
