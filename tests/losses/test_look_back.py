"""States of the model's own earlier mistakes (DSC with FCA), and of one ancestral step."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor, nn

from mdmcorrect.heads import QualityHead, attach
from mdmcorrect.losses import AncestralStep, Correct, Denoise, Given, LookBack, Objective, Reader, Right, Roles, Term
from mdmcorrect.schedules import Cosine

V, MASK, ROWS, L = 9, 8, 400, 20


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.norm, self.out = nn.Embedding(V, 8), nn.LayerNorm(8), nn.Linear(8, V)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        return self.out(self.norm(x + x.mean(1, keepdim=True)))


def clean(rows: int = ROWS) -> Tensor:
    return torch.randint(0, MASK, (rows, L), generator=torch.Generator().manual_seed(1))


def drawn(source, t=0.4, roles=None, **options):
    objective = Objective([Term(source, Right())], **options)
    state = objective.draw(
        clean(), mask_id=MASK, roles=roles, t=torch.full((ROWS,), t), generator=torch.Generator().manual_seed(2)
    )
    net = Net()
    with torch.no_grad():
        (found,) = objective.inputs(net(state.z), state, model=net, generator=torch.Generator().manual_seed(3))
    return found, state, net


@pytest.mark.parametrize("step", [0.05, 0.2])
def test_what_is_written_was_drawn_where_more_is_masked(step):
    found, state, net = drawn(LookBack(step, temperature=0.0, judge="written"))
    z_u, wrote = found.extra, found.selected
    assert ((state.z == MASK) <= (z_u == MASK)).all()
    extra = (z_u == MASK) & (state.z != MASK)
    assert (wrote <= extra).all()
    most = math.ceil(step * L)
    assert torch.equal(wrote.sum(1), extra.sum(1).clamp(max=most))
    logits = net(z_u).index_fill(-1, torch.tensor([MASK]), -torch.inf)
    probability = logits.softmax(-1).amax(-1)
    assert torch.equal(found.tokens, torch.where(wrote, logits.argmax(-1), state.z))
    for row in range(20):  # the surest of those
        left = extra[row] & ~wrote[row]
        if left.any() and wrote[row].any():
            assert probability[row][wrote[row]].min() >= probability[row][left].max()


def test_its_law_by_enumeration():
    """t + step = 1: everything is masked at u, and a row's one token is the likeliest of those drawn for what z shows.

    Three tokens, three positions; the model says of each position what its table says.
    """
    table = torch.tensor([[0.6, 0.3, 0.1], [0.2, 0.5, 0.3], [0.1, 0.05, 0.85]])
    rows, t, mask = 120_000, 2 / 3, 3
    x0 = torch.tensor([[0, 2, 1]]).expand(rows, 3)

    def model(tokens: Tensor) -> Tensor:
        return torch.nn.functional.pad(table.log().expand(len(tokens), 3, 3), (0, 1), value=5.0)

    objective = Objective([Term(LookBack(1 / 3, judge="written"), Right())])
    generator = torch.Generator().manual_seed(0)
    state = objective.draw(x0, mask_id=mask, t=torch.full((rows,), t), generator=generator)
    (found,) = objective.inputs(None, state, model=model, generator=generator)
    expected: dict[tuple[int, ...], float] = {}
    for masks in itertools.product((False, True), repeat=3):
        chance = math.prod(t if hidden else 1 - t for hidden in masks)
        z = [mask if hidden else token for hidden, token in zip(masks, (0, 2, 1), strict=True)]
        shown = [i for i in range(3) if not masks[i]]
        for drawn in itertools.product(range(3), repeat=len(shown)):
            p = [table[i, v].item() for i, v in zip(shown, drawn, strict=True)]
            y = list(z)
            if shown:
                best = max(range(len(shown)), key=lambda n: (p[n], -n))
                y[shown[best]] = drawn[best]
            key = tuple(y)
            expected[key] = expected.get(key, 0.0) + chance * math.prod(p)
    codes = (found.tokens * 4 ** torch.arange(3)).sum(-1)
    counts = torch.bincount(codes, minlength=64) / rows
    for y, chance in expected.items():
        code = sum(token * 4**i for i, token in enumerate(y))
        assert counts[code].item() == pytest.approx(chance, abs=5 * math.sqrt(chance / rows) + 1e-4), y
    assert sum(expected.values()) == pytest.approx(1)
    assert len(expected) > 20


def test_the_later_state_has_the_laws_number_of_masks():
    """P(masked at u) = u, u uniform on [t + step, 1]: their mean, for a schedule that is not linear too."""
    for schedule in ("linear", "cosine"):
        from mdmcorrect.losses import Corruption

        found, _, _ = drawn(LookBack(0.1), corruption=Corruption(schedule))
        u = torch.linspace(0.5, 1, 1001, dtype=torch.float64)
        expected = u.mean() if schedule == "linear" else Cosine().mask_probability(u).mean()
        assert (found.extra == MASK).double().mean().item() == pytest.approx(expected.item(), abs=0.02)


def test_all_that_is_visible_is_judged_by_default_and_fixed_tokens_stay():
    fixed = torch.arange(L).expand(ROWS, L) < 5
    found, state, _ = drawn(LookBack(0.1), roles=Roles(fixed=fixed))
    assert torch.equal(found.tokens[:, :5], state.x0[:, :5])
    assert torch.equal(found.selected, (found.tokens != MASK) & ~fixed)
    assert (found.tokens != state.z).any()


def test_a_frozen_backbones_head_learns_the_mean_of_its_labels():
    """The loss is the plain BCE of 1[x0 = y] at what is judged."""
    model = attach(Net(), QualityHead(8), module="norm")
    with torch.no_grad():
        model.quality_head.out.weight.normal_()
    objective = Objective([Term(LookBack(0.1), Right())], reader=Reader(train_backbone=False))
    options = {"mask_id": MASK, "t": torch.full((ROWS,), 0.4)}
    result = objective(model, clean(), generator=torch.Generator().manual_seed(2), **options)
    generator = torch.Generator().manual_seed(2)
    state = objective.draw(clean(), generator=generator, **options)
    (found,) = objective.inputs(None, state, model=model, generator=generator)
    g, right = model(found.tokens).quality, found.tokens == state.x0
    bce = -torch.where(right, g.log(), (1 - g).log())[found.selected].mean()
    torch.testing.assert_close(result.loss, bce)
    result.loss.backward()
    assert all(p.grad is None for p in model.model.parameters())
    assert model.quality_head.out.weight.grad.abs().sum() > 0


@pytest.mark.parametrize(("t", "step", "share"), [(0.8, 0.2, 0.25), (0.4, 0.1, 0.25), (0.3, 0.5, 1.0)])
def test_an_ancestral_step_writes_its_share_of_the_masks(t, step, share):
    found, state, net = drawn(AncestralStep(step, temperature=0.0), t=t)
    assert (found.selected <= state.masked).all()
    spread = math.sqrt(share * (1 - share) / state.masked.sum().item())
    assert (found.selected.sum() / state.masked.sum()).item() == pytest.approx(share, abs=5 * spread + 1e-6)
    logits = net(state.z).index_fill(-1, torch.tensor([MASK]), -torch.inf)
    assert torch.equal(found.tokens, torch.where(found.selected, logits.argmax(-1), state.z))
    assert found.t.tolist() == pytest.approx([max(t - step, 0)] * ROWS, abs=1e-6)


def test_sic_scores_what_the_step_wrote():
    """Half the masked loss, half the cross-entropy at newly written tokens."""
    net = Net()
    terms = [Term(Given(), Denoise(), 0.5), Term(AncestralStep(0.3), Correct("uniform", selected_only=True), 0.5)]
    objective = Objective(terms)
    options = {"mask_id": MASK, "t": torch.full((ROWS,), 0.7)}
    result = objective(net, clean(), generator=torch.Generator().manual_seed(2), **options)
    generator = torch.Generator().manual_seed(2)
    state = objective.draw(clean(), generator=generator, **options)
    (found,) = objective.inputs(net(state.z), state, generator=generator)
    log_p = net(found.tokens).index_fill(-1, torch.tensor([MASK]), -torch.inf).log_softmax(-1)
    expected = -log_p.gather(-1, state.x0[..., None])[..., 0][found.selected].mean()
    assert result.parts["corrector"].item() == pytest.approx(expected.item(), rel=1e-5)
    assert result.loss.item() == pytest.approx(0.5 * (result.parts["mdlm"] + expected).item(), rel=1e-5)


def test_errors_name_the_argument():
    for make, text in (
        (lambda: LookBack(1.5), "step: expected a share between 0 and 1"),
        (lambda: LookBack(judge="all"), "judge: expected 'visible' or 'written'"),
        (lambda: AncestralStep(-1), "step: expected a share between 0 and 1"),
    ):
        with pytest.raises(ValueError, match=text):
            make()
