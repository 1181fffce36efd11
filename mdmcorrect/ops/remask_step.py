"""remask_step: one update of a canvas, some masked positions committed and some committed ones masked again."""

from __future__ import annotations

import torch
from torch import Tensor

from mdmcorrect import _checks
from mdmcorrect.ops import _arguments as arguments
from mdmcorrect.ops._differentiation import detached

REFILL = ("if_short", "never")
_NATIVE = torch.ops.mdmcorrect.remask_step.default


def remask_step(
    tokens: Tensor,
    proposals: Tensor,
    *,
    unmask_score: Tensor | None = None,
    keep_score: Tensor | None = None,
    unmask_count: int | Tensor | None = None,
    remask_count: int | Tensor | None = None,
    mask_id: int,
    fixed: Tensor | None = None,
    eligible: Tensor | None = None,
    refill: str = "if_short",
    keep_count: int | Tensor | None = None,
    commit: Tensor | None = None,
    remask: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Commit proposals at some masked positions and mask some committed positions again, each row by its own counts.

    A position is *masked* where ``tokens == mask_id`` and *committed* elsewhere. Fixed positions and those that are not
    eligible never change. Which of the others do is said in one of two ways:

    **Two bands.** Of the masked positions the ``unmask_count`` with the highest ``unmask_score`` take their proposal,
    or those where ``commit`` is true. Of the committed ones the ``remask_count`` with the lowest ``keep_score`` are
    masked, or those where ``remask`` is true; with neither, none are. A position that was just masked is not filled in
    the same step. If there are fewer masked positions than ``unmask_count`` asks for, ``refill`` decides:
    ``"if_short"`` masks that many fewer, the best kept first, so that the row still makes its net progress (the top-k
    sampler of PRISM, arXiv 2510.01384, algorithm 3); ``"never"`` masks all the same (PRISM's sampler for LLaDA).

    **One pool.** With ``keep_count``, masked positions (by ``unmask_score``) and committed ones (by ``keep_score``) are
    ranked together; the ``keep_count`` best hold a token afterwards: masked ones among them take their proposal,
    committed ones outside are masked (path planning, P2, arXiv 2502.03540; RemeDi, arXiv 2509.23653).

    Every ranking breaks ties by the lowest index. A NaN score takes its position out of the ranking: it stays as it is.
    So does a masked position whose proposal is negative (no admissible token) or the mask itself: neither is ever
    committed.

    Args:
        tokens: int64 ``[B, L]``; not modified.
        proposals: int64 ``[B, L]``, read at masked positions only.
        unmask_score: ``[B, L]`` float32, bfloat16 or float16; high is committed first. With ``unmask_count``.
        keep_score: the same for committed positions; low is masked first. With ``remask_count``.
        unmask_count: an int or int64 ``[]`` or ``[B]``; more than there are takes all, negative entries none.
        remask_count: likewise.
        mask_id: id of the mask token, >= 0.
        fixed: bool ``[B, L]``, positions that never change, such as a prompt. Default: none.
        eligible: bool ``[B, L]``, positions that may change, such as a block. Default: all.
        refill: ``"if_short"`` or ``"never"``; matters only with ``unmask_count`` and ``remask_count``.
        keep_count: an int or int64 ``[]`` or ``[B]``: one pool instead of two bands.
        commit: bool ``[B, L]`` instead of ``unmask_score`` and ``unmask_count``.
        remask: bool ``[B, L]`` instead of ``keep_score`` and ``remask_count``.

    Returns:
        ``(tokens, committed, remasked)``: the new int64 ``[B, L]`` and two bool ``[B, L]`` that say what changed.

    Raises:
        TypeError: an argument of the wrong type or dtype.
        ValueError: a shape or device that does not match ``tokens``, a negative ``mask_id`` or int count, an unknown
            ``refill``, or arguments that say both or neither of two ways.
        RuntimeError: a CUDA tensor, but a library without a CUDA kernel for this op.

    Example:
        Commit the likeliest masked position and mask the worst committed one (9 is the mask):

        >>> tokens = torch.tensor([[3, 9, 9, 5]])
        >>> proposals = torch.tensor([[0, 1, 2, 0]])
        >>> score = torch.tensor([[0.9, 0.2, 0.8, 0.1]])
        >>> new, committed, remasked = remask_step(
        ...     tokens, proposals, unmask_score=score, keep_score=score, unmask_count=1, remask_count=1, mask_id=9)
        >>> new
        tensor([[3, 9, 2, 9]])
    """
    shape = arguments.require_matrix("tokens", tokens)
    arguments.require_kernel("remask_step", tokens)
    arguments.require_dtype("tokens", tokens, torch.int64)
    arguments.require_like("proposals", proposals, shape, tokens, "tokens", torch.int64)
    mask_id = _checks.token_id("mask_id", arguments.no_tensor("mask_id", mask_id, "an int"))
    _checks.choice("refill", refill, *REFILL)
    _require_one_way(unmask_score, keep_score, unmask_count, remask_count, keep_count, commit, remask)

    for name, score in (("unmask_score", unmask_score), ("keep_score", keep_score)):
        if score is not None:
            arguments.require_scores(name, score, shape, tokens, "tokens")
    for name, mask in (("fixed", fixed), ("eligible", eligible), ("commit", commit), ("remask", remask)):
        if mask is not None:
            arguments.require_mask(name, mask, shape, tokens, "tokens")

    def counts(name: str, count: int | Tensor | None) -> Tensor | None:
        return None if count is None else arguments.row_integers(name, count, shape[0], tokens, minimum=0)

    return detached(
        _NATIVE,
        tokens,
        proposals,
        unmask_score,
        keep_score,
        counts("unmask_count", unmask_count),
        counts("remask_count", remask_count),
        mask_id,
        fixed,
        eligible,
        refill == "if_short",
        counts("keep_count", keep_count),
        commit,
        remask,
    )


def _require_one_way(
    unmask_score: object,
    keep_score: object,
    unmask_count: object,
    remask_count: object,
    keep_count: object,
    commit: object,
    remask: object,
) -> None:
    """Exactly one way to say which positions change; see the two paragraphs of remask_step's docstring."""
    if keep_count is not None:
        for name, value in {
            "unmask_count": unmask_count,
            "remask_count": remask_count,
            "commit": commit,
            "remask": remask,
        }.items():
            if value is not None:
                raise ValueError(f"{name}: expected None with keep_count, which ranks all positions in one pool")
        for name, value in {"unmask_score": unmask_score, "keep_score": keep_score}.items():
            if value is None:
                raise ValueError(f"{name}: expected a score [B, L] with keep_count, got None")
        return
    if commit is not None and unmask_count is not None:
        raise ValueError("commit: expected either commit or unmask_count, got both")
    if commit is None and (unmask_count is None or unmask_score is None):
        raise ValueError("unmask_count: expected it together with unmask_score, or commit, or keep_count")
    if remask is not None and remask_count is not None:
        raise ValueError("remask: expected either remask or remask_count, got both")
    if remask_count is not None and keep_score is None:
        raise ValueError("keep_score: expected a score [B, L] with remask_count, got None")


@torch.library.register_fake("mdmcorrect::remask_step")
def _fake(
    tokens: Tensor,
    proposals: Tensor,
    unmask_score: Tensor | None,
    keep_score: Tensor | None,
    unmask_count: Tensor | None,
    remask_count: Tensor | None,
    mask_id: int,
    fixed: Tensor | None,
    eligible: Tensor | None,
    refill_if_short: bool,
    keep_count: Tensor | None,
    commit: Tensor | None,
    remask: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    def changed() -> Tensor:
        return torch.empty(tokens.shape, dtype=torch.bool, device=tokens.device)

    return torch.empty(tokens.shape, dtype=torch.int64, device=tokens.device), changed(), changed()
