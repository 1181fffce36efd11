"""The kernels' random numbers (see :mod:`mdmcorrect.rng`)."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..purpose import Purpose

Array = NDArray[np.float64]


def philox4x32(counter: ArrayLike, key: ArrayLike) -> NDArray[np.uint64]:
    """Philox4x32-10: counter words ``[..., 4]`` and key words ``[..., 2]``, each in [0, 2^32), to four words."""
    word = np.uint64(0xFFFFFFFF)
    c, k = np.asarray(counter, np.uint64), np.asarray(key, np.uint64)
    x0, x1, x2, x3 = (c[..., i] for i in range(4))
    k0, k1 = k[..., 0], k[..., 1]
    for _ in range(10):
        p0, p1 = np.uint64(0xD2511F53) * x0, np.uint64(0xCD9E8D57) * x2
        x0, x1, x2, x3 = (p1 >> np.uint64(32)) ^ x1 ^ k0, p1 & word, (p0 >> np.uint64(32)) ^ x3 ^ k1, p0 & word
        k0, k1 = (k0 + np.uint64(0x9E3779B9)) & word, (k1 + np.uint64(0xBB67AE85)) & word
    return np.stack(np.broadcast_arrays(x0, x1, x2, x3), -1)


def random_bits(seed, index, position, step, purpose: int, call=0) -> NDArray[np.uint64]:
    """64 bits of the draw ``(seed; index, position, step, purpose << 16 | call)``; arguments broadcast."""

    def words(value) -> NDArray[np.uint64]:
        return np.asarray(value).astype(np.int64).astype(np.uint64)

    low, stream = np.uint64(0xFFFFFFFF), words(int(purpose) << 16) | (words(call) & np.uint64(0xFFFF))
    seed, *counter = np.broadcast_arrays(words(seed), words(index), words(position), words(step), stream)
    out = philox4x32(np.stack([word & low for word in counter], -1), np.stack([seed & low, seed >> np.uint64(32)], -1))
    return out[..., 0] << np.uint64(32) | out[..., 1]


def uniform(bits: NDArray[np.uint64], dtype: type[np.floating] = np.float32) -> NDArray[np.floating]:
    """``(r + 1/2) 2^-64``, at most the largest number below 1, in float32 or float64."""
    scaled = bits.astype(dtype) * dtype(2.0**-64) + dtype(2.0**-65)
    return np.minimum(scaled, 1 - np.finfo(dtype).epsneg)


def exponential(bits: NDArray[np.uint64]) -> Array:
    """Standard exponential variates ``-log(1 - u)``."""
    return -np.log1p(-uniform(bits).astype(np.float64))


def gumbel(bits: NDArray[np.uint64]) -> Array:
    """Standard Gumbel variates ``-log(E)``."""
    return -np.log(exponential(bits))


def sequence_seeds(seed: int, batch: int) -> NDArray[np.int64]:
    """Seeds of the sequences 0 to ``batch`` - 1 that an int ``seed`` stands for."""
    b = np.arange(batch, dtype=np.int64)
    return random_bits(np.int64((seed + 2**63) % 2**64 - 2**63), b, b >> 32, 0, Purpose.SEED).astype(np.int64)
