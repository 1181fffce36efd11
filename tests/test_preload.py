"""mdmcorrect.preload: every operator's kernels on a device, ahead of their first use."""

from __future__ import annotations

import pytest
import torch

import mdmcorrect
from mdmcorrect import _kernels, _native, jit

OPS = _native.build_info()["ops"]


@pytest.fixture
def two_devices(monkeypatch):
    """A build with all kernels but one, and what is asked of it and of the compiler."""
    asked = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    monkeypatch.setattr(_kernels, "CUDA_OPS", frozenset(OPS[1:]))
    monkeypatch.setattr(jit, "has_compiler", lambda: True)
    monkeypatch.setattr(jit, "load", lambda *, device: asked.append(("compile", device)))
    monkeypatch.setattr(
        torch.ops.mdmcorrect, "load_cuda_kernels", lambda op, device: asked.append((op, device)), raising=False
    )
    return asked


@pytest.mark.parametrize(
    ("device", "index"), [(None, 1), ("cuda", 1), ("cuda:0", 0), (0, 0), (torch.device("cuda", 1), 1)]
)
def test_every_kernel_is_loaded(two_devices, device, index):
    mdmcorrect.preload(device)
    assert two_devices == [("compile", index), *((op, index) for op in OPS)]


def test_a_device_that_is_not_there(two_devices):
    with pytest.raises(RuntimeError, match=r"^preload: expected a CUDA device, got cuda:2, and torch finds 2$"):
        mdmcorrect.preload(2)
    with pytest.raises(ValueError, match=r"^device: expected a CUDA device, got cpu$"):
        mdmcorrect.preload("cpu")


def test_no_device_at_all(two_devices, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(RuntimeError, match=r"^preload: expected a CUDA device, got cuda, and torch finds none$"):
        mdmcorrect.preload()


def test_a_build_for_the_cpu_alone(two_devices, monkeypatch):
    monkeypatch.setattr(jit, "has_compiler", lambda: False)
    with pytest.raises(
        RuntimeError, match=rf"^preload: this build of mdmcorrect has no CUDA kernels for {OPS[0]}; see `mdmcorrect doc"
    ):
        mdmcorrect.preload()
    assert not two_devices
