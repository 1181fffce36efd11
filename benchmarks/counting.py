"""What a call asks of torch and of the host."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

READS = {"aten::_local_scalar_dense", "aten::nonzero", "aten::equal"}


class Counts(NamedTuple):
    operators: int
    """Operators dispatched, views among them."""
    waits: list[str]
    """What would make the host wait for a device: values read, boolean indices, whose number it must know."""


def counted(run: Callable[[], object]) -> Counts:
    """The counts of one call. They are the same on any device: tensors may be on the CPU."""
    with Called("tolist", "numpy") as called, _Dispatched() as dispatched:
        run()
    return Counts(dispatched.number, called.waits + dispatched.waits)


class _Dispatched(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.number, self.waits = 0, []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function.name().split(".")[0]
        self.number += 1
        if name in READS or (name in ("aten::index", "aten::index_put_") and by_mask(name, args)):
            self.waits.append(name)
        return function(*args, **(kwargs or {}))


def by_mask(name: str, args: Any) -> bool:
    """Whether a boolean index has to be counted. One number written at a mask is masked_fill, which has not."""
    if name == "aten::index_put_" and len(args[1]) == 1 and args[2].numel() == 1:
        return False
    return any(index is not None and index.dtype == torch.bool for index in args[1])


class Called(TorchFunctionMode):
    """Lists calls of functions and methods of these names; some read a tensor without an operator of their own."""

    def __init__(self, *names: str) -> None:
        super().__init__()
        self.names, self.waits = names, []

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(function, "__name__", "") in self.names:
            self.waits.append(function.__name__)
        return function(*args, **(kwargs or {}))
