"""tools/mutants: its list is of bugs of the code as it is, and a bug meets the tests."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from mutants.by_hand import BUGS
from mutants.making import by_hand

ROOT = Path(__file__).parents[1]


def test_most_of_the_list_can_be_put_into_the_code() -> None:
    """Code moves; what cannot be found any more is left out, until somebody brings it up to date."""
    made = by_hand()
    assert len(made) >= 0.8 * len(BUGS)
    for mutant in made:
        assert mutant.lines
        compile(mutant.text, str(mutant.path), "exec")


def test_a_bug_is_noticed_by_a_test_that_passes_without_it() -> None:
    command = ["tools/mutants", "hand", "during: on at t_off", "--tests", "tests/samplers/test_boundaries.py"]
    done = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True, check=True, timeout=300)
    assert "samplers: 1 of 1 noticed (100 %)" in done.stdout, done.stdout + done.stderr
    assert "noticed by a test" in done.stdout
