"""Which layers may be replaced by arithmetic on their weights, because that is all they are."""

from __future__ import annotations

import mdmcorrect._requires_torch

from typing import Any

from torch import Tensor, nn
from torch.nn.modules import module as torch_module

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def hooked(module: nn.Module) -> bool:
    """Whether hooks, its own or those of all modules, run when ``module`` is called."""
    return any(getattr(module, name) for name in _HOOKS) or bool(torch_module._has_any_global_hook())


def is_plain(layer: Any, *kinds: type[nn.Module]) -> bool:
    """Whether calling ``layer`` does what one of the classes ``kinds`` says, with its parameters, and nothing else.

    A subclass, a hook (``weight_norm``, sharding), a parametrization (which makes a subclass), a ``forward`` of the
    instance (accelerate) and a parameter that is no ordinary tensor (quantised, sharded) may all do something else.
    """
    return (
        type(layer) in kinds
        and not hooked(layer)
        and "forward" not in vars(layer)
        and all(type(parameter) in (Tensor, nn.Parameter) for parameter in layer.parameters(recurse=False))
    )
