"""Where all that is needed is there, make and pip fetch nothing: a GPU is often behind a firewall."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import needs
import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
OFFLINE = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "", "PIP_CONFIG_FILE": os.devnull}
ABSENT = "no-such-distribution-of-ours"

# Python, but that of what would build, install or run something only the command is kept.
PYTHON = """#!/bin/sh
echo "$*" >> {log}
case "$1" in
  tools/needs.py) exec {python} "$@" ;;
esac
"""


@pytest.fixture
def pip_calls(monkeypatch):
    """What pip is asked to install, none of which it does."""
    asked = []
    monkeypatch.setattr(needs, "pip", lambda requirements, options: asked.append((requirements, options)) or True)
    return asked


def run_needs(monkeypatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["needs.py", *words])
    return needs.main()


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
@pytest.mark.parametrize(
    ("target", "extra", "ends"),
    [
        ("build", None, "-m pip install --quiet --no-build-isolation --no-deps --editable ."),
        ("demo", "demo", "-m mdmcorrect demo"),
        ("bench", "bench", "-m mdmcorrect bench"),
        ("test", "test", "-m pytest -q"),
    ],
)
def test_make_fetches_nothing(target, extra, ends, tmp_path):
    wanted = ["build", *([f"[{extra}]"] if extra else []), *(["pybind11"] if target == "test" else [])]
    missing = [str(each) for each in needs.expanded(wanted) if not needs.is_there(each)]
    if missing:
        pytest.skip(f"needs {', '.join(missing)}")
    log, python = tmp_path / "log", tmp_path / "python"
    python.write_text(PYTHON.format(log=log, python=sys.executable))
    python.chmod(0o755)
    result = subprocess.run(
        ["make", target, f"PYTHON={python}", "PYTEST_ARGS=", "BENCH_ARGS="],
        cwd=ROOT,
        env={**os.environ, **OFFLINE},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    ran = log.read_text().splitlines()
    installs = [line for line in ran if "pip install" in line]
    assert installs == ["-m pip install --quiet --no-build-isolation --no-deps --editable ."]
    assert ran[-1].rstrip() == ends
    optional = target == "test"  # what some tests compare with, and are skipped without
    assert optional or "could not install" not in result.stderr


def test_what_is_there_is_not_asked_for(pip_calls, monkeypatch):
    assert run_needs(monkeypatch, "torch>=2.10", "numpy", "pytest") == 0
    assert not pip_calls


def test_what_is_missing_is_asked_for_alone(pip_calls, monkeypatch):
    assert run_needs(monkeypatch, "--constraint", "file", "numpy", ABSENT, "pytest>=99") == 0
    assert pip_calls == [([ABSENT, "pytest>=99"], ["--constraint", "file"])]


def test_a_missing_torch_comes_from_its_index(pip_calls, monkeypatch):
    monkeypatch.setattr(needs, "is_there", lambda each, target: each.name != "torch")
    words = ["--torch", "torch==2.13.0", "--torch-index-url", "https://index", "build"]
    assert run_needs(monkeypatch, *words) == 0
    assert pip_calls == [(["torch==2.13.0"], ["--index-url", "https://index"])]


def test_extras_are_those_of_the_project():
    names = {each.name for each in needs.expanded(["[test]"])}
    assert names >= {"hypothesis", "rich", "pytest", "cupy-cuda13x", "transformers", "matplotlib"}  # through others too
    assert "mdmcorrect" not in names
    assert {each.name for each in needs.expanded(["build"])} >= {"setuptools", "cmake", "torch", "numpy"}


@pytest.mark.parametrize(("version", "wheel"), [("65.5.0", True), ("70.0.0", True), ("70.1.0", False), ("84.2", False)])
def test_an_older_setuptools_needs_wheel(version, wheel, monkeypatch):
    monkeypatch.setattr(needs.importlib.metadata, "version", lambda name: version)
    assert ("wheel" in {each.name for each in needs.expanded(["build"])}) == wheel
    assert needs.is_there(Requirement(needs.BUILD[0]))


def test_what_came_without_pip_counts(tmp_path, monkeypatch):
    """A module of conda's or the system's, a program on PATH."""
    module, program = Requirement(ABSENT), Requirement("nvidia-cuda-cuobjdump")
    monkeypatch.setitem(needs.PROGRAMS, ABSENT, "a-program-of-ours")
    assert not needs.is_there(module)
    (tmp_path / "a-program-of-ours").write_text("")
    (tmp_path / "a-program-of-ours").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert needs.is_there(module)
    monkeypatch.delitem(needs.PROGRAMS, ABSENT)
    (tmp_path / "no_such_distribution_of_ours.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    assert needs.is_there(module)
    assert program.name in needs.PROGRAMS


def test_a_script_beside_it_is_no_module(monkeypatch):
    """tools/clang_format.py is not clang-format."""

    def without_records(name):
        raise needs.importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(needs.importlib.metadata, "version", without_records)
    monkeypatch.setattr(needs.shutil, "which", lambda program: None)
    assert needs.importlib.util.find_spec("clang_format") is not None
    assert not needs.is_there(Requirement("clang-format==23.1.5"))


def test_a_folder_of_its_own(tmp_path):
    requirement = Requirement("some-compiler==13.0.88")
    assert not needs.is_there(requirement, tmp_path)
    info = tmp_path / "some_compiler-13.0.88.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: some-compiler\nVersion: 13.0.88\n")
    assert needs.is_there(requirement, tmp_path)
    assert not needs.is_there(Requirement("some-compiler==13.1"), tmp_path)
    assert not needs.is_there(Requirement("numpy"), tmp_path)


@pytest.mark.parametrize(("options", "code"), [([], 1), (["--optional"], 0)])
def test_without_a_network_one_sentence_says_what_to_do(options, code):
    result = subprocess.run(
        [sys.executable, "tools/needs.py", *options, "numpy", ABSENT],
        cwd=ROOT,
        env={**os.environ, **OFFLINE},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == code
    assert f"mdmcorrect: pip could not install {ABSENT} (it says why above)." in result.stderr
    assert "PIP_FIND_LINKS" in result.stderr
