"""Losses as objects: shared forwards, names, divisors, loops of one's own, modules that wrappers and trainers take."""

from __future__ import annotations

import copy
import inspect
import json
import typing
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mdmcorrect import losses, samplers
from mdmcorrect.heads import QualityHead, attach
from mdmcorrect.losses import (
    Confidence,
    Correct,
    Corruption,
    Denoise,
    Given,
    JointDraw,
    ModelOutput,
    Objective,
    ObjectiveModule,
    Reader,
    Right,
    Roles,
    Rollout,
    State,
    Term,
)

V, D, MASK, B, L = 11, 8, 10, 4, 7
UNDECORATED = ("count_items", "mask_tokens", "prism_loss_from_logits")
SIGNATURES = json.loads((Path(__file__).parent / "data/signatures.json").read_text())


class Net(nn.Module):
    def __init__(self, hidden: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.norm, self.out = nn.Embedding(V, D), nn.LayerNorm(D), nn.Linear(D, V)
        self.hidden, self.read = hidden, list[Tensor]()

    def forward(self, tokens: Tensor, attention_mask: Tensor | None = None) -> Any:
        self.read.append(tokens)
        x = self.embed(tokens)
        states = self.norm(x + x.mean(1, keepdim=True))
        return states if self.hidden else {"logits": self.out(states), "hidden": states}


def clean(rows: int = B) -> Tensor:
    return torch.randint(0, MASK, (rows, L), generator=torch.Generator().manual_seed(1))


def seed(number: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(number)


def learnt(head: nn.Module) -> nn.Module:
    """Not zero, as a new head is."""
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=seed(3)) / 2)
    return head


def everything(head: Any = None) -> Objective:
    """Five terms of three sources: z, PRISM's y, the corrector's input."""
    draw, output = JointDraw(k=2, n_y=2), ModelOutput()
    terms = [
        Term(Given(), Denoise()),
        Term(draw, Right(), 0.5),
        Term(output, Correct(weight="uniform"), 0.25),
        Term(output, Right(), 2.0, name="judged"),
        Term(Given(), Denoise("uniform"), 0.125, name="plain"),
    ]
    return Objective(terms, reader=Reader(head=head))


# ---- terms ----


