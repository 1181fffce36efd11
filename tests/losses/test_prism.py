from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from mdmcorrect.heads import QualityHead
from mdmcorrect.losses import mdlm_loss_from_logits, prism_inputs, prism_loss, prism_loss_from_logits

V, MASK = 6, 5


class Net(nn.Module):
    """Small model that keeps the tokens it was given."""

    def __init__(self, size=8):
        super().__init__()
        self.embed, self.project, self.seen = nn.Embedding(V, size), nn.Linear(size, V), []

    def forward(self, tokens):
        self.seen.append(tokens)
        hidden = torch.tanh(self.embed(tokens) + self.embed(tokens).mean(1, keepdim=True))
        return SimpleNamespace(logits=self.project(hidden), hidden=hidden)


def trained_head(size=8):
    head = QualityHead(size)
    with torch.no_grad():
        head.out.weight.copy_(torch.linspace(-1, 1, size))
    return head


def clean(batch=4, length=8, seed=0):
    return torch.randint(0, V - 1, (batch, length), generator=torch.Generator().manual_seed(seed))


def masked(x0, share=0.6, seed=1):
    return torch.where(torch.rand(x0.shape, generator=torch.Generator().manual_seed(seed)) < share, MASK, x0)


def logits_for(x0, seed=2):
    return torch.randn(*x0.shape, V, generator=torch.Generator().manual_seed(seed))


def test_quality_term_matches_hand_formula():
    x0 = clean()
    y, selected = prism_inputs(logits_for(x0), masked(x0), mask_id=MASK, k=3, n_y=2)
    g = torch.randn(8, 8, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    probability = 1 / (1 + np.exp(-g.numpy()))
    right = np.repeat(x0.numpy(), 2, 0) == y.numpy()
    bce = -np.where(right, np.log(probability), np.log1p(-probability))
    result = prism_loss_from_logits(g, x0, y, selected)
    assert result.loss.item() == pytest.approx(bce[selected.numpy()].mean(), rel=1e-12)
    assert result.parts["right"].item() == pytest.approx(right[selected.numpy()].mean())
    assert result.parts["chosen"].item() == selected.sum().item()
    g.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: prism_loss_from_logits(x, x0, y, selected).loss, g)


@pytest.mark.parametrize("positions", ["random", "confidence"])
def test_inputs_fill_k_masks_and_touch_nothing_else(positions):
    x0 = clean(batch=6)
    z = masked(x0)
    z[0] = x0[0]  # no masks
    z[1] = torch.where(torch.arange(8) < 2, MASK, x0[1])  # fewer than k
    y, selected = prism_inputs(logits_for(x0), z, mask_id=MASK, k=3, n_y=2, positions=positions)
    repeated = z.repeat_interleave(2, 0)
    assert torch.equal(selected.sum(-1), (repeated == MASK).sum(-1).clamp(max=3))
    assert (repeated[selected] == MASK).all()
    assert (y[selected] != MASK).all()
    assert torch.equal(y[~selected], repeated[~selected])


def test_positions_are_uniform_among_masks_and_differ_between_draws():
    x0 = clean(batch=1, length=6)
    z = torch.where(torch.tensor([1, 0, 1, 1, 0, 1]).bool(), MASK, x0)
    generator = torch.Generator().manual_seed(0)
    _, selected = prism_inputs(logits_for(x0), z, mask_id=MASK, k=2, n_y=6000, generator=generator)
    pairs = torch.unique(selected, dim=0, return_counts=True)[1]
    assert len(pairs) == 6
    assert (pairs - 1000).abs().max() < 5 * (1000 * 5 / 6) ** 0.5


def test_confident_positions_are_the_k_of_largest_maximum_probability_among_the_leftmost():
    x0 = clean(batch=1, length=6)
    z = torch.full_like(x0, MASK)
    z[0, 1] = x0[0, 1]
    logits = torch.zeros(1, 6, V)
    for position, height in enumerate((1.0, 9.0, 3.0, 2.0, 4.0, 8.0)):
        logits[0, position, 2] = height
    logits[0, 0, MASK] = 50.0  # the mask's own probability is no confidence
    logits[0, 3] += 30.0  # nor is the height of all logits together
    for leftmost, expected in ((None, [4, 5]), (4, [2, 4]), (2, [0, 2])):
        y, selected = prism_inputs(
            logits, z, mask_id=MASK, k=2, positions="confidence", leftmost=leftmost, temperature=0
        )
        assert selected[0].nonzero().flatten().tolist() == expected
        assert y[0, expected].tolist() == [2, 2]


def test_loss_is_the_hand_built_two_forwards():
    net, head, x0 = Net(), trained_head(), clean()
    t = torch.tensor([0.3, 0.5, 0.7, 0.9])
    result = prism_loss(
        net,
        x0,
        mask_id=MASK,
        head=head,
        k=2,
        n_y=3,
        t=t,
        mdlm_weight=5.0,
        normalizer="BL",
        generator=torch.Generator().manual_seed(0),
    )
    z, y = net.seen
    selected = y != z.repeat_interleave(3, 0)
    assert selected.sum(-1).max() == 2
    quality = prism_loss_from_logits(head(net(y).hidden), x0, y, selected).loss
    mdlm = mdlm_loss_from_logits(net(z).logits, x0, z, t, mask_id=MASK, normalizer="BL").loss
    torch.testing.assert_close(result.loss, quality + 5 * mdlm)
    torch.testing.assert_close(result.parts["quality"], quality.detach())
    torch.testing.assert_close(result.parts["mdlm"], mdlm.detach())


