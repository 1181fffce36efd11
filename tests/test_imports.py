"""Importing a part costs little beyond torch: no compiler, no computer algebra, no other package comes along."""

from __future__ import annotations

import json
import pkgutil
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

import mdmcorrect

# Parts of torch that take as long to import as torch itself, and what they bring.
HEAVY = ("torch._dynamo", "torch._inductor", "torch.fx.experimental.symbolic_shapes", "sympy", "mpmath")
# What may import the package it is about.
ABOUT = {"mdmcorrect.integrations": {"transformers"}}
PARTS = sorted(
    module.name
    for module in pkgutil.walk_packages(mdmcorrect.__path__, "mdmcorrect.", onerror=lambda name: None)
    if not module.name.startswith(("mdmcorrect.examples", "mdmcorrect._C", "mdmcorrect._host"))
    and module.name != "mdmcorrect.__main__"
    and not any(module.name.startswith(f"{about}.") for about in ABOUT)
)

PROBE = """
import importlib, json, sys, torch
before = set(sys.modules)
found = {}
for name in json.loads(sys.argv[1]):
    importlib.import_module(name)
    found[name] = sorted(set(sys.modules) - before)
    before |= set(sys.modules)
print(json.dumps(found))
"""


def imported_beyond_torch(names: list[str]) -> dict[str, list[str]]:
    """For each of these modules, imported in turn by one process, what came beside what was there."""
    command = [sys.executable, "-c", PROBE, json.dumps(names)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def strangers(modules: list[str]) -> list[str]:
    """Those that are neither ours, nor torch's or its NumPy's, nor the standard library's."""
    known = {"mdmcorrect", "torch", "numpy", *sys.stdlib_module_names}
    return [name for name in modules if name.split(".")[0] not in known]


@pytest.mark.parametrize(
    "name",
    ["mdmcorrect.ops", "mdmcorrect.samplers", "mdmcorrect.losses", "mdmcorrect.compat.llada", "mdmcorrect.heads"],
)
def test_a_part_by_itself(name):
    modules = imported_beyond_torch([name])[name]
    assert not [module for module in modules if module.startswith(HEAVY)]
    others = [module for module in modules if not module.startswith("mdmcorrect")]
    assert len(others) < 20, others


def test_no_part_brings_another_package():
    for name, modules in imported_beyond_torch(PARTS).items():
        assert not [module for module in modules if module.startswith(HEAVY)], name
        assert not strangers(modules), name


def test_the_probe_sees_what_is_heavy():
    modules = imported_beyond_torch(["torch._dynamo"])["torch._dynamo"]
    assert {"torch._dynamo", "sympy"} <= set(modules)
    assert strangers(modules)


def test_no_two_modules_beside_the_tests_have_one_name() -> None:
    """Their folders lie on one path: of two modules of a name, whoever comes second imports the other's."""
    root = Path(__file__).parents[1]
    folders = [root / "tools", root / "benchmarks", *{path.parent for path in (root / "tests").rglob("*.py")}]
    found = defaultdict(list)
    for folder in folders:
        for path in folder.glob("*.py"):
            found[path.stem].append(path)
        for path in folder.glob("*/__init__.py"):
            found[path.parent.name].append(path)
    own = {"conftest", "__init__", "__main__"}  # pytest imports each conftest by its path
    twice = {name: places for name, places in found.items() if len(places) > 1 and name not in own}
    assert not twice
