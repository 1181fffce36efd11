"""Training states that a sampler makes: any sampler of :mod:`mdmcorrect.samplers`, from z, stopped at a random step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .. import _checks
from ..model import Output, Request
from ..wrappers import unwrapped
from .arguments import uniforms
from .averaging import averagers, processes
from .corruption import State
from .judging import read_quality
from .outputs import call_model
from .reading import Reading
from .sources import Inputs, Source

if TYPE_CHECKING:
    from ..samplers.call import Runs
    from .reader import Reader, Run

Stop = str | int | Callable[[int, int, torch.Generator | None], Tensor]


@dataclass(frozen=True)
class Rollout(Source):
    """What a sampler makes of z in some of its steps; selected are the tokens it wrote, or some of them.

    A head or corrector so trained sees the states it will be asked about. One joint draw (:class:`JointDraw`) ties the
    number of errors to the number of masks: nearly full boards are nearly right. With :class:`Right` as target the
    label is 1[x0 = y], a valid other completion counts as wrong, and the minimiser is

        g_i(y) = E[ p(x_i = y_i | z) | y, i judged ],

    the mean over the z that led to y, not PRISM's p(x_i = y_i | y with i masked). docs/losses.md has both by
    enumeration.

    The sampler runs without gradient, in the mode the model is in; its draws come from the loss's generator. Rows leave
    the batch where they stop. The model is told the share of masks left in y as its time.

    Args:
        sampler: a preset or a ``Sampler``, of fixed steps where ``stop`` is "random".
        stop: after which step: "random" (each row uniform on 1 to the sampler's steps), "end", a number for all rows,
            or a function ``(rows, steps, generator) -> int64 [B]``. A row that is full before stays full.
        k: how many of the tokens it wrote are selected, at random; None for all.
        fill: masks that are left: None leaves them; "argmax" and "sample" fill them by one more forward, for models
            that read no masks (ProSeCo's corrector, Token-Critic); what is filled counts as written.
        temperature: of "sample".
        model: the model that is run; None for the one that is trained, out of its DDP.

    Raises:
        TypeError, ValueError: an argument that does not fit; a model whose forwards processes make together.
    """

    sampler: Runs
    stop: Stop = "random"
    k: int | None = None
    fill: str | None = None
    temperature: float = 1.0
    model: Any = None

    def __post_init__(self) -> None:
        kind = f"the class {self.sampler.__name__}" if isinstance(self.sampler, type) else type(self.sampler).__name__
        if isinstance(self.sampler, type) or not callable(getattr(self.sampler, "parts", None)):
            raise TypeError(f"sampler: expected a sampler of mdmcorrect.samplers, got {kind}")
        if isinstance(self.stop, str):
            _checks.choice("stop", self.stop, "random", "end")
            if self.stop == "random" and self.sampler.parts().most_steps is None:
                raise ValueError(
                    'stop: expected "end", a number of steps or a function, got "random", beside a sampler whose '
                    "number of steps its rows decide"
                )
        elif not callable(self.stop):
            _checks.settle(self, stop=partial(_checks.integer, minimum=1, what="at least one step"))
        if self.fill is not None:
            _checks.choice("fill", self.fill, "argmax", "sample")
        one = partial(_checks.integer, minimum=1, what="at least one token or None")
        _checks.settle(self, k=_checks.optional(one), temperature=_checks.temperature)

    def draw(self, state: State, reading: Reading | None, run: Run) -> Inputs:
        # A sampler asks the host in every step: nothing of it is worth a graph.
        make = torch.compiler.disable(self._make) if torch.compiler.is_compiling() else self._make
        return make(state, run)

    def _make(self, state: State, run: Run) -> Inputs:
        generator, z, mask_id = run.generator, state.z, state.mask_id
        model = self._sampled(run)
        last = self._last_steps(len(z), generator)
        made = -1  # the rule is asked once before the first step

        def ends(tokens: Tensor, fixed: Tensor) -> Tensor:
            nonlocal made
            made += 1
            return last.to(tokens.device) <= made

        device = "cpu" if generator is None else generator.device
        with torch.no_grad():
            result = self.sampler(
                model,
                z,
                mask_id=mask_id,
                fixed=~(state.masked & state.positions.free),
                attention_mask=None if state.roles.attention_mask is None else state.positions.present,
                condition=state.roles.condition,
                seed=torch.randint(2**63 - 1, (len(z),), generator=generator, device=device).to(z.device),
                stop=None if self.stop == "end" else ends,
                on_interrupt="raise",
            )
            y = result.tokens
            if self.fill is not None:
                said = run.reader.read(self._ask(model, y, state, run), y, mask_id)
                temperature = self.temperature if self.fill == "sample" else 0.0
                left = (y == mask_id) & state.positions.free
                y = torch.where(left, said.draw(left, temperature=temperature, generator=generator), y)
        wrote = state.masked & (y != mask_id) & state.positions.scored
        masks = ((y == mask_id) & state.positions.free).sum(1) / state.positions.free.sum(1).clamp(min=1)
        return Inputs(y, wrote if self.k is None else some_of(wrote, self.k, generator), masks.to(state.t.dtype))

    def _last_steps(self, rows: int, generator: torch.Generator | None) -> Tensor:
        """int64 ``[B]``: the step after which each row stops."""
        steps = self.sampler.parts().most_steps or 0
        if callable(self.stop):
            last = _checks.instance(
                "stop", self.stop(rows, steps, generator), Tensor, "an int64 tensor of the function"
            )
            if last.dtype != torch.int64 or last.shape != (rows,):
                got = f"{last.dtype} {list(last.shape)}"
                raise ValueError(f"stop: expected int64 [{rows}] of the function, one for each row, got {got}")
            return last
        if isinstance(self.stop, int):
            return torch.full((rows,), self.stop, dtype=torch.int64, device="cpu")
        if self.stop == "end":
            return torch.zeros(rows, dtype=torch.int64, device="cpu")
        device = "cpu" if generator is None else generator.device
        return torch.randint(1, steps + 1, (rows,), generator=generator, device=device)

    def _sampled(self, run: Run) -> Any:
        """The model as a sampler calls it."""
        model = run.model if self.model is None else self.model
        if any(isinstance(each, torch.nn.parallel.DistributedDataParallel) for each in averagers(model)):
            model = unwrapped(model)
        if processes() > 1 and averagers(model):
            raise ValueError(
                "model: its processes meet in every forward, and each one's sampler makes another number of them; give "
                "Rollout(model=) a whole copy to sample from, or wrap an ObjectiveModule"
            )
        reader = run.reader
        plain = reader.forward is None and reader.output_layer is None and reader.head is None and not reader.keep_mask
        return model if plain else AsSampled(model, reader)

    @staticmethod
    def _ask(model: Any, tokens: Tensor, state: State, run: Run) -> Any:
        model = model.model if isinstance(model, AsSampled) else model
        return run.answer(model, tokens, state)


class AsSampled:
    """A model that is read as a loss's reader reads it, for samplers."""

    def __init__(self, model: Any, reader: Reader) -> None:
        self.model, self.reader = model, reader

    def __call__(self, tokens: Tensor, request: Request) -> Output:
        reader = self.reader
        quality = "quality" in request.needs
        output = call_model(
            self.model,
            tokens,
            forward=reader.forward,
            time=request.time.float(),
            attention_mask=request.attention_mask,
            condition=request.condition,
            states=quality and reader.output_layer is None,
        )
        logits = reader.read(output, tokens, request.mask_id).logits()
        if not quality:
            return Output(logits)
        head = reader.head
        return Output(logits, torch.sigmoid(read_quality(output, tokens, head, reader.output_layer)))


def some_of(positions: Tensor, k: int, generator: torch.Generator | None) -> Tensor:
    """At most k of each row's ``positions``, uniform."""
    noise = uniforms(positions, generator).masked_fill(~positions, -1)
    best, index = noise.topk(min(k, positions.shape[1]), dim=-1)
    return torch.zeros_like(positions).scatter(1, index, best >= 0)
