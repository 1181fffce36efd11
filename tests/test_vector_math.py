"""The vector exponential, logarithm and exponential variate: the errors that their comments state, on every set."""

from __future__ import annotations

import os

import numpy as np
import pytest

from mdmcorrect import _native

_host = pytest.importorskip("mdmcorrect._host", reason="built without pybind11")

ISAS = _native.build_info()["isas_supported"]
# Function, first and last bits of a domain, and the stated error with and without fused multiply-add, in ulp.
DOMAINS = {
    "exp near 0": ("exp", 0x80000000, 0xB2800000, 0.9, 1.2),  # -0 to -2^-26
    "exp": ("exp", 0xB2800000, 0xC2AC0000, 0.9, 1.2),  # to -86
    # Within 1.7 ulp + 0.22 ulp per unit of |x|.
    "scaled exp near 0": ("scaled exp", 0x80000000, 0xB2800000, 1.7, 1.7),
    "scaled exp to -1": ("scaled exp", 0xB2800000, 0xBF800000, 1.92, 1.92),
    "scaled exp to -8": ("scaled exp", 0xBF800000, 0xC1000000, 3.46, 3.46),
    "scaled exp to -86": ("scaled exp", 0xC1000000, 0xC2AC0000, 20.62, 20.62),
    "log": ("log", 0x00800000, 0x7F7FFFFF, 0.9, 0.9),  # every normal positive number
    "log subnormal": ("log", 0x00000001, 0x007FFFFF, 1.1, 1.1),
    "tanh": ("tanh", 0x00800000, 0x7F7FFFFF, 1.7, 2.0),
    "negative tanh": ("tanh", 0x80800000, 0xFF7FFFFF, 1.7, 2.0),
    "exponential": ("exponential", 0x1F000000, 0x3F7FFFFF, 1.5, 1.5),  # 2^-65 to 1 - 2^-24
}


def bits(value: float) -> int:
    return int(np.float32(value).view(np.uint32))


def test_domains_are_what_they_say():
    assert (bits(-(2.0**-26)), bits(-86.0)) == DOMAINS["exp"][1:3]
    assert (bits(2.0**-65), bits(1 - 2.0**-24)) == DOMAINS["exponential"][1:3]


def check(domain: str, isa: str, stride: int) -> None:
    function, first, last, fused, unfused = DOMAINS[domain]
    ulps, at = _host.worst_error(isa, function, first, last, stride)
    assert ulps <= (unfused if isa == "generic" else fused), f"{ulps} ulp at {at}"


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("domain", DOMAINS)
def test_error_of_a_sample(domain, isa):
    check(domain, isa, 211)


@pytest.mark.slow
@pytest.mark.skipif("MDMCORRECT_EVERY_FLOAT" not in os.environ, reason="takes an hour; MDMCORRECT_EVERY_FLOAT=1 asks")
@pytest.mark.parametrize("isa", [isa for isa in ISAS if isa != "avx512_bf16"])  # which has AVX-512's functions
@pytest.mark.parametrize("domain", [domain for domain in DOMAINS if "near 0" not in domain])  # e^x rounds to 1 there
def test_error_of_every_float(domain, isa):
    check(domain, isa, 1)
