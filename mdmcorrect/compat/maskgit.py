"""Drop-in for valeoai/Maskgit-pytorch: ``Sampler.confidence_sampler.ConfidenceSampler`` (arXiv 2202.04200).

    from mdmcorrect.compat.maskgit import ConfidenceSampler

The same constructor, call and return values. Of the original, two things differ: noise is drawn on the device instead
of by NumPy on the host, and exactly as many tokens are committed as the schedule says; there ``conf >= threshold``
commits more where confidences tie.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..model import Output, Request
from ..samplers import Noise, Pool, Sampler, Scoring, State, View

_MODES = ("root", "linear", "square", "cosine", "arccos")
_CLASSES = (1, 7, 282, 604, 724, 179, 751, 404, 850)  # those the original shows by default


class ConfidenceSampler:
    """MaskGIT's sampler for class-conditional token images.

    Args:
        sm_temp: factor of the logits before the softmax (the inverse of a temperature).
        w: guidance reached at the last step, from 0 at the first; 0 for none.
        randomize: "linear", Gumbel noise of factor ``r_temp`` falling to 0; "warm_up", a random order for two steps;
            "random", for all; anything else, none.
        r_temp: see ``randomize``.
        sched_mode: "root", "linear", "square", "cosine" or "arccos".
        step: number of steps.
    """

    def __init__(
        self,
        sm_temp: float = 1,
        w: float = 3,
        randomize: str = "linear",
        r_temp: float = 4.5,
        sched_mode: str = "arccos",
        step: int = 12,
    ) -> None:
        if sched_mode not in _MODES:
            raise ValueError(f"sched_mode: expected one of {list(_MODES)}, got {sched_mode!r}")
        self.sm_temp, self.w, self.randomize = sm_temp, w, randomize
        self.r_temp, self.sched_mode, self.step = r_temp, sched_mode, step

    def __str__(self) -> str:
        return (
            f"Scheduler: {self.sched_mode}, Steps: {self.step}, SoftMax temp: {self.sm_temp}, CFG w: {self.w}, "
            f"Randomize temp: {self.r_temp}"
        )

    @staticmethod
    def build_sequence(
        step: int, input_size: int, mode: str = "arccos", leave: bool = False, verbose: bool = True
    ) -> Tensor:
        """Tokens that stand after each step, int32 ``[step]``, of ``input_size ** 2``; the rest is unused."""
        r = torch.linspace(0, 1, step)
        share = {
            "root": r**0.5,
            "linear": r,
            "square": r**2,
            "cosine": 1 - torch.cos(r * math.pi * 0.5),
            "arccos": 1 - torch.arccos(r) / (math.pi * 0.5),
        }[mode]
        return (share * input_size**2).int()

    @torch.no_grad()
    def __call__(
        self,
        trainer: Any,
        init_code: Tensor | None = None,
        nb_sample: int = 50,
        labels: Tensor | None = None,
        verbose: bool = True,
        *,
        seed: int | Tensor | torch.Generator | None = None,
    ) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """Images, and per step the tokens drawn (those that stand elsewhere) and the masks left.

        Args:
            trainer: has ``vit`` (``ema``), ``ae``, ``input_size`` and ``args`` as the original's.
            init_code: int64 ``[nb_sample, input_size ** 2]`` or ``[nb_sample, input_size, input_size]``.
            labels: int64 ``[nb_sample]``; default nine classes and random ones.
            seed: default torch's own generator.
        """
        args, size = trainer.args, trainer.input_size
        network = trainer.ema if getattr(args, "use_ema", False) else trainer.vit
        network.eval()
        if labels is None:
            chosen = [*_CLASSES, *(random.randint(0, 999) for _ in range(nb_sample - len(_CLASSES)))]
            labels = torch.tensor(chosen[:nb_sample], device=args.device)
        if init_code is None:
            tokens = torch.full((nb_sample, size**2), args.mask_value, dtype=torch.int64, device=args.device)
        else:
            tokens = init_code.reshape(nb_sample, size**2).clone()
        result = self._sampler(size)(
            _classed(network, size, args.mask_value, [self.w * (1 - each) for each in self._left()]),
            tokens,
            mask_id=args.mask_value,
            condition=labels,
            seed=torch.default_generator if seed is None else seed,
            history={"token"},
        )
        assert result.history is not None
        shape = (nb_sample, size, size)
        codes, masks = [], []
        for event in result.history:
            drawn = event.scores["token"]
            codes.append(torch.where(drawn >= 0, drawn, event.before).reshape(shape))
            masks.append((event.tokens == args.mask_value).float().reshape(shape))
        code = result.tokens.reshape(shape).clamp(0, args.codebook_size - 1)
        trainer.vit.train()
        return trainer.ae.decode_code(code).clamp(-1, 1), codes, masks

    def _left(self) -> list[float]:
        """Share of the run that is left at each step, 1 at the first and 0 at the last."""
        return [1 - i / max(self.step - 1, 1) for i in range(self.step)]

    def _sampler(self, size: int) -> Sampler:
        sequence = self.build_sequence(self.step, size, self.sched_mode).tolist()
        counts = tuple(max(count, index + 1) for index, count in enumerate(sequence))
        noise, masked = None, "proposal_logprob"
        if self.randomize == "linear":
            noise = Noise(tuple(self.r_temp * each for each in self._left()), annealed=False)
        elif self.randomize == "warm_up":  # no confidence stands against this
            noise = Noise((1e6, 1e6, 0.0), annealed=False)
        elif self.randomize == "random":
            masked = "random"
        return Sampler(
            name="ConfidenceSampler",
            steps=self.step,
            plan=Pool(_Table(counts), masked=masked, committed="stays", noise=noise),
            scoring=Scoring(temperature=1 / self.sm_temp),
            finish=False,
        )


@dataclass(frozen=True)
class _Table:
    """So many tokens of the canvas stand after each step."""

    counts: tuple[int, ...]

    def __call__(self, state: State, view: View) -> Tensor:
        table = torch.tensor(self.counts, device=view.step.device)
        given = state.fixed.sum(1)
        return table[view.step.clamp(max=len(self.counts) - 1)] - given


def _classed(network: Any, size: int, mask_id: int, weights: list[float]) -> Any:
    """The network with labels; rows keep step, so each call has one weight of guidance."""

    def call(tokens: Tensor, request: Request) -> Output:
        grid, labels = tokens.reshape(-1, size, size), request.condition
        keep = torch.zeros(len(tokens), dtype=torch.bool, device=tokens.device)
        if not any(weights):
            return Output(logits=_with_mask(network(grid, labels, drop_label=keep), mask_id))
        logits = network(torch.cat([grid, grid]), torch.cat([labels, labels]), torch.cat([keep, ~keep]))
        seen, blind = _with_mask(logits, mask_id).chunk(2)
        weight = weights[min(int(request.step[0]), len(weights) - 1)]
        return Output(logits=seen, uncond_logits=blind, guidance=weight, forwards=2)

    return call


def _with_mask(logits: Tensor, mask_id: int) -> Tensor:
    missing = mask_id + 1 - logits.shape[-1]
    return logits if missing <= 0 else torch.nn.functional.pad(logits, (0, missing), value=-1e4)


MODULES = ("Sampler.confidence_sampler",)
REPLACES = {"ConfidenceSampler": ConfidenceSampler}
