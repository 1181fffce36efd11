"""What nvcc made of the CUDA kernels stays within csrc/cuda/budgets.txt and uses the instructions it should."""

from __future__ import annotations

import re
import shutil
from collections import Counter
from pathlib import Path

import cuda_cases
import cuda_code
import cuda_paths
import cuda_table
import pytest
from cuda_code import Budget, Usage

from mdmcorrect import _native

ROOT = cuda_code.ROOT
NVCC = shutil.which("nvcc")


def test_every_kernel_has_a_budget():
    """Without nvcc too: every kernel that a launcher names, and no line for a kernel that is no more."""
    launched = {name for path in cuda_code.SOURCES.glob("*.h") for name in launched_kernels(path)}
    assert launched
    missing = [cuda_code.missing_budget(name) for name in sorted(launched) if cuda_code.budget_of(name) is None]
    assert not missing, "\n".join(missing)
    used = {cuda_code.budget_of(name) for name in launched}
    assert [budget.pattern for budget in cuda_code.budgets() if budget not in used] == []


def launched_kernels(header: Path) -> list[str]:
    """Strings that are the name of a kernel in the source beside the header."""
    return re.findall(r'"(\w{4,})"', header.read_text())


def test_the_documented_tables_are_those_of_the_tool():
    """Columns, rows and limits; the figures are as old as the last `python tools/cuda_table.py --write`."""
    text = cuda_table.DOCS.read_text()
    tables = text[text.index(cuda_table.BEGIN) : text.index(cuda_table.END)]
    kernels, cases = re.findall(r"(?:^\|.*\|\n)+", tables, re.M)
    head, _, *rows = cells_of(kernels)
    assert head == ["kernel", "threads", "shared bytes", "registers", *(f"sm_{arch}" for arch in cuda_code.ARCHS)]
    limits = {budget.pattern: budget for budget in cuda_code.budgets()}
    for pattern, threads, shared, registers, *found in rows:
        budget = limits[pattern]
        assert (int(threads), int(shared), int(registers)) == (budget.threads, budget.shared, budget.registers), pattern
        assert len(found) == len(cuda_code.ARCHS)
        assert all(int(cell.split(",")[0]) <= budget.registers for cell in found), pattern
    assert {row[0] for row in cells_of(cases)[2:]} <= cuda_cases.CASES.keys()


def cells_of(table: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]


@pytest.mark.parametrize(
    ("arch", "registers", "threads", "shared", "warps"),
    [
        ("90", 32, 1024, 0, 64),
        ("90", 64, 1024, 0, 32),  # registers
        ("90", 128, 256, 0, 16),
        ("90", 129, 256, 0, 8),  # granted by eights: three of four quarters hold three warps, so one block
        ("90", 32, 128, 99 * 1024, 8),  # shared memory, of which every block loses 1 KiB
        ("86", 32, 256, 0, 48),
        ("86", 32, 32, 0, 16),  # blocks
    ],
)
def test_resident_warps(arch, registers, threads, shared, warps):
    """As NVIDIA's occupancy calculator counts."""
    assert cuda_table.resident_warps(arch, registers, threads, shared) == warps


@pytest.fixture(scope="module")
def image():
    """The library, if it has kernels, and a cuobjdump to read them with."""
    if not _native.build_info()["cuda_ops"]:
        pytest.skip("this build has no CUDA kernels (MDMCORRECT_CUDA=on needs nvcc)")
    if cuda_code.find_cuobjdump() is None:
        pytest.skip("needs cuobjdump (pip install nvidia-cuda-cuobjdump nvidia-cuda-nvdisasm)")
    return _native.LIBRARY


@pytest.fixture(scope="module")
def usage(image):
    found = cuda_code.usage(image)
    assert set(found) == set(_native.build_info()["cuda_archs"])
    return found


@pytest.fixture(scope="module")
def machine_code(image):
    return cuda_code.machine_code(image)


@pytest.mark.slow
def test_every_kernel_stays_within_its_budget(usage, machine_code):
    for arch, kernels in usage.items():
        assert kernels.keys() == machine_code[arch].keys()
        for name, used in kernels.items():
            faults = cuda_code.faults(name, used, machine_code[arch][name], cuda_code.budget_of(name))
            assert not faults, f"sm_{arch}: " + "\n".join(faults)


