"""Whether a method draws anything, so that a run without a seed asks torch's generator only if it must."""

from __future__ import annotations


def draws(*parts: object) -> bool:
    """Whether one of the parts draws random numbers: its property ``random``. None is no part.

    A part that does not say is taken to draw: a seed too many changes nothing but the generator.
    """
    return any(getattr(part, "random", True) for part in parts if part is not None)
