"""What the scoring operators share: the scores they return and the arguments that say how to score."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from mdmcorrect import _checks
from mdmcorrect.ops import _arguments as arguments

Ids: TypeAlias = int | Sequence[int] | Tensor


_LEFT_OUT: Any = None


class TokenScores(NamedTuple):
    """What the scoring operators return: tensors ``[..., L]``, None where ``want`` left a score out.

    Their type says Tensor, for who reads a score has asked for it.
    """

    token: Tensor = _LEFT_OUT
    """int64. The most likely proposable id at temperature 0, else one draw; -1: none."""
    argmax: Tensor = _LEFT_OUT
    """int64. The most likely id under the law, lowest id on ties; -1: none."""
    logprob: Tensor = _LEFT_OUT
    """log-probability of ``token`` at temperature 1 and unfiltered, whatever the law."""
    proposal_logprob: Tensor = _LEFT_OUT
    """log-probability of ``token`` after temperature, filters and ``forbid``, whatever the law."""
    current_logprob: Tensor = _LEFT_OUT
    """log-probability of ``tokens`` under the law; NaN for an id outside the vocabulary."""
    max_logprob: Tensor = _LEFT_OUT
    """Largest log-probability under the law."""
    second_logprob: Tensor = _LEFT_OUT
    """Second largest, equal to the largest on ties; -inf if there is one id only."""
    entropy: Tensor = _LEFT_OUT
    """Entropy of the law, in nats."""
    margin: Tensor = _LEFT_OUT
    """Difference of the two largest probabilities."""
    logsumexp: Tensor = _LEFT_OUT
    """Log of the law's normaliser."""
    confidence: Tensor = _LEFT_OUT
    """Probability of ``token`` under the law, rounded to ``confidence_dtype``."""
    noised_logprob: Tensor = _LEFT_OUT
    """log-probability of ``token`` under softmax of the proposal's logits with the draw's Gumbel noise added: only with
    ``noise="dense"``. At temperature 0, where there is no noise, ``proposal_logprob``."""


# The order of core/score_tokens_params.h: bit i of the native `want`.
SCORES = TokenScores._fields
_ID_SCORES = 2


def want_mask(want: Iterable[str] | None, has_tokens: bool, dense_noise: bool = False) -> int:
    """The wanted scores as bits, in the order of TokenScores."""
    available = {"current_logprob": has_tokens, "noised_logprob": dense_noise}
    if want is None:
        want = [name for name in SCORES if available.get(name, True)]
    if isinstance(want, str):
        raise TypeError(f'want: expected several names, such as ("{want}",), got one string')
    mask = 0
    for name in want:
        if name not in SCORES:
            raise ValueError(f"want: expected names among {', '.join(SCORES)}, got {name!r}")
        mask |= 1 << SCORES.index(name)
    if mask >> SCORES.index("current_logprob") & 1 and not has_tokens:
        raise ValueError("want: current_logprob is the log-probability of `tokens`, which were not given")
    if mask >> SCORES.index("noised_logprob") & 1 and not dense_noise:
        raise ValueError('want: noised_logprob needs noise="dense", one Gumbel per id')
    return mask


def rounding_dtype(dtype: torch.dtype | None) -> torch.dtype:
    if dtype is None:
        return torch.float32
    if dtype not in arguments.SCORE_DTYPES:
        raise TypeError(f"confidence_dtype: expected float32, bfloat16 or float16, got {dtype!r}")
    return dtype


def id_list(name: str, value: Ids | None, vocab: int, like: Tensor) -> Tensor | None:
    """Ids as int64 [n]; Python ints are held against the vocabulary, a tensor's values never."""
    if value is None:
        return None
    if isinstance(value, Tensor):
        arguments.require_dtype(name, value, torch.int64)
        if value.dim() > 1:
            raise ValueError(f"{name}: expected ids [n], got shape {list(value.shape)}")
        arguments.require_device(name, value, like, "logits")
        return value.reshape(-1).contiguous()
    ids = _checks.token_ids(name, value)
    _checks.ids_within(name, ids, vocab)
    if like.device.type == "cpu" or not ids:
        return torch.tensor(ids, dtype=torch.int64, device=like.device)
    # A copy from the host would make it wait for the device, and no CUDA graph could capture it.
    return torch.cat([torch.full((1,), index, dtype=torch.int64, device=like.device) for index in ids])


def per_position(
    name: str, value: object, lead: torch.Size, like: Tensor, dtype: torch.dtype, low: float, high: float
) -> Tensor:
    """A number, or a tensor [], one per sequence or one per position, as a view [B, L] of ``dtype``.

    The bounds are held against Python numbers only.
    """
    batch, length = math.prod(lead[:-1]), lead[-1]
    integer = not dtype.is_floating_point
    if isinstance(value, Tensor):
        if value.dtype != dtype if integer else not value.is_floating_point():
            expected = "int64" if integer else "a floating-point dtype"
            raise TypeError(f"{name}: expected {expected}, got {str(value.dtype).removeprefix('torch.')}")
        arguments.require_device(name, value, like, "logits")
        if value.shape not in (torch.Size(), lead[:-1], lead):
            raise ValueError(
                f"{name}: expected shape [], {list(lead[:-1])} (per sequence) or {list(lead)} (per position), "
                f"got {list(value.shape)}"
            )
        shape = (batch, length) if value.shape == lead else (-1, 1)
        return value.to(dtype).reshape(shape).expand(batch, length)
    if integer:
        plain: float = _checks.integer(name, value, minimum=int(low), expected="an int or a tensor")
    else:
        bounds = "" if math.isinf(low) else f" >= {low:g}" if math.isinf(high) else f" in [{low:g}, {high:g}]"
        plain = _checks.number(name, value, low=low, high=high, expected=f"a finite number{bounds} or a tensor")
    return torch.full((), plain, dtype=dtype, device=like.device).expand(batch, length)


def named_scores(mask: int, ids: Tensor, stats: Tensor, lead: torch.Size) -> TokenScores:
    """The native outputs ``[wanted, B, L]`` by name."""
    names = [name for bit, name in enumerate(SCORES) if mask >> bit & 1]
    outputs = [*ids.unbind(0), *stats.unbind(0)]
    if len(lead) != 2:
        outputs = [output.reshape(lead) for output in outputs]
    return TokenScores(**dict(zip(names, outputs, strict=True)))


def fake_scores(want: int, batch: int, length: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Empty tensors of the shapes and dtypes that a scoring kernel returns."""
    ids = bin(want & ((1 << _ID_SCORES) - 1)).count("1")
    stats = bin(want >> _ID_SCORES).count("1")
    return (
        torch.empty((ids, batch, length), dtype=torch.int64, device=device),
        torch.empty((stats, batch, length), dtype=torch.float32, device=device),
    )