@pytest.mark.slow
def test_ways_through_the_code_stay_within_their_limits(image):
    """Instructions a warp issues round hot loops, and in what concludes a row."""
    for way, counted in cuda_paths.measure(image, cuda_paths.ways()).items():
        assert set(counted) == set(_native.build_info()["cuda_archs"]), way
        for arch, count in counted.items():
            assert 0 < count <= way.limit, f"sm_{arch}: {way.kernel}, {way.case}: {count:.0f} of {way.limit}"


@pytest.mark.slow
def test_logits_come_in_vectors(machine_code):
    """A warp reads a chunk of 512 by vectors alone, four a lane in float32 and two of 16 bits: of whole ones the first
    and those ahead (one in float32, two of 16 bits), of others now and one ahead; with guidance of both rows."""
    for kernels in machine_code.values():
        for name, code in kernels.items():
            if re.match(r"score_tokens_(rows|scan)_", name):
                loads = 8 if "_guided_" in name else 8 + 8 if name.endswith("_float32") else 8 + 4
                assert cuda_code.count_of("LDG.E.128", code) == loads, name


def products_of_an_iteration(kind: str, width: int) -> int:
    """m16n8k16 products that a warp multiplies for one tile of the other side, each of which the code has once."""
    tile = 64 if width <= 64 else 32
    row_tiles = 2 if kind == "bidirectional_attention" and width <= 128 else 1
    matrices = {"bidirectional_attention": 2, "attention_backward_queries": 3, "attention_backward_keys": 4}[kind]
    return matrices * row_tiles * (width // 16) * (tile // 8)


@pytest.mark.slow
def test_attention_multiplies_on_tensor_cores(machine_code):
    """As many products as there must be, all in the dtype of the kernel."""
    for kernels in machine_code.values():
        multiplying = [name for name in kernels if re.search(r"attention.*float16", name)]
        assert len(multiplying) == 12 + 16
        for name in multiplying:
            kind, dtype, width = name.rsplit("_", 2)
            wanted = "HMMA.16816.F32.BF16" if dtype == "bfloat16" else "HMMA.16816.F32"
            products = cuda_code.count_of(wanted, kernels[name])
            assert products == products_of_an_iteration(kind, int(width)), name
            assert products == cuda_code.count_of("HMMA", kernels[name]), name


# ------------------------------------------------------------------------------ the gate itself: each defect is refused

CONTROLS = ROOT / "tests" / "cuda" / "gate_controls.cu"
BUDGET = Budget("*", 48, 256, 1024, ("LDG.E.128",))
DEFECTS = {
    "vectors": [],
    "scalars": ["no LDG.E.128"],
    "indexed": ["bytes of stack", "of local memory (LDL, STL)"],
    "spilling": ["bytes of stack", "of local memory (LDL, STL)"],
    "hoarding": ["registers, of 48"],
    "sharing": ["4096 bytes of static shared memory, of 1024"],
}


@pytest.fixture(scope="module")
def controls(tmp_path_factory):
    if NVCC is None or cuda_code.find_cuobjdump() is None:
        pytest.skip("needs nvcc and cuobjdump")
    fatbin = tmp_path_factory.mktemp("controls") / "controls.fatbin"
    cuda_code.compile_kernels(CONTROLS, fatbin, ["90"], strict=False)
    return cuda_code.usage(fatbin)["90"], cuda_code.machine_code(fatbin)["90"]


@pytest.mark.parametrize("kernel", DEFECTS)
def test_a_defect_is_refused(controls, kernel):
    usage, code = controls
    faults = cuda_code.faults(kernel, usage[kernel], code[kernel], BUDGET)
    assert len(faults) == len(DEFECTS[kernel]), faults
    for fault, sentence in zip(faults, DEFECTS[kernel], strict=True):
        assert fault.startswith(f"{kernel}: ")
        assert sentence in fault


@pytest.mark.skipif(NVCC is None, reason="needs nvcc")
def test_a_warning_is_an_error(tmp_path):
    with pytest.raises(RuntimeError, match=r"spill|local memory"):
        cuda_code.compile_kernels(CONTROLS, tmp_path / "controls.fatbin", ["90"])


def test_a_kernel_without_a_budget_is_refused():
    (fault,) = cuda_code.faults("unheard_of", Usage(32, 0, 0, 0), Counter(), None)
    assert "add a line to csrc/cuda/budgets.txt: unheard_of REGISTERS THREADS SHARED" in fault
