"""Arguments of the losses as people give them: each is taken, or answered by one sentence that names it."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mdmcorrect import losses

B, L, V, MASK = 4, 6, 9, 8
MODEL = nn.Sequential(nn.Embedding(V, 5), nn.Linear(5, V))


def clean() -> Tensor:
    return torch.randint(0, MASK, (B, L), generator=torch.Generator().manual_seed(0))


class Judged(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.project = MODEL[0], MODEL[1]

    def forward(self, tokens: Tensor, attention_mask: Tensor | None = None) -> dict[str, Tensor]:
        hidden = self.embed(tokens)
        return {"hidden": hidden, "logits": self.project(hidden)}


def plain(tokens: Tensor, attention_mask: Tensor | None = None) -> Tensor:
    return MODEL(tokens)


def head(hidden: Tensor, condition: Any) -> Tensor:
    return hidden[..., 0]


def log_z(z: Tensor, t: Tensor) -> Tensor:
    return torch.zeros(len(z))


def call(name: str, **changes: Any) -> losses.LossOutput:
    """The loss of that name with everything in order but for ``changes``."""
    given = {"x0": clean(), "mask_id": MASK, **changes}
    x0 = given.pop("x0")
    if name == "mdlm":
        return losses.mdlm_loss(given.pop("model", plain), x0, **given)
    if name == "proseco":
        return losses.proseco_loss(given.pop("model", plain), x0, **given)
    if name == "prism":
        return losses.prism_loss(given.pop("model", Judged()), x0, head=head, **given)
    reward = given.pop("log_reward", torch.zeros(B))
    model = given.pop("model", plain)
    return losses.ddpp_loss(model, model, log_z, x0, reward, **given)


ALL = ("mdlm", "proseco", "prism", "ddpp")
TAKEN = {
    "NumPy's mask_id": {"mask_id": np.int32(MASK)},
    "mask_id as a tensor": {"mask_id": torch.tensor(MASK)},
    "an int64 mask": {"attention_mask": torch.ones(B, L, dtype=torch.int64)},
    "a float mask": {"attention_mask": torch.ones(B, L), "fixed": torch.zeros(B, L)},
    "NumPy's t_min": {"t_min": np.float32(0.2)},
    "float64 times": {"t": torch.full((B,), 0.5, dtype=torch.float64)},
}
REFUSED: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "x0 a list": ({"x0": [[1, 2]]}, TypeError, "x0: expected a torch.Tensor, got list"),
    "x0 an array": ({"x0": np.zeros((B, L), np.int64)}, TypeError, "x0: expected a torch.Tensor, got ndarray"),
    "x0 a string": ({"x0": "a text"}, TypeError, "x0: expected a torch.Tensor, got str"),
    "x0 int32": ({"x0": clean().int()}, TypeError, "x0: expected int64 token ids, got torch.int32"),
    "x0 labels": (
        {"x0": clean().index_fill(1, torch.tensor([0, 1]), -100)},
        ValueError,
        "x0: expected token ids, found 8 below 0, down to -100; .* loss_mask=labels != -100",
    ),
    "labels under padding": (
        {"x0": clean().index_fill(1, torch.tensor([5]), -100), "attention_mask": torch.arange(L).lt(5).expand(B, L)},
        ValueError,
        "x0: expected token ids, found 4 below 0",
    ),
    "mask_id None": ({"mask_id": None}, TypeError, "mask_id: expected an int, got NoneType"),
    "mask_id bool": ({"mask_id": True}, TypeError, "mask_id: expected an int, got bool True"),
    "mask_id float": ({"mask_id": 8.0}, TypeError, "mask_id: expected an int, got float 8.0"),
    "mask_id string": ({"mask_id": "[MASK]"}, TypeError, r"mask_id: expected an int, got str '\[MASK\]'"),
    "mask_id list": ({"mask_id": [8]}, TypeError, r"mask_id: expected an int, got list \[8\]"),
    "mask_ids": (
        {"mask_id": torch.tensor([7, 8])},
        TypeError,
        r"mask_id: expected an int, got Tensor torch.int64 \[2\]",
    ),
    "mask_id outside": ({"mask_id": V, "model": lambda z: MODEL(z.clamp(max=8))}, ValueError, f"mask_id: .* got {V}"),
    "t a number": ({"t": 0.5}, TypeError, "t: expected a torch.Tensor, got float"),
    "t NaN": ({"t": torch.full((B,), torch.nan)}, ValueError, r"t: expected times in \(0, 1\], got 4 outside"),
    "t a column": ({"t": torch.ones(B, 1)}, ValueError, r"t: expected one time per row, \[4\], got \(4, 1\)"),
    "t_min NaN": ({"t_min": float("nan")}, ValueError, "t_min: expected a finite number, got nan"),
    "t_min a string": ({"t_min": "0.1"}, TypeError, "t_min: expected a number, got str"),
    "mask 4-D": (
        {"attention_mask": torch.ones(B, 1, L, L)},
        ValueError,
        r"attention_mask: expected the shape of x0, \(4, 6\), got \(4, 1, 6, 6\)",
    ),
    "mask additive": (
        {"attention_mask": torch.zeros(B, L).index_fill(1, torch.tensor([5]), -torch.inf)},
        ValueError,
        "attention_mask: expected bool or 0/1, got 4 other numbers|fixed, attention_mask: expected some position",
    ),
    "mask a list": ({"fixed": [[True]]}, TypeError, "fixed: expected a torch.Tensor, got list"),
    "fixed ids": ({"fixed": torch.arange(L).expand(B, L)}, ValueError, "fixed: expected bool or 0/1, got 16 other"),
    "generator a seed": ({"generator": 7}, TypeError, "generator: expected a torch.Generator or None, got int"),
    "schedule a class": (
        {"schedule": type("Own", (), {"alpha": 0, "mask_probability": 0, "weight": 0})},
        TypeError,
        "schedule: expected a name or an object",
    ),
    "model None": ({"model": None}, TypeError, "model: expected a callable"),
    "forward a name": ({"forward": "generate"}, TypeError, "forward: expected a callable"),
}
REFUSED_BY: dict[str, list[tuple[str, dict[str, Any], type[Exception], str]]] = {
    "counts": [
        (name, {"num_items_in_batch": True}, TypeError, "num_items_in_batch: expected a number >= 0, got bool")
        for name in ("mdlm", "proseco", "ddpp")
    ],
    "weights": [
        ("mdlm", {"weight": lambda t: t[:, None]}, ValueError, r"weight: expected one number per row from it, \[4\]"),
        ("proseco", {"weight": lambda t: 1.0}, ValueError, "weight: expected one number per row from it"),
        ("proseco", {"corrector_weight": float("inf")}, ValueError, "corrector_weight: expected a finite number"),
        ("proseco", {"mdlm_weight": "1"}, TypeError, "mdlm_weight: expected a number, got str"),
        ("prism", {"mdlm_weight": float("nan")}, ValueError, "mdlm_weight: expected a finite number"),
    ],
    "drawing": [
        ("proseco", {"temperature": -1}, ValueError, "temperature: expected a number >= 0, got -1"),
        ("proseco", {"temperature": "hot"}, TypeError, "temperature: expected a number >= 0, got str 'hot'"),
        ("prism", {"temperature": float("nan")}, ValueError, "temperature: expected a number >= 0, got nan"),
        ("prism", {"top_p": None}, TypeError, "top_p: expected 0 < top_p <= 1, got NoneType"),
        ("prism", {"k": 1.5}, TypeError, "k: expected an int, got float 1.5"),
        ("prism", {"k": torch.tensor([1, 2])}, TypeError, "k: expected an int, got Tensor"),
        ("prism", {"k": True}, TypeError, "k: expected an int, got bool True"),
        ("prism", {"n_y": "2"}, TypeError, "n_y: expected an int, got str '2'"),
        ("prism", {"leftmost": 2.0}, TypeError, "leftmost: expected an int, got float 2.0"),
    ],
    "rewards": [
        ("ddpp", {"log_reward": [0.0] * B}, TypeError, "log_reward: expected a torch.Tensor, got list"),
        ("ddpp", {"log_reward": torch.tensor([0.0, torch.nan, 1, 1])}, ValueError, "log_reward: expected finite"),
        ("ddpp", {"beta": "1"}, TypeError, "beta: expected a positive number, got str '1'"),
        ("ddpp", {"beta": float("inf")}, ValueError, "beta: expected a positive number, got inf"),
    ],
}


@pytest.mark.parametrize("loss", ALL)
@pytest.mark.parametrize("case", TAKEN)
def test_taken(loss, case):
    assert call(loss, **TAKEN[case]).loss.isfinite()


@pytest.mark.parametrize("loss", ALL)
@pytest.mark.parametrize("case", REFUSED)
def test_refused(loss, case):
    change, error, text = REFUSED[case]
    with pytest.raises(error, match=f"^({text})"):
        call(loss, **change)


@pytest.mark.parametrize(("loss", "change", "error", "text"), [row for rows in REFUSED_BY.values() for row in rows])
def test_refused_by(loss, change, error, text):
    with pytest.raises(error, match=f"^{text}"):
        call(loss, **change)


def test_numpy_integers_and_tensors_of_one_number_count():
    for k, n_y in ((np.int64(2), np.int32(2)), (torch.tensor(2), torch.tensor([2]))):
        assert call("prism", k=k, n_y=n_y, leftmost=k, t=torch.ones(B)).parts["chosen"] == 2 * 2 * B


# ---- the forms that take what a model said ----


def inputs(**changes: Any) -> dict[str, Any]:
    x0 = clean()
    z = torch.where(torch.rand(B, L, generator=torch.Generator().manual_seed(1)) < 0.6, MASK, x0)
    return {"x0": x0, "z": z, "t": torch.full((B,), 0.5), **changes}


def from_logits(name: str, **changes: Any) -> losses.LossOutput:
    given = inputs(**{"logits": MODEL(inputs()["z"]), "mask_id": MASK, **changes})
    tokens = given.pop("tokens", clean())
    x0, z, t, logits = (given.pop(one) for one in ("x0", "z", "t", "logits"))
    if name == "mdlm":
        return losses.mdlm_loss_from_logits(logits, x0, z, t, **given)
    return losses.proseco_loss_from_logits(logits, logits.flip(0), x0, z, tokens, t, **given)


FORM_REFUSED: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "a column of times": ({"t": torch.ones(B, 1)}, ValueError, "t: expected one time per row"),
    "no times": ({"t": None}, TypeError, "t: expected a torch.Tensor, got NoneType"),
    "z of another shape": ({"z": clean()[:, 1:]}, ValueError, r"z: expected the shape of x0, \(4, 6\), got \(4, 5\)"),
    "z a mask": ({"z": clean() > 3}, TypeError, "z: expected int64 token ids, got torch.bool"),
    "z on another device": ({"z": clean().to("meta")}, ValueError, "z: expected it on cpu as x0 is, got meta"),
    "x0 flat": ({"x0": clean().flatten()}, ValueError, r"x0: expected \[B, L\]"),
    "logits a list": ({"logits": [1.0]}, TypeError, "logits: expected a tensor of logits, got list"),
    "mask_id": ({"mask_id": None}, TypeError, "mask_id: expected an int, got NoneType"),
    "a target outside": (
        {"x0": clean().index_fill(1, torch.arange(L), V)},
        ValueError,
        "x0: expected ids within the 9",
    ),
}


@pytest.mark.parametrize("name", ["mdlm", "proseco"])
@pytest.mark.parametrize("case", FORM_REFUSED)
def test_forms_refuse(name, case):
    change, error, text = FORM_REFUSED[case]
    if case == "logits a list" and name == "proseco":
        change = {"logits": torch.zeros(B, L)}
        error, text = ValueError, r"logits: expected logits \[4, 6, V\]"
    with pytest.raises(error, match=f"^{text}"):
        from_logits(name, **change)


@pytest.mark.parametrize("name", ["mdlm", "proseco"])
@pytest.mark.parametrize("normalizer", ["token", "BL", "answer"])
def test_labels_score_what_a_loss_mask_scores(name, normalizer):
    """-100 in x0, as collators write it, is as if loss_mask left the position out."""
    keep = torch.rand(B, L, generator=torch.Generator().manual_seed(2)) < 0.7
    keep[1] = False
    labels = clean().masked_fill(~keep, -100)
    given = {"logits": MODEL(inputs()["z"]), "normalizer": normalizer}
    expected, found = from_logits(name, loss_mask=keep, **given), from_logits(name, x0=labels, **given)
    assert torch.equal(found.loss, expected.loss)
    for part in ("mdlm", "accuracy", "corrector", "input_errors", "corrected"):
        if part in expected.parts:
            assert torch.equal(found.parts[part], expected.parts[part])
    (gradient,) = torch.autograd.grad(found.loss, given["logits"])
    assert gradient.isfinite().all()


def test_quality_terms_take_labels():
    x0, selected = clean(), torch.ones(B, L, dtype=torch.bool)
    g, y = torch.randn(B, L), clean().flip(0)
    keep = torch.arange(L).expand(B, L) > 2
    expected = losses.prism_loss_from_logits(g, x0, y, keep)
    found = losses.prism_loss_from_logits(g, x0.masked_fill(~keep, -100), y, selected)
    assert torch.equal(found.loss, expected.loss)
    assert found.parts["chosen"] == keep.sum()


def test_corrector_inputs_of_labels_hold_no_label():
    given = inputs()
    labels = given["x0"].masked_fill(torch.arange(L) < 2, -100)
    free = torch.arange(L).expand(B, L) >= 2
    call = partial(losses.corrector_inputs, MODEL(given["z"]), labels, given["z"], mask_id=MASK)
    for options in ({"free": free}, {"input_positions": "masked"}):
        tokens = call(**options)
        assert tokens.ge(0).all()
        assert torch.equal(tokens[:, :2][given["z"][:, :2] != MASK], given["z"][:, :2][given["z"][:, :2] != MASK])
