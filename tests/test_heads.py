import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from mdmcorrect.heads import QualityHead, attach
from mdmcorrect.losses import prism_loss


class Net(nn.Module):
    """Embedding, a mixing layer, a norm, a token projection; returns bare logits."""

    def __init__(self, vocabulary=6, size=8):
        super().__init__()
        self.embed, self.mix = nn.Embedding(vocabulary, size), nn.Linear(size, size)
        self.norm, self.project = nn.LayerNorm(size), nn.Linear(size, vocabulary)

    def states(self, tokens):
        x = self.embed(tokens)
        return self.norm(torch.tanh(self.mix(x + x.mean(1, keepdim=True))))

    def forward(self, tokens):
        return self.project(self.states(tokens))


class HuggingFaceLike(Net):
    def forward(self, tokens, attention_mask=None):
        hidden = self.states(tokens)
        return SimpleNamespace(logits=self.project(hidden), hidden_states=(self.embed(tokens), hidden), loss=None)


TOKENS = torch.tensor([[1, 2, 3, 0], [4, 5, 1, 2]])


def randomize(module, seed=0):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return module


def test_untrained_head_says_one_half():
    head = QualityHead(8, mlp_hidden=16, condition_size=3)
    quality = head.probability(torch.randn(2, 5, 8), torch.randn(2, 3))
    assert torch.equal(quality, torch.full((2, 5), 0.5))


@pytest.mark.parametrize("norm", ["layer", "rms", None])
@pytest.mark.parametrize("mlp_hidden", [None, 6])
@pytest.mark.parametrize("condition_size", [None, 3])
def test_head_matches_numpy(norm, mlp_hidden, condition_size):
    head = randomize(QualityHead(8, norm=norm, mlp_hidden=mlp_hidden, condition_size=condition_size).double())
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(2, 5, 8, generator=generator, dtype=torch.float64)
    condition = None if condition_size is None else torch.randn(2, 3, generator=generator, dtype=torch.float64)
    p = {name: value.detach().numpy() for name, value in head.named_parameters()}
    x = hidden.numpy()
    if norm == "layer":
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5) * p["norm.weight"] + p[
            "norm.bias"
        ]
    elif norm == "rms":
        x = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5) * p["norm.weight"]
    if condition is not None:
        shift, scale = np.split(condition.numpy() @ p["modulation.weight"].T + p["modulation.bias"], 2, -1)
        x = x * (1 + scale[:, None]) + shift[:, None]
    if mlp_hidden is not None:
        x = nn.functional.gelu(torch.from_numpy(x @ p["mlp.0.weight"].T + p["mlp.0.bias"])).numpy()
    expected = (x @ p["out.weight"].T + p["out.bias"])[..., 0]
    np.testing.assert_allclose(head(hidden, condition).detach().numpy(), expected, rtol=1e-10, atol=1e-12)


def test_head_stays_in_float32_under_autocast_and_with_bfloat16_parameters():
    hidden = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0))
    head = randomize(QualityHead(8))
    expected = head(hidden)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(head(hidden), expected)
    rounded = copy.deepcopy(head).bfloat16()
    result = rounded(hidden.bfloat16())
    assert result.dtype == torch.float32
    torch.testing.assert_close(result, rounded.float()(hidden.bfloat16().float()))
    assert QualityHead(8, mlp_hidden=4).bfloat16()(hidden.bfloat16()).dtype == torch.float32


def test_head_errors_name_the_argument():
    with pytest.raises(ValueError, match="hidden_size: expected a positive size, got 0"):
        QualityHead(0)
    with pytest.raises(ValueError, match="norm: expected one of"):
        QualityHead(8, norm="batch")
    for size in (8.0, "8", True, [8, 9], None):
        with pytest.raises(TypeError, match="hidden_size: expected a whole number"):
            QualityHead(size)
    with pytest.raises(ValueError, match="condition_size: expected a positive size, got -1"):
        QualityHead(8, condition_size=-1)
    with pytest.raises(ValueError, match="norm: expected one of"):
        QualityHead(8, norm=["layer"])
    for eps in (0, -1e-5, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="eps: expected a positive number"):
            QualityHead(8, eps=eps)
    assert QualityHead(np.int64(8), eps=np.float32(1e-5)).settings["hidden_size"] == 8
    with pytest.raises(TypeError, match="hidden: expected a floating tensor, got tuple"):
        QualityHead(8)((torch.zeros(2, 5, 8),))
    with pytest.raises(TypeError, match=r"hidden: expected a floating tensor, got torch\.int64"):
        QualityHead(8)(torch.zeros(2, 5, 8).long())
    with pytest.raises(ValueError, match=r"hidden: expected \[..., L, 8\], got \(2, 5, 7\)"):
        QualityHead(8)(torch.zeros(2, 5, 7))
    with pytest.raises(ValueError, match="condition: this head was made with condition_size=3"):
        QualityHead(8, condition_size=3)(torch.zeros(2, 5, 8))
    with pytest.raises(ValueError, match=r"condition: expected \[..., 3\], got \(2, 4\)"):
        QualityHead(8, condition_size=3)(torch.zeros(2, 5, 8), torch.zeros(2, 4))


