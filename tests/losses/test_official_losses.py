"""Losses, parts and gradients of the papers' own code on tiny inputs, in float64.

data/official.json holds what the published programs (named there with their commits) returned: ``arrays`` are the
tensors, each once, ``cases`` number them. ``expressed`` says how much of a case the losses here can say: "all", or one
part of it. docs/losses.md names what they cannot.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mdmcorrect.losses import (
    LossOutput,
    mdlm_loss_from_hidden,
    mdlm_loss_from_logits,
    prism_loss_from_logits,
    proseco_loss_from_hidden,
    proseco_loss_from_logits,
)

DATA = json.loads((Path(__file__).parent / "data/official.json").read_text())
CASES = {case["name"]: case for case in DATA["cases"]}
MASK, VOCAB = DATA["mask_id"], 8
TOKENS = ("x0", "z", "y", "corrector_input", "attention_mask")


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


def masked_term(given: dict[str, Tensor], form: str, **options: Any) -> LossOutput:
    inputs = given["x0"], given["z"], given["t"]
    if form == "hidden":  # an output layer that changes nothing
        layer = torch.eye(VOCAB, dtype=torch.float64)
        return mdlm_loss_from_hidden(given["logits"], layer, *inputs, mask_id=MASK, **options)
    return mdlm_loss_from_logits(given["logits"], *inputs, mask_id=MASK, **options)


def prism(case: dict[str, Any], given: dict[str, Tensor], form: str) -> tuple[Tensor, dict[str, Tensor]]:
    """PRISM leaves padding out of its sums but not out of its divisors; for LLaDA these are B K and B 512."""
    filled, padding = given["filled"], given.get("attention_mask")
    selected = filled if padding is None else filled & padding.bool().repeat_interleave(case["n_y"], 0)
    rows = len(given["x0"])
    if case["kind"] == "prism":
        options: dict[str, Any] = {"attention_mask": padding, "normalizer": "BL"}
        chosen: Any = filled.sum()
    else:
        options, chosen = {"num_items_in_batch": rows * 512}, rows * case["k"]
    quality = prism_loss_from_logits(
        given["quality_logits"], given["x0"], given["y"], selected, num_chosen_in_batch=chosen
    ).loss
    mdlm = masked_term(given, form, **options).loss
    return quality + case["factor"] * mdlm, {"quality": quality, "mdlm": mdlm}


def mdlm(case: dict[str, Any], given: dict[str, Tensor], form: str) -> tuple[Tensor, dict[str, Tensor]]:
    weight = case.get("weight", "elbo")
    options = {"weight": weight if weight == "elbo" else lambda t: torch.full_like(t, weight)}
    loss = masked_term(given, form, attention_mask=given.get("attention_mask"), schedule="loglinear", **options).loss
    return loss, {}


def proseco(case: dict[str, Any], given: dict[str, Tensor], form: str) -> tuple[Tensor, dict[str, Tensor]]:
    inputs = [given[name] for name in ("x0", "z", "corrector_input", "t")]
    options = {name: case[name] for name in ("weighted", "upweight_errors", "mdlm_weight", "corrector_weight")}

    def run(attention_mask: Tensor | None) -> LossOutput:
        arguments = {"mask_id": MASK, "attention_mask": attention_mask, **options}
        if form == "hidden":
            layer = torch.eye(VOCAB, dtype=torch.float64)
            return proseco_loss_from_hidden(given["logits"], given["corrector_logits"], layer, *inputs, **arguments)
        return proseco_loss_from_logits(given["logits"], given["corrector_logits"], *inputs, **arguments)

    padding = given.get("attention_mask")
    loss = run(None if case["pads_count"] else padding).loss
    return loss, run(padding).parts  # the original logs its parts over real tokens in either case


LOSSES = {"prism": prism, "prism_llada": prism, "mdlm": mdlm, "proseco": proseco}


@pytest.mark.parametrize("form", ["logits", "hidden"])
@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients_are_the_published_codes(name, form):
    case = CASES[name]
    given = tensors(case)
    loss, parts = LOSSES[case["kind"]](case, given, form)
    official, expressed = case["official"], case["expressed"]
    wanted = [part for part in parts if part in official] if expressed == "all" else [expressed]
    for part in wanted:
        assert parts[part].item() == pytest.approx(official[part], rel=1e-9), part
    if expressed == "all":
        assert loss.item() == pytest.approx(official["loss"], rel=1e-9)
    elif expressed == "mdlm":
        loss = case["factor"] * parts["mdlm"]
    else:
        loss = parts[expressed]
    reached = {"all": tuple(case["gradients"]), "mdlm": ("logits",), "quality": ("quality_logits",)}[expressed]
    for source in reached:
        (gradient,) = torch.autograd.grad(loss, given[source], retain_graph=True, allow_unused=True)
        number = case["gradients"][source]
        if number is None:  # a frozen backbone, or factor 0
            assert gradient is None or not gradient.any()
            continue
        expected = torch.tensor(DATA["arrays"][number], dtype=torch.float64)
        torch.testing.assert_close(gradient, expected, rtol=1e-7, atol=1e-8 * expected.abs().max().item())


def test_how_many_cases_are_expressed():
    whole = [case["kind"] for case in CASES.values() if case["expressed"] == "all"]
    assert {kind: whole.count(kind) for kind in LOSSES} == {"prism": 14, "prism_llada": 4, "mdlm": 10, "proseco": 21}
    assert len(CASES) == 56
