"""What two gloo processes compute together, each on its half of a batch, against one process on both halves.

Run by test_averaging.py, all cases in one pair of processes, since starting them is what takes long.
"""

from __future__ import annotations

import copy
import functools
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel as DDP

from mdmcorrect import losses, samplers
from mdmcorrect.adapters import RightShifted
from mdmcorrect.heads import QualityHead, attach

V, D, MASK, ROWS, LENGTH = 11, 8, 10, 3, 6
WAIT = timedelta(seconds=120)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.mix = nn.Embedding(V, D), nn.Linear(D, D)
        self.norm, self.lm_head = nn.LayerNorm(D), nn.Linear(D, V)
        self.register_buffer("scale", torch.full((), 1.5))

    def states(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        return self.norm(torch.tanh(self.mix(x + x.mean(1, keepdim=True))) * self.scale)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.lm_head(self.states(tokens))


class Backbone(Net):
    """Leaves its output layer to the loss."""

    def forward(self, tokens: Tensor) -> Tensor:
        return self.states(tokens)


class Opaque(Net):
    """Answers with an object that wrappers do not look into."""

    def forward(self, tokens: Tensor) -> Any:
        class Answer:
            logits = self.lm_head(self.states(tokens))

        return Answer


def seeded(make: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    module = make()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape) / 2)
    return module


def judged() -> nn.Module:
    return attach(Net(), QualityHead(D, mlp_hidden=5), module="norm")


def frozen() -> nn.Module:
    model = judged()
    model.model.requires_grad_(False)
    return model


def half(rank: int, step: int) -> dict[str, Any]:
    """Clean tokens and the draws of one process."""
    generator = torch.Generator().manual_seed(10 * rank + step)
    x0 = torch.randint(0, MASK, (ROWS, LENGTH), generator=generator)
    return {"x0": x0, "mask_id": MASK, "generator": generator}


def mdlm(model: Any, data: dict[str, Any], **options: Any) -> Tensor:
    return losses.mdlm_loss(model, **data, **options).loss


def proseco(model: Any, data: dict[str, Any]) -> Tensor:
    return losses.proseco_loss(model, **data).loss


def prism(model: Any, data: dict[str, Any], **options: Any) -> Tensor:
    return losses.prism_loss(model, **data, k=2, n_y=2, **options).loss


def rollouts(model: Any, data: dict[str, Any]) -> Tensor:
    """The sampler runs the model out of its wrapper, as often as each process's draws say."""
    sampler = samplers.PRISM(steps=3, unmask="random", remask=None)
    terms = [losses.Term(losses.Rollout(sampler), target) for target in (losses.Right(), losses.Correct())]
    return losses.Objective(terms)(model, **data).loss


def ddpp(model: Any, data: dict[str, Any], *, log_partition: Any) -> Tensor:
    reference = functools.cache(lambda: seeded(Net).eval())()
    reward = data["x0"].double().mean(1).float()
    return losses.ddpp_loss(model, reference, log_partition, log_reward=reward, **data).loss


def objective(*, head: nn.Module | None = None, layer: Any = None) -> losses.Objective:
    """PRISM's terms, so that z's forward and that of y are within the wrapper's one."""
    terms = [
        losses.Term(losses.JointDraw(k=2, n_y=2), losses.Right()),
        losses.Term(losses.Given(), losses.Denoise(), 0.5),
    ]
    return losses.Objective(terms, reader=losses.Reader(head=head, output_layer=layer))


def whole() -> nn.Module:
    """A model with a head, and its loss."""
    return losses.ObjectiveModule(judged(), objective(), mask_id=MASK)


def with_parts() -> nn.Module:
    """A backbone, and a head and an output layer beside it."""
    model, layer = Backbone(), nn.Linear(D, V)
    del model.lm_head
    return losses.ObjectiveModule(model, objective(head=QualityHead(D, vocab_size=V), layer=layer), mask_id=MASK)


def tied() -> nn.Module:
    """An output layer that is a weight of the model."""
    model = Backbone()
    del model.lm_head
    head = QualityHead(D, mlp_hidden=5)
    return losses.ObjectiveModule(model, objective(head=head, layer=model.embed.weight), mask_id=MASK)


