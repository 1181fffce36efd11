"""Attached heads and output layers on models of transformers and peft, as people call them."""

from __future__ import annotations

import copy
import sys

import pytest
import torch
from torch import nn

from mdmcorrect import losses
from mdmcorrect.heads import FILE_NAME, QualityHead, attach

transformers = pytest.importorskip("transformers")

V, D, MASK = 32, 16, 31


def llama(**options) -> nn.Module:
    config = transformers.LlamaConfig(
        vocab_size=V,
        hidden_size=D,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        is_causal=False,
        **options,
    )
    torch.manual_seed(0)
    return transformers.LlamaForCausalLM(config).eval()


def bert() -> nn.Module:
    config = transformers.BertConfig(
        vocab_size=V, hidden_size=D, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2
    )
    torch.manual_seed(0)
    return transformers.BertForMaskedLM(config).eval()


def head(size: int = D, **options) -> QualityHead:
    torch.manual_seed(1)
    made = QualityHead(size, **options)
    for parameter in made.parameters():
        nn.init.normal_(parameter)
    return made


def tokens(rows: int = 3, length: int = 7) -> torch.Tensor:
    return torch.randint(0, MASK, (rows, length), generator=torch.Generator().manual_seed(2))


def last_states(model: nn.Module) -> torch.Tensor:
    return model(tokens(), output_hidden_states=True).hidden_states[-1]


@pytest.mark.parametrize("make", [llama, bert])
@pytest.mark.parametrize("how", [{}, {"hidden": lambda out: out.hidden_states[-1]}], ids=["default", "function"])
def test_hidden_states_are_asked_for(make, how):
    model = make()
    out = attach(model, head(), **how)(tokens())
    torch.testing.assert_close(out.hidden, last_states(model))
    torch.testing.assert_close(out.quality_logit, head()(last_states(model)))
    assert model.config.output_hidden_states is False


def test_a_head_beside_a_model_gets_its_hidden_states():
    options = {"mask_id": MASK, "k": 2, "mdlm_weight": 0.5}
    model, made = llama(), head()
    found = [
        losses.prism_loss(each, tokens(), **options, **more, generator=torch.Generator().manual_seed(0)).loss
        for each, more in ((model, {"head": made}), (attach(model, made), {}))
    ]
    torch.testing.assert_close(*found)
    with pytest.raises(TypeError, match=r"hidden states are needed.*of a Hugging Face model pass its base model"):
        losses.mdlm_loss(model, tokens(), mask_id=MASK, output_layer=model.lm_head)


def test_models_without_logits_judge_too():
    model = llama().model
    out = attach(model, head())(tokens())
    assert out.logits is None
    torch.testing.assert_close(out.hidden, model(tokens()).last_hidden_state)


@pytest.mark.parametrize("name", ["norm", "model.norm"])
def test_a_submodule_is_found_by_the_end_of_its_name(name):
    peft = pytest.importorskip("peft")
    model = llama()
    states = last_states(model)
    torch.testing.assert_close(attach(model, head(), module=name)(tokens()).hidden, states)
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["q_proj"]))
    torch.testing.assert_close(attach(adapted, head(), module=name)(tokens()).hidden, states)
    torch.testing.assert_close(
        attach(adapted, head(), hidden=lambda out: out.hidden_states[-1])(tokens()).hidden, states
    )


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("final_norm", "no submodule named 'final_norm'; it has 'model.norm'"),
        ("Norm", "no submodule named 'Norm'; it has 'model.norm'"),
        ("layernorm", "no submodule named 'layernorm'; it has 'model.layers.0.input_layernorm', "),
        ("input_layernorm", "'input_layernorm' may be any of 'model.layers.0.input_layernorm', 'model.layers.1.input_"),
        ("model.normal", "no submodule named 'model.normal'; it has 'model.norm'"),
        ("zzz", "no submodule named 'zzz'; it has 'model', 'lm_head'"),
    ],
)
def test_candidates_are_listed(name, text):
    with pytest.raises(ValueError, match=f"^module: .*{text}"):
        attach(llama(), head(), module=name)


