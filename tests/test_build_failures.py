"""One clear sentence, at install and at import time, for everything that can be missing."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest
import setuptools
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from mdmcorrect import _kernels, _native, ops

ROOT = Path(__file__).resolve().parent.parent


def run_python(python: str | Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(python), *arguments], capture_output=True, text=True, check=False, env={**os.environ, **environment}
    )


@pytest.fixture(scope="module")
def bare_python(tmp_path_factory):
    """An interpreter that sees the source tree and nothing else: no torch, no numpy."""
    folder = tmp_path_factory.mktemp("bare")
    venv.create(folder, with_pip=False)
    return folder / "bin" / "python"


def test_import_without_torch(bare_python):
    result = run_python(bare_python, "-c", "import mdmcorrect; import mdmcorrect.ops", PYTHONPATH=str(ROOT))
    assert result.stderr.strip().splitlines()[-1] == (
        "ImportError: mdmcorrect needs torch 2.10 or newer, and none is installed here: run `pip install torch`."
    )


def test_every_module_without_torch(bare_python):
    """Whatever is imported first, the answer is the same sentence."""
    script = """
import importlib, pkgutil, mdmcorrect
for found in pkgutil.walk_packages(mdmcorrect.__path__, "mdmcorrect.", onerror=lambda name: None):
    if not any(part in found.name for part in ("examples", "csrc", "reference", "_C", "_host", "__main__")):
        try:
            importlib.import_module(found.name)
        except Exception as error:
            print(found.name, type(error).__name__, error, sep="|")
"""
    result = run_python(bare_python, "-c", script, PYTHONPATH=str(ROOT))
    said = dict(line.split("|", 1) for line in result.stdout.splitlines())
    assert len(said) > 15
    assert said.keys() >= {f"mdmcorrect.{name}" for name in ("canvas", "compat", "heads", "losses", "ops", "samplers")}
    assert set(said.values()) == {
        "ImportError|mdmcorrect needs torch 2.10 or newer, and none is installed here: run `pip install torch`."
    }


def test_doctor_without_torch(bare_python):
    result = run_python(bare_python, "-m", "mdmcorrect", "doctor", PYTHONPATH=str(ROOT))
    assert result.returncode == 1, result.stderr
    assert "mdmcorrect needs torch 2.10 or newer, and none is installed here" in result.stdout


def test_import_with_an_old_torch(monkeypatch):
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "2.9.1")
    _native.load.cache_clear()
    with pytest.raises(ImportError, match=r"needs torch 2\.10 or newer, and torch 2\.9\.1 is installed"):
        _native.load()


def test_import_of_a_library_that_was_not_built(monkeypatch, tmp_path):
    monkeypatch.setattr(_native, "LIBRARY", tmp_path / "_C.abi3.so")
    _native.load.cache_clear()
    with pytest.raises(ImportError, match=r"compiled library is missing .*: build it with `pip install"):
        _native.load()


def test_an_instruction_set_the_machine_lacks():
    result = run_python(sys.executable, "-c", "import mdmcorrect.ops", MDMCORRECT_ISA="avx9")
    last = result.stderr.strip().splitlines()[-1]
    assert "MDMCORRECT_ISA=avx9 names no instruction set this machine can run; it can run: " in last
    assert result.returncode == 1


@pytest.fixture
def setup_script(monkeypatch):
    """setup.py as a module, with setup() itself left out."""
    monkeypatch.setattr(setuptools, "setup", lambda **kwargs: None)
    monkeypatch.chdir(ROOT)
    spec = importlib.util.spec_from_file_location("setup_script", ROOT / "setup.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "setup_script", module)
    spec.loader.exec_module(module)
    return module


def a_torch(folder: Path, version: str) -> Path:
    (folder / "torch").mkdir(parents=True)
    (folder / "torch" / "version.py").write_text(f"__all__ = ['__version__']\n__version__ = '{version}'\n")
    return folder / "torch"


def test_install_without_torch(setup_script, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(setup_script, "package_folders", lambda: iter([ROOT / "tests"]))
    with pytest.raises(
        SystemExit, match=r"^mdmcorrect: torch was not found .* name its folder by MDMCORRECT_TORCH_DIR"
    ):
        setup_script.find_torch()


def test_install_with_an_old_torch(setup_script, monkeypatch, tmp_path):
    monkeypatch.setenv("MDMCORRECT_TORCH_DIR", str(a_torch(tmp_path, "2.6.0+cu124")))
    with pytest.raises(
        SystemExit, match=r"^mdmcorrect: torch 2\.6\.0\+cu124 is too old; torch 2\.10 or newer is needed"
    ):
        setup_script.find_torch()


def test_install_against_the_torch_that_is_named(setup_script, monkeypatch, tmp_path):
    monkeypatch.setenv("MDMCORRECT_TORCH_DIR", str(a_torch(tmp_path, "2.11.0+cu130")))
    assert setup_script.find_torch() == tmp_path / "torch"
    monkeypatch.setenv("MDMCORRECT_TORCH_DIR", str(tmp_path))
    with pytest.raises(SystemExit, match=r"^mdmcorrect: MDMCORRECT_TORCH_DIR=.* is no torch; name the folder"):
        setup_script.find_torch()


def test_an_isolated_build_finds_the_torch_of_the_environment_it_is_for(setup_script, monkeypatch, tmp_path):
    """It imports nothing of that environment, whose packages are taken off its path."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(sys, "path", ["", str(ROOT)])
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path / name))
    expected = a_torch(tmp_path / "platlib", "2.12.1")
    assert setup_script.find_torch() == expected
    assert setup_script.torch_version(expected) == "2.12.1"


