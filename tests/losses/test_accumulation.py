"""Losses of micro-batches, divided by the count of the whole batch, add up to the loss of the whole batch."""

import pytest
import torch
from torch import nn

from mdmcorrect.losses import (
    count_items,
    ddpp_loss,
    mdlm_loss_from_hidden,
    mdlm_loss_from_logits,
    prism_loss,
    prism_loss_from_logits,
    proseco_loss_from_hidden,
    proseco_loss_from_logits,
)

B, L, D, V, MASK = 6, 7, 4, 9, 8
MICRO = [slice(0, 1), slice(1, 4), slice(4, 6)]


def batch():
    generator = torch.Generator().manual_seed(0)
    x0 = torch.randint(0, MASK, (B, L), generator=generator)
    mask = torch.ones(B, L, dtype=torch.long)
    mask[0, 2:] = mask[3, 5:] = 0
    fixed = torch.zeros(B, L, dtype=torch.bool)
    fixed[:, 0] = fixed[4] = True  # a row with nothing to score
    z = torch.where((torch.rand(B, L, generator=generator) < 0.6) & mask.bool() & ~fixed, MASK, x0)
    hidden = torch.randn(B, L, D, generator=generator, dtype=torch.float64)
    t = torch.rand(B, generator=generator, dtype=torch.float64) * 0.9 + 0.1
    layer = nn.Linear(D, V, dtype=torch.float64)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(V, D, generator=generator, dtype=torch.float64))
        layer.bias.fill_(0.1)
    return x0, mask, fixed, z, hidden, t, layer


def masked(kind, s, **options):
    x0, mask, fixed, z, hidden, t, layer = batch()
    options = {"mask_id": MASK, "attention_mask": mask[s], "fixed": fixed[s], **options}
    if kind == "logits":
        return mdlm_loss_from_logits(layer(hidden)[s], x0[s], z[s], t[s], **options)
    return mdlm_loss_from_hidden(hidden[s], layer, x0[s], z[s], t[s], **options)


def both(kind, s, **options):
    x0, mask, fixed, z, hidden, t, layer = batch()
    tokens = torch.where(z == MASK, (x0 + 1) % MASK, x0)
    options = {"mask_id": MASK, "attention_mask": mask[s], "fixed": fixed[s], **options}
    if kind == "logits":
        logits = layer(hidden)[s]
        return proseco_loss_from_logits(logits, logits.flip(1), x0[s], z[s], tokens[s], t[s], **options)
    return proseco_loss_from_hidden(hidden[s], hidden[s].flip(1), layer, x0[s], z[s], tokens[s], t[s], **options)


def counted(s=slice(None), normalizer="token", **options):
    x0, mask, fixed, *_ = batch()
    options = {"attention_mask": mask[s], "fixed": fixed[s], **options}
    return count_items(x0[s], normalizer=normalizer, **options)


@pytest.mark.parametrize("kind", ["logits", "hidden"])
@pytest.mark.parametrize("normalizer", ["token", "BL", "answer"])
def test_masked_and_corrector_terms(kind, normalizer):
    count = sum(counted(s, normalizer) for s in MICRO)
    for loss, options in (
        (masked, {}),
        (both, {"upweight_errors": True, "corrector_weight": 0.3}),
    ):
        options["normalizer"] = normalizer
        whole = loss(kind, slice(None), **options).loss
        for given in (count, count.item(), count.double(), count.reshape(1)):
            parts = [loss(kind, s, num_items_in_batch=given, **options).loss for s in MICRO]
            assert sum(parts).item() == pytest.approx(whole.item(), rel=1e-12)
            assert parts[0].dtype == torch.float64
        apart = sum(loss(kind, s, **options).loss for s in MICRO) / len(MICRO)
        assert abs(apart - whole) > 1e-3  # what the count is for


def test_counts_are_those_of_the_normalizers():
    x0, mask, fixed, *_ = batch()
    scored = mask.bool() & ~fixed
    assert [counted(normalizer=n).item() for n in ("token", "BL", "answer")] == [scored.sum(), B * L, 5]
    labels = x0.masked_fill(~scored, -100)
    assert count_items(labels) == scored.sum() == (labels != -100).sum()
    assert count_items(labels, normalizer="answer") == 5


def test_the_corrector_at_fixed_positions_has_a_count_of_its_own():
    whole = both("logits", slice(None), score_fixed=True)
    counts = {
        "num_items_in_batch": counted(),
        "num_corrector_items_in_batch": counted(fixed=None),
    }
    parts = [both("logits", s, score_fixed=True, **counts).loss for s in MICRO]
    assert sum(parts).item() == pytest.approx(whole.loss.item(), rel=1e-12)
    with pytest.raises(ValueError, match="num_corrector_items_in_batch: expected it beside num_items_in_batch"):
        both("logits", slice(None), score_fixed=True, num_items_in_batch=5)


