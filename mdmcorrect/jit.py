"""CUDA kernels without nvcc: NVRTC compiles them at run time, through CuPy.

A library that was built where there was no nvcc has no CUDA kernels. With CuPy installed
(``pip install 'mdmcorrect[jit]'``) the first CUDA tensor an operator meets makes it compile its kernels for that
device, from the sources that come with the package. That takes about a second once; the image is kept in
:func:`cache_dir`. :func:`load` does the same ahead of time, which a program under ``torch.compile`` or CUDA-graph
capture should do.
"""

from __future__ import annotations

import mdmcorrect._requires_torch

import functools
import hashlib
import importlib.util
import logging
import re
from collections.abc import Iterable
from pathlib import Path

import torch

from mdmcorrect import _cache, _native
from mdmcorrect._cache import cache_dir as cache_dir

logger = logging.getLogger(__name__)

OPTIONS = ("--std=c++17", "--fmad=false", "-lineinfo")  # as cmake/cuda.cmake has them for nvcc
_DIGEST_SIZE = hashlib.sha256().digest_size


def sources() -> Path:
    """Folder of the CUDA sources: beside the package when it is installed, above it in a source tree."""
    package = Path(__file__).resolve().parent
    for folder in (package / "csrc", package.parent / "csrc"):
        if (folder / "cuda").is_dir():
            return folder
    raise FileNotFoundError(f"mdmcorrect: the CUDA sources are missing (looked for {package / 'csrc'})")


@functools.cache
def cuda_ops() -> frozenset[str]:
    """Operators that have CUDA sources."""
    return frozenset(path.stem for path in (sources() / "cuda").glob("*.cu"))


def available(op: str) -> bool:
    """Whether :func:`load` could give an operator its CUDA kernel here: sources, CuPy and a device are there."""
    return op in cuda_ops() and has_compiler() and torch.cuda.is_available()


def has_compiler() -> bool:
    """Whether CuPy is here."""
    return importlib.util.find_spec("cupy") is not None


def compile(op: str, capability: tuple[int, int] | str) -> bytes:
    """The image of an operator's kernels for one kind of device, from the cache or from NVRTC. Needs no device.

    Args:
        op: name of an operator that has CUDA sources, :func:`cuda_ops`.
        capability: compute capability of the device, such as ``(9, 0)`` or "9.0"; or an architecture, such as "sm_90a",
            whose letter means code that no other device runs.

    Returns:
        A cubin; or PTX of the newest architecture below, where this NVRTC does not know the device's own.

    Raises:
        ValueError: an operator without CUDA sources, no capability, or one below all that NVRTC knows.
        ImportError: CuPy or its NVRTC is missing.
        RuntimeError: NVRTC refused the source; its log is in the message.
    """
    if op not in cuda_ops():
        raise ValueError(f"op: expected one of {', '.join(sorted(cuda_ops()))}, got {op!r}")
    nvrtc = _nvrtc()
    target = _target(capability, nvrtc.getSupportedArchs())
    kept = cache_dir() / f"{op}-{target}-{_fingerprint(op, nvrtc.getVersion())}.bin"
    image = _kept(kept)
    if image is None:
        logger.info("compiling the CUDA kernels of %s for %s", op, target)
        image = _compile(nvrtc, op, target)
        _keep(kept, image)
    return image


def load(
    ops: Iterable[str] | None = None, *, device: torch.device | int | str | None = None, replace: bool = False
) -> None:
    """Compile and install the kernels of ``ops`` for ``device``; those the library has are left alone.

    Args:
        ops: names of operators. Default: all that have CUDA sources.
        device: a CUDA device. Default: the current one.
        replace: use NVRTC's kernels also where the library has its own, if those were not used yet.

    Raises:
        RuntimeError: there is no CUDA device, or kernels to be replaced are in use.
        ValueError, ImportError: as :func:`compile`.
    """
    if not torch.cuda.is_available():
        raise RuntimeError("mdmcorrect.jit.load: expected a CUDA device, and torch finds none")
    capability = torch.cuda.get_device_capability(device)
    for op in sorted(cuda_ops()) if ops is None else ops:
        if replace or op not in _native.build_info()["cuda_ops"]:
            _install(op, capability)


