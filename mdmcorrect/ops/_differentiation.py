"""How the operators meet torch's ways of differentiating: right, or refused in one sentence, never a silent 0.

An operator with gradients has two kernels, forward and backward, and one plain torch expression of the same
mathematics. First derivatives come from the kernels. What is beyond them, derivatives of gradients and forward mode,
comes from the plain expression, which torch differentiates to any order. ``vmap`` calls the operator once for each
entry.

============================================================  ======================================================
``backward``, ``autograd.grad``, checkpoints, ``func.grad``   kernels
``create_graph=True``, ``func.hessian``, any higher order     kernels, then plain
``func.jvp``, ``func.jacfwd``, ``autograd.forward_ad``        plain
inside ``torch.compile``                                      kernels, under torch.func plain; no second ``backward``
============================================================  ======================================================

While a graph is compiled the operator itself is called, so that the graph holds one node. Its own registration knows
first derivatives and refuses others, as torch.compile does.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad

Arguments = tuple[Any, ...]
Gradients = Sequence[Tensor | None]


class Formula(NamedTuple):
    """An operator and its derivatives. Arguments are those of the native operator, in its order."""

    name: str
    """Of the native operator, whose backward has it with ``_backward``."""
    native: Callable[..., tuple[Tensor, ...]]
    plain: Callable[..., tuple[Any, ...]]
    """The results, by torch's own operations; None for those that only the backward kernel reads."""
    backward: Callable[[Gradients, Arguments, tuple[Tensor, ...], Sequence[bool]], Gradients]
    """(gradients of the first ``outputs`` results, arguments, results, which inputs need one) -> theirs, natively."""
    inputs: tuple[int, ...]
    """Places of the arguments that have gradients."""
    outputs: int
    """So many results, the first ones, have gradients."""


def differentiable(formula: Formula) -> Callable[..., tuple[Tensor, ...]]:
    """The native operator with every kind of derivative; first derivatives also where it is called by itself."""
    _register(formula)
    function = _forward_function(formula)

    def call(*arguments: Any) -> tuple[Tensor, ...]:
        if torch.compiler.is_compiling():
            transformed = torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0
            return formula.plain(*arguments) if transformed else formula.native(*arguments)
        return function.apply(*arguments) if is_watched(arguments) else formula.native(*arguments)

    return call


def detached(native: Callable[..., Any], *arguments: Any) -> Any:
    """The results of an operator that has no derivatives, as constants. ``vmap`` calls it once for each entry."""
    if torch.compiler.is_compiling() or not is_watched(arguments):
        return native(*arguments)
    return _constant_function(native).apply(*arguments)


def constant(tensor: Tensor) -> Tensor:
    """The tensor without gradient, itself where it has none."""
    if torch.compiler.is_compiling() or tensor.requires_grad or forward_ad._current_level >= 0:
        return tensor.detach()
    return tensor


def is_watched(arguments: Sequence[Any]) -> bool:
    """Whether torch records or transforms what is done with these arguments, in one way or another."""
    if torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0:
        return True
    return torch.is_grad_enabled() and torch._C._any_requires_grad(*arguments)


def wants_gradient(tensor: Tensor) -> bool:
    """Whether a derivative with respect to this tensor is being recorded, backward or forward."""
    if torch.is_grad_enabled() and tensor.requires_grad:
        return True
    if torch.compiler.is_compiling() or forward_ad._current_level < 0:
        return False
    return forward_ad.unpack_dual(tensor).tangent is not None


# ---- the functions ----


def _forward_function(formula: Formula) -> type[torch.autograd.Function]:
    backward_function = _backward_function(formula)

    class Forward(torch.autograd.Function):
        @staticmethod
        def forward(*arguments: Any) -> tuple[Tensor, ...]:
            results = formula.native(*arguments)
            if forward_ad._current_level < 0:
                return results
            return tuple(x.clone() for x in results)  # forward mode takes no results that are views of something

        @staticmethod
        def setup_context(ctx: Any, inputs: Arguments, output: tuple[Tensor, ...]) -> None:
            ctx.mark_non_differentiable(*output[formula.outputs :])
            ctx.set_materialize_grads(False)
            _save(ctx, (*inputs, *output))

        @staticmethod
        def backward(ctx: Any, *gradients: Tensor | None) -> Arguments:
            everything = _saved(ctx)
            count = len(ctx.needs_input_grad)
            needs = sum(ctx.needs_input_grad[place] << i for i, place in enumerate(formula.inputs))
            wanted = backward_function.apply(needs, *gradients[: formula.outputs], *everything)
            return _spread(wanted, formula.inputs, count)

        @staticmethod
        def jvp(ctx: Any, *tangents: Tensor | None) -> Arguments:
            everything = _saved(ctx)
            arguments, results = everything[: len(tangents)], everything[len(tangents) :]
            places = [place for place in formula.inputs if tangents[place] is not None]
            values = _pushforward(
                lambda *given: _plainly(formula, _replaced(arguments, places, given)),
                [arguments[place] for place in places],
                [tangents[place] for place in places],
            )
            return (*values, *[None] * (len(results) - formula.outputs))

        @staticmethod
        def vmap(info: Any, in_dims: Arguments, *arguments: Any) -> tuple[Any, Any]:
            return _one_by_one(Forward, info.batch_size, in_dims, arguments)

    Forward.__name__ = Forward.__qualname__ = formula.name
    return Forward


