"""Every instruction set this machine runs gives the reference's results, not only the one chosen at load.

score_tokens, which differs most between them, has its own such tests in tests/ops/test_score_tokens_invariance.py.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mdmcorrect import _native

ROOT = Path(__file__).resolve().parent.parent
INFO = _native.build_info()
TESTS = [
    "tests/test_rng.py",
    "tests/ops/test_select_positions.py",
    "tests/ops/test_remask_step.py",
    "tests/ops/test_bidirectional_attention.py",
    "tests/ops/test_bidirectional_attention_backward.py",
    "tests/ops/test_linear_cross_entropy.py",
    "tests/ops/test_large_scores.py",
]
# Words of names of tests that no instruction set decides: compilation, errors at the boundary, laws of draws (others
# compare their bits), memory, the references themselves.
LEFT_OUT = [
    "compile",
    "opcheck",
    "errors_name",
    "native_checks",
    "wrong_arguments",
    "refuses",
    "cuda_binding",
    "laws",
    "plackett_luce",
    "memory",
    "known_answers",
    "reference_is",
    "reference_stays",
    "shadow_is",
    "seed_step_call",
]


@pytest.mark.slow
@pytest.mark.skipif("MDMCORRECT_ISA" in os.environ, reason="runs the operators' tests once per instruction set itself")
@pytest.mark.parametrize("isa", [isa for isa in INFO["isas_supported"] if isa != INFO["isa"]])
def test_operators_on(isa):
    """The choice is made once per process, so each instruction set gets its own."""
    options = ["-q", "-m", "not slow", "-k", f"not ({' or '.join(LEFT_OUT)})"]
    result = subprocess.run(
        [sys.executable, "-m", "pytest", *options, *TESTS],
        cwd=ROOT,
        env={**os.environ, "MDMCORRECT_ISA": isa},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout[-4000:]


def test_float_conversions_of_the_kernels():
    """Half and bfloat16 scores are widened by csrc/core; all 65536 patterns of each equal torch's."""
    host = pytest.importorskip("mdmcorrect._host", reason="built without pybind11")
    import torch

    bits = torch.arange(65536, dtype=torch.int32)
    for dtype, widen in ((torch.float16, host.float16_to_float), (torch.bfloat16, host.bfloat16_to_float)):
        expected = bits.to(torch.int16).view(dtype).float()
        got = torch.tensor([widen(int(pattern)) for pattern in bits], dtype=torch.float32)
        assert torch.equal(got.nan_to_num(), expected.nan_to_num())
        assert torch.equal(got.isnan(), expected.isnan())
        number = ~got.isnan()
        assert torch.equal(torch.signbit(got[number]), torch.signbit(expected[number]))
