"""Dream's decoding."""

from __future__ import annotations

from dataclasses import dataclass

from ..ancestral import Ancestral
from ..counts import TimeGrid
from ..plan import Plan, UnmaskThenRemask, WholeRow
from ..sampler import Sampler
from ..unmask import Unmask
from .preset import Preset

_ORDERS = {"maskgit_plus": "confidence", "topk_margin": "margin", "entropy": "entropy"}


@dataclass(frozen=True, kw_only=True)
class Dream(Preset):
    """Dream's decoding (arXiv 2508.15487, section 3; the model's ``diffusion_generate``).

    One forward per step that commits something. On the times ``linspace(1, eps, S + 1)`` a step commits
    ``int(n (1 - s / t))`` of a row's n masks, the last all. Scores describe the distribution after temperature and
    filters, rounded to the logits' dtype. A Dream model's logits are those of the next position: wrap it in
    :class:`mdmcorrect.adapters.RightShifted`.

    Args:
        alg: "origin" commits each mask with probability ``1 - s / t``; "maskgit_plus" by the proposal's probability,
            "topk_margin" by that of the best less that of the second, "entropy" by least entropy.
        temperature, top_p, top_k: of the proposals; at temperature 0 the filters still shape the scores.
        alg_temp: positions are drawn from ``softmax(score / alg_temp)`` without replacement; None takes the best.
        eps: last time of the grid.
        batch_mean: n is the batch's mean, and whole rows are ranked, as in the released code; see :class:`WholeRow`.
        ties: "lowest" or "torch"; see :class:`Unmask`.
    """

    alg: str = "origin"
    alg_temp: float | None = None
    eps: float = 1e-3
    batch_mean: bool = False
    ties: str = "lowest"

    def parts(self) -> Sampler:
        return Sampler(
            name="Dream",
            steps=self.steps,
            plan=self._plan(),
            scoring=self._scoring(
                filter_order="top_p_first", law="proposal", mask_token="forbid", confidence_dtype="logits"
            ),
        )

    def _plan(self) -> Plan:
        if self.alg == "origin":
            return Ancestral(eps=self.eps, complete=True)
        if self.alg not in _ORDERS:
            raise ValueError(f"alg: expected 'origin' or one of {sorted(_ORDERS)}, got {self.alg!r}")
        count = TimeGrid(self.eps, self.batch_mean)
        unmask = Unmask(_ORDERS[self.alg], count, temperature=self.alg_temp or 0.0, ties=self.ties)
        return WholeRow(unmask) if self.batch_mean else UnmaskThenRemask(unmask)
