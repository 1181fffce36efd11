"""Cases of score_tokens and score_hidden: options, dtypes, vocabularies and layouts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import torch
from torch import Tensor

from mdmcorrect.ops import score_hidden, score_tokens

from .cases import Arguments, Case, Results
from .comparison import expect_near
from .inputs.scoring import ID_SCORES, expected, integer_layer, peaked_logits

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# Around the chunk of 512 ids, and where a device cuts rows into pieces.
VOCABULARIES = [1, 2, 511, 513, 4609, 50257]
LAYOUTS = ["rows off 16 bytes", "positions first", "rows apart", "no sequence", "no position", "more rows than blocks"]


def options(batch: int, length: int, vocab: int, seed: int) -> dict[str, Arguments]:
    """Ways to score [B, L, V], by name; seed, step and call are tensors, as in a captured graph."""
    generator = torch.Generator().manual_seed(1000 + seed)

    def integers(high: int, *shape: int) -> Tensor:
        return torch.randint(high, shape, generator=generator)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator)

    random = {"seed": integers(2**62, batch), "step": integers(2**31, batch), "call": integers(2**16)}
    draw = {"temperature": 0.7, **random}
    return {
        "argmax": {"tokens": integers(vocab, batch, length)},
        "draw": {"temperature": 1.0, "tokens": integers(vocab, batch, length), **random},
        "law of the proposal": {"law": "proposal", **draw},
        "temperature of each position": {**random, "temperature": uniform(batch, length).round(decimals=1)},
        "top_k": {**draw, "top_k": 5},
        "top_k of each sequence": {**draw, "top_k": 1 + integers(vocab, batch), "law": "proposal"},
        "nucleus": {**draw, "top_p": 0.9},
        "both filters": {
            **draw,
            "top_k": 40,
            "top_p": 0.6 + 0.3 * uniform(batch, length).double(),
            "top_p_rule": "exclusive",
            "filter_order": "top_p_first",
            "law": "proposal",
        },
        "suppressed and forbidden ids": {**draw, "suppress": integers(vocab, 3), "forbid": integers(vocab, 2)},
        "some rows": {**draw, "rows": uniform(batch, length) < 0.5},
        "positions": {**draw, "positions": integers(2**20, batch, length)},
        "shift": {**draw, "shift": 1},
        "guidance": {"uncond_logits": peaked_logits(batch, length, vocab, seed=seed + 1), "guidance": 1.5, **draw},
        "dense noise": {**draw, "noise": "dense"},
    }


def check_scores(results: Results, arguments: Arguments) -> None:
    """Ids are the reference's but for near ties, of which there are fewer than one in 100,000 draws; values are close
    where the ids agree."""
    given = dict(arguments)
    for name in ("suppress", "forbid"):
        given[name] = given[name].tolist() if name in given else ()
    if "seed" in given:
        given["seed"] = given["seed"].numpy()
    given.pop("want", None)
    truth = expected(given.pop("logits"), **given)
    agree = np.ones(results["token"].shape, bool)
    for name in ID_SCORES:
        expect_near(name, results[name], truth[name], most=1e-5 * agree.size)
        agree &= results[name].numpy() == truth[name]
    for name, value in results.items():
        if name not in ID_SCORES:
            expect_near(name, value, np.where(agree, truth[name], value.double().numpy()), rtol=1e-5, atol=5e-6)


def _tokens(name: str, make: Callable[[int], Arguments]) -> Case:
    return Case("score_tokens", name, score_tokens, make, check_scores)


def _scored(seed: int, *, option: str, shape: tuple[int, int, int], dtype: torch.dtype) -> Arguments:
    chosen = options(*shape, seed)[option]
    if "uncond_logits" in chosen:
        chosen["uncond_logits"] = chosen["uncond_logits"].to(dtype)
    return {"logits": peaked_logits(*shape, dtype, seed), **chosen}


def _drawn_from(seed: int, *, layout: str, dtype: torch.dtype) -> Arguments:
    logits = laid_out(layout, dtype, seed)
    batch, length, vocab = logits.shape
    return {"logits": logits, **options(batch, length, vocab, seed)["draw"]}


def _probabilities(seed: int) -> Arguments:
    logits = peaked_logits(2, 5, 700, seed=seed).exp_()
    logits[..., ::3] = 0.0
    return {"logits": logits, "input": "probs", **options(2, 5, 700, seed)["draw"]}


def token_cases() -> Iterator[Case]:
    for dtype_name, dtype in DTYPES.items():
        for name in options(1, 1, 1, 0):
            yield _tokens(f"{name}, {dtype_name}", partial(_scored, option=name, shape=(2, 5, 1000), dtype=dtype))
        for vocab in VOCABULARIES:
            yield _tokens(
                f"{vocab} ids, {dtype_name}", partial(_scored, option="draw", shape=(2, 2, vocab), dtype=dtype)
            )
        cut = partial(_scored, option="guidance", shape=(1, 2, 4609), dtype=dtype)
        yield _tokens(f"guidance of 4609 ids, {dtype_name}", cut)
        for layout in LAYOUTS if dtype == torch.bfloat16 else LAYOUTS[:-1]:
            yield _tokens(f"{layout}, {dtype_name}", partial(_drawn_from, layout=layout, dtype=dtype))
    yield _tokens("probabilities", _probabilities)


def laid_out(layout: str, dtype: torch.dtype, seed: int) -> Tensor:
    """Logits [B, L, V] that do not lie as a fresh tensor does, or of a shape apart; what is between them is NaN."""
    if layout == "rows off 16 bytes":
        wide = torch.full((2, 4, 1003), torch.nan, dtype=dtype)
        wide[:, :, 1:1000] = peaked_logits(2, 4, 999, dtype, seed)
        return wide[:, :, 1:1000]
    if layout == "positions first":
        return peaked_logits(5, 2, 600, dtype, seed).transpose(0, 1)
    if layout == "rows apart":
        wide = torch.full((4, 6, 600), torch.nan, dtype=dtype)
        wide[::2, 1::2] = peaked_logits(2, 3, 600, dtype, seed)
        return wide[::2, 1::2]
    shape = {"no sequence": (0, 3), "no position": (2, 0), "more rows than blocks": (1, 1030)}[layout]
    return peaked_logits(*shape, 40, dtype, seed)


def hidden_logits(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The logits that score_hidden scores: exact sums, rounded once."""
    logits = hidden.double() @ weight.double().mT
    return (logits if bias is None else logits + bias.double()).to(hidden.dtype)


