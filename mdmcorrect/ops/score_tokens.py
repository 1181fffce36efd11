"""score_tokens: statistics of distributions over the vocabulary, and one exact draw each, in one read of the logits."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from mdmcorrect import _native, rng
from mdmcorrect.ops import _arguments as arguments
from mdmcorrect.ops import _by_address as by_address
from mdmcorrect.ops import _scoring as scoring
from mdmcorrect.ops._differentiation import constant, detached
from mdmcorrect.ops._scoring import Ids, ScoreOptions, TokenScores

_native.load()
_NATIVE = torch.ops.mdmcorrect.score_tokens.default
_LEAD = "logits (without V)"


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
    guidance: float | Tensor = 0.0,
    shift: int = 0,
    law: str = "raw",
    noise: str = "lazy",
    input: str = "logits",
    confidence_dtype: torch.dtype | None = None,
    want: Iterable[str] | None = None,
    seed: rng.Seed = 0,
    step: int | Tensor = 0,
    call: int | Tensor = 0,
) -> TokenScores:
    """Score every position's distribution over the vocabulary and choose one token for it.

    The logits are read once (top_k and top_p read a row again, from cache) and nothing of their size is allocated. A
    draw is exact: softmax at the given temperature over what the filters keep. It costs one random number per 512 ids
    and one per id of the winning 512, has the law of full Gumbel-max with its whole tail, and for given logits is the
    same for any batch, padding, thread count and set of ``rows``. Scores are constants: they carry no gradient,
    backward or forward, whatever the logits want.

    Args:
        logits: ``[..., L, V]`` float32, bfloat16 or float16, the last dimension contiguous, other strides free. L is
            the position, the dimensions before it are the sequence. -inf is a valid logit.
        tokens: int64 ``[..., L]``, for ``current_logprob``.
        rows: bool ``[..., L]``; a position left out is not read and gets -1 and NaN.
        positions: int64 ``[L]`` or ``[..., L]``: the positions the random numbers belong to. Default: 0 to L - 1.
        temperature: a number, or a floating-point tensor: ``[]``, one per sequence, or one per position. 0 is argmax,
            the lowest id on ties (so is anything not above 0 in a tensor); statistics are then those of temperature 1.
            Below 1e-30 it counts as 1e-30, above 1e30 as 1e30.
        top_k: propose only the k most likely ids and all that tie with the k-th. An int, or int64 of the same shapes.
        top_p: propose only the nucleus of mass p, after temperature; 1 is off. A number, or floating point of the same
            shapes. Ties go by lowest id. Its end is the same for any batch and thread count; instruction sets and
            devices may end it one id apart where float32 sums of the masses before it round differently.
        top_p_rule: "inclusive" keeps the id that crosses p (Hugging Face, Dream); "exclusive" drops it but always keeps
            the first (MDLM, ReMDM, PRISM, ProSeCo).
        filter_order: "top_k_first" (Hugging Face) takes the nucleus of what top_k kept; "top_p_first" (Dream) takes the
            nucleus of everything and keeps what top_k keeps too.
        suppress: ids that have probability 0 in every output, such as the mask token. An int, ints or int64 ``[n]``.
        forbid: ids that are never proposed; raw statistics keep them. As ``suppress``.
        uncond_logits: logits without the condition, shape and dtype of ``logits``, strides of their own.
        guidance: classifier-free guidance scale w. Before anything else the logits c become ``u + (w + 1) * (c - u)``,
            u being ``uncond_logits``, every operation rounded to their dtype as LLaDA's ``cfg_scale`` has it. At 0 u is
            not read. An id that is -inf in both stays so. What exceeds their dtype on the way is infinite, and a row
            with +inf has no token. A number, or a tensor as ``temperature``.
        shift: position l is scored by the logits of position max(l - shift, 0): 1 for models that predict the next
            token (Dream). ``rows``, ``tokens``, ``positions`` and the scores are those of position l.
        law: which distribution the statistics describe: "raw", at temperature 1 with everything but ``suppress``
            (LLaDA), or "proposal", after temperature, filters and ``forbid`` (Dream, LLaDA2).
        noise: "lazy" draws as said above. "dense" adds one Gumbel to every proposable logit over temperature and takes
            the largest: the same law from other random numbers, one per id, for methods that use the noisy logits
            themselves (P2, arXiv 2502.03540, whose score is ``noised_logprob``).
        input: "logits", or "probs" for unnormalised probabilities; then a negative number counts as 0, as
            rounding makes such ones.
        confidence_dtype: float32 (default), bfloat16 or float16: what ``confidence`` is rounded to. LLaDA and Dream
            compute it in the model's dtype, and the ties this makes decide which position is committed.
        want: names of :class:`TokenScores`; the rest is None and costs nothing. Default: all there are.
        seed: int64 ``[B]``, one per sequence; or an int, a ``torch.Generator``, or None for torch's default one, from
            which each sequence gets its own (:func:`mdmcorrect.rng.sequence_seeds`); None is refused while a graph is
            made. As ``step`` and ``call``, unused at temperature 0.
        step: sampling step, an int or int64 ``[]`` or one per sequence.
        call: tells calls within one step apart, an int or int64 ``[]``; modulo 2^16.

    Returns:
        :class:`TokenScores`: ids are int64, everything else float32, natural logarithms. A row with a NaN or +inf logit
        has token -1 and NaN. A row with no id left has token -1, logsumexp -inf and NaN elsewhere.

    Raises:
        TypeError: an argument of the wrong type or dtype.
        ValueError: a shape, device, layout, number or name that does not fit.
        RuntimeError: a CUDA tensor, but a library without this kernel for CUDA.

    Example:
        >>> logits = torch.tensor([[0.0, 2.0, 2.0, -torch.inf]])
        >>> scores = score_tokens(logits, want=("token", "margin"))
        >>> scores.token, scores.margin
        (tensor([1]), tensor([0.]))
    """
    grid = _as_grid("logits", logits)
    options = scoring.score_options(
        grid,
        logits.shape[:-1],
        logits.shape[-1],
        tokens is not None,
        want=want,
        suppress=suppress,
        forbid=forbid,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        top_p_rule=top_p_rule,
        filter_order=filter_order,
        law=law,
        confidence_dtype=confidence_dtype,
        input=input,
        noise=noise,
    )
    return _named(options, logits, grid, tokens, rows, positions, seed, step, call, uncond_logits, guidance, shift)


class PreparedScoring:
    """:func:`score_tokens` with options that stay the same, checked and made tensors once: a call costs little more
    than the operator's own. Made by :func:`prepare_score_tokens`, once a run.

    The options' tensors live as long as this does and were filled on the stream that was current then: a CUDA graph may
    read them if this outlives it and the capture began after that stream's work.
    """

    __slots__ = ("direct", "options", "vocab")

    def __init__(self, options: ScoreOptions, vocab: int, *, plain: bool = False) -> None:
        """``plain``: the options were numbers and names, so that nobody can change them."""
        self.options = options
        self.vocab = vocab
        self.direct = by_address.ScoreTokens.of(options, vocab) if plain else None

    @property
    def names(self) -> tuple[str, ...]:
        """The wanted scores in the order of :meth:`native`'s results, ids first."""
        return tuple(scoring.SCORES[place] for place in (*self.options.id_places, *self.options.stat_places))

    def __call__(
        self,
        logits: Tensor,
        *,
        tokens: Tensor | None = None,
        rows: Tensor | None = None,
        positions: Tensor | None = None,
        seed: rng.Seed = 0,
        step: int | Tensor = 0,
        call: int | Tensor = 0,
        uncond_logits: Tensor | None = None,
        guidance: float | Tensor = 0.0,
        shift: int = 0,
    ) -> TokenScores:
        """The scores of logits ``[..., L, V]``; arguments and errors are those of :func:`score_tokens`."""
        grid = self._grid(logits, tokens)
        return _named(
            self.options, logits, grid, tokens, rows, positions, seed, step, call, uncond_logits, guidance, shift
        )

    def native(
        self,
        logits: Tensor,
        *,
        tokens: Tensor | None = None,
        rows: Tensor | None = None,
        positions: Tensor | None = None,
        seed: rng.Seed = 0,
        step: int | Tensor = 0,
        call: int | Tensor = 0,
        uncond_logits: Tensor | None = None,
        guidance: float | Tensor = 0.0,
        shift: int = 0,
    ) -> tuple[Tensor, Tensor]:
        """The same as the operator returns it: ids int64 and other scores float32, ``[wanted, B, L]`` in the order of
        ``names``. One operator, no views."""
        grid = self._grid(logits, tokens)
        return _score(
            self.options, logits, grid, tokens, rows, positions, seed, step, call, uncond_logits, guidance, shift
        )

    def trusted(
        self,
        logits: Tensor,
        tokens: Tensor,
        rows: Tensor,
        positions: Tensor,
        seed: Tensor,
        step: Tensor,
        call: Tensor,
        shift: int = 0,
    ) -> Sequence[Tensor]:
        """A score ``[B, L]`` for each of ``names``, for a caller that has looked at its arguments: constant logits
        ``[B, L, V]`` whose last dimension is contiguous, int64, bool and int64 ``[B, L]`` beside them, int64 ``[B]``,
        ``[B]`` and ``[]``. The operator looks at shapes alone."""
        if self.direct is not None:
            made = self.direct(logits, tokens, rows, positions, seed, step, call, shift)
            if made is not None:
                return made
        how = self.options
        ids, others = _NATIVE(
            logits, None, None, shift, how.want, how.temperature, tokens, rows, positions, how.top_k, how.top_p,
            how.top_p_inclusive, how.top_p_first, how.suppress, how.forbid, how.proposal_law, how.probabilities,
            how.dense_noise, how.confidence_dtype, seed, step, call,
        )  # fmt: skip
        return *ids.unbind(0), *others.unbind(0)

    def _grid(self, logits: Tensor, tokens: Tensor | None) -> Tensor:
        grid = _as_grid("logits", logits)
        if grid.shape[-1] != self.vocab:
            raise ValueError(f"logits: expected {self.vocab} ids, as was prepared for, got {grid.shape[-1]}")
        if tokens is None and "current_logprob" in self.names:
            raise ValueError("tokens: expected int64 [..., L], of which current_logprob was prepared for, got None")
        return grid


