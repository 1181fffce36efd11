"""Where the tokens come from that a term's model reads: from z, from the model's own answers, or from a sampler."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from .. import _checks
from .arguments import IGNORED
from .corruption import State
from .masking import bool_like
from .reading import Reading
from .terms import check_drawing

if TYPE_CHECKING:
    from .reader import Run


@dataclass(frozen=True)
class Inputs:
    """What a model reads for a term.

    Attributes:
        tokens: int64 ``[B * n, L]``, the n of a row neighbours.
        selected: bool alike, the positions the source wrote: those a head judges.
        t: ``[B * n]`` times that the model is told; None for those of the batch.
        extra: what the source found beside them, for its own target.
    """

    tokens: Tensor
    selected: Tensor
    t: Tensor | None = None
    extra: Any = field(default=None, compare=False)


class PrismInputs(NamedTuple):
    """``tokens`` y, int64 ``[B * n_y, L]`` (the n_y draws of a row are neighbours), and ``selected`` S, bool alike."""

    tokens: Tensor
    selected: Tensor


class Source:
    """Makes the inputs of one term. ``reads_z``: from what the model says of z, which is then asked for.

    Sources that are equal share their inputs: make one a frozen dataclass, with ``eq=False`` where a field is a tensor.
    """

    reads_z = False

    def draw(self, state: State, reading: Reading | None, run: Run) -> Inputs:
        """Without gradient.

        Args:
            state: the batch.
            reading: the model's answer to ``state.z``, where the source reads it.
            run: makes more forwards (``run.answer``), and holds the generator.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class Given(Source):
    """z itself, whose forward all terms share that read it; selected are its masks that carry loss."""

    def draw(self, state: State, reading: Reading | None, run: Run) -> Inputs:
        return Inputs(state.z, state.masked & state.positions.scored)


