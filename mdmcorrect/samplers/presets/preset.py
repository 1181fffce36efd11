"""What every published sampler is: settings that name their parts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..result import SampleResult
from ..sampler import Sampler


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A published sampler. Called, it is the :class:`Sampler` that :meth:`parts` returns.

    ``steps`` is S (T, N in some papers), the steps of a row; what one costs in forwards is said at each preset.
    """

    steps: int

    def parts(self) -> Sampler:
        """The parts it is made of."""
        raise NotImplementedError

    def __post_init__(self) -> None:
        self.parts()  # so that a wrong setting is refused where it is written

    def __call__(self, model: Any, tokens: Tensor | None = None, *, mask_id: int, **options: Any) -> SampleResult:
        """Fill the masks of ``tokens``; every argument of :meth:`Sampler.__call__`."""
        return self.parts()(model, tokens, mask_id=mask_id, **options)
