"""PRISM's proposition (arXiv 2510.01384, Proposition 1), exactly by enumeration and through the drawn loss."""

from types import SimpleNamespace

import pytest
import torch
from prism_enumeration import (
    LENGTH,
    MASK,
    TOKENS,
    all_sequences,
    averaged_quality,
    code,
    gap,
    make_world,
    minimiser,
    quality_given,
)
from torch.nn import functional as F

from mdmcorrect.losses import prism_loss

CELLS = (TOKENS + 1) ** LENGTH


@pytest.mark.parametrize("model", ["uniform", "exact", "wrong"])
@pytest.mark.parametrize("seed", [0, 1])
def test_minimiser_at_k_1_is_the_quality_whatever_drew_y(model, seed):
    world = make_world(seed, model=model)
    found, visits = minimiser(world, k=1)
    expected = quality_given(world)
    assert (visits > 0).sum() == (all_sequences(TOKENS + 1) != MASK).sum()  # every filled cell is judged
    torch.testing.assert_close(found[visits > 0], expected[visits > 0], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("model", ["uniform", "exact", "wrong"])
@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_minimiser_averages_over_s(model, k):
    world = make_world(model=model)
    found, visits = minimiser(world, k)
    seen = visits > 1e-12
    torch.testing.assert_close(found[seen], averaged_quality(world, k)[seen], rtol=1e-9, atol=1e-12)


def test_gap_grows_with_k():
    gaps = [gap(make_world(), k)["weighted"] for k in (1, 2, 3)]
    assert gaps[0] < 1e-12
    assert 0.12 < gaps[1] < 0.15
    assert 0.18 < gaps[2] < 0.21


class Tabular(torch.nn.Module):
    """A model that answers from the world's table, with the tokens themselves as hidden states."""

    def __init__(self, world):
        super().__init__()
        self.table = world.model.log()

    def forward(self, tokens):
        logits = F.pad(self.table[code(tokens)], (0, 1), value=9.0)  # the mask's logit must not matter
        return SimpleNamespace(logits=logits, hidden=F.one_hot(tokens, TOKENS + 1).double())


class Table(torch.nn.Module):
    """A quality head that has one logit per (y, position)."""

    def __init__(self, logit):
        super().__init__()
        self.logit = torch.nn.Parameter(torch.full((CELLS, LENGTH), logit, dtype=torch.float64))

    def forward(self, hidden, condition=None):
        return self.logit[code(hidden.argmax(-1))]


def drawn_minimiser(world, k, rows, batches):
    """The minimiser of prism_loss with its own draws, from its gradient at two constant tables, and visits per cell."""
    model, heads = Tabular(world), [Table(0.0), Table(2.0)]
    data = torch.Generator().manual_seed(0)
    for batch in range(batches):
        x0 = world.states[torch.multinomial(world.data, rows, replacement=True, generator=data)]
        for head in heads:
            result = prism_loss(
                model,
                x0,
                mask_id=MASK,
                head=head,
                k=k,
                train_backbone=False,
                t_min=0.0,
                check=False,
                generator=torch.Generator().manual_seed(batch),
            )
            (result.loss * result.parts["chosen"]).backward()
    low, high = (head.logit.grad for head in heads)
    levels = [torch.sigmoid(head.logit.detach()[0, 0]) for head in heads]
    count = (high - low) / (levels[1] - levels[0])
    return levels[0] - low / count, count


def distance(found, expected, count):
    """Root mean square over judged tokens, and the largest error in standard errors of a cell's mean."""
    seen = count > 0.5
    error, count = (found - expected)[seen], count[seen]
    spread = (expected * (1 - expected))[seen] / count + 1 / count.square()
    return (error.square() * count).sum().div(count.sum()).sqrt(), (error / spread.sqrt())[count > 100].abs().max()


def test_drawn_loss_has_the_quality_as_its_minimiser_to_two_percent():
    world = make_world(model="wrong")
    found, count = drawn_minimiser(world, k=1, rows=200_000, batches=4)
    error, deviation = distance(found, quality_given(world), count)
    assert error < 0.02
    assert deviation < 5


def test_drawn_loss_at_k_2_has_the_average_and_not_the_quality():
    world = make_world(model="wrong")
    found, count = drawn_minimiser(world, k=2, rows=200_000, batches=2)
    error, deviation = distance(found, averaged_quality(world, 2), count)
    assert error < 0.02
    assert deviation < 5
    assert distance(found, quality_given(world), count)[0] > 0.1
