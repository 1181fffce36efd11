"""Output layers that are more than their weight: every loss must see what a call of the layer gives."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune

from mdmcorrect import losses
from mdmcorrect.losses import output_layer as reading

V, D, MASK = 19, 6, 4


class Scaled(nn.Linear):
    def forward(self, hidden: Tensor) -> Tensor:
        return super().forward(hidden) / 3


class Capped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(D, V)

    def forward(self, hidden: Tensor) -> Tensor:
        return 2 * torch.tanh(self.linear(hidden) / 2)


class Transform(nn.Module):
    """BERT's: a dense layer, an activation and a norm before the decoder; its weight is not the head."""

    def __init__(self) -> None:
        super().__init__()
        self.dense, self.norm, self.decoder = nn.Linear(D, D), nn.LayerNorm(D), nn.Linear(D, V)
        self.weight = self.decoder.weight

    def forward(self, hidden: Tensor) -> SimpleNamespace:
        return SimpleNamespace(logits=self.decoder(self.norm(nn.functional.gelu(self.dense(hidden)))))


class Int8(nn.Module):
    """As quantised layers do it: the weight's numbers are not those that count."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randint(-127, 128, (V, D), dtype=torch.int8), requires_grad=False)
        self.scale = nn.Parameter(torch.rand(V) / 64)

    def forward(self, hidden: Tensor) -> Tensor:
        return nn.functional.linear(hidden, self.weight.to(hidden.dtype) * self.scale[:, None].to(hidden.dtype))


class Mixing(nn.Module):
    """Reads its neighbours, so rows may not be given to it alone."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(D, V)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.linear(hidden - hidden.mean(1, keepdim=True))


def hooked(register: str) -> nn.Linear:
    layer = nn.Linear(D, V)
    hooks = {
        "register_forward_hook": lambda module, args, output: output * 1.5,
        "register_forward_pre_hook": lambda module, args: (args[0] * 1.5,),
        "register_full_backward_hook": lambda module, grad_input, grad_output: (grad_input[0] * 2,),
        "register_full_backward_pre_hook": lambda module, grad_output: (grad_output[0] * 2,),
    }
    getattr(layer, register)(hooks[register])
    return layer


def own_forward() -> nn.Linear:
    layer = nn.Linear(D, V)
    plain = layer.forward
    layer.forward = lambda hidden: plain(hidden) + 0.5 * hidden.sum(-1, keepdim=True) * torch.arange(V)
    return layer


