"""Counter-based randomness: the same bits for any batch, device, thread count and restart.

Every random number of the package is one Philox4x32-10 output (Salmon et al., SC 2011). Its key is the 64-bit seed of
a sequence, its counter ``(index, position, step, purpose << 16 | call)``, four 32-bit words; nothing else enters. The
same arithmetic stands in ``csrc/core/philox.h`` and in :mod:`mdmcorrect.reference`, and all three agree bit for bit.
What operators draw with these bits goes through logarithms and sums, which another device or instruction set rounds
otherwise: there a draw near a tie may differ.

:func:`uniform` and :func:`gumbel`, drawn in every step, are an operator of the compiled library; :func:`random_bits`,
which gives any draw, is plain int64 tensor arithmetic. Both run where their tensors are, under ``torch.compile`` and
without synchronising. Other operators draw their own numbers.
"""

from __future__ import annotations

import mdmcorrect._requires_torch

from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from mdmcorrect import _checks, _constants
from mdmcorrect._kernels import require_kernel
from mdmcorrect.purpose import Purpose

__all__ = ["Purpose", "Seed", "fresh_seed", "gumbel", "random_bits", "sequence_seeds", "uniform"]

Seed: TypeAlias = "int | np.integer[Any] | Tensor | torch.Generator | None"

_WORDS = "an int or an int64 tensor"
_WORD = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10
_uniform = torch.ops.mdmcorrect.uniform.default


