"""What a random number is for: a part of its address, see :mod:`mdmcorrect.rng`."""

from __future__ import annotations

from enum import IntEnum

__all__ = ["Purpose"]


class Purpose(IntEnum):
    """What a draw is for, so that two uses of one (index, position, step) never share bits."""

    CHUNK = 1  # index: vocabulary chunk
    TOKEN = 2  # index: global token id
    POSITION = 3  # Gumbel noise of select_positions
    COMMIT = 4  # Bernoulli unmasking
    REMASK = 5  # Bernoulli remasking
    COUNT = 6  # random counts
    SEED = 7  # seed of sequence b
    ORDER = 8  # uniform position scores
    DENSE = 9  # one Gumbel per token
