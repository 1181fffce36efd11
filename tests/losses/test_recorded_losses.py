"""Losses made of parts return what they returned before: values, gradients, draws and the generators' states.

Where bits may be compared, on the kind of processor and with the torch they were recorded with, they are equal;
elsewhere the draws and the states of the generators are, and the numbers to float32's rounding.
"""

import json
from pathlib import Path

import pytest
import torch
from recorded_cases import cases, here, run

RECORDED = json.loads((Path(__file__).parent / "data/recorded.json").read_text())
CASES = dict(cases())


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def named(case: dict) -> tuple[dict, dict]:
    """Sum and norm, and the bits, of each part and gradient."""
    names = [*case.get("parts", []), *case.get("reached", [])]
    both = [f"{what} of {name}" for name in names for what in ("sum", "norm")]
    return dict(zip(both, case["numbers"], strict=True)), dict(zip(names, case["bits"], strict=True))


@pytest.mark.parametrize("name", CASES)
def test_a_case_is_what_it_was(name):
    expected, found = RECORDED["cases"][name], run(CASES[name], torch.float32)
    assert (found["drawn"], found["generators"]) == (expected["drawn"], expected["generators"])
    (numbers, bits), (old_numbers, old_bits) = named(found), named(expected)
    assert numbers == pytest.approx(old_numbers, rel=1e-4, abs=1e-5)
    if RECORDED["made on"] == here():
        assert bits == old_bits


def test_every_recorded_case_is_run_and_another_draw_is_seen():
    assert CASES.keys() == RECORDED["cases"].keys()
    loss, kind, options = CASES["prism_loss-logits-0"]
    found = run((loss, kind, {**options, "n_y": 2}), torch.float32)
    assert found["generators"] != RECORDED["cases"]["prism_loss-logits-0"]["generators"]
    assert found["bits"] != RECORDED["cases"]["prism_loss-logits-0"]["bits"]
