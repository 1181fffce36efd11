import numpy as np
import pytest
import torch
from corrector_divergence import mean_weight, measure
from torch import nn

from mdmcorrect.losses import corrector_inputs, mdlm_loss_from_logits, proseco_loss, proseco_loss_from_logits

V, MASK = 5, 0


def example(seed=0, batch=3, length=6):
    generator = torch.Generator().manual_seed(seed)
    logits, corrector = torch.randn(2, batch, length, V, generator=generator, dtype=torch.float64)
    x0 = torch.randint(1, V, (batch, length), generator=generator)
    z = torch.where(torch.rand(batch, length, generator=generator) < 0.5, MASK, x0)
    t = torch.rand(batch, generator=generator, dtype=torch.float64) * 0.8 + 0.2
    return logits, corrector, x0, z, t


def corrector_log_prob(corrector, x0):
    kept = corrector.numpy()[..., 1:]  # without the mask, id 0
    kept = kept - np.log(np.exp(kept).sum(-1, keepdims=True))
    return np.take_along_axis(kept, x0.numpy()[..., None] - 1, -1)[..., 0]


@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("upweight_errors", [True, False])
def test_matches_hand_formula(weighted, upweight_errors):
    logits, corrector, x0, z, t = example()
    tokens = corrector_inputs(logits, x0, z, mask_id=MASK)
    log_prob = corrector_log_prob(corrector, x0)
    wrong = (tokens != x0).numpy()
    assert wrong.any()
    assert not wrong.all()
    gain = np.where(wrong, log_prob, np.exp(log_prob)) if upweight_errors else log_prob
    weight = (1 / t.numpy() if weighted else np.ones(3))[:, None]
    masked_term = mdlm_loss_from_logits(logits, x0, z, t, mask_id=MASK).loss.item()
    result = proseco_loss_from_logits(
        logits,
        corrector,
        x0,
        z,
        tokens,
        t,
        mask_id=MASK,
        weighted=weighted,
        upweight_errors=upweight_errors,
        mdlm_weight=0.5,
        corrector_weight=2.0,
    )
    expected = -(weight * gain).mean()
    assert result.parts["corrector"].item() == pytest.approx(expected, rel=1e-12)
    assert result.parts["input_errors"].item() == pytest.approx(wrong.mean())
    assert result.loss.item() == pytest.approx(0.5 * masked_term + 2 * expected, rel=1e-12)


def test_gradcheck():
    logits, corrector, x0, z, t = example(batch=2, length=3)
    tokens = corrector_inputs(logits, x0, z, mask_id=MASK)
    for upweight_errors in (True, False):
        assert torch.autograd.gradcheck(
            lambda a, b, up=upweight_errors: (
                proseco_loss_from_logits(a, b, x0, z, tokens, t, mask_id=MASK, upweight_errors=up).loss
            ),
            (logits.requires_grad_(), corrector.requires_grad_()),
        )


def test_inputs_take_the_argmax_without_carry_over_and_without_the_mask():
    logits, _, x0, z, _ = example()
    logits[..., MASK] = 20.0
    best = logits[..., 1:].argmax(-1) + 1
    assert torch.equal(corrector_inputs(logits, x0, z, mask_id=MASK), best)
    at_masks = corrector_inputs(logits, x0, z, mask_id=MASK, input_positions="masked")
    assert torch.equal(at_masks, torch.where(z == MASK, best, x0))
    free = torch.arange(6).expand_as(x0) > 1
    assert torch.equal(corrector_inputs(logits, x0, z, mask_id=MASK, free=free), torch.where(free, best, x0))


def test_sampled_inputs_follow_the_model():
    scores = torch.tensor([9.0, 1.0, 0.0, -1.0, 0.5])
    logits = scores.expand(1, 20_000, V)
    x0 = torch.ones(1, 20_000, dtype=torch.int64)
    generator = torch.Generator().manual_seed(0)
    for temperature in (1.0, 0.5):
        drawn = corrector_inputs(
            logits, x0, x0, mask_id=MASK, inputs="sample", temperature=temperature, generator=generator
        )
        share = torch.bincount(drawn.flatten(), minlength=V) / drawn.numel()
        expected = torch.cat([torch.zeros(1), torch.softmax(scores[1:] / temperature, -1)])
        torch.testing.assert_close(share, expected, atol=0.015, rtol=0)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.project, self.seen = nn.Embedding(V, 8), nn.Linear(8, V), []

    def forward(self, tokens):
        self.seen.append(tokens)
        return self.project(torch.tanh(self.embed(tokens) + self.embed(tokens).mean(1, keepdim=True)))


def test_loss_is_the_hand_built_two_forwards_and_both_learn():
    net, (_, _, x0, _, t) = Net(), example()
    t = t.float()
    result = proseco_loss(net, x0, mask_id=MASK, t=t, generator=torch.Generator().manual_seed(0))
    z, tokens = net.seen
    assert torch.equal(tokens, net(z)[..., 1:].argmax(-1) + 1)
    expected = proseco_loss_from_logits(net(z), net(tokens), x0, z, tokens, t, mask_id=MASK)
    torch.testing.assert_close(result.loss, expected.loss)
    result.loss.backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in net.parameters())


