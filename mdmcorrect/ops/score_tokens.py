"""score_tokens: statistics of distributions over the vocabulary, and one exact draw each, in one read of the logits."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from mdmcorrect import _native, rng
from mdmcorrect.ops import _arguments as arguments

_native.load()

Ids: TypeAlias = int | Sequence[int] | Tensor


class TokenScores(NamedTuple):
    """What :func:`score_tokens` returns: tensors ``[..., L]``, None where ``want`` left a score out."""

    token: Tensor | None = None
    """int64. The most likely proposable id at temperature 0, else one draw; -1: none."""
    argmax: Tensor | None = None
    """int64. The most likely id under the law, lowest id on ties; -1: none."""
    logprob: Tensor | None = None
    """log-probability of ``token`` at temperature 1 and unfiltered, whatever the law."""
    proposal_logprob: Tensor | None = None
    """log-probability of ``token`` after temperature, filters and ``forbid``, whatever the law."""
    current_logprob: Tensor | None = None
    """log-probability of ``tokens`` under the law; NaN for an id outside the vocabulary."""
    max_logprob: Tensor | None = None
    """Largest log-probability under the law."""
    second_logprob: Tensor | None = None
    """Second largest, equal to the largest on ties; -inf if there is one id only."""
    entropy: Tensor | None = None
    """Entropy of the law, in nats."""
    margin: Tensor | None = None
    """Difference of the two largest probabilities."""
    logsumexp: Tensor | None = None
    """Log of the law's normaliser."""
    confidence: Tensor | None = None
    """Probability of ``token`` under the law, rounded to ``confidence_dtype``."""


# The order of core/score_tokens_params.h: bit i of the native `want`.
_SCORES = TokenScores._fields
_ID_SCORES = 2


