"""Drop-ins for valeoai/Maskgit-pytorch: ``ConfidenceSampler`` (arXiv 2202.04200), ``HaltonSampler`` (2503.17076).

    from mdmcorrect.compat.maskgit import ConfidenceSampler, HaltonSampler

The same constructors, calls and return values, and the same law of canvases and images. Of the first, two things
differ: noise is drawn on the device instead of by NumPy on the host, and exactly as many tokens are committed as the
schedule says; there ``conf >= threshold`` commits more where confidences tie.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from .. import _checks, rng
from .._tables import device_table
from ..model import Output, Request
from ..samplers import Intent, Noise, Pool, Sampler, Scores, Scoring, State, Update, View
from . import _common as common
from ._rounded import HALF, guided

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
        _checks.choice("sched_mode", sched_mode, *_MODES)
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
        r = torch.linspace(0, 1, step, dtype=torch.float32, device="cpu")
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
        """Images, and per step the tokens drawn and the masks left.

        Every step draws every position from its logits; those that stand take their draw too, given ones among them.

        Args:
            trainer: has ``vit`` (``ema``), ``ae``, ``input_size`` and ``args`` as the original's.
            init_code: int64 ``[nb_sample, input_size ** 2]`` or ``[nb_sample, input_size, input_size]``.
            labels: int64 ``[nb_sample]``; default nine classes and random ones.
            seed: default torch's own generator.
        """
        tokens, labels = _start(trainer, init_code, nb_sample, labels)
        network = _network(trainer)
        result = self._sampler(trainer.input_size)(
            _classed(network, trainer, [self.w * (1 - each) for each in self._left()]),
            tokens,
            mask_id=trainer.args.mask_value,
            fixed=torch.zeros_like(tokens, dtype=torch.bool),
            condition=labels,
            seed=seed,
            history={"token"},
        )
        common.completed(result)
        assert result.history is not None
        codes, masks = _codes(result.history, trainer.input_size), []
        for event in result.history:
            masks.append((event.tokens == trainer.args.mask_value).float().reshape(codes[0].shape))
        return _images(trainer, result.tokens), codes, masks

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
            plan=_AllAnew(Pool(_Table(counts), masked=masked, committed="stays", noise=noise)),
            scoring=Scoring(temperature=1 / self.sm_temp),
            finish=False,
        )


class HaltonSampler:
    """A fixed order that spreads over the image; in each step all tokens so far are drawn, those that stand anew.

    Args:
        sm_temp_min, sm_temp_max, temp_pow: factor of the logits before the softmax, from the first step to the last,
            to the power of ``temp_pow``.
        w: guidance, the same in all steps; 0 for none.
        sched_pow: not used, as in the original.
        step: number of steps.
        randomize: every image begins somewhere else in the order.
        top_k: draw among so many tokens; -1 for all.
        temp_warmup: steps in which the factor is halved.
    """

    def __init__(
        self,
        sm_temp_min: float = 1,
        sm_temp_max: float = 1,
        temp_pow: float = 1,
        w: float = 4,
        sched_pow: float = 2.5,
        step: int = 64,
        randomize: bool = False,
        top_k: int = -1,
        temp_warmup: int = 0,
    ) -> None:
        self.sm_temp_min, self.sm_temp_max, self.temp_pow, self.w = sm_temp_min, sm_temp_max, temp_pow, w
        self.sched_pow, self.step, self.randomize, self.top_k = sched_pow, step, randomize, top_k
        self.temp_warmup = temp_warmup
        self.basic_halton_mask: Tensor | None = None
        self.temperature = torch.linspace(sm_temp_min, sm_temp_max, step, dtype=torch.float32, device="cpu")

    def __str__(self) -> str:
        return (
            f"Scheduler: halton, Steps: {self.step}, sm_temp_min: {self.sm_temp_min}, sm_temp_max: {self.sm_temp_max}, "
            f"w: {self.w}, Top_k: {self.top_k}, temp_warmup: {self.temp_warmup}"
        )

    @staticmethod
    def build_halton_mask(input_size: int, nb_point: int = 10_000) -> Tensor:
        """Cells in the order in which a Halton sequence of bases 2 and 3 meets them: int64 ``[N, 2]``."""
        number = torch.arange(1, nb_point + 1, device="cpu")
        # float32, as there: where a point falls on a border its rounding says which cell it is in.
        cells = torch.stack([_mirrored(number, base) for base in (2, 3)], 1).float().mul(input_size).long()
        met = torch.full((input_size**2,), nb_point, dtype=torch.int64, device="cpu")
        met.scatter_reduce_(0, cells[:, 0] * input_size + cells[:, 1], number - 1, "amin")
        return cells[met[met < nb_point].sort().values]

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
        """Images, and per step the tokens drawn (those that stand elsewhere) and which positions they were drawn for.

        Args:
            trainer, init_code, labels, seed: as for :class:`ConfidenceSampler`; what ``init_code`` holds is drawn anew
                when its turn comes.
        """
        size = trainer.input_size
        tokens, labels = _start(trainer, init_code, nb_sample, labels)
        seeds = rng.sequence_seeds(seed, nb_sample, device=tokens.device)
        plan = _Redraw(self._place(size, seeds), tuple(self._counts(size**2)))
        sampler = Sampler(
            name="HaltonSampler",
            steps=self.step,
            plan=plan,
            scoring=Scoring(temperature=1.0, top_k=self.top_k if self.top_k > 0 else None),
            finish=False,
        )
        factors = [
            float(each) ** self.temp_pow * (0.5 if index < self.temp_warmup else 1.0)
            for index, each in enumerate(self.temperature)
        ]
        trainer.vit.eval()
        result = sampler(
            _classed(trainer.vit, trainer, [self.w] * self.step, factors),  # never the average, whatever use_ema
            tokens,
            mask_id=trainer.args.mask_value,
            fixed=torch.zeros_like(tokens, dtype=torch.bool),
            condition=labels,
            seed=seeds,
            history={"token"},
        )
        common.completed(result)
        assert result.history is not None
        codes = _codes(result.history, size)
        masks = [plan.chosen(index).float().reshape(codes[0].shape) for index in range(len(codes))]
        return _images(trainer, result.tokens), codes, masks

    def _counts(self, total: int) -> list[int]:
        """How many positions of the order are drawn in each step."""
        share = 1 - torch.arccos((torch.arange(self.step, device="cpu").float() + 1) / self.step) / (math.pi * 0.5)
        return [max(index + 1, int(each * total)) for index, each in enumerate(share)]

    def _place(self, size: int, seeds: Tensor) -> Tensor:
        """int64 ``[B, N]``: the place of each position in its image's order."""
        if self.basic_halton_mask is None:
            self.basic_halton_mask = self.build_halton_mask(size)
        order = (self.basic_halton_mask[:, 0] * size + self.basic_halton_mask[:, 1]).to(seeds.device)
        turn = torch.arange(len(order), device=seeds.device).expand(len(seeds), -1)
        if self.randomize:
            shift = rng.uniform(seeds, 1, 0, rng.Purpose.ORDER, dtype=torch.float64) * size**2
            turn = (turn + shift.long()) % len(order)
        return torch.full_like(turn, size**2).scatter(1, order.expand_as(turn), turn)


