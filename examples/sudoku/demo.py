"""The demonstration: a puzzle solved before your eyes, then every sampler on many puzzles at equal numbers of calls."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from mdmcorrect.samplers.result import StepEvent

from .arms import ARMS, Arm, load_settings, settings_of
from .board import draw_board, draw_step, legend
from .checkpoints import SHIPPED
from .evaluate import CALLS
from .figures import figure
from .model import SudokuConfig
from .puzzles import MASK, Geometry, Puzzles, generate
from .solve import BoardModel, Solved, solve
from .train import run
from .training import Schedule

__all__ = ["SMALL", "Comparison", "compare", "plot", "show_puzzle", "train_small"]


@dataclass(frozen=True)
class Comparison:
    """One arm at one number of calls."""

    arm: Arm
    calls: int
    result: Solved


def compare(
    puzzles: Puzzles, checkpoints: Path, *, calls: tuple[int, ...], order: str, console: Console
) -> list[Comparison]:
    """Run every arm of `order` whose checkpoint is in `checkpoints`, with the settings chosen on validation puzzles."""
    settings = load_settings(checkpoints)
    models: dict[str, BoardModel] = {}
    found = []
    for arm in ARMS:
        path = checkpoints / f"{arm.checkpoint}.safetensors"
        if arm.order != order or not path.exists():
            continue
        if arm.checkpoint not in models:
            models[arm.checkpoint] = BoardModel(path)
        model = models[arm.checkpoint]
        for number in calls:
            with console.status(f"{arm.name}, {number} calls"):
                sampler = arm.make(number, settings_of(settings, arm, number))
                found.append(Comparison(arm, number, solve(model, puzzles, sampler)))
    return found


def results_table(found: list[Comparison], puzzles: Puzzles, order: str) -> Table:
    """Sampler, measured NFE, solved, cells right, seconds."""
    table = Table(title=f"{len(puzzles)} held-out puzzles, commits in {order.replace('_', ' ')} order")
    for column, justify in (("sampler", "left"), ("NFE", "right"), ("solved", "right"), ("cells right", "right"),
                            ("seconds", "right")):  # fmt: skip
        table.add_column(column, justify=justify)  # type: ignore[arg-type]
    for number in sorted({one.calls for one in found}):
        best = max(one.result.rate for one in found if one.calls == number)
        for one in found:
            if one.calls == number:
                result = one.result
                table.add_row(
                    one.arm.name,
                    f"{result.nfe.double().mean().item():.1f}",
                    f"{result.rate:.3f}",
                    f"{result.cells.mean().item():.3f}",
                    f"{result.seconds:.1f}",
                    style="bold" if result.rate == best else None,
                )
        table.add_section()
    return table


def show_puzzle(
    found: list[Comparison], puzzles: Puzzles, checkpoints: Path, *, console: Console, delay: float
) -> None:
    """Replay, step by step, a puzzle that PRISM solves and the same model without correction does not."""
    by_name = {one.arm.name: one for one in found if one.calls == max(c.calls for c in found)}
    prism, plain = by_name["prism/PRISM"], by_name["prism/no correction"]
    mended = (prism.result.solved & ~plain.result.solved).nonzero().flatten()
    index = int(mended[0]) if len(mended) else 0
    puzzle, given = puzzles[slice(index, index + 1)], puzzles.clues[index] != MASK
    sampler = prism.arm.make(prism.calls, settings_of(load_settings(checkpoints), prism.arm, prism.calls))
    model = BoardModel(checkpoints / f"{prism.arm.checkpoint}.safetensors")
    console.print(Text(f"\nPuzzle {index}: PRISM, {prism.calls} calls"), legend())
    geometry = puzzles.geometry
    with Live(console=console, refresh_per_second=30, transient=False) as live:

        def watch(event: StepEvent) -> None:
            taken = int(event.remasked.sum())
            caption = f"step {event.index + 1:3d}   {taken} taken back" if taken else f"step {event.index + 1:3d}"
            live.update(Group(draw_step(geometry, event, given), Text(caption)), refresh=True)
            time.sleep(delay)

        result = sampler(
            model,
            puzzle.clues,
            mask_id=MASK,
            condition=given[None],
            seed=torch.tensor([index]),
            history={"quality"},
            callback=watch,
            on_interrupt="raise",
        )
        edits = int((result.state.commits - 1).clamp(min=0).sum())
        side_by_side = Table.grid(padding=(0, 6))
        side_by_side.add_row(Text("without correction"), Text(f"PRISM, {edits} cells written again"))
        side_by_side.add_row(
            draw_board(geometry, plain.result.boards[index], given, puzzle.solutions[0]),
            draw_board(geometry, result.tokens[0], given, puzzle.solutions[0]),
        )
        live.update(side_by_side, refresh=True)


def plot(found: list[Comparison], path: Path, *, title: str) -> None:
    """Write solved against measured NFE, one line per sampler, as a PNG."""
    with figure(path, width=6.4, height=4.2) as (axes,):
        for name in dict.fromkeys(one.arm.name for one in found):
            points = sorted(
                (one.result.nfe.double().mean().item(), one.result.rate) for one in found if one.arm.name == name
            )
            axes.plot(*zip(*points, strict=True), marker="o", label=name)
        axes.set(xlabel="model calls per puzzle (NFE)", ylabel="puzzles solved", title=title, ylim=(0, 1.02))
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)


SMALL = Geometry(2, 3)
SMALL_CLUES = 9
_SMALL_RUNS = {
    "base": ("mdm", None, Schedule(steps=500, lr=2e-3, warmup=50)),
    "prism": ("prism", "base", Schedule(steps=200, lr=5e-4, warmup=20)),
    "proseco": ("proseco", "base", Schedule(steps=200, lr=5e-4, warmup=20)),
    "longer": ("mdm", "base", Schedule(steps=400, lr=5e-4, warmup=20)),
}


def train_small(out: Path) -> Path:
    """Train the 6x6 models from nothing: base, PRISM, ProSeCo, base trained on. Resumes; returns `out`."""
    config = SudokuConfig(SMALL.box_height, SMALL.box_width, width=64, layers=2, loops=2)
    puzzles = generate(SMALL, clues=SMALL_CLUES, count=3000, split="train", seed=0)
    validation = generate(SMALL, clues=SMALL_CLUES, count=100, split="validation", seed=0)
    for name, (method, init, schedule) in _SMALL_RUNS.items():
        target = out / f"{name}.safetensors"
        if target.exists():
            continue
        start = None if init is None else out / f"{init}.safetensors"
        run(method, puzzles, validation, schedule, out=out / name, config=config, init=start)
        (out / name / "model.safetensors").replace(target)
    return out


def run_demo(
    *, checkpoints: Path = SHIPPED, small: bool = False, puzzles: int, order: str, picture: Path, delay: float
) -> list[Comparison]:
    """The whole demonstration on this terminal; returns what was measured."""
    console = Console()
    geometry, clues = (SMALL, SMALL_CLUES) if small else (Geometry(), 30)
    held_out = generate(geometry, clues=clues, count=puzzles, split="test", seed=1)
    found = compare(held_out, checkpoints, calls=CALLS, order=order, console=console)
    show_puzzle(found, held_out, checkpoints, console=console, delay=delay)
    console.print("\n", results_table(found, held_out, order))
    plot(found, picture, title=f"Sudoku {geometry.side}x{geometry.side}, {clues} clues, {puzzles} puzzles")
    console.print(f"Solved against calls: {picture}")
    return found
