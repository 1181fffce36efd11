"""What a model takes, seen through wrappers; and that left-padded rows then do not depend on their batch."""

import functools
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from mdmcorrect.heads import QualityHead, attach
from mdmcorrect.samplers import LLaDA

MASK, V = 7, 8


class Absolute(nn.Module):
    """Logits of a position from its own embedding and the mean over what is real: padding must move neither."""

    def __init__(self, classes=V):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.ids = nn.Embedding(V, 16)
        self.places = nn.Embedding(32, 16)
        self.out = nn.Linear(16, classes)
        for parameter in self.parameters():
            parameter.data.copy_(torch.randn(parameter.shape, generator=generator))

    def forward(self, tokens, attention_mask: torch.Tensor | None = None, position_ids: torch.Tensor | None = None):
        if position_ids is None:
            position_ids = torch.arange(tokens.shape[1])[None]
        x = self.ids(tokens) + self.places(position_ids)
        real = torch.ones_like(tokens) if attention_mask is None else attention_mask.long()
        mean = (x * real[..., None]).double().sum(1) / real.sum(1)[:, None]
        return self.out(x + torch.tanh(mean.float())[:, None])


class Decorated(Absolute):
    forward = functools.wraps(Absolute.forward)(lambda self, *args, **kwargs: Absolute.forward(self, *args, **kwargs))


class Handing:
    def __init__(self, model):
        self.model = model

    def __call__(self, tokens, **others):
        return self.model(tokens, **others)


class Surrounding(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.backbone = model

    def forward(self, tokens, **others):
        return SimpleNamespace(logits=self.backbone(tokens, **others))


class Offering:
    def __init__(self, model):
        self.model = model

    def offered(self, tokens, attention_mask=None, position_ids=None):
        return self.model(tokens, attention_mask=attention_mask, position_ids=position_ids)


def decorated(model):
    @functools.wraps(model)
    def call(*args, **kwargs):
        return model(*args, **kwargs)

    return call


def undeclared(model):
    return lambda *args, **kwargs: model(*args, **kwargs)


def accelerated(model):
    hooks = pytest.importorskip("accelerate.hooks")
    return hooks.add_hook_to_module(model, hooks.ModelHook())


def adapted(model, **options):
    peft = pytest.importorskip("peft")
    return peft.get_peft_model(model, peft.LoraConfig(target_modules=["ids"]), **options)


WRAPPERS = {
    "itself": lambda model: model,
    "DataParallel": nn.DataParallel,
    "AveragedModel": AveragedModel,
    "compile": lambda model: torch.compile(model, backend="eager"),
    "compile of AveragedModel": lambda model: torch.compile(AveragedModel(model), backend="eager"),
    "partial": lambda model: functools.partial(model),
    "partial of partial": lambda model: functools.partial(decorated(functools.partial(model))),
    "forward": lambda model: model.forward,
    "call": lambda model: model.__call__,
    "bound method": lambda model: Offering(model).offered,
    "functools.wraps": decorated,
    "functools.wraps twice": lambda model: decorated(decorated(model.forward)),
    "a decorator that says nothing": undeclared,
    "lambda": lambda model: lambda tokens, **others: model(tokens, **others),
    "object": Handing,
    "module": Surrounding,
    "script": torch.jit.script,
    "decorated forward": lambda model: Decorated(),
    "accelerate's hook": accelerated,
    "peft": adapted,
    "peft, mixed": lambda model: adapted(model, mixed=True),
    "peft in DataParallel": lambda model: nn.DataParallel(adapted(model)),
    "attach": lambda model: attach(model, QualityHead(V), hidden=lambda output: output),
    "attach in AveragedModel": lambda model: AveragedModel(attach(model, QualityHead(V), hidden=lambda output: output)),
    "attach to AveragedModel": lambda model: attach(AveragedModel(model), QualityHead(V), hidden=lambda output: output),
}


def rows():
    """Three rows of 8 real tokens, and the same padded on the left by 0, 3 and 5 of another id."""
    real = torch.tensor([[1, 2, 3, MASK, MASK, MASK, 4, MASK], [5] * 4 + [MASK] * 4, [0, MASK] * 4])
    padded, mask = torch.full((3, 13), 6), torch.zeros(3, 13, dtype=torch.bool)
    for row, left in enumerate((0, 3, 5)):
        padded[row, left : left + 8], mask[row, left : left + 8] = real[row], True
    return real, padded, mask


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
def test_padded_rows_are_what_they_are_alone(wrap):
    model = wrap(Absolute())
    real, padded, mask = rows()
    sampler, seed = LLaDA(steps=3, temperature=0.7), torch.tensor([3, 4, 5])
    alone = sampler(Absolute(), real, mask_id=MASK, seed=seed).tokens
    together = sampler(model, padded, mask_id=MASK, attention_mask=mask, seed=seed).tokens
    assert torch.equal(together[mask].view(3, 8), alone)


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
def test_positions_reach_the_model_without_padding(wrap):
    real = rows()[0]
    place = torch.arange(8).flip(0).expand(3, 8)
    sampler, seed = LLaDA(steps=3), torch.tensor([3, 4, 5])
    expected = sampler(lambda tokens: Absolute()(tokens, position_ids=place), real, mask_id=MASK, seed=seed).tokens
    got = sampler(wrap(Absolute()), real, mask_id=MASK, positions=place, seed=seed)
    assert torch.equal(got.tokens, expected)
    assert not torch.equal(got.tokens, sampler(Absolute(), real, mask_id=MASK, seed=seed).tokens)
    resumed = sampler(
        wrap(Absolute()),
        mask_id=MASK,
        state=sampler(
            wrap(Absolute()), real, mask_id=MASK, positions=place, seed=seed, callback=lambda event: True
        ).state,
    )
    assert torch.equal(resumed.tokens, expected), "going on from a state, too"
