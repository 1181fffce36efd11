"""MDMCORRECT_CUDA_ARCHS as people write it, and an nvcc that does not know them all: cmake/architectures.cmake."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
CMAKE = shutil.which("cmake")
TORCH = Path(torch.__file__).parent

pytestmark = pytest.mark.skipif(CMAKE is None, reason="needs cmake")

# The policies of CMakeLists.txt: without them a CMake before 4 reads the file by rules of its own.
SCRIPT = f"""
cmake_minimum_required(VERSION 3.20)
include({ROOT}/cmake/architectures.cmake)
mdm_read_architectures("${{WANTED}}" archs)
mdm_known_architectures(nvcc 12.4 "${{archs}}" archs)
message(STATUS "archs ${{archs}}")
if(archs)
  mdm_architecture_options("${{archs}}" options)
  message(STATUS "options ${{options}}")
endif()
"""
# As CUDA 12.4 answers: it knows nothing after Hopper.
NVCC = """#!/bin/sh
case "$*" in
  --version) echo "Cuda compilation tools, release 12.4, V12.4.131" ;;
  --list-gpu-code) printf 'sm_50\\nsm_75\\nsm_80\\nsm_86\\nsm_87\\nsm_89\\nsm_90\\n' ;;
  *) exit 1 ;;
esac
"""
SMI = "#!/bin/sh\nprintf '9.0\\n8.6\\n9.0\\n'\n"


@pytest.fixture
def tools(tmp_path):
    """A folder with this nvcc, and nothing of the machine's own on PATH but the shell's tools."""
    return program(tmp_path / "nvcc", NVCC).parent


def program(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o755)
    return path


def chosen(wanted: str, tools: Path) -> subprocess.CompletedProcess[str]:
    script = tools / "choose.cmake"
    script.write_text(SCRIPT)
    return subprocess.run(
        [CMAKE, f"-DWANTED={wanted}", "-P", str(script)],
        env={**os.environ, "PATH": f"{tools}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )


def sentence(result: subprocess.CompletedProcess[str]) -> str:
    return re.sub(r"\s+", " ", result.stderr)


@pytest.mark.parametrize(
    ("wanted", "archs"),
    [
        ("80", "80"),
        ("80;90", "80;90"),
        ("90,80", "80;90"),
        ("8.0, sm_90", "80;90"),
        ("compute_89;8.9;89", "89"),
        ("90a", "90a"),
        ("sm_90a,9.0", "90;90a"),
        ("native", "86;90"),
        ("native,80", "80;86;90"),
    ],
)
def test_what_people_write(wanted, archs, tools):
    program(tools / "nvidia-smi", SMI)
    result = chosen(wanted, tools)
    assert result.returncode == 0, result.stderr
    assert f"-- archs {archs}\n" in result.stdout
    assert not result.stderr


@pytest.mark.parametrize("wanted", ["ninety", "sm90", "90b", "80:90", "9.0.0", "9", "native,sm_"])
def test_anything_else_is_one_sentence(wanted, tools):
    program(tools / "nvidia-smi", SMI)
    result = chosen(wanted, tools)
    assert result.returncode != 0
    assert re.search(
        r"MDMCORRECT_CUDA_ARCHS: expected architectures such as 80, 90a, 8\.0, sm_80 or native, .*; got '[^']+'",
        sentence(result),
    )


def test_a_device_that_is_too_old(tools):
    assert "our kernels need sm_80 or newer; got sm_75" in sentence(chosen("80;7.5", tools))


def test_native_without_a_device(tools):
    program(tools / "nvidia-smi", "#!/bin/sh\nexit 9\n")
    assert "native, but nvidia-smi finds no GPU here" in sentence(chosen("native", tools))


def test_ptx_is_of_what_later_devices_run(tools):
    options = re.search(r"options (.*)", chosen("90a;80", tools).stdout)[1].split(";")
    assert options == [
        "-gencode=arch=compute_80,code=sm_80",
        "-gencode=arch=compute_90a,code=sm_90a",
        "-gencode=arch=compute_80,code=compute_80",
        "-gencode=arch=compute_90,code=compute_90",
    ]


@pytest.mark.parametrize(
    ("wanted", "archs", "left_out"),
    [
        ("80;90;100;120", "80;90", "sm_100, sm_120"),
        ("120", "90", "sm_120"),  # its PTX runs there
        ("88;90", "90", "sm_88"),
        ("88", "87", "sm_88"),
    ],
)
def test_what_nvcc_does_not_know_is_left_out_and_said(wanted, archs, left_out, tools):
    result = chosen(wanted, tools)
    assert result.returncode == 0, result.stderr
    assert f"-- archs {archs}\n" in result.stdout
    assert f"nvcc 12.4 does not know {left_out}: left out." in sentence(result)


def test_an_nvcc_that_does_not_say_tries_all(tools):
    program(tools / "nvcc", "#!/bin/sh\nexit 1\n")
    assert "-- archs 80;120\n" in chosen("120,80", tools).stdout


@pytest.mark.slow
@pytest.mark.parametrize("cuda", ["auto", "on"])
def test_an_older_nvcc_configures(cuda, tools):
    """With nothing said of architectures: those of today that it knows, an operator's all at once."""
    build = tools / "build"
    result = subprocess.run(
        [CMAKE, f"-S{ROOT}", f"-B{build}", "-G", "Unix Makefiles", f"-DMDMCORRECT_TORCH_DIR={TORCH}",
         f"-DMDMCORRECT_CUDA={cuda}", f"-DMDMCORRECT_NVCC={tools / 'nvcc'}"],
        env={name: value for name, value in os.environ.items() if not name.startswith("CMAKE_")},
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert "does not know sm_100, sm_120: left out" in sentence(result)
    rules = "".join(path.read_text() for path in build.rglob("build.make"))
    assert set(re.findall(r",code=(\w+)", rules)) == {"sm_80", "sm_86", "sm_89", "sm_90", "compute_80", "compute_90"}
    assert rules.count("--threads 0") == len(re.findall(r"\S+nvcc -fatbin", rules)) > 5
