"""``mdmcorrect tune``: measures attention and matrix products on this machine and keeps what is faster. Opt-in.

Each instruction set is measured in a process of its own, for a process has one. Ours and torch's take turns, and the
best time of each counts. Torch's attention is taken where it is clearly faster in every shape measured, since only ours
gives a row the same bits in any batch; another instruction set than the table's where it is clearly faster on average.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

CLEARLY = 0.95  # of the other's time
SECONDS = 50.0  # nothing new is begun after so long
CHILD_SECONDS = 25.0
CASE_SECONDS = 0.12
WIDTHS = (64, 128)
DTYPES = {"cpu": ("float32", "bfloat16"), "cuda": ("bfloat16", "float16")}
SHAPES = {"cpu": ((1, 8, 128), (1, 8, 512)), "cuda": ((1, 16, 512), (4, 16, 2048))}  # B, H, S
GROUPS = {"attention": "bidirectional_attention", "loss": "linear_cross_entropy"}  # an operator of each
LOSS = (256, 512, 8192)  # rows, width, vocabulary


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser("tune", help="measure attention and matrix products here and keep what is faster")
    parser.add_argument(
        "--device", choices=("cpu", "cuda"), help="only this; default: the CPU, and a GPU that is there"
    )
    parser.add_argument("--forget", action="store_true", help="remove what was measured instead")


def run(args: argparse.Namespace) -> int:
    from mdmcorrect import _tuned

    if args.forget:
        files = _tuned.forget()
        print("\n".join(f"removed {file}" for file in files) or "nothing was kept")
        return 0
    import torch

    if args.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("mdmcorrect tune: --device: expected a CUDA device, and torch finds none")
    kinds = [args.device] if args.device else ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    for kind in kinds:
        tuned = tune_cpu() if kind == "cpu" else tune_cuda()
        if not tuned.seconds:
            print(f"{kind}: nothing could be measured")
            return 1
        print_tuned(tuned)
        try:
            off = " where MDMCORRECT_TUNE is not off, as it is here" if _tuned.switched_off() else ""
            print(f"kept in {_tuned.write(tuned)}; new processes use it{off}, `mdmcorrect tune --forget` removes it")
        except OSError as error:
            print(f"mdmcorrect tune: could not keep it: {error}", file=sys.stderr)
            return 1
    return 0


def tune_cpu() -> Any:
    """Every instruction set wider than the portable one, the one in use first."""
    from mdmcorrect import _native, _tuned

    info = _native.build_info()
    default = {group: info["isa_choices"][op]["isa"] for group, op in GROUPS.items()}
    isas = [isa for isa in info["isas_supported"] if isa != "generic"] or ["generic"]
    isas.sort(key=lambda isa: isa not in default.values())
    start, found = time.monotonic(), {}
    for isa in isas:
        left = SECONDS - (time.monotonic() - start)
        measured = measure_apart("cpu", isa, min(CHILD_SECONDS, left)) if left > 5 else None
        if measured:
            found[isa] = measured
    return decide(_tuned.machine("cpu"), found, default)


def tune_cuda() -> Any:
    """Attention alone: products of matrices are cuBLAS's there, for torch and for us."""
    from mdmcorrect import _tuned

    measured = measure_apart("cuda", None, SECONDS)
    return decide(_tuned.machine("cuda"), {"": measured} if measured else {}, {})


def decide(machine: dict[str, str], found: dict[str, dict[str, dict[str, float]]], default: dict[str, str]) -> Any:
    """What is kept of measurements.

    Args:
        machine: what they are of.
        found: for each instruction set ("" where there is none) and case, seconds of "ours" and of "torch".
        default: for each group of kernels the instruction set it takes by itself.
    """
    from mdmcorrect import _tuned

    isas = {}
    for group, own in default.items():
        means = {isa: mean for isa, cases in found.items() if (mean := _mean(cases, group)) is not None}
        if means:
            best = min(means, key=lambda isa: (means[isa], isa))
            clear = own not in means or means[best] < CLEARLY * means[own]
            isas[group] = best if clear else own
    cases = found.get(isas.get("attention", ""), {})
    attention: dict[str, str] = {}
    for name, seconds in cases.items():
        group, heads, *_ = name.split(", ")
        if group == "attention":
            faster = seconds["torch"] < CLEARLY * seconds["ours"]
            attention[heads] = "sdpa" if faster and attention.get(heads, "sdpa") == "sdpa" else "mdmcorrect"
    every = {f"{isa}: {name}" if isa else name: times for isa, each in found.items() for name, times in each.items()}
    return _tuned.Tuned(machine, attention, isas, every)


