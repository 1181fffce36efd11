"""What is run, in this order, and how each command's end becomes verdicts."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mdmcorrect.cli import bench

from . import events, rows
from .results import FAILURES, Entry, Results
from .running import ROOT, Ended

OPERATORS = (
    "uniform",
    "select_positions",
    "count_positions",
    "remask_step",
    "sampler_step",
    "correct_pass",
    "score_tokens",
    "score_hidden",
    "score_quality",
    "bidirectional_attention",
    "linear_cross_entropy",
)
NO_OPERATORS = "what is no operator's"
BY_OPERATOR = ("tests/gpu/test_gpu_ops.py", "tests/gpu/test_gpu_contract.py", "tests/gpu/test_gpu_invariance.py")
BY_FILE = {  # the other files of tests/gpu, each a family
    path.stem.removeprefix("test_gpu_"): relative
    for path in sorted((ROOT / "tests" / "gpu").glob("test_*.py"))
    if (relative := path.relative_to(ROOT).as_posix()) not in BY_OPERATOR
}
NVRTC = "jit"  # every case again, as NVRTC compiles the kernels
SANITIZERS = ("memcheck", "racecheck", "synccheck")
FOUND = 86  # the status with which a sanitizer that found something ends

Read = Callable[[Ended, Results], None]


@dataclass(frozen=True)
class Step:
    part: str
    name: str
    command: Sequence[str]
    seconds: float
    """Its own limit; what is left of everything's may be less."""
    read: Read
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def log(self) -> str:
        return f"{_file_name(self.part, self.name)}.log"


def _file_name(part: str, name: str) -> str:
    return re.sub(r"\W+", "_", f"{part}_{name}")


def steps(results: Results, *, only: str = "") -> Iterator[Step]:
    """All after the build; steps of one part are made when it begins, so that the last may follow from what failed."""
    yield check(results.device)
    wanted = [op for op in OPERATORS if only in op]
    if importlib.util.find_spec("pytest") is None:
        for part in ("tests", "benchmarks"):
            results.add(Entry(part, "all", "skipped", "pytest is missing: pip install pytest"))
    else:
        folder, device = results.folder / "logs", results.device
        yield from (tests(op, device, folder) for op in wanted)
        files = (*BY_FILE, NO_OPERATORS) if not only else ()
        yield from (tests(name, device, folder) for name in files if name != NVRTC)
        yield from (measurements(file, device, folder) for file in rows.ROWS if only in file)
        yield from (tests(name, device, folder) for name in files if name == NVRTC)  # compiles for a minute or two
    yield from sanitizers(results, wanted)


def check(device: str) -> Step:
    command = [sys.executable, "-m", "mdmcorrect", "doctor", "--check", "--json", "--device", device]

    def read(ended: Ended, results: Results) -> None:
        text = ended.log.read_text(errors="replace")
        try:
            found = json.loads(text[text.index("{") :])
        except ValueError:
            status = "timed out" if ended.status is None else "FAILED"
            results.add(Entry("check", "doctor", status, ended.last_line() or ended.how(), ended.seconds))
            return
        results.facts |= found["facts"]
        if not found["usable"]:
            results.add(Entry("check", "doctor", "FAILED", " ".join(found["advice"]), ended.seconds))
        for outcome in found["check"]:
            message = outcome["message"] or f"{outcome['cases']} cases"
            if outcome["failed"] > 1:
                message += f"; {outcome['failed']} of {outcome['cases']} cases failed"
            where = "" if outcome["where"] == results.device else f" on {outcome['where']}"
            results.add(Entry("check", outcome["family"] + where, outcome["status"], message, outcome["seconds"]))

    return Step("check", "doctor", command, 150.0, read)


def tests(family: str, device: str, folder: Path) -> Step:
    """A family of tests/gpu in a process of its own: an operator's, a file's, or those that are no operator's."""
    if family in BY_FILE:
        where: list[str] = [BY_FILE[family]]
    elif family in OPERATORS:
        where = [*BY_OPERATOR, "-k", family]
    else:
        where = [*BY_OPERATOR, "-k", f"not ({' or '.join(OPERATORS)})"]
    marked = ["-m", "gpu" if device.startswith("cuda") else "not gpu"]
    return pytest_step("tests", family, [*where, *marked], 240.0 if family == NVRTC else 120.0, folder)


def measurements(file: str, device: str, folder: Path) -> Step:
    measured = folder / f"benchmarks_{file}.jsonl"
    measured.unlink(missing_ok=True)
    options = [f"--device={device}", f"--measured={measured}", "--seconds-per-case=2"]

    def read_rows(results: Results) -> None:
        if measured.exists():
            results.rows += bench.table(measured)

    return pytest_step("benchmarks", file, [*rows.node_ids(file), *options], 150.0, folder, read_rows)


