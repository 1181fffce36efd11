"""Going on from a state: what a call says besides must agree with it."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import _checks, rng
from .identity import difference
from .state import State, check_mask


def check_agreement(
    state: State,
    sampler: str,
    tokens: Tensor | None,
    *,
    fixed: Tensor | None,
    lengths: Tensor | None,
    attention_mask: Tensor | None,
    positions: Tensor | None,
    origin: int | Tensor | None,
    seed: rng.Seed,
) -> None:
    """Hold what a call says beside its state against it. One question to the host, if it says anything.

    Raises:
        TypeError: ``state`` is none.
        ValueError: the state was made by another sampler, an argument that is given differs from what it holds, or a
            tensor of it has another shape, dtype or device than a state's.
    """
    if not isinstance(state, State):
        raise TypeError(f"state: expected a State (State.load makes one of a dict), got {type(state).__name__}")
    _check_fields(state)
    if state.sampler and state.sampler != sampler:
        there, here = difference(state.sampler, sampler)
        raise ValueError(f"state: it was made by another sampler, with {there} where this one has {here}")
    shape = state.tokens.shape
    same: dict[str, Tensor] = {}
    if tokens is not None:
        if not isinstance(tokens, Tensor) or tokens.shape != shape:
            got = list(tokens.shape) if isinstance(tokens, Tensor) else type(tokens).__name__
            raise ValueError(f"state: expected tokens {got}, got {list(shape)}")
        same["tokens"] = ((tokens.to(state.tokens.device) == state.tokens) | ~state.fixed).all()
    if lengths is not None:
        _like("lengths", lengths, shape[:1])
        same["lengths"] = (lengths.to(state.tokens.device) == state.attention_mask.sum(1)).all()
    if attention_mask is not None:
        real = check_mask("attention_mask", attention_mask, state.tokens)
        same["attention_mask"] = (real == state.attention_mask).all()
    if fixed is not None:
        same["fixed"] = ((check_mask("fixed", fixed, state.tokens) | ~state.attention_mask) == state.fixed).all()
    if positions is not None:
        _like("positions", positions, shape)
        same["positions"] = ((positions.to(state.tokens.device) == state.positions) | ~state.attention_mask).all()
    if origin is not None:
        if isinstance(origin, Tensor) and origin.ndim:
            _like("origin", origin, shape[:1])
            same["origin"] = (origin.to(state.tokens.device) == state.origin).all()
        else:
            same["origin"] = (state.origin == _checks.integer("origin", origin, minimum=0)).all()
    if not isinstance(seed, Tensor) and isinstance(seed, torch.Generator):
        raise ValueError("seed: the state holds the run's seeds, and a Generator would make others; leave it out")
    if seed is not None:
        same["seed"] = (rng.sequence_seeds(seed, shape[0], device=state.tokens.device) == state.seed).all()
    if not same:
        return
    names = list(same)
    answer = sum(2**bit * (~same[name]).long() for bit, name in enumerate(names))
    found = int(answer)
    for bit, name in enumerate(names):
        if found >> bit & 1:
            raise ValueError(f"{name}: it differs from what the state holds; leave it out, or start without a state")


def _check_fields(state: State) -> None:
    """Hold the tensors of a state that somebody made or changed to what :class:`State` says of them."""
    if not isinstance(state.tokens, Tensor) or state.tokens.ndim != 2:
        raise ValueError("state: expected tokens int64 [B, L], which its other tensors go by")
    grids = {"tokens": torch.int64, "fixed": torch.bool, "attention_mask": torch.bool, "positions": torch.int64}
    grids |= {"commit_score": torch.float32, "commits": torch.int64}
    columns = dict.fromkeys(("origin", "seed", "step", "window", "window_step", "quota", "nfe"), torch.int64)
    columns |= {"done": torch.bool, "settled": torch.bool}
    for name, dtype in (grids | columns).items():
        value, shape = getattr(state, name), state.tokens.shape if name in grids else state.tokens.shape[:1]
        if not isinstance(value, Tensor) or value.dtype != dtype or value.shape != shape:
            got = f"{value.dtype} {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(f"state: expected {name} {dtype} {list(shape)}, got {got}".replace("torch.", ""))
        if value.device != state.tokens.device:
            raise ValueError(f"state: expected {name} on {state.tokens.device} as its tokens are, got {value.device}")


def _like(name: str, value: object, shape: tuple[int, ...]) -> None:
    if not isinstance(value, Tensor) or tuple(value.shape) != tuple(shape) or value.dtype != torch.int64:
        got = f"{value.dtype} {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(f"{name}: expected int64 {list(shape)}, got {got}")