def test_quality_term():
    x0, _, _, _, hidden, *_ = batch()
    y, selected = x0.repeat_interleave(2, 0), torch.rand(2 * B, L, generator=torch.Generator().manual_seed(3)) < 0.4
    y = torch.where(selected, (y + torch.arange(2 * B)[:, None] % 2) % MASK, y)
    g = hidden[..., 0].repeat_interleave(2, 0)
    whole = prism_loss_from_logits(g, x0, y, selected).loss
    doubled = [slice(2 * s.start, 2 * s.stop) for s in MICRO]
    parts = [
        prism_loss_from_logits(g[d], x0[s], y[d], selected[d], num_chosen_in_batch=selected.sum()).loss
        for s, d in zip(MICRO, doubled, strict=True)
    ]
    assert sum(parts).item() == pytest.approx(whole.item(), rel=1e-12)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.project = nn.Embedding(V, D), nn.Linear(D, V)

    def forward(self, tokens):
        hidden = self.embed(tokens)
        return {"hidden": hidden, "logits": self.project(hidden)}


def test_whole_steps():
    """Gradients of an optimizer step in three parts are those of its parts' sum over the counts: all rows masked."""
    x0, model, k, n_y = batch()[0], Net(), 2, 3
    head = lambda hidden, _: hidden[..., 0]  # noqa: E731
    t = torch.ones(B)  # everything masked, argmax filled: no randomness but the choice of positions, made certain
    options = {"mask_id": MASK, "head": head, "k": k, "n_y": n_y, "temperature": 0, "positions": "confidence"}
    whole = prism_loss(model, x0, t=t, **options)
    counts = {"num_items_in_batch": x0.numel(), "num_chosen_in_batch": k * n_y * B}
    parts = [prism_loss(model, x0[s], t=t[s], **options, **counts) for s in MICRO]
    for name in ("quality", "mdlm"):
        assert sum(part.parts[name] for part in parts).item() == pytest.approx(whole.parts[name].item(), rel=1e-5)
    expected = torch.autograd.grad(whole.loss, list(model.parameters()))
    actual = torch.autograd.grad(sum(part.loss for part in parts), list(model.parameters()))
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one, other)

    def model_logits(tokens):
        return model(tokens)["logits"]

    reward, log_z = torch.zeros(B), lambda z, t: t
    whole = ddpp_loss(model_logits, model_logits, log_z, x0, reward, mask_id=MASK, t=t).loss
    parts = [
        ddpp_loss(model_logits, model_logits, log_z, x0[s], reward[s], mask_id=MASK, t=t[s], num_items_in_batch=B).loss
        for s in MICRO
    ]
    assert sum(parts).item() == pytest.approx(whole.item(), rel=1e-5)


def test_prism_for_llada_divides_by_the_positions_it_wants():
    """Its own divisors: B K positions even where rows have fewer masks, B 512 tokens."""
    x0, model, t = batch()[0], Net(), torch.full((B,), 0.3)
    options = {"mask_id": MASK, "head": lambda hidden, _: hidden[..., 0], "k": 4, "t": t}
    draws = [
        prism_loss(model, x0, generator=torch.Generator().manual_seed(1), **options, **counts).parts
        for counts in ({}, {"num_items_in_batch": B * 512, "num_chosen_in_batch": B * 4})
    ]
    chosen = draws[0]["chosen"].item()
    assert 0 < chosen < B * 4
    assert draws[1]["quality"].item() == pytest.approx(draws[0]["quality"].item() * chosen / (B * 4), rel=1e-5)
    assert draws[1]["mdlm"].item() == pytest.approx(draws[0]["mdlm"].item() * L / 512, rel=1e-5)


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"num_items_in_batch": 5}, ValueError, "num_chosen_in_batch: expected it beside num_items_in_batch"),
        ({"num_chosen_in_batch": 5}, ValueError, "num_items_in_batch: expected it beside num_chosen_in_batch"),
        ({"num_items_in_batch": 5, "mdlm_weight": 0}, ValueError, "num_items_in_batch: expected None where"),
        (
            dict.fromkeys(("num_items_in_batch", "num_chosen_in_batch"), -1),
            ValueError,
            "num_chosen_in_batch: expected a number >= 0",
        ),
        (
            dict.fromkeys(("num_items_in_batch", "num_chosen_in_batch"), "9"),
            TypeError,
            "num_chosen_in_batch: expected a number",
        ),
        (
            {"num_chosen_in_batch": torch.ones(2), "mdlm_weight": 0},
            ValueError,
            "num_chosen_in_batch: expected one number",
        ),
    ],
)
def test_errors_name_the_argument(change, error, text):
    with pytest.raises(error, match=text):
        prism_loss(Net(), batch()[0], mask_id=MASK, head=lambda hidden, _: hidden[..., 0], **change)


def test_a_count_of_nothing_leaves_nothing():
    x0 = torch.full((1, 3), -100)
    logits = torch.zeros(1, 3, V, requires_grad=True)
    z, t = torch.full((1, 3), MASK), torch.ones(1)
    for count in (0, torch.tensor(0), None):
        loss = mdlm_loss_from_logits(logits, x0, z, t, mask_id=MASK, num_items_in_batch=count).loss
        assert loss.item() == 0
        assert torch.autograd.grad(loss, logits)[0].eq(0).all()
