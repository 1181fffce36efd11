"""What a head learns from states that a sampler makes, beside what it learns from PRISM's, on a world small enough to
enumerate: V = 3 tokens, L = 4 positions, the worlds of prism_enumeration.py.

The sampler commits random positions in two steps, half of the masks in each, and stops after the first or the second.
Run as a script, it prints the table of docs/losses.md:

    python tests/losses/rollout_enumeration.py
"""

from __future__ import annotations

from itertools import combinations, product

import torch
from prism_enumeration import (
    LENGTH,
    MASK,
    TOKENS,
    World,
    all_sequences,
    averaged_quality,
    code,
    conditionals,
    make_world,
)
from torch import Tensor

CELLS = (TOKENS + 1) ** LENGTH
STEPS = 2


def masked_laws(world: World) -> Tensor:
    """``P(z)``, ``[4^L]``: the number of masks uniform on 0..L, their places uniform."""
    law = torch.zeros(CELLS, dtype=torch.float64)
    for n in range(LENGTH + 1):
        places = list(combinations(range(LENGTH), n))
        for masked in places:
            z = world.states.clone()
            z[:, masked] = MASK
            law.index_add_(0, code(z), world.data / (LENGTH + 1) / len(places))
    return law


def one_step(world: World, canvas: tuple[int, ...], count: int) -> dict[tuple[int, ...], float]:
    """Canvases after ``count`` random masks were filled at once from the model, with their probabilities."""
    masks = [i for i in range(LENGTH) if canvas[i] == MASK]
    chances: dict[tuple[int, ...], float] = {}
    choices = list(combinations(masks, min(count, len(masks))))
    table = world.model[code(torch.tensor(canvas))]
    for chosen in choices:
        for drawn in product(range(TOKENS), repeat=len(chosen)):
            made, chance = list(canvas), 1 / len(choices)
            for i, token in zip(chosen, drawn, strict=True):
                made[i] = token
                chance *= table[i, token].item()
            chances[tuple(made)] = chances.get(tuple(made), 0.0) + chance
    return chances


def rolled(world: World, z: tuple[int, ...]) -> dict[tuple[int, ...], float]:
    """Canvases from z after a number of steps uniform on 1..STEPS, with their probabilities."""
    n = sum(token == MASK for token in z)
    now, found = {z: 1.0}, dict[tuple[int, ...], float]()
    for step in range(STEPS):
        count = -(-n * (step + 1) // STEPS) + (-n * step // STEPS)
        after: dict[tuple[int, ...], float] = {}
        for canvas, chance in now.items():
            for made, share in one_step(world, canvas, count).items():
                after[made] = after.get(made, 0.0) + chance * share
        now = after
        for canvas, chance in now.items():
            found[canvas] = found.get(canvas, 0.0) + chance / STEPS
    return found


def rollout_minimiser(world: World) -> tuple[Tensor, Tensor]:
    """``E[p(x_i = y_i | z) | y, i written]``, ``[4^L, L]``, and how often each cell is judged."""
    exact, law = conditionals(world.states, world.data), masked_laws(world)
    rights, visits = (torch.zeros(CELLS, LENGTH, dtype=torch.float64) for _ in range(2))
    for z in all_sequences(TOKENS + 1).tolist():
        number = int(code(torch.tensor(z)))
        for y, chance in rolled(world, tuple(z)).items():
            cell, weight = int(code(torch.tensor(y))), law[number].item() * chance
            for i in range(LENGTH):
                if z[i] == MASK and y[i] != MASK:
                    rights[cell, i] += weight * exact[number, i, y[i]]
                    visits[cell, i] += weight
    return rights / visits, visits


def compare(g: Tensor, label: Tensor, visits: Tensor) -> dict[str, float]:
    """A head that says ``g`` where the mean label is ``label``, in cells judged ``visits`` often."""
    seen = visits > 1e-12
    g, label, visits = g[seen], label[seen], visits[seen] / visits[seen].sum()
    bins = (g * 10).long().clamp(max=9)
    off = torch.zeros(10, dtype=torch.float64).index_add(0, bins, visits * (g - label)).abs().sum()
    right, wrong = visits * label, visits * (1 - label)
    over = (g[:, None] > g[None]).double() + (g[:, None] == g[None]).double() / 2
    auroc = (right[:, None] * wrong[None] * over).sum() / (right.sum() * wrong.sum())
    return {
        "says": float((visits * g).sum()),
        "right": float((visits * label).sum()),
        "calibration": float(off),
        "brier": float((visits * ((1 - label) * g**2 + label * (1 - g) ** 2)).sum()),
        "auroc": float(auroc),
    }


def main() -> None:
    print("| model that samples | head trained on | says right | is right | calibration error | Brier | AUROC |")
    print("|---|---|---|---|---|---|---|")
    for model in ("exact", "uniform", "wrong"):
        world = make_world(model=model)
        label, visits = rollout_minimiser(world)
        heads = {f"PRISM, k={k}": averaged_quality(world, k) for k in (1, 2)}
        for name, g in {**heads, "rollouts": label}.items():
            row = compare(g, label, visits)
            print(f"| {model} | {name} | " + " | ".join(f"{value:.3f}" for value in row.values()) + " |")


if __name__ == "__main__":
    main()
