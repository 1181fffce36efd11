"""The instruction set avx512_amx: run with tiles made of software, which machines without AMX have too."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mdmcorrect import _native

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build" / f"native-{sys.implementation.cache_tag}"
INFO = _native.build_info()


def processor_flags() -> set[str]:
    path = Path("/proc/cpuinfo")
    found = re.search(r"^flags\s*:(.*)$", path.read_text(), re.M) if path.exists() else None
    return set(found[1].split()) if found else set()


@pytest.fixture(scope="module")
def library() -> Path:
    """The library with software tiles, which shares all other objects with the library in use."""
    if "avx512_amx" not in INFO["isas_built"] or not (BUILD / "CMakeCache.txt").exists() or not shutil.which("cmake"):
        pytest.skip("needs cmake, the build folder of this Python (make build), and a compiler that knows AMX")
    command = ["cmake", "--build", str(BUILD), "--target", "_C_software_tiles", "--parallel", "2"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "warning:" not in done.stdout + done.stderr, done.stdout + done.stderr
    return BUILD / "tests" / "amx" / "_C_software_tiles.so"


@pytest.fixture(scope="module")
def tiles(library) -> ctypes.CDLL:
    if "avx2" not in INFO["isas_supported"]:
        pytest.skip("needs a processor with AVX2")
    return ctypes.CDLL(str(library.with_name("software_tiles.so")))


# ------------------------------------------------------------------------------------------------- the choice at load


def test_amx_is_chosen_where_the_machine_has_it_and_nowhere_else():
    flags = processor_flags()
    if not flags or "avx512_amx" not in INFO["isas_built"]:
        pytest.skip("needs /proc/cpuinfo and a compiler that knows AMX")
    has_amx = {"amx_tile", "amx_bf16", "avx512_bf16"} <= flags
    assert ("avx512_amx" in INFO["isas_supported"]) == has_amx
    if has_amx and "MDMCORRECT_ISA" not in os.environ:
        assert INFO["isa"] == "avx512_amx"


def test_asking_for_amx_without_it_is_one_sentence():
    if "avx512_amx" in INFO["isas_supported"]:
        pytest.skip("this machine has AMX")
    done = subprocess.run(
        [sys.executable, "-c", "import mdmcorrect.ops"],
        env={**os.environ, "MDMCORRECT_ISA": "avx512_amx"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert "MDMCORRECT_ISA=avx512_amx names no instruction set this machine can run" in done.stderr.splitlines()[-1]


# ---------------------------------------------------------------------------------------------------- the object code

TILE_INSTRUCTIONS = ("tdpbf16ps", "tileloadd", "tilestored", "tilezero")


@pytest.mark.parametrize(
    "source", ["bidirectional_attention", "bidirectional_attention_backward", "linear_cross_entropy", "hidden_product"]
)
def test_object_code(source):
    """A block loads as many tiles as it multiplies, beside its four sums, which move only before and after."""
    path = BUILD / "CMakeFiles" / "cpu_avx512_amx.dir" / "csrc" / "cpu" / f"{source}.cpp.o"
    if not path.exists() or shutil.which("objdump") is None:
        pytest.skip("needs the build folder of this Python (make build), a compiler that knows AMX, and objdump")
    code = subprocess.run(["objdump", "-d", str(path)], capture_output=True, text=True, check=True).stdout
    block = re.search(r"<[^>]*multiply_blockILi2ELi2E[^>]*>:\n(.*?)\n\n", code + "\n\n", re.S)[1]
    count = {name: len(re.findall(rf"\b{name}\b", block)) for name in TILE_INSTRUCTIONS}
    assert count["tdpbf16ps"] >= 4
    assert count["tdpbf16ps"] == count["tileloadd"] - 4
    assert (count["tilestored"], count["tilezero"]) == (4, 4)
    assert "ldtilecfg" in code
    assert "tilerelease" in code


# ------------------------------------------------------------------------------------------------- the software tiles

WHOLE = [(16, 64)] * 8


def configuration(tiles, palette=1, reserved=0) -> ctypes.Array:
    """The 64 bytes of LDTILECFG: tiles are (rows, bytes in a row)."""
    image = np.zeros(64, np.uint8)
    image[0], image[2] = palette, reserved
    image[16:48].view(np.uint16)[: len(tiles)] = [row_bytes for _, row_bytes in tiles]
    image[48 : 48 + len(tiles)] = [rows for rows, _ in tiles]
    return ctypes.create_string_buffer(image.tobytes(), 64)


def as_bfloat16(values: np.ndarray) -> np.ndarray:
    """float32 of bfloat16 precision (cut off)."""
    return (values.astype(np.float32).view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)


def words_of(values: np.ndarray) -> np.ndarray:
    """[..., 2 k] of bfloat16 precision as [..., k] words of pairs."""
    halves = values.view(np.uint32) >> 16
    return np.ascontiguousarray(halves[..., ::2] | halves[..., 1::2] << 16)


def address(array: np.ndarray) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)


def product(tiles: ctypes.CDLL, c: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """c [M, N] + a [M, 2 K] b [2 K, N] by one TDPBF16PS."""
    (m, n), k = c.shape, a.shape[1] // 2
    c = np.array(c, np.float32)
    left, right = words_of(a), words_of(np.ascontiguousarray(b.reshape(k, 2, n).transpose(0, 2, 1).reshape(k, 2 * n)))
    tiles.software_ldtilecfg(configuration([(m, 4 * n), (m, 4 * k), (k, 4 * n)]))
    for tile, array in enumerate((c, left, right)):
        tiles.software_tileloadd(tile, address(array), ctypes.c_long(array.strides[0]))
    tiles.software_tdpbf16ps(0, 1, 2)
    tiles.software_tilestored(0, address(c), ctypes.c_long(c.strides[0]))
    tiles.software_tilerelease()
    return c


def flushed(values: np.ndarray) -> np.ndarray:
    values = np.asarray(values, np.float32)
    return np.where(np.abs(values) < np.finfo(np.float32).tiny, np.copysign(np.float32(0), values), values)


def expected_product(c, a, b) -> np.ndarray:
    """The manual's order: even and odd halves in a chain each, their sum, and that to c; subnormals are zero.

    A product of two bfloat16 is exact in float64; its sum with a float32 is rounded twice, which these inputs do not
    notice.
    """
    c, a, b = flushed(c), flushed(a), flushed(b)
    even, odd = np.zeros_like(c), np.zeros_like(c)
    for pair in range(a.shape[1] // 2):
        for half, chain in ((0, even), (1, odd)):
            column, row = a[:, 2 * pair + half, None].astype(np.float64), b[2 * pair + half].astype(np.float64)
            chain[:] = flushed(column * row + chain)
    return flushed(c + flushed(even + odd))


@pytest.mark.parametrize(("m", "n", "k"), [(16, 16, 16), (1, 1, 1), (5, 16, 3), (16, 7, 16), (3, 2, 11)])
def test_the_software_product_is_the_manuals(tiles, m, n, k):
    random = np.random.default_rng(m + 7 * n + k)
    a, b = as_bfloat16(random.normal(size=(m, 2 * k))), as_bfloat16(random.normal(size=(2 * k, n)))
    c = random.normal(size=(m, n)).astype(np.float32)
    np.testing.assert_array_equal(product(tiles, c, a, b), expected_product(c, a, b))


def test_the_software_product_takes_subnormals_as_zero(tiles):
    tiny = np.float32(2.0**-126)
    a = np.array([[2.0**-130, 1.0], [2.0**-100, 0.0], [1.0, 0.0], [0.0, 0.0]], np.float32)
    b = np.array([[2.0**100], [2.0**-129]], np.float32)
    c = np.array([[0.0], [tiny], [-(2.0**100)], [2.0**-127]], np.float32)
    got = product(tiles, c, a, b)
    np.testing.assert_array_equal(got, [[0.0], [1.0 + tiny], [0.0], [0.0]])
    np.testing.assert_array_equal(got, expected_product(c, a, b))
    out = product(tiles, np.array([[-1.5 * tiny]], np.float32), a[2:3] * tiny, np.array([[1.0], [0.0]], np.float32))
    np.testing.assert_array_equal(out, [[0.0]])  # -0.5 tiny flushed on its way out


VIOLATIONS = {
    "a tile before any is configured": ("tiles.software_tilezero(0)", "tilezero: no tile is configured"),
    "a tile that has no rows": (
        "tiles.software_ldtilecfg(configuration([(16, 64)] * 3)); tiles.software_tilezero(3)",
        "tilezero: this tile is not configured",
    ),
    "a tile after its release": (
        "tiles.software_ldtilecfg(configuration(WHOLE)); tiles.software_tilerelease();"
        "tiles.software_tileloadd(0, address(room), ctypes.c_long(64))",
        "tileloadd: no tile is configured",
    ),
    "left too narrow for right": (
        "tiles.software_ldtilecfg(configuration([(16, 64), (16, 32), (16, 64)])); tiles.software_tdpbf16ps(0, 1, 2)",
        "tdpbf16ps: left has not a word for each row of right",
    ),
    "sums of other rows than left": (
        "tiles.software_ldtilecfg(configuration([(8, 64), (16, 64), (16, 64)])); tiles.software_tdpbf16ps(0, 1, 2)",
        "tdpbf16ps: left and sums differ in rows",
    ),
    "sums of other width than right": (
        "tiles.software_ldtilecfg(configuration([(16, 32), (16, 64), (16, 64)])); tiles.software_tdpbf16ps(0, 1, 2)",
        "tdpbf16ps: right and sums differ in bytes of a row",
    ),
    "one tile twice": (
        "tiles.software_ldtilecfg(configuration(WHOLE)); tiles.software_tdpbf16ps(0, 1, 1)",
        "tdpbf16ps: needs three different tiles",
    ),
    "half a word in a row": (
        "tiles.software_ldtilecfg(configuration([(16, 62)] * 3)); tiles.software_tdpbf16ps(0, 1, 2)",
        "tdpbf16ps: rows of a tile are not whole words",
    ),
    "seventeen rows": ("tiles.software_ldtilecfg(configuration([(17, 64)]))", "ldtilecfg: too many rows"),
    "a row of 65 bytes": ("tiles.software_ldtilecfg(configuration([(16, 65)]))", "ldtilecfg: too many bytes in a row"),
    "nine tiles": (
        "tiles.software_ldtilecfg(configuration([(16, 64)] * 9))",
        "ldtilecfg: palette 1 has no such tile",
    ),
    "rows without bytes": (
        "tiles.software_ldtilecfg(configuration([(16, 0)]))",
        "ldtilecfg: rows without bytes, or bytes without rows",
    ),
    "another palette": ("tiles.software_ldtilecfg(configuration(WHOLE, palette=2))", "ldtilecfg: no such palette"),
    "a reserved byte": ("tiles.software_ldtilecfg(configuration(WHOLE, reserved=1))", "ldtilecfg: a reserved byte"),
}


def test_the_software_tiles_catch_every_violation(tiles):
    """Children of one process each do one thing wrong: what a processor faults at ends them with a sentence."""
    script = f"""
