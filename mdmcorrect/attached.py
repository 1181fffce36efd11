"""A model with its quality head: one module, so that whatever wraps it (DDP, FSDP, a compiler) wraps both."""

from __future__ import annotations

import mdmcorrect._requires_torch

import difflib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from . import _checks
from .losses.outputs import ask_head, read_condition, read_field, read_hidden
from .model import gives_hidden_states
from .wrappers import OF_THE_MODEL


class QualityOutput(NamedTuple):
    """What a model with an attached head returns.

    A named tuple, since wrappers (DDP, FSDP, DataParallel) look for tensors in tuples, not in any object.

    Attributes:
        logits: ``[B, L, V]``; None of a model that leaves its output layer to the loss.
        hidden: ``[B, L, D]``.
        quality: ``[B, L]`` in (0, 1).
        quality_logit: ``[B, L]``.
        condition: the model's, or None.
    """

    logits: Tensor | None
    hidden: Tensor
    quality: Tensor
    quality_logit: Tensor
    condition: Tensor | None = None


class ModelWithQuality(nn.Module):
    """A model and its quality head as one module; made by :func:`attach`. Arguments of the call go to the model.

    Of a Hugging Face model it has ``config``, ``get_input_embeddings``, ``gradient_checkpointing_enable`` and what else
    a trainer asks for; ``device`` and ``dtype`` are the first parameter's. Weights that are tied come as copies in
    ``state_dict()``, which safetensors wants.
    """

    def __init__(
        self,
        model: nn.Module,
        head: nn.Module,
        *,
        hidden: Callable[[Any], Tensor] | None,
        logits: Callable[[Any], Tensor | None] | None,
        condition: Callable[[Any], Tensor | None] | None,
        module: str | None,
        capture: str,
    ) -> None:
        super().__init__()
        self.model, self.quality_head = model, head
        self._read_hidden, self._read_logits, self._read_condition = hidden, logits, condition
        self._judges, self._trains_backbone = False, True
        self._module = None if module is None else _full_name(model, module)
        self._asks_for_states = module is None and gives_hidden_states(model)
        if self._module is not None:
            target = model.get_submodule(self._module)
            target._heard = None
            if capture == "output":
                target.register_forward_hook(_hear_output)
            else:
                target.register_forward_pre_hook(_hear_input)
        self.register_state_dict_post_hook(_copy_tied)

    def forward(self, *args: Any, **kwargs: Any) -> QualityOutput:
        with nullcontext() if self._trains_backbone else torch.no_grad():
            output, hidden = self._run(args, kwargs)
            logits = self._logits(output)
            condition = read_condition(output) if self._read_condition is None else self._read_condition(output)
        if self._judges and logits is not None:
            logits = logits.detach()
        quality_logit = ask_head(self.quality_head, hidden, condition, _tokens(args, kwargs))
        return QualityOutput(logits, hidden, torch.sigmoid(quality_logit), quality_logit, condition)

    @contextmanager
    def judging(self, *, train_backbone: bool, train_logits: bool) -> Iterator[None]:
        """Within it a forward is for its quality: without ``train_logits`` the logits have no gradient, without
        ``train_backbone`` the hidden states have none either. The head always learns, within the forward, where
        wrappers see it."""
        before = self._judges, self._trains_backbone
        self._judges, self._trains_backbone = not train_logits, train_backbone
        try:
            yield
        finally:
            self._judges, self._trains_backbone = before

    def _logits(self, output: Any) -> Tensor | None:
        if self._read_logits is not None:
            return self._read_logits(output)
        return output if isinstance(output, Tensor) else read_field(output, "logits")

    def _run(self, args: Any, kwargs: Any) -> tuple[Any, Tensor]:
        if self._module is None:
            if self._asks_for_states:
                kwargs = {"output_hidden_states": True, **kwargs}
            output = self.model(*args, **kwargs)
            states = read_hidden(output) if self._read_hidden is None else self._read_hidden(output)
            if not isinstance(states, Tensor):
                raise TypeError(f"hidden: expected hidden states [B, L, D] from it, got {type(states).__name__}")
            return output, states
        # The submodule itself keeps what its hook hears, and only during this forward: copies of the model that run at
        # once (DataParallel) do not meet, and a second run in the backward (checkpointing) leaves nothing behind.
        target = self._target(self._module)
        heard: list[Any] = []
        target._heard = heard
        try:
            output = self.model(*args, **kwargs)
        finally:
            target._heard = None
        states = heard[-1] if heard else None
        states = states[0] if isinstance(states, (tuple, list)) and states else states
        if not isinstance(states, Tensor):
            got = f"it gave {type(states).__name__}" if heard else "so it gave no hidden states"
            raise RuntimeError(f"module: {self._module!r} did not run in the model's forward, {got}")
        return output, states

    def _target(self, name: str) -> nn.Module:
        try:
            target = self.model.get_submodule(name)
        except AttributeError:
            target = self.model
        if hasattr(target, "_heard"):
            return target
        for module in self.model.modules():  # an adapter was put around it since
            if hasattr(module, "_heard"):
                return module
        raise RuntimeError(
            f"module: the model's submodule {name!r} was replaced; attach the head to the model as it is"
        )

    @property
    def device(self) -> torch.device:
        return self._first_parameter.device

    @property
    def dtype(self) -> torch.dtype:
        return self._first_parameter.dtype

    @property
    def _first_parameter(self) -> Tensor:
        for parameter in self.parameters():
            if parameter.is_floating_point():
                return parameter
        raise AttributeError("the model has no floating parameter, so neither device nor dtype")

    def __getattr__(self, name: str) -> Any:
        if name in OF_THE_MODEL:
            return getattr(super().__getattr__("model"), name)
        return super().__getattr__(name)

    def save_pretrained(self, directory: Any, *, state_dict: dict[str, Tensor] | None = None, **options: Any) -> None:
        """Save the model as it saves itself, and the head to ``quality_head.safetensors`` beside it.

        ``attach(AutoModel.from_pretrained(directory), QualityHead.load(directory), ...)`` brings them back.

        Args:
            directory: made if it is missing.
            state_dict: this module's, where it has been gathered already; its entries are saved instead.
            options: go to the model's ``save_pretrained``.

        Raises:
            TypeError: the model has no ``save_pretrained``, or the head no ``save``.
        """
        for name, part, method in (("model", self.model, "save_pretrained"), ("head", self.quality_head, "save")):
            if not hasattr(part, method):
                raise TypeError(
                    f"{name}: {type(part).__name__} has no {method}; save this module's state_dict() instead"
                )
        own: Any = self.model
        if state_dict is not None:
            options["state_dict"] = _entries(state_dict, "model.")
        own.save_pretrained(directory, **options)
        if options.get("is_main_process", True):
            head: Any = self.quality_head
            given = {} if state_dict is None else {"state_dict": _entries(state_dict, "quality_head.")}
            head.save(Path(directory), **given)


