"""The law of ``ConfidenceSampler``'s images, by enumeration of all canvases, draws and orders of a small trainer.

In every step all four cells are drawn from logits of the canvas; the chosen ones and all that stand take their draw.
"""

import itertools
import math
from collections import defaultdict
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from mdmcorrect.compat.maskgit import ConfidenceSampler

MASK, CELLS, CHAINS = 2, 4, 20_000
PLACE = torch.arange(CELLS).double()


def logit(canvas):
    """Of token 1 over token 0 at each cell, another for every canvas: ``[B, 4] -> [B, 4]``."""
    code = (canvas.double() * 3**PLACE).sum(-1, keepdim=True)
    return torch.sin(1.7 * code + 2.3 * PLACE) * 1.3


class Network(nn.Module):
    """Half as sure without a label."""

    def forward(self, grid, labels, drop_label):
        z = logit(grid.flatten(1)).float() * (1 - 0.5 * drop_label[:, None].float())
        return torch.stack([torch.zeros_like(z), z], -1)


def trainer():
    network = Network()
    return SimpleNamespace(
        vit=network,
        ema=network,
        input_size=2,
        args=SimpleNamespace(mask_value=MASK, codebook_size=MASK, device="cpu", use_ema=False),
        ae=SimpleNamespace(decode_code=lambda code: code.float()[:, None]),
    )


def chance_first(chosen, weight):
    """That these come first where the next is drawn in proportion to weight: ``weight`` by cell."""
    total = 0.0
    for order in itertools.permutations(chosen):
        left, chance = sum(weight.values()), 1.0
        for cell in order:
            chance, left = chance * weight[cell] / left, left - weight[cell]
        total += chance
    return total


def orders(masked, count, confidence, scale):
    """The sets of ``count`` masked cells that may be committed, with their chances."""
    if scale == 0:
        yield tuple(sorted(masked, key=lambda cell: -confidence[cell])[:count]), 1.0
        return
    weight = {cell: confidence[cell] ** (1 / scale) for cell in masked}
    for chosen in itertools.combinations(masked, count):
        yield chosen, chance_first(chosen, weight)


def scale_of(mode, index, left, r_temp):
    """Of the Gumbel noise on log-confidences; infinite noise is a random order."""
    if mode == "linear":
        return r_temp * left
    return math.inf if mode == "random" or (mode == "warm_up" and index < 2) else 0.0


def law(mode, steps, w, sm_temp, r_temp):
    canvases = {(MASK,) * CELLS: 1.0}
    for index, stands in enumerate(ConfidenceSampler.build_sequence(steps, 2, "linear").tolist()):
        after, left = defaultdict(float), 1 - index / (steps - 1)
        for canvas, chance in canvases.items():
            weight = w * (1 - left)
            z = logit(torch.tensor([canvas]))[0].numpy() * (1 + weight / 2)
            one = 1 / (1 + np.exp(-sm_temp * z))
            masked = [cell for cell in range(CELLS) if canvas[cell] == MASK]
            given = set(range(CELLS)) - set(masked)
            count = max(stands, index + 1) - len(given)
            for draw in itertools.product((0, 1), repeat=CELLS):
                confidence = np.where(draw, one, 1 - one)
                for chosen, first in orders(masked, count, confidence, scale_of(mode, index, left, r_temp)):
                    kept = given | set(chosen)
                    next_canvas = tuple(draw[cell] if cell in kept else MASK for cell in range(CELLS))
                    after[next_canvas] += chance * confidence.prod() * first
        canvases = after
    return canvases


@pytest.mark.parametrize("mode", ["no", "linear", "warm_up", "random"])
@pytest.mark.parametrize(("steps", "w", "sm_temp", "r_temp"), [(4, 0, 1.0, 1.0), (3, 2.0, 1.5, 0.7)])
def test_images_follow_the_law_in_every_mode(mode, steps, w, sm_temp, r_temp):
    expected = law(mode, steps, w, sm_temp, r_temp)
    images = sorted(expected)
    sampler = ConfidenceSampler(sm_temp, w, mode, r_temp, "linear", steps)
    labels = torch.zeros(CHAINS, dtype=torch.int64)
    drawn, codes, _ = sampler(trainer(), nb_sample=CHAINS, labels=labels, seed=3)
    drawn = drawn[:, 0].flatten(1).long()
    counts = np.array([(drawn == torch.tensor(image)).all(1).sum().item() for image in images])
    assert counts.sum() == CHAINS
    chances = np.array([expected[image] for image in images])
    assert stats.chisquare(counts, chances / chances.sum() * CHAINS).pvalue > 1e-4
    assert torch.equal(codes[-1].flatten(1), drawn)  # the last step draws all there is
