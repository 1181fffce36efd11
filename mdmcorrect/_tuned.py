"""What ``mdmcorrect tune`` measured on this machine: which attention runs calls without masking, and which instruction
set attention and the loss take on the CPU.

A file of its own for the processor and for each kind of CUDA device, in the user's cache folder. It counts for the
processor or device, the torch and the mdmcorrect it names; another one, or one that is damaged, is passed over with a
line in the log. Scoring and draws are none of it: their kernels are chosen without any measurement of the user's.
``MDMCORRECT_TUNE=off`` passes over all.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import json
import logging
import os
import platform
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import mdmcorrect
from mdmcorrect import _cache

logger = logging.getLogger(__name__)

FORMAT = 1
ATTENTION = ("mdmcorrect", "sdpa")
GROUPS = ("attention", "loss")


@dataclass(frozen=True)
class Tuned:
    """What was measured on a processor or device.

    Attributes:
        machine: what it was measured on, :func:`machine`.
        attention: for "bfloat16 128", a dtype and a width of heads, what runs a call without masking: one of ATTENTION.
        isas: for each of GROUPS the instruction set of its kernels on the CPU.
        seconds: the measurements behind it, by the name of the case and then of what was timed.
    """

    machine: dict[str, str]
    attention: dict[str, str] = field(default_factory=dict)
    isas: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, dict[str, float]] = field(default_factory=dict)


def machine(kind: str, index: int | None = None) -> dict[str, str]:
    """The processor or CUDA device, and the versions, that a measurement is true for."""
    if kind == "cpu":
        name = processor()
    else:
        import torch

        name = torch.cuda.get_device_name(index)
    return {
        "kind": kind,
        "name": name,
        "torch": importlib.metadata.version("torch"),
        "mdmcorrect": mdmcorrect.__version__,
    }


@functools.cache
def processor() -> str:
    """The processor's name, with family and model where the system tells them."""
    try:
        lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
    except OSError:
        lines = []
    told = dict([part.strip() for part in line.split(":", 1)] for line in lines if ":" in line)
    words = [told[key] for key in ("vendor_id", "cpu family", "model", "model name") if key in told]
    return " ".join(words) or platform.processor() or platform.machine()


def path_of(machine: dict[str, str]) -> Path:
    digest = hashlib.sha256(json.dumps([machine["kind"], machine["name"]]).encode()).hexdigest()
    return _cache.cache_dir() / f"tune-{machine['kind']}-{digest[:16]}.json"


def switched_off() -> bool:
    """Whether MDMCORRECT_TUNE says that nothing kept is to be used."""
    return os.environ.get("MDMCORRECT_TUNE", "").lower() in ("off", "0")


def read(kind: str, index: int | None = None) -> Tuned | None:
    """What was measured for the processor ("cpu") or a CUDA device; None where nothing was, or nothing that counts."""
    if switched_off():
        return None
    try:
        if not any(_cache.cache_dir().glob(f"tune-{kind}-*.json")):  # so a process that never tuned asks nothing more
            return None
        here = machine(kind, index)
        path = path_of(here)
        held = _cache.read_own(path)
        if held is None:
            return None
        tuned = _parsed(json.loads(held))
    except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: no home folder, no device
        logger.warning("what mdmcorrect tune measured on this %s is not used: %s", kind, error)
        return None
    differing = [f"{name} {tuned.machine.get(name)}" for name in here if tuned.machine.get(name) != here[name]]
    if differing:
        logger.warning(
            "what mdmcorrect tune measured is not used: %s was measured with %s; run it again",
            path,
            ", ".join(differing),
        )
        return None
    return tuned


def write(tuned: Tuned) -> Path:
    """Keep what was measured, whole or not at all.

    Raises:
        OSError: it could not be written.
    """
    path = path_of(tuned.machine)
    _cache.write_whole(path, json.dumps({"format": FORMAT, **asdict(tuned)}, indent=1).encode())
    return path


def forget() -> list[Path]:
    """Remove all that was measured; returns the files."""
    files = sorted(_cache.cache_dir().glob("tune-*.json"))
    for file in files:
        file.unlink(missing_ok=True)
    return files


@functools.cache
def dense_attention(kind: str, index: int | None, dtype: str, width: int) -> str | None:
    """ "mdmcorrect" or "sdpa" for calls without masking, None where nobody has measured."""
    tuned = _read_once(kind, index)
    return None if tuned is None else tuned.attention.get(f"{dtype} {width}")


def instruction_sets() -> dict[str, str]:
    """For "attention" and "loss" the instruction set that was measured to be the fastest here."""
    tuned = _read_once("cpu", None)
    return {} if tuned is None else tuned.isas


def summary(kind: str, index: int | None = None) -> str:
    """One line for ``mdmcorrect doctor``."""
    tuned = _read_once(kind, index)
    if tuned is None:
        return "nothing measured (mdmcorrect tune)"
    ahead = [f"{heads} wide" for heads, name in tuned.attention.items() if name == "sdpa"]
    sets = [f"{isa} for {group}" for group, isa in tuned.isas.items()]
    return "; ".join([*sets, f"attention without masking by torch for {', '.join(ahead) or 'no heads'}"])


@functools.cache
def _read_once(kind: str, index: int | None) -> Tuned | None:
    return read(kind, index)


def _parsed(held: Any) -> Tuned:
    """
    Raises:
        ValueError: it is not what :func:`write` writes.
    """
    if not isinstance(held, dict) or held.get("format") != FORMAT:
        raise ValueError(f"expected format {FORMAT}")
    machine, attention, isas = (_names(name, held.get(name)) for name in ("machine", "attention", "isas"))
    seconds = held.get("seconds")
    if not isinstance(seconds, dict):
        raise ValueError("seconds: expected an object")
    if not set(attention.values()) <= set(ATTENTION) or not set(isas) <= set(GROUPS):
        raise ValueError("attention, isas: expected names that are known")
    return Tuned(machine, attention, isas, seconds)


def _names(name: str, value: object) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(each, str) for each in value.values()):
        raise ValueError(f"{name}: expected an object of text")
    return value