def _backward_function(formula: Formula) -> type[torch.autograd.Function]:
    """(needs, gradients of results, arguments, results) to gradients of inputs: ``needs`` has a bit for each input.

    For derivatives of this, results are what the arguments make them.
    """
    outputs, inputs = formula.outputs, formula.inputs

    def plain_gradients(leaves: list[int], everything: Arguments) -> Callable[..., tuple[Tensor, ...]]:
        """The gradients that are needed, as a function of the leaves, which are places in ``everything``."""
        needed = [place for i, place in enumerate(inputs) if everything[0] >> i & 1]

        def function(*given: Tensor) -> tuple[Tensor, ...]:
            _, *rest = _replaced(everything, leaves, given)
            gradients, arguments = rest[:outputs], rest[outputs : outputs + _count(formula)]
            values, pull = torch.func.vjp(
                lambda *x: _plainly(formula, _replaced(arguments, needed, x)), *[arguments[place] for place in needed]
            )
            full = [
                torch.zeros_like(value) if gradient is None else gradient.to(value.dtype)
                for value, gradient in zip(values, gradients, strict=True)
            ]
            return pull(tuple(full))

        return function

    def leaves_of(everything: Arguments) -> list[int]:
        places = [1 + i for i in range(outputs)] + [1 + outputs + place for place in inputs]
        return [place for place in places if everything[place] is not None]

    class Backward(torch.autograd.Function):
        @staticmethod
        def forward(*everything: Any) -> Arguments:
            needs = [bool(everything[0] >> i & 1) for i in range(len(inputs))]
            gradients, rest = everything[1 : 1 + outputs], everything[1 + outputs :]
            arguments, results = rest[: _count(formula)], rest[_count(formula) :]
            found = formula.backward(gradients, arguments, results, needs)
            return tuple(x if needed else None for x, needed in zip(found, needs, strict=True))

        @staticmethod
        def setup_context(ctx: Any, inputs: Arguments, output: Arguments) -> None:
            ctx.set_materialize_grads(False)
            _save(ctx, inputs)

        @staticmethod
        def backward(ctx: Any, *upstream: Tensor | None) -> Arguments:
            everything = _saved(ctx)
            leaves = [place for place in leaves_of(everything) if ctx.needs_input_grad[place]]
            values, pull = torch.func.vjp(plain_gradients(leaves, everything), *[everything[place] for place in leaves])
            given = [x for i, x in enumerate(upstream) if everything[0] >> i & 1]
            full = [
                torch.zeros_like(value) if x is None else x.to(value.dtype)
                for value, x in zip(values, given, strict=True)
            ]
            return _spread(pull(tuple(full)), leaves, len(everything))

        @staticmethod
        def jvp(ctx: Any, *tangents: Tensor | None) -> Arguments:
            everything = _saved(ctx)
            leaves = [place for place in leaves_of(everything) if tangents[place] is not None]
            function = plain_gradients(leaves, everything)
            values = iter(
                _pushforward(function, [everything[i] for i in leaves], [tangents[i] for i in leaves])
                if leaves
                else [None] * len(inputs)
            )
            return tuple(next(values) if everything[0] >> i & 1 else None for i in range(len(inputs)))

        @staticmethod
        def vmap(info: Any, in_dims: Arguments, *everything: Any) -> tuple[Any, Any]:
            return _one_by_one(Backward, info.batch_size, in_dims, everything)

    Backward.__name__ = Backward.__qualname__ = f"{formula.name}_backward"
    return Backward