@dataclass(frozen=True, eq=False)
class _Redraw:
    """The positions of the first ``counts[i]`` places are drawn in step i, whether they are masked or not."""

    place: Tensor
    counts: tuple[int, ...]

    wants: ClassVar[frozenset[str]] = frozenset()
    revisits: ClassVar[bool] = True

    def chosen(self, step: int) -> Tensor:
        return self.place < self.counts[step]

    def time(self, state: State, view: View) -> Tensor:
        return 1 - view.step.double() / view.steps.clamp(min=1)

    def prepare(self, state: State, view: View) -> Intent:
        counts = device_table(self.counts, torch.int64, view.step.device)[view.step.clamp(max=len(self.counts) - 1)]
        due = (self.place < counts[:, None]) & view.eligible
        return Intent(need=due.any(1), wanted=due)

    def __call__(self, state: State, view: View, intent: Intent, scores: Scores) -> Update:
        due = intent.wanted & (scores["token"] >= 0)
        masked = state.tokens == view.mask_id
        tokens = torch.where(due, scores["token"], state.tokens)
        return Update(tokens, due & masked, torch.zeros_like(due), corrected=due & ~masked & (tokens != state.tokens))


def _mirrored(number: Tensor, base: int) -> Tensor:
    """The digits of each number mirrored at the point, float64 in [0, 1)."""
    value, scale = torch.zeros_like(number), 1
    while bool(number.any()):
        value, number, scale = value * base + number % base, number // base, scale * base
    return value.double() / scale


