"""DDPP: the loss vanishes where the steered model is the tilted one, and training gets there."""

import pytest
import torch
from torch import nn

from mdmcorrect.adapters import Steered
from mdmcorrect.losses import LogPartition, ddpp_loss
from mdmcorrect.samplers import LLaDA

MASK = 4
TABLE = torch.tensor([1.0, 0.5, 0.0, -1.0, 3.0])  # the mask's own logit must not matter
REWARD = torch.tensor([0.0, 2.0, 1.0, -1.0])  # log R by token
X0 = torch.arange(4)[:, None]


def reference(tokens):
    return TABLE.expand(*tokens.shape, 5)


def tilted(beta):
    def model(tokens):
        return (TABLE + torch.cat([REWARD / beta, torch.zeros(1)])).expand(*tokens.shape, 5)

    return model


@pytest.mark.parametrize("beta", [1.0, 0.5])
def test_the_tilted_model_has_no_loss(beta):
    """One masked position: q ~ p R^(1 / beta), log Z its normaliser, whatever the token."""
    log_p = torch.log_softmax(TABLE[:4], 0)
    log_z = torch.logsumexp(log_p + REWARD / beta, 0)
    arguments = (X0, REWARD)
    options = {"mask_id": MASK, "beta": beta, "t": torch.ones(4)}
    right = ddpp_loss(tilted(beta), reference, lambda z, t: log_z.expand(len(z)), *arguments, **options)
    assert right.loss < 1e-10
    wrong = ddpp_loss(reference, reference, lambda z, t: log_z.expand(len(z)), *arguments, **options)
    expected = ((log_z - REWARD / beta) ** 2).mean()
    torch.testing.assert_close(wrong.loss, expected)
    assert ddpp_loss(tilted(beta), reference, lambda z, t: 0 * log_z.expand(len(z)), *arguments, **options).loss > 0.1


def test_training_steers_and_the_reference_learns_nothing():
    class Steering(nn.Module):
        def __init__(self):
            super().__init__()
            self.logits = nn.Parameter(torch.zeros(5))

        def forward(self, tokens):
            return self.logits.expand(*tokens.shape, 5)

    torch.manual_seed(0)
    steering, log_z = Steering(), LogPartition(5, 16)
    assert (log_z(torch.tensor([[1, 2]]), torch.ones(1)) == 0).all()
    frozen = nn.Parameter(TABLE.clone())
    optimizer = torch.optim.Adam([*steering.parameters(), *log_z.parameters()], lr=0.05)
    for _ in range(400):
        optimizer.zero_grad()
        loss = ddpp_loss(
            lambda tokens: frozen.detach() + steering(tokens),
            lambda tokens: frozen.expand(*tokens.shape, 5),
            log_z,
            X0,
            REWARD,
            mask_id=MASK,
            t=torch.ones(4),
        ).loss
        loss.backward()
        optimizer.step()
    assert loss < 1e-3
    assert frozen.grad is None
    learned = torch.softmax((TABLE + steering.logits)[:4], 0)
    torch.testing.assert_close(learned, torch.softmax(TABLE[:4] + REWARD, 0), atol=0.02, rtol=0.05)
    steered = Steered(reference, steering)
    result = LLaDA(steps=1)(steered, torch.full((1, 1), MASK), mask_id=MASK)
    assert result.tokens.item() == 1  # the reference says 0
    assert result.nfe.item() == 2


def test_rows_without_masks_fixed_tokens_and_parts():
    x0 = torch.tensor([[0, 1, 2], [2, 2, 3]])
    fixed = torch.tensor([[True, True, True], [True, False, True]])
    output = ddpp_loss(
        tilted(1.0),
        reference,
        lambda z, t: torch.zeros(len(z)),
        x0,
        torch.tensor([100.0, 1.0]),
        mask_id=MASK,
        t=torch.ones(2),
        fixed=fixed,
        check=False,
    )
    log_q, log_p = (torch.log_softmax(model(x0[1:])[0, 0, :4], 0)[2] for model in (tilted(1.0), reference))
    torch.testing.assert_close(output.loss, (log_q - log_p - 1.0) ** 2)
    assert output.parts["masked"] == 0.5
    assert set(output.parts) == {"ddpp", "log_ratio", "log_z", "masked"}


def test_arguments_that_do_not_fit():
    def zero(z, t):
        return torch.zeros(len(z))

    with pytest.raises(ValueError, match=r"beta: expected a positive number, got 0"):
        ddpp_loss(reference, reference, zero, X0, REWARD, mask_id=MASK, beta=0)
    with pytest.raises(ValueError, match=r"log_reward: expected floating \[4\], got torch.float32 \[3\]"):
        ddpp_loss(reference, reference, zero, X0, REWARD[:3], mask_id=MASK)
    with pytest.raises(ValueError, match=r"log_partition: expected \[4\] from it, got \[4, 1\]"):
        ddpp_loss(reference, reference, lambda z, t: torch.zeros(len(z), 1), X0, REWARD, mask_id=MASK)
    with pytest.raises(ValueError, match=r"steering: expected logits \[1, 1, 5\] like the model's, got \[1, 1, 3\]"):
        LLaDA(steps=1)(Steered(reference, lambda x: torch.zeros(*x.shape, 3)), torch.full((1, 1), MASK), mask_id=MASK)
