"""Models around models in losses: logits that describe the next token, logits of two networks, guided ones."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mdmcorrect import losses
from mdmcorrect.adapters import RightShifted, Steered
from mdmcorrect.model import Output, Request

V, MASK = 9, 8


class Net(nn.Module):
    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.embed, self.mix, self.project = nn.Embedding(V, 6), nn.Linear(6, 6), nn.Linear(6, V)

    def forward(self, tokens: Tensor) -> Tensor:
        hidden = torch.tanh(self.mix(self.embed(tokens)) + self.embed(tokens).cumsum(1))
        return self.project(hidden)


def moved(logits: Tensor) -> Tensor:
    return torch.cat([logits[:, :1], logits[:, :-1]], 1)


class Moved(nn.Module):
    """The same network with its logits moved by hand."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, tokens: Tensor) -> Tensor:
        return moved(self.net(tokens))


def clean() -> Tensor:
    return torch.randint(0, MASK, (5, 7), generator=torch.Generator().manual_seed(0))


def log_z(z: Tensor, t: Tensor) -> Tensor:
    return t


def run(name: str, model: Any, **options: Any) -> losses.LossOutput:
    options = {"mask_id": MASK, "generator": torch.Generator().manual_seed(3), **options}
    if name == "ddpp":
        return losses.ddpp_loss(model, Net(7), log_z, clean(), torch.zeros(5), **options)
    return {"mdlm": losses.mdlm_loss, "proseco": losses.proseco_loss}[name](model, clean(), **options)


@pytest.mark.parametrize("name", ["mdlm", "proseco", "ddpp"])
def test_a_shifted_model_has_the_loss_of_its_moved_logits(name):
    net = Net(1)
    found, expected = run(name, RightShifted(net)), run(name, Moved(net))
    assert torch.equal(found.loss, expected.loss)
    assert not torch.equal(found.loss, run(name, net).loss)
    for one, other in zip(
        torch.autograd.grad(found.loss, list(net.parameters())),
        torch.autograd.grad(expected.loss, list(net.parameters())),
        strict=True,
    ):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("name", ["mdlm", "proseco", "prism"])
@pytest.mark.parametrize("form", ["tensor", "last_hidden_state"])
def test_hidden_states_of_a_shifted_model_are_moved_to_the_tokens_they_are_logits_of(name, form):
    """With an output layer: the states that logits are made of are moved, those that PRISM's head judges are not."""
    net = Net(1)

    def backbone(tokens: Tensor) -> Any:
        hidden = torch.tanh(net.mix(net.embed(tokens)) + net.embed(tokens).cumsum(1))
        return hidden if form == "tensor" else {"last_hidden_state": hidden}

    class WithStates(nn.Module):
        def forward(self, tokens: Tensor) -> dict[str, Tensor]:
            states = backbone(tokens)
            return {"logits": moved(net(tokens)), "hidden": states if form == "tensor" else states["last_hidden_state"]}

    if name == "prism":
        head = lambda hidden, _: hidden[..., 0]  # noqa: E731
        given: dict[str, Any] = {"mask_id": MASK, "head": head, "temperature": 0, "k": 2}
        results = [
            losses.prism_loss(model, clean(), generator=torch.Generator().manual_seed(3), **given, **options)
            for model, options in ((RightShifted(backbone), {"output_layer": net.project}), (WithStates(), {}))
        ]
    else:
        results = [run(name, RightShifted(backbone), output_layer=net.project), run(name, Moved(net))]
    torch.testing.assert_close(results[0].loss, results[1].loss)
    gradients = [torch.autograd.grad(result.loss, list(net.parameters())) for result in results]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_a_forward_of_the_callers_gets_the_model_within():
    net = Net(1)

    def forward(model: Any, tokens: Tensor, *, time: Tensor, attention_mask: Any, condition: Any) -> Tensor:
        assert model is net
        return model(tokens)

    assert torch.equal(run("mdlm", RightShifted(net), forward=forward).loss, run("mdlm", Moved(net)).loss)


@pytest.mark.parametrize("name", ["mdlm", "proseco", "ddpp"])
def test_a_steered_model_learns_by_its_steering(name):
    base, steering = Net(1), Net(2)
    steered = run(name, Steered(RightShifted(base), steering, 0.5))
    expected = run(name, lambda tokens: moved(base(tokens)) + 0.5 * steering(tokens))
    torch.testing.assert_close(steered.loss, expected.loss)
    assert all(g.any() for g in torch.autograd.grad(steered.loss, list(steering.parameters())))


def test_a_model_may_answer_with_shift_and_guidance_itself():
    net, other = Net(1), Net(2)

    def model(tokens: Tensor, request: Request) -> Output:
        return Output(logits=net(tokens), uncond_logits=other(tokens), guidance=0.5, shift=1)

    def by_hand(tokens: Tensor) -> Tensor:
        return moved(other(tokens) + 1.5 * (net(tokens) - other(tokens)))

    torch.testing.assert_close(run("mdlm", model).loss, run("mdlm", by_hand).loss)