@pytest.mark.parametrize("name", SIGNATURES)
def test_functions_take_what_they_took(name):
    """Names and defaults as before losses were made of parts; keywords may come in another order."""
    expected = dict(SIGNATURES[name])
    found = inspect.signature(getattr(losses, name)).parameters
    defaults = {key: None if p.default is p.empty else repr(p.default) for key, p in found.items()}
    assert defaults == expected
    positional = [key for key, p in found.items() if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert positional == [key for key, _ in SIGNATURES[name]][: len(positional)]
    assert all(not isinstance(p.annotation, str) or name in UNDECORATED for p in found.values())
    assert typing.get_type_hints(getattr(losses, name)).keys() == {*found, "return"}


def test_an_unknown_option_is_refused_as_python_does():
    with pytest.raises(TypeError, match=r"mdlm_loss\(\) got an unexpected keyword argument 'shedule'"):
        losses.mdlm_loss(Net(), clean(), mask_id=MASK, shedule="linear")
    with pytest.raises(TypeError, match=r"mdlm_loss\(\) got an unexpected keyword argument 'k'"):
        losses.mdlm_loss(Net(), clean(), mask_id=MASK, k=2)


def test_terms_of_equal_sources_share_inputs_and_a_forward():
    net, head = Net(), learnt(QualityHead(D))
    result = everything(head)(net, clean(), mask_id=MASK, generator=seed())
    assert [len(tokens) for tokens in net.read] == [B, 2 * B, B]
    names = ("mdlm", "quality", "corrector", "judged", "plain")
    weights = (1, 0.5, 0.25, 2, 0.125)
    total = sum(w * result.parts[name] for w, name in zip(weights, names, strict=True))
    assert result.loss.item() == pytest.approx(total.item(), rel=1e-6)
    assert {"judged_right", "judged_chosen", "plain_accuracy", "chosen"} <= result.parts.keys()


def test_a_loop_of_ones_own_is_the_call():
    objective, net, head = everything(learnt(QualityHead(D))), Net(), None
    expected = objective(net, clean(), mask_id=MASK, generator=seed())
    generator = seed()
    state = objective.draw(clean(), mask_id=MASK, generator=generator)
    output = net(state.z)
    inputs = objective.inputs(output, state, generator=generator)
    found = objective.from_outputs(state, output, inputs, [net(each.tokens) for each in inputs])
    assert torch.equal(found.loss, expected.loss)
    assert found.parts.keys() == expected.parts.keys()
    assert head is None
    with pytest.raises(
        ValueError, match="inputs, outputs: expected one of each for every source but z, 2, got 1 and 0"
    ):
        objective.from_outputs(state, output, inputs[:1])


class Conditioned(Net):
    """Its quality is 0 but for what the condition adds to it."""

    def forward(self, tokens: Tensor, condition: Any = None) -> Any:
        assert condition["all"].shape == (3,)
        quality = condition["rows"].unsqueeze(1).expand(tokens.shape)
        return {**super().forward(tokens), "quality_logit": quality}


def test_a_condition_follows_the_rows_as_in_samplers():
    """Tensors of B rows are repeated as y is; what is not by the row stays."""
    rows = torch.randn(B, generator=seed(5))
    roles, t = Roles(condition={"rows": rows, "all": torch.zeros(3), "name": "x"}), torch.ones(B)
    objective = Objective([Term(JointDraw(k=2, n_y=2), Right())])
    result = objective(Conditioned(), clean(), mask_id=MASK, roles=roles, t=t, generator=seed())
    state = objective.draw(clean(), mask_id=MASK, t=t, generator=(own := seed()))
    (inputs,) = objective.inputs(Net()(state.z), state, generator=own)
    own_rows = torch.stack([rows, rows], 1).flatten().unsqueeze(1).expand(2 * B, L)
    expected = objective.from_outputs(state, None, [inputs], [own_rows])
    torch.testing.assert_close(result.loss, expected.loss)


def test_divisors_are_given_by_name_and_add_up():
    """Terms of micro-batches, over the whole batch's counts, are the whole batch's."""
    objective = Objective([Term(Given(), Denoise()), Term(Given(), Denoise("uniform"), name="plain")])
    net, t = Net(), torch.ones(B)
    whole = objective(net, clean(), mask_id=MASK, t=t)
    counts = {"mdlm": B * L, "plain": B * L}
    parts = [objective(net, clean()[i : i + 2], mask_id=MASK, t=t[:2], counts=counts) for i in (0, 2)]
    assert sum(part.loss for part in parts).item() == pytest.approx(whole.loss.item(), rel=1e-6)
    with pytest.raises(ValueError, match=r"counts: expected names of terms, \['mdlm', 'plain'\], got \['quality'\]"):
        objective(net, clean(), mask_id=MASK, counts={"quality": 3})


def test_a_number_for_each_row_is_a_divisor():
    net, t = Net(), torch.ones(B)
    own = Objective([Term(Given(), Denoise(normalizer="BL"))])(net, clean(), mask_id=MASK, t=t).loss
    padded = Objective([Term(Given(), Denoise(normalizer=512))])(net, clean(), mask_id=MASK, t=t).loss
    assert padded.item() == pytest.approx(own.item() * L / 512, rel=1e-6)
    with pytest.raises(ValueError, match="normalizer: expected a positive number, got 0"):
        Objective([Term(Given(), Denoise(normalizer=0))])(net, clean(), mask_id=MASK, t=t)


def test_a_mask_that_keeps_its_share_is_in_softmax_and_draws():
    """Logits that say mask everywhere: kept, it is drawn, and judged wrong."""

    class Masks(nn.Module):
        def forward(self, tokens: Tensor) -> Any:
            logits = torch.zeros(*tokens.shape, V).index_fill(-1, torch.tensor([MASK]), 9.0)
            return {"logits": logits, "quality_logit": torch.zeros(tokens.shape, requires_grad=True)}

    for keep in (False, True):
        terms = [Term(JointDraw(k=None, temperature=0.0), Right()), Term(Given(), Denoise("uniform"))]
        objective = Objective(terms, reader=Reader(keep_mask=keep))
        result = objective(Masks(), clean(), mask_id=MASK, t=torch.ones(B), check=False)
        expected = torch.log(torch.tensor(V - 1.0 if not keep else V - 1 + torch.e**9))
        assert result.parts["mdlm"].item() == pytest.approx(expected.item(), rel=1e-5)
        assert (result.parts["right"] > 0).item() is not keep


class Nameless(losses.Target):
    pass


class Misread(losses.Target):
    name, reads = "misread", "quality"  # a string holds letters


class Bare(losses.Target):
    name = "bare"

    def loss(self, said: Any, inputs: Any, state: Any, count: Any = None) -> Any:
        return torch.zeros(())


class Tokens(losses.Source):
    def draw(self, state: Any, reading: Any, run: Any) -> Any:
        return state.z


ALONE = [Term(Given(), Denoise())]
OWN = Objective([Term(Given(), Denoise()), Term(ModelOutput(), Correct())])


HEADED = attach(Net(), QualityHead(D))


def called(terms: Any = ALONE, *, model: Any = None, x0: Any = None, **options: Any) -> Any:
    x0 = clean() if x0 is None else x0
    return Objective(terms)(Net() if model is None else model, x0, mask_id=MASK, **options)


REFUSED: dict[str, Any] = {
    "terms: expected a list of Term, one at least, got none": lambda: Objective([]),
    "terms: expected a list of Term, one at least, got Term": lambda: Objective(Term(Given(), Denoise())),
    "terms: .*got one of tuple": lambda: Objective([(Given(), Denoise())]),
    "terms: expected each of another name, got 'mdlm' twice": lambda: Objective(
        [Term(Given(), Denoise()), Term(ModelOutput(), Denoise("uniform"))]
    ),
    "corruption: expected a Corruption, got Reader": lambda: Objective([Term(Given(), Denoise())], Reader()),
    "reader: expected a Reader .*, got the class Reader": lambda: Objective([Term(Given(), Denoise())], reader=Reader),
    "source: expected a Source of mdmcorrect.losses, got Denoise": lambda: Term(Denoise(), Denoise()),
    "source: expected .*, got the class Given": lambda: Term(Given, Denoise()),
    "source: expected one that writes tokens beside Right, got Given": lambda: Term(Given(), Right()),
    "name: expected a name or None, got 3": lambda: Term(Given(), Denoise(), name=3),
    "target: expected a name in the class Nameless": lambda: Term(Given(), Nameless()),
    "target: expected reads of Misread as frozenset": lambda: Term(Given(), Misread()),
    "loss of Bare: expected LossOutput": lambda: called([Term(Given(), Bare())]),
    "draw of Tokens: expected Inputs": lambda: called([Term(Tokens(), Denoise())]),
    "roles: expected Roles": lambda: called(roles={"fixed": None}),
    "fixed: expected a tensor with values": lambda: called(roles=Roles(clean().to("meta"))),
    "counts: expected numbers by the names of terms": lambda: called(counts=3),
    "check: expected a bool, got str 'no'": lambda: called(check="no"),
    "x0: expected a tensor with values": lambda: called(x0=clean().to("meta")),
    "logits: expected logits with values": lambda: called(model=lambda tokens: torch.zeros(B, L, V, device="meta")),
    "model: expected a callable .*, got the class Net": lambda: called(model=Net),
    "head: expected a callable .*, got the class QualityHead": lambda: everything(QualityHead)(
        Net(), clean(), mask_id=MASK
    ),
    "source: expected one input for each row": lambda: called([Term(JointDraw(n_y=2), Correct())]),
    "source: expected one input for each row beside this": lambda: called(
        [Term(JointDraw(n_y=2), Confidence())], model=HEADED
    ),
    "t: expected one time per row": lambda: State(clean(), clean(), torch.ones(B, 1), MASK),
    "z: expected int64 token ids": lambda: State(clean(), clean().int(), torch.ones(B), MASK),
    "roles: expected Roles.*, got dict": lambda: State(clean(), clean(), torch.ones(B), MASK, {"fixed": None}),
    "train_backbone: expected a bool, got str 'no'": lambda: Reader(train_backbone="no"),
    "temperature: expected a number >= 0, got str": lambda: ModelOutput(temperature="cold"),
    "top_p: expected 0 < top_p <= 1": lambda: JointDraw(top_p=2),
    "upweight_errors: expected a bool": lambda: Correct(upweight_errors="yes"),
    "state: expected the State of draw, got Tensor": lambda: OWN.from_outputs(clean(), OWN.draw(clean(), mask_id=MASK)),
    "output: expected the model's answer to state.z": lambda: OWN.inputs(None, OWN.draw(clean(), mask_id=MASK)),
    "inputs: expected a list of Inputs, got Tensor": lambda: OWN.from_outputs(
        OWN.draw(clean(), mask_id=MASK), torch.zeros(B, L, V), [clean()], [torch.zeros(B, L, V)]
    ),
    "objective: expected an Objective, got function": lambda: ObjectiveModule(Net(), losses.mdlm_loss, mask_id=MASK),
    "labels: expected the shape of input_ids": lambda: ObjectiveModule(Net(), OWN, mask_id=MASK)(
        clean(), labels=clean()[:, 1:]
    ),
    "target: expected a Target of mdmcorrect.losses, got str": lambda: Term(Given(), "mdlm"),
    "weight: expected a finite number": lambda: Term(Given(), Denoise(), float("nan")),
    "train_backbone: expected True": lambda: Objective([Term(Given(), Denoise())], reader=Reader(train_backbone=False)),
    "schedule: expected one of": lambda: Corruption("sigmoid"),
    "model: expected a module, got function": lambda: ObjectiveModule(clean, everything(), mask_id=MASK),
    "output_layer: expected a parameter of the model": lambda: ObjectiveModule(
        Net(), Objective([Term(Given(), Denoise())], reader=Reader(output_layer=torch.zeros(V, D))), mask_id=MASK
    ),
}


@pytest.mark.parametrize("message", REFUSED)
def test_errors_name_the_argument(message):
    with pytest.raises((TypeError, ValueError), match=message):
        REFUSED[message]()


# ---- heads that read tokens ----


def test_a_head_reads_the_tokens_it_judges():
    head = learnt(QualityHead(D, vocab_size=V, mlp_hidden=5))
    hidden, tokens = torch.randn(B, L, D), clean()
    logit = head(hidden, None, tokens)
    other = head(hidden, None, (tokens + 1) % MASK)
    assert (logit != other).all()  # though the states are the same
    states = head.norm(hidden) + head.embedding(tokens)
    torch.testing.assert_close(logit, head.out(head.mlp(states))[..., 0])
    with pytest.raises(TypeError, match="tokens: this head was made with vocab_size=11 and needs the tokens"):
        head(hidden)
    with pytest.raises(ValueError, match=r"tokens: expected int64 \[4, 7\], got torch.int64 \[4, 6\]"):
        head(hidden, None, tokens[:, 1:])


@pytest.mark.parametrize("form", ["attached", "given", "hidden states"])
def test_it_is_told_them_on_every_road(form):
    """The same loss and gradient, wherever the head is asked; and a sampler asks it too."""
    net, head = Net(), learnt(QualityHead(D, vocab_size=V))
    whole = attach(copy.deepcopy(net), head, module="norm")
    options = {"mask_id": MASK, "k": 3, "temperature": 0.0}
    expected = losses.prism_loss(whole, clean(), generator=seed(), **options)
    expected.loss.backward()
    gradient, head.embedding.weight.grad = head.embedding.weight.grad, None
    assert gradient.abs().sum() > 0
    if form == "attached":
        result = samplers.PRISM(steps=3, remask_count=1)(whole, torch.full((2, L), MASK), mask_id=MASK, seed=0)
        assert not (result.tokens == MASK).any()
        by_name = whole(tokens=clean()).quality
        assert torch.equal(by_name, whole(clean()).quality)
        return
    model = Net(hidden=form == "hidden states")
    layer = model.out if form == "hidden states" else None
    found = losses.prism_loss(model, clean(), head=head, generator=seed(), output_layer=layer, **options)
    torch.testing.assert_close(found.loss, expected.loss)
    found.loss.backward()
    torch.testing.assert_close(head.embedding.weight.grad, gradient)


def test_it_is_saved_with_what_it_reads(tmp_path):
    pytest.importorskip("safetensors")
    head = learnt(QualityHead(D, vocab_size=V))
    head.save(tmp_path / "head.safetensors")
    again = QualityHead.load(tmp_path / "head.safetensors")
    hidden = torch.randn(B, L, D)
    assert torch.equal(again(hidden, None, clean()), head(hidden, None, clean()))
    assert "vocab_size" not in QualityHead(D).settings


# ---- modules ----


def test_a_module_holds_all_that_learns_and_names_it_once():
    model, head = Net(hidden=True), QualityHead(D)
    layer = nn.Linear(D, V)
    objective = Objective(
        [Term(Given(), Denoise()), Term(JointDraw(), Right())], reader=Reader(output_layer=layer, head=head)
    )
    module = ObjectiveModule(model, objective, mask_id=MASK)
    assert {name.split(".")[0] for name, _ in module.named_parameters()} == {"model", "head", "output_layer"}
    inside = ObjectiveModule(
        model, Objective([Term(Given(), Denoise())], reader=Reader(output_layer=model.out)), mask_id=MASK
    )
    assert {name.split(".")[0] for name, _ in inside.named_parameters()} == {"model"}
    twin = copy.deepcopy(module)
    twin(clean())["loss"].backward()
    assert all(parameter.grad is None for parameter in module.parameters())
    assert twin.output_layer.weight.grad.abs().sum() > 0


def test_a_module_is_its_objective_and_takes_labels():
    net, objective = Net(), everything(learnt(QualityHead(D)))
    module = ObjectiveModule(net, objective, mask_id=MASK)
    scored = torch.arange(L).expand(B, L) > 2
    labels, padding = clean().masked_fill(~scored, -100), (torch.arange(L) < L - 1).long().expand(B, L)
    found = module(clean(), padding, labels, generator=seed())
    roles = Roles(loss_mask=scored, attention_mask=padding)
    expected = objective(net, clean(), mask_id=MASK, roles=roles, generator=seed())
    assert torch.equal(found.pop("loss"), expected.loss)
    assert found.keys() == expected.parts.keys()
    assert not any(part.requires_grad for part in found.values())


@pytest.mark.parametrize("kind", ["prism", "proseco", "rollout"])
def test_a_compiled_module_is_the_module(kind):
    sources = {
        "prism": [Term(JointDraw(k=2), Right()), Term(Given(), Denoise())],
        "proseco": [Term(ModelOutput(), Correct()), Term(Given(), Denoise())],
        "rollout": [Term(Rollout(samplers.PRISM(steps=3, unmask="random", remask=None)), Correct())],
    }
    net = attach(Net(), learnt(QualityHead(D)), module="norm")
    module = ObjectiveModule(net, Objective(sources[kind]), mask_id=MASK)
    found = []
    for each in (module, torch.compile(module, backend="aot_eager")):
        module.zero_grad()
        torch.manual_seed(0)
        loss = each(clean(), check=False)["loss"]
        loss.backward()
        found.append(
            (loss.detach(), {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None})
        )
    torch.testing.assert_close(*(one for one, _ in found))
    torch.testing.assert_close(*(gradients for _, gradients in found))


def test_a_trainer_trains_a_module(tmp_path):
    """Hugging Face's own ``compute_loss``: the module's answer has "loss"."""
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    config = transformers.LlamaConfig(
        vocab_size=V, hidden_size=D, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    torch.manual_seed(0)
    model = attach(transformers.LlamaForCausalLM(config), QualityHead(D, vocab_size=V), module="norm")
    objective = Objective([Term(JointDraw(k=2), Right()), Term(Given(), Denoise(), 0.5)])
    module = ObjectiveModule(model, objective, mask_id=MASK)
    assert module.config is config
    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path),
        max_steps=2,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
        save_strategy="no",
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
    )
    rows = [{"input_ids": row, "labels": row.masked_fill(torch.arange(L) < 2, -100)} for row in clean(8)]
    start = copy.deepcopy(module.state_dict())
    trainer = transformers.Trainer(model=module, args=arguments, train_dataset=rows)
    assert trainer.train().training_loss > 0
    changed = {name for name, value in module.state_dict().items() if not torch.equal(value.cpu(), start[name])}
    assert {"model.quality_head.out.weight", "model.model.lm_head.weight"} <= changed
