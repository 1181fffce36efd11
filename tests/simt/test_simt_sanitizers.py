"""The same kernels and the harness itself under AddressSanitizer and UBSan, with ucontext for the switch of stacks."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import cuda_code
import harness
import pytest
from harness import ROOT

SOURCE = Path(__file__).resolve().parent


def run_sanitized(*arguments: str) -> subprocess.CompletedProcess[str]:
    """A Python that has AddressSanitizer loaded first, and the harness's modules on its path."""
    compiler = shutil.which("g++")
    runtime = (
        compiler
        and subprocess.run(
            [compiler, "-print-file-name=libasan.so"], capture_output=True, text=True, check=True
        ).stdout.strip()
    )
    if not runtime or not Path(runtime).exists():
        pytest.skip("needs g++ and libasan")
    return subprocess.run(
        [sys.executable, *arguments],
        env={
            **os.environ,
            "LD_PRELOAD": str(Path(runtime).resolve()),
            "PYTHONPATH": os.pathsep.join([str(SOURCE), str(ROOT / "tools"), *sys.path]),
            "ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=0",
            "UBSAN_OPTIONS": "print_stacktrace=1",
        },
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
def test_every_kernel_is_clean():
    done = run_sanitized(str(SOURCE / "sanitized_run.py"), str(harness.build("asan")))
    assert done.returncode == 0, done.stderr[-4000:]
    assert "runtime error" not in done.stderr, done.stderr[-4000:]
    launched = {cuda_code.budget_of(kernel) for kernel in done.stdout.split()}
    assert [budget.pattern for budget in cuda_code.budgets() if budget not in launched] == []


@pytest.mark.slow
def test_a_read_past_the_end_is_found():
    program = f"""
import numpy as np
import harness
import test_simt_controls as controls
defect = 1 + list(controls.DEFECTS).index("one_past_the_end")
controls.sum_rows(harness.Simt({str(harness.build("asan"))!r}), defect, np.ones((7, 200), np.float32))
"""
    done = run_sanitized("-c", program)
    assert done.returncode != 0
    assert "AddressSanitizer: use-after-poison" in done.stderr, done.stderr[-2000:]