def test_drawn_inputs_stop_the_gradient():
    """With no weight on the masked term, the first forward has no gradient at all."""
    logits = []

    def forward(model, tokens, **_):
        logits.append(model(tokens))
        logits[-1].retain_grad()
        return logits[-1]

    _, _, x0, _, _ = example()
    proseco_loss(Net(), x0, mask_id=MASK, mdlm_weight=0.0, inputs="sample", forward=forward).loss.backward()
    assert logits[0].grad is None or logits[0].grad.eq(0).all()
    assert logits[1].grad.abs().sum() > 0


def test_corrector_scores_every_free_position_and_fixed_ones_only_when_asked():
    logits, corrector, x0, z, t = example()
    fixed = torch.zeros_like(x0, dtype=torch.bool)
    fixed[:, 0] = True
    attention_mask = torch.ones_like(x0)
    attention_mask[:, 5] = 0
    padded = torch.where(attention_mask.bool(), x0, MASK)
    tokens = corrector_inputs(logits, padded, z, mask_id=MASK, free=~fixed & attention_mask.bool())
    log_prob, weight = corrector_log_prob(corrector, x0), 1 / t.numpy()[:, None]
    for score_fixed, first in ((False, 1), (True, 0)):
        leaf = corrector.clone().requires_grad_()
        result = proseco_loss_from_logits(
            logits,
            leaf,
            padded,
            z,
            tokens,
            t,
            mask_id=MASK,
            fixed=fixed,
            attention_mask=attention_mask,
            score_fixed=score_fixed,
        )
        assert result.parts["corrector"].item() == pytest.approx(-(weight * log_prob)[:, first:5].mean(), rel=1e-12)
        result.loss.backward()
        assert (leaf.grad.abs().sum(-1) > 0).any(0).tolist() == [score_fixed, True, True, True, True, False]


def test_fixed_tokens_and_padding_stay_in_both_inputs():
    net, (_, _, x0, _, _) = Net(), example(batch=8)
    fixed = torch.rand(x0.shape, generator=torch.Generator().manual_seed(5)) < 0.4
    for input_positions in ("all", "masked"):
        proseco_loss(net, x0, mask_id=MASK, fixed=fixed, input_positions=input_positions)
        z, tokens = net.seen[-2:]
        assert torch.equal(z[fixed], x0[fixed])
        assert torch.equal(tokens[fixed], x0[fixed])
        assert (tokens != MASK).all()
        clean = (z != MASK) & ~fixed
        assert torch.equal(tokens[clean], x0[clean]) == (input_positions == "masked")


@pytest.mark.parametrize("t_min", [0.1, 1e-2, 1e-3])
def test_weighted_corrector_term_diverges_like_log_of_t_min(t_min):
    """For a model of constant cross-entropy the corrector's term grows as log(1/t_min), the masked one stays."""
    found = measure(t_min)
    assert found.corrector == pytest.approx(mean_weight(t_min), rel=0.01)
    assert found.masked == pytest.approx(1, rel=0.05)
    assert found.unweighted == pytest.approx(1, rel=1e-5)


def test_parts_tell_what_the_corrector_mended_and_broke():
    x0 = torch.tensor([[1, 2, 3, 4]])
    tokens = torch.tensor([[2, 2, 1, 4]])  # two errors
    answers = torch.tensor([[1, 3, 2, 4]])  # mends the first, breaks the second
    corrector = nn.functional.one_hot(answers, V).float()
    parts = proseco_loss_from_logits(
        torch.zeros(1, 4, V), corrector, x0, x0, tokens, torch.tensor([0.5]), mask_id=MASK
    ).parts
    assert (parts["input_errors"], parts["corrected"], parts["broken"]) == (0.5, 0.5, 0.5)


def test_float32_under_autocast():
    with torch.autocast("cpu", torch.bfloat16):
        loss = proseco_loss(Net(), example()[2], mask_id=MASK, upweight_errors=True).loss
    assert loss.dtype == torch.float32
    assert loss.isfinite()


def test_errors_name_the_argument():
    logits, corrector, x0, z, t = example()
    with pytest.raises(ValueError, match="inputs: expected 'argmax' or 'sample', got 'greedy'"):
        proseco_loss(Net(), x0, mask_id=MASK, inputs="greedy")
    with pytest.raises(ValueError, match="input_positions: expected 'all' or 'masked', got 'clean'"):
        proseco_loss(Net(), x0, mask_id=MASK, input_positions="clean")
    with pytest.raises(ValueError, match=r"corrector_logits: expected logits \[3, 6, V\]"):
        proseco_loss_from_logits(logits, corrector[:, :5], x0, z, x0, t, mask_id=MASK)
    with pytest.raises(ValueError, match=r"tokens: expected the shape of x0, \(3, 6\), got \(3, 5\)"):
        proseco_loss_from_logits(logits, corrector, x0, z, x0[:, :5], t, mask_id=MASK)
