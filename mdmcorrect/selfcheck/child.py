"""The process in which cases run, asked by :mod:`mdmcorrect.selfcheck.worker`.

It says that it is ready and which operators it can run, then reads a family's name a line and answers each case with
two lines of JSON, one before the case, so that whoever waits knows where the process died or hangs. Names given as
arguments are run at once, without being asked, for tools that watch a process from outside.
"""

from __future__ import annotations

import argparse
import faulthandler
import importlib
import json
import os
import sys
from collections.abc import Iterable
from typing import Any, TextIO

CASES = "mdmcorrect.selfcheck.families"


def main() -> int:
    parser = argparse.ArgumentParser(prog="mdmcorrect.selfcheck.child")
    parser.add_argument("families", nargs="*")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--cases", default=CASES, help="a module whose FAMILIES are the cases")
    parser.add_argument("--only", type=int, metavar="N", help="of each family the first N cases")
    args = parser.parse_args()
    faulthandler.enable()
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what anything else prints is no answer
    families = importlib.import_module(args.cases).FAMILIES
    say(answers, ready=about(args.device, families))
    asked = args.families or (line.strip() for line in sys.stdin)
    return 1 if failures(asked, families, args.device, answers, args.only) else 0


def about(name: str, families: Iterable[str]) -> dict[str, Any]:
    """The device as torch has it, its name, and for each family why it cannot run (None if it can) and whether its
    kernels are yet to be compiled."""
    import torch

    from mdmcorrect import _kernels, _native

    device = torch.device(name)
    lacking: dict[str, str | None] = dict.fromkeys(families)
    compiled_here = []
    if device.type == "cuda":
        probe = torch.zeros(1, device=device)
        lacking = {
            op: None if _kernels.has_kernel(op, probe) else "this build has no CUDA kernel for it" for op in families
        }
        compiled_here = [op for op in families if lacking[op] is None and op not in _kernels.CUDA_OPS]
        major, minor = torch.cuda.get_device_capability(device)
        title = f"{device}, {torch.cuda.get_device_name(device)}, sm_{major}{minor}"
    else:
        title = f"cpu, {_native.build_info()['isa']}"
    return {"device": title, "lacking": lacking, "compiled_here": compiled_here}


def failures(
    asked: Iterable[str], families: dict[str, list[Any]], device: str, answers: TextIO, most: int | None
) -> int:
    """Runs families as they are asked for; how many of their cases failed."""
    import torch

    from .cases import moved, returned, run

    failed = 0
    kind = torch.device(device).type
    for family in asked:
        for case in [case for case in families[family] if kind in case.devices][:most]:
            say(answers, case=case.name)
            try:
                arguments = case.make(0)
                case.check(returned(run(case, moved(arguments, device))), arguments)
            except Exception as error:
                failed += 1
                say(answers, failed=sentence(error))
            else:
                say(answers, passed=True)
        say(answers, done=family)
    return failed


def sentence(error: Exception) -> str:
    text = " ".join(str(error).split()) or "no message"
    return text if isinstance(error, AssertionError) else f"{type(error).__name__}: {text}"


def say(answers: TextIO, **answer: Any) -> None:
    answers.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    raise SystemExit(main())
