"""attn_implementation="mdmcorrect" in models of transformers: as torch's attention wherever a row is real."""

from __future__ import annotations

import ast
import inspect
import logging
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import mdmcorrect
from mdmcorrect.ops import attention_backend
from mdmcorrect.ops.attention_backend import _say_once

WHY = "needs transformers: pip install 'mdmcorrect[transformers]'"
transformers = pytest.importorskip("transformers", reason=WHY)
integration = pytest.importorskip("mdmcorrect.integrations.transformers", reason=WHY)

# What a model calls the keys and values of earlier positions, in its arguments and its output: newer releases "cache".
CACHE = next(
    name
    for name in ("cache", "past_key_values")
    if name in inspect.signature(transformers.LlamaForCausalLM.forward).parameters
)
VOCAB, LENGTH = 41, 37
PADDING = {"none": None, "left": [9, 0, 30], "right": [-4, 0, -36], "both": [5, -6, 0]}
SIZES = {
    "vocab_size": VOCAB,
    "hidden_size": 128,
    "intermediate_size": 160,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}


@pytest.fixture(autouse=True)
def registered():
    integration.register()
    _say_once.cache_clear()


def llama(**changes):
    """A decoder used in both directions, as LLaDA and Dream are, with two query heads to a key head."""
    config = transformers.LlamaConfig(**{**SIZES, "num_key_value_heads": 2, "is_causal": False, **changes})
    return transformers.LlamaForCausalLM(config)


def bert(**changes):
    dropouts = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    return transformers.BertForMaskedLM(transformers.BertConfig(**{**SIZES, **dropouts, **changes}))


def modernbert():
    """Every other layer looks 8 tokens around."""
    config = transformers.ModernBertConfig(
        **SIZES, local_attention=16, global_attn_every_n_layers=2, pad_token_id=0, attn_implementation="mdmcorrect"
    )
    return transformers.ModernBertForMaskedLM(config)


def inputs(padding) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Tokens [3, S] and the mask that a tokenizer gives: n of padding on the left of a row, or -n on its right."""
    tokens = torch.randint(VOCAB, (3, LENGTH), generator=torch.Generator().manual_seed(1))
    if padding is None:
        return tokens, None
    column = torch.arange(LENGTH)
    offsets = torch.tensor(padding)[:, None]
    return tokens, ((column >= offsets) & (column < LENGTH + offsets)).long()


def by(model, implementation, tokens, mask, **options):
    """Logits of the real rows, and the gradients of their squares to every parameter."""
    model.set_attn_implementation(implementation)
    model.zero_grad()
    logits = model(tokens, attention_mask=mask, **options).logits
    logits = logits.flatten(0, 1) if mask is None else logits[mask.bool()]
    logits.float().square().mean().backward()
    return logits.detach(), [p.grad for p in model.parameters() if p.grad is not None]


@pytest.mark.parametrize("padding", PADDING.values(), ids=PADDING)
@pytest.mark.parametrize("make", [llama, bert])
def test_logits_and_gradients_are_those_of_sdpa(make, padding):
    torch.manual_seed(0)
    model, (tokens, mask) = make(), inputs(padding)
    ours, our_grads = by(model, "mdmcorrect", tokens, mask)
    torchs, torch_grads = by(model, "sdpa", tokens, mask)
    torch.testing.assert_close(ours, torchs, rtol=1e-4, atol=1e-5)
    assert len(our_grads) == len(torch_grads) > 20
    for mine, other in zip(our_grads, torch_grads, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("make", [llama, bert])
def test_short_floats(make, dtype):
    """No further from the float64 model than torch's attention in the same dtype, but for a quarter."""
    torch.manual_seed(0)
    model, (tokens, mask) = make(), inputs(PADDING["both"])
    exact, _ = by(model.double(), "sdpa", tokens, mask)
    model = model.to(dtype)
    errors = [(by(model, name, tokens, mask)[0] - exact).square().mean().sqrt() for name in ("mdmcorrect", "sdpa")]
    assert errors[0] <= 1.25 * errors[1]


