"""Everything a run knows between two steps: what it is stopped with, saved as, and goes on from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from torch import Tensor

from .. import _checks, rng
from ..model import counted_positions


@dataclass(frozen=True)
class State:
    """Per-row state of B sequences of L positions. Steps make a new one; no tensor is written in place.

    Attributes:
        tokens: int64 ``[B, L]``.
        fixed: bool ``[B, L]``, positions never written: prompts, givens, padding.
        attention_mask: bool ``[B, L]``, False on padding.
        positions: int64 ``[B, L]``, counted from the first real token, so that padding moves no random draw.
        origin: int64 ``[B]``, the column blocks are counted from: where generation begins.
        seed: int64 ``[B]``.
        step: int64 ``[B]``, steps the row has made; part of the address of every random draw.
        window: int64 ``[B]``, index of the row's window (block).
        window_step: int64 ``[B]``, steps made within it.
        quota: int64 ``[B]``, masks the window held when the row entered it.
        done: bool ``[B]``.
        settled: bool ``[B]``, the last correction changed nothing and nothing was written since: another is of no use.
        commit_score: float32 ``[B, L]``, probability of the token when it was committed (or last corrected); NaN where
            nothing is committed.
        commits: int64 ``[B, L]``, how often the position was committed.
        memory: what a method's own parts keep from step to step, by name; tensors with a leading dimension of B.
        nfe: int64 ``[B]``, forwards the row was in.
        calls: forwards of the model, whatever their batch.
        token_forwards: tokens that went through the model, padding included.
        padded: whether there may be padding, so that models get an attention mask.
        placed: whether the caller gave the positions, so that models get them without padding too.
        sampler: the parts of the sampler whose run this is, in words; another one does not go on from it. "" says
            nothing, and any does.
    """

    tokens: Tensor
    fixed: Tensor
    attention_mask: Tensor
    positions: Tensor
    origin: Tensor
    seed: Tensor
    step: Tensor
    window: Tensor
    window_step: Tensor
    quota: Tensor
    done: Tensor
    settled: Tensor
    commit_score: Tensor
    commits: Tensor
    nfe: Tensor
    memory: Mapping[str, Tensor] = field(default_factory=dict)
    calls: int = 0
    token_forwards: int = 0
    padded: bool = False
    placed: bool = False
    sampler: str = ""

    def masked(self, mask_id: int) -> Tensor:
        """bool ``[B, L]``: positions still to be filled."""
        return (self.tokens == mask_id) & ~self.fixed

    def committed(self, mask_id: int) -> Tensor:
        """bool ``[B, L]``: positions the sampler has filled and may revise."""
        return (self.tokens != mask_id) & ~self.fixed

    def uniform(self, purpose: rng.Purpose, call: int = 0, *, dtype: torch.dtype = torch.float32) -> Tensor:
        """``[B, L]``: this step's uniform numbers of that purpose, :func:`mdmcorrect.rng.uniform`."""
        return rng.uniform(self.seed, self.positions, self.step, purpose, call, dtype=dtype)

    def gumbel(self, purpose: rng.Purpose, call: int = 0) -> Tensor:
        """``[B, L]``: this step's Gumbel variates of that purpose."""
        return rng.gumbel(self.seed, self.positions, self.step, purpose, call)

    def state_dict(self) -> dict[str, Any]:
        """Plain tensors and numbers, for ``torch.save``."""
        return {f.name: getattr(self, f.name) for f in fields(self)} | {"memory": dict(self.memory)}

    @classmethod
    def load(cls, values: Mapping[str, Any], device: torch.device | str | None = None) -> State:
        """The state that :meth:`state_dict` described.

        Raises:
            TypeError: something else than such a dict.
            ValueError: entries are missing or unknown.
        """
        if not isinstance(values, Mapping):
            raise TypeError(f"state: expected the dict that state_dict() made, got {type(values).__name__}")
        names = {f.name for f in fields(cls)}
        values = dict(values)
        if "attention_mask" in values:  # a state saved before it said these
            later = {"padded": not bool(values["attention_mask"].all()), "placed": False, "sampler": ""}
            values = later | values
        if values.keys() != names:
            raise ValueError(
                f"state: missing {sorted(names - values.keys())}, unknown {sorted(values.keys() - names)}; "
                f"was it saved by another version?"
            )
        return cls(**values).to(device) if device is not None else cls(**values)

    def to(self, device: torch.device | str) -> State:
        """The same state on another device."""
        moved = {f.name: getattr(self, f.name).to(device) for f in fields(self) if f.name not in _NOT_TENSORS}
        memory = {name: value.to(device) for name, value in self.memory.items()}
        return replace(self, **moved, memory=memory)


_NOT_TENSORS = ("memory", "calls", "token_forwards", "padded", "placed", "sampler")


