"""Comparisons that say in one sentence what differs: which value of which result, what came, what was expected."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor


class Mismatch(AssertionError):
    """A result that is not the reference's."""


def expect_near(
    name: str, got: Tensor | NDArray, expected: NDArray, *, rtol: float = 0.0, atol: float = 0.0, most: float = 0.0
) -> None:
    """Hold ``|got - expected| <= atol + rtol |expected|``, and NaN and infinities in the same places.

    Args:
        name: what the sentence calls the result.
        got, expected: of the same shape and any dtypes; compared in float64, or as they are where both are integers.
        most: how many values may differ, as near ties may.

    Raises:
        Mismatch: with the worst value.
    """
    got = got.detach() if isinstance(got, Tensor) else got
    actual = got.double().numpy() if isinstance(got, Tensor) and got.is_floating_point() else np.asarray(got)
    if actual.shape != expected.shape:
        raise Mismatch(f"{name}: got shape {list(actual.shape)}, expected {list(expected.shape)}")
    same = (actual == expected) | ((actual != actual) & (expected != expected))
    if rtol or atol:
        with np.errstate(invalid="ignore"):  # inf - inf
            off = np.abs(actual - expected)
            same |= np.isfinite(expected) & (off <= atol + rtol * np.abs(expected))
    wrong = int((~same).sum())
    if wrong <= most:
        return
    with np.errstate(invalid="ignore"):
        distance = np.abs(np.subtract(actual, expected, dtype=np.float64))
    distance[np.isnan(distance)] = np.inf
    place = np.unravel_index(np.where(same, -1.0, distance).argmax(), actual.shape)
    index = f"[{', '.join(str(int(i)) for i in place)}]" if place else ""
    tolerance = f", tolerance {atol + rtol * abs(float(expected[place])):.1e}" if rtol or atol else ""
    raise Mismatch(
        f"{name}{index}: got {_shown(actual[place])}, expected {_shown(expected[place])}{tolerance} "
        f"({wrong} of {actual.size} differ)"
    )


def _shown(value: np.generic) -> str:
    return f"{float(value):.9g}" if isinstance(value, np.floating) else str(value)