@pytest.mark.parametrize("make", [llama, bert])
def test_what_stands_on_padding_does_not_matter(make):
    model, (tokens, mask) = make(), inputs(PADDING["both"])
    other = torch.where(mask.bool(), tokens, (tokens + 7) % VOCAB)
    assert torch.equal(by(model, "mdmcorrect", tokens, mask)[0], by(model, "mdmcorrect", other, mask)[0])


@pytest.mark.parametrize(("name", "runs"), [("both", [[5, -5], [0, -6], [0, 0]]), ("none", None)])
def test_padding_arrives_as_starts_and_lengths(name, runs):
    model, (tokens, mask), masks = llama(), inputs(PADDING[name]), []
    model.set_attn_implementation("mdmcorrect")
    model.model.layers[0].self_attn.register_forward_pre_hook(
        lambda module, args, kwargs: masks.append(kwargs["attention_mask"]), with_kwargs=True
    )
    model(tokens, attention_mask=mask)
    if runs is None:
        assert masks == [None]
    else:
        assert masks[0].tolist() == [[[start, LENGTH + rest]] for start, rest in runs]


def test_padding_amid_a_sequence_is_masked_by_torch(caplog):
    tokens, mask = inputs(PADDING["both"])
    mask[2, 11:13] = 0
    model = llama()
    with caplog.at_level(logging.WARNING, "mdmcorrect.ops.attention_backend"):
        ours, _ = by(model, "mdmcorrect", tokens, mask)
    assert "it was given a mask of every query and key" in caplog.text
    torch.testing.assert_close(ours, by(model, "sdpa", tokens, mask)[0])


@pytest.mark.parametrize("additive", [False, True])
def test_a_mask_of_every_query_and_key_goes_to_torch(additive, caplog):
    tokens, _ = inputs(None)
    block = torch.arange(LENGTH) // 8
    mask = (block <= block[:, None]).expand(3, 1, LENGTH, LENGTH)
    if additive:
        mask = torch.zeros(mask.shape).masked_fill(~mask, torch.finfo(torch.float32).min)
    model = llama()
    results = []
    for name in ("mdmcorrect", "sdpa"):
        model.set_attn_implementation(name)
        results.append(model(tokens, attention_mask=mask).logits)
    assert "it was given a mask of every query and key" in caplog.text
    torch.testing.assert_close(*results)


def test_sliding_windows_go_to_torch_and_whole_layers_do_not(caplog):
    model = modernbert().eval()
    tokens, mask = inputs(PADDING["left"])
    ours, _ = by(model, "mdmcorrect", tokens, mask)
    torch.testing.assert_close(ours, by(model, "sdpa", tokens, mask)[0], rtol=1e-4, atol=1e-5)
    assert caplog.text.count("runs as torch's") == 1
    assert (
        integration.padding_runs(
            kv_length=5, mask_function=lambda *_: None, local_size=8, allow_is_bidirectional_skip=True
        )
        is None
    )  # a window wider than the sequence


def test_a_cache_of_earlier_positions(caplog):
    """The rows of a block against a prefix kept from before, as Fast-dLLM does."""
    model, (tokens, _) = llama().eval(), inputs(None)
    results = []
    for name in ("mdmcorrect", "sdpa"):
        model.set_attn_implementation(name)
        with torch.no_grad():
            before = model(tokens[:, :30], use_cache=True)
            kept = {CACHE: getattr(before, CACHE)}
            results.append(model(tokens[:, 30:], **kept).logits)
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-5)
    assert not [record for record in caplog.records if record.name.startswith("mdmcorrect")]


@pytest.mark.parametrize("rows", [6, 9])
def test_cross_attention(rows):
    """Queries that are no rows of the keys see all of them, even where both are as many."""
    q, k, v = (torch.randn(2, 4, n, 32) for n in (rows, 9, 9))
    runs = torch.tensor([[[0, 4]], [[3, 6]]])
    module = SimpleNamespace(config=SimpleNamespace(is_encoder_decoder=True), is_causal=False)
    out, weights = integration.attention_forward(module, q, k, v, runs)
    column = torch.arange(9)
    seen = (column >= runs[:, :, :1]) & (column < runs.sum(-1, keepdim=True))
    expected = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=seen[:, None])
    torch.testing.assert_close(out.transpose(1, 2), expected)
    assert weights is None


