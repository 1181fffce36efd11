"""Checks of the plain arguments that the whole package takes: whole numbers, numbers, ids, names, flags.

What tokenizers, configurations and NumPy hand over is taken: NumPy's scalars, tensors and arrays of one element.
Anything else is answered with one sentence that names the argument. A rule here is a function
``(name, value) -> value``: it returns the value as Python's own type, or raises. Under ``torch.compile`` a number may
be a symbol, which is taken and stays one.
"""

from __future__ import annotations

import mdmcorrect._requires_torch

import math
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

Rule: TypeAlias = Callable[[str, Any], Any]

_SYMBOLS = (torch.SymInt, torch.SymFloat)


def integer(name: str, value: object, *, minimum: int | None = None, what: str = "", expected: str = "an int") -> int:
    """A whole number of at least ``minimum``.

    ``what`` is how the error calls such a number, as "a token id >= 0", ``expected`` how it calls what may be given, as
    "an int or a tensor".

    Raises:
        TypeError: a bool, a float (3.0 as well), or several.
        ValueError: less than ``minimum``.
    """
    if type(value) is int and -(2**63) <= value < 2**63 and (minimum is None or value >= minimum):
        return value
    plain = plain_number(name, value, expected)
    if isinstance(plain, bool) or not isinstance(plain, (int, torch.SymInt)):
        raise TypeError(f"{name}: expected {expected}, got {_kind(value)}")
    if not -(2**63) <= plain < 2**63:
        raise ValueError(f"{name}: expected {what or 'an int'} of 64 bits, got {plain}")
    if minimum is not None and plain < minimum:
        raise ValueError(f"{name}: expected {what or f'at least {minimum}'}, got {plain}")
    return plain


def number(name: str, value: object, *, low: float = -math.inf, high: float = math.inf, expected: str = "") -> float:
    """A finite number from ``low`` to ``high``; ``expected`` is how the error describes it.

    Raises:
        TypeError: a bool, text, or several.
        ValueError: out of range, NaN or infinite.
    """
    if type(value) is float and low <= value <= high and -math.inf < value < math.inf:
        return value
    plain = plain_number(name, value, "a number")
    if isinstance(plain, bool) or not isinstance(plain, (int, float, *_SYMBOLS)):
        raise TypeError(f"{name}: expected {expected or 'a number'}, got {_kind(value)}")
    if not low <= plain <= high or abs(plain) == math.inf:  # isinf cannot be traced where the number is a symbol
        raise ValueError(f"{name}: expected {expected or 'a finite number'}, got {plain}")
    return plain if isinstance(plain, _SYMBOLS) else float(plain)


def choice(name: str, value: object, *allowed: str) -> str:
    """One of the names.

    Raises:
        ValueError: any other value.
    """
    if not isinstance(value, str) or value not in allowed:
        if len(allowed) > 3:
            raise ValueError(f"{name}: expected one of {list(allowed)}, got {value!r}")
        names = ", ".join(map(repr, allowed[:-1]))
        raise ValueError(f"{name}: expected {names} or {allowed[-1]!r}, got {value!r}")
    return value


def flag(name: str, value: object) -> bool:
    """True or false.

    Raises:
        TypeError: anything but a bool.
    """
    if value is True or value is False:
        return value
    plain = plain_number(name, value, "a bool")
    if not isinstance(plain, bool):
        raise TypeError(f"{name}: expected a bool, got {_kind(value)}")
    return plain


def token_id(name: str, value: object) -> int:
    """An id of the vocabulary, as far as it is known.

    Raises:
        TypeError, ValueError: as :func:`integer`.
    """
    return integer(name, value, minimum=0, what="a token id >= 0")


def token_ids(name: str, value: object) -> tuple[int, ...]:
    """Ids, or one, or None for none.

    Raises:
        TypeError, ValueError: as :func:`integer`, of each.
    """
    if value is None:
        return ()
    if isinstance(value, (str, bytes, Mapping)):
        raise TypeError(f"{name}: expected token ids, got {_kind(value)}")
    if isinstance(value, (Tensor, np.ndarray)):
        value = value.tolist()
    if not isinstance(value, Iterable):
        return (token_id(name, value),)
    return tuple(token_id(name, index) for index in value)


