from functools import cache
from itertools import product
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from prism_enumeration import LENGTH, MASK, TOKENS, code, conditionals, make_world

from mdmcorrect.losses import mdlm_loss, mdlm_loss_from_logits
from mdmcorrect.schedules import Cosine, Linear, LogLinear

V = 5


def example(seed=0, batch=3, length=4, mask_id=2):
    """Random logits, clean tokens, masked tokens, times."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(batch, length, V, generator=generator, dtype=torch.float64)
    ids = torch.tensor([i for i in range(V) if i != mask_id])
    x0 = ids[torch.randint(0, V - 1, (batch, length), generator=generator)]
    z = torch.where(torch.rand(batch, length, generator=generator) < 0.6, mask_id, x0)
    t = torch.rand(batch, generator=generator, dtype=torch.float64) * 0.9 + 0.1
    return logits, x0, z, t


def log_prob(logits, x0, mask_id):
    """log softmax without the mask token, by hand: [B, L]."""
    kept = np.delete(np.asarray(logits), mask_id, -1)
    target = np.take_along_axis(np.asarray(logits), np.asarray(x0)[..., None], -1)[..., 0]
    return target - np.log(np.exp(kept).sum(-1))


@pytest.mark.parametrize("mask_id", [0, 2, 4])
def test_matches_hand_formula(mask_id):
    logits, x0, z, t = example(mask_id=mask_id)
    masked = (z == mask_id).numpy()
    terms = -(1 / t.numpy())[:, None] * log_prob(logits, x0, mask_id) * masked
    for normalizer, divisor in (("token", x0.numel()), ("BL", x0.numel()), ("answer", x0.numel())):
        loss = mdlm_loss_from_logits(logits, x0, z, t, mask_id=mask_id, normalizer=normalizer).loss
        assert loss.item() == pytest.approx(terms.sum() / divisor, rel=1e-12)


def test_fixed_loss_mask_and_padding_restrict_sum_and_divisor():
    logits, x0, z, t = example(batch=3, length=6)
    fixed = torch.zeros(3, 6, dtype=torch.bool)
    fixed[:, 0] = True
    attention_mask = torch.ones(3, 6, dtype=torch.long)
    attention_mask[1, 4:] = 0
    loss_mask = torch.ones(3, 6, dtype=torch.bool)
    loss_mask[2, 1] = False
    x0[1, 4:] = z[1, 4:] = 2  # padded with the mask token itself
    logits.requires_grad_()
    roles = {"fixed": fixed, "attention_mask": attention_mask, "loss_mask": loss_mask}
    scored = (~fixed & attention_mask.bool() & loss_mask).numpy()
    terms = -(1 / t.numpy())[:, None] * log_prob(logits.detach(), x0, 2) * (z == 2).numpy()
    terms = np.where(scored, terms, 0)
    right = np.delete(logits.detach().numpy(), 2, -1).argmax(-1) == np.delete(np.arange(V), 2).searchsorted(x0.numpy())
    expected = {
        "token": terms.sum() / scored.sum(),
        "BL": terms.sum() / 18,
        "answer": (terms.sum(-1) / scored.sum(-1)).mean(),
    }
    for normalizer, value in expected.items():
        result = mdlm_loss_from_logits(logits, x0, z, t, mask_id=2, normalizer=normalizer, **roles)
        assert result.loss.item() == pytest.approx(value, rel=1e-12)
        assert result.parts["mdlm"].item() == result.loss.item()
        assert result.parts["accuracy"].item() == pytest.approx(right[(z == 2).numpy() & scored].mean())
        (gradient,) = torch.autograd.grad(result.loss, logits)
        assert torch.equal(gradient.abs().sum(-1) > 0, (z == 2) & torch.from_numpy(scored))


def test_weights_and_schedules():
    logits, x0, z, t = example()
    base = -log_prob(logits, x0, 2) * (z == 2).numpy()
    angle = np.pi / 2 * (1 - t.numpy())
    for arguments, weight in (
        ({"schedule": "loglinear"}, 1 / t.numpy()),
        ({"schedule": LogLinear(0.1)}, 1 / t.numpy()),
        ({"schedule": Cosine()}, np.pi / 2 * np.tan(angle)),
        ({"weight": "uniform"}, np.ones(3)),
        ({"weight": lambda times: times**2}, t.numpy() ** 2),
    ):
        loss = mdlm_loss_from_logits(logits, x0, z, t, mask_id=2, **arguments).loss
        assert loss.item() == pytest.approx((weight[:, None] * base).mean(), rel=1e-12)


def test_gradcheck():
    logits, x0, z, t = example()
    logits.requires_grad_()
    for normalizer in ("token", "answer"):
        assert torch.autograd.gradcheck(
            lambda x, n=normalizer: mdlm_loss_from_logits(x, x0, z, t, mask_id=2, normalizer=n).loss, logits
        )


def test_only_masked_scored_positions_send_gradient_and_never_the_mask_logit():
    logits, x0, z, t = example(batch=4, length=6)
    fixed = torch.zeros_like(x0, dtype=torch.bool)
    fixed[:, :2] = True
    logits.requires_grad_()
    mdlm_loss_from_logits(logits, x0, z, t, mask_id=2, fixed=fixed).loss.backward()
    assert torch.equal(logits.grad.abs().sum(-1) > 0, (z == 2) & ~fixed)
    assert logits.grad[..., 2].eq(0).all()


def test_infinite_logits_and_weights_outside_the_masks_do_no_harm():
    logits, x0, z, t = example()
    z[0], t[0] = x0[0], 0.0  # weight 1/0, no mask
    logits[1] = logits[1].masked_fill((z[1] != 2)[:, None], 0.0)
    logits[1, z[1] != 2, x0[1, z[1] != 2]] = float("-inf")
    logits.requires_grad_()
    loss = mdlm_loss_from_logits(logits, x0, z, t, mask_id=2).loss
    loss.backward()
    assert loss.isfinite()
    assert logits.grad.isfinite().all()


def test_half_precision_is_summed_in_float32_under_autocast():
    logits, x0, z, t = example(batch=8, length=16)
    half = logits.bfloat16()
    expected = mdlm_loss_from_logits(half.double(), x0, z, t, mask_id=2).loss
    with torch.autocast("cpu", torch.bfloat16):
        loss = mdlm_loss_from_logits(half, x0, z, t.float(), mask_id=2).loss
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)


@cache
def exact_table():
    world = make_world()
    return conditionals(world.states, world.data).log()


def exact_model(tokens):
    """The true conditionals of the enumerated world, as logits with a wild mask logit that the loss must ignore."""
    logits = exact_table()[code(tokens)]
    return torch.cat([logits, torch.full_like(logits[..., :1], 7.0)], -1)


def nelbo_by_quadrature(x0, schedule):
    """E over t and masks of the loss, with Gauss-Legendre times."""
    nodes, weights = np.polynomial.legendre.leggauss(12)
    total = 0.0
    for time, quadrature_weight in zip((nodes + 1) / 2, weights / 2, strict=True):
        t = torch.tensor([time], dtype=torch.float64)
        p = schedule.mask_probability(t).item()
        for pattern in product([False, True], repeat=LENGTH):
            if not any(pattern):
                continue
            z = torch.where(torch.tensor([pattern]), MASK, x0)
            loss = mdlm_loss_from_logits(
                exact_model(z), x0, z, t, mask_id=MASK, schedule=schedule, normalizer="BL"
            ).loss
            law = p ** sum(pattern) * (1 - p) ** (LENGTH - sum(pattern))
            total += quadrature_weight * law * loss.item() * LENGTH
    return total


@pytest.mark.parametrize("state", [0, 40, 77])
def test_expected_loss_of_the_true_model_is_the_negative_log_likelihood(state):
    world = make_world()
    x0, expected = world.states[state : state + 1], -world.data[state].log().item()
    assert nelbo_by_quadrature(x0, Linear()) == pytest.approx(expected, rel=1e-10)
    assert nelbo_by_quadrature(x0, Cosine()) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("antithetic", [True, False])
def test_drawn_loss_is_unbiased(antithetic):
    """The mean of mdlm_loss with its own times and masks is the exact bound, within its standard error."""
    world = make_world()
    generator = torch.Generator().manual_seed(0)
    x0 = world.states[40:41].expand(500, LENGTH)
    draws = torch.stack(
        [
            mdlm_loss(
                exact_model,
                x0,
                mask_id=MASK,
                t_min=0.0,
                antithetic=antithetic,
                normalizer="BL",
                generator=generator,
                check=False,
            ).loss
            for _ in range(60)
        ]
    )
    draws = draws * LENGTH
    error = draws.std() / len(draws) ** 0.5
    assert error < 0.05 * draws.mean()
    assert abs(draws.mean() + world.data[40].log()) < 4 * error


def test_t_uniform_equals_a_uniform_number_of_masks():
    """t uniform with weight 1/t is L times n ~ Unif{1..L} with the mean over the n masks, PRISM's L_MDM."""
    x0 = make_world().states[12:13]
    by_number = []
    for pattern in product([False, True], repeat=LENGTH):
        if any(pattern):
            z = torch.where(torch.tensor([pattern]), MASK, x0)
            nll = -torch.log_softmax(exact_model(z)[..., :TOKENS], -1).gather(-1, x0.unsqueeze(-1)).squeeze(-1)
            by_number.append((sum(pattern), nll[z == MASK].mean().item()))
    mean = np.mean([np.mean([nll for n, nll in by_number if n == size]) for size in range(1, LENGTH + 1)])
    assert nelbo_by_quadrature(x0, Linear()) == pytest.approx(LENGTH * mean, rel=1e-10)


