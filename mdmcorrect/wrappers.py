"""What a model takes, seen through what stands around it: DDP, ``torch.compile``, peft, partials, decorators.

A wrapper that hands its arguments on has the signature ``(*args, **kwargs)``, which says nothing. These functions read
the signature of what is called in the end. All of the library asks here and nowhere else.
"""

from __future__ import annotations

import mdmcorrect._requires_torch

import functools
import inspect
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

_REST, _KEYWORDS = inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD
_NAMED = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


# What trainers and samplers ask a Hugging Face model for, and modules of ours around one pass on.
OF_THE_MODEL = frozenset(
    {
        "config",
        "generation_config",
        "main_input_name",
        "name_or_path",
        "supports_gradient_checkpointing",
        "is_gradient_checkpointing",
        "gradient_checkpointing_enable",
        "gradient_checkpointing_disable",
        "supports_activation_checkpointing",
        "is_activation_checkpointing",
        "activation_checkpointing_enable",
        "activation_checkpointing_disable",
        "enable_input_require_grads",
        "disable_input_require_grads",
        "get_input_embeddings",
        "set_input_embeddings",
        "get_output_embeddings",
        "set_output_embeddings",
        "resize_token_embeddings",
        "tie_weights",
        "set_attn_implementation",
        "hf_device_map",
        "is_loaded_in_8bit",
        "is_loaded_in_4bit",
        "is_quantized",
        "quantization_method",
        "hf_quantizer",
        "_no_split_modules",
        "_keys_to_ignore_on_save",
    }
)


@dataclass(frozen=True)
class Accepted:
    """The arguments that a model takes.

    Attributes:
        names: those that it names, or what it hands its keywords to.
        anything: keywords are handed on to where no signature can be read, so that any name may be taken.
    """

    names: frozenset[str] = frozenset()
    anything: bool = False

    def takes(self, name: str) -> bool:
        """Whether an argument of this name is taken, as far as signatures tell."""
        return name in self.names or self.anything


def unwrapped(model: Any) -> Any:
    """The model inside wrappers that stand for it; itself where there is none.

    Looked through are ``torch.compile``, DDP, FSDP, DataParallel, ``AveragedModel`` and whatever else calls ``.module``
    with all that it gets, peft's models, ``functools.partial``, a module's bound ``__call__`` and ``forward``, and
    decorators made with ``functools.wraps``. A model with more to it, such as one with a quality head, is a model.
    """
    for layer in layers(model):
        model = layer
    return model


def layers(model: Any) -> Iterator[Any]:
    """``model`` and what it stands for, from the outside in; the last is :func:`unwrapped`."""
    seen: set[int] = set()
    while model is not None and id(model) not in seen:
        seen.add(id(model))
        yield model
        model = _stands_for(model)


def decides(model: Any) -> Any:
    """The model whose signature :func:`accepted` reads in the end."""
    model = unwrapped(model)
    inner = _module(model, "model") if isinstance(model, nn.Module) and _hands_all_on(model) else None
    return model if inner is None else decides(inner)


def accepted(model: Any) -> Accepted:
    """What ``model`` takes, through wrappers, as far as they hand on what they get."""
    return _accepted(model, None)


def _accepted(model: Any, owner: Any) -> Accepted:
    """The same; ``owner`` is the module whose ``forward`` is asked about."""
    if isinstance(model, functools.partial) and not hasattr(model, "__wrapped__"):
        given = [p.name for p in _parameters(model.func) if p.kind in _NAMED][: len(model.args)]
        inside = _accepted(model.func, owner)
        return Accepted(inside.names - set(given), inside.anything)
    own = _accepted(model.forward, model) if isinstance(model, nn.Module) else _own(model)
    if not own.anything:
        return own
    inner = _stands_for(model)
    if inner is None and isinstance(model, nn.Module) and _hands_all_on(model):
        inner = _module(model, "model")  # it has more to it, but takes what the model in it takes
    if inner is None or inner is owner:
        return own
    inside = _accepted(inner, owner)
    return Accepted(own.names | inside.names, inside.anything)


def _own(function: Any) -> Accepted:
    """What the signature says. Builtins and compiled callables without one take tokens only."""
    parameters = _parameters(function)
    names = frozenset(p.name for p in parameters if p.kind not in (_REST, _KEYWORDS))
    rest = next((p for p in parameters if p.kind is _KEYWORDS), None)
    if rest is None:
        return Accepted(names)
    hint = rest.annotation
    if isinstance(hint, str) and "Unpack[" in hint:
        hint = next((p.annotation for p in _parameters(function, evaluate=True) if p.kind is _KEYWORDS), None)
    if hasattr(function, "__wrapped__") or typing.get_origin(hint) is not typing.Unpack:
        return Accepted(names, anything=True)
    # **kwargs: Unpack[SomeTypedDict], as transformers' models have them, lists what it allows. position_ids among them
    # is for attention over packed sequences: a model that embeds or rotates by them names them itself.
    listed = typing.get_args(hint)[0].__annotations__
    return Accepted(names | (frozenset(listed) - {"position_ids"}))


def _parameters(function: Any, *, evaluate: bool = False) -> list[inspect.Parameter]:
    if isinstance(function, nn.Module):
        function = function.forward
    schema = getattr(function, "schema", None)  # of scripted and traced functions
    if schema is not None and hasattr(schema, "arguments"):
        return [inspect.Parameter(argument.name, inspect.Parameter.KEYWORD_ONLY) for argument in schema.arguments]
    try:
        return list(inspect.signature(function, follow_wrapped=False, eval_str=evaluate).parameters.values())
    except Exception:  # no signature, or annotations that only type checkers can read
        return []


def _stands_for(model: Any) -> Any:
    """What ``model`` calls with the arguments it gets; None if it is no such wrapper."""
    if isinstance(model, nn.Module):
        if any(cls.__module__.startswith("peft.") for cls in type(model).__mro__):
            base = getattr(model, "get_base_model", None)
            return base() if base is not None else _module(model, "base_model") or _module(model, "model")
        compiled = _module(model, "_orig_mod")
        return _module(model, "module") if compiled is None and _hands_all_on(model) else compiled
    owner = getattr(model, "__self__", None)
    if hasattr(model, "__wrapped__"):
        within = model.__wrapped__
        return within.__get__(owner) if inspect.ismethod(model) and inspect.isfunction(within) else within
    if isinstance(owner, nn.Module) and model.__name__ in ("__call__", "_wrapped_call_impl", "forward"):
        return owner
    return model.func if isinstance(model, functools.partial) else None


def _hands_all_on(module: nn.Module) -> bool:
    return [p.kind for p in _parameters(module)] == [_REST, _KEYWORDS]


def _module(module: nn.Module, name: str) -> nn.Module | None:
    held = getattr(module, name, None)
    return held if isinstance(held, nn.Module) else None
