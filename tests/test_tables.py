"""Tables of a schedule: kept from one step to the next, without a copy from the host, and never out of a CUDA graph."""

from __future__ import annotations

import pytest
import torch
from crossings import Crossings
from torch._subclasses.fake_tensor import FakeTensorMode

from mdmcorrect import _tables
from mdmcorrect._tables import device_table
from mdmcorrect.samplers.counts import linear_stays, rounded_grid

CPU = torch.device("cpu")
MAKE = {
    "values": lambda device: device_table((0.25, 1.0, 3.0), torch.float32, device),
    "nothing": lambda device: device_table((), torch.int64, device),
    "grid": lambda device: rounded_grid(9, 4, linear_stays, device),
}
each_table = pytest.mark.parametrize("make", MAKE.values(), ids=MAKE)


@each_table
def test_a_table_is_made_once(make):
    assert make(CPU) is make(CPU)


def test_values_are_those_given():
    for values, dtype in (((0.1, 1 / 3, 7.0), torch.float64), ((0.1, 0.7), torch.float32), ((5, 2**40), torch.int64)):
        assert torch.equal(device_table(values, dtype, CPU), torch.tensor(values, dtype=dtype))


@each_table
def test_the_host_copies_nothing(make):
    """Or a CUDA graph could not capture the first use. What is made up is not kept either."""
    with FakeTensorMode(), Crossings():
        made = make(torch.device("cuda", 0))
        assert made.device.type == "cuda"
        assert make(torch.device("cuda", 0)) is not made


def test_a_graph_keeps_its_own_and_what_it_reads(monkeypatch):
    """What a capture makes is filled at replays only; what it found has to stay where the graph reads it."""
    before = device_table((17.0,), torch.float32, CPU)
    monkeypatch.setattr(_tables, "_capturing", lambda device: True)
    read = device_table((17.0,), torch.float32, CPU)
    made = device_table((18.0,), torch.float32, CPU)
    monkeypatch.undo()
    assert read is before
    assert device_table((18.0,), torch.float32, CPU) is not made
    first = device_table((19.0,), torch.float32, CPU)
    for value in range(2 * _tables._MOST):
        device_table((float(value),), torch.float64, CPU)
    assert device_table((17.0,), torch.float32, CPU) is before
    assert device_table((19.0,), torch.float32, CPU) is not first