def uniform_model(tokens, **_):
    return torch.zeros(*tokens.shape, V)


def test_generator_reproduces_and_fixed_tokens_are_never_masked():
    seen = []

    def model(tokens):
        seen.append(tokens)
        return uniform_model(tokens)

    x0 = torch.randint(0, 4, (6, 10), generator=torch.Generator().manual_seed(0))
    fixed = torch.rand(6, 10, generator=torch.Generator().manual_seed(1)) < 0.5
    for _ in range(2):
        mdlm_loss(model, x0, mask_id=4, fixed=fixed, generator=torch.Generator().manual_seed(7))
    assert torch.equal(seen[0], seen[1])
    assert torch.equal(seen[0][fixed], x0[fixed])
    assert (seen[0][~fixed] == 4).any()


def test_model_forms_and_what_reaches_them():
    x0 = torch.randint(0, 4, (2, 3), generator=torch.Generator().manual_seed(0))
    t, mask, condition = torch.tensor([0.5, 0.6]), torch.ones(2, 3), torch.randn(2, 8)
    seen = {}

    def keywords(tokens, attention_mask, condition):
        seen.update(attention_mask=attention_mask, condition=condition)
        return SimpleNamespace(logits=uniform_model(tokens))

    def timed(tokens, sigma):
        seen.update(sigma=sigma)
        return {"logits": uniform_model(tokens)}

    def forward(model, tokens, *, time, attention_mask, condition):
        assert attention_mask is None
        assert condition is None
        return model(tokens, time)

    mdlm_loss(keywords, x0, mask_id=4, attention_mask=mask, condition=condition)
    assert seen["attention_mask"] is mask
    assert seen["condition"] is condition
    mdlm_loss(timed, x0, mask_id=4, t=t, forward=forward)
    assert torch.equal(seen["sigma"], t)


