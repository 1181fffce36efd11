"""How much what a model says of a position changes from forward to forward (KLASS, arXiv 2511.05664)."""

from __future__ import annotations

import mdmcorrect._requires_torch

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from . import _checks
from .model import Output, Request, Window, as_model, listed_windows, model_name, settled

_EPS = 1e-12  # added to probabilities within logarithms, as the authors' code does


class Stability:
    """A model whose quality is how steady its own answers are: ``exp(-KL)``, the largest of its last ``history`` steps.

    KL is that of the distribution at a position, over the one at this position in the row's forward before, at
    temperature 1, in nats; 0 is a quality of 1. A position has none, 0, in a row's first forward and in the first
    ``history - 1`` steps of each block. :class:`mdmcorrect.samplers.KLASS` reads it, and any part that reads "quality"
    can. Corrector passes are answered by the model as it is, with its own quality.

    Holds a row's logits ``[L, V]`` from one forward to the next, in their dtype. A run that goes on from a state begins
    with nothing to compare with, so its first step sees nothing steady.

    Args:
        model: a model; a quality of its own is not kept.
        history: steps that must all have been steady, at least 1.
    """

    reads_windows = True

    def __init__(self, model: Any, *, history: int = 2) -> None:
        self.model, self.__name__ = as_model(model), model_name(model)
        self.history = _checks.integer("history", history, minimum=1)

    def __call__(self, tokens: Tensor, request: Request) -> Output:
        answer = self.model(tokens, request)
        if request.correction:
            return answer
        windows = listed_windows(request, type(self).__name__)
        output = settled(answer)
        first = output.start or 0
        kept: dict[tuple[int, int], _Kept] = request.run.setdefault(self, {})
        steady = [self._row(kept, window, logits, first) for window, logits in zip(windows, output.logits, strict=True)]
        quality = torch.zeros(tokens.shape, dtype=torch.float32, device=tokens.device)
        if steady:
            quality[:, first : first + output.logits.shape[1]] = torch.stack(steady)
        return replace(output, quality=quality)

    def _row(self, kept: dict[tuple[int, int], _Kept], window: Window, logits: Tensor, first: int) -> Tensor:
        """float32 ``[W]``: exp(-KL) of one row's logits ``[W, V]``, which are kept in turn."""
        before = kept.get(window.name)
        if before is not None and before.first == first and before.logits.shape == logits.shape:
            recent = torch.cat([before.recent[1:], _kl(logits, before.logits)[None]])
        else:
            recent = logits.new_full((self.history, logits.shape[0]), torch.inf, dtype=torch.float32)
        kept[window.name] = _Kept(logits.detach().clone(), first, recent)
        steady = (-recent.amax(0)).exp()
        return steady if window.step >= self.history - 1 else torch.zeros_like(steady)


@dataclass(frozen=True)
class _Kept:
    """A row's last logits ``[W, V]`` from column ``first`` on, and its last divergences ``[history, W]``."""

    logits: Tensor
    first: int
    recent: Tensor


def _kl(logits: Tensor, before: Tensor) -> Tensor:
    """float32 ``[W]``, at least 0; NaN and rows of -inf alone, which say nothing, are infinitely far from anything."""
    new, old = (x.float().softmax(-1) for x in (logits, before))
    divergence = (new * ((new + _EPS).log() - (old + _EPS).log())).sum(-1)
    return divergence.clamp(min=0).nan_to_num(nan=torch.inf)
