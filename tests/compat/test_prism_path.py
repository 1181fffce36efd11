"""compat.prism.generate_sample: which sampler a configuration means, what comes back, what is refused."""

import itertools
from types import ModuleType, SimpleNamespace

import pytest
import torch
from hash_model import HashModel, integer_hash_quality

from mdmcorrect.compat import patch
from mdmcorrect.compat.prism import generate_sample
from mdmcorrect.samplers import DFM, MDLM, PRISM, ForwardBackward, ReMDM, TokenCritic

MASK, L = 10, 16
SPEC = {"V": 11, "mask_id": MASK, "dtype": "float32", "scale": 9.0, "mask_logit": 4.0}
CLUES = torch.full((5, L), MASK)
CLUES[:, ::4] = torch.arange(5)[:, None]


class Path:
    """What the method reads of the original's class."""

    def __init__(self, adapter="embedding", **sampling):
        settings = {"sampler": "prism", "predictor": "topk_static", "steps": 6, "noise_removal": True, "nucleus_p": 1.0}
        settings |= {"eta": 0.0, "num_remask": 0, "step_on": 0, "step_off": 1024, "t_on": 0.5, "t_off": 0.1}
        settings |= {"alpha_on": 0.8, "dfm": False, "sample_batch_size": 3, "num_initial_masks": 12}
        settings |= {"loop_steps": 0, "loop_step_on": 1024, "num_remask_loop": 0}
        self.config = SimpleNamespace(
            sampling=SimpleNamespace(**settings | sampling),
            model=SimpleNamespace(length=L),
            adapter=SimpleNamespace(input_type=adapter),
        )
        self.mask_index, self.backbone = MASK, HashModel(SPEC)
        self.wrapped_backbone = SimpleNamespace(get_output_and_features=self.features)
        self.wrapped_adapter = SimpleNamespace(get_score=self.score) if adapter else None
        self.scored = []

    generate_sample = generate_sample

    def features(self, x, sigma):
        assert sigma.shape == (len(x), 1)
        return self.backbone(x), x, "condition"

    def score(self, first, second):
        self.scored.append(second)
        return integer_hash_quality(first)

    @staticmethod
    def noise(t):
        return -torch.log1p(-(1 - 1e-3) * t), None


def model(tokens):
    return {"logits": HashModel(SPEC)(tokens), "quality": integer_hash_quality(tokens)}