def score_tokens(
    logits: Tensor,
    *,
    tokens: Tensor | None = None,
    rows: Tensor | None = None,
    positions: Tensor | None = None,
    temperature: float | Tensor = 0.0,
    top_k: int | Tensor | None = None,
    top_p: float | Tensor | None = None,
    top_p_rule: str = "inclusive",
    filter_order: str = "top_k_first",
    suppress: Ids | None = None,
    forbid: Ids | None = None,
    uncond_logits: Tensor | None = None,
    guidance: float = 0.0,
    shift: int = 0,
    law: str = "raw",
    noise: str = "lazy",
    input: str = "logits",
    confidence_dtype: torch.dtype | None = None,
    want: Iterable[str] | None = None,
    seed: int | Tensor | torch.Generator = 0,
    step: int | Tensor = 0,
    call: int | Tensor = 0,
) -> TokenScores:
    """Score every position's distribution over the vocabulary and choose one token for it.

    The logits are read once (top_k and top_p read a row again, from cache) and nothing of their size is allocated. A
    draw is exact: softmax at the given temperature over what the filters keep. It costs one random number per 512 ids
    and one per id of the winning 512, has the law of full Gumbel-max with its whole tail, and for given logits is the
    same for any batch, padding, thread count and set of ``rows``. Gradients do not flow through it.

    Args:
        logits: ``[..., L, V]`` float32, bfloat16 or float16, the last dimension contiguous, other strides free. L is
            the position, the dimensions before it are the sequence. -inf is a valid logit.
        tokens: int64 ``[..., L]``, for ``current_logprob``.
        rows: bool ``[..., L]``; a position left out is not read and gets -1 and NaN.
        positions: int64 ``[L]`` or ``[..., L]``: the positions the random numbers belong to. Default: 0 to L - 1.
        temperature: a number, or a floating-point tensor: ``[]``, one per sequence, or one per position. 0 is argmax,
            the lowest id on ties (so is anything not above 0 in a tensor); statistics are then those of temperature 1.
        top_k: propose only the k most likely ids and all that tie with the k-th. An int, or int64 of the same shapes.
        top_p: propose only the nucleus of mass p, after temperature; 1 is off. A number, or floating point of the same
            shapes. Ties go by lowest id; masses are integers of 2^-40 of the largest, so no order of summation enters.
        top_p_rule: "inclusive" keeps the id that crosses p (Hugging Face, Dream); "exclusive" drops it but always keeps
            the first (MDLM, ReMDM, PRISM, ProSeCo).
        filter_order: "top_k_first" (Hugging Face) takes the nucleus of what top_k kept; "top_p_first" (Dream) takes the
            nucleus of everything and keeps what top_k keeps too.
        suppress: ids that have probability 0 in every output, such as the mask token. An int, ints or int64 ``[n]``.
        forbid: ids that are never proposed; raw statistics keep them. As ``suppress``.
        uncond_logits, guidance, shift: classifier-free guidance and right-shifted logits: not available yet.
        law: which distribution the statistics describe: "raw", at temperature 1 with everything but ``suppress``
            (LLaDA), or "proposal", after temperature, filters and ``forbid`` (Dream, LLaDA2).
        noise: "lazy"; "dense", one Gumbel per id, is not available yet.
        input: "logits", or "probs" for unnormalised probabilities; then a negative number counts as NaN.
        confidence_dtype: float32 (default), bfloat16 or float16: what ``confidence`` is rounded to. LLaDA and Dream
            compute it in the model's dtype, and the ties this makes decide which position is committed.
        want: names of :class:`TokenScores`; the rest is None and costs nothing. Default: all there are.
        seed: int64 ``[B]``, one per sequence; or an int or ``torch.Generator``, from which each sequence gets its own
            (:func:`mdmcorrect.rng.sequence_seeds`). As ``step`` and ``call``, unused at temperature 0.
        step: sampling step, an int or int64 ``[]`` or one per sequence.
        call: tells calls within one step apart, an int or int64 ``[]``; modulo 2^16.

    Returns:
        :class:`TokenScores`: ids are int64, everything else float32, natural logarithms. A row with a NaN or +inf logit
        has token -1 and NaN. A row with no id left has token -1, logsumexp -inf and NaN elsewhere.

    Raises:
        TypeError: an argument of the wrong type or dtype.
        ValueError: a shape, device, layout, number or name that does not fit.
        NotImplementedError: guidance, shift or dense noise.
        RuntimeError: a CUDA tensor, but a library without this kernel for CUDA.

    Example:
        >>> logits = torch.tensor([[0.0, 2.0, 2.0, -torch.inf]])
        >>> scores = score_tokens(logits, want=("token", "margin"))
        >>> scores.token, scores.margin
        (tensor([1]), tensor([0.]))
    """
    _reject_missing(uncond_logits, guidance, shift, noise)
    grid = _as_grid(logits)
    arguments.require_kernel("score_tokens", grid)
    lead, (batch, length, vocab) = logits.shape[:-1], grid.shape
    for name, value in (("tokens", tokens), ("rows", rows)):
        if value is not None:
            arguments.require_like(name, value, tuple(lead), logits, "logits (without V)")
    if tokens is not None:
        arguments.require_dtype("tokens", tokens, torch.int64)
        tokens = tokens.reshape(batch, length)
    if rows is not None:
        arguments.require_dtype("rows", rows, torch.bool)
        rows = rows.reshape(batch, length)
    if positions is not None:
        arguments.require_positions(positions, tuple(lead), logits, "logits (without V)")
        positions = positions if positions.dim() == 1 else positions.reshape(batch, length)
    if isinstance(call, Tensor) and call.dim() != 0:
        raise ValueError(f"call: expected an int or int64 [], got shape {list(call.shape)}")

    mask = _want_mask(want, tokens is not None)
    ids, stats = torch.ops.mdmcorrect.score_tokens(
        grid,
        mask,
        _per_position("temperature", temperature, lead, logits, torch.float64, 0.0, math.inf),
        tokens,
        rows,
        positions,
        None if top_k is None else _per_position("top_k", top_k, lead, logits, torch.int64, 1, math.inf),
        None if top_p is None else _per_position("top_p", top_p, lead, logits, torch.float64, 0.0, 1.0),
        _choice("top_p_rule", top_p_rule, "inclusive", "exclusive") == "inclusive",
        _choice("filter_order", filter_order, "top_k_first", "top_p_first") == "top_p_first",
        _id_list("suppress", suppress, vocab, logits),
        _id_list("forbid", forbid, vocab, logits),
        _choice("law", law, "raw", "proposal") == "proposal",
        _choice("input", input, "logits", "probs") == "probs",
        _confidence_dtype(confidence_dtype),
        rng.seed_tensor(seed, batch, device=logits.device).contiguous(),
        arguments.row_integers("step", step, batch, logits),
        arguments.row_integers("call", call, batch, logits),
    )
    names = [name for bit, name in enumerate(_SCORES) if mask >> bit & 1]
    outputs = [*ids.unbind(0), *stats.unbind(0)]
    return TokenScores(**{name: output.reshape(lead) for name, output in zip(names, outputs, strict=True)})


def _reject_missing(uncond_logits: object, guidance: float, shift: int, noise: str) -> None:
    """Arguments whose names are fixed but whose kernels have not landed."""
    if uncond_logits is not None or guidance != 0.0:
        raise NotImplementedError(
            "uncond_logits, guidance: not available in this version; mix the logits before the call, "
            "`uncond + (guidance + 1) * (cond - uncond)`"
        )
    if shift != 0:
        raise NotImplementedError(
            f"shift: got {shift}, but only 0 is available in this version; shift the logits before the call, "
            "`torch.cat([logits[:, :1], logits[:, :-1]], 1)`"
        )
    if noise != "lazy":
        _choice("noise", noise, "lazy", "dense")
        raise NotImplementedError(
            'noise: "dense" is not available in this version; "lazy" draws from the same distribution'
        )


