"""Presets by name, and their settings as a command line writes them."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from ._told import UserError


def preset_types() -> dict[str, Any]:
    """Every published sampler by its name."""
    from mdmcorrect.samplers import presets

    return {name: getattr(presets, name) for name in presets.__all__ if name != "Preset"}


def preset_of(name: str, settings: Sequence[str], steps: int | None) -> tuple[Any, dict[str, Any]]:
    """The sampler, and the settings it was given.

    Args:
        name: of a preset, in any case; else a folder or file that ``Preset.save_pretrained`` wrote.
        settings: each ``name=value``, the value as Python writes it; a word needs no quotes.
        steps: a setting of its own.

    Raises:
        UserError: an unknown preset or setting, or a value it refuses.
    """
    types = preset_types()
    found = {known.lower(): known for known in types}.get(name.lower())
    if found is None and Path(name).exists():
        return _written(name, settings, steps)
    if found is None:
        raise UserError(f"--preset: expected one of {', '.join(types)}, got {name}")
    kind = types[found]
    known = [field.name for field in fields(kind)]
    values = _values(settings, steps, known, f" with a setting of {found}: {', '.join(known)}")
    required = [f.name for f in fields(kind) if f.default is MISSING and f.default_factory is MISSING]
    missing = [key for key in required if key not in values]
    if missing:
        raise UserError(f"--preset {found}: it needs {', '.join(missing)}; give --set {missing[0]}=...")
    try:
        return kind(**values), values
    except (TypeError, ValueError) as error:
        raise UserError(f"--preset {found}: {error}") from error


def _written(name: str, settings: Sequence[str], steps: int | None) -> tuple[Any, dict[str, Any]]:
    """The preset of a file, with these settings instead of its own."""
    from mdmcorrect.samplers import Preset

    try:
        preset = Preset.from_pretrained(name, **_values(settings, steps))
    except (OSError, TypeError, ValueError) as error:
        raise UserError(f"--preset {name}: {error}") from error
    return preset, {field.name: getattr(preset, field.name) for field in fields(preset)}


def _values(
    settings: Sequence[str], steps: int | None, known: Sequence[str] | None = None, expected: str = ""
) -> dict[str, Any]:
    """The settings of a line by name; ``known`` names, None if whoever takes them refuses the others."""
    values: dict[str, Any] = {} if steps is None else {"steps": steps}
    for setting in settings:
        key, equals, text = setting.partition("=")
        key = key.strip().replace("-", "_")
        if not equals or (known is not None and key not in known):
            raise UserError(f"--set {setting}: expected name=value{expected}")
        if key in values:
            raise UserError(f"--set {setting}: {key} is given twice")
        values[key] = _value(text.strip())
    return values


def _value(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def listing() -> str:
    """Every preset, what it is, and its settings with their defaults."""
    lines = []
    for name, kind in preset_types().items():
        lines.append(f"{name}: {(inspect.getdoc(kind) or '').splitlines()[0]}")
        settings = [f.name if f.default is MISSING else f"{f.name}={f.default!r}" for f in fields(kind)]
        lines.append(f"    {', '.join(settings)}")
    return "\n".join(lines)