def pytest_step(
    part: str,
    name: str,
    arguments: Sequence[str],
    seconds: float,
    folder: Path,
    also: Callable[[Results], None] = lambda results: None,
) -> Step:
    """pytest, with what happens to each test written down as it happens."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", events.__name__]
    path = folder / f"{_file_name(part, name)}.events.jsonl"
    path.unlink(missing_ok=True)
    folder.mkdir(parents=True, exist_ok=True)

    def read(ended: Ended, results: Results) -> None:
        also(results)
        results.add(told(part, name, ended, path))

    packages = filter(None, [str(ROOT / "tools"), str(ROOT), os.environ.get("PYTHONPATH")])
    environment = {events.PATH: str(path), "PYTHONPATH": os.pathsep.join(packages)}
    return Step(part, name, [*command, *arguments], seconds, read, environment)


def told(part: str, name: str, ended: Ended, path: Path) -> Entry:
    """The verdict on a run of pytest from the events it wrote."""
    happened: list[dict[str, Any]] = []
    if path.exists():
        happened = [json.loads(line) for line in path.read_text().splitlines()]
    ends = [event for event in happened if "end" in event]
    by_outcome = {
        outcome: [event for event in ends if event["outcome"] == outcome] for outcome in ("passed", "failed", "skipped")
    }
    begun = [event["begin"] for event in happened if "begin" in event]
    collected = sum(event.get("collected", 0) for event in happened)
    counts = ", ".join(f"{len(of)} {outcome}" for outcome, of in by_outcome.items() if of)
    left = f", {collected - len(begun)} not run" if collected > len(begun) else ""
    failed = by_outcome["failed"]

    def entry(status: str, message: str) -> Entry:
        return Entry(part, name, status, message + (f" ({counts}{left})" if counts or left else ""), ended.seconds)

    first = f"{_short(failed[0]['end'])}: {failed[0]['message']}" if failed else ""
    if ended.status is None or ended.status < 0:
        status = "timed out" if ended.status is None else "crashed"
        in_test = f"{_short(begun[-1])}: " if begun else ""
        return entry(status, first or f"{in_test}{ended.how()}")
    if failed:
        return entry("FAILED", first)
    if ended.status == 5 or (ended.status == 0 and not by_outcome["passed"]):  # 5: nothing was collected
        skipped = by_outcome["skipped"]
        return entry("skipped", skipped[0]["message"] if skipped else "there is no such test")
    if ended.status != 0:
        return entry("FAILED", f"pytest {ended.how()}: {ended.last_line()}")
    return entry("ok", "")


def _short(node: str) -> str:
    """Without the folder."""
    return node.rsplit("/", 1)[-1]


def sanitizers(results: Results, wanted: Sequence[str]) -> Iterator[Step]:
    """A small case of each operator under each tool, first of those that failed before."""
    program = shutil.which("compute-sanitizer") or shutil.which("/usr/local/cuda/bin/compute-sanitizer")
    if program is None or not results.device.startswith("cuda"):
        why = "it is not installed" if program is None else f"it watches CUDA devices, not {results.device}"
        results.add(Entry("sanitizer", "all", "skipped", why))
        return
    suspects = {entry.name for entry in results.entries if entry.status in FAILURES}
    ordered = sorted(wanted, key=lambda op: op not in suspects)
    for tool in SANITIZERS:
        for op in ordered:
            yield sanitizer(program, tool, op, results.device)


def sanitizer(program: str, tool: str, op: str, device: str) -> Step:
    child = [sys.executable, "-m", "mdmcorrect.selfcheck.child", op, "--only", "2", "--device", device]
    command = [program, "--tool", tool, "--error-exitcode", str(FOUND), *child]

    def read(ended: Ended, results: Results) -> None:
        text = ended.log.read_text(errors="replace")
        said = [line.strip("= ") for line in text.splitlines() if line.startswith("=========")]
        findings = [line for line in said if line and not line.startswith("COMPUTE-SANITIZER")]
        if ended.status == 0:
            status, message = "ok", ""
        elif ended.status == FOUND:
            status, message = "FAILED", next(iter(findings), ended.last_line())
        elif ended.status is None:
            status, message = "skipped", f"too slow here: {ended.how()}"
        elif wrong := re.search(r'^\{"failed": "(.*)"\}$', text, flags=re.MULTILINE):
            status, message = "FAILED", f"the sanitizer found nothing, but the results are wrong: {wrong[1]}"
        else:
            status, message = "crashed", f"{ended.how()}: {ended.last_line()}"
        results.add(Entry("sanitizer", f"{tool}, {op}", status, message, ended.seconds))

    return Step("sanitizer", f"{tool} {op}", command, 60.0, read)


def build(command: Sequence[str]) -> Step:
    def read(ended: Ended, results: Results) -> None:
        if ended.status == 0:
            results.add(Entry("build", "library", "ok", "", ended.seconds))
            return
        lines = ended.log.read_text(errors="replace").splitlines()
        errors = [line.strip() for line in lines if re.search(r"\berror\b", line, flags=re.IGNORECASE)]
        status = "timed out" if ended.status is None else "FAILED"
        message = (errors[0] if errors else ended.last_line()) or ended.how()
        results.add(Entry("build", "library", status, message, ended.seconds))

    return Step("build", "library", command, 1800.0, read)
