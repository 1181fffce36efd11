"""`mdmcorrect doctor`: the facts of this machine, and the sentence for everything that can be missing."""

from __future__ import annotations

import importlib.util
import json
import re

import pytest
import torch

from mdmcorrect import _native, cli
from mdmcorrect.cli import doctor

BUILD = {
    "compiler": "gcc 12", "torch_target": "2.10", "isas_built": ["avx512", "avx2", "generic"],
    "isas_supported": ["avx2", "generic"], "isa": "avx2", "ops": ["select_positions", "remask_step"],
    "processor": {"vendor": "GenuineIntel", "family": 6, "model": 143},
    "isa_choices": {
        "select_positions": {"isa": "avx2", "measured": False, "why": "the widest this machine runs"},
        "remask_step": {"isa": "generic", "measured": True, "why": "a processor: a table"},
    },
    "cuda_version": "13.0.88", "cuda_archs": ["80", "90"], "cuda_ops": ["select_positions"],
}  # fmt: skip


@pytest.fixture
def machine(monkeypatch):
    """Lets a test say what build, device and driver doctor sees."""

    def pretend(build=BUILD, capability=None, driver=None, torch_cuda="13.0", cupy=False):
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: object() if cupy or name != "cupy" else None)
        monkeypatch.setattr(_native, "build_info", lambda: build)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: capability is not None)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Test GPU")
        monkeypatch.setattr(torch.version, "cuda", torch_cuda)
        monkeypatch.setattr(doctor, "driver_version", lambda: driver)
        return doctor.diagnose()

    return pretend


def test_this_machine(capsys):
    assert cli.main(["doctor"]) == 0
    text = capsys.readouterr().out
    info = _native.build_info()
    assert f"{info['isa']} in use" in text
    assert all(re.search(rf"{op} .*CPU: {info['isa_choices'][op]['isa']}", text) for op in info["ops"])


def test_what_was_chosen_and_why(machine, monkeypatch):
    facts = machine().facts
    assert facts["processor"] == "GenuineIntel family 6 model 0x8f"
    assert facts["instruction sets"] == (
        "avx2 in use for select_positions (not measured: the widest this machine runs); generic in use for remask_step "
        "(measured: a processor: a table); here: avx2, generic; built, but not for this processor: avx512"
    )
    forced = {op: {"isa": "generic", "measured": False, "why": "MDMCORRECT_ISA"} for op in BUILD["ops"]}
    text = machine({**BUILD, "isa_choices": forced}).facts["instruction sets"]
    assert text.startswith("generic in use for every operator (MDMCORRECT_ISA); here")


def test_what_is_left_to_do(machine, capsys):
    """An instruction set that nobody measured here is nothing that has to be done, but not nothing to say either."""
    doctor.print_diagnosis(machine())
    assert capsys.readouterr().out.splitlines()[-1].startswith("nothing has to be done; what was not measured")
    choices = {op: {"isa": "avx2", "measured": True, "why": "a table"} for op in BUILD["ops"]}
    doctor.print_diagnosis(machine({**BUILD, "isa_choices": choices}))
    assert capsys.readouterr().out.splitlines()[-1] == "nothing to do"


def test_json(capsys):
    assert cli.main(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found["kernels"]) == set(_native.build_info()["ops"])


def test_a_matching_gpu_needs_nothing(machine):
    found = machine(capability=(9, 0), driver="580.65.06")
    assert found.advice == []
    assert found.facts["CUDA device"] == "Test GPU, sm_90"
    assert found.kernels["select_positions"] == {"cpu": "avx2", "cuda": "a CUDA kernel"}
    assert found.kernels["remask_step"]["cuda"] == "none"


def test_old_driver(machine):
    (advice,) = machine(capability=(9, 0), driver="550.54.15").advice
    assert "nvcc 13.0.88, which needs driver 580 or newer; this is 550.54.15" in advice


CPU_BUILD = {**BUILD, "cuda_version": "", "cuda_archs": [], "cuda_ops": []}


def test_gpu_but_cpu_build(machine):
    (advice,) = machine(CPU_BUILD, (9, 0), "580.1").advice
    assert "this build is for the CPU only" in advice


def test_gpu_and_cupy_but_cpu_build(machine):
    found = machine(CPU_BUILD, (9, 0), "580.1", cupy=True)
    assert found.advice == []
    assert found.kernels["select_positions"]["cuda"] == "compiled at first use"


def test_gpu_but_cpu_torch(machine):
    (advice,) = machine(driver="580.1", torch_cuda=None).advice
    assert "this torch is a CPU build" in advice


def test_uncovered_architecture(machine):
    (advice,) = machine({**BUILD, "cuda_archs": ["90"]}, (8, 0), "580.1").advice
    assert "MDMCORRECT_CUDA_ARCHS=80" in advice


@pytest.mark.parametrize(
    ("capability", "archs", "runs"),
    [
        ((8, 6), ["80"], True),  # SASS of the same major version
        ((8, 0), ["86"], False),  # older than the only code there is
        ((12, 1), ["80", "90"], True),  # by PTX
        ((10, 0), ["80", "86", "89", "90", "100", "120"], True),
        ((7, 5), ["80", "90"], False),
    ],
)
def test_covered(capability, archs, runs):
    assert doctor.covered(capability, archs) is runs


def test_missing_torch(monkeypatch, capsys):
    monkeypatch.setattr(
        _native, "torch_problem", lambda: "mdmcorrect needs torch 2.10 or newer, and none is installed."
    )
    assert cli.main(["doctor"]) == 1
    assert "- mdmcorrect needs torch 2.10" in capsys.readouterr().out


def test_driver_version_is_read_from_the_kernel_module(monkeypatch):
    text = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build\nGCC version: 12\n"
    monkeypatch.setattr(doctor.Path, "read_text", lambda self: text)
    assert doctor.driver_version() == "580.65.06"
    monkeypatch.setattr(
        doctor.Path, "read_text", lambda self: text.replace("Open Kernel Module", "x86_64 Kernel Module")
    )
    assert doctor.driver_version() == "580.65.06"
