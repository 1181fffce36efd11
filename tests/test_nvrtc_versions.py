"""Older NVRTCs compile every kernel too: those in build/nvrtc-*, where `make test` puts 13.0, the one torch 2.14 pins.

tests/test_jit.py has the newest, for every architecture and to machine code. What differs between versions is what they
accept, so here one architecture and PTX do.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from nvrtc import Nvrtc
from test_jit import launched

from mdmcorrect import jit

ROOT = Path(__file__).resolve().parent.parent
LIBRARIES = sorted(path for path in ROOT.glob("build/nvrtc-*/**/libnvrtc.so.*") if "alt" not in path.name)
WANTED = "needs NVRTC 13.0: pip install --no-deps --target build/nvrtc-13.0 nvidia-cuda-nvrtc==13.0.88"


def folder(path: Path | None) -> str:
    return "none" if path is None else path.relative_to(ROOT / "build").parts[0]


@pytest.fixture(scope="module", params=LIBRARIES or [None], ids=folder)
def nvrtc(request):
    if request.param is None:
        pytest.skip(WANTED)
    return Nvrtc(request.param)


@pytest.mark.parametrize("op", sorted(jit.cuda_ops()))
def test_every_kernel_compiles(op, nvrtc):
    ptx = jit._compile(nvrtc, op, "compute_90")
    assert b".target sm_90" in ptx
    assert all(f".entry {name}(".encode() in ptx for name in launched(op))


GENERIC_LAMBDA = """
template <class F> __device__ void twice(const F& f) { f([](auto x) { return x + x; }); }
extern "C" __global__ void kernel(int* p) { twice([&](const auto& g) { *p = g(*p); }); }
"""


def test_what_they_do_not_accept_is_an_error(nvrtc, tmp_path, monkeypatch):
    """Lambdas whose parameters are auto are functions of the host to NVRTC 12.8 to 13.1."""
    if not (12, 8) <= nvrtc.getVersion() <= (13, 1):
        pytest.skip("this version accepts them")
    (tmp_path / "cuda").mkdir()
    (tmp_path / "cuda" / "kernel.cu").write_text(GENERIC_LAMBDA)
    monkeypatch.setattr(jit, "sources", lambda: tmp_path)
    with pytest.raises(RuntimeError, match="is considered a host function"):
        jit._compile(nvrtc, "kernel", "compute_90")