def test_an_adapter_put_around_the_attached_model():
    """peft wraps layers of the head and of the model after they were attached; nothing of them is dropped."""
    peft = pytest.importorskip("peft")
    judged = attach(llama(), head(), module="norm")
    plain = judged(tokens())
    names = ["q_proj", "lm_head", "quality_head.out"]
    adapted = peft.get_peft_model(judged, peft.LoraConfig(r=2, target_modules=names))
    torch.testing.assert_close(adapted(tokens()).quality_logit, plain.quality_logit)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter)
    out = adapted(tokens())
    found = judged.quality_head
    torch.testing.assert_close(
        out.quality_logit,
        found.out(nn.functional.layer_norm(out.hidden, (D,), found.norm.weight, found.norm.bias))[..., 0],
    )
    assert not torch.allclose(out.quality_logit, plain.quality_logit)
    loss = losses.prism_loss(adapted, tokens(), mask_id=MASK, k=2, mdlm_weight=0.5).loss
    loss.backward()
    learnt = {name for name, p in adapted.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert any("quality_head.out.lora_B" in name for name in learnt)
    assert any("lm_head.lora_B" in name for name in learnt)


@pytest.mark.parametrize("part", ["out", "norm", "modulation", "mlp.0"])
@pytest.mark.parametrize("gradients", [True, False])
def test_hooks_in_a_head_count(part, gradients):
    made, hidden = head(mlp_hidden=None if part == "out" else 5, condition_size=3), torch.randn(2, 5, D)
    condition = torch.randn(2, 3)
    with torch.set_grad_enabled(gradients):
        before = made(hidden, condition)
        made.get_submodule(part).register_forward_hook(lambda module, args, output: output * 0)
        after = made(hidden, condition)
    assert not torch.allclose(before, after)
    if part == "out":
        assert not after.any()


@pytest.mark.parametrize("loss", [losses.mdlm_loss, losses.proseco_loss, losses.prism_loss])
def test_losses_of_a_base_model_with_its_output_layer(loss):
    """``model.model`` gives ``last_hidden_state``, ``model.lm_head`` makes logits of it; BERT's head is no layer."""
    for whole, base, layer in ((m := llama(), m.model, m.lm_head), (b := bert(), b.bert, b.cls)):
        options = {"mask_id": MASK, "generator": torch.Generator()}
        if loss is losses.prism_loss:
            options |= {"head": head(), "k": 2, "temperature": 0.0}
        found = []
        for model, given in ((whole, None), (base, layer)):
            if given is None and loss is losses.prism_loss:
                model = attach(whole, options["head"])
            options["generator"].manual_seed(4)
            whole.zero_grad()
            out = loss(model, tokens(), output_layer=given, **options)
            out.loss.backward()
            found.append(
                (out.loss.detach(), {n: p.grad.clone() for n, p in whole.named_parameters() if p.grad is not None})
            )
        torch.testing.assert_close(found[0][0], found[1][0])
        assert found[0][1].keys() == found[1][1].keys()
        for name, gradient in found[0][1].items():
            torch.testing.assert_close(gradient, found[1][1][name], rtol=1e-4, atol=1e-6, msg=name)


def test_soft_capped_models_are_refused_with_their_bare_layer():
    config = transformers.Gemma2Config(
        vocab_size=V,
        hidden_size=D,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
    )
    model = transformers.Gemma2ForCausalLM(config)
    with pytest.raises(ValueError, match=r"final_logit_softcapping=30\.0, which this layer leaves out"):
        losses.mdlm_loss(model.model, tokens(), mask_id=MASK, output_layer=model.lm_head)

    def capped(hidden):
        return torch.tanh(model.lm_head(hidden) / 30) * 30

    results = [
        losses.mdlm_loss(each, tokens(), mask_id=MASK, output_layer=layer, generator=torch.Generator().manual_seed(0))
        for each, layer in ((model, None), (model.model, capped))
    ]
    torch.testing.assert_close(results[0].loss, results[1].loss)


def test_it_has_what_a_trainer_asks_for():
    model = llama(tie_word_embeddings=True)
    judged = attach(model, head(), module="norm").to(torch.bfloat16)
    assert judged.config is model.config
    assert judged.dtype == torch.bfloat16
    assert judged.device == torch.device("cpu")
    assert judged.get_input_embeddings() is model.model.embed_tokens
    assert judged.main_input_name == "input_ids"
    judged.gradient_checkpointing_enable()
    assert judged.is_gradient_checkpointing
    judged.gradient_checkpointing_disable()
    assert not judged.is_gradient_checkpointing
    for absent in ("generate", "from_pretrained", "push_to_hub"):  # which would leave the head out
        assert not hasattr(judged, absent)
    assert not hasattr(attach(nn.Linear(2, 2), head(), hidden=lambda out: out), "config")


def test_gradient_checkpointing_changes_no_gradient():
    found = []
    for kwargs in (None, {"use_reentrant": False}):
        model = llama().train()
        judged = attach(model, head(), module="model.layers.1.post_attention_layernorm")
        if kwargs is not None:
            judged.gradient_checkpointing_enable(gradient_checkpointing_kwargs=kwargs)
        generator = torch.Generator().manual_seed(0)
        losses.prism_loss(judged, tokens(), mask_id=MASK, k=2, generator=generator).loss.backward()
        found.append({name: p.grad for name, p in judged.named_parameters() if p.grad is not None})
        assert model.model.layers[1].post_attention_layernorm._heard is None
    assert found[0].keys() == found[1].keys()
    for name, gradient in found[0].items():
        torch.testing.assert_close(gradient, found[1][name])


@pytest.mark.parametrize("tied", [True, False])
def test_it_saves_itself_and_comes_back(tied, tmp_path):
    judged = attach(llama(tie_word_embeddings=tied), head(norm="rms", eps=1e-3), module="norm")
    judged.save_pretrained(tmp_path)
    assert (tmp_path / FILE_NAME).exists()
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    again = attach(model, QualityHead.load(tmp_path), module="norm").eval()
    before, after = judged(tokens()), again(tokens())
    torch.testing.assert_close(before.quality, after.quality)
    torch.testing.assert_close(before.logits, after.logits)
    gathered = {name: value * 2 for name, value in judged.state_dict().items()}
    judged.save_pretrained(tmp_path / "gathered", state_dict=gathered)
    twice = QualityHead.load(tmp_path / "gathered")
    torch.testing.assert_close(twice.out.weight, judged.quality_head.out.weight * 2)
    assert tied == (model.lm_head.weight is model.model.embed_tokens.weight)


def test_tied_weights_go_into_safetensors_and_back(tmp_path):
    safetensors = pytest.importorskip("safetensors.torch")
    judged = attach(llama(tie_word_embeddings=True), head(), module="norm")
    safetensors.save_file(judged.state_dict(), tmp_path / "all.safetensors")
    again = attach(llama(tie_word_embeddings=True), QualityHead(D), module="norm")
    again.load_state_dict(safetensors.load_file(tmp_path / "all.safetensors"))
    assert again.model.lm_head.weight is again.model.model.embed_tokens.weight
    torch.testing.assert_close(again(tokens()).quality, judged(tokens()).quality)
    parameters = judged.state_dict(keep_vars=True)
    assert parameters["model.lm_head.weight"] is parameters["model.model.embed_tokens.weight"]


@pytest.mark.parametrize(
    "options", [{}, {"norm": None}, {"norm": "rms", "mlp_hidden": 5, "eps": 1e-3}, {"condition_size": 3}]
)
def test_heads_save_themselves(options, tmp_path):
    made = head(**options).to(torch.bfloat16)
    made.save(tmp_path / "other.safetensors")
    file = made.save_pretrained(tmp_path / "new" / "folder")
    made.save(tmp_path)
    written = [tmp_path, tmp_path / "other.safetensors"]
    for again in [*map(QualityHead.load, written), *map(QualityHead.from_pretrained, [*written, file, file.parent])]:
        assert again.settings == made.settings
        hidden = torch.randn(2, 5, D)
        condition = torch.randn(2, 3) if "condition_size" in options else None
        assert again.out.weight.dtype == torch.bfloat16
        assert torch.equal(again(hidden, condition), made(hidden, condition))
        assert all(parameter.requires_grad for parameter in again.parameters())


def test_a_head_of_the_hub(tmp_path, monkeypatch):
    hub, file = pytest.importorskip("huggingface_hub"), head().save_pretrained(tmp_path)
    asked = []
    monkeypatch.setattr(hub, "hf_hub_download", lambda *given, **options: asked.append((given, options)) or str(file))
    assert QualityHead.from_pretrained("someone/prism-llada", revision="v1").settings == head().settings
    assert asked == [(("someone/prism-llada", "quality_head.safetensors"), {"revision": "v1"})]
    with pytest.raises(FileNotFoundError, match=r"name: expected a folder with quality_head.safetensors"):
        QualityHead.from_pretrained(tmp_path / "none")


def test_what_cannot_be_saved_says_so(tmp_path, monkeypatch):
    safetensors = pytest.importorskip("safetensors.torch")
    with pytest.raises(TypeError, match="model: Linear has no save_pretrained; save this module's state_dict"):
        attach(nn.Linear(2, 2), head(), hidden=lambda out: out).save_pretrained(tmp_path)
    with pytest.raises(TypeError, match="head: Linear has no save; save this module's state_dict"):
        attach(llama(), nn.Linear(D, 1), module="norm").save_pretrained(tmp_path / "none")
    assert not (tmp_path / "none").exists()
    safetensors.save_file({"weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=r"path: .*holds no quality head"):
        QualityHead.load(tmp_path / "other.safetensors")
    monkeypatch.setitem(sys.modules, "safetensors", None)
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    with pytest.raises(ImportError, match="a quality head is a safetensors file: pip install safetensors"):
        head().save(tmp_path)
    with pytest.raises(ImportError, match="pip install safetensors"):
        QualityHead.load(tmp_path)


@pytest.mark.parametrize("tied", [True, False])
def test_a_trainer_trains_saves_and_resumes(tied, tmp_path):
    pytest.importorskip("accelerate")

    class PrismTrainer(transformers.Trainer):
        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            out = losses.prism_loss(model, inputs["input_ids"], mask_id=MASK, k=2, mdlm_weight=0.5)
            return (out.loss, {"loss": out.loss}) if return_outputs else out.loss

    def trainer(steps: int) -> transformers.Trainer:
        arguments = transformers.TrainingArguments(
            output_dir=str(tmp_path),
            max_steps=steps,
            per_device_train_batch_size=2,
            save_steps=2,
            remove_unused_columns=False,
            gradient_checkpointing=True,
            report_to=[],
            use_cpu=True,
            disable_tqdm=True,
        )
        judged = attach(llama(tie_word_embeddings=tied), head(), module="norm")
        data = [{"input_ids": row} for row in tokens(8)]
        return PrismTrainer(model=judged, args=arguments, train_dataset=data)

    first = trainer(2)
    start = copy.deepcopy(first.model.state_dict())
    first.train()
    assert not torch.equal(first.model.quality_head.out.weight, start["quality_head.out.weight"])
    first.save_model(str(tmp_path / "last"))
    second = trainer(4)
    second.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert second.state.global_step == 4
    again = attach(llama(tie_word_embeddings=tied), QualityHead(D), module="norm")
    safetensors = pytest.importorskip("safetensors.torch")
    again.load_state_dict(safetensors.load_file(tmp_path / "last" / "model.safetensors"))
    torch.testing.assert_close(again(tokens()).quality, first.model.eval()(tokens()).quality)
