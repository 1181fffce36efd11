"""The options that the losses share, said once: which there are, and how they reach the parts of an objective.

A loss function takes its own arguments by name and these as keywords. Every option is a field of one part
(``Corruption.schedule``, ``Denoise.weight``, ...), which holds its default and its check; the names below are what a
type checker and an editor see, and :func:`takes` makes ``help`` and ``inspect.signature`` see them too.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypedDict, TypeVar, get_type_hints

import torch
from torch import Tensor

from ..schedules import Schedule
from .arguments import check_generator
from .corruption import Corruption
from .masking import Roles
from .outputs import Forward
from .reader import Reader
from .sources import JointDraw, ModelOutput
from .targets import Correct, Denoise
from .terms import Count, Normalizer, Weight

Part = TypeVar("Part")
Function = TypeVar("Function", bound=Callable[..., Any])


class Scoring(TypedDict, total=False):
    """Of the forms that take what a model said."""

    schedule: str | Schedule
    fixed: Tensor | None
    loss_mask: Tensor | None
    attention_mask: Tensor | None
    weight: Weight
    normalizer: Normalizer
    num_items_in_batch: Count


class Drawing(TypedDict, total=False):
    """Of the forms that draw masks and call the model."""

    t: Tensor | None
    antithetic: bool
    condition: Any
    generator: torch.Generator | None
    forward: Forward | None
    check: bool


class Training(Scoring, Drawing, total=False):
    """Both, and an output layer outside of the model."""

    output_layer: Any


class Steering(Drawing, total=False):
    """Of a loss that scores every mask."""

    schedule: str | Schedule
    fixed: Tensor | None
    attention_mask: Tensor | None
    num_items_in_batch: Count


# Of the call, rather than of a part.
_CALL: dict[str, Any] = {"t": None, "num_items_in_batch": None, "generator": None, "check": True}
_PARTS = (Corruption, Roles, JointDraw, ModelOutput, Correct, Denoise, Reader)
_DEFAULTS = {field.name: field.default for part in _PARTS for field in dataclasses.fields(part)}
_FIELDS: dict[type, list[str]] = {
    part: [field.name for field in dataclasses.fields(part)] for part in _PARTS
}  # read while a graph is traced


def takes(options: type[Any]) -> Callable[[Function], Function]:
    """A function whose ``**options`` are those of a ``TypedDict``: unknown ones are refused, and its signature names
    them with their defaults."""
    defaults = {**_DEFAULTS, **_CALL, "mdlm_weight": 1.0, "corrector_weight": 1.0, "num_corrector_items_in_batch": None}
    hints = get_type_hints(options)

    def decorate(function: Function) -> Function:
        own = inspect.signature(function)
        written = lambda annotation: eval(annotation, function.__globals__)  # noqa: E731
        own = own.replace(return_annotation=written(own.return_annotation))
        listed = [
            p.replace(annotation=written(p.annotation)) for p in own.parameters.values() if p.kind is not p.VAR_KEYWORD
        ]
        shared = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=defaults[name], annotation=hint)
            for name, hint in hints.items()
            if name not in own.parameters
        ]

        @functools.wraps(function)
        def checked(*args: Any, **given: Any) -> Any:
            for name in given:
                if name not in known:
                    raise TypeError(f"{function.__name__}() got an unexpected keyword argument {name!r}")
            return function(*args, **given)

        known = {p.name for p in [*listed, *shared]}
        checked.__signature__ = own.replace(parameters=[*listed, *shared])  # type: ignore[attr-defined]
        checked.__annotations__ = {p.name: p.annotation for p in [*listed, *shared]}
        checked.__annotations__["return"] = own.return_annotation
        return checked  # type: ignore[return-value]

    return decorate


def made(part: type[Part], options: Mapping[str, Any], **own: Any) -> Part:
    """A part of the options that are its fields, and of ``own``."""
    return part(**{name: options[name] for name in _FIELDS[part] if name in options}, **own)


def of_call(options: Mapping[str, Any]) -> dict[str, Any]:
    """What of the options an objective takes when it is called."""
    check_generator(options.get("generator"))
    own = {name: options[name] for name in _CALL if name in options and name != "num_items_in_batch"}
    return {"roles": made(Roles, options), **own}