def _start(trainer: Any, init_code: Tensor | None, count: int, labels: Tensor | None) -> tuple[Tensor, Tensor]:
    """The canvas int64 ``[count, N]`` and the classes."""
    args, cells = trainer.args, trainer.input_size**2
    if labels is None:
        chosen = [*_CLASSES, *(random.randint(0, 999) for _ in range(count - len(_CLASSES)))]
        labels = torch.tensor(chosen[:count], dtype=torch.int64, device=args.device)
    if init_code is not None:
        return init_code.reshape(count, cells).clone(), labels
    return torch.full((count, cells), args.mask_value, dtype=torch.int64, device=args.device), labels


def _network(trainer: Any) -> Any:
    network = trainer.ema if getattr(trainer.args, "use_ema", False) else trainer.vit
    network.eval()
    return network


def _codes(history: Any, size: int) -> list[Tensor]:
    """Per step the tokens drawn, and where none was, those that stood."""
    drawn = [torch.where(event.scores["token"] >= 0, event.scores["token"], event.before) for event in history]
    return [each.reshape(-1, size, size) for each in drawn]


def _images(trainer: Any, tokens: Tensor) -> Tensor:
    code = tokens.reshape(-1, trainer.input_size, trainer.input_size).clamp(0, trainer.args.codebook_size - 1)
    trainer.vit.train()
    return trainer.ae.decode_code(code).clamp(-1, 1)


@dataclass(frozen=True)
class _Table:
    """So many tokens of the canvas stand after each step, and never fewer than before."""

    counts: tuple[int, ...]

    def __call__(self, state: State, view: View) -> Tensor:
        table = device_table(self.counts, torch.int64, view.step.device)
        stands = (state.tokens != view.mask_id).sum(1)
        return torch.maximum(table[view.step.clamp(max=len(self.counts) - 1)], stands)


@dataclass(frozen=True)
class _AllAnew:
    """A pool in which whatever stands takes the step's draw, so that only the last step's tokens are seen."""

    pool: Pool

    revisits: ClassVar[bool] = True

    @property
    def wants(self) -> frozenset[str]:
        return self.pool.wants

    def time(self, state: State, view: View) -> Tensor:
        return self.pool.time(state, view)

    def prepare(self, state: State, view: View) -> Intent:
        return Intent(need=view.eligible.any(1), wanted=view.eligible)

    def __call__(self, state: State, view: View, intent: Intent, scores: Scores) -> Update:
        update = self.pool(state, view, intent, scores)
        stands = (state.tokens != view.mask_id) & (scores["token"] >= 0)
        tokens = torch.where(stands, scores["token"], update.tokens)
        return Update(tokens, update.committed, update.remasked, corrected=stands & (tokens != state.tokens))


def _classed(network: Any, trainer: Any, weights: list[float], factors: list[float] | None = None) -> Any:
    """The network with labels; rows keep step, so each call has one weight of guidance and one factor of the logits."""
    size, mask_id = trainer.input_size, trainer.args.mask_value

    def call(tokens: Tensor, request: Request) -> Output:
        grid, labels = tokens.reshape(-1, size, size), request.condition
        keep = torch.zeros(len(tokens), dtype=torch.bool, device=tokens.device)
        step = min(int(request.step[0]), len(weights) - 1)
        factor = factors[step] if factors else 1.0

        def read(logits: Tensor) -> Tensor:
            return _with_mask(logits if factor == 1.0 else logits * factor, mask_id)

        if not any(weights):
            return Output(logits=read(network(grid, labels, keep)))
        logits = network(torch.cat([grid, grid]), torch.cat([labels, labels]), torch.cat([keep, ~keep]))
        seen, blind = read(logits).chunk(2)
        if logits.dtype in HALF:
            return Output(logits=guided(seen, blind, weights[step]), forwards=2)
        return Output(logits=seen, uncond_logits=blind, guidance=weights[step], forwards=2)

    return call


def _with_mask(logits: Tensor, mask_id: int) -> Tensor:
    missing = mask_id + 1 - logits.shape[-1]
    return logits if missing <= 0 else torch.nn.functional.pad(logits, (0, missing), value=-1e4)


MODULES = ("Sampler.confidence_sampler", "Sampler.halton_sampler")
REPLACES = {"ConfidenceSampler": ConfidenceSampler, "HaltonSampler": HaltonSampler}
