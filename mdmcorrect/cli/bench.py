"""``mdmcorrect bench``: runs the benchmarks of the source tree and prints one line per case.

Columns: time of one call, on a device the host's time for it beside that, the bytes it must move or the operations it
must do over the time, that time as a multiple of the floor's, how many times as fast as each peer it is (1 is even,
below 1 is slower) and, where a benchmark measures memory, the peak beyond what is returned as a multiple of each
peer's; and what else it counts, ours against the first peer's. All from the same run; see benchmarks/conftest.py.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import mdmcorrect

BENCHMARKS = Path(mdmcorrect.__file__).resolve().parent.parent / "benchmarks"


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser("bench", help="time the operators against a floor and what a user has today")
    parser.add_argument("patterns", nargs="*", help="only cases whose name contains one of these, as for pytest -k")
    parser.add_argument("--device", default="cpu", help='"cpu" (default), "cuda" or "cuda:1"')
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the measurements as JSON")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="also draw speed-ups over the peers as bars (PNG)")
    parser.add_argument("--seconds-per-case", type=float, default=15.0, help="of timing, after warming up (default 15)")
    parser.add_argument(
        "--smoke", action="store_true", help="run every case once, without timing, and say why cases are skipped"
    )


def run(args: argparse.Namespace) -> int:
    if importlib.util.find_spec("pytest") is None:
        raise ImportError("pytest is missing; run `pip install 'mdmcorrect[bench]'`")
    if args.plot and importlib.util.find_spec("matplotlib") is None:
        raise ImportError("matplotlib is missing, which --plot needs; run `pip install matplotlib`")
    if not BENCHMARKS.is_dir():
        raise ImportError(f"the benchmarks are not installed; run this in a source tree (looked for {BENCHMARKS})")
    problem = device_problem(args.device)
    if problem is not None:
        raise SystemExit(f"mdmcorrect bench: --device: {problem}")
    with tempfile.TemporaryDirectory() as folder:
        measured = Path(folder) / "measured"
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-rs",
            "-p",
            "no:cacheprovider",
            f"--rootdir={BENCHMARKS.parent}",
        ]
        how = ["--smoke"] if args.smoke else [f"--measured={measured}", f"--seconds-per-case={args.seconds_per_case}"]
        where = ["-k", " or ".join(args.patterns), f"--device={args.device}", str(BENCHMARKS)]
        status = subprocess.run([*command, *how, *where], check=False).returncode
        if args.smoke or not measured.exists():
            return status
        rows = table(measured)
    print_table(rows)
    if args.json:
        args.json.write_text(json.dumps(rows, indent=2) + "\n")
    if args.plot:
        plot(rows, args.plot)
    return status


def device_problem(name: str) -> str | None:
    """What keeps the benchmarks from running on a device, as a sentence; None if nothing does."""
    import torch

    from mdmcorrect import _native, jit

    if re.fullmatch(r"cpu|cuda(:\d+)?", name) is None:
        return f"expected cpu, cuda or cuda:N, got {name}"
    if name == "cpu":
        return None
    count = torch.cuda.device_count()
    if (torch.device(name).index or 0) >= count:
        return f"{name} was asked for, but torch finds {count or 'no'} CUDA devices; see `mdmcorrect doctor`"
    if not _native.build_info()["cuda_ops"] and not jit.available("score_tokens"):
        return f"{name} was asked for, but this build has no CUDA kernels; see `mdmcorrect doctor`"
    return None


def table(measured: Path) -> list[dict[str, Any]]:
    """One row per case of a file of measurements; a measurement that the case does not make is None or empty."""
    rows = []
    for line in measured.read_text().splitlines():
        case = json.loads(line)
        peaks = dict(case.get("peak_bytes", {}))
        ours = peaks.pop("ours", None)
        rows.append(
            {
                "case": case["name"].removeprefix("test_"),
                "device": case["device"],
                "seconds": case["seconds"]["ours"],
                "host_seconds": case.get("host_seconds", {}).get("ours"),
                "waits": case.get("waits", []),
                "gigabytes_per_second": case.get("gigabytes_per_second"),
                "gigaflops_per_second": case.get("gigaflops_per_second"),
                "times_the_floor": case["times_the_floor"],
                "speedup_over": case["speedup_over"],
                "peak_bytes": ours,
                "peak_of": {name: ours / peak for name, peak in peaks.items() if ours is not None and peak},
                "beside": case.get("beside", {}),
            }
        )
    return rows


def print_table(rows: list[dict[str, Any]]) -> None:
    if not rows:
        print("no case matched")
        return
    width = max(len(row["case"]) for row in rows)
    print(f"\non {rows[0]['device']}")
    on_device = any(row["host_seconds"] is not None for row in rows)
    host_title = f"  {'host':>13}" if on_device else ""
    print(f"{'case':<{width}}  {'time':>13}{host_title}  {'rate':>13}  {'x floor':>7}  as fast as ... times over")
    for row in rows:
        host = f"  {row['host_seconds'] * 1e6:>10.1f} us" if on_device else ""
        line = f"{row['case']:<{width}}  {row['seconds'] * 1e6:>10.1f} us{host}  {rate(row):>13}"
        line += f"  {row['times_the_floor']:>7.2f}  " + ", ".join(
            f"{name} {ratio:.2f}" for name, ratio in row["speedup_over"].items()
        )
        if row["peak_of"]:
            shares = ", ".join(f"{ratio:.2f} of {name}" for name, ratio in row["peak_of"].items())
            line += f"; peak memory {row['peak_bytes'] / 1e6:.1f} MB, {shares}"
        if row["waits"]:
            line += f"; waits for the device, so its host's time counts: {', '.join(row['waits'])}"
        for what, (mine, theirs) in row["beside"].items():
            line += f"; {what} {mine} against {theirs}"
        print(line)


def rate(row: dict[str, Any]) -> str:
    for name, unit in (("gigabytes_per_second", "GB/s"), ("gigaflops_per_second", "GFLOP/s")):
        if row[name] is not None:
            return f"{row[name]:.1f} {unit}"
    return ""


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Horizontal bars, one group per case: how many times as fast as each peer."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    peers = list(dict.fromkeys(name for row in rows for name in row["speedup_over"]))
    height = 0.8 / max(1, len(peers))
    figure, axes = pyplot.subplots(figsize=(9, 1 + 0.5 * len(rows)), layout="constrained")
    for offset, peer in enumerate(peers):
        at = [index + offset * height for index, row in enumerate(rows) if peer in row["speedup_over"]]
        axes.barh(at, [row["speedup_over"][peer] for row in rows if peer in row["speedup_over"]], height, label=peer)
    axes.axvline(1.0, color="black", linewidth=1)
    axes.set_xscale("log")
    axes.set_xlabel("times as fast as")
    axes.set_yticks(range(len(rows)), [row["case"] for row in rows])
    axes.invert_yaxis()
    axes.legend()
    figure.savefig(path, dpi=150)
