"""``mdmcorrect doctor``: what is installed, what was built, which kernel each operator uses here, and what to do.

``--check`` then asks those kernels a few cases each and compares them with the float64 reference, in child processes,
which a wrong kernel may end or hold up (:mod:`mdmcorrect.selfcheck.check`).
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import mdmcorrect
from mdmcorrect import _native, _tuned

# Oldest driver that runs what an nvcc of that major version made.
DRIVER_FOR_NVCC = {12: 525, 13: 580}


@dataclass
class Diagnosis:
    """What doctor found: facts in the order they are printed, the kernel of each operator, and things to do."""

    facts: dict[str, str] = field(default_factory=dict)
    kernels: dict[str, dict[str, str]] = field(default_factory=dict)
    advice: list[str] = field(default_factory=list)
    usable: bool = True
    measured: bool = True
    """Whether a measurement decided each operator's instruction set."""
    check: list[dict[str, Any]] = field(default_factory=list)
    """What became of each family of cases, where they were asked for: the fields of ``selfcheck.worker.Outcome``."""


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser("doctor", help="what is installed and built here, and what to do about the rest")
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")
    parser.add_argument(
        "--check", action="store_true", help="compare every kernel used here with the reference, in half a minute"
    )
    parser.add_argument(
        "--device",
        help='what --check checks: "cpu" (each of its instruction sets), "cuda", "cuda:1"; default: cuda if any',
    )


def run(args: argparse.Namespace) -> int:
    """0 if the operators can be used here and, with ``--check``, all that was asked is right; else 1."""
    if args.device and not args.check:
        raise SystemExit("mdmcorrect doctor: --device: it says what --check checks; add --check")
    found = diagnose()
    if not args.json:
        print_diagnosis(found)
    agrees = not args.check or (found.usable and check(found, args.device, say=(lambda _: None) if args.json else _say))
    if args.json:
        print(json.dumps(asdict(found), indent=2))
    return 0 if found.usable and agrees else 1


def check(found: Diagnosis, device: str | None, say: Callable[[str], None]) -> bool:
    """Run the self-check and keep its outcomes in ``found``; whether every kernel that was asked is right."""
    from mdmcorrect.cli.bench import device_problem
    from mdmcorrect.selfcheck.check import check_device, passed

    if device is None:
        device = "cuda" if device_problem("cuda") is None else "cpu"
    problem = device_problem(device)
    if problem is not None:
        raise SystemExit(f"mdmcorrect doctor: --device: {problem}")
    say("")
    outcomes = check_device(device, _native.build_info()["isas_supported"], say)
    found.check = [asdict(outcome) for outcome in outcomes]
    return passed(outcomes)


def _say(line: str) -> None:
    print(line, flush=True)


def diagnose() -> Diagnosis:
    found = Diagnosis()
    found.facts["mdmcorrect"] = f"{mdmcorrect.__version__} ({Path(mdmcorrect.__file__).parent})"
    found.facts["python"] = f"{platform.python_version()} on {platform.platform()}"
    problem = _native.torch_problem()
    if problem is not None:
        found.facts["torch"] = "missing or too old"
        found.advice.append(problem)
        found.usable = False
        return found
    import torch

    from mdmcorrect import jit

    found.facts["torch"] = f"{torch.__version__}, {torch.get_num_threads()} threads"
    found.facts["compiler"] = _compiler(found.advice)
    try:
        info = _native.build_info()
    except ImportError as error:
        found.facts["library"] = "not usable"
        found.advice.append(str(error))
        found.usable = False
        return found
    found.facts["library"] = f"{info['compiler']}, LibTorch stable ABI {info['torch_target']} ({_native.LIBRARY})"
    processor = info["processor"]
    found.facts["processor"] = f"{processor['vendor']} family {processor['family']} model {processor['model']:#x}"
    found.facts["instruction sets"] = _instruction_sets(info)
    found.measured = all(choice["measured"] for choice in info["isa_choices"].values())
    found.facts["tuned"] = _tuned.summary("cpu")
    _cuda(info, torch, found)
    if torch.cuda.is_available():
        found.facts["tuned for CUDA"] = _tuned.summary("cuda")
    on_device = "a CUDA kernel" if torch.cuda.is_available() else "a CUDA kernel, no device to run it"
    for op in info["ops"]:
        cuda = on_device if op in info["cuda_ops"] else "compiled at first use" if jit.available(op) else "none"
        found.kernels[op] = {"cpu": info["isa_choices"][op]["isa"], "cuda": cuda}
    return found


def _compiler(advice: list[str]) -> str:
    compilers = [name for name in (os.environ.get("CXX", "c++"), "g++", "clang++") if shutil.which(name)]
    if not compilers:
        advice.append("No C++ compiler is here: the library runs, but to rebuild it install one (apt install g++).")
        return "none"
    return str(shutil.which(compilers[0]))