def sampled() -> nn.Module:
    """Trained on what its own sampler makes: another number of forwards in each process."""
    sampler = samplers.PRISM(steps=3, unmask="random", remask=None)
    terms = [losses.Term(losses.Rollout(sampler), target) for target in (losses.Right(), losses.Correct())]
    return losses.ObjectiveModule(judged(), losses.Objective(terms), mask_id=MASK)


def module_loss(model: nn.Module, data: dict[str, Any]) -> Tensor:
    return model(data["x0"], generator=data["generator"])["loss"]


def fsdp(model: nn.Module, *parts: str) -> nn.Module:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for name in parts:
        fully_shard(model.get_submodule(name), mesh=mesh)
    return fully_shard(model, mesh=mesh)


def accelerated(model: nn.Module, **options: Any) -> nn.Module:
    from accelerate import Accelerator, DistributedDataParallelKwargs

    return Accelerator(cpu=True, kwargs_handlers=[DistributedDataParallelKwargs(**options)]).prepare(model)


def compiled(model: nn.Module) -> nn.Module:
    return torch.compile(model, backend="eager")


UNUSED = {"find_unused_parameters": True}
WRAPPERS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "DDP": DDP,
    "DDP, unused": functools.partial(DDP, **UNUSED),
    "DDP, static": functools.partial(DDP, static_graph=True),
    "compiled DDP": lambda model: compiled(DDP(model)),
    "DDP of compiled": lambda model: DDP(compiled(model)),
    "FSDP": fsdp,
    "accelerate": accelerated,
}


class Case(NamedTuple):
    loss: Callable[..., Tensor]
    make: Callable[[], nn.Module]
    wrap: Callable[[nn.Module], nn.Module]
    adapt: Callable[[nn.Module], Any] = lambda model: model


def cases() -> Iterator[tuple[str, Case]]:
    for name, wrap in WRAPPERS.items():
        yield f"mdlm, {name}", Case(mdlm, Net, wrap)
        yield f"proseco, {name}", Case(proseco, Net, wrap)
        yield f"prism, {name}", Case(prism, judged, wrap)
        yield f"prism, head frozen apart, {name}", Case(functools.partial(prism, train_backbone=False), frozen, wrap)
    head_alone = functools.partial(prism, train_backbone=False)
    no_mdlm = functools.partial(prism, mdlm_weight=0.0)
    for name in ("DDP, unused", "DDP, static", "FSDP"):
        yield f"prism, head alone, {name}", Case(head_alone, judged, WRAPPERS[name])
        yield f"prism, no mdlm, {name}", Case(no_mdlm, judged, WRAPPERS[name])
    unused = functools.partial(accelerated, **UNUSED)
    yield "prism, head alone, accelerate, unused", Case(head_alone, judged, unused)
    parts = functools.partial(fsdp)
    yield "prism, FSDP in parts", Case(prism, judged, lambda model: parts(model, "model.mix", "quality_head"))
    yield (
        "prism, head alone, FSDP in parts",
        Case(head_alone, judged, lambda model: parts(model, "model.mix", "quality_head")),
    )
    for kind, make in {"whole": whole, "with parts": with_parts, "tied": tied, "sampled": sampled}.items():
        for name in WRAPPERS if kind == "whole" else ("DDP", "FSDP", "accelerate"):
            yield f"module {kind}, {name}", Case(module_loss, make, WRAPPERS[name])
    yield (
        "module whole, FSDP in parts",
        Case(module_loss, whole, lambda model: parts(model, "model.model.mix", "model.quality_head")),
    )
    yield "mdlm, DDP in an adapter", Case(mdlm, Net, DDP, RightShifted)
    yield "rollouts of DDP", Case(rollouts, judged, functools.partial(DDP, **UNUSED))
    yield "prism, DDP in an adapter", Case(prism, judged, DDP, RightShifted)
    yield "mdlm, FSDP in parts", Case(mdlm, Net, lambda model: parts(model, "mix", "lm_head"))


