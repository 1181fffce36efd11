"""What a model takes, seen through wrappers; and that left-padded rows then do not depend on their batch."""

import functools
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from mdmcorrect.adapters import Guided, RightShifted
from mdmcorrect.heads import QualityHead, attach
from mdmcorrect.likelihood import log_likelihood
from mdmcorrect.losses import mdlm_loss, prism_loss, proseco_loss
from mdmcorrect.model import Output, Request, as_model
from mdmcorrect.samplers import FixedSteps, LLaDA
from mdmcorrect.wrappers import Accepted, accepted, layers, unwrapped

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


class WithHidden(Absolute):
    def forward(self, tokens, attention_mask=None, position_ids=None):
        logits = super().forward(tokens, attention_mask, position_ids)
        return SimpleNamespace(logits=logits, hidden=logits)


LOSSES = {
    "mdlm": lambda model, x0, **options: mdlm_loss(model, x0, mask_id=MASK, **options),
    "proseco": lambda model, x0, **options: proseco_loss(model, x0, mask_id=MASK, **options),
    "prism": lambda model, x0, **options: prism_loss(model, x0, mask_id=MASK, k=2, **options),
}
CLEAN = torch.tensor([[1, 2, 3, 4, 5, 6], [5, 5, 0, 0, 5, 1]])


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
@pytest.mark.parametrize("side", ["left", "right"])
def test_losses_of_padded_rows_are_those_of_the_rows(loss, side, monkeypatch):
    """The same masks, drawn for the real columns, on either side of padding."""
    seen = []

    class Recording(WithHidden):
        def forward(self, tokens, attention_mask=None, position_ids=None):
            seen.append((tokens, attention_mask, position_ids))
            return super().forward(tokens, attention_mask, position_ids)

    head = QualityHead(V)
    nn.init.normal_(head.out.weight, generator=torch.Generator().manual_seed(1))
    model = attach(nn.DataParallel(Recording()), head)
    shape = (0, 4) if side == "right" else (4, 0)
    x0 = nn.functional.pad(CLEAN, shape, value=6)
    real = nn.functional.pad(torch.ones_like(CLEAN, dtype=torch.bool), shape, value=False)
    loss(model, x0, attention_mask=real, t=torch.full((2,), 0.5))
    assert len(seen) == (1 if loss is LOSSES["mdlm"] else 2)
    for tokens, mask, places in seen:
        assert places[mask].view(-1, 6).tolist() == [[0, 1, 2, 3, 4, 5]] * len(tokens)
        whole = Absolute()(tokens, mask, places)[mask].view(-1, 6, V)
        assert torch.equal(whole, Absolute()(tokens[mask].view(-1, 6))), "what is real does not see padding"
    seen.clear()
    loss(model, CLEAN, t=torch.full((2,), 0.5))
    assert all(mask is None and places is None for _, mask, places in seen)


def test_losses_call_models_of_requests():
    """An adapter in a loss is read as in a sampler; a model without a mask to see is refused alike."""

    def plain(tokens):
        return torch.nn.functional.one_hot((tokens + 1) % V, V) * 3.0

    t, generator = torch.full((2,), 0.5), torch.Generator()
    by_hand = mdlm_loss(
        lambda tokens: torch.cat([plain(tokens)[:, :1], plain(tokens)[:, :-1]], 1),
        CLEAN,
        mask_id=MASK,
        t=t,
        generator=generator.manual_seed(1),
    )
    shifted = mdlm_loss(RightShifted(plain), CLEAN, mask_id=MASK, t=t, generator=generator.manual_seed(1))
    assert torch.equal(by_hand.loss, shifted.loss)
    with pytest.raises(TypeError, match="attention_mask: was given to the loss, but the model plain takes neither"):
        mdlm_loss(plain, CLEAN, mask_id=MASK, attention_mask=torch.ones_like(CLEAN))


def test_likelihood_does_not_see_padding():
    real, padded, mask = rows()
    clean = torch.where(real == MASK, 2, real)
    padded[mask] = clean.flatten()
    seed = torch.tensor([3, 4, 5])
    alone = log_likelihood(Absolute(), clean, mask_id=MASK, samples=4, seed=seed)
    model = functools.partial(AveragedModel(Absolute()))
    together = log_likelihood(model, padded, mask_id=MASK, samples=4, attention_mask=mask, seed=seed)
    assert torch.equal(alone.value, together.value)


