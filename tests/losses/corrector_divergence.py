"""How ProSeCo's corrector term grows as t_min falls, for a model of constant cross-entropy. Run as a script, it prints
the table of docs/losses.md:

    python tests/losses/corrector_divergence.py
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from mdmcorrect.losses import proseco_loss

V, MASK, LENGTH = 5, 0, 4
ENTROPY = math.log(V - 1)


class Terms(NamedTuple):
    """Means of the terms, in units of the model's cross-entropy."""

    masked: float
    corrector: float
    unweighted: float


def uniform(tokens: Tensor) -> Tensor:
    return torch.zeros(*tokens.shape, V)


def measure(t_min: float, rows: int = 20_000) -> Terms:
    x0 = torch.randint(1, V, (rows, LENGTH), generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(1)
    parts = proseco_loss(uniform, x0, mask_id=MASK, t_min=t_min, generator=generator).parts
    flat = proseco_loss(uniform, x0, mask_id=MASK, t_min=t_min, weighted=False, generator=generator).parts
    return Terms(*(float(x) / ENTROPY for x in (parts["mdlm"], parts["corrector"], flat["corrector"])))


def spread(t_min: float, draws: int = 4000) -> float:
    """Standard deviation of the corrector's term of a single row."""
    x0, generator = torch.ones(1, LENGTH, dtype=torch.int64), torch.Generator().manual_seed(1)
    terms = [
        proseco_loss(uniform, x0, mask_id=MASK, t_min=t_min, generator=generator).parts["corrector"] / ENTROPY
        for _ in range(draws)
    ]
    return float(torch.stack(terms).std())


def mean_weight(t_min: float) -> float:
    """Mean of 1/t over t uniform on [t_min, 1]."""
    return math.log(1 / t_min) / (1 - t_min)


def main() -> None:
    print("| t_min | masked term | corrector, weighted | log(1/t_min)/(1-t_min) | spread over rows | unweighted |")
    print("|---|---|---|---|---|---|")
    for t_min in (0.3, 0.1, 0.01, 0.001):
        found = measure(t_min)
        print(
            f"| {t_min} | {found.masked:.3f} | {found.corrector:.3f} | {mean_weight(t_min):.3f} | {spread(t_min):.2f} "
            f"| {found.unweighted:.3f} |"
        )


if __name__ == "__main__":
    main()
