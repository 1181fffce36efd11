"""The vector exponential, logarithm and exponential variate: the errors that their comments state, on every set."""

from __future__ import annotations

import numpy as np
import pytest

from mdmcorrect import _native

_host = pytest.importorskip("mdmcorrect._host", reason="built without pybind11")

ISAS = _native.build_info()["isas_supported"]
# Function: first and last bits of its domain, and the stated error with and without fused multiply-add, in ulp.
DOMAINS = {
    "exp": (0x80000000, 0xC2AC0000, 0.9, 1.2),  # -0 to -86
    "log": (0x00800000, 0x7F7FFFFF, 0.9, 0.9),  # every normal positive number
    "log subnormal": (0x00000001, 0x007FFFFF, 1.1, 1.1),
    "exponential": (0x1F000000, 0x3F7FFFFF, 1.5, 1.5),  # 2^-65 to 1 - 2^-24
}


def bits(value: float) -> int:
    return int(np.float32(value).view(np.uint32))


def test_domains_are_what_they_say():
    assert bits(-86.0) == DOMAINS["exp"][1]
    assert (bits(2.0**-65), bits(1 - 2.0**-24)) == DOMAINS["exponential"][:2]


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("function", DOMAINS)
@pytest.mark.parametrize("stride", [211, pytest.param(1, marks=pytest.mark.slow)], ids=["sampled", "every float"])
def test_error(function, isa, stride):
    first, last, fused, unfused = DOMAINS[function]
    ulps, at = _host.worst_error(isa, function.split()[0], first, last, stride)
    assert ulps <= (unfused if isa == "generic" else fused), f"{ulps} ulp at {at}"