def prepare_score_tokens(
    *,
    vocab: int,
    device: torch.device | str,
    has_tokens: bool = True,
    temperature: float | Tensor = 0.0,
    top_k: int | Tensor | None = None,
    top_p: float | Tensor | None = None,
    top_p_rule: str = "inclusive",
    filter_order: str = "top_k_first",
    suppress: Ids | None = None,
    forbid: Ids | None = None,
    law: str = "raw",
    noise: str = "lazy",
    input: str = "logits",
    confidence_dtype: torch.dtype | None = None,
    want: Iterable[str] | None = None,
) -> PreparedScoring:
    """Check the options of :func:`score_tokens` that stay the same through a run, and make them tensors.

    Args:
        vocab: V of the logits.
        device: theirs.
        has_tokens: whether ``tokens`` will be given; without them ``want=None`` leaves out ``current_logprob``.
        temperature, top_k, top_p: as there, but a tensor has to be ``[]``.
        top_p_rule, filter_order, suppress, forbid, law, noise, input, confidence_dtype, want: as there.

    Raises:
        TypeError, ValueError: as there.

    Example:
        >>> prepared = prepare_score_tokens(vocab=4, device="cpu", suppress=3, want=("token", "margin"))
        >>> prepared(torch.tensor([[0.0, 2.0, 2.0, 9.0]])).token
        tensor([1])
    """
    options = scoring.score_options(
        torch.empty(0, dtype=torch.float32, device=device),
        torch.Size(),
        vocab,
        has_tokens,
        want=want,
        suppress=suppress,
        forbid=forbid,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        top_p_rule=top_p_rule,
        filter_order=filter_order,
        law=law,
        confidence_dtype=confidence_dtype,
        input=input,
        noise=noise,
    )
    given = (temperature, top_k, top_p, suppress, forbid)
    return PreparedScoring(options, vocab, plain=not any(isinstance(value, Tensor) for value in given))