def test_an_adapter_passes_positions_through_wrappers():
    real, padded, mask = rows()
    sampler, seed = LLaDA(steps=3), torch.tensor([3, 4, 5])
    for around in (lambda m: Guided(m, 0.5), RightShifted, lambda m: RightShifted(Guided(m, 0.5))):
        alone = sampler(around(Absolute()), real, mask_id=MASK, seed=seed).tokens
        wrapped = around(nn.DataParallel(Absolute()))
        together = sampler(wrapped, padded, mask_id=MASK, attention_mask=mask, seed=seed).tokens
        # a shifted model reads a row's first column from the padding before it
        ours = slice(1, None) if wrapped.__class__ is RightShifted else slice(None)
        assert torch.equal(together[mask].view(3, 8)[:, ours], alone[:, ours])


def test_fixed_steps_see_what_they_are_given():
    real, padded, mask = rows()
    seed = torch.tensor([3, 4, 5])
    alone = LLaDA(steps=3)(Absolute(), real, mask_id=MASK, seed=seed).tokens
    run = FixedSteps(LLaDA(steps=3), AveragedModel(Absolute()), mask_id=MASK)
    assert torch.equal(run(padded, attention_mask=mask, seed=seed).tokens[mask].view(3, 8), alone)
    assert torch.equal(run(real, seed=seed).tokens, alone), "the same run, of a canvas without padding"
    right = torch.cat([real, torch.full((3, 2), 6)], 1)
    assert torch.equal(run(right, lengths=torch.tensor([8, 8, 8]), seed=seed).tokens[:, :8], alone)
    place = torch.arange(8).flip(0).expand(3, 8)
    expected = LLaDA(steps=3)(Absolute(), real, mask_id=MASK, positions=place, seed=seed).tokens
    assert torch.equal(run(real, positions=place, seed=seed).tokens, expected)
    told = FixedSteps(LLaDA(steps=3), Absolute(), mask_id=MASK, padded=True)
    assert told.start(real).padded
    assert not run.start(real).padded
    with pytest.raises(ValueError, match="lengths, attention_mask: expected none with padded=False"):
        FixedSteps(LLaDA(steps=3), Absolute(), mask_id=MASK, padded=False).start(padded, attention_mask=mask)
    with pytest.raises(TypeError, match=r"attention_mask: was given to the sampler, but the model .* takes neither"):
        FixedSteps(LLaDA(steps=3), lambda tokens: Absolute()(tokens), mask_id=MASK)(padded, attention_mask=mask)


def test_the_request_says_what_did_not_arrive(caplog):
    requests = []

    class Asking:
        def __init__(self, model):
            self.model = as_model(model)

        def __call__(self, tokens, request):
            requests.append(request)
            return self.model(tokens, request)

    class Relative(nn.Module):
        def forward(self, tokens, attention_mask=None):
            return Absolute()(tokens, attention_mask)

    real, padded, mask = rows()
    place = torch.arange(8).flip(0).expand(3, 8)

    def unpassed(model, tokens=real, **options):
        requests.clear()
        LLaDA(steps=1)(model, tokens, mask_id=MASK, **options)
        return requests[0].unpassed

    assert unpassed(Asking(AveragedModel(Absolute())), padded, attention_mask=mask) == frozenset()
    assert unpassed(Asking(AveragedModel(Relative()))) == frozenset()
    assert caplog.records == []
    assert unpassed(Asking(Guided(AveragedModel(Relative()), 0.5)), padded, attention_mask=mask) == {"position_ids"}
    assert caplog.records == [], "a model of relative positions loses nothing"
    assert unpassed(Asking(Relative()), positions=place) == {"position_ids"}
    assert [r.message for r in caplog.records] == ["model Asking takes no position_ids: it counts positions by itself"]
    assert unpassed(lambda tokens, request: Asking(Absolute())(tokens, request), positions=place) == frozenset()


def test_what_is_accepted():
    def some(tokens, /, mask, *, position_ids=None):
        return mask, position_ids

    assert accepted(some) == Accepted(frozenset({"tokens", "mask", "position_ids"}))
    assert accepted(functools.partial(some, 1, 2)).names == {"position_ids"}, "what is given already is not taken again"
    assert accepted(functools.wraps(some)(lambda tokens: tokens)).names == {"tokens"}, "a wrapper that drops the rest"
    assert accepted(torch.sin) == accepted(3) == Accepted()
    assert accepted(undeclared(some)).takes("condition")
    assert not accepted(undeclared(some)).names


