"""The training loop: AdamW, a moving average of the weights, a log line per interval, and a state to resume from.

Every random number of a step is drawn from a generator seeded with (seed, step), so a resumed run sees the batches an
uninterrupted one would have seen.
"""

from __future__ import annotations

import itertools
import json
import logging
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from mdmcorrect.losses import LossOutput

from .files import replacing
from .puzzles import Puzzles, augment

__all__ = ["Schedule", "step_generator", "train"]

log = logging.getLogger(__name__)
Loss = Callable[[Puzzles, torch.Generator], LossOutput]


@dataclass(frozen=True)
class Schedule:
    """How long and how fast: the rate warms up, stays at `lr`, and falls to a fiftieth over the last `decay` share."""

    steps: int
    batch: int = 128
    lr: float = 1e-3
    warmup: int = 200
    decay: float = 0.4
    average: float = 0.998
    seed: int = 0

    def rate(self, step: int) -> float:
        done = step / self.steps
        falling = 1.0 if done <= 1 - self.decay else max(0.02, (1 - done) / self.decay)
        return self.lr * min(1.0, (step + 1) / self.warmup) * falling


def step_generator(seed: int, step: int) -> torch.Generator:
    """The generator of one step; streams of different steps are unrelated."""
    generator = torch.Generator()
    generator.manual_seed((seed << 32) + step)
    return generator


def train(
    model: nn.Module,
    loss: Loss,
    puzzles: Puzzles,
    schedule: Schedule,
    *,
    state_file: Path,
    log_file: Path,
    probe: Callable[[nn.Module], dict[str, float]] | None = None,
    log_every: int = 100,
    save_every: int = 200,
) -> nn.Module:
    """Train `model` in place for `schedule.steps`, then load the averaged weights into it and return it.

    Args:
        loss: called with a batch of augmented puzzles and the step's generator.
        state_file: written atomically every `save_every` steps; if it exists, training goes on from it.
        log_file: one JSON object per line, appended. Where training goes on from `state_file`, the lines of later
            steps go: they will be written again.
        probe: measures the averaged weights at each tenth of the run; its numbers go into the log.

    Raises:
        ValueError: `state_file` belongs to a run with another schedule.
    """
    optimizer = torch.optim.AdamW(model.parameters(), lr=schedule.lr, betas=(0.9, 0.98), weight_decay=0.01)
    average = {name: value.detach().clone() for name, value in model.state_dict().items()}
    first, seconds = 0, 0.0
    if state_file.exists():
        state = torch.load(state_file, weights_only=True)
        if state["schedule"] != asdict(schedule):
            raise ValueError(
                f"{state_file} holds a run with schedule {state['schedule']}, this one has {asdict(schedule)}; "
                "remove the file to start over, or repeat the command that made it"
            )
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        average, first, seconds = state["average"], state["step"], state["seconds"]
        log.info("resumed at step %d of %d", first, schedule.steps)
    log_file.parent.mkdir(parents=True, exist_ok=True)
    _forget_after(first, log_file)
    model.train()
    started, sums, counted = time.monotonic() - seconds, {}, 0
    for step in range(first, schedule.steps):
        generator = step_generator(schedule.seed, step)
        chosen = torch.randint(0, len(puzzles), (schedule.batch,), generator=generator)
        for group in optimizer.param_groups:
            group["lr"] = schedule.rate(step)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            result = loss(augment(puzzles[chosen], generator), generator)
        optimizer.zero_grad(set_to_none=True)
        result.loss.backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        if torch.isfinite(norm):  # one bad batch in bfloat16 must not end a run of hours
            optimizer.step()
        _accumulate(sums, {"loss": result.loss.detach(), **result.parts})
        counted += 1
        weight = min(schedule.average, (step + 1) / (step + 10))
        _move_average(average, model.state_dict(), weight)
        done = step + 1
        if done % log_every == 0 or done == schedule.steps:
            entry = {"step": done, "seconds": round(time.monotonic() - started, 1), "lr": schedule.rate(step)}
            entry |= {name: round(total.item() / counted, 5) for name, total in sums.items()}
            if probe is not None and (done % max(1, schedule.steps // 10) < log_every or done == schedule.steps):
                entry |= _probe(model, average, probe)
            with log_file.open("a") as file:
                file.write(json.dumps(entry) + "\n")
            log.info("%s", entry)
            sums, counted = {}, 0
        if done % save_every == 0 or done == schedule.steps:
            state = {
                "schedule": asdict(schedule),
                "model": model.state_dict(),
                "optimizer": optimizer.state_dict(),
                "average": average,
                "step": done,
                "seconds": time.monotonic() - started,
            }
            with replacing(state_file) as path:
                torch.save(state, path)
    model.load_state_dict(average)
    return model.eval()


def _forget_after(step: int, log_file: Path) -> None:
    """Keep of a log the lines up to `step`, without one that a kill cut short. At step 0 another run begins: the log of
    the last is put aside."""
    if not log_file.exists():
        return
    if step == 0:
        aside = (log_file.with_name(f"{log_file.name}.{number}") for number in itertools.count(1))
        os.replace(log_file, next(path for path in aside if not path.exists()))
        return
    whole = [line for line in log_file.read_text().splitlines(keepends=True) if line.endswith("\n")]
    with replacing(log_file) as path:
        path.write_text("".join(line for line in whole if json.loads(line)["step"] <= step))


def _accumulate(sums: dict[str, Tensor], parts: dict[str, Tensor]) -> None:
    for name, value in parts.items():
        sums[name] = sums.get(name, torch.zeros(())) + value.float()


def _move_average(average: dict[str, Tensor], weights: dict[str, Tensor], weight: float) -> None:
    for name, value in weights.items():
        average[name].lerp_(value.detach(), 1 - weight)


def _probe(
    model: nn.Module, average: dict[str, Tensor], probe: Callable[[nn.Module], dict[str, float]]
) -> dict[str, float]:
    current = {name: value.detach().clone() for name, value in model.state_dict().items()}
    model.load_state_dict(average)
    model.eval()
    with torch.inference_mode():
        measured = probe(model)
    model.load_state_dict(current)
    model.train()
    return measured
