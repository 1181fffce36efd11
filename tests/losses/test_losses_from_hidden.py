"""The losses from hidden states against those from logits: the same values, gradients and parts."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from mdmcorrect import losses

V, D, MASK = 23, 6, 4


class Example(SimpleNamespace):
    """A batch, its hidden states, and the layer that makes logits of them."""

    def __init__(self, dtype: torch.dtype = torch.float64, bias: bool = True) -> None:
        generator = torch.Generator().manual_seed(0)
        self.layer = nn.Linear(D, V, bias=bias, dtype=dtype)
        with torch.no_grad():
            for parameter in self.layer.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
        self.hidden, self.corrector = (
            torch.randn(5, 9, D, generator=generator).to(dtype).requires_grad_() for _ in range(2)
        )
        self.x0 = torch.randint(MASK + 1, V, (5, 9), generator=generator)
        self.z = torch.where(torch.rand(5, 9, generator=generator) < 0.6, MASK, self.x0)
        self.t = torch.rand(5, generator=generator, dtype=torch.float64) * 0.8 + 0.1
        self.roles = {
            "fixed": torch.rand(5, 9, generator=generator) < 0.2,
            "loss_mask": torch.rand(5, 9, generator=generator) < 0.8,
            "attention_mask": torch.arange(9) < torch.tensor([[9], [5], [9], [7], [1]]),
        }

    def inputs(self) -> list[Tensor]:
        return [self.hidden, self.corrector, *self.layer.parameters()]


def same(example: Example, one: losses.LossOutput, other: losses.LossOutput, tolerance: float = 1e-12) -> None:
    torch.testing.assert_close(one.loss, other.loss, rtol=tolerance, atol=tolerance)
    assert one.parts.keys() == other.parts.keys()
    for name, part in one.parts.items():
        torch.testing.assert_close(part, other.parts[name], rtol=tolerance, atol=tolerance, msg=name)
    gradients = [
        torch.autograd.grad(out.loss, example.inputs(), allow_unused=True, retain_graph=True) for out in (one, other)
    ]
    for mine, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("normalizer", ["token", "BL", "answer"])
@pytest.mark.parametrize("bias", [True, False])
def test_mdlm(normalizer, bias):
    example = Example(bias=bias)
    options = {"mask_id": MASK, "normalizer": normalizer, "schedule": "cosine", **example.roles}
    batch = example.x0, example.z, example.t
    from_logits = losses.mdlm_loss_from_logits(example.layer(example.hidden), *batch, **options)
    same(example, losses.mdlm_loss_from_hidden(example.hidden, example.layer, *batch, **options), from_logits)
    if not bias:
        same(
            example, losses.mdlm_loss_from_hidden(example.hidden, example.layer.weight, *batch, **options), from_logits
        )


@pytest.mark.parametrize("options", [{}, {"upweight_errors": True, "score_fixed": True, "weighted": False}])
def test_proseco(options):
    example = Example()
    options = {"mask_id": MASK, "mdlm_weight": 0.5, "corrector_weight": 2.0, **example.roles, **options}
    logits = example.layer(example.hidden)
    tokens = losses.corrector_inputs(logits, example.x0, example.z, mask_id=MASK)
    batch = example.x0, example.z, tokens, example.t
    same(
        example,
        losses.proseco_loss_from_hidden(example.hidden, example.corrector, example.layer, *batch, **options),
        losses.proseco_loss_from_logits(logits, example.layer(example.corrector), *batch, **options),
    )


@pytest.mark.parametrize("input_positions", ["all", "masked"])
def test_corrector_inputs(input_positions):
    example = Example(torch.float32)
    options = {"mask_id": MASK, "free": ~example.roles["fixed"], "input_positions": input_positions}
    logits, batch = example.layer(example.hidden), (example.x0, example.z)
    expected = losses.corrector_inputs(logits, *batch, **options)
    tokens = losses.corrector_inputs_from_hidden(example.hidden, example.layer, *batch, **options)
    assert torch.equal(tokens, expected)
    assert not tokens.requires_grad
    generator = torch.Generator().manual_seed(1)
    options |= {"inputs": "sample", "temperature": 0.7, "generator": generator}
    tokens = torch.stack(
        [losses.corrector_inputs_from_hidden(example.hidden, example.layer, *batch, **options) for _ in range(400)]
    )
    law = torch.softmax(logits.detach().index_fill(-1, torch.tensor([MASK]), -torch.inf) / 0.7, -1)
    drawn = (example.z == MASK) & options["free"]
    share = torch.nn.functional.one_hot(tokens, V).float().mean(0)[drawn]
    assert (share - law[drawn]).abs().max() < 5 * (0.25 / 400) ** 0.5
    assert (tokens[:, ~options["free"]] == example.x0[~options["free"]]).all()


def test_prism_inputs():
    example = Example(torch.float32)
    logits = example.layer(example.hidden)
    options = {"mask_id": MASK, "k": 2, "positions": "confidence", "leftmost": 4, "temperature": 0.0}
    expected = losses.prism_inputs(logits, example.z, **options)
    for mine, theirs in zip(
        losses.prism_inputs_from_hidden(example.hidden, example.layer, example.z, **options), expected, strict=True
    ):
        assert torch.equal(mine, theirs)
    options = {"mask_id": MASK, "k": 3, "n_y": 200, "top_p": 0.6}
    y, selected = losses.prism_inputs_from_hidden(example.hidden, example.layer, example.z, **options)
    scores = logits.detach().index_fill(-1, torch.tensor([MASK]), -torch.inf).softmax(-1)
    ordered, order = scores.sort(-1, descending=True)
    kept = (ordered.cumsum(-1) <= 0.6).index_fill(-1, torch.tensor([0]), True)
    allowed = torch.zeros_like(kept).scatter(-1, order, kept).repeat_interleave(200, 0)
    assert allowed.gather(-1, y[..., None])[..., 0][selected].all()
    assert y[selected].unique().numel() > 5
    assert torch.equal(y[~selected], example.z.repeat_interleave(200, 0)[~selected])


class Backbone(nn.Module):
    """Hidden states by an embedding; logits too where there is an output layer."""

    def __init__(self, layer: nn.Linear | None) -> None:
        super().__init__()
        self.embedding = nn.Embedding(V, D)
        self.layer = layer

    def forward(self, tokens: Tensor) -> SimpleNamespace:
        hidden = self.embedding(tokens) + self.embedding(tokens).mean(1, keepdim=True)
        return SimpleNamespace(hidden=hidden, **({} if self.layer is None else {"logits": self.layer(hidden)}))


@pytest.mark.parametrize("loss", [losses.mdlm_loss, losses.proseco_loss, losses.prism_loss])
def test_models_that_return_hidden_states(loss):
    """The same draws up to the generator's, so with argmax the same losses."""
    example = Example(torch.float32)
    whole, bare = Backbone(example.layer), Backbone(None)
    bare.embedding = whole.embedding
    options = {"mask_id": MASK, "fixed": example.roles["fixed"]}
    if loss is losses.prism_loss:
        options |= {"head": lambda hidden, condition: hidden.sum(-1), "temperature": 0.0, "k": 2}
    results = [
        loss(model, example.x0, output_layer=layer, generator=torch.Generator().manual_seed(3), **options)
        for model, layer in ((whole, None), (bare, example.layer))
    ]
    for name, part in results[0].parts.items():
        torch.testing.assert_close(part, results[1].parts[name], msg=name)
    parameters = [whole.embedding.weight, *example.layer.parameters()]
    for mine, theirs in zip(*(torch.autograd.grad(out.loss, parameters) for out in results), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)
    if loss is losses.mdlm_loss:  # hidden states as the output itself
        out = loss(
            lambda tokens: bare(tokens).hidden,
            example.x0,
            output_layer=example.layer,
            generator=torch.Generator().manual_seed(3),
            **options,
        )
        assert torch.equal(out.loss, results[1].loss)


