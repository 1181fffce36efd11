"""Schedules of each position: the bound by enumeration, and the gradient of the orders."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from prism_enumeration import LENGTH, MASK, TOKENS, World, code, make_world
from torch import Tensor, nn
from torch.nn import functional as F

from mdmcorrect.losses import (
    Denoise,
    Given,
    LearnedOrder,
    Objective,
    ObjectiveModule,
    Orders,
    OrderWeights,
    State,
    Term,
)

WEIGHTS = torch.tensor([0.5, 1.0, 2.0, 1.5], dtype=torch.float64)


def logits_of(world: World, z: Tensor) -> Tensor:
    return F.pad(world.model[code(z)].clamp(min=1e-300).log(), (0, 1), value=0.0)


def subsets() -> list[tuple[bool, ...]]:
    return list(itertools.product((False, True), repeat=LENGTH))


def expected_loss(world: World, x: Tensor, weights: Tensor, nodes: int = 60) -> Tensor:
    """Quadrature over t = u^4, smooth at 0, of the sum over z of ``q(z | x) L(z)``, with a gradient to the weights."""
    points, shares = np.polynomial.legendre.leggauss(nodes)
    total = torch.zeros((), dtype=torch.float64)
    masks = torch.tensor(subsets())
    z = torch.where(masks, MASK, x)
    log_p = logits_of(world, z)[..., :TOKENS].log_softmax(-1).gather(-1, x.expand(z.shape).unsqueeze(-1))[..., 0]
    for u, share in zip((points + 1) / 2, shares / 2, strict=True):
        t, share = torch.tensor(u**4, dtype=torch.float64), share * 4 * u**3
        p = t**weights
        chance = torch.where(masks, p, 1 - p).prod(-1)
        total = total + share * (chance * (-(weights / t) * log_p * masks).sum(-1)).sum()
    return total


@pytest.mark.parametrize("weights", [torch.ones(LENGTH, dtype=torch.float64), WEIGHTS])
def test_the_bound_of_the_true_conditionals_is_the_likelihood_in_any_order(weights):
    """Equation 6: a mean of autoregressive losses over orders; each is -log p(x) where the model is exact."""
    world = make_world(model="exact")
    for row in (0, 17, 80):
        found = expected_loss(world, world.states[row], weights).item()
        assert found == pytest.approx(-world.data[row].log().item(), rel=1e-6)


def test_the_loss_is_the_formula():
    world, generator = make_world(model="wrong"), torch.Generator().manual_seed(0)
    x0 = world.states[torch.randint(0, 81, (40,), generator=generator)]
    noise = Orders(weights=WEIGHTS)
    t = torch.rand(40, generator=generator, dtype=torch.float64) * 0.9 + 0.05
    objective = Objective([Term(Given(), Denoise(normalizer="BL"))], noise)
    state = objective.draw(x0, mask_id=MASK, t=t, generator=generator)
    logits = logits_of(world, state.z)
    log_p = logits[..., :TOKENS].log_softmax(-1).gather(-1, x0.unsqueeze(-1))[..., 0]
    by_hand = (-(WEIGHTS / t[:, None]) * log_p * (state.z == MASK)).mean()
    torch.testing.assert_close(objective.from_outputs(state, logits).loss, by_hand, rtol=1e-9, atol=0)


def test_masks_have_the_positions_own_probabilities():
    x0 = torch.zeros(60_000, LENGTH, dtype=torch.int64)
    noise = Orders(weights=WEIGHTS)
    for t in (0.2, 0.6):
        z = noise.noise(
            x0,
            torch.full((60_000,), t, dtype=torch.float64),
            mask_id=MASK,
            free=torch.ones_like(x0, dtype=torch.bool),
            generator=torch.Generator().manual_seed(0),
        )
        assert (z == MASK).double().mean(0).tolist() == pytest.approx((t**WEIGHTS).tolist(), abs=0.011)


def test_the_orders_gradient_is_unbiased():
    """RLOO's mean over many draws is the derivative of the enumerated bound; without it, it is not."""
    world = make_world(model="wrong")
    x = world.states[33]
    logits = WEIGHTS.log().clone().requires_grad_()
    expected_loss(world, x, logits.exp()).backward()
    exact = logits.grad / LENGTH
    rows = 60_000
    x0 = x.expand(rows, LENGTH)
    found = {}
    for name, target in {"order": LearnedOrder(samples=4), "mdlm": Denoise()}.items():
        weights = OrderWeights(LENGTH).double()
        with torch.no_grad():
            weights.logits.copy_(WEIGHTS.log())
        generator = torch.Generator().manual_seed(0)
        objective = Objective([Term(Given(), target)], Orders(weights=weights, t_min=0.0))
        t = torch.rand(rows, generator=generator, dtype=torch.float64).clamp(min=1e-6)
        state = objective.draw(x0, mask_id=MASK, t=t, generator=generator)
        result = objective.from_outputs(state, logits_of(world, state.z))
        result.loss.backward()
        found[name] = weights.logits.grad
        assert result.parts[name] == result.loss.detach()
    assert (found["order"] - exact).abs().max() < 0.02
    assert (found["mdlm"] - exact).abs().max() > 0.05


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.out = nn.Embedding(TOKENS + 1, 8), nn.Linear(8, TOKENS + 1)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        return self.out(x + x.mean(1, keepdim=True))


def test_a_module_holds_the_weights_and_they_learn():
    weights = OrderWeights(LENGTH)
    objective = Objective([Term(Given(), LearnedOrder(samples=2))], Orders(weights=weights))
    module = ObjectiveModule(Net(), objective, mask_id=MASK)
    assert any(parameter is weights.logits for parameter in module.parameters())
    x0 = make_world().states[:12].repeat_interleave(2, 0)
    module(x0)["loss"].backward()
    assert weights.logits.grad.isfinite().all()
    assert weights.logits.grad.abs().sum() > 0


def test_errors_name_the_argument():
    x0 = make_world().states[:3]
    with pytest.raises(TypeError, match="weights: expected a tensor"):
        Orders()
    with pytest.raises(ValueError, match="samples: expected each sequence 2 times, got 3 rows"):
        Objective([Term(Given(), LearnedOrder())], Orders(weights=torch.ones(LENGTH)))(Net(), x0, mask_id=MASK)
    state = State(x0, x0, torch.ones(3), MASK)
    with pytest.raises(TypeError, match="corruption: expected Orders"):
        Objective([Term(Given(), LearnedOrder())]).from_outputs(state, torch.zeros(3, LENGTH, TOKENS + 1))