def test_no_mask_drawn_is_zero_with_a_graph():
    logits, x0, _, t = example()
    logits.requires_grad_()
    result = mdlm_loss_from_logits(logits, x0, x0, t, mask_id=2)
    result.loss.backward()
    assert result.loss.item() == 0
    assert logits.grad.eq(0).all()
    assert result.parts["accuracy"].item() == 0


BAD = {
    "x0: expected \\[B, L\\], got \\(3,\\)": {"x0": torch.tensor([0, 1, 3])},
    "x0: expected int64 token ids, got torch.float32": {"x0": torch.zeros(1, 3)},
    "x0: expected clean tokens, found mask_id 4 at 2 positions": {"x0": torch.tensor([[4, 1, 4]])},
    "mask_id: expected a token id >= 0, got -1": {"mask_id": -1},
    "mask_id: expected an id within the 5 ids of logits, got 5": {"mask_id": 5},
    "t: expected one time per row, \\[1\\], got \\(2,\\)": {"t": torch.tensor([0.1, 0.2])},
    "t: expected times in \\(0, 1\\], got 1 outside": {"t": torch.tensor([1.5])},
    "t: expected a floating dtype": {"t": torch.tensor([1])},
    "fixed: expected the shape of x0, \\(1, 3\\), got \\(3,\\)": {"fixed": torch.zeros(3)},
    "fixed, attention_mask: expected some position that may be masked": {"fixed": torch.ones(1, 3)},
    "logits: expected logits \\[1, 3, V\\]": {"model": lambda tokens: torch.zeros(1, 2, V)},
    "logits: expected floating logits": {"model": lambda tokens: torch.zeros(1, 3, V, dtype=torch.int64)},
    "model: expected logits or an object with .logits, got NoneType": {"model": lambda tokens: None},
    "are mask_id and the tokens within its vocabulary": {
        "model": torch.nn.Embedding(4, V),
        "x0": torch.tensor([[0, 9, 9]]),
    },
    "weight: expected 'elbo', 'uniform' or a callable": {"weight": "1/t"},
    "normalizer: expected one of": {"normalizer": "sum"},
    "schedule: expected one of": {"schedule": "sqrt"},
}


@pytest.mark.parametrize("message", BAD)
def test_errors_name_the_argument(message):
    arguments = {"model": uniform_model, "x0": torch.tensor([[0, 1, 3]]), "mask_id": 4, **BAD[message]}
    with pytest.raises((ValueError, TypeError, IndexError), match=message):
        mdlm_loss(arguments.pop("model"), arguments.pop("x0"), **arguments)