def gradients(**arguments):
    torch.manual_seed(0)
    net, head = Net(), trained_head()
    prism_loss(
        net, clean(), mask_id=MASK, head=head, generator=torch.Generator().manual_seed(0), **arguments
    ).loss.backward()
    return net, head


def test_frozen_backbone_gets_no_gradient_and_needs_no_mdlm_term():
    net, head = gradients(k=2, train_backbone=False)
    assert all(parameter.grad is None for parameter in net.parameters())
    assert head.out.weight.grad.abs().sum() > 0
    with pytest.raises(ValueError, match=r"mdlm_weight: expected 0 with train_backbone=False, got 0\.5"):
        gradients(train_backbone=False, mdlm_weight=0.5)


def test_trained_backbone_learns_from_both_terms():
    both, _ = gradients(k=2)
    quality_only, _ = gradients(k=2, mdlm_weight=0.0)
    assert quality_only.embed.weight.grad.abs().sum() > 0
    assert quality_only.project.weight.grad is None  # the draw of y stops the gradient
    assert both.project.weight.grad.abs().sum() > 0


def test_fixed_loss_mask_and_padding_are_never_chosen():
    net, x0 = Net(), clean(batch=16)
    fixed = torch.zeros_like(x0, dtype=torch.bool)
    fixed[:, 0] = True
    attention_mask = torch.ones_like(x0)
    attention_mask[:, 6:] = 0
    loss_mask = torch.ones_like(fixed)
    loss_mask[:, 1] = False

    def forward(model, tokens, *, attention_mask, **_):
        assert attention_mask.shape == tokens.shape
        return model(tokens)

    prism_loss(
        net,
        x0,
        mask_id=MASK,
        head=trained_head(),
        k=8,
        n_y=2,
        fixed=fixed,
        attention_mask=attention_mask,
        loss_mask=loss_mask,
        forward=forward,
        generator=torch.Generator().manual_seed(0),
    )
    z, y = net.seen
    z = z.repeat_interleave(2, 0)
    changed = (y != z).any(0)
    assert changed.tolist() == [False, False, True, True, True, True, False, False]
    assert (z[:, 1] == MASK).any()  # outside loss_mask tokens are masked, only not judged


def test_no_masks_is_zero_with_a_graph():
    head = trained_head()
    y = clean()
    result = prism_loss_from_logits(head(torch.randn(4, 8, 8)), y, y, torch.zeros_like(y, dtype=torch.bool))
    result.loss.backward()
    assert result.loss.item() == 0
    assert head.out.weight.grad.eq(0).all()


def test_condition_and_mask_are_repeated_for_every_y():
    head = QualityHead(8, condition_size=3)
    seen = []

    def forward(model, tokens, *, time, attention_mask, condition):
        seen.append((len(time), len(attention_mask), len(condition)))
        output = model(tokens)
        output.condition = condition
        return output

    x0 = clean()
    prism_loss(
        Net(),
        x0,
        mask_id=MASK,
        head=head,
        n_y=2,
        attention_mask=torch.ones_like(x0),
        condition=torch.randn(4, 3),
        forward=forward,
    )
    assert seen == [(4, 4, 4), (8, 8, 8)]


def test_float32_under_autocast():
    net, head = Net(), trained_head()
    with torch.autocast("cpu", torch.bfloat16):
        result = prism_loss(net, clean(), mask_id=MASK, head=head, k=2)
    assert result.loss.dtype == torch.float32
    assert result.loss.isfinite()


BAD = {
    "k: expected 1 <= k <= L = 8, got 9": {"k": 9},
    "k: expected 1 <= k <= L = 8, got 0": {"k": 0},
    "n_y: expected at least one draw": {"n_y": 0},
    "leftmost: expected a positive number": {"leftmost": 0},
    "positions: expected 'random' or 'confidence', got 'margin'": {"positions": "margin"},
    "temperature: expected a number >= 0": {"temperature": -0.5},
    "top_p: expected 0 < top_p <= 1, got 1.5": {"top_p": 1.5},
    "head: expected a callable .* heads.attach": {"head": None},
    "head: expected logits \\(4, 8\\), got \\(4, 8, 1\\)": {"head": lambda hidden, _: hidden[..., :1]},
    "model: hidden states are needed.* got Tensor": {"model": nn.Embedding(V, V)},
    "mask_id: expected an id within the 6 ids of logits, got 6": {
        "model": lambda x: torch.zeros(*x.shape, V),
        "mask_id": 6,
    },
}


@pytest.mark.parametrize("message", BAD)
def test_errors_name_the_argument(message):
    arguments = {"model": Net(), "x0": clean(), "mask_id": MASK, "head": trained_head(), **BAD[message]}
    with pytest.raises((ValueError, TypeError), match=message):
        prism_loss(arguments.pop("model"), arguments.pop("x0"), **arguments)
