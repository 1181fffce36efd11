"""tools/cuda_paths.py and cuda_flow.py on machine code written by hand, whose ways can be counted."""

from __future__ import annotations

from pathlib import Path

import cuda_code
import cuda_flow
import cuda_paths
import pytest
from cuda_paths import Way

SOURCE = """\
__device__ void outer(int n) {
  body;
}
__device__ __forceinline__ float rare(float x) {
  body;
}
"""


def listing(source: Path, *lines: str) -> str:
    """As nvdisasm -gi writes it: "f:" a function of the source, ".name:" a label, all else an instruction."""
    line_of = {"outer": 2, "rare": 5}
    text = []
    for number, line in enumerate(lines):
        if line.startswith("in "):
            text.append(f'\t//## File "{source}", line {line_of[line[3:]]}')
        elif line.startswith("."):
            text.append(line)
        else:
            text.append(f"        /*{16 * number:04x}*/                   {line} ;")
    return "\n".join(text)


def blocks_of(tmp_path: Path, *lines: str) -> list[cuda_flow.Block]:
    source = tmp_path / "kernel.cuh"
    source.write_text(SOURCE)
    return cuda_flow.read_blocks(listing(source, *lines))


LOOP = (
    "in outer",
    "MOV R0, RZ",
    ".L_head:",
    "LDG.E.NA.128.CONSTANT R4, [R2]",
    "BRA.DIV UR4, `(.L_apart)",
    "@P0 BRA `(.L_short)",
    "MUFU.EX2 R5, R5",
    "MUFU.EX2 R6, R6",
    "FADD R7, R5, R6",
    ".L_short:",
    "IADD3 R2, R2, 0x10",
    "@P1 BRA `(.L_head)",
    "EXIT",
    ".L_apart:",
    "WARPSYNC R1",
    "BRA `(.L_head)",
)


def test_the_shortest_round_that_issues_what_it_must(tmp_path):
    blocks = blocks_of(tmp_path, *LOOP)
    loop = Way("loop", "kernel", "any", 0, "outer", 1, (("LDG.E.128", 1),), ())
    assert cuda_paths.round_of_loop(blocks, loop) == 5
    weights = loop._replace(counts=(("LDG.E.128", 1), ("MUFU.EX2", 2)))
    assert cuda_paths.round_of_loop(blocks, weights) == 8
    assert cuda_paths.round_of_loop(blocks, weights._replace(per=2)) == 4
    assert cuda_paths.round_of_loop(blocks, loop._replace(counts=(("STG", 1),))) == float("inf")
    assert cuda_paths.round_of_loop(blocks, loop._replace(function="rare")) == float("inf")


def test_the_longest_way_with_so_many_trips(tmp_path):
    blocks = blocks_of(tmp_path, *LOOP)
    way = Way("through", "kernel", "any", 0, "outer", 1, (("outer", 10),), ())
    assert cuda_paths.longest_through(blocks, way) == 1 + 10 * 8 + 1
    assert cuda_paths.longest_through(blocks, way._replace(counts=())) == 1 + 8 + 1


def test_what_is_skipped_is_not_entered(tmp_path):
    branch = (
        "in outer",
        "MOV R0, RZ",
        "@P0 BRA `(.L_else)",
        "in rare",
        *["FADD R7, R5, R6"] * 9,
        "in outer",
        "EXIT",
        ".L_else:",
        "FADD R7, R5, R6",
        "CALL.REL.NOINC `($division)",
        "EXIT",
    )
    way = Way("through", "kernel", "any", 0, "outer", 1, (), ())
    assert cuda_paths.longest_through(blocks_of(tmp_path, *branch), way) == 2 + 9 + 1
    # the other way ends in a subroutine, which is for rare operands
    with pytest.raises(ValueError, match="no way"):
        cuda_paths.longest_through(blocks_of(tmp_path, *branch), way._replace(skipped=("rare",)))


def test_functions_are_those_of_the_sources():
    source = cuda_code.SOURCES / "score_chunks.cuh"
    first = next(i for i, line in enumerate(source.read_text().splitlines(), 1) if "MergedLaw merge_chunks(" in line)
    assert cuda_flow.function_at(source, first) == "merge_chunks"
    assert cuda_flow.function_at(source, first + 10) == "merge_chunks"


def test_lines_of_the_budgets():
    ways = cuda_paths.ways()
    assert {way.kind for way in ways} == set(cuda_code.WAYS)
    for way in ways:
        assert way.limit > 0
        assert cuda_code.budget_of(way.kernel) is not None, way.kernel
    assert not [budget for budget in cuda_code.budgets() if budget.pattern in cuda_code.WAYS]
