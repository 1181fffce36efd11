"""PRISM's proposition on a world small enough to enumerate: V = 3 tokens, L = 4 positions, 81 sequences.

Every clean sequence, mask, choice of S and draw of y is listed with its probability, the library's own loss gives the
gradient of a tabular g at each of them, and the minimiser of the expected loss follows in closed form. Run as a script,
it prints the table of docs/losses.md:

    python tests/losses/prism_enumeration.py
"""

from __future__ import annotations

from itertools import combinations, product
from typing import NamedTuple

import torch
from torch import Tensor

from mdmcorrect.losses import prism_loss_from_logits

TOKENS, LENGTH = 3, 4
MASK = TOKENS


class World(NamedTuple):
    """``states [81, 4]`` clean sequences, ``data [81]`` their probabilities, ``model [4^4, 4, 3]`` what draws y."""

    states: Tensor
    data: Tensor
    model: Tensor


def code(tokens: Tensor) -> Tensor:
    """Number of a partly masked sequence ``[..., L]``, 0 to 4^L - 1."""
    return (tokens * (TOKENS + 1) ** torch.arange(LENGTH)).sum(-1)


def all_sequences(symbols: int) -> Tensor:
    return torch.tensor(list(product(range(symbols), repeat=LENGTH)))


def conditionals(states: Tensor, data: Tensor) -> Tensor:
    """``p(x_i = v | context)`` for every context with i masked or not, ``[4^L, L, V]``, by code of the context.

    For i not masked it is the probability given the context with i masked too.
    """
    table = torch.zeros((TOKENS + 1) ** LENGTH, LENGTH, TOKENS, dtype=torch.float64)
    for context in all_sequences(TOKENS + 1):
        for i in range(LENGTH):
            seen = context != MASK
            seen[i] = False
            joint = data * (states[:, seen] == context[seen]).all(-1)
            counts = torch.zeros(TOKENS, dtype=torch.float64).index_add(0, states[:, i], joint)
            table[code(context), i] = counts / counts.sum()
    return table


def make_world(seed: int = 0, *, model: str = "uniform", concentration: float = 0.3) -> World:
    """A Dirichlet distribution over the 81 sequences, and a model that is uniform, exact, or wrong at random."""
    generator = torch.Generator().manual_seed(seed)
    states = all_sequences(TOKENS)
    alpha = torch.full((len(states),), concentration, dtype=torch.float64)
    data = torch._standard_gamma(alpha, generator=generator) + 1e-3
    data = data / data.sum()
    shape = ((TOKENS + 1) ** LENGTH, LENGTH, TOKENS)
    tables = {
        "uniform": lambda: torch.full(shape, 1 / TOKENS, dtype=torch.float64),
        "exact": lambda: conditionals(states, data),
        "wrong": lambda: torch.rand(shape, generator=generator, dtype=torch.float64).add(0.05),
    }
    probability = tables[model]()
    return World(states, data, probability / probability.sum(-1, keepdim=True))


def quality_given(world: World) -> Tensor:
    """``g*[y, i] = p(x_i = y_i | y with i masked)``, NaN where y_i is masked; ``[4^L, L]``."""
    contexts = all_sequences(TOKENS + 1)
    table = conditionals(world.states, world.data)[code(contexts)]
    chosen = table.gather(-1, contexts.clamp(max=TOKENS - 1).unsqueeze(-1)).squeeze(-1)
    result = torch.full((len(contexts), LENGTH), torch.nan, dtype=torch.float64)
    result[code(contexts)] = torch.where(contexts == MASK, torch.nan, chosen)
    return result


