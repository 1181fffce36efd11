"""The instruction sets avx512 and avx512_bf16: run on AVX-512 made of software, on any machine with AVX2.

A processor that has a set is asked itself; there the software need only give the same bits.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mdmcorrect import _native

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build" / f"native-{sys.implementation.cache_tag}"
INFO = _native.build_info()
ISAS = ["avx512", "avx512_bf16"]
# Software takes minutes for what the processor itself does in seconds, where it can.
WITHOUT_PROCESSOR = [
    pytest.param(
        isa,
        marks=pytest.mark.skipif(
            isa in INFO["isas_supported"],
            reason=f"the processor has {isa}: tests/test_build_isas.py and tests/ops ask it",
        ),
    )
    for isa in ISAS
]


@pytest.fixture(scope="module")
def library() -> Path:
    """The library with software AVX-512, which shares all other objects with the library in use."""
    has_build = (BUILD / "CMakeCache.txt").exists() and shutil.which("cmake")
    if not set(ISAS) <= set(INFO["isas_built"]) or "avx2" not in INFO["isas_supported"] or not has_build:
        pytest.skip("needs cmake, the build folder of this Python (make build), and a processor with AVX2")
    command = ["cmake", "--build", str(BUILD), "--target", "_C_software_avx512", "--parallel", "2"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "warning:" not in done.stdout + done.stderr, done.stdout + done.stderr
    return BUILD / "tests" / "avx512" / "_C_software_avx512.so"


def run(library: Path | None, isa: str, *command: str) -> str:
    """In a process of its own, on the library with software AVX-512 or on the one in use."""
    folders = [Path(__file__).parent, ROOT / "tests", ROOT / "tests" / "ops"]
    env = {
        **os.environ,
        "MDMCORRECT_ISA": isa,
        "PYTHONPATH": os.pathsep.join([*map(str, folders), os.environ.get("PYTHONPATH", "")]),
    }
    if library is not None:
        env["MDMCORRECT_SOFTWARE_AVX512"] = str(library)
    done = subprocess.run([sys.executable, *command], cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("isa", WITHOUT_PROCESSOR)
def test_rows_of_every_scale(library, isa):
    run(
        library, isa, "-c", "import use_software_avx512, test_score_tokens_scales; test_score_tokens_scales.check_all()"
    )


# Those that start a process of their own would meet the plain library.
LEFT_OUT = ["compile", "compiles", "opcheck", "every_instruction_set", "not_read", "never_exist"]
KERNEL_TESTS = [
    "tests/ops/test_score_tokens.py",
    "tests/ops/test_score_tokens_dense.py",
    "tests/ops/test_score_tokens_inputs.py",
    "tests/ops/test_score_hidden.py",
    "tests/ops/test_select_positions.py",
]


@pytest.mark.slow
@pytest.mark.parametrize("isa", WITHOUT_PROCESSOR)
def test_operators(library, isa):
    """Every shape and option of the scoring operators' tests."""
    options = ["-q", "-p", "use_software_avx512", "-p", "no:cacheprovider", "-m", "not slow"]
    run(library, isa, "-m", "pytest", *options, "-k", f"not ({' or '.join(LEFT_OUT)})", *KERNEL_TESTS)


SCORES = """
import sys
import torch
if sys.argv[1] == "software":
    import use_software_avx512
from hard_rows import hard_case
from mdmcorrect.ops import score_tokens
for seed in range(40):
    case = hard_case(seed, dtype="bfloat16", vocab=1500, length=4)
    logits = torch.from_numpy(case.rows)[None].bfloat16()
    for scores in score_tokens(logits, **case.options):
        if scores is not None:
            print((scores if scores.dtype == torch.int64 else scores.view(torch.int32)).tolist())
"""


@pytest.mark.slow
@pytest.mark.parametrize("isa", ISAS)
def test_the_software_gives_the_processors_bits(library, isa):
    if isa not in INFO["isas_supported"]:
        pytest.skip(f"needs a processor with {isa}")
    assert run(library, isa, "-c", SCORES, "software") == run(None, isa, "-c", SCORES, "processor")
