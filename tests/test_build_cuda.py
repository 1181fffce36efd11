"""What nvcc makes of the CUDA kernels: they compile, and keep everything in registers."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
NVCC = shutil.which("nvcc")

pytestmark = [pytest.mark.slow, pytest.mark.skipif(NVCC is None, reason="needs nvcc")]


@pytest.mark.parametrize("arch", ["sm_80", "sm_90"])
@pytest.mark.parametrize("source", sorted((ROOT / "csrc" / "cuda").glob("*.cu")), ids=lambda path: path.stem)
def test_no_local_memory(source, arch, tmp_path):
    command = [NVCC, "-std=c++17", "-O3", "--fmad=false", f"-arch={arch}", "-Xptxas=-v", f"-I{ROOT / 'csrc'}", "-cubin"]
    result = subprocess.run(
        [*command, "-o", str(tmp_path / "kernel.cubin"), str(source)], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    usage = re.findall(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", result.stderr)
    assert usage
    assert all(numbers == ("0", "0", "0") for numbers in usage), result.stderr
