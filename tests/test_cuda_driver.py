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
    return fake_driver(tmp_path_factory.mktemp("driver"))


@pytest.fixture(scope="module")
def old(tmp_path_factory):
    """A driver before CUDA 12.4, which cannot load kernels one by one."""
    return fake_driver(tmp_path_factory.mktemp("old_driver"), "-DOLD")


def fake_driver(folder: Path, *options: str) -> Path:
    if COMPILER is None:
        pytest.skip("needs a compiler")
    command = [COMPILER, "-std=c++17", "-shared", "-fPIC", *options, f"-I{ROOT / 'csrc'}"]
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
        "function op_kernel",  # all kernels of the operator, now
        "function op_other",
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


def test_what_was_granted_stays(fake):
    """Another thread may be about to launch the same kernel with more."""
    lines = run(fake, IMAGE, *(launch(shared=size) for size in (60000, 50000, 60000, 70000))).stdout.splitlines()
    granted = [line for line in lines if line.startswith("attribute")]
    assert granted == [f"attribute 8 = {size} on device 3" for size in (60000, 70000)]


def test_the_first_launch_may_be_captured(fake):
    """Code is loaded while the thread has relaxed its captures, and the launch is captured as before."""
    result = run(fake, IMAGE, launch(), launch(kernel="op_other"), FAKE_CAPTURE="1")
    assert result.returncode == 0, result.stderr
    assert "still relaxed" not in result.stdout
    assert result.stdout.count("launch 7 2 1") == 2


def test_kernels_are_loaded_ahead(fake):
    loaded = ["retain 3", "current", "load image", "function op_kernel", "function op_other"]
    result = run(fake, IMAGE, "_host.load_by_driver('op', 3)", "_host.load_by_driver('op', 3)", launch())
    assert result.stdout.splitlines()[:-1] == [*loaded, "kernel op_kernel"]
    result = run(fake, IMAGE, "_host.load_by_driver('op', 3)", "_host.load_by_driver('op', 4)", FAKE_CAPTURE="1")
    assert result.stdout.splitlines() == [*loaded, *loaded[-2:]]  # an image once, its kernels on each device
    assert NO_KERNEL in run(fake, "_host.load_by_driver('op', 3)").stderr


def test_an_old_driver_loads_at_the_first_launch(old):
    result = run(old, IMAGE, "_host.load_by_driver('op', 3)", launch())
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[2:4] == ["load image", "kernel op_kernel"]
    refused = run(old, IMAGE, launch(), FAKE_CAPTURE="1")
    assert "says: the fake's error (what a CUDA graph captures must have run once before" in refused.stderr


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
