"""Shared by the tests of score_tokens: inputs like a model's logits, and the reference over a whole tensor."""

from __future__ import annotations

import numpy as np
import torch

from mdmcorrect import reference
from mdmcorrect.ops import TokenScores

ID_SCORES = ("token", "argmax")
VALUE_SCORES = tuple(
    name for name in TokenScores._fields if name not in (*ID_SCORES, "noised_logprob")
)  # of lazy draws


def peaked_logits(batch: int, length: int, vocab: int, dtype=torch.float32, seed: int = 0) -> torch.Tensor:
    """Noise of spread 2 and a few likely ids per row, rounded to dtype: ties in 16 bits, mass in head and tail."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(batch, length, vocab, generator=generator) * 2
    head = torch.randint(0, vocab, (batch, length, 4), generator=generator)
    logits.scatter_(-1, head, torch.rand(batch, length, 4, generator=generator) * 6 + 6)
    return logits.to(dtype)


def integer_layer(lead: tuple[int, ...], vocab: int, dtype: torch.dtype, size: int = 24, seed: int = 0):
    """hidden [*lead, D], weight [V, D] and bias [V] whose products sum exactly; logits of spread about 3."""
    generator = torch.Generator().manual_seed(seed)

    def integers(*shape: int) -> torch.Tensor:
        return torch.randint(-4, 5, shape, generator=generator).to(dtype)

    return integers(*lead, size) / 4, integers(vocab, size) / 8, integers(vocab) / 8


def expected(
    logits: torch.Tensor,
    *,
    tokens=None,
    rows=None,
    seed=0,
    positions=None,
    shift=0,
    uncond_logits=None,
    guidance=0.0,
    **options,
) -> dict[str, np.ndarray]:
    """reference.score_row for every row of [B, L, V]; seed is an int or an array [B], guidance a number.

    Other options are the row's: a number, or a tensor with one per sequence or position.
    """
    batch, length, _ = logits.shape
    seeds = reference.sequence_seeds(seed, batch) if isinstance(seed, int) else seed
    values = logits.double().numpy()
    if uncond_logits is not None:
        dtype = str(logits.dtype).removeprefix("torch.")
        values = reference.guided(values, uncond_logits.double().numpy(), guidance, dtype).astype(np.float64)
    values = values[:, np.maximum(np.arange(length) - shift, 0)]
    shape = (batch, length)
    out = {name: np.full(shape, -1) if name in ID_SCORES else np.full(shape, np.nan) for name in TokenScores._fields}
    for b in range(batch):
        for place in range(length):
            if rows is not None and not rows[b, place]:
                continue
            row = reference.score_row(
                values[b, place],
                token=None if tokens is None else int(tokens[b, place]),
                seed=int(seeds[b]),
                position=place if positions is None else int(positions[b, place]),
                **{name: _of_row(value, b, place) for name, value in options.items()},
            )
            for name, value in row.items():
                out[name][b, place] = value
    return out


def _of_row(value, *place: int):
    return value[place[: value.dim()]].item() if isinstance(value, torch.Tensor) else value


def assert_scores(actual: TokenScores, truth: dict[str, np.ndarray], rtol: float = 3e-6, atol: float = 3e-6) -> None:
    """Ids equal, values close, infinities and NaN in the same places."""
    for name, value in zip(TokenScores._fields, actual, strict=True):
        if value is None:
            continue
        if name in ID_SCORES:
            np.testing.assert_array_equal(value.numpy(), truth[name], err_msg=name)
        else:
            np.testing.assert_allclose(value.numpy(), truth[name], rtol=rtol, atol=atol, err_msg=name)


def assert_same_bits(first: TokenScores, second: TokenScores) -> None:
    for name, a, b in zip(TokenScores._fields, first, second, strict=True):
        assert (a is None) == (b is None), name
        if a is not None:
            np.testing.assert_array_equal(a.contiguous().numpy(), b.contiguous().numpy(), err_msg=name)
