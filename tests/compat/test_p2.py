"""compat.p2 against recorded runs, and the law of its noise."""

import math

import numpy as np
import pytest
import torch
from hash_model import HashModel
from recorded import cases
from scipy import stats

from mdmcorrect.compat import p2

KAPPAS = {"linear_scheduler": lambda t: t, "sine_scheduler": lambda t: math.sin(t * math.pi / 2)}


@pytest.mark.parametrize("case", cases("p2"))
def test_equals_the_recorded_run(case):
    kwargs, model = dict(case["kwargs"]), HashModel(case["model"])
    xt = torch.tensor(case["inputs"]["xt"])
    if "kappa_fn" in kwargs:
        kwargs |= {"kappa_fn": KAPPAS[kwargs["kappa_fn"]], "score_fn": getattr(p2, kwargs["score_fn"])}
    if "planner" in kwargs:
        kwargs["planner"] = HashModel(case["model"], salt=5)
    sample = p2.p2_plus_sampling if case["name"].endswith("p2plus") else p2.p2_sampling
    result = sample(xt, model, **kwargs)
    assert result is xt
    # One run hangs on the last bit of torch's float64 log-softmax, and so on the processor, as the original's does.
    assert xt.tolist() in (case["output"], case.get("output_avx2"))
    assert model.calls == case["nfe"]


LOGITS = torch.tensor([[1.0, 0.2, -0.5, 0.0], [0.0, 0.9, 0.3, -1.0]])  # id 3 is the mask


def table_model(tokens):
    logits = LOGITS + 0.7 * (tokens.flip(1)[..., None] == torch.arange(4))
    return logits.masked_fill(torch.arange(4) == 3, -40.0)


@pytest.mark.parametrize("score_fn", [p2.logP, p2.random_score], ids=["logP", "random"])
@pytest.mark.parametrize("noise", ["exact", "truncated"])
def test_draws_have_the_law_of_the_model_and_of_the_kernel(score_fn, noise):
    """Two positions, two steps, tau 1: position by position and jointly, with scores of noisy logits."""
    chains = 30_000
    xt = torch.full((chains, 2), 3)
    p2.p2_sampling(xt, table_model, 3, num_steps=2, score_fn=score_fn, noise=noise, seed=5, eta=0)
    joint = np.bincount((xt[:, 0] * 3 + xt[:, 1]).numpy(), minlength=9)
    # eta = 0 keeps the first commit, the better of the two drafts, and draws the other given it.
    generator = np.random.default_rng(0)
    simulated = _simulate(generator, 500_000, score_fn is p2.logP)
    assert stats.chisquare(joint, simulated / simulated.sum() * chains).pvalue > 1e-4
    for axis in (0, 1):
        marginal, expected = joint.reshape(3, 3).sum(axis), simulated.reshape(3, 3).sum(axis)
        assert stats.chisquare(marginal, expected / expected.sum() * chains).pvalue > 1e-4


def _simulate(generator, chains, by_score):
    """Counts of the 9 pairs: a draft by Gumbel-max, the position whose noisy log-probability is highest, the other."""
    base = LOGITS[:, :3].double().numpy()
    keys = base[None] + generator.gumbel(size=(chains, 2, 3))
    draft = keys.argmax(-1)
    score = keys.max(-1) - np.log(np.exp(keys).sum(-1)) if by_score else generator.random((chains, 2))
    first = score.argmax(-1)
    rows = np.arange(chains)
    pair = draft.copy()
    other = 1 - first
    given = base[other] + 0.7 * (draft[rows, first][:, None] == np.arange(3))
    pair[rows, other] = (given + generator.gumbel(size=(chains, 3))).argmax(-1)
    return np.bincount(pair[:, 0] * 3 + pair[:, 1], minlength=9)


@pytest.mark.parametrize("noise", ["exact", "truncated"])
def test_what_stands_competes_by_what_would_be_drawn_in_its_place(noise):
    """One, one and two tokens kept: at the second step the masked position may take the place of the committed one."""
    chains = 30_000
    xt = torch.full((chains, 2), 3)
    kept = {1 / 3: 0.5, 2 / 3: 0.5}
    p2.p2_sampling(xt, table_model, 3, 3, kappa_fn=lambda t: kept.get(t, t), eta=4.0, noise=noise, seed=5)
    joint = np.bincount((xt[:, 0] * 3 + xt[:, 1]).numpy(), minlength=9)
    moving, still = (_replan(np.random.default_rng(1), 300_000, moves) for moves in (True, False))
    assert stats.chisquare(joint, moving / moving.sum() * chains).pvalue > 1e-4
    assert stats.chisquare(joint, still / still.sum() * chains).pvalue < 1e-6