def _as_grid(logits: object) -> Tensor:
    """Logits as a view [B, L, V], without gradient."""
    tensor = arguments.require_tensor("logits", logits).detach()
    if tensor.dim() < 2 or tensor.shape[-1] < 1:
        raise ValueError(f"logits: expected shape [..., L, V] with V >= 1, got {list(tensor.shape)}")
    arguments.require_dtype("logits", tensor, *arguments.SCORE_DTYPES)
    if tensor.shape[-1] > 1 and tensor.stride(-1) != 1:
        raise ValueError(
            f"logits: expected the last dimension to be contiguous, got strides {tuple(tensor.stride())} "
            f"for shape {list(tensor.shape)}; call .contiguous() first"
        )
    if tensor.dim() == 2:
        return tensor[None]
    if tensor.dim() == 3:
        return tensor
    shape, stride = tensor.shape, tensor.stride()
    if any(stride[i] != stride[i + 1] * shape[i + 1] for i in range(tensor.dim() - 3)):
        raise ValueError(
            f"logits: the dimensions before L must merge into one without a copy, got strides {tuple(stride)} "
            f"for shape {list(shape)}; call .contiguous() first"
        )
    return tensor.flatten(0, -3)


def _want_mask(want: Iterable[str] | None, has_tokens: bool) -> int:
    """The wanted scores as bits, in the order of TokenScores."""
    if want is None:
        want = [name for name in _SCORES if has_tokens or name != "current_logprob"]
    if isinstance(want, str):
        raise TypeError(f'want: expected several names, such as ("{want}",), got one string')
    mask = 0
    for name in want:
        if name not in _SCORES:
            raise ValueError(f"want: expected names among {', '.join(_SCORES)}, got {name!r}")
        mask |= 1 << _SCORES.index(name)
    if mask >> _SCORES.index("current_logprob") & 1 and not has_tokens:
        raise ValueError("want: current_logprob is the log-probability of `tokens`, which were not given")
    return mask


def _choice(name: str, value: object, *allowed: str) -> str:
    if not isinstance(value, str) or value not in allowed:
        raise ValueError(f"{name}: expected {' or '.join(map(repr, allowed))}, got {value!r}")
    return value


def _confidence_dtype(dtype: torch.dtype | None) -> torch.dtype:
    if dtype is None:
        return torch.float32
    if dtype not in arguments.SCORE_DTYPES:
        raise TypeError(f"confidence_dtype: expected float32, bfloat16 or float16, got {dtype!r}")
    return dtype


def _id_list(name: str, value: Ids | None, vocab: int, like: Tensor) -> Tensor | None:
    """Ids as int64 [n]; Python ints are held against the vocabulary, a tensor's values never."""
    if value is None:
        return None
    if isinstance(value, Tensor):
        arguments.require_dtype(name, value, torch.int64)
        if value.dim() > 1:
            raise ValueError(f"{name}: expected ids [n], got shape {list(value.shape)}")
        arguments.require_device(name, value, like, "logits")
        return value.reshape(-1)
    ids = [value] if isinstance(value, int) else list(value)
    for index in ids:
        if isinstance(index, bool) or not isinstance(index, int):
            raise TypeError(f"{name}: expected ints or an int64 tensor, got {type(index).__name__}")
        if not 0 <= index < vocab:
            raise ValueError(f"{name}: expected ids in [0, {vocab}), got {index}")
    return torch.tensor(ids, dtype=torch.int64, device=like.device)


def _per_position(
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
    if isinstance(value, bool) or not isinstance(value, int if integer else (int, float)):
        expected = "an int" if integer else "a number"
        raise TypeError(f"{name}: expected {expected} or a tensor, got {type(value).__name__}")
    if not low <= value <= high or math.isinf(value):
        bounds = f"at least {low}" if math.isinf(high) else f"between {low} and {high}"
        raise ValueError(f"{name}: expected a finite number, {bounds}, got {value}")
    return torch.full((), value, dtype=dtype, device=like.device).expand(batch, length)


@torch.library.register_fake("mdmcorrect::score_tokens")
def _fake(
    logits: Tensor,
    want: int,
    temperature: Tensor,
    tokens: Tensor | None,
    rows: Tensor | None,
    positions: Tensor | None,
    top_k: Tensor | None,
    top_p: Tensor | None,
    top_p_inclusive: bool,
    top_p_first: bool,
    suppress: Tensor | None,
    forbid: Tensor | None,
    proposal_law: bool,
    probabilities: bool,
    confidence_dtype: torch.dtype,
    seed: Tensor,
    step: Tensor,
    call: Tensor,
) -> tuple[Tensor, Tensor]:
    shape = logits.shape[:-1]
    ids = bin(want & ((1 << _ID_SCORES) - 1)).count("1")
    stats = bin(want >> _ID_SCORES).count("1")
    return (
        torch.empty((ids, *shape), dtype=torch.int64, device=logits.device),
        torch.empty((stats, *shape), dtype=torch.float32, device=logits.device),
    )