def initial_state(
    tokens: Tensor,
    *,
    mask_id: int,
    fixed: Tensor | None = None,
    lengths: Tensor | None = None,
    attention_mask: Tensor | None = None,
    positions: Tensor | None = None,
    origin: int | Tensor | None = None,
    seed: rng.Seed = None,
    draws: bool = True,
    sampler: str = "",
) -> State:
    """Check what the caller gave and lay out the state of step 0; arguments as for :class:`Sampler`'s call.

    ``draws``: whether the run draws anything; if not, no generator is asked for a seed.

    Raises:
        TypeError: a tensor of the wrong dtype.
        ValueError: a tensor of the wrong shape, or a negative ``mask_id``.
    """
    if not isinstance(tokens, Tensor) or tokens.dtype != torch.int64:
        got = tokens.dtype if isinstance(tokens, Tensor) else type(tokens).__name__
        raise TypeError(f"tokens: expected an int64 tensor [B, L], got {got}")
    if tokens.ndim != 2:
        raise ValueError(f"tokens: expected [B, L], got {list(tokens.shape)}; add a batch dimension with tokens[None]")
    mask_id = _checks.token_id("mask_id", mask_id)
    batch, device = tokens.shape[0], tokens.device
    real = _real_positions(tokens, lengths, attention_mask)
    if fixed is None:
        fixed = tokens != mask_id
    else:
        fixed = check_mask("fixed", fixed, tokens)
    padded, placed = lengths is not None or attention_mask is not None, positions is not None
    if positions is None:
        positions = counted_positions(real)
    elif not isinstance(positions, Tensor) or positions.dtype != torch.int64 or positions.shape != tokens.shape:
        got = type(positions).__name__
        if isinstance(positions, Tensor):
            got = f"{positions.dtype} {list(positions.shape)}"
        raise ValueError(f"positions: expected int64 {list(tokens.shape)}, got {got}")

    def zeros(dtype: torch.dtype = torch.int64) -> Tensor:  # one for each: a graph may update them in place
        return torch.zeros(batch, dtype=dtype, device=device)

    fixed = fixed | ~real
    return State(
        tokens=tokens.clone(),
        fixed=fixed,
        attention_mask=real,
        positions=positions.to(device),
        origin=_origin(origin, fixed),
        seed=rng.sequence_seeds(seed, batch, device=device, draws=draws),
        step=zeros(),
        window=zeros(),
        window_step=zeros(),
        quota=zeros(),
        done=zeros(torch.bool),
        settled=zeros(torch.bool),
        commit_score=torch.full(tokens.shape, torch.nan, dtype=torch.float32, device=device),
        commits=torch.zeros_like(tokens),
        nfe=zeros(),
        padded=padded,
        placed=placed,
        sampler=sampler,
    )


def _origin(origin: int | Tensor | None, fixed: Tensor) -> Tensor:
    if origin is None:
        return fixed.long().cumprod(1).sum(1)  # the first position to be generated
    if not isinstance(origin, Tensor) or origin.ndim == 0:
        column = _checks.integer("origin", origin, minimum=0)
        return torch.full(fixed.shape[:1], column, dtype=torch.int64, device=fixed.device)
    if origin.dtype != torch.int64 or origin.shape != fixed.shape[:1]:
        got = f"{origin.dtype} {list(origin.shape)}"
        raise ValueError(f"origin: expected an int or int64 [{fixed.shape[0]}], got {got}")
    return origin.to(fixed.device)


def check_mask(name: str, value: Tensor, tokens: Tensor) -> Tensor:
    """``value`` as bool on the device of ``tokens [B, L]``, whose shape it must have; ``name`` is for the error."""
    if not isinstance(value, Tensor) or value.dtype.is_floating_point or value.dtype.is_complex:
        got = value.dtype if isinstance(value, Tensor) else type(value).__name__
        raise TypeError(f"{name}: expected a bool tensor {list(tokens.shape)}, got {got}")
    if value.shape != tokens.shape:
        raise ValueError(f"{name}: expected {list(tokens.shape)} like tokens, got {list(value.shape)}")
    return value.to(device=tokens.device, dtype=torch.bool)


def _real_positions(tokens: Tensor, lengths: Tensor | None, attention_mask: Tensor | None) -> Tensor:
    if lengths is not None and attention_mask is not None:
        raise ValueError("lengths, attention_mask: give one of them; lengths means padding on the right")
    if attention_mask is not None:
        return check_mask("attention_mask", attention_mask, tokens)
    if lengths is None:
        return torch.ones_like(tokens, dtype=torch.bool)
    if not isinstance(lengths, Tensor) or lengths.dtype != torch.int64 or lengths.shape != tokens.shape[:1]:
        got = f"{lengths.dtype} {list(lengths.shape)}" if isinstance(lengths, Tensor) else type(lengths).__name__
        raise ValueError(f"lengths: expected int64 [{tokens.shape[0]}], got {got}")
    return torch.arange(tokens.shape[1], device=tokens.device) < lengths.to(tokens.device)[:, None]
