"""How CUDA kernels are launched, against a driver that only writes down what it is asked."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mdmcorrect._host", reason="needs pybind11 when the library is built")

ROOT = Path(__file__).resolve().parent.parent
COMPILER = shutil.which("c++") or shutil.which("g++")
NVCC = shutil.which("nvcc")

IMAGE = "_host.add_cuda_image('op', 'image')"
NOT_REPLACED = "RuntimeError: mdmcorrect::op: its CUDA kernels are in use already"
NO_KERNEL = "RuntimeError: mdmcorrect::op: got a CUDA tensor, but there is no CUDA kernel for this op here"


def run(folder: Path, *statements: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Statements in a process of their own, whose libcuda.so.1 is the one in `folder`."""
    code = "\n".join(["from mdmcorrect import _host", *statements])
    environment = {**os.environ, "LD_LIBRARY_PATH": str(folder), **environment}
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)


def launch(kernel: str = "op_kernel", shared: int = 0) -> str:
    return f"_host.launch_by_driver('op', '{kernel}', 7, 2, 256, {shared}, b'argument', 3, 99)"


@pytest.fixture(scope="module")
def fake(tmp_path_factory):
    if COMPILER is None:
        pytest.skip("needs a compiler")
    folder = tmp_path_factory.mktemp("driver")
    command = [COMPILER, "-std=c++17", "-shared", "-fPIC", f"-I{ROOT / 'csrc'}"]
    subprocess.run([*command, str(ROOT / "tests/cuda/fake_driver.cpp"), "-o", str(folder / "libcuda.so.1")], check=True)
    return folder


def test_a_launch_reaches_the_driver(fake):
    result = run(fake, IMAGE, launch(), launch(), launch(kernel="op_other"))
    assert result.returncode == 0, result.stderr
    shape = "launch 7 2 1, 256 1 1, 0 bytes, stream 99, argument, no extra"
    assert result.stdout.splitlines() == [
        "retain 3",  # a thread without a context gets the device's primary one
        "current",
        "load image",
        "kernel op_kernel",
        shape,
        shape,  # neither image nor kernel is looked for twice
        "kernel op_other",
        shape,
    ]


def test_much_shared_memory_is_asked_for(fake):
    result = run(fake, IMAGE, launch(shared=48 * 1024), launch(shared=48 * 1024 + 16))
    lines = result.stdout.splitlines()
    assert lines.count("attribute 8 = 49168 on device 3") == 1
    assert lines.index("attribute 8 = 49168 on device 3") == len(lines) - 2
    assert "49152 bytes" in lines[-3]


def test_a_refused_launch_is_one_sentence(fake):
    result = run(fake, IMAGE, launch(), FAKE_RESULT="222")
    assert (
        "RuntimeError: mdmcorrect::op: cuLaunchKernel says: the fake's error (a build with nvcc 13 needs driver 580 or "
        "newer)." in result.stderr
    )


def test_no_kernel_for_this_op(fake):
    assert NO_KERNEL in run(fake, "_host.add_cuda_image('other', 'image')", launch()).stderr


def test_kernels_in_use_are_not_replaced(fake):
    assert run(fake, IMAGE, IMAGE, launch()).returncode == 0
    assert NOT_REPLACED in run(fake, IMAGE, launch(), IMAGE).stderr


def test_no_driver(tmp_path):
    (tmp_path / "libcuda.so.1").write_text("not a library")
    assert "RuntimeError: mdmcorrect::op: no NVIDIA driver (libcuda.so.1)" in run(tmp_path, launch()).stderr


@pytest.mark.skipif(NVCC is None or COMPILER is None, reason="needs CUDA's headers and a compiler")
def test_the_driver_is_declared_as_nvidia_declares_it():
    verbose = subprocess.run(
        [NVCC, "-E", "-Xcompiler", "-v", "-x", "cu", "/dev/null"], capture_output=True, text=True, check=True
    ).stderr
    searched = {Path(line.strip()) for line in verbose.splitlines()}
    includes = [f"-I{ROOT / 'csrc'}", *sorted(f"-I{folder}" for folder in searched if (folder / "cuda.h").is_file())]
    check = subprocess.run(
        [COMPILER, "-std=c++17", "-fsyntax-only", *includes, str(ROOT / "tests/cuda/driver_api_check.cpp")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert check.returncode == 0, check.stderr