@pytest.mark.parametrize(
    ("model", "how"),
    [
        (Net(), {"module": "norm"}),
        (Net(), {"module": "project", "capture": "input"}),
        (HuggingFaceLike(), {}),
        (HuggingFaceLike(), {"hidden": lambda output: output.hidden_states[-1]}),
    ],
    ids=["hook on output", "hook on input", "hidden_states", "function"],
)
def test_attach_reaches_the_hidden_states(model, how):
    head = randomize(QualityHead(8))
    both = attach(model, head, **how)
    output = both(TOKENS)
    torch.testing.assert_close(output.hidden, model.states(TOKENS))
    torch.testing.assert_close(output.quality, head.probability(model.states(TOKENS)))
    torch.testing.assert_close(output.logits, model.project(model.states(TOKENS)))
    assert {name.split(".")[0] for name in both.state_dict()} == {"model", "quality_head"}


def test_attached_model_trains_its_head_by_prism_and_survives_a_copy():
    both = attach(Net(), QualityHead(8), module="norm")
    x0 = torch.randint(0, 5, (4, 6), generator=torch.Generator().manual_seed(0))
    loss = prism_loss(both, x0, mask_id=5, train_backbone=False, generator=torch.Generator().manual_seed(1)).loss
    loss.backward()
    assert both.quality_head.out.weight.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in both.model.parameters())
    twin = copy.deepcopy(both)
    randomize(both, seed=5)
    torch.testing.assert_close(twin(TOKENS).hidden, twin.model.states(TOKENS))


def test_attach_passes_the_condition_on():
    class Conditioned(Net):
        def forward(self, tokens, condition):
            hidden = self.states(tokens)
            return {"logits": self.project(hidden), "hidden": hidden, "condition": condition}

    head = randomize(QualityHead(8, condition_size=2))
    net, condition = Conditioned(), torch.randn(2, 2)
    output = attach(net, head)(TOKENS, condition=condition)
    torch.testing.assert_close(output.quality_logit, head(net.states(TOKENS), condition))
    assert output.condition is condition


def test_attach_errors():
    with pytest.raises(ValueError, match="hidden, module: give one of them"):
        attach(Net(), QualityHead(8), hidden=lambda output: output, module="norm")
    with pytest.raises(ValueError, match=r"no submodule named 'blocks\.9'"):
        attach(Net(), QualityHead(8), module="blocks.9")
    with pytest.raises(ValueError, match="capture: expected 'output' or 'input', got 'middle'"):
        attach(Net(), QualityHead(8), module="norm", capture="middle")
    with pytest.raises(ValueError, match=r"capture: expected module=, .* beside 'input', got None"):
        attach(Net(), QualityHead(8), hidden=lambda output: output, capture="input")
    with pytest.raises(TypeError, match="module: expected the name of a submodule, got LayerNorm"):
        attach(net := Net(), QualityHead(8), module=net.norm)
    for name in ("hidden", "logits", "condition"):
        with pytest.raises(TypeError, match=f"{name}: expected a function of the model's output, got str"):
            attach(Net(), QualityHead(8), **{name: "norm"})
    with pytest.raises(TypeError, match="model: expected a module, got dict"):
        attach({}, QualityHead(8))
    unaware = attach(nn.Sequential(net, nn.Identity()), QualityHead(8))
    with pytest.raises(TypeError, match="the model Sequential takes neither 'attention_mask'"):
        prism_loss(unaware, TOKENS, mask_id=5, attention_mask=torch.ones_like(TOKENS), check=False)
    with pytest.raises(TypeError, match="head: expected a module, got the class QualityHead"):
        attach(Net(), QualityHead)
    with pytest.raises(TypeError, match="model: expected a module beside module=, got function"):
        attach(lambda tokens: tokens, QualityHead(8), module="norm")
    with pytest.raises(TypeError, match=r"hidden: expected hidden states \[B, L, D\] from it, got tuple"):
        attach(HuggingFaceLike(), QualityHead(8), hidden=lambda output: output.hidden_states)(TOKENS)
    with pytest.raises(TypeError, match="model: hidden states are needed"):
        attach(Net(), QualityHead(8))(TOKENS)

    class Unused(Net):
        def __init__(self):
            super().__init__()
            self.spare = nn.Identity()

    with pytest.raises(RuntimeError, match="'spare' did not run"):
        attach(Unused(), QualityHead(8), module="spare")(TOKENS)
