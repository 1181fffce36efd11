"""Presets as JSON: what a run was sampled with, kept beside a model or in an experiment's log."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .preset import Preset

FILE_NAME = "sampler.json"
_PLAIN = (str, int, float, bool, type(None))


def to_json(preset: Preset) -> str:
    """All settings, defaults too: a later default changes nothing that was written."""
    settings, needs = {}, []
    for field in fields(preset):
        value = getattr(preset, field.name)
        if _is_plain(value):
            settings[field.name] = value
        else:  # a model, which no JSON holds
            needs.append(field.name)
    written = {"preset": type(preset).__name__, "settings": settings}
    return json.dumps(written | ({"needs": needs} if needs else {}), indent=2, allow_nan=False) + "\n"


def from_json(text: str, kinds: Mapping[str, type[Preset]], given: Mapping[str, Any]) -> Preset:
    """The preset that :func:`to_json` wrote; ``given`` are the settings that it could not write, or replaces some."""
    try:
        written = json.loads(text)
    except (TypeError, ValueError) as error:
        raise ValueError(f"text: expected the JSON of a preset, got {_shown(text)} ({error})") from error
    if not isinstance(written, dict) or not isinstance(written.get("settings", {}), dict) or "preset" not in written:
        raise ValueError(f'text: expected {{"preset": ..., "settings": {{...}}}}, got {_shown(text)}')
    kind = kinds.get(written["preset"]) if isinstance(written["preset"], str) else None
    if kind is None:
        raise ValueError(f"preset: {_unknown(written['preset'], kinds)}")
    known = [field.name for field in fields(kind)]
    settings = {**written.get("settings", {}), **given}
    for name in settings:
        if name not in known:
            raise ValueError(f"{kind.__name__}: {_unknown(name, known)}")
    missing = [name for name in written.get("needs", ()) if name not in settings]
    if missing:
        raise ValueError(f"{missing[0]}: was no number or text when {kind.__name__} was written; give it by keyword")
    try:
        return kind(**{name: _tuples(value) for name, value in settings.items()})
    except TypeError as error:  # a setting without a default is not there
        if "required keyword-only" in str(error):
            raise ValueError(f"{kind.__name__}: {str(error).split(' ', 1)[1]}") from error
        raise


def save(preset: Preset, directory: str | PathLike[str]) -> Path:
    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / FILE_NAME).write_text(to_json(preset), encoding="utf-8")
    return folder / FILE_NAME


def _is_plain(value: Any) -> bool:
    if isinstance(value, (tuple, list)):
        return all(_is_plain(part) for part in value)
    return isinstance(value, _PLAIN)


def _tuples(value: Any) -> Any:
    return tuple(_tuples(part) for part in value) if isinstance(value, list) else value


def _unknown(name: object, known: Sequence[str] | Mapping[str, Any]) -> str:
    folded = {each.lower(): each for each in known}
    near = [folded[each] for each in difflib.get_close_matches(str(name).lower(), folded, n=1, cutoff=0.5)]
    return f"expected one of {', '.join(known)}, got {name!r}" + (f"; did you mean {near[0]}?" if near else "")


def _shown(text: object) -> str:
    said = repr(text)
    return said if len(said) < 60 else f"{said[:57]}..."
