"""An interrupt ends a drop-in as it ends its original: it is raised, and no canvas with masks is returned."""

from types import SimpleNamespace

import pytest
import torch
from hash_model import HashLM
from recorded import MASK
from test_maskgit import Network, trainer
from test_mmada_images import SETTINGS as IMAGE
from test_mmada_images import Model as Images
from test_mmada_images import blank
from test_prism_path import Path

from mdmcorrect.compat import dream, fast_dllm, llada, mmada, p2, prism, proseco
from mdmcorrect.compat.maskgit import ConfidenceSampler, HaltonSampler

SPEC = {"V": 97, "mask_id": MASK, "dtype": "float32", "scale": 14.0}
PROMPT = torch.tensor([[5, 6, 7]])
BLOCKS = {"steps": 8, "gen_length": 16, "block_length": 8, "mask_id": MASK}


class Stopped:
    """Stands for a model until the third call, at which someone presses Ctrl-C; attributes are the model's."""

    def __init__(self, model):
        self.model, self.calls = model, 0

    def __getattr__(self, name):
        return getattr(self.model, name)

    def __call__(self, *args, **kwargs):
        self.calls += 1
        if self.calls == 3:
            raise KeyboardInterrupt
        return self.model(*args, **kwargs)


def llama():
    return Stopped(HashLM(SPEC))


def called(read=lambda answer: answer):
    """The model as a function that takes tokens and overlooks the rest."""
    model = llama()
    return lambda tokens, **_: read(model(tokens))


def prism_llada():
    settings = ("steps", "max_length", "model_type", "block_length", "unmasking", "remasking", "remasking_mode")
    settings = dict(zip(settings, (8, 16, "LLaDA", 16, "prob_max", False, "PRISM"), strict=True))
    settings |= {"num_remasking": 1, "temperature": 0.0, "mask_id": MASK}
    tokens = torch.nn.functional.pad(PROMPT, (0, 13))
    return prism.llada_inference(llama(), tokens, SimpleNamespace(pad_token_id=0), **settings)


def prism_small():
    path = Path()
    path.backbone = Stopped(path.backbone)
    return path.generate_sample()


def images(sampler):
    setting = trainer(Network())
    setting.vit.forward = Stopped(setting.vit.forward)
    return sampler(setting, nb_sample=2, labels=torch.tensor([1, 2]))


def paths(xt):
    return p2.p2_sampling(xt, called(lambda answer: answer.logits), MASK, 6, 0.0)


RUNS = {
    "llada": lambda: llada.generate(llama(), PROMPT, **BLOCKS),
    "fast_dllm": lambda: fast_dllm.generate(llama(), PROMPT, **BLOCKS),
    "fast_dllm-prefix": lambda: fast_dllm.generate_with_prefix_cache(llama(), PROMPT, **BLOCKS),
    "fast_dllm-dual": lambda: fast_dllm.generate_with_dual_cache(llama(), PROMPT, **BLOCKS),
    "dream": lambda: dream.diffusion_generate(llama(), PROMPT, max_new_tokens=8, steps=6, mask_token_id=MASK),
    "proseco": lambda: proseco.generate(llama(), PROMPT, **BLOCKS),
    "mmada": lambda: mmada.mmu_generate(called(), PROMPT, None, 16, 8, 8, mask_id=MASK),
    "mmada-images": lambda: mmada.t2i_generate(Stopped(Images()), blank(), **IMAGE),
    "prism": prism_llada,
    "prism-small": prism_small,
    "maskgit": lambda: images(ConfidenceSampler(step=5)),
    "maskgit-halton": lambda: images(HaltonSampler(step=5)),
    "p2": lambda: paths(torch.full((1, 8), MASK)),
}


@pytest.mark.parametrize("name", RUNS)
def test_an_interrupt_is_raised(name):
    with pytest.raises(KeyboardInterrupt):
        RUNS[name]()


def test_what_is_filled_in_place_holds_what_there_is():
    xt, ids = torch.full((1, 8), MASK), blank()
    with pytest.raises(KeyboardInterrupt):
        paths(xt)
    assert 0 < (xt == MASK).sum() < 8
    with pytest.raises(KeyboardInterrupt):
        mmada.t2i_generate(Stopped(Images()), ids, **IMAGE)
    assert 0 < (ids == IMAGE["mask_token_id"]).sum() < 24
    assert ((ids[:, 4:-1] >= 20) | (ids[:, 4:-1] == IMAGE["mask_token_id"])).all()
