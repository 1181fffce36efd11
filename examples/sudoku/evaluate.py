"""Compare samplers on held-out puzzles at equal numbers of model calls.

    python -m mdmcorrect.examples.sudoku.evaluate search   # settings of every arm, on validation puzzles
    python -m mdmcorrect.examples.sudoku.evaluate test     # 1000 test puzzles, three sampling seeds
    python -m mdmcorrect.examples.sudoku.evaluate table    # the table, with paired bootstrap intervals, and a picture

`search` and `test` write one JSON file per arm, number of calls and seed, and skip what is already there.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .arms import ARMS, SETTINGS, AllSettings, Arm, load_settings, settings_of
from .checkpoints import SHIPPED, load_checkpoint
from .files import replacing
from .puzzles import Geometry
from .report import picture, table
from .solve import BoardModel, solve
from .train import load_or_generate

__all__ = ["CALLS", "main", "run_search", "run_test"]

log = logging.getLogger(__name__)
CALLS = (12, 24)
SEEDS = (0, 1, 2)


def run_search(out: Path, checkpoints: Path, data: Path, *, puzzles: int, only: str = "") -> None:
    """Try every setting of every arm at every number of calls on validation puzzles; keep each arm's best."""
    held_out = load_or_generate(data, Geometry(), clues=30, count=puzzles, split="validation", seed=1)
    for arm, model, calls in _runs(checkpoints, only):
        path = out / "search" / f"{_name(arm, calls)}.json"
        if path.exists():
            continue
        tried = []
        for settings in arm.grid:
            result = solve(model, held_out, arm.make(calls, settings), seed=1000)
            tried.append({"settings": settings, "solved": result.rate, "nfe": result.nfe.double().mean().item()})
            log.info("%s %d %s", arm.name, calls, tried[-1])
        # Of equals, the earlier setting is taken.
        _write(path, {"tried": tried, "best": max(tried, key=lambda one: one["solved"])["settings"]})
    chosen: AllSettings = {}
    for arm in ARMS:
        for calls in CALLS:
            path = out / "search" / f"{_name(arm, calls)}.json"
            if path.exists():
                best = json.loads(path.read_text())["best"]
                chosen.setdefault(arm.name, {}).setdefault(arm.order, {})[str(calls)] = best
    _write(out / SETTINGS, chosen)


def run_test(out: Path, checkpoints: Path, data: Path, *, puzzles: int, only: str = "") -> None:
    """Run every arm with its settings from `search` on the test puzzles, once per seed (once, if nothing is random)."""
    held_out = load_or_generate(data, Geometry(), clues=30, count=puzzles, split="test", seed=0)
    chosen = load_settings(out)
    for arm, model, calls in _runs(checkpoints, only):
        settings = settings_of(chosen, arm, calls)
        for seed in SEEDS if arm.is_random(settings) else SEEDS[:1]:
            path = out / "test" / f"{_name(arm, calls)}_seed{seed}.json"
            if path.exists():
                continue
            result = solve(model, held_out, arm.make(calls, settings), seed=seed)
            log.info("%s %s %d seed %d: %.3f in %.1f s", arm.name, arm.order, calls, seed, result.rate, result.seconds)
            entry = {
                "arm": arm.name,
                "order": arm.order,
                "calls": calls,
                "seed": seed,
                "settings": settings,
                "solved": "".join(str(int(one)) for one in result.solved.tolist()),
                "cells": round(result.cells.mean().item(), 5),
                "nfe": round(result.nfe.double().mean().item(), 3),
                "seconds": round(result.seconds, 2),
            }
            _write(path, entry)


def _runs(checkpoints: Path, only: str) -> Iterator[tuple[Arm, BoardModel, int]]:
    models = {}
    for calls in CALLS:
        for arm in ARMS:
            if only not in _name(arm, calls):
                continue
            if arm.checkpoint not in models:
                models[arm.checkpoint] = BoardModel(load_checkpoint(checkpoints / f"{arm.checkpoint}.safetensors"))
            yield arm, models[arm.checkpoint], calls


def _name(arm: Arm, calls: int) -> str:
    return f"{arm.name}_{arm.order}_{calls}".replace("/", "-").replace(" ", "_")


def _write(path: Path, value: Any) -> None:
    with replacing(path) as whole:
        whole.write_text(json.dumps(value, indent=1) + "\n")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("search", "test", "table"))
    parser.add_argument("--out", type=Path, default=Path("runs/evaluation"))
    parser.add_argument("--checkpoints", type=Path, default=SHIPPED)
    parser.add_argument("--data", type=Path, default=Path("runs/puzzles"))
    parser.add_argument("--puzzles", type=int, help="how many; by default 1000 to test, 60 to search")
    parser.add_argument("--only", default="", help="runs whose name holds this, such as _random_")
    parser.add_argument("--picture", type=Path, help="with table: write solved against calls here")
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    if args.what == "search":
        run_search(args.out, args.checkpoints, args.data, puzzles=args.puzzles or 60, only=args.only)
    elif args.what == "test":
        run_test(args.out, args.checkpoints, args.data, puzzles=args.puzzles or 1000, only=args.only)
    else:
        print(table(args.out / "test"))
        if args.picture is not None:
            picture(args.out / "test", args.picture)


if __name__ == "__main__":
    main()
