"""From logits to the few numbers per position that decide a step."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import torch
from torch import Tensor

from .. import _checks, _constants, ops
from .._kernels import require_kernel
from ..ops.score_tokens import PreparedScoring, prepare_score_tokens


class Scores(dict[str, Tensor]):
    """Scores by name, each ``[B, L]``: those of :func:`mdmcorrect.ops.score_tokens` and ``quality``.

    Positions that no forward of this step scored hold -1 (token ids) or NaN.
    """

    def __missing__(self, name: str) -> Tensor:
        raise KeyError(f"score {name!r} was not computed; the part that reads it must name it in `wants`")

    def over(self, others: Scores) -> Scores:
        """These scores where they were computed, else the others'; names missing here are the others'."""
        scored = self["token"] >= 0
        return Scores({name: torch.where(scored, self.get(name, value), value) for name, value in others.items()})


@dataclass(frozen=True)
class Scoring:
    """How tokens are proposed and scored; arguments of :func:`mdmcorrect.ops.score_tokens`.

    Args:
        temperature: 0 proposes the most probable token, else one exact draw per position.
        top_k, top_p, top_p_rule, filter_order: filters of the draw. "inclusive" keeps the token that crosses ``top_p``;
            "exclusive" drops it, as MDLM, ReMDM, PRISM and ProSeCo do.
        noise: "lazy" draws by a few random numbers per position; "dense" by one Gumbel per token, the same law, for
            methods that rank by ``noised_logprob``, the token's log-probability with the noise in its logits (P2).
        law: statistics of the distribution before ("raw") or after ("proposal") temperature and filters.
        mask_token: "suppress" gives the mask token probability zero everywhere (SUBS, MDLM); "forbid" never proposes it
            but leaves its mass in the confidences (LLaDA): either way a model that predicts the mask is overruled.
            "propose" lets it: such a position stays masked, though it is ranked and counted as if committed.
        suppress: other ids of probability zero everywhere (LLaDA's ``logits_eos_inf``).
        forbid: other ids never proposed, whose mass stays in the confidences.
        confidence_forbid: ids that may be proposed but have probability zero where confidences are computed, so that
            they are committed last (LLaDA's ``confidence_eos_eot_inf``). Costs a second read of the logits.
        confidence_dtype: dtype that confidence, margin and entropy are rounded to before positions are compared:
            "logits" for that of the logits, which is behaviour where bf16 confidences tie (LLaDA, Dream); None for
            float32.
    """

    # Whether a subclass looks at logits itself: what is guided or shifted is then made for it before the call.
    reads_logits: ClassVar[bool] = False

    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    top_p_rule: str = "inclusive"
    filter_order: str = "top_k_first"
    noise: str = "lazy"
    law: str = "raw"
    mask_token: str = "suppress"
    suppress: tuple[int, ...] = ()
    forbid: tuple[int, ...] = ()
    confidence_forbid: tuple[int, ...] = ()
    confidence_dtype: torch.dtype | str | None = None

    def __post_init__(self) -> None:
        _checks.settle(
            self,
            temperature=_checks.temperature,
            top_k=_checks.optional(_checks.top_k),
            top_p=_checks.optional(_checks.nucleus),
            top_p_rule=_checks.one_of("inclusive", "exclusive"),
            filter_order=_checks.one_of("top_k_first", "top_p_first"),
            noise=_checks.one_of("lazy", "dense"),
            law=_checks.one_of("raw", "proposal"),
            mask_token=_checks.one_of("suppress", "forbid", "propose"),
            suppress=_checks.token_ids,
            forbid=_checks.token_ids,
            confidence_forbid=_checks.token_ids,
            confidence_dtype=_confidence_dtype,
        )

    @property
    def random(self) -> bool:
        """Whether proposals are drawn."""
        return self.temperature > 0

    def __call__(
        self,
        logits: Tensor,
        *,
        tokens: Tensor,
        rows: Tensor,
        positions: Tensor,
        mask_id: int,
        want: Iterable[str],
        seed: Tensor,
        step: Tensor,
        call: int,
        uncond_logits: Tensor | None = None,
        guidance: float = 0.0,
        shift: int = 0,
    ) -> Scores:
        """Scores of ``logits [b, L, V]`` at the positions ``rows`` (bool ``[b, L]``), guided and shifted if asked.

        ``argmax`` is the most probable token that is not the mask. float64 logits are scored in float32.
        """
        logits = _scorable(logits)
        how = self.prepared(logits, frozenset(want), mask_id)
        mixed: dict[str, Any] = {"shift": shift}
        if uncond_logits is None and logits.dim() == 3 and not torch.is_grad_enabled():
            number = _constants.number(call, torch.int64, logits) if call or how.first is None else how.first
            values = how.operator.trusted(logits, tokens, rows, positions, seed, step, number, shift)
        else:
            if uncond_logits is not None:
                mixed.update(uncond_logits=_scorable(uncond_logits), guidance=guidance)
            ids, others = how.operator.native(
                logits, tokens=tokens, rows=rows, positions=positions, seed=seed, step=step, call=call, **mixed
            )
            values = (*ids.unbind(0), *others.unbind(0))
        scores = Scores(zip(how.read, values, strict=True))
        if how.rounds is not None:
            self._round(scores, how)
        if self.confidence_forbid and "confidence" in scores:
            without = [*how.suppress, *self.confidence_forbid]
            again = ops.score_tokens(
                logits, tokens=scores["token"], rows=rows, suppress=without, want=["current_logprob"], **mixed
            )
            scores["confidence"] = again.current_logprob.exp().to(how.rounds or torch.float32)
        if how.forbid and "argmax" in scores:
            self._admit(scores, logits, rows, how, mixed)
        return scores

    def prepared(self, logits: Tensor, want: frozenset[str], mask_id: int) -> Prepared:
        """The operator for these scores of logits like these, its options checked."""
        place = _constants.place_of(logits)
        prepare = _prepared if place is None else _kept_prepared
        return prepare(self, logits.shape[-1], logits.dtype, logits.device, want, mask_id, place)

    def _admit(self, scores: Scores, logits: Tensor, rows: Tensor, how: Prepared, mixed: dict[str, Any]) -> None:
        """Puts the best id that may be proposed where ``argmax``, in which forbidden ids keep their place, is none."""
        if self.temperature == 0:
            scores["argmax"] = scores["token"]
            return
        argmax = scores["argmax"]
        barred = argmax == how.forbid[0]
        for index in how.forbid[1:]:
            barred = barred | (argmax == index)
        if logits.is_cpu and _constants.unwatched(logits) and not barred.any():  # the host waits for nobody here
            return
        # Only rows whose best id is barred are read again.
        without = [*how.suppress, *how.forbid]
        best = ops.score_tokens(logits, rows=rows & barred, suppress=without, want=["argmax"], **mixed)
        scores["argmax"] = torch.where(barred, best.argmax, argmax)

    @staticmethod
    def _round(scores: Scores, how: Prepared) -> None:
        """Confidence and entropy rounded to a model's dtype, and the margin of rounded probabilities."""
        dtype = how.rounds
        if "confidence" in scores:
            scores["confidence"] = scores["confidence"].to(dtype)
        if "entropy" in scores:
            scores["entropy"] = scores["entropy"].to(dtype)
        if how.margin:
            best, second = scores["max_logprob"].exp().to(dtype), scores["second_logprob"].exp().to(dtype)
            scores["margin"] = best - second
            for name in how.read:
                if name not in how.names:
                    del scores[name]


@dataclass(frozen=True)
class Prepared:
    """A scoring of one vocabulary, checked.

    ``names``: of the scores to give; ``read``: of those that the operator gives. ``rounds``: the half precision that
    scores are rounded to, or None; ``margin``: whether it is made of two of them. ``first``: the number of a step's
    first call, where it may be kept.
    """

    operator: PreparedScoring
    names: frozenset[str]
    read: tuple[str, ...]
    first: Tensor | None
    suppress: tuple[int, ...]
    forbid: tuple[int, ...]
    rounds: torch.dtype | None
    margin: bool


def _prepared(
    scoring: Scoring,
    vocab: int,
    dtype: torch.dtype,
    device: torch.device,
    want: frozenset[str],
    mask_id: int,
    place: object,
) -> Prepared:
    """``place``: device and stream that what is made may be kept for."""
    for name in ("suppress", "forbid", "confidence_forbid"):
        _checks.ids_within(name, getattr(scoring, name), vocab)
    names = want - {"quality"}
    target = dtype if scoring.confidence_dtype == "logits" else scoring.confidence_dtype
    suppress = (*scoring.suppress, *([mask_id] if scoring.mask_token == "suppress" else []))
    forbid = (*scoring.forbid, *([mask_id] if scoring.mask_token == "forbid" else []))
    rounds = target if isinstance(target, torch.dtype) and target in (torch.bfloat16, torch.float16) else None
    margin = rounds is not None and "margin" in names
    read = names - {"margin"} | {"max_logprob", "second_logprob"} if margin else names
    require_kernel("score_tokens", torch.empty(0, dtype=torch.float32, device=device))
    operator = prepare_score_tokens(
        vocab=vocab,
        device=device,
        temperature=scoring.temperature,
        top_k=scoring.top_k,
        top_p=scoring.top_p,
        top_p_rule=scoring.top_p_rule,
        filter_order=scoring.filter_order,
        noise=scoring.noise,
        law=scoring.law,
        confidence_dtype=target if isinstance(target, torch.dtype) else None,
        suppress=suppress or None,
        forbid=forbid or None,
        want=sorted(read),
    )
    first = None if place is None else torch.zeros((), dtype=torch.int64, device=device)
    return Prepared(operator, names, operator.names, first, suppress, forbid, rounds, margin)


_kept_prepared = lru_cache(maxsize=64)(_prepared)


def _confidence_dtype(name: str, value: object) -> torch.dtype | str | None:
    if value not in (None, "logits", torch.float32, torch.bfloat16, torch.float16):
        raise ValueError(f"{name}: expected None, 'logits', float32, bfloat16 or float16, got {value!r}")
    return value  # type: ignore[return-value]


def _scorable(logits: Tensor) -> Tensor:
    """Logits in a dtype and layout that the operator takes."""
    if logits.dtype == torch.float64:
        logits = logits.float()
    return logits.contiguous() if logits.shape[-1] > 1 and logits.stride(-1) != 1 else logits
