"""What a footprint sees of a model, and what it leaves alone."""

from __future__ import annotations

import functools
import types
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from mdmcorrect.samplers.footprint import LONGEST, footprint

CPU = torch.device("cpu")
READ_HERE = {"weight": torch.zeros(2)}


def reads_a_global(tokens):
    return [READ_HERE["weight"] for _ in tokens]


@dataclass
class Part:
    model: object


@dataclass(slots=True)
class Slotted:
    model: object


class SlottedCall:
    __slots__ = ("held", "never")

    def __init__(self, held):
        self.held = held

    def __call__(self, tokens):
        return tokens


class Called:
    def __init__(self, held):
        self.held = held

    def __call__(self, tokens):
        return tokens


class Config:
    def __init__(self, held):
        self.held = held

    def read(self, tokens):
        return self.held


def seen(root, device=CPU):
    return footprint({"model": root}, device).seen


def changed(root, change):
    """Whether the footprint tells; without the change it must not."""
    before = seen(root)
    assert before == seen(root)
    change()
    return before != seen(root)


AROUND = {
    "a module": lambda held: _module(held),
    "an instance": Called,
    "a data class": Part,
    "a data class with slots": Slotted,
    "an instance with slots": SlottedCall,
    "a function of an instance with slots": lambda held: _closed_over(SlottedCall(held)),
    "a function": lambda held: lambda tokens: held,
    "a default": lambda held: _with_default(held),
    "a partial": lambda held: functools.partial(print, held),
    "a method": lambda held: Called(held).__call__,
    "a plain object's method": lambda held: Config(held).read,
    "a function of a plain object": lambda held: _closed_over(Config(held)),
    "a tuple": lambda held: (held,),
    "a mapping": lambda held: types.MappingProxyType({"held": held}),
}


def _module(held):
    module = nn.Module()
    module.held = held
    return module


def _closed_over(config):
    return lambda tokens: config.held


def _with_default(held):
    def model(tokens, held=held):
        return held

    return model


@pytest.mark.parametrize("around", AROUND.values(), ids=AROUND)
def test_a_tensors_memory_is_seen(around):
    tensor = torch.zeros(3)
    root = around({"weights": [tensor]})

    def move():
        tensor.data = torch.zeros(3)

    assert changed(root, move)
    assert not changed(root, lambda: tensor.add_(1)), "what is in it is not looked at"


def test_globals_that_a_function_reads():
    assert changed(reads_a_global, lambda: READ_HERE.update(weight=torch.zeros(2)))


def test_plain_values_and_their_types():
    module = _module(1)
    for value in (2, 2.0, True, "on", None, torch.float16):
        assert changed(module, lambda value=value: setattr(module, "held", value))


def test_others_count_by_identity():
    config = Config(1)
    root = Called(config)
    assert not changed(root, lambda: setattr(config, "held", 2))
    assert changed(root, lambda: setattr(root, "held", Config(2)))


def test_long_containers_are_not_looked_into():
    long = [0] * (LONGEST + 1)
    assert not changed(Called(long), lambda: long.__setitem__(0, 1))
    assert changed(Called(long), lambda: long.append(1))
    table = dict.fromkeys(range(LONGEST + 1))
    assert changed(Called(table), lambda: table.update(more=1))


def test_another_devices_tensors_are_read_when_a_graph_is_made():
    """A number on the CPU, which a kernel gets as an argument."""
    module = nn.BatchNorm1d(2)
    before = footprint({"model": module}, torch.device("meta")).seen
    module.num_batches_tracked.add_(1)
    assert footprint({"model": module}, torch.device("meta")).seen != before
    with torch.inference_mode():
        module.running_mean = torch.zeros(2)  # keeps no version
    footprint({"model": module}, torch.device("meta"))


def test_tensors_without_an_address():
    sparse = torch.eye(3).to_sparse()
    wrapped = torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)], layout=torch.jagged)
    root = Called([sparse, wrapped])
    found = footprint({"model": root}, CPU)
    assert any(part is sparse for part in found.held)
    assert found.seen == seen(root)
    values = wrapped.values().untyped_storage().data_ptr()
    assert any(
        storage.data_ptr() == values for storage in found.storages() if isinstance(storage, torch.UntypedStorage)
    )


def test_what_goes_in_circles_ends():
    root = Called(None)
    root.held = [root, {"again": root}]
    assert len(footprint({"model": root}, CPU).modules) == 0
    module = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    assert len(footprint({"model": [module, module]}, CPU).modules) == 3


def test_storages_outlive_what_replaced_them():
    parameter = nn.Parameter(torch.zeros(4))
    found = footprint({"model": [parameter]}, CPU)
    storages, before = found.storages(), parameter.data_ptr()
    parameter.data = torch.ones(4)
    assert [storage.data_ptr() for storage in storages] == [before]