@dataclass(frozen=True)
class JointDraw(Source):
    """PRISM's y (arXiv 2510.01384): k masks of z filled at once from the model's answer to z.

    S depends on z alone, never on the drawn tokens: the proposition needs that. Tokens are drawn at S only, so the
    float64 work is on ``[B, n_y * k, V]``.

    Args:
        k: number of masks filled per y, 1 <= k <= L; a row with fewer fills all of them. None for all.
        n_y: draws of the tokens per z (PRISM's ``num_x0_xt``); each y chooses positions anew.
        n_s: choices of S for each draw (its ``num_xs_x0``): n_y * n_s inputs per z, of which input j takes its tokens
            from draw ``j % n_y``. Above 1 tokens are drawn at all positions, for the choices to share.
        positions: "random" (uniform among the masks) or "confidence" (the k with the highest maximum probability).
        leftmost: choose only among each row's leftmost masks, this many; None for all.
        temperature, top_p: how tokens are drawn; temperature 0 is the argmax, which any top_p keeps; top_p drops the
            crossing token.
    """

    k: int | None = 1
    n_y: int = 1
    n_s: int = 1
    positions: str = "random"
    leftmost: int | None = None
    temperature: float = 1.0
    top_p: float = 1.0

    reads_z = True

    def __post_init__(self) -> None:
        _checks.choice("positions", self.positions, "random", "confidence")
        _checks.settle(
            self,
            k=_checks.optional(_checks.integer),
            temperature=_checks.temperature,
            top_p=partial(_checks.number, low=0, high=1, expected="0 < top_p <= 1"),
            n_y=partial(_checks.integer, minimum=1, what="at least one draw per z"),
            n_s=partial(_checks.integer, minimum=1, what="at least one choice of positions"),
            leftmost=_checks.optional(partial(_checks.integer, minimum=1, what="a positive number of masks or None")),
        )

    def draw(self, state: State, reading: Reading | None, run: Run) -> Inputs:
        assert reading is not None
        return self.fill(state.z, state.masked & state.positions.scored, reading, run.generator)

    def choose(self, z: Tensor, mask_id: int, eligible: Tensor | None) -> Tensor:
        """The masks of z that may be filled, for who has no state."""
        masked = z == mask_id
        return masked if eligible is None else masked & bool_like("eligible", eligible, z)

    def fill(self, z: Tensor, masked: Tensor, reading: Reading, generator: torch.Generator | None) -> Inputs:
        """Choose S among ``masked`` positions of z and fill it."""
        check_drawing(self.temperature, self.top_p, generator)
        batch, length = z.shape
        k = length if self.k is None else self.k
        if not 1 <= k <= length:
            raise ValueError(f"k: expected 1 <= k <= L = {length}, got {k}")
        if self.leftmost is not None:
            masked = masked & (masked.cumsum(-1) <= self.leftmost)
        rows = self.n_y * self.n_s
        with torch.no_grad():
            scores = self._position_scores(masked, rows, reading, generator)
            best, index = scores.masked_fill(~masked.unsqueeze(1), float("-inf")).topk(k, dim=-1)  # [B, rows, k]
            drawn = self._tokens(index, reading, generator).view(batch * rows, k)
            index = index.view(batch * rows, k)
            real = (best > float("-inf")).view(batch * rows, k)
            repeated = torch.repeat_interleave(z, rows, dim=0)
            y = repeated.scatter(1, index, torch.where(real, drawn, repeated.gather(1, index)))
            selected = torch.zeros_like(y, dtype=torch.bool).scatter(1, index, real)
        return Inputs(y, selected)

    def _tokens(self, index: Tensor, reading: Reading, generator: torch.Generator | None) -> Tensor:
        """A token for each position of ``index [B, rows, k]``, in that order."""
        how: dict[str, Any] = {"temperature": self.temperature, "top_p": self.top_p, "generator": generator}
        if self.n_s == 1:
            return reading.at(index.flatten(1)).draw(**how)
        draws = torch.stack([reading.draw(**how) for _ in range(self.n_y)], 1)  # [B, n_y, L]
        return draws.repeat(1, self.n_s, 1).gather(-1, index)

    def _position_scores(
        self, masked: Tensor, rows: int, reading: Reading, generator: torch.Generator | None
    ) -> Tensor:
        """``[B, rows, L]``, larger is chosen first."""
        batch, length = masked.shape
        if self.positions == "confidence":
            return reading.confidence(masked).unsqueeze(1).expand(batch, rows, length)
        device = masked.device if generator is None else generator.device
        return torch.rand(batch, rows, length, generator=generator, dtype=torch.float32, device=device).to(
            masked.device
        )


@dataclass(frozen=True)
class ModelOutput(Source):
    """ProSeCo's corrector input (arXiv 2602.11590): the model's own tokens in place of z's, no mask token left.

    Args:
        inputs: "argmax" or "sample": how tokens are taken from the model's answer, the mask token excluded.
        input_positions: "all" (also where z was clean: no carry-over) or "masked" (clean tokens stay).
        temperature: of "sample"; "argmax" is a temperature of 0, whatever this says.
    """

    inputs: str = "argmax"
    input_positions: str = "all"
    temperature: float = 1.0

    reads_z = True

    def __post_init__(self) -> None:
        _checks.choice("inputs", self.inputs, "argmax", "sample")
        _checks.choice("input_positions", self.input_positions, "all", "masked")
        _checks.settle(self, temperature=_checks.temperature)

    def draw(self, state: State, reading: Reading | None, run: Run) -> Inputs:
        assert reading is not None
        free = state.positions.free
        return self.replace(state.x0, state.z, state.mask_id, free, reading, run.generator)

    def replace(
        self,
        x0: Tensor,
        z: Tensor,
        mask_id: int,
        free: Tensor | None,
        reading: Reading,
        generator: torch.Generator | None,
    ) -> Inputs:
        """The model's token at every free position, elsewhere the clean one (where labels leave it out that of z)."""
        replaced = torch.ones_like(z, dtype=torch.bool) if self.input_positions == "all" else z == mask_id
        replaced = replaced if free is None else replaced & free
        temperature = self.temperature if self.inputs == "sample" else 0.0
        with torch.no_grad():
            drawn = reading.draw(replaced, temperature=temperature, generator=generator)
            tokens = torch.where(replaced, drawn, torch.where(x0 == IGNORED, z, x0))
        return Inputs(tokens, replaced)
