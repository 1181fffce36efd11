"""The layout of an operator's parameters, read out of csrc/core/<op>_params.h: no struct is written down twice."""

from __future__ import annotations

import ctypes
import functools
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

FLOAT_TYPES = {"float32": 0, "bfloat16": 1, "float16": 2, "float64": 3}


class RowInts(ctypes.Structure):
    _fields_ = [("data", ctypes.c_void_p), ("row_stride", ctypes.c_int64)]


class Grid(ctypes.Structure):
    _fields_ = [("data", ctypes.c_void_p), ("row_stride", ctypes.c_int64), ("col_stride", ctypes.c_int64)]


class FloatGrid(ctypes.Structure):
    _fields_ = [*Grid._fields_, ("type", ctypes.c_int32)]


class FloatRows(FloatGrid):
    """[B, L, D] with a contiguous last dimension, whose stride is not kept."""


class Heads(ctypes.Structure):
    _fields_ = [("data", ctypes.c_void_p), *((f"{name}_stride", ctypes.c_int64) for name in ("batch", "head", "row"))]


class MutableHeads(Heads):
    """Written by the kernel."""


SCALARS = {
    "int64_t": ctypes.c_int64,
    "int32_t": ctypes.c_int32,
    "double": ctypes.c_double,
    "float": ctypes.c_float,
    "bool": ctypes.c_bool,
    "FloatType": ctypes.c_int32,
    "AttentionMask": ctypes.c_int32,
    "CountRule": ctypes.c_int32,
    "RowInts": RowInts,
    "FloatGrid": FloatGrid,
    "FloatRows": FloatRows,
    "QualityNorm": ctypes.c_int32,
    "Heads": Heads,
    "MutableHeads": MutableHeads,
}


def _constants(text: str) -> dict[str, int]:
    """Values of the header's `constexpr int` and of its enumerators (as Enum::name), where they are plain."""
    values: dict[str, int] = {}
    for enum, body in re.findall(r"enum class (\w+)[^{]*\{([^}]*)\}", text):
        number = 0
        for entry in filter(None, (part.strip() for part in body.split(","))):
            name, _, given = (part.strip() for part in entry.partition("="))
            number = int(given) if given else number
            values[f"{enum}::{name}"] = number
            number += 1
    for name, value in re.findall(r"constexpr \w+ (\w+) = ([^;]+);", text):
        plain = re.sub(r"static_cast<\w+>\(([\w:]+)\)", r"\1", value)
        if plain in values or plain.isdigit():
            values[name] = values[plain] if plain in values else int(plain)
    return values


def _field(declaration: str, constants: dict[str, int]) -> list[tuple[str, type, bool]]:
    """(name, ctypes type, written by the kernel) of each name in one declaration."""
    match = re.match(r"(const )?([\w:]+(?:<\w+>)?)(\*?) (.+)$", declaration)
    assert match is not None, f"a declaration that tests/simt/params.py cannot read: {declaration}"
    const, base, star, names = match.groups()
    written = base == "MutableHeads" or bool(star and not const)
    kind = ctypes.c_void_p if star else Grid if base.startswith("Grid<") else SCALARS.get(base) or struct_named(base)[0]
    fields = []
    for name in names.split(", "):
        array = re.match(r"(\w+)\[(\w+)\]$", name)
        if array:
            count = constants.get(array[2]) or int(array[2])
            fields.append((array[1], kind * count, written))
        else:
            fields.append((name, kind, written))
    return fields


@functools.cache
def params_of(op: str) -> tuple[type[ctypes.Structure], frozenset[str]]:
    """The operator's parameters as a ctypes structure, and the names of those that are outputs."""
    return struct_named("".join(part.title() for part in op.split("_")) + "Params")


@functools.cache
def struct_named(name: str) -> tuple[type[ctypes.Structure], frozenset[str]]:
    """One struct of those headers, likewise."""
    headers = (re.sub(r"//[^\n]*", "", path.read_text()) for path in (ROOT / "csrc" / "core").glob("*_params.h"))
    found = [(text, body) for text in headers if (body := re.search(rf"struct {name} \{{(.*?)\n\}};", text, re.S))]
    assert len(found) == 1, f"{len(found)} headers of csrc/core have a struct {name}"
    text, body = found[0]
    constants = _constants(text)
    declarations = [" ".join(part.split()) for part in body[1].split(";")]
    fields = [field for part in declarations if part for field in _field(part, constants)]
    structure = type(name, (ctypes.Structure,), {"_fields_": [(name, kind) for name, kind, _ in fields]})
    return structure, frozenset(name for name, _, written in fields if written)
