"""Defects that only tiles of products can have: each must show, or the tests of attention prove nothing."""

from __future__ import annotations

import attention_cases as cases
import device_attention
import numpy as np
import pytest
from harness import Fault, Simt, widen
from kernel_mutants import CUDA, compile_mutant


def mutant(source: str, line: str, replacement: str, folder) -> Simt:
    text = (CUDA / source).read_text()
    assert text.count(line) == 1, f"{source} has no such line any more: {line}"
    return Simt(compile_mutant(source, text.replace(line, replacement), "bidirectional_attention", folder))


def error(simt: Simt, length: int = 100) -> float:
    q, k, v = cases.heads(1, length, 64, q_heads=1)
    out = device_attention.bidirectional_attention(simt, q, k, v)[0]
    return float(np.abs(widen(out) - cases.expected(q, k, v)[0]).max())


pytestmark = pytest.mark.slow


def test_a_removed_wait(library, tmp_path):
    simt = mutant("bidirectional_attention.cuh", "    ptx::cp_async_wait<0>();\n", "", tmp_path)
    with pytest.raises(Fault, match=r"before the wait for the cp\.async that fills it"):
        error(simt)


def test_a_missing_mask_of_the_tail(library, tmp_path):
    line = "    if (needs_mask(keys, key, kKeys)) mask_scores(scores, rows + warp_row, key);\n"
    simt = mutant("bidirectional_attention.cuh", line, "", tmp_path)
    assert error(simt, 128) < 0.01  # whole tiles need no mask
    assert error(simt, 100) > 0.05


def test_no_swizzle(library, tmp_path):
    simt = mutant("mma_tiles.cuh", "return (row >> kShift & kMask) << 4;", "return 0 * row;", tmp_path)
    assert error(simt) < 0.01
    assert simt.bank_conflicts > simt.shared_requests  # eight rows of a column on one bank: seven turns lost


def test_a_swizzle_of_the_writer_alone(library, tmp_path):
    line = "    const uint32_t place = tile + Layout::offset(first_row, first_chunk);\n"
    unswizzled = "    const uint32_t place = tile + first_row * Layout::kRowBytes + 16 * first_chunk;\n"
    assert error(mutant("mma_tiles.cuh", line, unswizzled, tmp_path)) > 0.05
