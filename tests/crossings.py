"""Operations on tensors of a device that involve the host: none may be there where a CUDA graph is to be captured.

Tensors of a device that is made up need none, inside ``FakeTensorMode``; a torch without CUDA cannot index them by
brackets.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map


class Crossings(TorchDispatchMode):
    """Refuses operations on tensors of a device that involve the host: copies either way, and reading a value."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        results = func(*args, **(kwargs or {}))
        given, made = (
            {leaf.device.type for leaf in tree_leaves(values) if isinstance(leaf, Tensor)}
            for values in ((args, kwargs), results)
        )
        waits = len(given | made) > 1 or func in (
            torch.ops.aten._local_scalar_dense.default,
            torch.ops.aten.nonzero.default,
        )
        assert not waits, f"{func} from {given} to {made}"
        return results


def pretended(values):
    """Tensors of the same shapes and strides on a CUDA device."""

    def on_device(value):
        if not isinstance(value, Tensor):
            return value
        return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="cuda")

    return tree_map(on_device, values)


class WithoutGuards(TorchFunctionMode):
    """Lets tensors of a made-up device do what torch's Python does under a guard of the device: brackets, for one."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        return _UNGUARDED.get(func, func)(*args, **(kwargs or {}))


def _contiguous(tensor: Tensor) -> Tensor:
    return tensor if tensor.is_contiguous() else tensor.clone(memory_format=torch.contiguous_format)


def _indexed(tensor: Tensor, key) -> Tensor:
    keys = key if isinstance(key, tuple) else (key,)
    dim, indices = 0, {}
    for place, one in enumerate(keys):
        if one is None:
            tensor = tensor.unsqueeze(dim)
        elif one is Ellipsis:
            dim = tensor.dim() - sum(later is not None for later in keys[place + 1 :])
            continue
        elif isinstance(one, slice):
            tensor = torch.ops.aten.slice.Tensor(tensor, dim, one.start, one.stop, one.step or 1)
        elif isinstance(one, Tensor):
            indices[dim] = one
        else:
            tensor = tensor.select(dim, int(one))
            continue
        dim += 1
    return torch.ops.aten.index.Tensor(tensor, [indices.get(i) for i in range(dim)]) if indices else tensor


_UNGUARDED = {
    Tensor.__getitem__: _indexed,
    Tensor.__invert__: torch.bitwise_not,
    Tensor.contiguous: _contiguous,
}
