"""Loads the compiled library, which registers the operators under ``torch.ops.mdmcorrect``.

Everything that can be missing is answered with one ``ImportError`` of one sentence that says what to do: no torch, a
torch older than 2.10, a library that was not built, an instruction set that ``MDMCORRECT_ISA`` asks for and the machine
lacks.
"""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import json
import re
from pathlib import Path
from typing import Any

from mdmcorrect import _tuned

TORCH_MINIMUM = (2, 10)
LIBRARY = Path(__file__).resolve().parent / "_C.abi3.so"


def torch_problem() -> str | None:
    """The sentence about a missing or too old torch, or None. Does not import torch."""
    wanted = ".".join(map(str, TORCH_MINIMUM))
    if importlib.util.find_spec("torch") is None:
        return f"mdmcorrect needs torch {wanted} or newer, and none is installed here: run `pip install torch`."
    version = importlib.metadata.version("torch")
    numbers = re.match(r"(\d+)\.(\d+)", version)
    if numbers is None or tuple(map(int, numbers.groups())) < TORCH_MINIMUM:
        return f"mdmcorrect needs torch {wanted} or newer, and torch {version} is installed: `pip install -U torch`."
    return None


def library_problem() -> str | None:
    """The sentence about a library that was not built, or None."""
    if LIBRARY.exists():
        return None
    return (
        f"mdmcorrect's compiled library is missing ({LIBRARY}): build it with `pip install --no-build-isolation .` "
        "or, in a source tree, `make build`."
    )


@functools.cache
def load() -> None:
    """Load the library into torch; done once per process.

    Raises:
        ImportError: with the sentence of what is missing and what to do about it.
    """
    problem = torch_problem() or library_problem()
    if problem is not None:
        raise ImportError(problem)
    import torch

    try:
        torch.ops.load_library(str(LIBRARY))
        for group, isa in _tuned.instruction_sets().items():
            torch.ops.mdmcorrect.prefer_isa(group, isa)  # before anything asks for a kernel
        torch.ops.mdmcorrect.build_info()
    except (OSError, RuntimeError) as error:
        raise ImportError(
            f"mdmcorrect's compiled library did not load into torch {torch.__version__}: {error}"
        ) from error


@functools.cache
def build_info() -> dict[str, Any]:
    """What the loaded library is.

    Returns:
        A dict with ``version``, ``compiler``, ``torch_target`` (oldest torch it serves), ``isas_built``,
        ``isas_supported`` (of those, what this machine runs), ``isa_choices`` (for each op: ``isa``, whether a
        measurement decided, ``why``), ``isa`` (that of the ops without products of matrices), ``processor`` (vendor,
        family, model), ``ops``, ``cuda_version`` ("" for a CPU-only build), ``cuda_archs`` and ``cuda_ops`` (ops that
        have a CUDA kernel in it).
    """
    load()
    import torch

    return json.loads(torch.ops.mdmcorrect.build_info())
