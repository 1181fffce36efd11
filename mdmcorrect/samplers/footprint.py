"""What a recorded run depends on: the modules, tensors and settings behind a model, and where they are.

A CUDA graph holds addresses and takes the turns that Python took when it was recorded. A footprint says whether the
next call would still find the same addresses and, as far as attributes tell, take the same turns.
"""

from __future__ import annotations

import dis
import functools
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, is_dataclass
from types import CodeType, FunctionType, MemberDescriptorType, MethodType, ModuleType
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

LONGEST = 10_000  # entries of a container that is looked into

Seen: TypeAlias = "dict[tuple[int, Hashable], Hashable]"

_PLAIN = frozenset({bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device, torch.Size})
_CONTAINERS = frozenset({dict, list, tuple, set, OrderedDict})
_LIBRARIES = frozenset({"torch", "mdmcorrect"})  # whose functions read no weights from their modules' names


class Opaque:
    """A base of what is never looked into: it changes with every call and says nothing of the model."""


@dataclass
class Footprint:
    """All that can be reached from a model and the parts of a sampler.

    Looked into are modules (parameters, buffers, ``training``, other attributes), instances with ``__call__``, data
    classes, functions (their defaults, the global names they read, what they close over, the attributes of an object
    among that), methods and their object, partials, mappings and sequences. Other objects, such as a model's
    ``config``, count by identity alone.

    Attributes:
        seen: by the ``id`` of an owner and a name: a plain value, where a tensor is, or the ``id`` of another object.
        held: those objects and tensors, so that no ``id`` is given to something else.
        modules: those among them.
    """

    seen: Seen = field(default_factory=dict)
    held: list[object] = field(default_factory=list)
    modules: list[nn.Module] = field(default_factory=list)

    def storages(self) -> list[object]:
        """The memory that the tensors have now, to be held too: assigning to a tensor's ``.data`` gives it another."""
        return [part for tensor in self.held if isinstance(tensor, Tensor) for part in _storages(tensor)]


def footprint(roots: Mapping[str, object], device: torch.device) -> Footprint:
    """The footprint of what ``roots`` name, for a run on ``device``.

    A tensor elsewhere, such as a number on the CPU, is read when the graph is made: writing into it counts as a change.
    """
    made = Footprint()
    seen, held, waiting = made.seen, made.held, list[object]()

    def told(value: Any) -> Hashable:
        kind: type = type(value)
        if kind in _PLAIN:
            return kind, value
        if isinstance(value, Tensor):
            held.append(value)
            return _place(value, device)
        if kind in _CONTAINERS and not value:
            return kind
        waiting.append(value)
        return id(value)

    for root_name, root in roots.items():
        seen[0, root_name] = told(root)
    known = set[int]()
    while waiting:
        owner = waiting.pop()
        place = id(owner)
        if place in known:
            continue
        known.add(place)
        held.append(owner)
        if isinstance(owner, (list, tuple, set, frozenset)):
            seen[place, None] = tuple(map(told, list(owner))) if len(owner) <= LONGEST else len(owner)
            continue
        if isinstance(owner, nn.Module):
            made.modules.append(owner)
        for name, part in _parts(owner):
            seen[place, name if type(name) in _PLAIN else id(name)] = told(part)
    return made


def _parts(owner: Any) -> Iterable[tuple[Hashable, object]]:
    """What an object is made of, by name; nothing for one that is not looked into."""
    if isinstance(owner, (dict, Mapping)):
        return list(owner.items()) if len(owner) <= LONGEST else [("length", len(owner))]
    if isinstance(owner, nn.Module):
        return list(vars(owner).items())
    if isinstance(owner, (type, ModuleType, Opaque)):
        return ()
    if isinstance(owner, FunctionType):
        return _parts_of_function(owner)
    if isinstance(owner, MethodType):
        return [*_with_attributes("self", owner.__self__), ("function", owner.__func__)]
    if isinstance(owner, functools.partial):
        return ("function", owner.func), ("args", owner.args), ("keywords", owner.keywords)
    if is_dataclass(owner):
        return _attributes(owner)
    if callable(owner) and type(owner).__module__.partition(".")[0] != "torch":
        return [*_attributes(owner), ("__call__", type(owner).__call__)]
    return ()


def _attributes(owner: object) -> list[tuple[str, object]]:
    """Those of an object's ``__dict__``, and those that its classes keep in slots."""
    own = list(getattr(owner, "__dict__", {}).items())
    kind: Any = type(owner)  # to mypy a type[object] has no hash
    for slot in _slots(kind):
        try:
            own.append((slot.__name__, slot.__get__(owner)))
        except AttributeError:  # holds nothing yet
            continue
    return own


@functools.lru_cache(maxsize=256)
def _slots(kind: Any) -> tuple[MemberDescriptorType, ...]:
    written = [vars(cls) for cls in kind.__mro__ if "__slots__" in vars(cls)]
    return tuple(part for names in written for part in names.values() if isinstance(part, MemberDescriptorType))


def _parts_of_function(function: FunctionType) -> Iterator[tuple[Hashable, object]]:
    yield from (("defaults", function.__defaults__ or ()), ("keywords", function.__kwdefaults__ or {}))
    yield from list(function.__dict__.items())
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield from _with_attributes(f"closure {name}", cell.cell_contents)
        except ValueError:  # not bound yet
            continue
    if str(function.__module__).partition(".")[0] in _LIBRARIES:
        return
    for name in _global_names(function.__code__):
        if name in function.__globals__:
            yield from _with_attributes(f"global {name}", function.__globals__[name])


def _with_attributes(name: str, value: object) -> Iterator[tuple[Hashable, object]]:
    """An object that a function has at hand, and what is one step from there: ``self.net`` within a method."""
    yield name, value
    if not isinstance(value, (type, ModuleType, Opaque, nn.Module, Tensor)):
        yield from [(f"{name}.{attribute}", part) for attribute, part in _attributes(value)]


@functools.lru_cache(maxsize=256)
def _global_names(code: CodeType) -> frozenset[str]:
    """The global names that the code, and functions written in it, read."""
    names = {line.argval for line in dis.get_instructions(code) if line.opname in ("LOAD_GLOBAL", "LOAD_NAME")}
    within = (_global_names(inner) for inner in code.co_consts if isinstance(inner, CodeType))
    return frozenset(names).union(*within)


def _inner(tensor: Tensor) -> list[Tensor]:
    """The tensors that a wrapper, such as a quantized or distributed tensor, is made of; of others none."""
    flatten: Callable[[], tuple[list[str], object]] | None = getattr(tensor, "__tensor_flatten__", None)
    return [] if flatten is None else [getattr(tensor, name) for name in flatten()[0]]


def _place(tensor: Tensor, device: torch.device) -> Hashable:
    """Where a tensor is, and how its memory is read."""
    if inner := _inner(tensor):
        return tuple(_place(part, device) for part in inner)
    try:
        address: Hashable = (tensor.data_ptr(), tensor.stride())
    except (RuntimeError, NotImplementedError):  # sparse ones have several addresses
        address = id(tensor)
    version = None if tensor.device == device or tensor.is_inference() else tensor._version
    return address, tensor.shape, tensor.dtype, tensor.device, version


def _storages(tensor: Tensor) -> list[object]:
    if inner := _inner(tensor):
        return [storage for part in inner for storage in (part, *_storages(part))]
    try:
        return [tensor.untyped_storage()]
    except (RuntimeError, NotImplementedError):
        return []
