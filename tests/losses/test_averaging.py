"""Gradients through wrappers: two gloo processes against one, and wrappers that need no second process."""

from __future__ import annotations

import copy
import functools
import subprocess
import sys

import pytest
import torch
import two_processes as two
from torch import nn
from torch.optim.swa_utils import AveragedModel

from mdmcorrect.adapters import RightShifted
from mdmcorrect.heads import QualityHead, attach
from mdmcorrect.losses import prism_loss

pytest.importorskip("accelerate")


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> dict[str, str]:
    """What each check of two_processes says, in both processes: nothing, or what is wrong."""
    directory = tmp_path_factory.mktemp("processes")
    logs = [(directory / f"{rank}.log").open("w") for rank in range(2)]
    processes = [
        subprocess.Popen([sys.executable, two.__file__, str(rank), str(directory)], stdout=log, stderr=log)
        for rank, log in enumerate(logs)
    ]
    try:
        for process, log in zip(processes, logs, strict=True):
            assert process.wait(timeout=600) == 0, (directory / log.name).read_text()[-3000:]
    finally:
        for process, log in zip(processes, logs, strict=True):
            process.kill()
            log.close()
    one, other = (torch.load(directory / f"{rank}.pt") for rank in range(2))
    assert one.keys() == other.keys()
    return {name: one[name] or other[name] for name in one}


def test_the_comparison_notices_what_is_not_averaged(found):
    assert found["not averaged"] == ""


@pytest.mark.parametrize("name", [name for name, _ in two.cases()])
def test_averaged_gradients_are_those_of_one_process(found, name):
    assert found[name] == ""


@pytest.mark.parametrize("where", ["inside", "alone"])
@pytest.mark.parametrize("wrapper", ["DDP", "DDP, static", "FSDP"])
def test_output_layers_within_a_wrapper(found, where, wrapper):
    assert found[f"output layer {where}, {wrapper}"] == ""


def test_ddpp(found):
    assert found["ddpp, DDP"] == ""


def test_what_would_go_wrong_in_silence_is_refused(found):
    refused = {name: text for name, text in found.items() if name.startswith("refused: ")}
    assert len(refused) == 17
    assert not any(refused.values()), refused


def accelerated(model: nn.Module) -> nn.Module:
    from accelerate import Accelerator

    return Accelerator(cpu=True).prepare(model)


ALONE = {
    "DataParallel": nn.DataParallel,
    "compiled": two.compiled,
    "accelerate": accelerated,
    "averaged": AveragedModel,
    "averaged, compiled": lambda model: two.compiled(AveragedModel(model)),
    "partial": lambda model: functools.partial(model),
}


@pytest.mark.parametrize("wrapper", ALONE)
@pytest.mark.parametrize(
    "options",
    [{}, {"train_backbone": False}, {"mdlm_weight": 0.0}, {"own head": True}],
    ids=["both", "head alone", "no mdlm", "the head given"],
)
def test_prism_within_a_wrapper_is_prism_without(wrapper, options):
    alone = two.seeded(two.judged)
    copied = copy.deepcopy(alone)
    model, data = ALONE[wrapper](copied), two.half(0, 0)
    inner = model.module if isinstance(model, AveragedModel) else copied
    if wrapper == "averaged, compiled":
        inner = model._orig_mod.module
    options = dict(options)
    if options.pop("own head", False):
        options["head"] = inner.quality_head
    two.prism(model, data, **options).backward()
    options.pop("head", None)
    two.prism(alone, two.half(0, 0), **options).backward()
    expected, found = two.gradients(alone), two.gradients(inner)
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-6)


def test_a_frozen_backbone_is_frozen_for_the_loss_alone():
    model = two.seeded(two.judged)
    with model.judging(train_backbone=False, train_logits=False):
        out = model(two.half(0, 0)["x0"])
    assert not out.hidden.requires_grad
    assert not out.logits.requires_grad
    assert out.quality_logit.requires_grad

    def stopped() -> None:
        with model.judging(train_backbone=False, train_logits=False):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert model(two.half(0, 0)["x0"]).logits.requires_grad


def test_functions_around_an_attached_model():
    """A function cannot be looked into: its output's quality is trained, and with a frozen backbone it is refused."""
    alone, data = two.seeded(two.judged), two.half(0, 0)
    loss = prism_loss(lambda tokens: alone(tokens), **data, k=2, n_y=2).loss
    torch.testing.assert_close(loss, two.prism(alone, two.half(0, 0)))
    with pytest.raises(TypeError, match="head: expected a callable"):
        prism_loss(lambda tokens: alone(tokens), **data, train_backbone=False)
    with pytest.raises(TypeError, match="head: expected a callable"):
        prism_loss(two.Net(), **data)


def test_a_custom_forward_reaches_the_head_within_the_model():
    alone = two.seeded(two.judged)

    def forward(model, tokens, *, time, attention_mask, condition):
        return model(tokens)

    for options in ({}, {"train_backbone": False}):
        losses = [two.prism(alone, two.half(0, 0), **options, **how) for how in ({}, {"forward": forward})]
        torch.testing.assert_close(*losses)


def test_an_attached_backbone_whose_output_layer_is_the_losses():
    whole = two.seeded(two.judged)
    backbone = two.Backbone()
    backbone.load_state_dict(whole.model.state_dict())
    bare = attach(backbone, copy.deepcopy(whole.quality_head), hidden=lambda out: out, logits=lambda out: None)
    assert bare(two.half(0, 0)["x0"]).logits is None
    options = {"k": 2, "temperature": 0.0}
    one = prism_loss(whole, **two.half(0, 0), **options)
    other = prism_loss(bare, **two.half(0, 0), **options, output_layer=backbone.lm_head)
    torch.testing.assert_close(one.loss, other.loss)
    one.loss.backward()
    other.loss.backward()
    expected, found = two.gradients(whole), two.gradients(bare)
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("head_beside", [False, True])
def test_a_shifted_model_is_judged_where_its_tokens_are(head_beside):
    """Its logits are moved, its hidden states and their quality are not."""
    judged, made = two.seeded(two.judged), two.seeded(lambda: QualityHead(two.D))

    class Shifted(nn.Module):
        def forward(self, tokens):
            out = judged(tokens)
            logits = torch.cat([out.logits[:, :1], out.logits[:, :-1]], 1)
            return {"logits": logits, "hidden": out.hidden, "quality_logit": out.quality_logit}

    options = {"head": made} if head_beside else {}
    results = [prism_loss(model, **two.half(0, 0), **options).loss for model in (RightShifted(judged), Shifted())]
    torch.testing.assert_close(*results)
    frozen = prism_loss(RightShifted(judged), **two.half(0, 0), **options, train_backbone=False).loss
    frozen.backward()
    assert judged.model.embed.weight.grad is None


def test_a_head_that_is_another_one_is_asked():
    model, other = two.seeded(two.judged), two.seeded(lambda: QualityHead(two.D))
    prism_loss(model, **two.half(0, 0), head=other).loss.backward()
    assert other.out.weight.grad.abs().sum() > 0
    assert model.quality_head.out.weight.grad is None
