"""Losses, parts and gradients of the papers' own code on tiny inputs, in float64: all 60 cases.

data/official.json holds what the published programs (named there with their commits) returned: ``arrays`` are the
tensors, each once, ``cases`` number them. Each kind is an Objective, whose options are what the original does.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mdmcorrect.losses import (
    Correct,
    Corruption,
    Denoise,
    Given,
    Inputs,
    JointDraw,
    ModelOutput,
    Objective,
    Reader,
    Right,
    Roles,
    State,
    Term,
)

DATA = json.loads((Path(__file__).parent / "data/official.json").read_text())
CASES = {case["name"]: case for case in DATA["cases"]}
MASK, VOCAB = DATA["mask_id"], 8
TOKENS = ("x0", "z", "y", "corrector_input", "attention_mask")
EYE = torch.eye(VOCAB, dtype=torch.float64)  # an output layer that changes nothing


def tensors(case: dict[str, Any]) -> dict[str, Tensor]:
    """The case's arrays; those that the loss is differentiated by ask for gradients."""
    found = {}
    for name in (*TOKENS, "t", "filled", "logits", "quality_logits", "corrector_logits"):
        if case.get(name) is not None:
            dtype = torch.int64 if name in TOKENS else torch.bool if name == "filled" else torch.float64
            found[name] = torch.tensor(DATA["arrays"][case[name]], dtype=dtype)
    for name in case["gradients"]:
        found[name].requires_grad_()
    return found


def prism(case: dict[str, Any]) -> list[Term]:
    """``reweight_loss`` weighs by 1/(1-t) and divides by all positions of all y, not by those that were filled."""
    right = Right(lambda t: 1 / (1 - t), "BL") if case["reweight"] else Right(normalizer="selected")
    return [Term(JointDraw(), right), *with_mdlm(case, Denoise(normalizer="BL"))]


def prism_llada(case: dict[str, Any]) -> list[Term]:
    """Divisors are B K and B 512, whatever the rows hold, and the mask keeps its share of the softmax."""
    return [Term(JointDraw(), Right(normalizer=case["k"])), *with_mdlm(case, Denoise(normalizer=512))]


def with_mdlm(case: dict[str, Any], denoise: Denoise) -> list[Term]:
    return [Term(Given(), denoise, case["factor"])] if case["factor"] else []


def mdlm(case: dict[str, Any]) -> list[Term]:
    weight = case.get("weight", "elbo")
    return [Term(Given(), Denoise(weight if weight == "elbo" else lambda t: torch.full_like(t, weight)))]


def proseco(case: dict[str, Any]) -> list[Term]:
    correct = Correct(weighted=case["weighted"], upweight_errors=case["upweight_errors"])
    return [Term(Given(), Denoise(), case["mdlm_weight"]), Term(ModelOutput(), correct, case["corrector_weight"])]


TERMS = {
    "prism": prism,
    "prism_llada": prism_llada,
    "token_critic": lambda case: [Term(JointDraw(k=None), Right("elbo", "BL"))],
    "prism_pretrain": lambda case: [Term(Given(), Denoise(normalizer="BL"))],
    "mdlm": mdlm,
    "proseco": proseco,
}
KEEPS_MASK = ("prism_llada", "prism_pretrain")


def official(case: dict[str, Any], given: dict[str, Tensor], form: str, padding: Tensor | None) -> Any:
    reader = Reader(output_layer=EYE if form == "hidden" else None, keep_mask=case["kind"] in KEEPS_MASK)
    objective = Objective(TERMS[case["kind"]](case), Corruption("loglinear"), reader)
    roles = Roles(attention_mask=padding)
    state = State(given["x0"], given["z"], given["t"], MASK, roles, objective.corruption)
    inputs = outputs = []
    if "y" in given:
        inputs, outputs = [Inputs(given["y"], given["filled"])], [given["quality_logits"]]
    elif "corrector_input" in given:
        inputs = [Inputs(given["corrector_input"], torch.ones_like(given["x0"], dtype=torch.bool))]
        outputs = [given["corrector_logits"]]
    return objective.from_outputs(state, given["logits"], inputs, outputs)


@pytest.mark.parametrize("form", ["logits", "hidden"])
@pytest.mark.parametrize("name", CASES)
def test_values_parts_and_gradients_are_the_published_codes(name, form):
    case = CASES[name]
    given = tensors(case)
    padding = given.get("attention_mask")
    result = official(case, given, form, None if case.get("pads_count") else padding)
    # ProSeCo logs its parts over real tokens in either case.
    parts = {**result.parts, **(official(case, given, form, padding).parts if case.get("pads_count") else {})}
    assert result.loss.item() == pytest.approx(case["official"]["loss"], rel=1e-9)
    for part in ("quality", "mdlm", "corrector"):
        if part in case["official"] and part in parts:
            assert parts[part].item() == pytest.approx(case["official"][part], rel=1e-9), part
    for source, number in case["gradients"].items():
        (gradient,) = torch.autograd.grad(result.loss, given[source], retain_graph=True, allow_unused=True)
        if number is None:  # a frozen backbone, or factor 0
            assert gradient is None or not gradient.any()
            continue
        expected = torch.tensor(DATA["arrays"][number], dtype=torch.float64)
        torch.testing.assert_close(gradient, expected, rtol=1e-7, atol=1e-8 * expected.abs().max().item())


def test_how_many_cases_there_are():
    kinds = [case["kind"] for case in CASES.values()]
    expected = {"prism": 18, "prism_llada": 7, "token_critic": 2, "prism_pretrain": 2, "mdlm": 10, "proseco": 21}
    assert {kind: kinds.count(kind) for kind in TERMS} == expected
    assert len(CASES) == 60


def test_choices_of_positions_share_their_draws_as_in_prism():
    """Its ``num_x0_xt`` and ``num_xs_x0``: input j is draw ``j % n_y`` at positions of its own."""
    official = tensors(CASES["prism/x0_xt=2 xs_x0=2"])
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 10, VOCAB, generator=generator)
    objective = Objective([Term(JointDraw(k=3, n_y=2, n_s=2), Right())])
    state = State(official["x0"], official["z"], official["t"], MASK)
    (ours,) = objective.inputs(logits, state, generator=generator)
    for y, selected in ((official["y"], official["filled"]), (ours.tokens, ours.selected)):
        y, selected = y.view(3, 4, 10), selected.view(3, 4, 10)
        assert torch.equal(selected.sum(-1), (state.masked.sum(-1).clamp(max=3))[:, None].expand(3, 4))
        assert any(not torch.equal(selected[:, one], selected[:, other]) for one, other in ((0, 2), (1, 3), (0, 1)))
        for one, other in ((0, 2), (1, 3)):
            both = selected[:, one] & selected[:, other]
            assert both.any()
            assert torch.equal(y[:, one][both], y[:, other][both])