def test_an_isolated_build_asks_for_cmake_where_there_is_none(setup_script, monkeypatch):
    monkeypatch.delenv("_PYPROJECT_HOOKS_BUILD_BACKEND", raising=False)
    monkeypatch.delenv("PEP517_BUILD_BACKEND", raising=False)
    monkeypatch.setattr(setup_script, "find_tool", lambda name: None)
    assert setup_script.isolated_needs() == []
    monkeypatch.setenv("_PYPROJECT_HOOKS_BUILD_BACKEND", "setuptools.build_meta")
    assert setup_script.isolated_needs() == ["cmake"]
    monkeypatch.setattr(setup_script, "find_tool", lambda name: "/usr/bin/cmake")
    assert setup_script.isolated_needs() == []


def test_install_with_a_setuptools_that_makes_no_wheels(setup_script, monkeypatch):
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "65.5.0")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit, match=r"^mdmcorrect: setuptools 65\.5\.0 cannot build wheels without wheel; run"):
        setup_script.check_setuptools()


def test_install_without_a_compiler(setup_script, monkeypatch):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(shutil, "which", lambda *args, **kwargs: None)
    with pytest.raises(
        SystemExit, match=r"^mdmcorrect: no C\+\+17 compiler was found \(looked for c\+\+, g\+\+, clang"
    ):
        setup_script.check_compiler()


def test_install_without_cmake(setup_script, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda *args, **kwargs: None)
    with pytest.raises(SystemExit, match=r"^mdmcorrect: cmake was not found; `pip install cmake`"):
        setup_script.find_cmake()


def test_cuda_tensor_without_a_cuda_kernel(monkeypatch):
    monkeypatch.setattr(_kernels, "CUDA_OPS", frozenset())
    with FakeTensorMode():
        scores = torch.empty(2, 4, device="cuda")
        with pytest.raises(
            RuntimeError, match=r"^select_positions: got a tensor on cuda.*, but this build of mdmcorrect"
        ):
            ops.select_positions(scores, 1)


def test_every_op_answers_on_cuda_itself():
    """Never the dispatcher's own words: each op is registered for CUDA, if only to say that it has no kernel there."""
    for op in _native.build_info()["ops"]:
        assert torch._C._dispatch_has_kernel_for_dispatch_key(f"mdmcorrect::{op}", "CUDA"), op
