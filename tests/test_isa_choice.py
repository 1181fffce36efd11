"""Which instruction set an operator takes: by a table of measured processors, asked here about any of them."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from mdmcorrect import _native

host = pytest.importorskip("mdmcorrect._host", reason="built without pybind11")
INFO = _native.build_info()

WITH_PAIRS = "avx512_bf16 avx512 avx2 generic"
WITH_TILES = f"avx512_amx {WITH_PAIRS}"
INTEL, AMD = "GenuineIntel", "AuthenticAMD"
PRODUCTS = {"bidirectional_attention", "bidirectional_attention_backward", "linear_cross_entropy"}


@pytest.mark.parametrize(
    ("processor", "isas", "op", "isa", "measured"),
    [
        ((INTEL, 6, 0x8F), WITH_PAIRS, "bidirectional_attention", "avx512", True),
        ((INTEL, 6, 0x8F), WITH_PAIRS, "bidirectional_attention_backward", "avx512", True),
        ((INTEL, 6, 0x8F), WITH_PAIRS, "linear_cross_entropy", "avx512", True),
        ((INTEL, 6, 0x8F), WITH_PAIRS, "score_hidden", "avx512_bf16", False),
        ((INTEL, 6, 0x8F), WITH_PAIRS, "score_tokens", "avx512_bf16", False),
        ((INTEL, 6, 0x8F), WITH_TILES, "bidirectional_attention", "avx512_amx", False),
        ((INTEL, 6, 0xCF), WITH_TILES, "bidirectional_attention", "avx512_amx", True),
        ((INTEL, 6, 0xCF), WITH_TILES, "linear_cross_entropy", "avx512_amx", True),
        ((INTEL, 6, 0xCF), WITH_TILES, "score_hidden", "avx512_amx", False),
        ((INTEL, 6, 0xCF), WITH_PAIRS, "bidirectional_attention", "avx512", True),
        ((INTEL, 6, 0xAD), WITH_PAIRS, "bidirectional_attention", "avx512", False),  # Granite Rapids
        ((INTEL, 6, 0x6A), "avx512 avx2 generic", "bidirectional_attention", "avx512", False),
        ((INTEL, 6, 0x9A), "avx2 generic", "linear_cross_entropy", "avx2", False),
        ((AMD, 26, 0x02), WITH_PAIRS, "bidirectional_attention", "avx512_bf16", True),
        ((AMD, 26, 0x44), WITH_PAIRS, "linear_cross_entropy", "avx512_bf16", True),
        ((AMD, 26, 0x75), WITH_PAIRS, "score_hidden", "avx512_bf16", True),
        ((AMD, 26, 0x50), WITH_PAIRS, "bidirectional_attention", "avx512_bf16", False),  # Zen 6
        ((AMD, 25, 0x11), WITH_PAIRS, "bidirectional_attention", "avx512_bf16", False),  # Zen 4
        ((AMD, 25, 0x01), "avx2 generic", "score_tokens", "avx2", True),
        ((AMD, 25, 0x50), "avx2 generic", "linear_cross_entropy", "avx2", True),
        ((AMD, 26, 0x02), "avx512 avx2 generic", "bidirectional_attention", "avx512", False),  # an old compiler's
        (("", 0, 0), "generic", "score_tokens", "generic", False),
        (("Somebody Else", 6, 0x8F), WITH_PAIRS, "bidirectional_attention", "avx512_bf16", False),
    ],
)
def test_choices(processor, isas, op, isa, measured):
    chosen, by_measurement, why = host.choose_isa(op, *processor, isas)
    assert (chosen, by_measurement) == (isa, measured)
    assert why
    assert '"' not in why  # build_info writes it as it is


def test_a_choice_is_one_that_runs_and_parts_of_an_operator_agree():
    every = [(vendor, family, model) for vendor in (INTEL, AMD, "") for family in (6, 25, 26) for model in range(256)]
    for processor in every:
        for isas in (WITH_TILES, WITH_PAIRS, "avx512 avx2 generic", "avx2 generic", "generic"):
            chosen = {op: host.choose_isa(op, *processor, isas) for op in INFO["ops"]}
            assert {choice[0] for choice in chosen.values()} <= set(isas.split())
            assert chosen["bidirectional_attention"] == chosen["bidirectional_attention_backward"]
            assert all(choice[0] == isas.split()[0] for op, choice in chosen.items() if op not in PRODUCTS)


def test_what_is_chosen_here():
    processor = INFO["processor"]
    supported = " ".join(INFO["isas_supported"])
    if "MDMCORRECT_ISA" not in os.environ:
        for op, choice in INFO["isa_choices"].items():
            expected = host.choose_isa(op, processor["vendor"], processor["family"], processor["model"], supported)
            assert tuple(choice.values()) == expected
    assert set(INFO["isa_choices"]) == set(INFO["ops"])


@pytest.mark.parametrize("isa", INFO["isas_supported"])
def test_the_variable_forces_every_operator(isa):
    code = (
        "from mdmcorrect import _native\n"
        "print({(c['isa'], c['why']) for c in _native.build_info()['isa_choices'].values()})"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "MDMCORRECT_ISA": isa},
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.strip() == str({(isa, "MDMCORRECT_ISA")})
