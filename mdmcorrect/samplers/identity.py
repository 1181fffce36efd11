"""Which sampler a state belongs to, in words that another process finds again."""

from __future__ import annotations

from dataclasses import fields, is_dataclass

import torch


def describe(part: object) -> str:
    """The type and settings of a part and of the parts in it; of models and functions, what they are called."""
    if is_dataclass(part) and not isinstance(part, type):
        settings = (f"{f.name}={describe(getattr(part, f.name))}" for f in fields(part) if f.compare)
        return f"{type(part).__qualname__}({', '.join(settings)})"
    if part is None or isinstance(part, (str, bool, int, float, torch.dtype)):
        return repr(part)
    if isinstance(part, (tuple, list)):
        return f"({', '.join(map(describe, part))})"
    return getattr(part, "__qualname__", None) or type(part).__qualname__
