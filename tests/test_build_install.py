"""The source distribution installs in a fresh environment and works outside the source tree."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

from mdmcorrect import _native

ROOT = Path(__file__).resolve().parent.parent

CHECK = """
import mdmcorrect, mdmcorrect.jit, mdmcorrect.ops, mdmcorrect.examples.sudoku, torch
from mdmcorrect import _native
print(mdmcorrect.__file__)
print(_native.build_info()["version"] == mdmcorrect.__version__)
print(mdmcorrect.ops.select_positions(torch.tensor([[1.0, 3.0, 2.0]]), 1).tolist())
print(mdmcorrect.jit.sources())
print("select_positions" in mdmcorrect.jit.cuda_ops())
"""


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    result = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.mark.slow
def test_sdist_installs_and_works_elsewhere(tmp_path):
    """No network: the new environment borrows pip, setuptools and torch from this one; our package is its own."""
    build = "import setuptools.build_meta as b, sys; print(b.build_sdist(sys.argv[1]))"
    sdist = run(sys.executable, "-c", build, tmp_path, cwd=ROOT).splitlines()[-1]

    venv.create(tmp_path / "env", with_pip=False)
    python = tmp_path / "env" / "bin" / "python"
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=tmp_path).strip())
    (site / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")

    pip = [python, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-build-isolation"]
    run(*pip, "--force-reinstall", tmp_path / sdist, cwd=tmp_path, MDMCORRECT_CUDA="off")

    facts = run(python, "-c", CHECK, cwd=tmp_path, PYTHONPATH="").splitlines()
    installed_in, version_matches, chosen, cuda_sources, has_sources = facts
    assert Path(installed_in).is_relative_to(site)
    assert version_matches == "True"
    assert chosen == "[[False, True, False]]"
    assert Path(cuda_sources).is_relative_to(site)
    assert has_sources == "True"
    console = run(python.parent / "mdmcorrect", "doctor", cwd=tmp_path)
    assert str(site) in console
    assert re.search(r"CUDA build +none\n", console)


@pytest.mark.skipif(not _native.build_info()["cuda_ops"], reason="this build has no CUDA kernels")
def test_a_cuda_build_says_so_and_serves_the_cpu_without_a_driver(tmp_path):
    """What a wheel of this build would hold, where there is no NVIDIA driver: libcuda.so.1 is not a library."""
    (tmp_path / "libcuda.so.1").write_text("")
    script = """
import torch
from mdmcorrect import cli, ops
print(ops.select_positions(torch.tensor([[1.0, 3.0, 2.0]]), 1).tolist())
cli.main(["doctor"])
"""
    chosen, *console = run(
        sys.executable, "-c", script, cwd=ROOT, LD_LIBRARY_PATH=str(tmp_path), CUDA_VISIBLE_DEVICES=""
    ).splitlines()
    assert chosen == "[[False, True, False]]"
    assert any(re.match(r"CUDA build +nvcc [\d.]+, for sm_\d+", line) for line in console)
    assert any(re.match(r" +select_positions .*CUDA: a CUDA kernel, no device to run it", line) for line in console)
