"""What CUDA launchers ask for: nothing where there is nothing to do, and never more than a device can launch."""

from __future__ import annotations

import shutil
import subprocess
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
COMPILER = shutil.which("c++") or shutil.which("g++")
MOST_SHARED = 99 * 1024  # bytes a block may have on the devices that have least


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    """{"empty" or "large": [(operator, bytes of workspace, its launches)]}"""
    if COMPILER is None:
        pytest.skip("needs a compiler")
    program = tmp_path_factory.mktemp("launches") / "launch_shapes"
    source = ROOT / "tests/cuda/launch_shapes.cpp"
    subprocess.run([COMPILER, "-std=c++17", f"-I{ROOT / 'csrc'}", str(source), "-o", str(program)], check=True)
    cases = defaultdict(list)
    for line in subprocess.run([program], capture_output=True, text=True, check=True).stdout.splitlines():
        name, *numbers = line.split()
        if not numbers:
            group = name
        elif name == "case":
            cases[group].append((numbers[0], int(numbers[1]), []))
        else:
            cases[group][-1][2].append((name, *map(int, numbers)))
    return cases


def test_nothing_is_launched_for_nothing(asked):
    launched = {(op, launches[0][0]) for op, _, launches in asked["empty"] if launches}
    assert not launched


def test_launches_at_the_limits_are_possible(asked):
    assert asked["large"]
    for op, workspace, launches in asked["large"]:
        assert launches, op
        assert workspace >= 0, op
        for kernel, x, y, threads, shared in launches:
            assert 1 <= x < 2**31, (op, kernel, x)
            assert 1 <= y < 2**16, (op, kernel, y)
            assert threads % 32 == 0, (op, kernel, threads)
            assert 32 <= threads <= 1024, (op, kernel, threads)
            assert shared <= MOST_SHARED, (op, kernel, shared)


# Of an operator for which this is more than one, tests/samplers/test_step_launches.py counts as many.
MOST_LAUNCHES = {
    "sampler_step": 1,
    "correct_pass": 1,
    "select_positions": 1,
    "remask_step": 1,
    "uniform": 1,
    "score_tokens": 2,
}


def test_how_many_launches_an_operator_is(asked):
    most = dict.fromkeys(MOST_LAUNCHES, 0)
    for op, _, launches in asked["large"]:
        if op in most:
            most[op] = max(most[op], len(launches))
    assert most == MOST_LAUNCHES