def _instruction_sets(info: dict[str, Any]) -> str:
    """What each operator uses and why, operators of one choice together."""
    together: dict[tuple[str, str], list[str]] = {}
    for op, choice in info["isa_choices"].items():
        why = choice["why"] if choice["why"] == "MDMCORRECT_ISA" else _evidence(choice)
        together.setdefault((choice["isa"], why), []).append(op)
    used = [
        f"{isa} in use for {'every operator' if len(together) == 1 else ', '.join(ops)} ({why})"
        for (isa, why), ops in together.items()
    ]
    missing = [isa for isa in info["isas_built"] if isa not in info["isas_supported"]]
    beyond = [f"built, but not for this processor: {', '.join(missing)}"] if missing else []
    return "; ".join([*used, f"here: {', '.join(info['isas_supported'])}", *beyond])


def _evidence(choice: dict[str, Any]) -> str:
    return f"{'measured' if choice['measured'] else 'not measured'}: {choice['why']}"


def _cuda(info: dict[str, Any], torch: Any, found: Diagnosis) -> None:
    """The CUDA build, the device, the driver, and whether they fit one another."""
    nvcc, driver, available = info["cuda_version"], driver_version(), torch.cuda.is_available()
    if nvcc:
        archs = ", ".join(f"sm_{arch}" for arch in info["cuda_archs"])
        found.facts["CUDA build"] = f"nvcc {nvcc}, for {archs} and PTX of the first and last"
    else:
        found.facts["CUDA build"] = "none"
    found.facts["CUDA in torch"] = str(torch.version.cuda or "none")
    found.facts["driver"] = driver or "none found"
    if not available:
        found.facts["CUDA device"] = "none"
        if driver and not torch.version.cuda:
            found.advice.append(
                "There is an NVIDIA driver, but this torch is a CPU build: install a CUDA torch to use the GPU."
            )
    else:
        major, minor = torch.cuda.get_device_capability()
        found.facts["CUDA device"] = f"{torch.cuda.get_device_name()}, sm_{major}{minor}"
        if nvcc and not covered((major, minor), info["cuda_archs"]):
            found.advice.append(
                f"This build has no code for sm_{major}{minor}: rebuild with MDMCORRECT_CUDA_ARCHS={major}{minor}."
            )
        if not nvcc and importlib.util.find_spec("cupy") is None:
            found.advice.append(
                "There is a GPU, but this build is for the CPU only: `pip install 'mdmcorrect[jit]'` compiles the CUDA "
                "kernels at first use; or put nvcc on PATH and run `MDMCORRECT_CUDA=on pip install "
                "--no-build-isolation .`."
            )
    if nvcc and driver:
        needed = DRIVER_FOR_NVCC.get(int(nvcc.split(".")[0]), 0)
        if int(driver.split(".")[0]) < needed:
            found.advice.append(
                f"The CUDA kernels were built with nvcc {nvcc}, which needs driver {needed} or newer; this is "
                f"{driver}: update the driver, or rebuild with an older nvcc."
            )


def covered(capability: tuple[int, int], archs: list[str]) -> bool:
    """Whether code built for `archs` (SASS of each, PTX of the first and last) runs on a device of this capability.

    SASS runs on its own major version from its minor version on; PTX on any later device.
    """
    known = [divmod(int(re.sub(r"\D", "", arch)), 10) for arch in archs]
    same_major = any(major == capability[0] and minor <= capability[1] for major, minor in known)
    return same_major or any(ptx <= capability for ptx in (known[0], known[-1]))


def driver_version() -> str | None:
    """Version of the NVIDIA kernel driver such as "580.65.06", or None; asks no CUDA library."""
    try:
        text = Path("/proc/driver/nvidia/version").read_text()
    except OSError:
        text = ""
    match = re.search(r"Kernel Module.*?\s(\d+\.[\d.]+)\s", text)
    if match:
        return match[1]
    if shutil.which("nvidia-smi") is None:
        return None
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    answer = subprocess.run(query, capture_output=True, text=True, timeout=20, check=False)
    match = re.match(r"\d+\.[\d.]+", answer.stdout)
    return match[0] if match and answer.returncode == 0 else None


def print_diagnosis(found: Diagnosis) -> None:
    width = max(len(name) for name in [*found.facts, *found.kernels])
    for name, text in found.facts.items():
        print(f"{name:<{width}}  {text}")
    if found.kernels:
        print("\nkernel of each operator")
        for op, kernels in found.kernels.items():
            print(f"  {op:<{width}}  CPU: {kernels['cpu']:<8}  CUDA: {kernels['cuda']}")
    if found.advice:
        print("\nto do")
    elif found.measured:
        print("\nnothing to do")
    else:
        print(
            "\nnothing has to be done; what was not measured is as right, `mdmcorrect bench` says how fast it is here"
        )
    for sentence in found.advice:
        print(f"  - {sentence}")