def ids_within(name: str, ids: Iterable[int], vocabulary: int) -> None:
    """Hold ids against a vocabulary that is known by now.

    Raises:
        ValueError: one is outside.
    """
    for index in ids:
        if index >= vocabulary:
            raise ValueError(f"{name}: expected an id within the {vocabulary} ids of the logits, got {index}")


def called(name: str, value: object, signature: str) -> None:
    """A function, or None.

    Raises:
        TypeError: something that cannot be called.
    """
    if value is not None and not callable(value):
        raise TypeError(f"{name}: expected a function {signature} or None, got {_kind(value)}")


def instance(name: str, value: Any, kind: type | tuple[type, ...], expected: str) -> Any:
    """An object of a class.

    Raises:
        TypeError: anything else, the class itself as well.
    """
    if not isinstance(value, kind):
        raise TypeError(f"{name}: expected {expected}, got {_kind(value)}")
    return value


def at_least(minimum: int) -> Rule:
    """A whole number of at least so much."""
    return lambda name, value: integer(name, value, minimum=minimum)


def one_of(*allowed: str) -> Rule:
    """One of the names."""
    return lambda name, value: choice(name, value, *allowed)


def optional(rule: Rule) -> Rule:
    """None, or what the rule takes."""
    return lambda name, value: None if value is None else rule(name, value)


def several(rule: Rule) -> Rule:
    """A tuple, each of whose elements the rule takes."""
    return lambda name, value: tuple(rule(name, each) for each in _collection(name, value))


def temperature(name: str, value: object) -> float:
    """A finite number >= 0: 0 takes the best, more draws."""
    return number(name, value, low=0, expected="a number >= 0")


def nucleus(name: str, value: object) -> float:
    """The mass a nucleus keeps, above 0; 1 keeps all, None is off."""
    mass = number(name, value, high=1, expected="0 < top_p <= 1")
    if mass <= 0:
        raise ValueError(f"{name}: expected 0 < top_p <= 1, got {mass}; None is off")
    return mass


def top_k(name: str, value: object) -> int:
    """How many ids are kept; None is off."""
    return integer(name, value, minimum=1, what="at least 1 (None is off)")


def share(name: str, value: object) -> float:
    """A number from 0 to 1: a probability, a threshold on one."""
    return number(name, value, low=0, high=1, expected=f"0 <= {name} <= 1")


def below_one(name: str, value: object) -> float:
    """A number from 0 to 1, 1 excluded: where a grid of times ends."""
    plain = number(name, value, low=0, high=1, expected=f"0 <= {name} < 1")
    if plain >= 1:
        raise ValueError(f"{name}: expected 0 <= {name} < 1, got {plain}")
    return plain


def positive(name: str, value: object) -> float:
    """A finite number > 0."""
    return number(name, value, low=math.ulp(0.0), expected="a positive number")


def weight(name: str, value: object) -> float:
    """A finite number >= 0."""
    return number(name, value, low=0, expected="a number >= 0")


def settle(part: object, prefix: str = "", /, **rules: Rule) -> None:
    """Hold the fields of a frozen dataclass to their rules, and keep what these make of them.

    ``prefix``: what the errors put before a field's name.
    """
    for name, rule in rules.items():
        object.__setattr__(part, name, rule(f"{prefix} {name}".lstrip(), getattr(part, name)))


def plain_number(name: str, value: object, expected: str) -> Any:
    """A NumPy scalar, or an array or tensor of one element, as a Python number; anything else as it is.

    Raises:
        TypeError: an array or tensor of several.
    """
    if isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (np.generic, np.ndarray, Tensor)):
        if math.prod(value.shape) != 1:
            raise TypeError(f"{name}: expected {expected}, got {_kind(value)}")
        return value.item()
    return value


def _collection(name: str, value: object) -> Iterable[Any]:
    if isinstance(value, (Tensor, np.ndarray)) and value.ndim == 1:
        return value.tolist()
    if not isinstance(value, Collection) or isinstance(value, (str, bytes, Mapping)):
        raise TypeError(f"{name}: expected several, such as a tuple, got {_kind(value)}")
    return value


def _kind(value: object) -> str:
    if isinstance(value, (Tensor, np.ndarray)):
        return f"{type(value).__name__} {value.dtype} {list(value.shape)}"
    if isinstance(value, (bool, int, float)) or (isinstance(value, (str, list, tuple)) and len(value) <= 8):
        return f"{type(value).__name__} {value!r}"
    return f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__