@functools.cache
def _constant_function(native: Callable[..., Any]) -> type[torch.autograd.Function]:
    class Constant(torch.autograd.Function):
        @staticmethod
        def forward(*arguments: Any) -> Any:
            return native(*arguments)

        @staticmethod
        def setup_context(ctx: Any, inputs: Arguments, output: Any) -> None:
            ctx.mark_non_differentiable(*(output if isinstance(output, tuple) else (output,)))
            ctx.count = 1 if isinstance(output, Tensor) else len(output)

        @staticmethod
        def backward(ctx: Any, *gradients: Tensor | None) -> Arguments:
            return (None,) * len(ctx.needs_input_grad)

        @staticmethod
        def jvp(ctx: Any, *tangents: Tensor | None) -> Any:
            return (None,) * ctx.count if ctx.count > 1 else None

        @staticmethod
        def vmap(info: Any, in_dims: Arguments, *arguments: Any) -> tuple[Any, Any]:
            return _one_by_one(Constant, info.batch_size, in_dims, arguments)

    return Constant


# ---- their parts ----


def _count(formula: Formula) -> int:
    """Arguments of the native operator."""
    return len(getattr(torch.ops.mdmcorrect, formula.name).default._schema.arguments)


def _save(ctx: Any, values: Arguments) -> None:
    """Tensors where torch looks after them, everything else beside."""
    tensors = [value if isinstance(value, Tensor) else None for value in values]
    ctx.save_for_backward(*tensors)
    ctx.save_for_forward(*tensors)
    ctx.constants = [None if isinstance(value, Tensor) else value for value in values]


def _saved(ctx: Any) -> Arguments:
    pairs = zip(ctx.saved_tensors, ctx.constants, strict=True)
    return tuple(constant if tensor is None else tensor for tensor, constant in pairs)


def _replaced(values: Sequence[Any], places: Sequence[int], new: Sequence[Any]) -> list[Any]:
    replaced = list(values)
    for place, value in zip(places, new, strict=True):
        replaced[place] = value
    return replaced


def _spread(values: Sequence[Any], places: Sequence[int], count: int) -> Arguments:
    return tuple(_replaced([None] * count, places, values))


def _plainly(formula: Formula, arguments: Sequence[Any]) -> tuple[Tensor, ...]:
    """The results with gradients of the plain expression, at the precision it says, whatever autocast is on."""
    kind = arguments[formula.inputs[0]].device.type
    with torch.autocast(kind, enabled=False):
        return formula.plain(*arguments)[: formula.outputs]


def _pushforward(function: Callable[..., tuple[Tensor, ...]], at: Any, tangents: Any) -> tuple[Tensor, ...]:
    """Jacobian times tangents, by reverse mode twice: u -> vjp(u) is linear, and its own vjp is the Jacobian. Forward
    mode itself does not nest."""
    values, pull = torch.func.vjp(function, *at)
    _, push = torch.func.vjp(pull, tuple(torch.zeros_like(value) for value in values))
    return push(tuple(tangent.to(x.dtype) for tangent, x in zip(tangents, at, strict=True)))[0]


def _one_by_one(function: Any, size: int, in_dims: Arguments, arguments: Arguments) -> tuple[Any, Any]:
    """A vmap rule: one call for each entry, results stacked in front."""
    calls = []
    for i in range(size):
        entry = [x if dim is None else x.select(dim, i) for x, dim in zip(arguments, in_dims, strict=True)]
        calls.append(function.apply(*entry))
    if isinstance(calls[0], Tensor):
        return torch.stack(calls), 0
    stacked = tuple(None if found[0] is None else torch.stack(found) for found in zip(*calls, strict=True))
    return stacked, tuple(None if x is None else 0 for x in stacked)


# ---- the operator by itself ----


def _register(formula: Formula) -> None:
    """First derivatives for whoever calls the native operator: a compiled graph does."""

    def setup_context(ctx: Any, inputs: Arguments, output: tuple[Tensor, ...]) -> None:
        ctx.mark_non_differentiable(*output[formula.outputs :])
        ctx.set_materialize_grads(False)
        _save_for_backward(ctx, (*inputs, *output))

    def backward(ctx: Any, *gradients: Tensor | None) -> Arguments:
        everything = _saved(ctx)
        count = _count(formula)
        needs = [ctx.needs_input_grad[place] for place in formula.inputs]
        found = formula.backward(gradients[: formula.outputs], everything[:count], everything[count:], needs)
        wanted = [x if needed else None for x, needed in zip(found, needs, strict=True)]
        return _spread(wanted, formula.inputs, count)

    def refuse(ctx: Any, *_: Any) -> Any:
        raise RuntimeError(
            f"{formula.name}: its gradients cannot be differentiated again inside torch.compile; outside they can"
        )

    torch.library.register_autograd(f"mdmcorrect::{formula.name}", backward, setup_context=setup_context)
    torch.library.register_autograd(f"mdmcorrect::{formula.name}_backward", refuse)


def _save_for_backward(ctx: Any, values: Arguments) -> None:
    ctx.save_for_backward(*[value if isinstance(value, Tensor) else None for value in values])
    ctx.constants = [None if isinstance(value, Tensor) else value for value in values]
