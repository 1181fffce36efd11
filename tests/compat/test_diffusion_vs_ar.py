"""compat.diffusion_vs_ar against recorded runs, and its random modes against what they say."""

from types import SimpleNamespace

import pytest
import torch
from hash_model import HashModel
from recorded import cases

from mdmcorrect.compat.diffusion_vs_ar import generate_samples, topk_decoding


def trainer(model, mask_id=49, vocab_size=1000, **args):
    return SimpleNamespace(
        model=lambda x, t, attention_mask=None: model(x),
        tokenizer=SimpleNamespace(mask_token_id=mask_id, vocab_size=vocab_size),
        diff_args=SimpleNamespace(**args),
    )


@pytest.mark.parametrize("case", [*cases("diffusion_vs_ar"), *cases("diffusion_vs_ar_settings")])
def test_equals_the_recorded_run(case):
    model = HashModel(case["model"])
    inputs = {name: torch.tensor(value) for name, value in case["inputs"].items()}
    size = case.get("vocab_size", case["model"]["V"])
    result = generate_samples(trainer(model, case["model"]["mask_id"], size, **case["kwargs"]), inputs)
    assert result.tolist() == case["output"]
    assert model.calls == case["nfe"]


def test_topk_decoding_masks_the_least_sure_of_what_is_open():
    x0 = torch.tensor([[1, 2, 3, 4, 5]])
    scores = torch.tensor([[-9.0, -0.5, -3.0, -1.0, -2.0]])
    open_ = torch.tensor([[False, True, True, True, True]])
    assert topk_decoding(x0, scores, "deterministic-linear", open_, 2, 4, 9).tolist() == [[1, 2, 9, 4, 9]]
    other = torch.tensor([[7, 7, 7, 7, 7]])
    assert topk_decoding(x0, scores, "deterministic-linear", open_, 1, 4, other).tolist() == [[1, 2, 7, 4, 5]]
    assert topk_decoding(x0, scores, "deterministic-cosine", open_, 0, 4, 9).tolist() == x0.tolist()
    noisy = {tuple(topk_decoding(x0, scores, "stochastic2.0-linear", open_, 2, 4, 9)[0].tolist()) for _ in range(200)}
    assert len(noisy) > 3
    assert all(row[0] == 1 and row.count(9) == 2 for row in noisy)


def test_random_modes_fill_everything_and_follow_their_seed():
    model = HashModel({"V": 12, "mask_id": 11, "dtype": "float32", "scale": 9.0, "mask_logit": -30.0})
    inputs = {"input_ids": torch.full((3, 10), 4), "src_mask": (torch.arange(10) < 3).expand(3, 10)}
    for args in (
        {"decoding_strategy": "stochastic0.5-cosine", "topk_decoding": True},
        {"decoding_strategy": "", "topk_decoding": False},
    ):
        me = trainer(model, 11, diffusion_steps=6, **args)
        runs = [generate_samples(me, inputs, seed=seed) for seed in (1, 1, 2)]
        assert all((run != 11).all() and (run[:, :3] == 4).all() for run in runs)
        assert torch.equal(runs[0], runs[1])
        assert not torch.equal(runs[0], runs[2])


def test_a_seed_is_drawn_only_if_something_is_random():
    model = HashModel({"V": 12, "mask_id": 11, "dtype": "float32", "scale": 9.0, "mask_logit": -30.0})
    inputs = {"input_ids": torch.full((3, 10), 4), "src_mask": torch.zeros(3, 10)}
    for strategy, topk, random in (
        ("deterministic-linear", True, False),
        ("stochastic0.0-linear", True, False),
        ("stochastic0.5-linear", True, True),
        ("deterministic-linear", False, True),
    ):
        me = trainer(model, 11, diffusion_steps=6, decoding_strategy=strategy, topk_decoding=topk)
        runs, before = [], torch.manual_seed(3).get_state()
        for _ in range(2):
            runs.append(generate_samples(me, inputs))
        assert torch.equal(torch.get_rng_state(), before) is not random
        assert torch.equal(*runs) is not random
        torch.manual_seed(3)
        assert torch.equal(generate_samples(me, inputs), runs[0])


def test_ids_beyond_the_tokenizers_are_never_proposed():
    def network(x, t, attention_mask=None):
        return torch.arange(12.0).expand(*x.shape, 12)

    for topk in (True, False):
        me = trainer(None, 5, 8, diffusion_steps=3, decoding_strategy="deterministic-linear", topk_decoding=topk)
        me.model = network
        inputs = {"input_ids": torch.zeros(2, 4, dtype=torch.int64), "src_mask": torch.zeros(2, 4)}
        assert (generate_samples(me, inputs) == 7).all()


def test_time_runs_down_and_strategies_are_checked():
    times = []

    def network(x, t, attention_mask=None):
        times.append(t.tolist())
        return torch.zeros(*x.shape, 12)

    me = trainer(None, 11, diffusion_steps=3, decoding_strategy="deterministic-linear", topk_decoding=True)
    me.model = network
    generate_samples(me, {"input_ids": torch.zeros(1, 4, dtype=torch.int64), "src_mask": torch.zeros(1, 4)})
    assert times == [[2], [1], [0]]
    for strategy in ("greedy-linear", "deterministic-square", "stochasticx-linear", "linear"):
        with pytest.raises(ValueError, match="decoding_strategy: expected"):
            topk_decoding(torch.zeros(1, 2), torch.zeros(1, 2), strategy, torch.ones(1, 2).bool(), 1, 2, 9)