def _named(options: ScoreOptions, logits: Tensor, *call: Any) -> TokenScores:
    ids, stats = _score(options, logits, *call)
    return scoring.named_scores(options, ids, stats, logits.shape[:-1])


def _score(
    options: ScoreOptions,
    logits: Tensor,
    grid: Tensor,
    tokens: Tensor | None,
    rows: Tensor | None,
    positions: Tensor | None,
    seed: rng.Seed,
    step: int | Tensor,
    call: int | Tensor,
    uncond_logits: Tensor | None,
    guidance: float | Tensor,
    shift: int,
) -> tuple[Tensor, Tensor]:
    """The native operator, and the checks of what differs from call to call."""
    arguments.require_kernel("score_tokens", grid)
    lead, (batch, length, _) = logits.shape[:-1], grid.shape
    if tokens is not None:
        arguments.require_like("tokens", tokens, lead, logits, _LEAD, torch.int64)
        tokens = tokens if len(lead) == 2 else tokens.reshape(batch, length)
    if rows is not None:
        arguments.require_like("rows", rows, lead, logits, _LEAD, torch.bool)
        rows = rows if len(lead) == 2 else rows.reshape(batch, length)
    if positions is not None:
        arguments.require_positions(positions, lead, logits, _LEAD)
        positions = positions if positions.dim() <= 2 else positions.reshape(batch, length)
    arguments.require_one_call(call)
    shift = arguments.integer("shift", shift, minimum=0)
    uncond, weight = _guidance(uncond_logits, guidance, logits, options.probabilities)
    return detached(
        _NATIVE,
        grid,
        uncond,
        weight,
        shift,
        options.want,
        options.temperature,
        tokens,
        rows,
        positions,
        options.top_k,
        options.top_p,
        options.top_p_inclusive,
        options.top_p_first,
        options.suppress,
        options.forbid,
        options.proposal_law,
        options.probabilities,
        options.dense_noise,
        options.confidence_dtype,
        arguments.row_seeds(seed, batch, logits, draws=options.draws),
        arguments.row_integers("step", step, batch, logits),
        arguments.row_integers("call", call, batch, logits),
    )


