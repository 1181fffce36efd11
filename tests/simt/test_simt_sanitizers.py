"""The same kernels and the harness itself under AddressSanitizer and UBSan, with ucontext for the switch of stacks."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import harness
import pytest

SOURCE = Path(__file__).resolve().parent


def run_sanitized(program: str) -> subprocess.CompletedProcess[str]:
    """The program in a Python that has AddressSanitizer loaded first, with `simt` a harness of that build."""
    compiler = shutil.which("g++")
    runtime = (
        compiler
        and subprocess.run(
            [compiler, "-print-file-name=libasan.so"], capture_output=True, text=True, check=True
        ).stdout.strip()
    )
    if not runtime or not Path(runtime).exists():
        pytest.skip("needs g++ and libasan")
    library = harness.build("asan")
    head = f"import sys; sys.path.insert(0, {str(SOURCE)!r}); import harness; simt = harness.Simt({str(library)!r})\n"
    return subprocess.run(
        [sys.executable, "-c", head + textwrap.dedent(program)],
        env={
            **os.environ,
            "LD_PRELOAD": str(Path(runtime).resolve()),
            "ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=0",
            "UBSAN_OPTIONS": "print_stacktrace=1",
        },
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
def test_kernels_are_clean():
    done = run_sanitized("""
        import itertools
        import numpy as np
        import test_simt_remask_step as remask
        import test_simt_select_positions as select
        random = np.random.default_rng(0)
        for length, dtype in itertools.product([1, 33, 700, 4100], select.TYPES):
            scores = select.TYPES[dtype](random.normal(size=(2, length)))
            select.check(simt, scores, np.array([length // 2, length]))
            select.check(simt, scores, np.array([1, 3]), temperature=0.5, seed=3)
            for seed, mode in enumerate(remask.MODES):
                tokens, proposals, options = remask.case(mode, length, dtype, seed)
                remask.check(simt, tokens, proposals, **options)
        print("clean")
    """)
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout.strip() == "clean"
    assert "runtime error" not in done.stderr, done.stderr[-4000:]


@pytest.mark.slow
def test_a_read_past_the_end_is_found():
    done = run_sanitized("""
        import numpy as np
        import test_simt_controls as controls
        defect = 1 + list(controls.DEFECTS).index("one_past_the_end")
        controls.sum_rows(simt, defect, np.ones((7, 200), np.float32))
    """)
    assert done.returncode != 0
    assert "AddressSanitizer: use-after-poison" in done.stderr, done.stderr[-2000:]
