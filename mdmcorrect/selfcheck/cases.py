"""What every device is asked: a call of an operator, its arguments from a seed, and what must come out.

A case makes its arguments on the CPU, with the same shapes, strides and plain numbers for every seed, so that tests can
move them to a device or write another seed's values over them. Its check compares results that are back on the CPU with
mdmcorrect/reference/.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Arguments = dict[str, Any]
Results = dict[str, Tensor]


@dataclass(frozen=True)
class Case:
    op: str
    name: str
    call: Callable[..., Any]
    make: Callable[[int], Arguments]
    check: Callable[[Results, Arguments], None]
    gradients: tuple[str, ...] = ()
    """Arguments whose gradients are results too; `upstream` among the arguments are the gradients of the outputs."""
    devices: tuple[str, ...] = ("cpu", "cuda")
    """Kinds of device that have a kernel for it."""

    def __str__(self) -> str:
        return f"{self.op}: {self.name}"


def run(case: Case, arguments: Arguments, call: Callable[..., Any] | None = None) -> Results:
    """Outputs by name and gradients as grad_<argument>; `call` in place of the case's own."""
    arguments = dict(arguments)
    upstream = arguments.pop("upstream", ())
    leaves = {name: arguments[name].detach().requires_grad_() for name in case.gradients}
    outputs = (call or case.call)(**{**arguments, **leaves})
    if isinstance(outputs, Tensor):
        outputs = (outputs,)
    names = getattr(outputs, "_fields", tuple(f"output {i}" for i in range(len(outputs))))
    results = {name: value.detach() for name, value in zip(names, outputs, strict=True) if value is not None}
    if leaves:
        gradients = torch.autograd.grad(tuple(outputs[: len(upstream)]), tuple(leaves.values()), upstream)
        results |= {f"grad_{name}": gradient for name, gradient in zip(leaves, gradients, strict=True)}
    return results


def moved(value: Any, device: torch.device | str) -> Any:
    """A copy on a device of every tensor in it, with the strides and the offset from aligned memory it has here."""
    if isinstance(value, dict):
        return {name: moved(item, device) for name, item in value.items()}
    if isinstance(value, tuple):
        return tuple(moved(item, device) for item in value)
    if not isinstance(value, Tensor):
        return value
    memory = torch.empty(0, dtype=value.dtype).set_(value.untyped_storage())
    return memory.to(device, copy=True).as_strided(value.shape, value.stride(), value.storage_offset())


def returned(results: Results) -> Results:
    return {name: value.cpu() for name, value in results.items()}


def overwrite(arguments: Arguments, others: Arguments) -> None:
    """Write the values of `others` into the tensors of `arguments`."""
    for name, value in arguments.items():
        pairs = zip(value, others[name], strict=True) if isinstance(value, tuple) else [(value, others[name])]
        for target, source in pairs:
            if isinstance(target, Tensor):
                target.copy_(source)


def assert_same_bits(first: Results, second: Results) -> None:
    assert first.keys() == second.keys()
    for name, value in first.items():
        torch.testing.assert_close(
            value, second[name], rtol=0, atol=0, equal_nan=True, msg=lambda m, n=name: f"{n}: {m}"
        )