def minimiser(world: World, k: int) -> tuple[Tensor, Tensor]:
    """Minimiser of the expected PRISM loss over tables g ``[4^L, L]``, and how often each cell is judged.

    With t uniform and the linear schedule the number of masks is uniform on 0..L. The loss of one (x, z, S, y) with a
    single logit c everywhere has the gradient (sigmoid(c) - 1[x_i = y_i]) / |S| at i in S, so two values of c give
    both the weight of each cell and its mean target.
    """
    low, high = torch.tensor(0.0, dtype=torch.float64), torch.tensor(2.0, dtype=torch.float64)
    sums = {c: torch.zeros((TOKENS + 1) ** LENGTH, LENGTH, dtype=torch.float64) for c in (low, high)}
    positions = range(LENGTH)
    for masked in (m for n in range(1, LENGTH + 1) for m in combinations(positions, n)):
        n = len(masked)
        mask_weight = 1 / (LENGTH + 1) / len(list(combinations(positions, n)))
        choices = list(combinations(masked, min(k, n)))
        for chosen in choices:
            for drawn in product(range(TOKENS), repeat=len(chosen)):
                z = world.states.clone()
                z[:, masked] = MASK
                y = z.clone()
                y[:, chosen] = torch.tensor(drawn)
                draw = world.model[code(z)][:, chosen, drawn].prod(-1)
                weight = world.data * draw * mask_weight / len(choices)
                selected = torch.zeros_like(y, dtype=torch.bool)
                selected[:, chosen] = True
                for c, total in sums.items():
                    logits = c.expand(y.shape).clone().requires_grad_()
                    (gradient,) = torch.autograd.grad(
                        prism_loss_from_logits(logits, world.states, y, selected).loss, logits
                    )
                    # The loss is a mean over the chosen positions of the batch; times their number it is a sum.
                    total.index_add_(0, code(y), gradient * selected.sum() * weight.unsqueeze(-1))
    visits = (sums[high] - sums[low]) / (torch.sigmoid(high) - torch.sigmoid(low))
    target = torch.sigmoid(low) - sums[low] / visits
    return target, visits


def averaged_quality(world: World, k: int) -> Tensor:
    """What the k > 1 minimiser is said to be: the mean over S of ``p(x_i = y_i | y with S masked)``, by direct sums.

    S of weight P(context) q(y_S | context), over sets S of k filled positions containing i, the context being y with S
    masked; a y without any mask may also come from a row that had fewer than k masks.
    """
    contexts = all_sequences(TOKENS + 1)
    exact = conditionals(world.states, world.data)
    result = torch.full((len(contexts), LENGTH), torch.nan, dtype=torch.float64)
    for y in contexts:
        filled = [i for i in range(LENGTH) if y[i] != MASK]
        sizes = range(1, k + 1) if len(filled) == LENGTH else [k]
        top, bottom = torch.zeros(LENGTH, dtype=torch.float64), torch.zeros(LENGTH, dtype=torch.float64)
        for chosen in (s for size in sizes for s in combinations(filled, size)):
            z = y.clone()
            z[list(chosen)] = MASK
            seen = z != MASK
            masks = int((~seen).sum())
            of_context = (world.data * (world.states[:, seen] == z[seen]).all(-1)).sum()
            number = len(list(combinations(range(LENGTH), masks))) * len(list(combinations(range(masks), len(chosen))))
            weight = of_context / number
            for i in chosen:
                weight = weight * world.model[code(z), i, y[i]]
            for i in chosen:
                top[i] += weight * exact[code(z), i, y[i]]
                bottom[i] += weight
        result[code(y)] = top / bottom
    return result


def gap(world: World, k: int) -> dict[str, float]:
    """Distance of the minimiser from g*, over judged cells: mean by visits, plain mean, largest."""
    found, visits = minimiser(world, k)
    seen = visits > 1e-12
    distance = (found - quality_given(world)).abs()[seen]
    share = visits[seen] / visits[seen].sum()
    return {
        "weighted": float((distance * share).sum()),
        "mean": float(distance.mean()),
        "largest": float(distance.max()),
    }


def main() -> None:
    print("| model that draws y | k | mean gap, by visits | mean gap, by cells | largest gap |\n|---|---|---|---|---|")
    for model in ("uniform", "exact", "wrong"):
        for k in range(1, LENGTH + 1):
            found = gap(make_world(model=model), k)
            print(f"| {model} | {k} | {found['weighted']:.4f} | {found['mean']:.4f} | {found['largest']:.4f} |")


if __name__ == "__main__":
    main()