def _replan(generator, chains, moves):
    """As :func:`_simulate`, with a step in between at which the best noisy position of the two is kept."""
    base, rows = LOGITS[:, :3].double().numpy(), np.arange(chains)

    def draw(position, other):
        keys = base[position] + 0.7 * (other[:, None] == np.arange(3)) + generator.gumbel(size=(chains, 3))
        return keys.argmax(-1), keys.max(-1) - np.log(np.exp(keys).sum(-1))

    blank = np.full(chains, 3)
    drafts, scores = zip(*(draw(np.full(chains, i), blank) for i in (0, 1)), strict=True)
    place = (scores[1] > scores[0]).astype(int)
    token = np.stack(drafts, 1)[rows, place]
    if moves:
        _, stays = draw(place, blank)
        fresh, score = draw(1 - place, token)
        moved = score > 4.0 * stays
        place, token = np.where(moved, 1 - place, place), np.where(moved, fresh, token)
    pair = np.empty((chains, 2), int)
    pair[rows, place] = token
    pair[rows, 1 - place] = draw(1 - place, token)[0]
    return np.bincount(pair[:, 0] * 3 + pair[:, 1], minlength=9)


def test_a_seed_repeats_a_run_and_torchs_generator_gives_one():
    def sample(**options):
        return p2.p2_sampling(torch.full((4, 6), 3), lambda x: torch.zeros(*x.shape, 4), 3, 3, **options)

    assert torch.equal(sample(seed=3), sample(seed=3))
    torch.manual_seed(1)
    one = sample()
    torch.manual_seed(1)
    assert torch.equal(one, sample())
    assert not torch.equal(one, sample())


def test_masks_are_overruled_and_custom_scores_are_read():
    model = HashModel({"V": 9, "mask_id": 8, "dtype": "float32", "scale": 9.0, "mask_logit": 50.0})
    assert (p2.p2_sampling(torch.full((2, 5), 8), model, 8, 3, tau=0.0) != 8).all()
    seen = []

    def leftmost(logits, x0):
        seen.append(logits.dtype)
        return -torch.arange(x0.shape[1]).double().expand(x0.shape)

    order = []

    def watch(tokens):
        order.append((tokens != 8).sum().item())
        assert (tokens[0] != 8).tolist() == sorted((tokens[0] != 8).tolist(), reverse=True)
        return model(tokens)

    p2.p2_sampling(torch.full((1, 6), 8), watch, 8, 3, tau=0.0, score_fn=leftmost, eta=1.0)
    assert set(seen) == {torch.float64}
    assert order == [0, 2, 4]
    with pytest.raises(ValueError, match=r"score_fn: with a planner expected one of .* got leftmost"):
        p2.p2_sampling(torch.full((1, 6), 8), model, 8, 3, planner=model, score_fn=leftmost)
    with pytest.raises(ValueError, match="noise: expected 'exact' or 'truncated', got 'fp8'"):
        p2.p2_sampling(torch.full((1, 6), 8), model, 8, 3, noise="fp8")
    with pytest.raises(ValueError, match="num_steps: expected a number from 1 to 6, the masks there are, got 7"):
        p2.p2_plus_sampling(torch.full((1, 6), 8), model, 8, 7)


def test_p2_plus_orders_every_row_by_itself_unless_told_otherwise():
    model = HashModel({"V": 9, "mask_id": 8, "dtype": "float32", "scale": 9.0, "mask_logit": -30.0})
    xt = torch.full((3, 6), 8)
    xt[:, 0] = torch.tensor([1, 2, 3])
    together = p2.p2_plus_sampling(xt.clone(), model, 8, 5, tau=0.0)
    alone = torch.cat([p2.p2_plus_sampling(xt[b : b + 1].clone(), model, 8, 5, tau=0.0) for b in range(3)])
    assert torch.equal(together, alone)
    shared = p2.p2_plus_sampling(xt.clone(), model, 8, 5, tau=0.0, shared_order=True)
    assert torch.equal(shared[0], alone[0])
    assert not torch.equal(shared, alone)
