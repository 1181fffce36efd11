"""Scores of half-precision logits, rounded where the originals' torch expressions round them.

An original that works in the model's dtype divides by the temperature, sums a nucleus and forms ``p log p`` in bfloat16
or float16, one rounding per operation. Which position comes first often hangs on that, so the drop-ins evaluate the
same operations, on the rows that are read. Float32 logits, and all samplers outside the drop-ins, keep the operator's
exact statistics.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields

import torch
from torch import Tensor
from torch.nn import functional as F

from .._tables import device_table
from ..model import Output
from ..samplers import Scores, Scoring
from ..samplers.forward import combine

HALF = (torch.bfloat16, torch.float16)


@dataclass(frozen=True, kw_only=True)
class RoundedScoring(Scoring):
    """:class:`mdmcorrect.samplers.Scoring` whose confidence, margin and entropy of half-precision logits are rounded.

    Temperature and filters precede the softmax, and the scores describe what is left (``law="proposal"``). At
    temperature 0 the proposal is the id of largest rounded probability, of several the lowest.

    Args:
        softmax_dtype: dtype of the probabilities and what is computed of them; None for the logits'.
        rounded_nucleus: ``top_p`` sums probabilities in the logits' dtype, float32 included, where False sums them
            exactly.
    """

    softmax_dtype: torch.dtype | None = None
    rounded_nucleus: bool = False

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
        if logits.dtype not in HALF and not (self.rounded_nucleus and self._has_nucleus):
            return super().__call__(
                logits,
                tokens=tokens,
                rows=rows,
                positions=positions,
                mask_id=mask_id,
                want=want,
                seed=seed,
                step=step,
                call=call,
                uncond_logits=uncond_logits,
                guidance=guidance,
                shift=shift,
            )
        row, column = rows.nonzero(as_tuple=True)
        place = (row, (column - shift).clamp(min=0))
        blind = None if uncond_logits is None else uncond_logits[place]
        read = self._filtered(combine(Output(logits=logits[place], uncond_logits=blind, guidance=guidance)))
        scores = self._plain()(
            read[:, None],
            tokens=tokens[rows][:, None],
            rows=torch.ones_like(row, dtype=torch.bool)[:, None],
            positions=positions.expand_as(rows)[rows][:, None],
            mask_id=mask_id,
            want=want,
            seed=seed[row],
            step=step[row],
            call=call,
        )
        rounded = self._rounded(read, {name: value[:, 0] for name, value in scores.items()}, mask_id)
        return Scores({name: _spread(value, rows) for name, value in rounded.items()})

    def _plain(self) -> Scoring:
        """The operator on logits that are divided and filtered already."""
        kept = {field.name: getattr(self, field.name) for field in fields(Scoring)}
        return Scoring(**kept | {"temperature": float(self.temperature > 0), "top_k": None, "top_p": None})

    def _filtered(self, logits: Tensor) -> Tensor:
        """``logits [N, V]`` over the temperature, -inf where the filters leave nothing."""
        if self.temperature > 0:
            logits = logits / self.temperature
        if self.filter_order == "top_p_first":
            return self._among_top_k(self._in_nucleus(logits))
        return self._in_nucleus(self._among_top_k(logits))

    def _among_top_k(self, logits: Tensor) -> Tensor:
        if self.top_k is None or self.top_k >= logits.shape[-1]:
            return logits
        last = logits.topk(self.top_k, dim=-1).values[:, -1:]
        return logits.masked_fill(logits < last, -torch.inf)

    def _in_nucleus(self, logits: Tensor) -> Tensor:
        if self.top_p is None or not self._has_nucleus:
            return logits
        return in_nucleus(logits, self.top_p, rounded=self.rounded_nucleus)

    @property
    def _has_nucleus(self) -> bool:
        return self.top_p is not None and self.top_p < 1

    def _rounded(self, read: Tensor, scores: dict[str, Tensor], mask_id: int) -> dict[str, Tensor]:
        """The scores ``[N]`` of ``read [N, V]`` with those that are rounded in place of the exact ones."""
        probability = read.softmax(-1, dtype=self.softmax_dtype)
        scored = scores["token"] >= 0  # else the row has NaN or nothing that may be proposed
        if self.temperature == 0:
            barred = [*self.suppress, *self.forbid, *([mask_id] if self.mask_token != "propose" else [])]
            index = device_table(tuple(barred), torch.int64, read.device)
            best = probability.index_fill(-1, index, -1).argmax(-1)
            scores["token"] = torch.where(scored, best, -1)
        dtype = read.dtype if self.confidence_dtype == "logits" else self.confidence_dtype
        found = {"confidence": probability.gather(-1, scores["token"].clamp(min=0)[:, None])[:, 0]}
        if "margin" in scores:
            found["margin"] = _margin(probability)
        if "entropy" in scores:
            found["entropy"] = _entropy(probability)
        for name, value in found.items():
            scores[name] = value.to(dtype or value.dtype).masked_fill(~scored, torch.nan)
        return scores


def rounded_as(
    scoring: Scoring, *, softmax_dtype: torch.dtype | None = None, rounded_nucleus: bool = False
) -> RoundedScoring:
    """The scoring, rounded; see :class:`RoundedScoring`."""
    kept = {field.name: getattr(scoring, field.name) for field in fields(Scoring)}
    return RoundedScoring(**kept, softmax_dtype=softmax_dtype, rounded_nucleus=rounded_nucleus)


def in_nucleus(logits: Tensor, top_p: float, *, rounded: bool) -> Tensor:
    """``logits [..., V]`` -inf outside the nucleus, which holds the id that crosses ``top_p``.

    Args:
        rounded: sum probabilities in the logits' dtype, which in half precision keeps other ids.
    """
    ordered, order = logits.sort(dim=-1, descending=True, stable=not rounded)
    mass = ordered.softmax(-1, dtype=None if rounded else torch.float64).cumsum(-1)
    outside = F.pad(mass[..., :-1] > top_p, (1, 0), value=False)
    outside = torch.zeros_like(outside).scatter(-1, order, outside)
    return logits.masked_fill(outside, -torch.inf)


def guided(seen: Tensor, blind: Tensor, scale: float) -> Tensor:
    """``(1 + scale) seen - scale blind``, as image samplers write it, each operation rounded to the logits' dtype.

    Equal but for rounding to what the operator does; there are as many logits more as each of the two has.
    """
    return (1 + scale) * seen - scale * blind


def _margin(probability: Tensor) -> Tensor:
    if probability.shape[-1] == 1:
        return probability[:, 0]
    best, second = probability.topk(2, dim=-1).values.unbind(-1)
    return best - second


def _entropy(probability: Tensor) -> Tensor:
    """``-sum p log p``, product and sum rounded to the dtype of ``p``; what float16 rounds to 0 counts nothing."""
    least = 1e-10
    shifted = probability + least if probability.dtype in HALF else probability.clamp(min=least)
    terms = probability * shifted.log()
    return -terms.masked_fill(probability == 0, 0).sum(-1)


def _spread(value: Tensor, rows: Tensor) -> Tensor:
    """``value [N]`` at the true positions of ``rows``, -1 or NaN elsewhere."""
    empty = value.new_full(rows.shape, torch.nan if value.is_floating_point() else -1)
    return empty.masked_scatter(rows, value)
