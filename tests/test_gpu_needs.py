"""`pytest tests/gpu -m gpu` needs pytest, torch and numpy, and none of the extras: GPUs are often behind firewalls."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

PYTEST = ("-m", "pytest", "-q", "-p", "no:cacheprovider")
HIDE = """
from importlib.machinery import PathFinder

HIDDEN = {names!r}
found = PathFinder.find_spec


def find_spec(cls, name, path=None, target=None):
    return None if name.split(".")[0] in HIDDEN or name == "mdmcorrect._host" else found(name, path, target)


PathFinder.find_spec = classmethod(find_spec)
"""
EXTRAS = {
    *("accelerate", "build", "cosmic_ray", "coverage", "cupy", "cupy_backends", "hypothesis", "matplotlib", "peft"),
    *("pybind11", "rdkit", "rich", "safetensors", "scipy", "transformers", "xdist"),
}


@pytest.fixture(scope="module")
def without_extras(tmp_path_factory):
    """Runs Python where the extras cannot be imported; pytest does not look for plugins, as there would be none."""
    folder = tmp_path_factory.mktemp("hidden")
    (folder / "sitecustomize.py").write_text(HIDE.format(names=EXTRAS))
    path = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])

    def run(*arguments: str) -> str:
        result = subprocess.run(
            [sys.executable, *arguments],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": path, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == 0, result.stdout[-4000:] + result.stderr
        return result.stdout

    return run


def test_the_extras_are_declared():
    """What is hidden here is what pyproject.toml lists beyond torch and numpy, under the names it is imported by."""
    extras = (ROOT / "pyproject.toml").read_text().partition("[project.optional-dependencies]")[2].partition("\n[")[0]
    names = {re.match(r"[\w-]+", text)[0] for text in re.findall(r'"([^"]+)"', re.sub(r"#.*", "", extras))}
    tools = {"mdmcorrect", "pytest", "ruff", "mypy", "clang-format", "setuptools", "wheel", "cmake", "ninja"}
    imported = {"pytest-xdist": "xdist", "cupy-cuda13x": "cupy", "cosmic-ray": "cosmic_ray"}
    needed = {imported.get(name, name) for name in names if name not in tools and not name.startswith("nvidia-")}
    assert needed <= EXTRAS


def test_the_extras_are_hidden(without_extras):
    script = f"import importlib.util; print([name for name in {EXTRAS!r} if importlib.util.find_spec(name)])"
    assert without_extras("-c", script).strip() == "[]"


def test_the_gpu_tests_are_collected(without_extras):
    listed = without_extras(*PYTEST, "--collect-only", "-m", "gpu", "tests/gpu")
    files = {line.split("::")[0] for line in listed.splitlines() if "::" in line}
    assert files == {f"tests/gpu/{path.name}" for path in (ROOT / "tests" / "gpu").glob("test_*.py")}


def test_their_cases_run(without_extras):
    """Each file's form for the CPU, or its reason to skip; one case of each test."""
    listed = without_extras(*PYTEST, "--collect-only", "tests/gpu").splitlines()
    first = {line.split("[")[0]: line for line in reversed(listed) if "::" in line and "cuda" not in line}
    assert len(first) > 20
    without_extras(*PYTEST, *first.values())
