"""What is known so far, and the folder it is written to after every step: results.json, report.md, pictures."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mdmcorrect.cli import bench

FAILURES = ("FAILED", "crashed", "timed out")
PARTS = {
    "build": "Build",
    "check": "doctor --check: every kernel against the float64 reference",
    "tests": "tests/gpu",
    "benchmarks": "Benchmarks",
    "sanitizer": "compute-sanitizer",
}


@dataclass(frozen=True)
class Entry:
    """One verdict."""

    part: str
    """Of `PARTS`."""
    name: str
    """A family of tests, an operator."""
    status: str
    """ "ok", "FAILED", "crashed", "timed out" or "skipped"."""
    message: str = ""
    seconds: float = 0.0


@dataclass
class Results:
    folder: Path
    device: str
    facts: dict[str, str] = field(default_factory=dict)
    entries: list[Entry] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)
    """Of the benchmarks, as ``mdmcorrect bench --json`` has them."""
    ended: str = "not yet: this report was written while it ran"

    def add(self, *entries: Entry) -> None:
        self.entries += entries
        self.write()

    def failures(self) -> list[Entry]:
        return [entry for entry in self.entries if entry.status in FAILURES]

    def verdict(self) -> str:
        failures = self.failures()
        if failures:
            first = failures[0]
            sentence = f"{len(failures)} of {len(self.entries)} steps did not pass."
            return f"**{sentence}** The first: {first.part}, {first.name}, {first.status}: {first.message}"
        if not any(entry.status == "ok" for entry in self.entries):
            return "**Nothing was found out.**"
        skipped = sum(entry.status == "skipped" for entry in self.entries)
        left_out = f" {skipped} {'step was' if skipped == 1 else 'steps were'} skipped, see below." if skipped else ""
        return f"**Everything that ran passed.**{left_out}"

    def write(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        content = {key: value for key, value in asdict(self).items() if key != "folder"}
        _replace(self.folder / "results.json", json.dumps(content, indent=2) + "\n")
        _replace(self.folder / "report.md", self.markdown())

    def plot(self) -> str | None:
        """Draw the speed-ups; why there is no picture, or None."""
        if not self.rows:
            return "nothing was measured"
        if importlib.util.find_spec("matplotlib") is None:
            return "matplotlib is not installed"
        try:
            bench.plot(self.rows, self.folder / "speedups.png")
        except Exception as error:  # a picture is not worth the report
            return f"{type(error).__name__}: {error}"
        return None

    def markdown(self) -> str:
        device = self.facts.get("CUDA device", self.device) if self.device.startswith("cuda") else self.device
        lines = [f"# mdmcorrect on {device}", "", self.verdict(), ""]
        lines += [f"Ended: {self.ended}.", ""]
        if self.facts:
            lines += ["| what | which |", "|---|---|", *(f"| {k} | {_cell(v)} |" for k, v in self.facts.items()), ""]
        for part, title in PARTS.items():
            entries = [entry for entry in self.entries if entry.part == part]
            if entries:
                lines += [f"## {title}", "", "| what | verdict | | seconds |", "|---|---|---|---|"]
                for entry in entries:
                    verdict = entry.status if entry.status not in FAILURES else f"**{entry.status}**"
                    lines.append(f"| {entry.name} | {verdict} | {_cell(entry.message)} | {entry.seconds:.1f} |")
                lines.append("")
            if part == "benchmarks" and self.rows:
                lines += [*self._measurements(), ""]
        return "\n".join(lines)

    def _measurements(self) -> list[str]:
        lines = [
            f"Measured on {self.rows[0]['device']}. Time is the device's, beside it the host's for the same call; a "
            "speed-up below 1 means that ours is slower.",
            "",
            "| case | time | host | rate | times the floor | as fast as | peak memory |",
            "|---|---|---|---|---|---|---|",
        ]
        for row in self.rows:
            waits = set(row["waits"])
            peers = ", ".join(
                f"{ratio:.2f} x {name}{' (waits for the device)' if name in waits else ''}"
                for name, ratio in row["speedup_over"].items()
            )
            host = "" if row["host_seconds"] is None else f"{row['host_seconds'] * 1e6:.1f} us"
            peak = "" if row["peak_bytes"] is None else f"{row['peak_bytes'] / 1e6:.1f} MB"
            time = f"{row['seconds'] * 1e6:.1f} us{' (waits for the device)' if 'ours' in waits else ''}"
            cells = [row["case"], time, host, bench.rate(row), f"{row['times_the_floor']:.2f}", peers, peak]
            lines.append(f"| {' | '.join(map(_cell, cells))} |")
        return lines


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _replace(path: Path, text: str) -> None:
    """Whole or not at all, whenever the process ends."""
    beside = path.with_name(f"{path.name}.new")
    beside.write_text(text)
    beside.replace(path)
