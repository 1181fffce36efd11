"""Wrappers that average gradients over processes, and what they would miss without a word."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ..wrappers import unwrapped


def processes() -> int:
    """How many train together, 1 without torch.distributed."""
    ready = torch.distributed.is_available() and torch.distributed.is_initialized()
    return torch.distributed.get_world_size() if ready else 1


def averagers(model: Any) -> list[nn.Module]:
    """Modules in ``model`` that average gradients: DistributedDataParallel, FSDP of either kind."""
    return [module for each in _modules(model) for module in each.modules() if _averages(module)]


def _modules(part: Any) -> list[nn.Module]:
    """The module it is, or those in it: of a ``functools.partial``, or of an adapter, which is no module itself."""
    part = unwrapped(part) if isinstance(part, functools.partial) else part
    if isinstance(part, nn.Module):
        return [part]
    if not type(part).__module__.startswith("mdmcorrect."):
        return []
    return [module for value in vars(part).values() if not isinstance(value, Tensor) for module in _modules(value)]


def _averages(module: nn.Module) -> bool:
    if isinstance(module, nn.parallel.DistributedDataParallel):
        return True
    return any(base.__name__ in ("FSDPModule", "FullyShardedDataParallel") for base in type(module).__mro__)


def covered(module: nn.Module) -> set[int]:
    """Ids of the parameters within it."""
    return {id(parameter) for parameter in module.parameters()}


def check_averaged(**parts: Any) -> None:
    """Raise if one part of a training step is averaged over processes and another has parameters that are not.

    Nobody would notice: every process would train its own copy. Functions are not looked into. A shard (DTensor) takes
    care of itself.
    """
    if processes() == 1:
        return
    wrappers = [wrapper for part in parts.values() for wrapper in averagers(part)]
    if not wrappers:
        return
    layer = parts.get("output_layer")
    own = set() if layer is None or averagers(layer) else {id(p) for p in _parameters(layer) if p.requires_grad}
    for wrapper in wrappers:
        ddp = isinstance(wrapper, nn.parallel.DistributedDataParallel)
        if ddp and wrapper.find_unused_parameters and not wrapper.static_graph and own & covered(wrapper):
            raise ValueError(
                "output_layer: is part of a model wrapped with find_unused_parameters=True, which takes it for unused, "
                "being left out of its forward; wrap without that, or let the model make the logits"
            )
    known = set().union(*(covered(wrapper) for wrapper in wrappers))
    for name, part in parts.items():
        given = _parameters(part)
        if any(p.requires_grad and id(p) not in known and type(p).__name__ != "DTensor" for p in given):
            raise ValueError(
                f"{name}: has parameters outside of {type(wrappers[0]).__name__}, whose gradients no process would "
                "share with the others; wrap it too, or make it part of the wrapped model (heads.attach for a head)"
            )


def _parameters(part: Any) -> list[Tensor]:
    return [part] if isinstance(part, Tensor) else [p for module in _modules(part) for p in module.parameters()]


def check_waiting(model: Any, loss: Tensor, told: str) -> None:
    """Raise if DistributedDataParallel waits for parameters that the backward of ``loss`` does not reach.

    Until they come it averages none of those that share a bucket with them, and only the next step says so. ``told`` is
    what leaves them out.
    """
    wrappers = [each for each in averagers(model) if isinstance(each, nn.parallel.DistributedDataParallel)]
    wrappers = [each for each in wrappers if not (each.find_unused_parameters or each.static_graph)]
    reached = _reached(loss) if wrappers else None
    if reached is None:
        return
    for wrapper in wrappers:
        missing = [name for name, p in wrapper.module.named_parameters() if p.requires_grad and id(p) not in reached]
        if missing:
            raise ValueError(
                f"{told}, but DistributedDataParallel waits for gradients of {len(missing)} parameters that the loss "
                f"does not reach, the first {missing[0]!r}; call requires_grad_(False) on them before wrapping, or "
                "wrap with find_unused_parameters=True"
            )


def _reached(loss: Tensor) -> set[int] | None:
    """Ids of the parameters that a backward reaches; None where reentrant checkpoints hide some."""
    found, seen, nodes = set(), set(), [loss.grad_fn]
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if "Checkpoint" in node.name():
            return None
        if hasattr(node, "variable"):
            found.add(id(node.variable))
        nodes += [each for each, _ in node.next_functions]
    return found


def check_seen(model: Any, output: Any) -> None:
    """Raise if a wrapper of ``model`` does not find the tensors in ``output`` by which it learns of the backward."""
    if isinstance(output, Tensor) or not torch.is_grad_enabled() or processes() == 1:
        return
    if not isinstance(model, nn.Module):  # an adapter's output is its own
        return
    for wrapper in averagers(model):
        ddp = isinstance(wrapper, nn.parallel.DistributedDataParallel)
        if ddp and not wrapper.static_graph:
            continue
        if not any(isinstance(leaf, Tensor) and leaf.requires_grad for leaf in pytree.tree_leaves(output)):
            raise TypeError(
                f"model: {type(wrapper).__name__} finds no tensors in an output of type {type(output).__name__} and "
                "would not average gradients; return a tensor, a dict, a (named) tuple or a Hugging Face output"
            )