def _philox(words: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """The first two output words of Philox4x32-10, on words held in int64 tensors of one shape, each in [0, 2^32).

    Both halves of a round run as one stacked tensor: eagerly, the cost is the number of operations, not of elements.
    """
    x0, x1, x2, x3 = words
    half = torch.arange(2, device=x0.device).reshape(2, *(1,) * x0.dim())  # torch.tensor would copy from the host
    multipliers = _MULTIPLIERS[1] + half * (_MULTIPLIERS[0] - _MULTIPLIERS[1])
    weyl = _WEYL[0] + half * (_WEYL[1] - _WEYL[0])
    multiplied, kept, keys = torch.stack((x2, x0)), torch.stack((x1, x3)), torch.stack(key)
    for _ in range(_ROUNDS):
        # 32 x 32 bits make 64, of which int64 holds 63: the high half comes from the two 16-bit halves of the word.
        low_part = ((multiplied & 0xFFFF) * multipliers) >> 16
        high = (low_part + (multiplied >> 16) * multipliers) >> 16
        mixed = high ^ kept ^ keys  # the next x0, x2
        kept = (multiplied * multipliers) & _WORD  # the next x1, x3
        multiplied = mixed.flip(0)
        keys = (keys + weyl) & _WORD
    return mixed[0], kept[0]


def random_bits(
    seed: Tensor,
    index: Tensor | int,
    position: Tensor | int,
    step: Tensor | int,
    purpose: Purpose | int,
    call: Tensor | int = 0,
) -> Tensor:
    """64 random bits per draw, as int64 (two's complement of the unsigned value), shape of the broadcast arguments.

    Integers outside [0, 2^32) are taken modulo 2^32, ``call`` modulo 2^16.
    """
    index, position, step, call = (_number(word, seed) for word in (index, position, step, call))
    stream = (int(purpose) << 16) | (call & 0xFFFF)
    seed, index, position, step, stream = torch.broadcast_tensors(seed, index, position, step, stream)
    key = (seed & _WORD, (seed >> 32) & _WORD)
    x0, x1 = _philox((index & _WORD, position & _WORD, step & _WORD, stream), key)
    return (x0 << 32) | x1


def seed_tensor(seed: Seed, batch: int, *, device: torch.device | str | None = None, draws: bool = True) -> Tensor:
    """``seed`` as an int64 tensor: ``[batch]``, one per sequence, or ``[]``, the one they are to be derived from.

    ``draws``: whether anything will be drawn with it. If not, generators are left as they are. Other arguments and
    errors are those of :func:`sequence_seeds`.
    """
    if isinstance(seed, Tensor):  # first: torch 2.14 compiles no question whether a tensor is a Generator
        if seed.dtype != torch.int64:
            raise TypeError(f"seed: expected an int64 tensor, got {seed.dtype}")
        if seed.dim() != 0 and seed.shape != (batch,):
            raise ValueError(f"seed: expected shape [{batch}], one seed per sequence, or [], got {list(seed.shape)}")
        return seed if device is None else seed.to(device)
    if seed is None:
        seed = fresh_seed() if draws else 0
    elif isinstance(seed, torch.Generator):
        seed = fresh_seed(seed) if draws else 0
    if isinstance(seed, np.integer):
        seed = int(seed)
    if isinstance(seed, int) and not isinstance(seed, bool):
        return torch.full((), wrapped(seed), dtype=torch.int64, device=device)
    raise TypeError(f"seed: expected an int, an int64 tensor or a torch.Generator, got {type(seed).__name__}")


def wrapped(seed: int) -> int:
    """A seed modulo 2^64, as the int64 it is."""
    return (seed + 2**63) % 2**64 - 2**63


def fresh_seed(generator: torch.Generator | None = None) -> int:
    """One int64 drawn from ``generator``, or from torch's default CPU generator, which ``torch.manual_seed`` sets.

    Raises:
        ValueError: a graph is being captured or compiled with nothing but the default generator: every replay would
            repeat the one number drawn now.
    """
    if generator is None and _making_a_graph():
        raise ValueError(
            "seed: expected an int64 tensor while a CUDA graph is captured or torch.compile traces, got None, "
            "which every replay would take for the same number"
        )
    device = torch.device("cpu") if generator is None else generator.device
    return int(torch.randint(-(2**63), 2**63 - 1, (), generator=generator, device=device, dtype=torch.int64))


def _making_a_graph() -> bool:
    if torch.compiler.is_compiling():
        return True
    return torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing()


def sequence_seeds(seed: Seed, batch: int, *, device: torch.device | str | None = None, draws: bool = True) -> Tensor:
    """One seed per sequence, int64 ``[batch]``.

    Args:
        seed: an int64 tensor ``[batch]``, returned as it is: only this form makes a sequence independent of its place
            in the batch. An int (modulo 2^64; NumPy's too) or a 0-d int64 tensor: sequence ``b`` gets
            ``philox(seed, b)``. A ``torch.Generator``: one int64 is drawn from it, then as for an int. None: likewise,
            from torch's default CPU generator.
        batch: number of sequences.
        device: where the seeds go; default: the device of a tensor ``seed``, else the CPU.
        draws: whether anything will be drawn with them. If not, no generator is asked.

    Raises:
        TypeError: ``seed`` is of another type or dtype.
        ValueError: a tensor ``seed`` whose shape is neither ``[batch]`` nor ``[]``, or None while a graph is made.
    """
    root = seed_tensor(seed, batch, device=device, draws=draws)
    if root.dim() == 1:
        return root.contiguous()  # one number for every row, expanded, is a seed for each
    sequence = torch.arange(batch, dtype=torch.int64, device=root.device)
    return random_bits(root, sequence, sequence >> 32, 0, Purpose.SEED)


def uniform(
    seed: Tensor,
    positions: Tensor | int,
    step: Tensor | int,
    purpose: Purpose | int,
    call: Tensor | int = 0,
    *,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """One uniform number in (0, 1) for each position of each sequence, ``[B, L]``.

    Args:
        seed: int64 ``[B]``, one per sequence (:func:`sequence_seeds`).
        positions: a length L (positions 0 to L - 1), or int64 ``[L]`` or ``[B, L]``.
        step: an int, or int64 ``[]`` or ``[B]``.
        purpose: what the numbers are for.
        call: an int or int64 ``[]``, tells calls within one step apart; modulo 2^16.
        dtype: float32 or float64. Both are ``(r + 1/2) 2^-64`` of the same 64 bits, rounded; never 0, never 1.

    Raises:
        TypeError: another ``dtype``.
        ValueError: a shape, dtype or device that does not match ``seed``.
        RuntimeError: a CUDA tensor, but a library built without CUDA.
    """
    if not isinstance(seed, Tensor):
        raise TypeError(f"seed: expected int64 [B] (see sequence_seeds), got {type(seed).__name__}")
    if seed.dim() != 1 or seed.dtype != torch.int64:
        raise ValueError(f"seed: expected int64 [B] (see sequence_seeds), got {seed.dtype} {list(seed.shape)}")
    require_kernel("uniform", seed)
    if dtype not in (torch.float32, torch.float64):
        raise TypeError(f"dtype: expected torch.float32 or torch.float64, got {dtype}")
    batch = seed.shape[0]
    if not isinstance(positions, Tensor):
        length = _checks.integer("positions", positions, minimum=0, expected="a length, or a tensor")
        positions = _constants.count_up(length, seed)
    if positions.dtype != torch.int64 or positions.dim() not in (1, 2):
        raise ValueError(
            f"positions: expected a length or int64 [L] or [B, L], got {positions.dtype} {list(positions.shape)}"
        )
    if positions.dim() == 2 and positions.shape[0] != batch:
        raise ValueError(f"positions: expected [{batch}, L] as seed has it, got {list(positions.shape)}")
    if not isinstance(step, Tensor):
        step = _constants.number(_checks.integer("step", step, expected=_WORDS), torch.int64, seed)
    if not isinstance(call, Tensor):
        call = _constants.number(_checks.integer("call", call, expected=_WORDS), torch.int64, seed)
    for name, number in (("step", step), ("call", call)):
        if number.dtype != torch.int64:
            raise ValueError(f"{name}: expected an int or an int64 tensor, got {number.dtype}")
    if step.dim() != 0 and step.shape != (batch,):
        raise ValueError(f"step: expected [] or [{batch}] as seed has it, got {list(step.shape)}")
    if call.dim() != 0:
        raise ValueError(f"call: expected an int or int64 [], got {list(call.shape)}")
    for name, value in (("positions", positions), ("step", step), ("call", call)):
        if value.device != seed.device:
            raise ValueError(f"{name}: expected device {seed.device} as seed has it, got {value.device}")
    return _uniform(seed, positions, step, int(purpose), call, dtype)


def _number(value: Tensor | int, like: Tensor) -> Tensor:
    """A number where ``like`` is, filled in there: a copy from the host would make it wait."""
    return value if isinstance(value, Tensor) else torch.full((), value, dtype=torch.int64, device=like.device)


@torch.library.register_fake("mdmcorrect::uniform")
def _fake(seed: Tensor, positions: Tensor, step: Tensor, purpose: int, call: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.empty((seed.shape[0], positions.shape[-1]), dtype=dtype, device=seed.device)


def gumbel(
    seed: Tensor,
    positions: Tensor | int,
    step: Tensor | int,
    purpose: Purpose | int,
    call: Tensor | int = 0,
    *,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """One standard Gumbel variate for each position of each sequence, ``[B, L]``; arguments as for :func:`uniform`.

    Computed as ``-log(-log1p(-u))``: large values come from small u, where floating point is dense, so the upper tail
    reaches 45.05 instead of ending at 16.6 as it does with float32 uniforms near 1 (arXiv 2409.02908, section 5).
    """
    u = uniform(seed, positions, step, purpose, call, dtype=dtype)
    return -torch.log(-torch.log1p(-u))