@functools.cache
def _install(op: str, capability: tuple[int, int]) -> None:
    image = torch.frombuffer(bytearray(compile(op, capability)), dtype=torch.uint8)
    torch.ops.mdmcorrect.add_cuda_image(op, image)


def _nvrtc():
    try:
        from cupy.cuda import nvrtc

        nvrtc.getVersion()
    except (ImportError, RuntimeError) as error:
        raise ImportError(
            "compiling CUDA kernels at run time needs CuPy and NVRTC: `pip install 'mdmcorrect[jit]'`, or the CuPy of "
            f"your CUDA version ({error})"
        ) from error
    return nvrtc


def _target(capability: tuple[int, int] | str, supported: Iterable[int]) -> str:
    """``sm_90`` (a cubin) where NVRTC knows the device, else ``compute_120`` (PTX, which the driver compiles).

    With a letter as in ``sm_90a`` it has to know it: there is no such PTX for a later device.
    """
    own, letter = _architecture(capability)
    older = [arch for arch in supported if arch <= own]
    if not older:
        raise ValueError(f"capability: expected at least {min(supported) / 10}, got {own / 10}")
    if max(older) == own:
        return f"sm_{own}{letter}"
    if letter:
        raise ValueError(f"capability: this NVRTC does not know sm_{own}{letter}, only up to sm_{max(older)}")
    return f"compute_{max(older)}"


def _architecture(capability: tuple[int, int] | str) -> tuple[int, str]:
    """``(90, "a")`` of "sm_90a", "90a", "9.0a"; ``(90, "")`` of ``(9, 0)``: as ``MDMCORRECT_CUDA_ARCHS`` takes them."""
    if not isinstance(capability, str):
        return capability[0] * 10 + capability[1], ""
    found = re.fullmatch(r"(?:sm_|compute_)?(\d+)\.?(\d)([af]?)", capability)
    if found is None:
        raise ValueError(f"capability: expected such as (9, 0), '9.0' or 'sm_90a', got {capability!r}")
    return int(found[1] + found[2]), found[3]


def _fingerprint(op: str, version: tuple[int, int]) -> str:
    """Changes with whatever can change the image."""
    digest = hashlib.sha256(repr((OPTIONS, version)).encode())
    folder = sources()
    headers = (path for pattern in ("core/*.h", "cuda/*.h", "cuda/*.cuh") for path in folder.glob(pattern))
    for path in sorted([*headers, folder / "cuda" / f"{op}.cu"]):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:24]


def _compile(nvrtc, op: str, target: str) -> bytes:
    folder = sources()
    source = (folder / "cuda" / f"{op}.cu").read_text()
    program = nvrtc.createProgram(source, f"{op}.cu", (), ())
    try:
        try:
            nvrtc.compileProgram(program, (*OPTIONS, f"-I{folder}", f"-arch={target}"))
        except nvrtc.NVRTCError as error:
            raise RuntimeError(f"NVRTC could not compile {op} for {target}: {nvrtc.getProgramLog(program)}") from error
        return nvrtc.getCUBIN(program) if target.startswith("sm_") else nvrtc.getPTX(program) + b"\0"
    finally:
        nvrtc.destroyProgram(program)


def _kept(path: Path) -> bytes | None:
    """The image of a file that :func:`_keep` wrote, or None: what cannot be read, is damaged, or could have been
    written by someone else is compiled again."""
    try:
        kept = _cache.read_own(path)
    except PermissionError as error:
        logger.warning("compiling again: %s", error)
        return None
    except OSError as error:
        logger.warning("compiling again: could not read the kernels in %s: %s", path, error)
        return None
    if kept is None:
        return None
    digest, image = kept[:_DIGEST_SIZE], kept[_DIGEST_SIZE:]
    if not image or _digest(image) != digest:
        logger.warning("compiling again: the kernels in %s are damaged", path)
    else:
        return image
    return None


def _keep(path: Path, image: bytes) -> None:
    """Write it, its digest first: processes may compile the same kernel at once. A full disk is no reason to fail."""
    try:
        _cache.write_whole(path, _digest(image) + image)
    except OSError as error:
        logger.warning("could not keep the compiled kernels in %s: %s", path.parent, error)


def _digest(image: bytes) -> bytes:
    return hashlib.sha256(image).digest()
