"""mdmcorrect: self-correcting masked diffusion models, fast, exact and easy.

Importing this package is light: nothing here needs torch or the compiled library. The parts, which are imported when
they are first asked for, are

    mdmcorrect.ops         the operators: score_tokens, select_positions, remask_step
    mdmcorrect.samplers    samplers that find and mend their own mistakes: PRISM, ProSeCo, ReMDM, ...
    mdmcorrect.losses      the losses that teach a model to do so
    mdmcorrect.reference   the same operators in plain NumPy, float64: the truth the kernels are tested against
"""

from __future__ import annotations

__version__ = "0.2.0"

_PARTS = (
    "adapters",
    "canvas",
    "compat",
    "heads",
    "jit",
    "likelihood",
    "losses",
    "model",
    "ops",
    "purpose",
    "reference",
    "rng",
    "samplers",
    "schedules",
)


def preload(device: object = None) -> None:
    """Load every operator's CUDA kernels on a device, and compile those that NVRTC has to.

    Otherwise an operator does so at its first call, which takes a while. That may be while a CUDA graph is captured, as
    far as the driver allows it (550 and newer).

    Args:
        device: a ``torch.device``, its name or its index. Default: the current CUDA device.

    Raises:
        ValueError: a device that is not CUDA's.
        RuntimeError: this build has no CUDA kernels and no means to compile them, or there is no such device.
        ImportError: CuPy or its NVRTC is needed and missing.
    """
    from mdmcorrect import _kernels

    _kernels.preload(device)  # type: ignore[arg-type]


def __getattr__(name: str) -> object:
    """A part of the package, imported now.

    Raises:
        AttributeError: there is no such part.
        ImportError: it needs torch, and there is none, or too old a one.
    """
    if name not in _PARTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return importlib.import_module(f"{__name__}.{name}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_PARTS})
