"""The harness catches what it is for: each defective kernel of controls/controls.cu, and only those."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
from harness import Fault, Simt

# What the harness says, by the order in which threads run: what comes too early may find memory nobody has written.
DEFECTS = {
    "no_barrier": "race: |uninitialised: ",
    "no_second_barrier": "race: ",
    "wrong_mask": "divergence: ",
    "mask_without_self": "which does not name it|which is not in the mask",
    "shuffle_outside": "which is not in the mask",
    "one_past_the_end": "out of bounds: .* of `input`",
    "no_tail": "out of bounds: .* of `input`",
    "strided": "",
    "cross_block": "race: .*block",
    "uninitialised": "uninitialised: ",
    "shared_too_small": "out of bounds: .* of shared memory",
    "early_return": "divergence: nobody can go on",
    "writes_input": "read-only: ",
    "misaligned": "misaligned: ",
    "no_syncwarp": "race: |uninitialised: ",
    "shuffle_orders": "race: ",
}


def sum_rows(simt: Simt, defect: int, values: np.ndarray):
    simt.start()
    sums = np.empty(len(values), np.float32)
    pointers = [
        ctypes.c_void_p(simt.place("input", values)),
        ctypes.c_void_p(simt.place("sums", sums, granule=4)),
    ]
    return sums, simt.call("simt_control", defect, *pointers, *values.shape)


@pytest.fixture
def values():
    return np.random.default_rng(0).random((7, 200), np.float32)


def test_a_kernel_without_defect_passes(any_order, values):
    sums, traffic = sum_rows(any_order, 0, values)
    np.testing.assert_allclose(sums, values.sum(1), rtol=1e-6)
    assert traffic["input"].bytes_read == values.nbytes
    assert traffic["input"].bytes_written == traffic["sums"].bytes_read == 0
    assert traffic["sums"].bytes_written == sums.nbytes


@pytest.mark.parametrize("defect", [name for name, sentence in DEFECTS.items() if sentence])
def test_defect_is_caught(any_order, values, defect):
    with pytest.raises(Fault, match=DEFECTS[defect]) as caught:
        sum_rows(any_order, 1 + list(DEFECTS).index(defect), values)
    assert str(caught.value).startswith("sum_rows: ")


def test_uncoalesced_reads_show_in_the_counters(simt):
    values = np.random.default_rng(0).random((4, 1024), np.float32)
    good = sum_rows(simt, 0, values)[1]["input"]
    bad = sum_rows(simt, 1 + list(DEFECTS).index("strided"), values)[1]["input"]
    assert good.bytes_read == bad.bytes_read == values.nbytes
    assert good.read_sectors == values.nbytes / 32  # each sector once: four full ones per request of a warp
    assert good.read_requests == values.size / 32
    assert bad.read_sectors > 7 * good.read_sectors


def test_a_short_buffer_is_caught(simt, values):
    simt.start()
    arguments = [
        ctypes.c_void_p(simt.place("input", values)),
        ctypes.c_void_p(simt.place("sums", np.empty(len(values) - 1, np.float32), granule=4)),
    ]
    with pytest.raises(Fault, match=r"writes 4 bytes at offset 24 of `sums`, which has 24 bytes"):
        simt.call("simt_control", 0, *arguments, *values.shape)


def test_a_fault_names_its_line(simt, values):
    with pytest.raises(Fault, match=r"\(controls\.cu:\d+\)$"):
        sum_rows(simt, 1 + list(DEFECTS).index("no_tail"), values)
