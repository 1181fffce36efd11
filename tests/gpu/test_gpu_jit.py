"""The kernels as NVRTC compiles them, launched: every case of test_gpu_ops.py in a process that has no others."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.gpu, pytest.mark.slow]

SCRIPT = """
import sys
import pytest
from mdmcorrect import jit
jit.load(replace=True)
sys.exit(pytest.main(["-q", "-m", "gpu", "-p", "no:cacheprovider", sys.argv[1]]))
"""


def test_kernels_of_nvrtc():
    pytest.importorskip("cupy", reason="needs CuPy: pip install 'mdmcorrect[jit]'")
    cases = Path(__file__).with_name("test_gpu_ops.py")
    result = subprocess.run([sys.executable, "-c", SCRIPT, cases], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