def gradients(model: nn.Module) -> dict[str, Tensor]:
    found = {}
    for name, parameter in model.named_parameters():
        grad = parameter.grad
        if grad is not None:
            grad = grad.full_tensor() if hasattr(grad, "full_tensor") else grad
            if grad.abs().sum() > 0:  # FSDP gives zeros where others give None
                found[name.replace("_orig_mod.", "").replace("module.", "")] = grad.clone()
    return found


def compare(case: Case, rank: int) -> str:
    """ "" if the averaged gradients of two steps are those of one process, else what differs."""
    alone = seeded(case.make)
    model = case.wrap(copy.deepcopy(alone))
    for step in range(2):
        for r in range(2):
            (case.loss(case.adapt(alone), half(r, step)) / 2).backward()
        case.loss(case.adapt(model), half(rank, step)).backward()
        expected, found = gradients(alone), gradients(model)
        if expected.keys() != found.keys():
            return f"step {step}: gradients of {sorted(found)}, expected those of {sorted(expected)}"
        for name, value in expected.items():
            error = (found[name] - value).abs().max().item()
            if not error <= 1e-5 * (1 + value.abs().max().item()):
                return f"step {step}: {name} off by {error}"
        for each in (alone, model):
            each.zero_grad(set_to_none=True)
    return ""


def output_layer(wrap: Callable[[nn.Module], nn.Module], inside: bool, rank: int) -> str:
    """mdlm_loss of a backbone whose output layer is applied by the loss, within the wrapped model or wrapped alone."""
    alone = seeded(Backbone)
    copied = copy.deepcopy(alone)
    if inside:
        model = wrap(copied)
        layer = copied.lm_head
    else:
        layer = wrap(copied.lm_head)
        del copied.lm_head
        model = wrap(copied)
    for r in range(2):
        (mdlm(alone, half(r, 0), output_layer=alone.lm_head) / 2).backward()
    mdlm(model, half(rank, 0), output_layer=layer).backward()
    expected = gradients(alone)
    found = gradients(model)
    if not inside:
        found |= {f"lm_head.{name}": value for name, value in gradients(layer).items()}
    for name, value in expected.items():
        if name not in found or not torch.allclose(found[name], value, rtol=1e-5, atol=1e-6):
            return f"{name}: {'missing' if name not in found else 'different'}"
    return ""


def partition(rank: int) -> str:
    make = functools.partial(losses.LogPartition, V, width=4)
    alone, log_z = seeded(Net), seeded(make)
    model, wrapped = DDP(copy.deepcopy(alone)), DDP(copy.deepcopy(log_z))
    for r in range(2):
        (ddpp(alone, half(r, 0), log_partition=log_z) / 2).backward()
    ddpp(model, half(rank, 0), log_partition=wrapped).backward()
    for one, other in ((alone, model), (log_z, wrapped)):
        expected, found = gradients(one), gradients(other)
        if expected.keys() != found.keys():
            return f"gradients of {sorted(found)}, expected those of {sorted(expected)}"
        if not all(torch.allclose(found[name], expected[name], rtol=1e-4, atol=1e-6) for name in expected):
            return "gradients differ"
    return ""


def refused(call: Callable[[], Any], error: type[Exception], text: str) -> str:
    try:
        call()
    except error as raised:
        return "" if text in str(raised) else f"other text: {raised}"
    return "not refused"