CASES = {
    "prism": ({"num_remask": 2, "step_on": 1, "step_off": 5}, PRISM(steps=6, remask_count=2, step_on=1, step_off=5)),
    "prism-eta": ({"eta": 0.4}, PRISM(steps=6, eta=0.4)),
    "prism-loop": (
        {"num_remask": 1, "step_on": 5, "loop_steps": 3, "loop_step_on": 2, "num_remask_loop": 2},
        PRISM(steps=6, remask_count=1, step_on=2, loop_start=2, loop_steps=3, loop_count=2),
    ),
    "random": ({"sampler": "random", "num_remask": 2}, PRISM(steps=6, remask=None)),
    "nucleus": ({"sampler": "random", "nucleus_p": 0.8}, PRISM(steps=6, remask=None, top_p=0.8)),
    "topk_prob": ({"sampler": "topk_prob"}, PRISM(steps=6, remask=None, unmask="confidence")),
    "topk_prob_margin": ({"sampler": "topk_prob_margin"}, PRISM(steps=6, remask=None, unmask="margin")),
    "mdlm": ({"predictor": "ddpm_cache", "sampler": "mdlm"}, MDLM(steps=6)),
    "forward-backward": ({"predictor": "ddpm_cache", "sampler": "forward-backward"}, ForwardBackward(steps=6)),
    "remdm-cap": ({"predictor": "ddpm_cache", "sampler": "remdm-cap", "eta": 0.3}, ReMDM(steps=6, eta=0.3)),
    "remdm-conf": ({"predictor": "ddpm_cache", "sampler": "remdm-conf"}, ReMDM(steps=6, rule="conf")),
    "remdm-loop": (
        {"predictor": "ddpm_cache", "sampler": "remdm-loop", "eta": 0.3},
        ReMDM(steps=6, eta=0.3, t_on=0.5, t_off=0.1, alpha_on=0.8),
    ),
    "dfm": ({"dfm": True}, DFM(steps=6)),
    "token-critic": (
        {"sampler": "token-critic", "adapter": "x0"},
        TokenCritic(steps=6, critic=lambda tokens: integer_hash_quality(tokens), noise=0.0, schedule="linear"),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_configuration_means_a_preset(name):
    settings, preset = CASES[name]
    tokens, canvases = Path(**settings).generate_sample(test_ds={"input_ids": CLUES}, seed=3)
    assert torch.equal(tokens, preset(model, CLUES[:3], mask_id=MASK, seed=3).tokens)
    assert (tokens != MASK).all()
    assert canvases == []


def test_orders_hold_between_their_steps_and_left_to_right_is_one():
    path = Path(sampler="ar", steps=L)
    _, canvases = path.generate_sample(return_intermediates=True, seed=1)
    assert canvases[0].shape == (3, L)
    assert [(canvas != MASK).sum(1).tolist() for canvas in canvases] == [[n] * 3 for n in range(L + 1)]
    assert all((canvas[:, :n] != MASK).all() for n, canvas in enumerate(canvases))
    _, late = Path(sampler="ar", steps=L, step_on=8).generate_sample(return_intermediates=True, seed=1)
    assert not (late[8][:, :8] != MASK).all()
    first = (late[8] == MASK).int().argmax(1, keepdim=True)
    assert (late[9].gather(1, first) != MASK).all()


def test_pools_rank_what_stands_with_what_could():
    hybrid = Path(sampler="topk_hybrid_score")
    _, canvases = hybrid.generate_sample(return_intermediates=True, seed=2)
    taken_back = [((a != MASK) & (b == MASK)).any() for a, b in itertools.pairwise(canvases)]
    assert any(taken_back)
    assert set(hybrid.scored) == {"condition"}
    by_quality = Path(sampler="token-critic", adapter="xt")
    assert (by_quality.generate_sample(seed=2)[0] != MASK).all()
    assert all(sigma.shape == (3, 1) for sigma in by_quality.scored)


def test_canvases_are_as_many_as_steps_whatever_stands():
    path = Path(num_remask=1, steps=3)
    full = {"input_ids": torch.zeros(2, L, dtype=torch.int64)}
    tokens, canvases = path.generate_sample(test_ds=full, return_intermediates=True)
    assert len(canvases) == 4
    assert all(torch.equal(canvas, tokens) for canvas in canvases)
    left, _ = Path(predictor="ddpm_cache", sampler="mdlm", steps=2, noise_removal=False).generate_sample(
        eps=0.5, seed=4
    )
    assert (left == MASK).any()


def test_what_does_not_fit_is_refused():
    for settings, message in (
        ({"predictor": "euler"}, "sampling.predictor: expected 'topk_static' or 'ddpm_cache', got 'euler'"),
        ({"sampler": "best"}, r"sampling\.sampler: expected one of \['prism'.* got 'best'"),
        ({"predictor": "ddpm_cache"}, r"sampling\.sampler: expected one of \['mdlm'.* got 'prism'"),
        ({"num_remask": 1, "adapter": None}, "adapter: sampler 'prism' reads one of input_type 'embedding' or 'xt'"),
        ({"sampler": "topk_hybrid_score", "step_on": 2}, "'topk_hybrid_score' ranks all tokens in every step"),
    ):
        with pytest.raises(ValueError, match=message):
            Path(**settings).generate_sample()
    with pytest.raises(ValueError, match=r"num_steps: expected steps \+ loop_steps = 6, got 7"):
        Path().generate_sample(7)


def test_the_method_can_be_patched_in():
    class MaskProbPath(Path):
        def generate_sample(self):
            return "theirs"

    original = ModuleType("prob_path")
    original.MaskProbPath = MaskProbPath
    with patch("prism", original) as done:
        assert done.replaced == ("prob_path.MaskProbPath.generate_sample",)
        tokens, _ = MaskProbPath().generate_sample(seed=1)
        assert (tokens != MASK).all()
    assert MaskProbPath().generate_sample() == "theirs"