def _mean(cases: dict[str, dict[str, float]], group: str) -> float | None:
    """Geometric mean of our times."""
    times = [seconds["ours"] for name, seconds in cases.items() if name.startswith(group)]
    return math.exp(sum(map(math.log, times)) / len(times)) if times else None


def print_tuned(tuned: Any) -> None:
    machine = tuned.machine
    print(f"{machine['name']}, torch {machine['torch']}, mdmcorrect {machine['mdmcorrect']}")
    width = max(map(len, tuned.seconds))
    print(f"{'':{width}}    ours, ms   torch, ms")
    for name, seconds in tuned.seconds.items():
        print(f"{name:{width}} {1e3 * seconds['ours']:11.3f} {1e3 * seconds['torch']:11.3f}")
    print(f"what is not the default is taken where it is faster by {1 - CLEARLY:.0%} or more")
    for group, isa in tuned.isas.items():
        print(f"instruction set of {group}: {isa}")
    for heads, name in tuned.attention.items():
        print(f"attention without masking, {heads}: {'ours' if name == 'mdmcorrect' else 'torch'}")


# ---- in a process of its own ----


def measure_apart(kind: str, isa: str | None, seconds: float) -> dict[str, dict[str, float]] | None:
    """:func:`measure` in a process that takes this instruction set; None where it fails or takes too long."""
    environment = {**os.environ, "MDMCORRECT_TUNE": "off"}
    environment.pop("MDMCORRECT_ISA", None)
    if isa is not None:
        environment["MDMCORRECT_ISA"] = isa
    command = [sys.executable, "-m", "mdmcorrect.cli.tune", kind]
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=seconds, check=True)
        return json.loads(done.stdout)
    except (subprocess.SubprocessError, ValueError) as error:
        print(f"mdmcorrect tune: {kind} {isa or ''} could not be measured: {error}", file=sys.stderr)
        return None


def measure(kind: str) -> dict[str, dict[str, float]]:
    """Seconds of each case, ours and torch's."""
    import torch
    from torch.nn import functional as F

    from mdmcorrect import ops

    draw, found = torch.Generator().manual_seed(0), {}

    def tensor(dtype: torch.dtype, *shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=draw, dtype=torch.float32, device="cpu").to(kind, dtype)

    def plain_loss(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(F.linear(hidden, weight).float(), targets, reduction="sum")

    def compare(name: str, ours: Callable[[], Any], theirs: Callable[[], Any]) -> None:
        wait = torch.cuda.synchronize if kind == "cuda" else None
        found[name] = dict(zip(("ours", "torch"), best_times(ours, theirs, wait), strict=True))

    with torch.no_grad():
        for name in DTYPES[kind]:
            dtype = getattr(torch, name)
            for width in WIDTHS:
                for shape in SHAPES[kind]:
                    q, k, v = (tensor(dtype, *shape, width) for _ in range(3))
                    compare(
                        f"attention, {name} {width}, {list(shape)}",
                        functools.partial(ops.bidirectional_attention, q, k, v),
                        functools.partial(F.scaled_dot_product_attention, q, k, v),
                    )
            if kind == "cpu":
                rows, size, vocabulary = LOSS
                hidden, weight = tensor(dtype, rows, size), tensor(dtype, vocabulary, size)
                targets = torch.randint(vocabulary, (rows,), generator=draw, device="cpu")
                compare(
                    f"loss, {name}, {list(LOSS)}",
                    functools.partial(ops.linear_cross_entropy, hidden, weight, targets),
                    functools.partial(plain_loss, hidden, weight, targets),
                )
    return found


def best_times(
    first: Callable[[], Any], second: Callable[[], Any], wait: Callable[[], Any] | None = None
) -> tuple[float, float]:
    """The shortest time of each, taken in turns."""
    best = [math.inf, math.inf]
    for warm in (first, second):
        warm()
    end, turns = time.perf_counter() + CASE_SECONDS, 0
    while turns < 5 or time.perf_counter() < end:
        for place, call in enumerate((first, second)):
            if wait is not None:
                wait()
            start = time.perf_counter()
            call()
            if wait is not None:
                wait()
            best[place] = min(best[place], time.perf_counter() - start)
        turns += 1
    return best[0], best[1]


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1])))