def test_half_precision_under_autocast():
    example = Example(torch.float32)
    batch = example.x0, example.z, example.t
    with torch.autocast("cpu", torch.bfloat16):
        loss = losses.mdlm_loss_from_hidden(example.hidden, example.layer, *batch, mask_id=MASK).loss
    assert loss.dtype == torch.float64  # the times'
    exact = losses.mdlm_loss_from_logits(example.layer(example.hidden), *batch, mask_id=MASK).loss
    torch.testing.assert_close(loss, exact, rtol=2e-2, atol=0)


def test_compiles_without_a_graph_break():
    example = Example(torch.float32)
    batch = example.x0, example.z, example.t

    def step(hidden: Tensor) -> Tensor:
        return losses.mdlm_loss_from_hidden(hidden, example.layer, *batch, mask_id=MASK).loss

    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(example.hidden), step(example.hidden))


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        (
            {"hidden": torch.zeros(5, 9, D).long()},
            TypeError,
            "hidden: expected floating hidden states, got torch.int64",
        ),
        ({"hidden": torch.zeros(5, 8, D)}, ValueError, r"hidden: expected \[5, 9, D\], got \[5, 8, 6\]"),
        ({"output_layer": nn.Linear(D + 1, V)}, ValueError, r"output_layer: expected weights \[V, 6\], got \[23, 7\]"),
        ({"output_layer": torch.zeros(D)}, TypeError, r"output_layer: expected a weight \[V, D\].*, got \[6\]"),
        ({"output_layer": "lm_head"}, TypeError, "output_layer: expected a weight .*, got str"),
        ({"mask_id": V}, ValueError, "mask_id: expected an id within the 23 ids of output_layer, got 23"),
    ],
)
def test_bad_arguments(change, error, text):
    example = Example(torch.float32)
    arguments = {"hidden": example.hidden, "output_layer": example.layer, "mask_id": MASK, **change}
    with pytest.raises(error, match=text):
        losses.mdlm_loss_from_hidden(x0=example.x0, z=example.z, t=example.t, **arguments)
    if "mask_id" not in change and "hidden" not in change:
        with pytest.raises(error, match=text):
            losses.prism_inputs_from_hidden(example.hidden, arguments["output_layer"], example.z, mask_id=MASK)
