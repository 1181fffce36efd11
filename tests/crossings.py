"""Operations on tensors of a device that involve the host: none may be there where a CUDA graph is to be captured.

Tensors of a device that is made up need none, inside ``FakeTensorMode``; a torch without CUDA cannot index them by
brackets.
"""

from __future__ import annotations

import torch
from torch import Tensor
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