import ctypes, os, sys
import numpy as np
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_amx import VIOLATIONS, WHOLE, address, configuration
tiles = ctypes.CDLL({tiles._name!r})
room = np.zeros((16, 16), np.float32)
for name, (statement, _) in VIOLATIONS.items():
    sys.stderr.write(f"<{{name}}> "); sys.stderr.flush()
    child = os.fork()
    if child == 0:
        exec(statement)
        sys.stderr.write("nothing\\n"); sys.stderr.flush()
        os._exit(0)
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1]), name
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for name, (_, sentence) in VIOLATIONS.items():
        assert f"<{name}> {sentence}" in done.stderr


# ------------------------------------------------------------------------------------------ the kernels on these tiles

KERNEL_TESTS = [
    "tests/ops/test_bidirectional_attention.py",
    "tests/ops/test_bidirectional_attention_backward.py",
    "tests/ops/test_linear_cross_entropy.py",
    "tests/ops/test_score_hidden.py",
]


def run_on_software_tiles(library: Path, *command: str) -> str:
    if "avx512_bf16" not in INFO["isas_supported"]:
        pytest.skip("needs AVX512_BF16, which avx512_amx builds on")
    done = subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env={
            **os.environ,
            "MDMCORRECT_ISA": "avx512_amx",
            "MDMCORRECT_SOFTWARE_TILES": str(library),
            "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout


# Those of other dtypes do not meet a tile; those that start a process of their own would meet the plain library.
LEFT_OUT = ["compile", "opcheck", "float32", "float64", "not_read", "never_exist", "every_instruction_set"]


@pytest.mark.slow
def test_kernels_on_software_tiles(library):
    """Every shape and mask of the operators' tests; the plugin sees that tiles were used and given back."""
    options = ["-q", "-p", "use_software_tiles", "-p", "no:cacheprovider", "-m", "not slow"]
    run_on_software_tiles(library, "-m", "pytest", *options, "-k", f"not ({' or '.join(LEFT_OUT)})", *KERNEL_TESTS)


# Tensors whose last byte is the last before a page that nobody may read.
AT_THE_END_OF_MEMORY = """
import ctypes, mmap
import torch
import use_software_tiles

libc = ctypes.CDLL(None)
random = torch.Generator().manual_seed(0)

def tensor(*shape):
    values = torch.randn(shape, generator=random).to(torch.bfloat16)
    room = -(-values.nbytes // mmap.PAGESIZE) * mmap.PAGESIZE
    memory = mmap.mmap(-1, room + mmap.PAGESIZE)
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    assert libc.mprotect(ctypes.c_void_p(start + room), mmap.PAGESIZE, 0) == 0
    place = {"count": values.numel(), "offset": room - values.nbytes}
    return torch.frombuffer(memory, dtype=values.dtype, **place).view(shape).copy_(values)
"""


def test_tiles_read_nothing_beyond_a_tensor(library):
    """A tile has sixteen rows of 64 bytes; of five rows it may not read the sixth."""
    script = """
from mdmcorrect.ops import bidirectional_attention, linear_cross_entropy, score_hidden
for length, width in ((5, 32), (17, 96), (33, 64), (130, 128)):
    q, k, v = (tensor(1, 1, length, width).requires_grad_() for _ in range(3))
    bidirectional_attention(q, k, v).backward(tensor(1, 1, length, width))
for rows, width, vocab in ((5, 38, 17), (33, 64, 200), (50, 34, 385)):
    hidden, weight = tensor(rows, width), tensor(vocab, width)
    score_hidden(hidden[None], weight)
    targets = torch.arange(rows) % vocab
    linear_cross_entropy(hidden.requires_grad_(), weight.requires_grad_(), targets).backward()
print("read")
"""
    assert run_on_software_tiles(library, "-c", AT_THE_END_OF_MEMORY + script).strip() == "read"
