"""Shared by the tests of score_quality: hidden states, heads, and the float64 reference."""

from __future__ import annotations

import numpy as np
import torch

from mdmcorrect import reference


def states(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    """Like hidden states: an offset, and two dimensions that dwarf the others."""
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 2 + 0.5
    x[..., ::97] *= 30
    return x.to(dtype)


def head(size: int, norm: str | None, dtype: torch.dtype = torch.float32, seed: int = 1) -> dict:
    generator = torch.Generator().manual_seed(seed)

    def values(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    arguments = {"weight": values(size) / size**0.5, "bias": values(1), "norm": norm}
    if norm is not None:
        arguments |= {"norm_weight": 1 + values(size) / 4, "norm_bias": values(size) / 4}
    return {name: x.to(dtype) if isinstance(x, torch.Tensor) else x for name, x in arguments.items()}


def expected(hidden: torch.Tensor, shift=0.0, scale=0.0, bias=0.0, **arguments) -> np.ndarray:
    def array(value):
        if not isinstance(value, torch.Tensor):
            return value
        wide = value.double().numpy()
        return wide[..., None, :] if value.dim() == hidden.dim() - 1 and value.dim() > 1 else wide

    arguments = {name: array(value) for name, value in arguments.items()}
    bias = bias.item() if isinstance(bias, torch.Tensor) else bias
    return reference.score_quality(array(hidden), bias=bias, shift=array(shift), scale=array(scale), **arguments)
