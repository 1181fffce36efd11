"""The harness's ldmatrix and mma.sync lay fragments out as NVIDIA's CuTe says (cute/atom/*_traits_sm*.hpp of CUTLASS).

A layout is (shape, stride), nested: a function from (lane, number) to a place. In MMA_Traits the place is
row + rows * column of the operand, column-major; in Copy_Traits it is a bit of the 32 rows that the lanes address.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import re

import numpy as np
import pytest
from harness import bfloat16

MMA_LAYOUTS = {  # SM80_16x8x16_F16F16F16F16_TN, from which those of float32 sums inherit
    "A": (((4, 8), (2, 2, 2)), ((32, 1), (16, 8, 128))),
    "B": (((4, 8), (2, 2)), ((16, 1), (8, 64))),
    "C": (((4, 8), (2, 2)), ((32, 1), (16, 8))),  # SM80_16x8_Row
}
LOAD_LAYOUTS = {  # destinations, in bits
    "SM75_U32x4_LDSM_N": ((32, (32, 4)), (32, (1, 1024))),
    "SM75_U16x8_LDSM_T": (((4, 8), (16, 2, 4)), ((256, 16), (1, 128, 1024))),
}


def place(shape, stride, index: int) -> int:
    """The layout's value at a linear index, whose first mode varies fastest."""
    if isinstance(shape, int):
        return index * stride
    total = 0
    for inner, step in zip(shape, stride, strict=True):
        size = int(np.prod(np.array(_flat(inner))))
        total += place(inner, step, index % size)
        index //= size
    return total


def _flat(shape) -> list[int]:
    return [shape] if isinstance(shape, int) else [n for inner in shape for n in _flat(inner)]


def places(layout, numbers: int) -> np.ndarray:
    """[lanes, numbers] of places."""
    (lanes, values), (lane_steps, value_steps) = layout
    return np.array(
        [[place(lanes, lane_steps, t) + place(values, value_steps, v) for v in range(numbers)] for t in range(32)]
    )


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_mma(simt, dtype):
    random = np.random.default_rng(0)
    a, b = random.integers(-8, 9, (16, 16)), random.integers(-8, 9, (8, 16))  # B as [n, k]
    rounded = bfloat16 if dtype == "bfloat16" else np.float16
    fragments = []
    for name, matrix, numbers in (("A", a, 8), ("B", b, 4)):
        values = matrix.T.ravel()[places(MMA_LAYOUTS[name], numbers)]  # column-major
        fragments.append(np.ascontiguousarray(rounded(values.astype(np.float32))).view(np.uint32))
    d = np.empty((32, 4), np.float32)
    simt.start()
    pointers = [ctypes.c_void_p(simt.place(name, x)) for name, x in zip("ab", fragments, strict=True)]
    simt.call("simt_multiply", *pointers, ctypes.c_void_p(simt.place("d", d, granule=4)), int(dtype == "bfloat16"))
    np.testing.assert_array_equal(d, (a @ b.T).T.ravel()[places(MMA_LAYOUTS["C"], 4)])


@pytest.mark.parametrize(("name", "transposed"), [("SM75_U32x4_LDSM_N", 0), ("SM75_U16x8_LDSM_T", 1)])
def test_ldmatrix(simt, name, transposed):
    numbers = np.arange(32 * 8, dtype=np.uint16)  # eight in each lane's row
    d = np.empty((32, 4), np.uint32)
    simt.start()
    rows = ctypes.c_void_p(simt.place("rows", numbers.view(np.uint32)))
    simt.call("simt_load", rows, ctypes.c_void_p(simt.place("d", d, granule=4)), transposed)
    bits = places(LOAD_LAYOUTS[name], 128)
    np.testing.assert_array_equal(d.view(np.uint16), numbers[bits[:, ::16] // 16])


def test_layouts_are_those_of_cute():
    try:
        files = importlib.metadata.files("nvidia-cutlass")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("needs nvidia-cutlass (pip install --no-deps)")
    headers = {path.name: path.read_text() for path in files if path.name.endswith(("_sm80.hpp", "_sm75.hpp"))}
    mma, copy = headers["mma_traits_sm80.hpp"], headers["copy_traits_sm75.hpp"]
    body = mma[mma.index("struct MMA_Traits<SM80_16x8x16_F16F16F16F16_TN>") :]
    found = {
        "A": _layout(body, "ALayout = Layout"),
        "B": _layout(body, "BLayout = Layout"),
        "C": _layout(mma, "SM80_16x8_Row = Layout"),
    }
    assert found == MMA_LAYOUTS
    for name, layout in LOAD_LAYOUTS.items():
        assert _layout(copy[copy.index(f"Copy_Traits<{name}>") :], "DstLayout = Layout") == layout


def _layout(text: str, marker: str) -> tuple:
    """(shape, stride) of the first Layout<Shape<...>, Stride<...>> after the marker."""
    declaration = re.sub(r"\s|_", "", text[text.index(marker) + len(marker) : text.index(";", text.index(marker))])
    nested = declaration.removeprefix("<").removesuffix(">").replace("Shape<", "(").replace("Stride<", "(")
    shape, stride = eval(nested.replace(">", ",)"))
    return shape, stride
