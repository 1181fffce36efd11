"""MARIA's decoder: two frozen models' states, one linear layer."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from mdmcorrect.losses import (
    Infill,
    InfillDecoder,
    Objective,
    ObjectiveModule,
    Reader,
    Roles,
    TeacherForced,
    Term,
)

V, MASK, B, L, D1, D2 = 9, 8, 5, 7, 6, 4


class Causal(nn.Module):
    """States that have seen what is left of them, and themselves."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.embed, self.head = nn.Embedding(V, D1), nn.Linear(D1, V, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.embed(tokens).cumsum(1)


class Masked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.embed, self.head = nn.Embedding(V, D2), nn.Linear(D2, V)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        return x + x.mean(1, keepdim=True)


def made() -> tuple[Causal, Masked, InfillDecoder, Objective, Roles]:
    causal, masked = Causal(), Masked()
    decoder = InfillDecoder(causal.head, masked.head)
    objective = Objective([Term(TeacherForced(causal), Infill(decoder))], reader=Reader(output_layer=masked.head))
    return causal, masked, decoder, objective, Roles(fixed=torch.arange(L).expand(B, L) < 1)


def clean() -> Tensor:
    return torch.randint(0, MASK, (B, L), generator=torch.Generator().manual_seed(0))


def test_a_new_decoder_is_the_mean_of_both_models_logits():
    causal, masked, decoder, *_ = made()
    a, b = torch.randn(3, D1), torch.randn(3, D2)
    expected = (causal.head(a) + masked.head(b)) / 2
    torch.testing.assert_close(decoder(torch.cat([a, b], -1)), expected)
    with pytest.raises(ValueError, match=r"autoregressive, masked: expected weights \[V, D\] of one V"):
        InfillDecoder(causal.head, torch.zeros(3, D2))


def test_the_loss_is_the_formula_and_only_the_decoder_learns():
    causal, masked, decoder, objective, roles = made()
    result = objective(masked, clean(), mask_id=MASK, roles=roles, generator=torch.Generator().manual_seed(1))
    state = objective.draw(clean(), mask_id=MASK, roles=roles, generator=torch.Generator().manual_seed(1))
    total = torch.zeros(())
    for b in range(B):
        for i in range(1, L):
            if state.z[b, i] == MASK:
                both = torch.cat([causal(clean()[b : b + 1, :i])[0, -1], masked(state.z)[b, i]])
                logits = decoder(both).index_fill(0, torch.tensor([MASK]), -torch.inf)
                total = total - logits.log_softmax(-1)[clean()[b, i]]
    torch.testing.assert_close(result.loss, total / (B * (L - 1)))
    result.loss.backward()
    assert decoder.weight.grad.abs().sum() > 0
    assert all(p.grad is None for model in (causal, masked) for p in model.parameters())


def test_a_target_does_not_see_itself():
    """Its own token, and those to the right of it that are masked, change nothing about its distribution."""
    causal, masked, _, objective, roles = made()
    state = objective.draw(clean(), mask_id=MASK, roles=roles, t=torch.ones(B))
    assert state.masked[:, 1:].all()
    source, other = TeacherForced(causal), clean()
    other[:, 3:] = (other[:, 3:] + 1) % MASK
    run = objective.run(masked)
    one = source.draw(state, None, run).extra
    two = source.draw(type(state)(other, state.z, state.t, MASK, roles), None, run).extra
    assert torch.equal(one[:, : 3 + 1], two[:, : 3 + 1])
    assert not torch.equal(one[:, 4], two[:, 4])


def test_a_module_holds_the_decoder():
    _, masked, decoder, objective, roles = made()
    module = ObjectiveModule(masked, objective, mask_id=MASK)
    assert any(parameter is decoder.weight for parameter in module.parameters())
    module(clean(), fixed=roles.fixed)["loss"].backward()
    assert decoder.weight.grad.abs().sum() > 0


def test_errors_name_the_argument():
    causal, masked, decoder, objective, _ = made()
    with pytest.raises(ValueError, match="fixed: expected the first position to be fixed"):
        objective(masked, clean(), mask_id=MASK, t=torch.ones(B))
    with pytest.raises(ValueError, match="output_layer: expected that of the masked model"):
        Objective([Term(TeacherForced(causal), Infill(decoder))])(
            lambda tokens: masked.head(masked(tokens)),
            clean(),
            mask_id=MASK,
            roles=Roles(fixed=torch.arange(L).expand(B, L) < 1),
        )
