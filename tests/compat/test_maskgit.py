"""compat.maskgit: schedules, orders, guidance, labels and noise of its samplers on a small trainer."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from mdmcorrect.compat.maskgit import ConfidenceSampler, HaltonSampler

MASK = 16


class Network(nn.Module):
    """Sure of label + place, and the surer the further on; without a label sure of nothing."""

    def __init__(self, vocabulary=MASK):
        super().__init__()
        self.vocabulary, self.seen = vocabulary, []

    def forward(self, grid, labels, drop_label):
        self.seen.append((grid.clone(), labels.clone(), drop_label.clone()))
        place = torch.arange(grid[0].numel())
        best = (labels[:, None] + place) % MASK
        sure = (2 + place / 4) * (~drop_label[:, None])
        return nn.functional.one_hot(best, self.vocabulary) * sure[..., None]


def trainer(network):
    return SimpleNamespace(
        vit=network,
        ema=network,
        input_size=4,
        args=SimpleNamespace(mask_value=MASK, codebook_size=MASK, device="cpu", use_ema=False),
        ae=SimpleNamespace(decode_code=lambda code: code.float()[:, None] / 4 - 2),
    )


def run(sampler, network=None, labels=(3, 5), **options):
    network = network or Network()
    return network, sampler(trainer(network), nb_sample=len(labels), labels=torch.tensor(labels), seed=4, **options)


@pytest.mark.parametrize("mode", ["root", "linear", "square", "cosine", "arccos"])
def test_the_schedule_says_how_many_stand(mode):
    sampler = ConfidenceSampler(step=6, sched_mode=mode, w=0)
    _, (_, codes, masks) = run(sampler)
    wanted = [max(int(n), i + 1) for i, n in enumerate(ConfidenceSampler.build_sequence(6, 4, mode))]
    assert [int(16 - mask[0].sum()) for mask in masks] == wanted
    assert wanted[-1] == 16
    assert len(codes) == 6
    assert codes[0].shape == (2, 4, 4)


def test_images_are_decoded_and_clamped_and_labels_followed():
    network, (images, codes, _) = run(ConfidenceSampler(step=5, w=0, sm_temp=50.0))
    best = (torch.tensor([[3], [5]]) + torch.arange(16)) % 16
    assert torch.equal(codes[-1].flatten(1), best)
    assert torch.equal(images[:, 0].flatten(1), (best.float() / 4 - 2).clamp(-1, 1))
    assert all(len(grid) == 2 for grid, _, _ in network.seen)
    assert network.training


def test_guidance_rises_from_nothing_and_doubles_the_batch():
    network, _ = run(ConfidenceSampler(step=4, w=3.0))
    assert all(len(grid) == 4 for grid, _, _ in network.seen)
    assert all(drop.tolist() == [False, False, True, True] for _, _, drop in network.seen)
    # Step 0 has weight 0: it is the run without guidance as far as its draws go.
    _, (_, guided, _) = run(ConfidenceSampler(step=4, w=3.0))
    _, (_, plain, _) = run(ConfidenceSampler(step=4, w=0))
    assert torch.equal(guided[0], plain[0])


def test_noise_decides_the_order_as_it_is_told():
    def order(**options):
        _, (_, _, masks) = run(ConfidenceSampler(step=4, w=0, sm_temp=2.0, sched_mode="linear", **options))
        return masks[1][0].flatten()

    assert order(randomize="no")[-5:].sum() == 0  # the surest stand first
    assert not torch.equal(order(randomize="no"), order(randomize="random"))
    assert not torch.equal(order(randomize="no"), order(randomize="linear", r_temp=50.0))
    assert not torch.equal(order(randomize="no"), order(randomize="warm_up"))


def test_what_a_code_holds_is_drawn_anew_and_never_masked():
    code = torch.full((2, 16), MASK)
    code[:, :9] = 9
    network, (_, codes, masks) = run(ConfidenceSampler(step=4, w=0, sched_mode="linear"), init_code=code)
    assert torch.equal(network.seen[0][0].flatten(1), code)
    assert (codes[0].flatten(1)[:, :9] != 9).any()
    assert [int(16 - mask[0].sum()) for mask in masks] == [9, 9, 10, 16]
    assert all((mask.flatten(1)[:, :9] == 0).all() for mask in masks)
    assert (code[:, :9] == 9).all()


def test_only_the_confidence_sampler_reads_the_averaged_network():
    for sampler, averaged in ((ConfidenceSampler(step=2), True), (HaltonSampler(step=2), False)):
        setting = trainer(Network())
        setting.ema, setting.args.use_ema = Network(), True
        sampler(setting, nb_sample=2, labels=torch.tensor([1, 2]))
        assert bool(setting.ema.seen) == averaged
        assert bool(setting.vit.seen) != averaged


def test_networks_may_have_a_logit_for_the_mask():
    _, (_, codes, _) = run(ConfidenceSampler(step=3, w=0), Network(MASK + 1))
    assert (codes[-1] < MASK).all()


def test_default_classes_and_bad_modes():
    network = Network()
    ConfidenceSampler(step=1, w=0)(trainer(network), nb_sample=11)
    assert network.seen[0][1][:9].tolist() == [1, 7, 282, 604, 724, 179, 751, 404, 850]
    assert str(ConfidenceSampler()).startswith("Scheduler: arccos, Steps: 12")
    with pytest.raises(ValueError, match="sched_mode: expected one of"):
        ConfidenceSampler(sched_mode="tan")


def halton(number, base):
    value, unit = 0.0, 1.0
    while number:
        unit /= base
        value, number = value + unit * (number % base), number // base
    return value


@pytest.mark.parametrize("size", [4, 7, 16])
def test_the_order_is_that_in_which_a_halton_sequence_meets_the_cells(size):
    met = list(dict.fromkeys((int(halton(n, 2) * size), int(halton(n, 3) * size)) for n in range(1, 5000)))
    order = HaltonSampler.build_halton_mask(size)
    assert len(order) == len(met) == size**2
    assert list(map(tuple, order.tolist())) == met
    assert len(HaltonSampler.build_halton_mask(16, nb_point=20)) == 20


def test_halton_draws_the_first_of_its_order_anew_in_every_step():
    sampler = HaltonSampler(step=5, w=0)
    network, (images, codes, masks) = run(sampler)
    counts = [max(i + 1, int(16 * (1 - math.acos((i + 1) / 5) / (math.pi / 2)))) for i in range(5)]
    assert [int(mask[0].sum()) for mask in masks] == counts
    order = sampler.basic_halton_mask
    for mask, count in zip(masks, counts, strict=True):
        assert mask[1][order[:count, 0], order[:count, 1]].all()
    seen = [grid.flatten(1) for grid, _, _ in network.seen]
    for before, after, mask in zip(seen, seen[1:], masks, strict=False):
        stands = mask.flatten(1).bool()
        assert (after[~stands] == MASK).all()
        assert (after[stands] != MASK).all()
        redrawn = stands & (before != MASK)
        if redrawn.sum() > 4:
            assert (after[redrawn] != before[redrawn]).any()
    assert images.shape == (2, 1, 4, 4)
    assert torch.equal(codes[-1].flatten(1)[:, :3], codes[-1].flatten(1)[:, :3].clamp(0, MASK - 1))


class Flat(nn.Module):
    """The same few logits everywhere, and none of them without a label."""

    def forward(self, grid, labels, drop_label):
        logits = torch.tensor([1.0, 0.0, -1.0] + [-30.0] * 13)
        return logits * (~drop_label[:, None, None]) + torch.zeros(len(grid), 16, 16)


@pytest.mark.parametrize(
    ("settings", "factor", "kept"),
    [({"w": 0}, 1.0, 16), ({"w": 1.0, "top_k": 2}, 2.0, 2), ({"w": 0, "sm_temp_max": 3.0, "temp_pow": 2}, 9.0, 16)],
)
def test_halton_draws_from_guided_filtered_logits(settings, factor, kept):
    torch.manual_seed(1)
    sampler = HaltonSampler(step=2, **settings)
    _, codes, _ = sampler(trainer(Flat()), nb_sample=600, labels=torch.ones(600, dtype=torch.int64), seed=2)
    p = np.exp(factor * np.array([1.0, 0.0, -1.0]))
    p[kept:] = 0
    possible = p > 0
    counts = np.bincount(codes[-1].flatten().numpy(), minlength=3)[:3]
    assert counts[~possible].sum() == 0
    assert stats.chisquare(counts[possible], p[possible] / p.sum() * counts.sum()).pvalue > 1e-4
    if settings == {"w": 0}:
        _, codes, _ = HaltonSampler(step=2, w=0, temp_warmup=2)(
            trainer(Flat()), nb_sample=600, labels=torch.ones(600, dtype=torch.int64), seed=2
        )
        p = np.exp(0.5 * np.array([1.0, 0.0, -1.0]))
        counts = np.bincount(codes[-1].flatten().numpy(), minlength=3)[:3]
        assert stats.chisquare(counts, p / p.sum() * counts.sum()).pvalue > 1e-4


def test_randomized_orders_begin_elsewhere_and_follow_the_seed():
    def first():
        _, (_, _, masks) = run(HaltonSampler(step=16, w=0, randomize=True), labels=range(40))
        return masks[0].flatten(1).argmax(1)

    places = first()
    assert 8 < len(places.unique()) <= 16
    assert torch.equal(places, first())
    code = torch.full((2, 16), 9)
    _, (_, codes, _) = run(HaltonSampler(step=3, w=0), init_code=code)
    assert (codes[0].flatten(1) == 9).sum() > 16  # most have not had their turn
    assert not torch.equal(codes[-1], codes[0])
    assert str(HaltonSampler(step=8)).startswith("Scheduler: halton, Steps: 8, sm_temp_min: 1")