class Doubled(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return 2 * weight


def parametrized() -> nn.Linear:
    return parametrize.register_parametrization(nn.Linear(D, V), "weight", Doubled())


def a_function():
    layer = Capped()
    return lambda hidden: layer(hidden)


LAYERS = {
    "scaled": lambda: Scaled(D, V),
    "scaled (no bias)": lambda: Scaled(D, V, bias=False),
    "capped": Capped,
    "transform": Transform,
    "int8": Int8,
    "mixing": Mixing,
    "sequential": lambda: nn.Sequential(nn.LayerNorm(D), nn.Linear(D, V)),
    "forward hook": lambda: hooked("register_forward_hook"),
    "forward pre-hook": lambda: hooked("register_forward_pre_hook"),
    "backward hook": lambda: hooked("register_full_backward_hook"),
    "backward pre-hook": lambda: hooked("register_full_backward_pre_hook"),
    "own forward": own_forward,
    "parametrization": parametrized,
    "weight norm": lambda: parametrizations.weight_norm(nn.Linear(D, V)),
    "old weight norm": lambda: nn.utils.weight_norm(nn.Linear(D, V)),
    "old spectral norm": lambda: nn.utils.spectral_norm(nn.Linear(D, V)).eval(),
    "pruned": lambda: prune.l1_unstructured(nn.Linear(D, V), "weight", 0.5),
    "DataParallel": lambda: nn.DataParallel(Scaled(D, V)),
    "compiled": lambda: torch.compile(Scaled(D, V), backend="eager"),
    "function": a_function,
}
# Those whose logits need not be made although they are not nn.Linear.
KNOWN = {"compiled linear": lambda: torch.compile(nn.Linear(D, V), backend="eager")}


def batch(dtype: torch.dtype = torch.float64) -> SimpleNamespace:
    generator = torch.Generator().manual_seed(0)
    hidden, corrector = (torch.randn(4, 7, D, generator=generator, dtype=dtype).requires_grad_() for _ in range(2))
    x0 = torch.randint(MASK + 1, V, (4, 7), generator=generator)
    z = torch.where(torch.rand(4, 7, generator=generator) < 0.6, MASK, x0)
    t = torch.rand(4, generator=generator, dtype=torch.float64) * 0.8 + 0.1
    return SimpleNamespace(hidden=hidden, corrector=corrector, x0=x0, z=z, t=t)


def logits_of(layer, hidden: Tensor) -> Tensor:
    answer = layer(hidden)
    return answer if isinstance(answer, Tensor) else answer.logits


def trained(layer) -> list[Tensor]:
    return [p for p in layer.parameters() if p.requires_grad] if isinstance(layer, nn.Module) else []


def compare(layer, tolerance: float = 1e-10, dtype: torch.dtype = torch.float64) -> None:
    """Losses and gradients from hidden states are those from the logits of a call."""
    data, generator = batch(dtype), torch.Generator()
    inputs = [data.hidden, data.corrector, *trained(layer)]
    tokens = losses.corrector_inputs_from_hidden(data.hidden, layer, data.x0, data.z, mask_id=MASK)
    torch.manual_seed(1)
    logits = logits_of(layer, data.hidden)
    assert torch.equal(tokens, losses.corrector_inputs(logits, data.x0, data.z, mask_id=MASK))
    for options in ({"temperature": 0.0, "positions": "confidence"}, {"temperature": 0.0}):
        options |= {"mask_id": MASK, "k": 2, "generator": generator}
        mine = losses.prism_inputs_from_hidden(
            data.hidden, layer, data.z, **options | {"generator": generator.manual_seed(2)}
        )
        theirs = losses.prism_inputs(logits, data.z, **options | {"generator": generator.manual_seed(2)})
        assert torch.equal(mine.tokens, theirs.tokens)
        assert torch.equal(mine.selected, theirs.selected)
    rest = data.x0, data.z
    mine = losses.mdlm_loss_from_hidden(data.hidden, layer, *rest, data.t, mask_id=MASK)
    mine.loss = (
        mine.loss
        + losses.proseco_loss_from_hidden(data.hidden, data.corrector, layer, *rest, tokens, data.t, mask_id=MASK).loss
    )
    theirs = losses.mdlm_loss_from_logits(logits, *rest, data.t, mask_id=MASK)
    theirs.loss = (
        theirs.loss
        + losses.proseco_loss_from_logits(
            logits, logits_of(layer, data.corrector), *rest, tokens, data.t, mask_id=MASK
        ).loss
    )
    torch.testing.assert_close(mine.loss, theirs.loss, rtol=tolerance, atol=tolerance)
    for one, other in zip(
        torch.autograd.grad(mine.loss, inputs, allow_unused=True, retain_graph=True),
        torch.autograd.grad(theirs.loss, inputs, allow_unused=True),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", [*LAYERS, *KNOWN])
def test_the_layer_that_is_called_is_the_layer_that_counts(name):
    torch.manual_seed(0)
    layer = (LAYERS | KNOWN)[name]()
    if name == "function":  # its parameters are out of reach
        layer.__closure__[0].cell_contents.double()
    else:
        layer.double()
    found = reading.as_product(torch.zeros(1, 1, D, dtype=torch.float64), layer)
    assert (found is not None) == (name in KNOWN)
    compare(layer)


def test_global_hooks_count():
    handle = nn.modules.module.register_module_forward_hook(
        lambda module, args, output: output * 2 if isinstance(module, nn.Linear) else output
    )
    try:
        compare(nn.Linear(D, V).double())
    finally:
        handle.remove()


@pytest.mark.parametrize("loss", [losses.mdlm_loss, losses.proseco_loss, losses.prism_loss])
def test_losses_that_call_the_model(loss):
    """A layer with dropout is drawn from and scored once: one mask for the draft and for the loss, as in a model."""
    embedding = nn.Embedding(V, D)
    layer = nn.Sequential(nn.Dropout(0.5), nn.Linear(D, V))

    class Whole(nn.Module):
        def forward(self, tokens: Tensor) -> SimpleNamespace:
            hidden = embedding(tokens) + embedding(tokens).mean(1, keepdim=True)
            return SimpleNamespace(hidden=hidden, logits=layer(hidden))

    def bare(tokens: Tensor) -> SimpleNamespace:
        return SimpleNamespace(last_hidden_state=embedding(tokens) + embedding(tokens).mean(1, keepdim=True))

    options = {"mask_id": MASK}
    if loss is losses.prism_loss:
        options |= {"head": lambda hidden, condition: hidden.sum(-1), "k": 2}
    found = []
    for model, output_layer in ((Whole(), None), (bare, layer)):
        torch.manual_seed(5)
        out = loss(model, batch().x0, output_layer=output_layer, generator=torch.Generator().manual_seed(3), **options)
        found.append((out.loss, *torch.autograd.grad(out.loss, [embedding.weight, *layer.parameters()])))
    for mine, theirs in zip(*found, strict=True):
        torch.testing.assert_close(mine, theirs)


peft = pytest.importorskip("peft")


def lora(steps: int = 1, dtype: torch.dtype = torch.float64, **config) -> nn.Module:
    """A linear layer with adapters whose second factor is not zero; what it learnt is in the adapters."""

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lm_head = nn.Linear(D, V)

        def forward(self, hidden: Tensor) -> Tensor:
            return self.lm_head(hidden)

    torch.manual_seed(0)
    config = {"r": 2, "target_modules": ["lm_head"], **config}
    model = peft.get_peft_model(Model(), peft.LoraConfig(**config))
    if steps > 1:
        model.add_adapter("second", peft.LoraConfig(**config | {"r": 3, "lora_alpha": 5}))
        model.base_model.set_adapter(["default", "second"])
    layer = model.base_model.model.lm_head
    for name, parameter in layer.named_parameters():
        if "lora_" in name:
            nn.init.normal_(parameter.data)
    return layer.to(dtype)


@pytest.mark.parametrize(
    ("config", "fused"),
    [
        ({}, True),
        ({"use_rslora": True, "lora_alpha": 3}, True),
        ({"steps": 2}, True),
        ({"lora_dropout": 0.5}, True),
        ({"use_dora": True}, False),
        ({"lora_bias": True}, False),
    ],
)
def test_lora(config, fused):
    layer = lora(**config)
    layer.eval()
    assert (reading.as_product(torch.zeros(1, 1, D, dtype=torch.float64), layer) is not None) == fused
    compare(layer)
    assert all(parameter.grad is None for parameter in layer.parameters())


def test_lora_dropout_in_training():
    layer, data = lora(lora_dropout=0.5), batch()
    rest = data.x0, data.z, data.t
    torch.manual_seed(7)
    mine = losses.mdlm_loss_from_hidden(data.hidden, layer, *rest, mask_id=MASK).loss
    torch.manual_seed(7)
    theirs = losses.mdlm_loss_from_logits(layer(data.hidden), *rest, mask_id=MASK).loss
    torch.testing.assert_close(mine, theirs)
    parameters = trained(layer)
    assert len(parameters) == 2
    for one, other in zip(torch.autograd.grad(mine, parameters), torch.autograd.grad(theirs, parameters), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize(
    "state", ["merged", "disabled", "merged, then disabled", "hook on the adapter", "hook beneath"]
)
def test_lora_states(state):
    layer = lora()
    if "merged" in state:
        layer.merge()
    if "disabled" in state:
        layer.enable_adapters(False)
    if "hook" in state:
        part = layer.base_layer if "beneath" in state else layer.lora_B["default"]
        part.register_forward_hook(lambda module, args, output: output * 2)
    compare(layer)


def test_lora_keeps_small_adapters_in_half_precision():
    """Added to a bfloat16 weight of size one, an adapter below its last bit would vanish."""
    layer = lora(dtype=torch.bfloat16)
    with torch.no_grad():
        layer.base_layer.weight.fill_(1.0)
        for parameter in (layer.lora_A["default"].weight, layer.lora_B["default"].weight):
            parameter.copy_(torch.where(parameter > 0, 1 / 32, -1 / 32))
    data = batch(torch.bfloat16)
    mine = losses.mdlm_loss_from_hidden(data.hidden * 8, layer, data.x0, data.z, data.t, mask_id=MASK).loss
    exact = copy.deepcopy(layer).double()
    theirs = losses.mdlm_loss_from_logits(exact(data.hidden.double() * 8), data.x0, data.z, data.t, mask_id=MASK).loss
    base = losses.mdlm_loss_from_hidden(data.hidden * 8, layer.base_layer, data.x0, data.z, data.t, mask_id=MASK).loss
    assert (mine - theirs).abs() < 0.2 * (base - theirs).abs()


@pytest.mark.parametrize("what", ["hook", "subclass", "adapter"])
def test_embeddings_that_are_more_than_a_table_are_refused(what):
    layer = nn.Embedding(V, D)
    if what == "hook":
        layer.register_forward_hook(lambda module, args, output: output * 2)
    elif what == "subclass":
        layer = type("Scaled", (nn.Embedding,), {})(V, D)
    else:
        model = nn.ModuleDict({"embed": layer})
        layer = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["embed"])).base_model.model["embed"]
    data = batch(torch.float32)
    with pytest.raises(TypeError, match="output_layer: an embedding with hooks, adapters or a class of its own"):
        losses.mdlm_loss_from_hidden(data.hidden, layer, data.x0, data.z, data.t, mask_id=MASK)


@pytest.mark.parametrize(
    ("layer", "error", "text"),
    [
        (SimpleNamespace(weight=torch.zeros(V, D)), TypeError, "output_layer: expected a weight .*SimpleNamespace"),
        (nn.Linear(D, MASK), ValueError, "mask_id: expected an id within the 4 ids of output_layer"),
        (lambda hidden: hidden.sum(-1), ValueError, r"output_layer: expected logits \[4, 7, V\]"),
        (lambda hidden: (hidden, 1), TypeError, "output_layer: expected a tensor of logits, got tuple"),
        (lambda hidden: hidden[..., :3], ValueError, "mask_id: expected an id within the 3 ids of output_layer"),
    ],
)
def test_bad_layers(layer, error, text):
    data = batch(torch.float32)
    with pytest.raises(error, match=text):
        losses.mdlm_loss_from_hidden(data.hidden, layer, data.x0, data.z, data.t, mask_id=MASK)


@pytest.mark.parametrize("name", ["final_logit_softcapping", "logits_scaling", "logit_scale", "lm_head_multiplier"])
def test_what_a_configuration_says_of_logits_is_not_left_out(name):
    class Backbone(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.config = nn.Embedding(V, D), SimpleNamespace(**{name: 3.0})

        def forward(self, tokens: Tensor) -> Tensor:
            return self.embed(tokens)

    model, layer, x0 = Backbone(), nn.Linear(D, V), batch().x0
    for loss in (losses.mdlm_loss, losses.proseco_loss, losses.prism_loss):
        options = {"head": lambda hidden, condition: hidden.sum(-1)} if loss is losses.prism_loss else {}
        for given in (layer, layer.weight, lora(dtype=torch.float32)):
            with pytest.raises(ValueError, match=rf"output_layer: the model's configuration says {name}=3\.0"):
                loss(nn.DataParallel(model), x0, mask_id=MASK, output_layer=given, **options)
        loss(model, x0, mask_id=MASK, output_layer=lambda hidden: 3 * layer(hidden), **options)
        model.config = SimpleNamespace(**{name: None})
        loss(model, x0, mask_id=MASK, output_layer=layer, **options)
        model.config = SimpleNamespace(**{name: 3.0})
