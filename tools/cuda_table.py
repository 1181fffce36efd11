"""The tables of docs/cuda.md: what ptxas made of every kernel, what it moves, and the time that predicts.

`python tools/cuda_table.py` compiles every kernel for every architecture (minutes), fails at a warning or a broken
budget, runs cases on the harness of tests/simt and prints the tables; `--write` puts them into docs/cuda.md. With names
of operators it checks and prints those alone, without cases.
"""

from __future__ import annotations

import argparse
import sys

import cuda_code
from cuda_code import ARCHS, ROOT, SYSTEM_SHARED, Usage

DOCS = ROOT / "docs" / "cuda.md"
BEGIN, END = "<!-- tools/cuda_table.py -->", "<!-- end -->"

# Of a multiprocessor: warps, blocks, bytes of shared memory (CUDA programming guide, "Compute Capabilities").
LIMITS = {
    "80": (64, 32, 164 << 10),
    "86": (48, 16, 100 << 10),
    "89": (48, 24, 100 << 10),
    "90": (64, 32, 228 << 10),
    "100": (64, 32, 228 << 10),
    "120": (48, 24, 100 << 10),
}
REGISTERS = 65536  # of a multiprocessor, in four parts; warps get them by 256


def resident_warps(arch: str, registers: int, threads: int, shared: int) -> int:
    """Warps of one kernel that a multiprocessor holds at once, whatever runs out first."""
    most_warps, most_blocks, most_shared = LIMITS[arch]
    warps = -(-threads // 32)
    by_registers = 4 * (REGISTERS // 4 // (-(-registers // 8) * 8 * 32))
    by_shared = most_shared // (-(-(shared + SYSTEM_SHARED) // 128) * 128)
    return warps * min(most_warps // warps, by_registers // warps, most_blocks, by_shared)


def compile_all(ops: list[str], archs: tuple[str, ...]) -> dict[str, dict[str, Usage]]:
    """Architecture -> kernel -> usage; ends the program at what a budget forbids."""
    everything: dict[str, dict[str, Usage]] = {arch: {} for arch in archs}
    broken = []
    folder = ROOT / "build" / ("cuda-" + "-".join(archs))
    folder.mkdir(parents=True, exist_ok=True)
    for op in ops:
        fatbin = folder / f"{op}.fatbin"
        cuda_code.compile_kernels(cuda_code.SOURCES / f"{op}.cu", fatbin, archs)
        code = cuda_code.machine_code(fatbin)
        for arch, kernels in cuda_code.usage(fatbin).items():
            everything[arch] |= kernels
            for name, used in kernels.items():
                faults = cuda_code.faults(name, used, code[arch][name], cuda_code.budget_of(name))
                broken += [f"sm_{arch}: {fault}" for fault in faults]
        print(f"compiled {op}", file=sys.stderr)
    if broken:
        sys.exit("\n".join(broken))
    return everything


def kernel_table(usage: dict[str, dict[str, Usage]]) -> list[str]:
    """A row per line of the budgets: the most registers of its kernels, and the warps that fit beside one another."""
    archs = list(usage)
    lines = [
        "| kernel | threads | shared bytes | registers | " + " | ".join(f"sm_{arch}" for arch in archs) + " |",
        "|" + "---|" * (4 + len(archs)),
    ]
    for budget in cuda_code.budgets():
        registers = {
            arch: [used.registers for name, used in kernels.items() if cuda_code.budget_of(name) == budget]
            for arch, kernels in usage.items()
        }
        if not all(registers.values()):
            continue
        cells = [
            f"{max(found)}, {resident_warps(arch, max(found), budget.threads, budget.shared)}"
            for arch, found in registers.items()
        ]
        row = [budget.pattern, f"{budget.threads}", f"{budget.shared}", f"{budget.registers}", *cells]
        lines.append("| " + " | ".join(row) + " |")
    return lines


def case_table(usage: dict[str, dict[str, Usage]]) -> list[str]:
    """What the harness counted of each case, and the vendors' bandwidths divided into it."""
    import cuda_cases

    devices = cuda_cases.DEVICES
    lines = [
        "| case | bytes per element | MB | kernel: blocks x threads, shared bytes | warps on "
        + ", ".join(f"sm_{device.arch}" for device in devices)
        + " | "
        + " | ".join(device.name for device in devices)
        + " |",
        "|" + "---|" * (5 + len(devices)),
    ]
    for case in cuda_cases.run_cases():
        kernels = [f"{one.kernel}: {one.blocks} x {one.threads}, {one.shared}" for one in case.launches]
        warps = [
            "/".join(
                str(resident_warps(device.arch, usage[device.arch][one.kernel].registers, one.threads, one.shared))
                for device in devices
            )
            for one in case.launches
        ]
        times = [cuda_cases.predicted(case, device) for device in devices]
        row = [
            case.name,
            f"{case.bytes_per_element:.2f}",
            f"{case.total_bytes / 1e6:.1f}",
            "<br>".join(kernels),
            "<br>".join(warps),
            *times,
        ]
        lines.append("| " + " | ".join(row) + " |")
    return lines


def main() -> int:
    known = sorted(path.stem for path in cuda_code.SOURCES.glob("*.cu"))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("ops", nargs="*", metavar="op", help="of " + ", ".join(known))
    parser.add_argument("--archs", nargs="+", default=ARCHS, choices=ARCHS, metavar="ARCH")
    parser.add_argument("--write", action="store_true", help="put the tables into docs/cuda.md")
    arguments = parser.parse_args()
    partial = bool(arguments.ops) or tuple(arguments.archs) != ARCHS
    usage = compile_all(arguments.ops or known, tuple(arguments.archs))
    kernels = sum(len(used) for used in usage.values())
    lines = [f"{kernels} kernels compiled, without warning, stack, local memory or spills.", "", *kernel_table(usage)]
    if not partial:
        lines += ["", *case_table(usage)]
    print("\n".join(lines))
    if arguments.write and not partial:
        text = DOCS.read_text()
        head, tail = text[: text.index(BEGIN)], text[text.index(END) :]
        DOCS.write_text(head + BEGIN + "\n\n" + "\n".join(lines) + "\n\n" + tail)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
