"""Whatever torch's default dtype and device are, every tensor of ours has the dtype and device it was written for."""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import mdmcorrect
from mdmcorrect import canvas as canvases
from mdmcorrect import heads, losses, ops, rng, schedules
from mdmcorrect.likelihood import log_likelihood

sys.path.append(str(Path(__file__).parent / "samplers"))
from combinations import MASK, PRESETS, canvas
from toys import Toy

PACKAGE = Path(mdmcorrect.__file__).parent
HALF = torch.float16  # nothing below asks for it


class Leaks(TorchDispatchMode):
    """Lines of the package that made a tensor of the default dtype."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        answer = func(*args, **(kwargs or {}))
        if any(isinstance(leaf, torch.Tensor) and leaf.dtype == HALF for leaf in tree_leaves(answer)):
            self.lines.add(self._line())
        return answer

    @staticmethod
    def _line() -> str:
        """The innermost line of the package or of a test."""
        frame = sys._getframe(2)
        while frame.f_back is not None:
            path = Path(frame.f_code.co_filename)
            if PACKAGE in path.parents or "tests" in path.parts:
                return f"{path.name}:{frame.f_lineno}"
            frame = frame.f_back
        return "?"


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def same(mine: Any, other: Any) -> None:
    torch.testing.assert_close(mine, other, rtol=0, atol=0, equal_nan=True)


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.out = nn.Embedding(12, 8), nn.Linear(8, 12)

    def forward(self, tokens: torch.Tensor, attention_mask: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        hidden = self.embed(tokens).cumsum(1)
        return {"hidden": hidden, "logits": self.out(hidden)}


@pytest.fixture(scope="module")
def network() -> Network:
    torch.manual_seed(0)
    return Network()


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(3)


X0 = torch.arange(40).reshape(4, 10) * 7 % MASK
LOSSES: dict[str, Callable[[Any], Any]] = {
    **{
        f"mdlm-{schedule}-{normalizer}": lambda network, s=schedule, n=normalizer: losses.mdlm_loss(
            network, X0, mask_id=MASK, schedule=s, normalizer=n, generator=generator()
        )
        for schedule in ("linear", "loglinear", "cosine")
        for normalizer in ("token", "BL", "answer")
    },
    "mdlm-hidden": lambda network: losses.mdlm_loss(
        lambda tokens: network(tokens)["hidden"], X0, mask_id=MASK, output_layer=network.out, generator=generator()
    ),
    "prism": lambda network: losses.prism_loss(
        heads.attach(network, HEAD), X0, mask_id=MASK, k=2, n_y=2, top_p=0.9, generator=generator()
    ),
    "prism-confidence": lambda network: losses.prism_loss(
        heads.attach(network, HEAD),
        X0,
        mask_id=MASK,
        k=2,
        positions="confidence",
        temperature=0.0,
        generator=generator(),
    ),
    "proseco": lambda network: losses.proseco_loss(network, X0, mask_id=MASK, temperature=0.7, generator=generator()),
    "proseco-upweighted": lambda network: losses.proseco_loss(
        network, X0, mask_id=MASK, upweight_errors=True, generator=generator()
    ),
    "ddpp": lambda network: losses.ddpp_loss(
        network,
        network,
        lambda z, t: t.float() / 2,
        X0,
        REWARD,
        mask_id=MASK,
        generator=generator(),
    ),
}
HEAD = heads.QualityHead(8)
REWARD = torch.tensor([0.1, 0.2, 0.3, 0.4])


def loss_of(name: str, network: Network) -> Any:
    out = LOSSES[name](network)
    return {"loss": out.loss.detach(), **out.parts}


@pytest.mark.parametrize("name", LOSSES)
def test_losses(name: str, network: Network) -> None:
    expected = loss_of(name, network)
    with default_dtype(HALF), Leaks() as leaks:
        mine = loss_of(name, network)
    assert leaks.lines == set()
    same(mine, expected)
    for dtype in (torch.bfloat16, torch.float64):
        with default_dtype(dtype):
            same(loss_of(name, network), expected)


def sampled(name: str) -> Any:
    attention_mask = torch.arange(16, device="cpu") >= torch.tensor([0, 1, 0, 2], device="cpu")[:, None]
    result = PRESETS[name](Toy(), canvas(4, 16), mask_id=MASK, attention_mask=attention_mask, seed=7)
    return result.tokens, result.nfe


@pytest.mark.parametrize("name", PRESETS)
def test_samplers(name: str) -> None:
    expected = sampled(name)
    with default_dtype(HALF), Leaks() as leaks:
        mine = sampled(name)
    assert {line for line in leaks.lines if not line.startswith(("toys", "combinations"))} == set()
    same(mine, expected)
    for dtype in (torch.bfloat16, torch.float64):
        with default_dtype(dtype):
            same(sampled(name), expected)


LOGITS = torch.randn(2, 5, 700, generator=generator()) * 4
OTHERS: dict[str, Callable[[], Any]] = {
    "score_tokens": lambda: ops.score_tokens(
        LOGITS,
        temperature=0.7,
        top_p=0.9,
        top_k=50,
        suppress=[3],
        tokens=torch.zeros(2, 5, dtype=torch.int64),
        seed=1,
        want=("token", "logprob", "entropy", "margin", "confidence", "current_logprob"),
    ),
    "score_hidden": lambda: (
        ops.score_hidden(LOGITS[..., :8], LOGITS[0, 0, :560].view(70, 8), temperature=0.5, seed=1).token
    ),
    "score_quality": lambda: ops.score_quality(LOGITS[..., :8], LOGITS[0, :1, :8]),
    "select_positions": lambda: ops.select_positions(LOGITS[..., 0], 2, temperature=1.0, seed=1),
    "count_positions": lambda: ops.count_positions(LOGITS[..., 0], "threshold", 0.5),
    "bidirectional_attention": lambda: ops.bidirectional_attention(*[LOGITS[..., :64].view(1, 2, 5, 64)] * 3),
    "linear_cross_entropy": lambda: ops.linear_cross_entropy(
        LOGITS[0, :, :8], LOGITS[0, 0, :560].view(70, 8), torch.arange(5)
    ),
    "rng": lambda: (rng.uniform(torch.arange(3), 4, 0, 1), rng.gumbel(torch.arange(3), 4, 0, 1)),
    "times": lambda: schedules.sample_times(4, generator=generator()),
    "likelihood": lambda: log_likelihood(Toy(), canvas(2, 8).clamp(max=MASK - 1), mask_id=MASK, seed=1),
    "canvas": lambda: canvases.Canvas.from_prompts([[1, 2], [3]], new_tokens=3, mask_id=MASK, pad_id=0).inputs(),
    "head": lambda: HEAD(LOGITS[..., :8]).detach(),
}


@pytest.mark.parametrize("name", OTHERS)
def test_operators_and_the_rest(name: str) -> None:
    expected = OTHERS[name]()
    with default_dtype(HALF), Leaks() as leaks:
        mine = OTHERS[name]()
    assert leaks.lines == set()
    assert str(mine) == str(expected)


# ---- the device ----


@pytest.mark.parametrize("name", LOSSES)
def test_losses_stay_on_the_device_of_what_they_are_given(name: str, network: Network) -> None:
    expected = loss_of(name, network)
    torch.set_default_device("meta")
    try:
        mine = loss_of(name, network)
    finally:
        torch.set_default_device(None)
    same(mine, expected)


# Not as_tensor: what a caller gives goes where the caller's defaults say.
FACTORIES = {
    *("arange", "empty", "eye", "full", "linspace", "logspace", "ones", "rand", "randint", "randn", "randperm"),
    *("scalar_tensor", "tensor", "tril_indices", "triu_indices", "zeros"),
}
# They count in integers; none of ours asks arange for anything else.
INTEGERS = {"arange", "randint", "randperm", "tril_indices", "triu_indices"}


def bare_factories(path: Path) -> Iterator[str]:
    """Calls of torch's factories that leave dtype or device to the defaults."""
    for node in ast.walk(ast.parse(path.read_text())):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
            continue
        if not (isinstance(node.func.value, ast.Name) and node.func.value.id == "torch"):
            continue
        name, given = node.func.attr, {keyword.arg for keyword in node.keywords}
        if name not in FACTORIES or None in given:
            continue
        missing = {"dtype", "device"} - given - ({"dtype"} if name in INTEGERS else set())
        if missing:
            yield f"{path.name}:{node.lineno}: torch.{name} without {' and '.join(sorted(missing))}"


# What runs in processes of its own, under nobody's defaults, is left out.
OWN = {"csrc", "examples", "selfcheck"}
SOURCES = sorted(path for path in PACKAGE.rglob("*.py") if not OWN & set(path.relative_to(PACKAGE).parts))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_factory_leaves_dtype_or_device_to_the_defaults(path: Path) -> None:
    assert list(bare_factories(path)) == []


def test_the_check_finds_bare_factories(tmp_path: Path) -> None:
    source = tmp_path / "bare.py"
    source.write_text(
        "torch.zeros(3)\ntorch.rand(2, dtype=d)\ntorch.randint(9, (1,))\ntorch.ones(1, dtype=d, device=e)\n"
    )
    assert [line.split(": ")[1] for line in bare_factories(source)] == [
        "torch.zeros without device and dtype",
        "torch.rand without device",
        "torch.randint without device",
    ]