def _tokens(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    """What the model was called with, for a head that reads it."""
    given = args[0] if args else kwargs.get("input_ids", kwargs.get("tokens"))
    return given if isinstance(given, Tensor) else None


def _entries(state_dict: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in state_dict.items() if name.startswith(prefix)}


def _hear_output(module: nn.Module, _args: Any, output: Any) -> None:
    if module._heard is not None:
        module._heard.append(output)


def _hear_input(module: nn.Module, args: Any) -> None:
    if module._heard is not None:
        module._heard.append(args)


def _copy_tied(module: nn.Module, state_dict: dict[str, Any], prefix: str, _metadata: Any) -> None:
    """Later names of a shared parameter get a copy: safetensors refuses shared memory, and loading wants every name."""
    seen: set[int] = set()
    for name, parameter in module.named_parameters(remove_duplicate=False):
        value = state_dict.get(prefix + name)
        if id(parameter) in seen and value is not None and not isinstance(value, nn.Parameter):
            state_dict[prefix + name] = value.clone()
        seen.add(id(parameter))


def _full_name(model: nn.Module, given: str) -> str:
    """The one submodule called so, or whose name ends so."""
    names = [name for name, _ in model.named_modules() if name]
    if given in names:
        return given
    ending = [name for name in names if name.endswith(f".{given}")]
    if len(ending) == 1:
        return ending[0]
    if ending:
        raise ValueError(f"module: {given!r} may be any of {_listed(ending)}; give more of the name")
    last = given.rpartition(".")[2]
    near = [name for name in names if last in name.rpartition(".")[2]]
    near = (
        near or difflib.get_close_matches(given, names, n=8, cutoff=0.4) or [name for name in names if "." not in name]
    )
    raise ValueError(f"module: the model has no submodule named {given!r}; it has {_listed(near)}")


def _listed(names: list[str], most: int = 8) -> str:
    text = ", ".join(repr(name) for name in names[:most])
    return text if len(names) <= most else f"{text} and {len(names) - most} more"


def attach(
    model: nn.Module,
    head: nn.Module,
    *,
    hidden: Callable[[Any], Tensor] | None = None,
    module: str | None = None,
    capture: str = "output",
    logits: Callable[[Any], Tensor | None] | None = None,
    condition: Callable[[Any], Tensor | None] | None = None,
) -> ModelWithQuality:
    """Put a quality head on a model.

    Attach first and wrap afterwards (DDP, FSDP, ``torch.compile``): what wraps the pair averages or compiles both.

    Args:
        model: any module whose output holds logits, or hidden states alone where the loss gets its ``output_layer=``.
        head: called as ``head(hidden, condition)``, and with the tokens third where it has a true ``reads_tokens``;
            returns logits ``[B, L]``; usually a :class:`mdmcorrect.heads.QualityHead`.
        hidden: takes the model's output, returns hidden states ``[B, L, D]``. By default the output's ``hidden``, its
            ``last_hidden_state``, else the last of its ``hidden_states``, which a Hugging Face model is asked for.
        module: instead of ``hidden``, the name of a submodule (as in ``named_modules``), or an ending of it that no
            other submodule has, that a forward hook listens to. Nothing else is kept then.
        capture: of that submodule "output" (its first element if a tuple) or "input" (its first positional argument).
        logits: takes the model's output, returns logits; by default the output itself or its ``logits``.
        condition: takes the model's output, returns the conditioning vector or None; by default its ``condition``.

    Returns:
        A module with the model's call signature that returns a :class:`QualityOutput`.

    Raises:
        TypeError: ``model``, ``head`` or one of the functions is nothing to call, ``module`` no name.
        ValueError: both ``hidden`` and ``module`` given, an unknown or ambiguous submodule, an unknown ``capture``, or
            "input" without ``module``.
    """
    for name, value in {"model": model, "head": head}.items():
        if not callable(value) or isinstance(value, type):
            got = f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__
            raise TypeError(f"{name}: expected a module, got {got}")
    for name, value in {"hidden": hidden, "logits": logits, "condition": condition}.items():
        if value is not None and not callable(value):
            raise TypeError(f"{name}: expected a function of the model's output, got {type(value).__name__}")
    if hidden is not None and module is not None:
        raise ValueError("hidden, module: give one of them, got both")
    if module is not None and not isinstance(module, str):
        raise TypeError(f"module: expected the name of a submodule, got {type(module).__name__}")
    _checks.choice("capture", capture, "output", "input")
    if capture == "input" and module is None:
        raise ValueError("capture: expected module=, the submodule whose input is meant, beside 'input', got None")
    if module is not None and not isinstance(model, nn.Module):
        raise TypeError(f"model: expected a module beside module=, got {type(model).__name__}")
    return ModelWithQuality(
        model, head, hidden=hidden, logits=logits, condition=condition, module=module, capture=capture
    )
