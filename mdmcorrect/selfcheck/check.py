"""``mdmcorrect doctor --check``: every kernel that a device will use against the float64 reference."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby

from .child import CASES
from .worker import NotStarted, Outcome, Worker

FAILURES = ("FAILED", "crashed", "timed out")


def workers(device: str, isas: Sequence[str], *, seconds: float = 20.0, cases: str = CASES) -> list[Worker]:
    """One for a CUDA device, one for each of these instruction sets on the CPU; their processes start side by side."""
    if device != "cpu":
        return [Worker(device, device=device, seconds=seconds, cases=cases)]
    return [Worker(isa, device=device, isa=isa, seconds=seconds, cases=cases) for isa in isas]


def outcomes(asked: Sequence[Worker], *, cases: str = CASES) -> Iterator[list[Outcome]]:
    """For each family in turn what became of it with each worker. The workers are closed at the end."""
    try:
        for family in importlib.import_module(cases).FAMILIES:
            yield [_outcome(worker, family) for worker in asked]
    finally:
        for worker in asked:
            worker.close()


def _title(worker: Worker) -> str:
    try:
        return worker.about()["device"]
    except NotStarted as problem:
        return f"{worker.where} ({problem})"


def _outcome(worker: Worker, family: str) -> Outcome:
    try:
        return worker.ask(family)
    except NotStarted as problem:
        return Outcome(family, worker.where, "crashed", 0, 1, f"could not start: {problem}")


def lines(family: Sequence[Outcome]) -> Iterator[str]:
    """A line for what is common to workers: their names where there are several, then what happened."""

    def alike(outcome: Outcome) -> tuple[str, str, int, int]:
        return outcome.status, outcome.message, outcome.cases, outcome.failed

    together = [list(group) for _, group in groupby(sorted(family, key=alike), key=alike)]
    for group in sorted(together, key=lambda group: group[0].status in FAILURES):
        first = group[0]
        where = f"on {', '.join(outcome.where for outcome in family if outcome in group)}"
        if first.status == "ok":
            seconds = sum(outcome.seconds for outcome in group)
            said = f"{first.cases} cases {where}, {seconds:.1f} s"
        elif first.status == "skipped":
            said = f"{where}: {first.message}"
        else:
            said = f"{where}: {first.message}"
            if first.failed > 1:
                said += f"; {first.failed} of {first.cases} cases failed"
        yield f"{first.family:<24} {first.status:<9}  {said}"


def check_device(
    device: str, isas: Iterable[str], say: Callable[[str], None], *, seconds: float = 20.0, cases: str = CASES
) -> list[Outcome]:
    """Check a device, saying a line per family as soon as it is known, and what it all means at the end."""
    asked = workers(device, list(isas), seconds=seconds, cases=cases)
    say(f"check against the float64 reference: {'; '.join(_title(worker) for worker in asked)}")
    found: list[Outcome] = []
    for family in outcomes(asked, cases=cases):
        found += family
        for line in lines(family):
            say(line)
    wrong = list(dict.fromkeys(outcome.family for outcome in found if outcome.status in FAILURES))
    skipped = list(dict.fromkeys(outcome.family for outcome in found if outcome.status == "skipped"))
    if wrong:
        say(f"do not trust results of {', '.join(wrong)} on this device; please report the lines above")
    elif len(skipped) == len({outcome.family for outcome in found}):
        say("nothing was checked")
    else:
        say("every kernel that was asked agrees with the reference")
    return found


def passed(found: Sequence[Outcome]) -> bool:
    """Whether something was checked and nothing failed."""
    statuses = {outcome.status for outcome in found}
    return "ok" in statuses and not statuses & set(FAILURES)
