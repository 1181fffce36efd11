"""Threads that wait must not spin, or a busy machine slows the suite tenfold: set before torch is imported. Where each
test's random numbers start, and what `gpu` tests need to run."""

import functools
import os
import sys
import zlib

import pytest

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ["MDMCORRECT_TUNE"] = "off"  # what was measured on this machine is no part of a test


@functools.cache
def why_no_device() -> str | None:
    import torch

    from mdmcorrect import _native, jit

    if not torch.cuda.is_available():
        return "needs a CUDA device, and torch finds none"
    if not _native.build_info()["cuda_ops"] and not jit.available("score_tokens"):
        return "needs CUDA kernels: build with nvcc, or pip install 'mdmcorrect[jit]'"
    return None


def pytest_runtest_setup(item):
    """What a test draws without a seed of its own is its own, whichever tests ran before it in its process."""
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(zlib.crc32(item.nodeid.encode()))
    if item.get_closest_marker("gpu") is not None and why_no_device() is not None:
        pytest.skip(why_no_device())
