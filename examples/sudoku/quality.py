"""Does the PRISM head know which tokens are wrong? AUROC and calibration on tokens that the sampler itself committed.

    python -m mdmcorrect.examples.sudoku.quality --picture docs/images/quality.png

Boards are stopped at several fill levels while the static sampler runs without correction; givens are left out. Each
committed token is right if it is the digit of the puzzle's only solution. Compared as detectors: the head's quality,
the same forward's probability of the token at its place (`current_logprob`), its probability when it was committed, and
p(token | the rest, its cell masked), which costs one forward per token.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mdmcorrect import ops
from mdmcorrect.samplers import PRISM
from mdmcorrect.samplers.result import StepEvent

from .checkpoints import SHIPPED, load_checkpoint
from .figures import figure
from .puzzles import MASK, Geometry, Puzzles
from .solve import BoardModel
from .train import load_or_generate

__all__ = ["Detections", "auroc", "collect", "main", "reliability"]

DETECTORS = ("quality", "current probability", "commit-time confidence", "leave-one-out probability")


@dataclass
class Detections:
    """Tokens of all boards in one row: `right` bool [n], `mask_ratio` [n] of their board, and `scores` by detector."""

    right: Tensor
    mask_ratio: Tensor
    scores: dict[str, Tensor]

    def where(self, chosen: Tensor) -> Detections:
        return Detections(
            self.right[chosen], self.mask_ratio[chosen], {name: score[chosen] for name, score in self.scores.items()}
        )


def auroc(scores: Tensor, right: Tensor) -> float:
    """Probability that a right token scores above a wrong one, ties counting half; NaN without both kinds."""
    positive, negative = int(right.sum()), int((~right).sum())
    if not positive or not negative:
        return float("nan")
    _, inverse, counts = scores.double().unique(return_inverse=True, return_counts=True)
    rank = (counts.cumsum(0) - (counts - 1) / 2)[inverse]  # mean rank of equal scores
    return ((rank[right].sum() - positive * (positive + 1) / 2) / (positive * negative)).item()


def collect(model: BoardModel, puzzles: Puzzles, *, calls: int, order: str, fills: tuple[float, ...]) -> Detections:
    """Run the sampler without correction and judge the tokens on the board at each of `fills` (shares of its calls)."""
    given = puzzles.clues != MASK
    stops = {round(fill * calls) - 1 for fill in fills}
    boards: list[tuple[Tensor, Tensor]] = []
    confidence = torch.full(puzzles.clues.shape, torch.nan)

    def watch(event: StepEvent) -> None:
        confidence[event.committed] = event.scores["confidence"][event.committed]
        if event.index in stops:
            boards.append((event.tokens, confidence.clone()))

    PRISM(steps=calls, unmask=order, remask=None, temperature=0.0)(
        model,
        puzzles.clues,
        mask_id=MASK,
        condition=given,
        seed=7,
        history={"confidence"},
        callback=watch,
        on_interrupt="raise",
    )
    parts = []
    for tokens, committed_at in boards:
        judged = (tokens != MASK) & ~given
        output = model(tokens, given)
        current = ops.score_tokens(output.logits, tokens=tokens, suppress=[MASK], want=("current_logprob",))
        ratio = (tokens == MASK).sum(1, keepdim=True) / (~given).sum(1, keepdim=True)
        scores = (
            output.quality,
            current.current_logprob.exp(),
            committed_at,
            _leave_one_out(model, tokens, given, judged),
        )
        parts.append(
            Detections(
                (tokens == puzzles.solutions)[judged],
                ratio.expand(tokens.shape)[judged],
                {name: score[judged].float() for name, score in zip(DETECTORS, scores, strict=True)},
            )
        )
    return Detections(
        torch.cat([part.right for part in parts]),
        torch.cat([part.mask_ratio for part in parts]),
        {name: torch.cat([part.scores[name] for part in parts]) for name in DETECTORS},
    )


def _leave_one_out(
    model: Callable[..., Any], tokens: Tensor, given: Tensor, judged: Tensor, batch: int = 500
) -> Tensor:
    """p(y_i | y with i masked) at the judged positions, NaN elsewhere: one board per token."""
    row, cell = judged.nonzero(as_tuple=True)
    found = torch.full(tokens.shape, torch.nan)
    for first in range(0, len(row), batch):
        r, c = row[first : first + batch], cell[first : first + batch]
        masked = tokens[r].clone()
        masked[torch.arange(len(r)), c] = MASK
        logits = model(masked, given[r]).logits[torch.arange(len(r)), c].float()
        logits[:, MASK] = float("-inf")
        found[r, c] = logits.softmax(-1)[torch.arange(len(r)), tokens[r, c]]
    return found


def reliability(detections: Detections, *, bins: int = 10) -> list[tuple[float, float, int]]:
    """Per bin of quality with equal numbers of tokens: mean quality, share right, number of tokens."""
    order = detections.scores["quality"].argsort()
    return [
        (detections.scores["quality"][part].mean().item(), detections.right[part].float().mean().item(), len(part))
        for part in order.tensor_split(bins)
        if len(part)
    ]


def _table(detections: Detections, levels: list[float]) -> str:
    lines = ["| masked | tokens | wrong | " + " | ".join(DETECTORS) + " |", "|---|---|---|" + "---|" * len(DETECTORS)]
    groups = [(f"{level:.0%}", detections.where((detections.mask_ratio - level).abs() < 0.02)) for level in levels]
    for name, group in [*groups, ("all", detections)]:
        values = " | ".join(f"{auroc(group.scores[detector], group.right):.3f}" for detector in DETECTORS)
        lines.append(f"| {name} | {len(group.right)} | {(~group.right).float().mean().item():.3f} | {values} |")
    return "\n".join(lines)


def _draw(detections: Detections, path: Path) -> None:
    points = reliability(detections, bins=20)
    with figure(path, width=4.2, height=4.2) as (axes,):
        axes.plot([0, 1], [0, 1], color="grey", linewidth=1, label="calibrated")
        axes.plot([point[0] for point in points], [point[1] for point in points], marker="o", label="PRISM head")
        axes.set(xlabel="quality", ylabel="share of tokens that are right", xlim=(0, 1.02), ylim=(0, 1.02))
        axes.grid(alpha=0.3)
        axes.legend()


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, default=SHIPPED / "prism.safetensors")
    parser.add_argument("--puzzles", type=int, default=200)
    parser.add_argument("--calls", type=int, default=20)
    parser.add_argument("--order", default="random", choices=("random", "max_probability"))
    parser.add_argument("--data", type=Path, default=Path("runs/puzzles"))
    parser.add_argument("--picture", type=Path, help="write the reliability diagram here")
    args = parser.parse_args(argv)
    fills = (0.2, 0.4, 0.6, 0.8, 1.0)
    puzzles = load_or_generate(args.data, Geometry(), clues=30, count=args.puzzles, split="test", seed=0)
    detections = collect(
        BoardModel(load_checkpoint(args.checkpoint)), puzzles, calls=args.calls, order=args.order, fills=fills
    )
    print(_table(detections, [1 - fill for fill in fills]))
    print("\n| quality | right | tokens |\n|---|---|---|")
    for quality, right, tokens in reliability(detections):
        print(f"| {quality:.3f} | {right:.3f} | {tokens} |")
    if args.picture is not None:
        _draw(detections, args.picture)


if __name__ == "__main__":
    main()