def refusals(rank: int) -> Iterator[tuple[str, Callable[[], str]]]:
    data = half(rank, 0)

    def case(text: str, call: Callable[[], Any], error: type[Exception] = ValueError) -> Callable[[], str]:
        return lambda: refused(call, error, text)

    head = seeded(lambda: QualityHead(D))
    hidden = seeded(Backbone)
    net = seeded(judged)

    def no_mdlm() -> None:
        prism(DDP(seeded(judged)), data, mdlm_weight=0.0)

    outside = "outside of DistributedDataParallel"
    yield "a head beside DDP", case(f"head: has parameters {outside}", lambda: prism(DDP(net.model), data, head=head))
    yield (
        "a head beside DDP, backbone frozen",
        case(
            f"head: has parameters {outside}",
            lambda: prism(DDP(hidden), data, head=head, output_layer=hidden.lm_head, train_backbone=False),
        ),
    )
    shifted = RightShifted(DDP(net.model))
    yield (
        "a head beside DDP in an adapter",
        case(f"head: has parameters {outside}", lambda: prism(shifted, data, head=head)),
    )
    yield (
        "DDP within the attached model",
        case(f"model: has parameters {outside}", lambda: prism(attach(DDP(Net()), head, module="norm"), data)),
    )
    yield (
        "an output layer beside DDP",
        case(f"output_layer: has parameters {outside}", lambda: mdlm(DDP(hidden), data, output_layer=nn.Linear(D, V))),
    )
    yield (
        "a weight beside DDP",
        case("output_layer: has", lambda: mdlm(DDP(hidden), data, output_layer=nn.Parameter(torch.zeros(V, D)))),
    )
    sharded = fsdp(seeded(Backbone)).lm_head.weight
    yield (
        "a shard as the weight",
        case("expected an ordinary tensor, got DTensor", lambda: mdlm(hidden, data, output_layer=sharded), TypeError),
    )
    layer = fsdp(seeded(Backbone)).lm_head
    yield (
        "a layer whose weight is a shard",
        case("output_layer: its weight is a shard", lambda: mdlm(hidden, data, output_layer=layer)),
    )
    yield (
        "log Z beside DDP",
        case("log_partition: has", lambda: ddpp(DDP(Net()), data, log_partition=losses.LogPartition(V))),
    )
    yield (
        "DDP that waits for a frozen backbone",
        case("train_backbone: False, but Dist", lambda: prism(DDP(seeded(judged)), data, train_backbone=False)),
    )
    yield (
        "DDP that waits for an output layer",
        case("2 parameters that the loss does not reach, the first 'model.lm_head.weight'", no_mdlm),
    )
    yield (
        "an output layer that DDP takes for unused",
        case(
            "output_layer: is part of a model wrapped with find_unused_parameters=True",
            lambda: mdlm(DDP(hidden, **UNUSED), data, output_layer=hidden.lm_head),
        ),
    )

    def rolled(wrap: Callable[[nn.Module], nn.Module]) -> Callable[[], Any]:
        sampler = samplers.PRISM(steps=3, unmask="random", remask=None)
        own = losses.Objective([losses.Term(losses.Rollout(sampler), losses.Right())])
        return lambda: own(wrap(seeded(judged)), data["x0"], mask_id=MASK)

    yield "a sampler whose forwards gather shards", case("model: its processes meet", rolled(fsdp))
    yield (
        "a sampler of DDP in an adapter",
        case("model: its processes meet", rolled(lambda m: RightShifted(DDP(m, **UNUSED)))),
    )

    def asked_outside() -> None:
        model = seeded(Backbone)
        model.quality_head = QualityHead(D)
        prism(DDP(model, **UNUSED), data, train_backbone=False, output_layer=model.lm_head)

    yield "a head in DDP, asked outside", case("head: is part of a model", asked_outside)
    for name in ("DDP, static", "FSDP"):
        opaque = WRAPPERS[name](seeded(Opaque))
        yield f"an output {name} sees nothing in", case("finds no tensors", lambda m=opaque: mdlm(m, data), TypeError)


def work(rank: int, directory: Path) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    dist.init_process_group("gloo", init_method=f"file://{directory}/meeting", rank=rank, world_size=2, timeout=WAIT)
    torch.set_num_threads(1)
    checks: dict[str, Callable[[], str]] = {name: functools.partial(compare, case, rank) for name, case in cases()}
    for name in ("DDP", "DDP, static", "FSDP"):
        checks[f"output layer inside, {name}"] = functools.partial(output_layer, WRAPPERS[name], True, rank)
        checks[f"output layer alone, {name}"] = functools.partial(output_layer, WRAPPERS[name], False, rank)
    checks["not averaged"] = lambda: "" if compare(Case(mdlm, Net, lambda model: model), rank) else "not noticed"
    checks["ddpp, DDP"] = functools.partial(partition, rank)
    checks |= {f"refused: {name}": check for name, check in refusals(rank)}
    found = {}
    for name, check in checks.items():
        try:
            found[name] = check()
        except Exception:
            found[name] = traceback.format_exc()
        torch.save(found, directory / f"{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    work(int(sys.argv[1]), Path(sys.argv[2]))