def _guidance(
    uncond_logits: object, guidance: float | Tensor, logits: Tensor, probabilities: bool
) -> tuple[Tensor | None, Tensor | None]:
    """Unconditional logits [B, L, V] and their weight [] or [B, L], or neither."""
    off = not isinstance(guidance, Tensor) and guidance == 0
    if uncond_logits is None and not off:
        raise ValueError("guidance: needs uncond_logits, the logits it moves away from")
    if uncond_logits is not None:
        arguments.require_like("uncond_logits", uncond_logits, logits.shape, logits, "logits", logits.dtype)
    if uncond_logits is None or off:
        return None, None
    uncond = _as_grid("uncond_logits", uncond_logits)
    if probabilities:
        raise ValueError('guidance: mixes logits, and with input="probs" there are none')
    lead = logits.shape[:-1]
    return uncond, scoring.per_position("guidance", guidance, lead, logits, torch.float64, -math.inf, math.inf)


def _as_grid(name: str, logits: object) -> Tensor:
    """Logits as a view [B, L, V], without gradient."""
    tensor = constant(arguments.require_tensor(name, logits))
    if tensor.dim() < 2 or tensor.shape[-1] < 1:
        raise ValueError(f"{name}: expected shape [..., L, V] with V >= 1, got {list(tensor.shape)}")
    arguments.require_dtype(name, tensor, *arguments.SCORE_DTYPES)
    if tensor.shape[-1] > 1 and tensor.stride(-1) != 1:
        raise ValueError(
            f"{name}: expected the last dimension to be contiguous, got strides {tuple(tensor.stride())} "
            f"for shape {list(tensor.shape)}; call .contiguous() first"
        )
    if tensor.dim() == 2:
        return tensor[None]
    if tensor.dim() == 3:
        return tensor
    shape, stride = tensor.shape, tensor.stride()
    if any(stride[i] != stride[i + 1] * shape[i + 1] for i in range(tensor.dim() - 3)):
        raise ValueError(
            f"{name}: the dimensions before L must merge into one without a copy, got strides {tuple(stride)} "
            f"for shape {list(shape)}; call .contiguous() first"
        )
    return tensor.flatten(0, -3)


@torch.library.register_fake("mdmcorrect::score_tokens")
def _fake(
    logits: Tensor,
    uncond_logits: Tensor | None,
    guidance: Tensor | None,
    shift: int,
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
    dense_noise: bool,
    confidence_dtype: torch.dtype,
    seed: Tensor,
    step: Tensor,
    call: Tensor,
) -> tuple[Tensor, Tensor]:
    return scoring.fake_scores(want, logits.shape[0], logits.shape[1], logits.device)