def test_compiled_whole():
    model = llama(num_hidden_layers=1)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    tokens, mask = inputs(PADDING["both"])
    expected = by(model, "mdmcorrect", tokens, mask)
    for mine, other in zip(by(compiled, "mdmcorrect", tokens, mask)[1], expected[1], strict=True):
        torch.testing.assert_close(mine, other)
    mask[2, 11:13] = 0
    with pytest.raises(RuntimeError, match="attention_mask: expected padding at the ends only"):
        compiled(tokens, attention_mask=mask)


def test_causal_models_are_refused():
    model, (tokens, mask) = llama(is_causal=True), inputs(PADDING["left"])
    model.set_attn_implementation("mdmcorrect")
    for given in (mask, None):
        with pytest.raises(ValueError, match="this model is causal: set is_causal=False in its config"):
            model(tokens, attention_mask=given)
    model(tokens, attention_mask=mask, is_causal=False)
    q = torch.zeros(1, 2, 3, 32)
    with pytest.raises(ValueError, match=r"^SimpleNamespace: .* this model is causal"):
        integration.attention_forward(SimpleNamespace(is_causal=True), q, q, q, None)


def test_dropout_is_refused_in_training():
    model, (tokens, _) = bert(attention_probs_dropout_prob=0.1), inputs(None)
    model.set_attn_implementation("mdmcorrect")
    model.eval()(tokens)
    with pytest.raises(ValueError, match=r"^dropout: .* got 0\.1 from BertSelfAttention"):
        model.train()(tokens)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"softcap": 30.0}, "^softcap: .* has no capped scores, which SimpleNamespace asks for"),
        ({"s_aux": torch.zeros(2)}, "^s_aux: .* has no sinks"),
        ({"position_bias": torch.zeros(1)}, "^position_bias: .* has no bias"),
        ({"cu_seq_lens_q": torch.zeros(2)}, "^cu_seq_lens_q: .* has no packed sequences"),
        ({"output_attentions": True}, "^output_attentions: .* has no weights to return"),
        ({"sliding_window": 2}, "^sliding_window: SimpleNamespace asks for one of 2"),
        ({"attention_mask": torch.ones(1, 3)}, r"^attention_mask: expected \[B, 1, 2\].* got \[1, 3\]"),
    ],
)
def test_other_kinds_of_attention_are_refused(options, text):
    q = torch.zeros(1, 2, 3, 32)
    module = SimpleNamespace(is_causal=False)
    with pytest.raises(ValueError, match=text):
        integration.attention_forward(module, q, q, q, **{"attention_mask": None, **options})
    integration.attention_forward(module, q, q, q, None, sliding_window=3, softcap=None, output_attentions=False)


def test_the_rest_of_the_package_does_not_import_transformers():
    """But for the command line, in the function that loads a folder of theirs. Docstrings may show it."""
    package = Path(mdmcorrect.__file__).parent
    sources = [path for path in package.rglob("*.py") if path.parent.name != "integrations"]
    assert len(sources) > 50
    loads = {str(path.relative_to(package)): lines for path in sources if (lines := imports_of("transformers", path))}
    assert loads.keys() == {"cli/_loading.py"}
    assert not re.search(r"^(import|from) transformers", (package / "cli" / "_loading.py").read_text(), re.M)


def imports_of(name, path):
    """Lines that import a package, wherever they stand."""
    return [
        node.lineno
        for node in ast.walk(ast.parse(path.read_text()))
        if (isinstance(node, ast.Import) and any(each.name.split(".")[0] == name for each in node.names))
        or (isinstance(node, ast.ImportFrom) and not node.level and (node.module or "").split(".")[0] == name)
    ]


def test_batch_invariance_reaches_every_layer(monkeypatch):
    asked = []

    def record(*tensors, batch_invariant=False, **options):
        asked.append(batch_invariant)
        return attention_backend(*tensors, **options)

    monkeypatch.setattr(integration, "attention_backend", record)
    for invariant in (False, True):
        integration.register(batch_invariant=invariant)
        model = llama()
        model.set_attn_implementation("mdmcorrect")
        model(torch.zeros(1, 5, dtype=torch.int64))
    assert asked == [False, False, True, True]
