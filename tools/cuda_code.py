"""What nvcc made of csrc/cuda, read out of fatbins, cubins or the library itself, and what each kernel may use.

The budgets are in csrc/cuda/budgets.txt. tests/test_build_cuda.py holds what was built to them, tests/simt what is
launched, and tools/cuda_table.py prints them.
"""

from __future__ import annotations

import functools
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ROOT / "csrc" / "cuda"
BUDGETS = SOURCES / "budgets.txt"
ARCHS = ("80", "86", "89", "90", "100", "120")  # as cmake/cuda.cmake has them
WAYS = ("loop", "through")  # lines of the budgets that tools/cuda_paths.py reads
SYSTEM_SHARED = 1024  # bytes per block that CUDA keeps for itself


class Budget(NamedTuple):
    """One line of budgets.txt: what the kernels of that name may use at most, and must contain."""

    pattern: str
    registers: int  # per thread
    threads: int  # per block
    shared: int  # bytes per block
    instructions: tuple[str, ...]


class Usage(NamedTuple):
    """What a kernel takes on one architecture, bytes but for the registers."""

    registers: int
    stack: int
    local: int
    shared: int  # static, without what CUDA keeps for itself


@functools.cache
def budgets() -> tuple[Budget, ...]:
    """In the order of the file."""
    named: dict[str, list[str]] = {}
    found = []
    for line in BUDGETS.read_text().splitlines():
        pattern, *words = line.split("#")[0].split() or [""]
        if pattern in WAYS:
            continue
        if words[:1] == ["="]:
            named[pattern] = words[1:]
        elif words:
            registers, threads, shared = map(int, words[:3])
            code = (instruction for word in words[3:] for instruction in named.get(word, [word]))
            found.append(Budget(pattern, registers, threads, shared, tuple(code)))
    return tuple(found)


def budget_of(kernel: str) -> Budget | None:
    """The first line that names it."""
    return next((budget for budget in budgets() if fnmatchcase(kernel, budget.pattern)), None)


def missing_budget(kernel: str) -> str:
    """The sentence about a kernel that no line names."""
    line = f"{kernel} REGISTERS THREADS SHARED [INSTRUCTION ...]"
    return f"{kernel}: no budget; add a line to {BUDGETS.relative_to(ROOT)}: {line}"


def faults(kernel: str, used: Usage, code: Counter[str], budget: Budget | None) -> list[str]:
    """Everything a kernel does that it may not, a sentence each."""
    if budget is None:
        return [missing_budget(kernel)]
    found = []
    if used.registers > budget.registers:
        found.append(f"{used.registers} registers, of {budget.registers}")
    if used.shared > budget.shared:
        found.append(f"{used.shared} bytes of static shared memory, of {budget.shared}")
    if used.stack or used.local:
        found.append(f"{used.stack} bytes of stack, {used.local} of local memory")
    local = count_of("LDL", code) + count_of("STL", code)
    if local:
        found.append(f"{local} loads and stores of local memory (LDL, STL)")
    found += [f"no {wanted}" for wanted in budget.instructions if not count_of(wanted, code)]
    return [f"{kernel}: {fault}" for fault in found]


def count_of(wanted: str, code: Counter[str]) -> int:
    """Instructions with that name and at least those modifiers: LDG.E.NA.128.CONSTANT is an LDG.E.128."""
    name, *modifiers = wanted.split(".")
    return sum(
        count
        for opcode, count in code.items()
        if opcode.split(".")[0] == name and set(modifiers) <= set(opcode.split(".")[1:])
    )


# ------------------------------------------------------------------------------------------------------------ the tools


def find_cuobjdump() -> str | None:
    """NVIDIA's, of a toolkit on PATH or of the package nvidia-cuda-cuobjdump."""
    folders = (Path(entry) / "nvidia" for entry in sys.path)
    packaged = next((str(tool) for folder in folders for tool in folder.glob("*/bin/cuobjdump")), None)
    return shutil.which("cuobjdump") or packaged


def compile_kernels(source: Path, fatbin: Path, archs: Iterable[str], *, strict: bool = True) -> None:
    """By nvcc, with the options of cmake/cuda.cmake; strict: what nvcc or ptxas warns of is an error.

    Leaves `fatbin` alone where it is newer than everything it was made of.
    """
    made_of = fatbin.with_suffix(".d")
    if fatbin.exists() and made_of.exists():
        parts = made_of.read_text().replace("\\\n", " ").split(":", 1)[1].split()
        if all(Path(part).stat().st_mtime < fatbin.stat().st_mtime for part in parts if Path(part).exists()):
            return
    command = ["nvcc", "-fatbin", "-std=c++17", "-O3", "--threads=0", "--fmad=false"]
    command += [f"-I{ROOT / 'csrc'}", "-MD", "-MF", str(made_of)]
    command += [f"-gencode=arch=compute_{arch},code=sm_{arch}" for arch in archs]
    if strict:
        command += ["-Werror", "all-warnings", "-Xptxas=-warn-spills,-warn-lmem-usage"]
    done = subprocess.run([*command, "-o", fatbin, source], capture_output=True, text=True, check=False)
    if done.returncode != 0 or (strict and done.stderr.strip()):
        raise RuntimeError(f"nvcc on {source}:\n{done.stdout}{done.stderr}")


def usage(image: Path) -> dict[str, dict[str, Usage]]:
    """Architecture ("90") -> kernel -> what it takes."""
    found: dict[str, dict[str, Usage]] = {}
    line = re.compile(r"Function (\w+):\s+REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)")
    for arch, text in _by_arch(_cuobjdump("-res-usage", image)):
        reserved = SYSTEM_SHARED if int(arch) >= 90 else 0  # counted from sm_90 on
        for kernel, registers, stack, shared, local in line.findall(text):
            taken = Usage(int(registers), int(stack), int(local), int(shared) - reserved)
            found.setdefault(arch, {})[kernel] = taken
    return found


def machine_code(image: Path) -> Mapping[str, Mapping[str, Counter[str]]]:
    """Architecture -> kernel -> how many of each instruction (LDG.E.128.CONSTANT) there are."""
    found: dict[str, dict[str, Counter[str]]] = {}
    opcode = re.compile(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:\{ *)?(?:@!?U?P\w+\s+)?([A-Z][\w.]*)", re.M)
    for arch, text in _by_arch(_cuobjdump("-sass", image)):
        parts = re.split(r"Function : (\w+)", text)
        for kernel, body in zip(parts[1::2], parts[2::2], strict=True):
            found.setdefault(arch, {})[kernel] = Counter(opcode.findall(body))
    return found


def _cuobjdump(option: str, image: Path) -> str:
    tool = find_cuobjdump()
    if tool is None:
        raise FileNotFoundError("no cuobjdump; `pip install nvidia-cuda-cuobjdump nvidia-cuda-nvdisasm`")
    return subprocess.run([tool, option, str(image)], capture_output=True, text=True, check=True).stdout


def _by_arch(text: str) -> Iterable[tuple[str, str]]:
    """(architecture, what cuobjdump says) of each piece of machine code."""
    parts = re.split(r"Fatbin elf code:\n=+\narch = sm_(\d+)\n", text)
    return zip(parts[1::2], (part.split("Fatbin ptx code:")[0] for part in parts[2::2]), strict=True)
