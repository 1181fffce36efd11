"""What nvcc makes of the CUDA kernels: they compile, keep all in registers, and use the instructions they should."""

from __future__ import annotations

import functools
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent
NVCC = shutil.which("nvcc")
SOURCES = sorted((ROOT / "csrc" / "cuda").glob("*.cu"))
ARCHS = ["sm_80", "sm_90"]

pytestmark = [pytest.mark.slow, pytest.mark.skipif(NVCC is None, reason="needs nvcc")]


class Usage(NamedTuple):
    stack: int
    spill_stores: int
    spill_loads: int
    registers: int


@functools.cache
def compiled(op: str, arch: str) -> tuple[Path, dict[str, Usage]]:
    """The cubin of an operator's kernels, and what each of them uses as ptxas says."""
    cubin = Path(tempfile.mkdtemp(prefix="mdmcorrect-cubin-")) / f"{op}-{arch}.cubin"
    command = [NVCC, "-std=c++17", "-O3", "--fmad=false", f"-arch={arch}", "-Xptxas=-v", f"-I{ROOT / 'csrc'}", "-cubin"]
    result = subprocess.run(
        [*command, "-o", str(cubin), str(ROOT / "csrc" / "cuda" / f"{op}.cu")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    entry = re.compile(
        r"Compiling entry function '(\w+)'.*?(\d+) bytes stack frame, (\d+) bytes spill stores, "
        r"(\d+) bytes spill loads.*?Used (\d+) registers",
        re.S,
    )
    return cubin, {name: Usage(*map(int, numbers)) for name, *numbers in entry.findall(result.stderr)}


def disassembly(cubin: Path) -> dict[str, str]:
    """Each kernel's machine code."""
    folders = (Path(entry) / "nvidia" for entry in sys.path)
    found = [str(tool) for folder in folders for tool in folder.glob("*/bin/cuobjdump")]
    tool = shutil.which("cuobjdump") or next(iter(found), None)
    if tool is None:
        pytest.skip("needs cuobjdump (pip install nvidia-cuda-cuobjdump)")
    text = subprocess.run([tool, "-sass", str(cubin)], capture_output=True, text=True, check=True).stdout
    parts = re.split(r"Function : (\w+)", text)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("op", [path.stem for path in SOURCES])
def test_no_local_memory(op, arch):
    _, usage = compiled(op, arch)
    assert usage
    assert all(kernel[:3] == (0, 0, 0) for kernel in usage.values()), usage


# Registers per thread of the attention kernels, at most: with 128 threads, 168 let three blocks share an SM, 255 two.
ATTENTION_REGISTERS = {
    "bidirectional_attention": {32: 176, 64: 232, 96: 224, 128: 255, 192: 176, 256: 232},
    "attention_backward_queries": {32: 136, 64: 176, 96: 136, 128: 176},
    "attention_backward_keys": {32: 168, 64: 192, 96: 176, 128: 255},
}
ATTENTION_OPS = ["bidirectional_attention", "bidirectional_attention_backward"]


def kind_and_width(kernel: str) -> tuple[str, int]:
    """Of attention_backward_keys_float16_64: attention_backward_keys, 64."""
    kind, _, width = kernel.rsplit("_", 2)
    return kind, int(width)


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("op", ATTENTION_OPS)
def test_attention_stays_within_its_registers(op, arch):
    kernels = {name: used for name, used in compiled(op, arch)[1].items() if "float16" in name}
    assert len(kernels) == (12 if op == "bidirectional_attention" else 16)
    for name, used in kernels.items():
        kind, width = kind_and_width(name)
        assert used.registers <= ATTENTION_REGISTERS[kind][width], (name, used)


def products_of_an_iteration(kind: str, width: int) -> int:
    """m16n8k16 products that a warp multiplies for one tile of the other side, each of which the code has once."""
    tile = 64 if width <= 64 else 32
    row_tiles = 2 if kind == "bidirectional_attention" and width <= 128 else 1
    matrices = {"bidirectional_attention": 2, "attention_backward_queries": 3, "attention_backward_keys": 4}[kind]
    return matrices * row_tiles * (width // 16) * (tile // 8)


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("op", ATTENTION_OPS)
def test_attention_multiplies_on_tensor_cores(op, arch):
    for name, code in disassembly(compiled(op, arch)[0]).items():
        assert not re.search(r"\b(LDL|STL)\b", code)
        if "float16" not in name:  # the kernel of single rows multiplies no matrices
            continue
        products = re.findall(r"HMMA\.16816\.F32(\.BF16)?", code)
        assert len(products) == products_of_an_iteration(*kind_and_width(name)), name
        assert (".BF16" in products) == ("bfloat16" in name)
        assert re.search(r"LDSM\.16\.M88\.4", code)
        assert re.search(r"LDSM\.16\.MT88\.4", code)  # transposed, where rows are summed over
        assert re.search(r"LDGSTS\.E\.BYPASS\.128", code)  # cp.async past L1
        assert re.search(r"STG\.E\.128", code)