def check_hidden(results: Results, arguments: Arguments) -> None:
    given = dict(arguments)
    logits = hidden_logits(given.pop("hidden"), given.pop("weight"), given.pop("bias", None))
    index = given.pop("row_index", None)
    if index is not None:
        asked = torch.zeros(logits.shape[:2], dtype=torch.bool)
        asked.view(-1)[index[(index >= 0) & (index < asked.numel())]] = True
        given["rows"] = asked
    check_scores(results, {"logits": logits, **given})


def hidden_cases() -> Iterator[Case]:
    """Hidden states and weights are small integers, whose products have exact sums in every order."""
    asked = ("argmax", "draw", "top_k", "both filters", "suppressed and forbidden ids", "positions")
    shapes = [(2, 5, 1000), (1, 3, 1), (1, 70, 600), (3, 0, 50), (1, 2, 9001)]
    for dtype_name, dtype in DTYPES.items():
        for name, (batch, length, vocab) in [(name, shapes[0]) for name in asked] + [("draw", s) for s in shapes[1:]]:

            def make(
                seed: int,
                name: str = name,
                shape: tuple[int, int, int] = (batch, length, vocab),
                dtype: torch.dtype = dtype,
            ) -> Arguments:
                hidden, weight, bias = integer_layer(shape[:2], shape[2], dtype, seed=seed)
                return {"hidden": hidden, "weight": weight, "bias": bias, **options(*shape, seed)[name]}

            title = name if (batch, length, vocab) == shapes[0] else f"[{batch}, {length}] of {vocab} ids"
            yield Case("score_hidden", f"{title}, {dtype_name}", score_hidden, make, check_hidden)

    def some_rows(seed: int) -> Arguments:
        hidden, weight, _ = integer_layer((3, 40), 700, torch.bfloat16, seed=seed)
        index = torch.randperm(120, generator=torch.Generator().manual_seed(seed))[:50]
        index[::7] = -1
        return {"hidden": hidden, "weight": weight, "row_index": index, **options(3, 40, 700, seed)["draw"]}

    yield Case("score_hidden", "some rows", score_hidden, some_rows, check_hidden)


CASES = [*token_cases(), *hidden_cases()]