def test_what_is_unwrapped():
    inner = Absolute()
    headed = attach(inner, QualityHead(V), hidden=lambda output: output)
    assert unwrapped(nn.DataParallel(headed)) is headed, "a model with a head is a model of its own"
    assert unwrapped(inner) is inner
    assert unwrapped(some := Handing(inner)) is some
    assert [type(layer) for layer in layers(AveragedModel(nn.DataParallel(inner)))][:2] == [
        AveragedModel,
        nn.DataParallel,
    ]
    for wrap in ("compile", "partial of partial", "forward", "call", "functools.wraps twice", "peft in DataParallel"):
        assert isinstance(unwrapped(WRAPPERS[wrap](Absolute())), Absolute), wrap


def test_models_of_the_hub():
    """Their own names for positions; RoBERTa's kind counts from behind its padding id."""
    transformers = pytest.importorskip("transformers")
    small = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "vocab_size": V,
        "max_position_embeddings": 40,
        "hidden_dropout_prob": 0.0,
    }
    real, padded, mask = rows()
    seed = torch.tensor([3, 4, 5])
    for kind in ("Bert", "Roberta", "Esm", "ModernBert"):
        extra = {"ModernBert": {"pad_token_id": 6, "cls_token_id": 1, "sep_token_id": 2}}.get(kind, {"pad_token_id": 1})
        if kind == "Esm":
            extra = {"pad_token_id": 1, "mask_token_id": MASK, "token_dropout": False}
        torch.manual_seed(0)
        config = getattr(transformers, f"{kind}Config")(**small, **extra)
        model = getattr(transformers, f"{kind}ForMaskedLM")(config).eval()
        assert "condition" not in accepted(model).names, "what no model of theirs takes is not swallowed"
        with torch.no_grad():
            places = torch.arange(8).expand(3, 8)
            told = as_model(nn.DataParallel(model))(real, request_of(real, places))
            if kind != "Roberta" and kind != "Esm":  # which count ids other than padding: real has an id 1
                torch.testing.assert_close(told.logits, model(real).logits)
            else:
                no_padding = real.where(real != 1, 2)
                told = as_model(model)(no_padding, request_of(no_padding, places))
                torch.testing.assert_close(told.logits, model(no_padding).logits)
        alone = LLaDA(steps=3)(model, real, mask_id=MASK, positions=places, seed=seed).tokens
        together = LLaDA(steps=3)(model, padded, mask_id=MASK, attention_mask=mask, seed=seed).tokens
        assert torch.equal(together[mask].view(3, 8), alone), kind
        with pytest.raises(TypeError, match="condition: was given to the sampler"):
            LLaDA(steps=3)(model, real, mask_id=MASK, condition=torch.zeros(3))


def request_of(tokens, places):
    rows = torch.arange(len(tokens))
    return Request(rows, torch.ones_like(tokens).bool(), rows.double(), rows, places, placed=True)


@pytest.fixture
def group():
    """A process group of one."""
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


class OfRequests(Absolute):
    def forward(self, tokens, request):
        return Output(super().forward(tokens, request.attention_mask, request.position_ids))


def test_distributed_models(group):
    """DDP, FSDP2, both under torch.compile, around a head, around peft, and around a model of requests."""
    ddp = nn.parallel.DistributedDataParallel
    wrappers = {
        "DDP": ddp(Absolute()),
        "compiled": torch.compile(ddp(Absolute()), backend="eager"),
        "head": ddp(attach(Absolute(), QualityHead(V), hidden=lambda output: output)),
        "head on DDP": attach(ddp(Absolute()), QualityHead(V), hidden=lambda output: output),
        "peft": ddp(adapted(Absolute())),
        "requests": ddp(OfRequests()),
        "compiled requests": torch.compile(OfRequests(), backend="eager"),
        "fully_shard": torch.distributed.fsdp.fully_shard(Absolute()),
    }
    real, padded, mask = rows()
    method, seed = LLaDA(steps=3, temperature=0.7), torch.tensor([3, 4, 5])
    alone = method(Absolute(), real, mask_id=MASK, seed=seed).tokens
    for name, model in wrappers.items():
        together = method(model, padded, mask_id=MASK, attention_mask=mask, seed=seed).tokens
        assert torch.equal(together[mask].view(3, 8), alone), name
    assert isinstance(unwrapped(wrappers["compiled"]), Absolute)
    assert hasattr(unwrapped(wrappers["head"]), "quality_head")
