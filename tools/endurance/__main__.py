"""See the package."""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
if __package__ in (None, ""):  # python tools/endurance
    sys.path.insert(0, str(ROOT / "tools"))
    __package__ = "endurance"

from . import children, soak  # noqa: E402


def child(what: str, *words: str) -> list[str]:
    code = (
        f"import sys; from pathlib import Path; from endurance.children import {what}; {what}(*map(KIND, sys.argv[1:]))"
    )
    kind = "str" if what == "interrupted" else "Path"
    return [sys.executable, "-c", code.replace("KIND", kind), *words]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "tools"), os.environ.get("PYTHONPATH", "")])}


def kills(times: int, seed: int) -> int:
    """Kill a run at ``times`` random moments, start it again each time, and compare its end with a whole run's."""
    import torch

    rng, wrong = random.Random(seed), 0
    for what in ("train", "sample"):
        with tempfile.TemporaryDirectory() as name:
            whole, broken = Path(name) / "whole", Path(name) / "broken"
            for folder in (whole, broken):
                folder.mkdir()
            started = time.monotonic()
            subprocess.run(child(what, str(whole)), check=True, env=environment())
            seconds, killed, starts = time.monotonic() - started, 0, 0
            while not (broken / "weights.pt").exists() or killed < times:
                process = subprocess.Popen(child(what, str(broken)), env=environment(), stderr=subprocess.DEVNULL)
                starts += 1
                try:
                    process.wait(rng.uniform(0, 1.1 * seconds) if killed < times else None)
                except subprocess.TimeoutExpired:
                    process.send_signal(signal.SIGKILL)
                    process.wait()
                    killed += 1
                if process.returncode not in (0, -signal.SIGKILL):
                    print(f"{what}: ended with {process.returncode} after {killed} kills")
                    return 1
                if killed < times and (broken / "weights.pt").exists():  # done: the next kill meets a new run
                    wrong += not same(torch.load(whole / "weights.pt"), torch.load(broken / "weights.pt"))
                    for path in broken.iterdir():
                        path.unlink()
            wrong += not same(torch.load(whole / "weights.pt"), torch.load(broken / "weights.pt"))
            partial = len(list(children.left_over(broken)))
            print(f"{what}: {killed} kills in {starts} starts, {wrong} different ends, {partial} half files left aside")
    return int(wrong > 0)


def same(one: dict, other: dict) -> bool:  # type: ignore[type-arg]
    return one.keys() == other.keys() and all(bool((one[name] == other[name]).all()) for name in one)


def signals() -> int:
    """Ctrl-C in every preset of the tests, during a forward of 50 ms."""
    sys.path[:0] = [str(ROOT / "tests" / folder) for folder in ("", "samplers")]
    from combinations import PRESETS

    slowest, wrong = 0.0, []
    for name in PRESETS:
        process = subprocess.Popen(child("interrupted", name), stdout=subprocess.PIPE, text=True, env=environment())
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("forward"):
                break
        started = time.monotonic()
        process.send_signal(signal.SIGINT)
        said = process.stdout.readline().strip()
        seconds = time.monotonic() - started
        process.wait(30)
        slowest = max(slowest, seconds)
        if said != "interrupted" or seconds > 1:
            wrong.append(f"{name} ({said!r} after {seconds:.2f} s)")
    print(f"{len(PRESETS)} presets, the slowest came back after {slowest:.2f} s; wrong: {', '.join(wrong) or 'none'}")
    return bool(wrong)


def main() -> int:
    import endurance

    parser = argparse.ArgumentParser(
        prog="tools/endurance", description=endurance.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    killed = commands.add_parser("kills")
    killed.add_argument("--times", type=int, default=20)
    killed.add_argument("--seed", type=int, default=0)
    commands.add_parser("signals")
    soaked = commands.add_parser("soak")
    soaked.add_argument("--minutes", type=float, default=60.0)
    soaked.add_argument("--report", type=Path, help="write the curve here, one JSON object per line")
    options = parser.parse_args()
    if options.command == "kills":
        return kills(options.times, options.seed)
    return signals() if options.command == "signals" else soak.run(options.minutes, options.report)


if __name__ == "__main__":
    sys.exit(main())
