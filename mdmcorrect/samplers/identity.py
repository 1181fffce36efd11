"""Which sampler a state belongs to, in words that another process finds again."""

from __future__ import annotations

import re
from dataclasses import fields, is_dataclass
from itertools import zip_longest

import torch


def identity(sampler: object, mask_id: int) -> str:
    """What a state must have been made by to be gone on with."""
    return f"{describe(sampler)} with mask_id={mask_id}"


def difference(one: str, other: str) -> tuple[str, str]:
    """The setting in which two descriptions first differ, of each."""
    pairs = zip_longest(*(re.split(r", | with ", text) for text in (one, other)), fillvalue="nothing more")
    return next((a, b) for a, b in pairs if a != b)


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
