"""What the scoring operators share: the scores they return and the arguments that say how to score."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from mdmcorrect import _checks, _constants
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
_KEPT_AT_MOST = 256
_kept: dict[Any, ScoreOptions] = {}


class ScoreOptions(NamedTuple):
    """How to score, checked, as the native operators take it: what stays the same from step to step."""

    want: int
    id_places: tuple[int, ...]
    """Where in TokenScores the ids that the operator returns belong."""
    stat_places: tuple[int, ...]
    """Where its other scores do."""
    temperature: Tensor
    draws: bool
    """Whether a token may be drawn, so that a seed is needed."""
    top_k: Tensor | None
    top_p: Tensor | None
    top_p_inclusive: bool
    top_p_first: bool
    suppress: Tensor | None
    forbid: Tensor | None
    proposal_law: bool
    probabilities: bool
    dense_noise: bool
    confidence_dtype: torch.dtype


def score_options(
    like: Tensor,
    lead: torch.Size,
    vocab: int,
    has_tokens: bool,
    *,
    want: Iterable[str] | None,
    suppress: Ids | None,
    forbid: Ids | None,
    temperature: float | Tensor,
    top_k: int | Tensor | None,
    top_p: float | Tensor | None,
    top_p_rule: str,
    filter_order: str,
    law: str,
    confidence_dtype: torch.dtype | None,
    input: str = "logits",
    noise: str = "lazy",
) -> ScoreOptions:
    """The options of :func:`~mdmcorrect.ops.score_tokens`, which says what each is, for logits ``[*lead, vocab]``.

    Plain numbers, names and ids are checked and made tensors once and then looked up by value.

    Args:
        like: a tensor on the device of the logits.
        lead: ``[..., L]``, which options that are tensors are held against.
        has_tokens: whether ``tokens`` will be given.
    """
    suppress, forbid = _by_value(suppress), _by_value(forbid)
    if want is not None and not isinstance(want, (str, tuple)):
        want = tuple(want)
    numbers = (temperature, top_k, top_p, suppress, forbid)
    names: tuple[Any, ...] = (want, top_p_rule, filter_order, law, input, noise, confidence_dtype)
    place = _constants.place_of(like)
    if place is None or not _by_value_only(numbers):
        return _make_options(like, lead, vocab, has_tokens, *numbers, *names)
    key = (place, vocab, has_tokens, numbers, tuple(map(type, numbers)), names)
    try:
        options = _kept.get(key)
    except TypeError:  # something in it is no name: the error says which
        return _make_options(like, lead, vocab, has_tokens, *numbers, *names)
    if options is None:
        options = _make_options(like, lead, vocab, has_tokens, *numbers, *names)
        _constants.keep(_kept, key, options, _KEPT_AT_MOST)
    return options


def _by_value(ids: Ids | None) -> Any:
    """A list of ids as a tuple, which can be looked up."""
    return tuple(ids) if type(ids) is list else ids


def _by_value_only(numbers: tuple[Any, ...]) -> bool:
    """Whether what is equal to these means the same, once the types of those that stand alone are.

    Of what stands in a list they are not looked at, and ``1 == True``. A tensor's values may change.
    """
    for value in numbers:
        if isinstance(value, Tensor):
            return False
        if type(value) is tuple and (len(value) > _constants.LONGEST or any(type(index) is not int for index in value)):
            return False
    return True


def _make_options(
    like: Tensor,
    lead: torch.Size,
    vocab: int,
    has_tokens: bool,
    temperature: float | Tensor,
    top_k: int | Tensor | None,
    top_p: float | Tensor | None,
    suppress: Ids | None,
    forbid: Ids | None,
    want: Iterable[str] | None,
    top_p_rule: str,
    filter_order: str,
    law: str,
    input: str,
    noise: str,
    confidence_dtype: torch.dtype | None,
) -> ScoreOptions:
    dense = _checks.choice("noise", noise, "lazy", "dense") == "dense"
    mask = want_mask(want, has_tokens, dense)
    wanted = [bit for bit in range(len(SCORES)) if mask >> bit & 1]
    return ScoreOptions(
        want=mask,
        id_places=tuple(bit for bit in wanted if bit < _ID_SCORES),
        stat_places=tuple(bit for bit in wanted if bit >= _ID_SCORES),
        temperature=per_position("temperature", temperature, lead, like, torch.float64, 0.0, math.inf),
        draws=isinstance(temperature, Tensor) or bool(temperature != 0),
        top_k=None if top_k is None else per_position("top_k", top_k, lead, like, torch.int64, 1, math.inf),
        top_p=None if top_p is None else per_position("top_p", top_p, lead, like, torch.float64, 0.0, 1.0),
        top_p_inclusive=_checks.choice("top_p_rule", top_p_rule, "inclusive", "exclusive") == "inclusive",
        top_p_first=_checks.choice("filter_order", filter_order, "top_k_first", "top_p_first") == "top_p_first",
        suppress=id_list("suppress", suppress, vocab, like),
        forbid=id_list("forbid", forbid, vocab, like),
        proposal_law=_checks.choice("law", law, "raw", "proposal") == "proposal",
        probabilities=_checks.choice("input", input, "logits", "probs") == "probs",
        dense_noise=dense,
        confidence_dtype=rounding_dtype(confidence_dtype),
    )


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
        raise ValueError("want: expected tokens beside current_logprob, their log-probability, got none")
    if mask >> SCORES.index("noised_logprob") & 1 and not dense_noise:
        raise ValueError('want: expected noise="dense", one Gumbel per id, beside noised_logprob, got "lazy"')
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
    return _constants.integers(ids, like)


def per_position(
    name: str, value: object, lead: torch.Size, like: Tensor, dtype: torch.dtype, low: float, high: float
) -> Tensor:
    """A number, or a tensor [], one per sequence or one per position, as [] or a view [B, L] of ``dtype``.

    The bounds are held against Python numbers only.
    """
    integer = not dtype.is_floating_point
    if isinstance(value, Tensor):
        if value.dtype != dtype if integer else not value.is_floating_point():
            expected = "int64" if integer else "a floating-point dtype"
            raise TypeError(f"{name}: expected {expected}, got {str(value.dtype).removeprefix('torch.')}")
        arguments.require_device(name, value, like, "logits")
        if value.dim() == 0:
            return value.to(dtype)
        if value.shape not in (lead[:-1], lead):
            raise ValueError(
                f"{name}: expected shape [], {list(lead[:-1])} (per sequence) or {list(lead)} (per position), "
                f"got {list(value.shape)}"
            )
        batch, length = math.prod(lead[:-1]), lead[-1]
        shape = (batch, length) if value.shape == lead else (-1, 1)
        return value.to(dtype).reshape(shape).expand(batch, length)
    if integer:
        plain: float = _checks.integer(name, value, minimum=int(low), expected="an int or a tensor")
    else:
        bounds = "" if math.isinf(low) else f" >= {low:g}" if math.isinf(high) else f" in [{low:g}, {high:g}]"
        plain = _checks.number(name, value, low=low, high=high, expected=f"a finite number{bounds} or a tensor")
    return _constants.number(plain, dtype, like)


def named_scores(options: ScoreOptions, ids: Tensor, stats: Tensor, lead: torch.Size) -> TokenScores:
    """The native outputs ``[wanted, B, L]`` by name."""
    values = [_LEFT_OUT] * len(SCORES)
    for places, outputs in ((options.id_places, ids), (options.stat_places, stats)):
        if len(places) == 1:
            values[places[0]] = outputs.squeeze(0) if len(lead) == 2 else outputs.reshape(lead)
        elif places:
            for place, output in zip(places, outputs.unbind(0), strict=True):
                values[place] = output if len(lead) == 2 else output.reshape(lead)
    return TokenScores(*values)


def fake_scores(want: int, batch: int, length: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Empty tensors of the shapes and dtypes that a scoring kernel returns."""
    ids = bin(want & ((1 << _ID_SCORES) - 1)).count("1")
    stats = bin(want >> _ID_SCORES).count("1")
    return (
        torch.empty((ids, batch, length), dtype=torch.int64, device=device),
        torch.empty((stats, batch, length), dtype=torch.float32, device=device),
    )
