"""NVRTC compiles every CUDA kernel for every architecture, without a device, and what it made is kept."""

from __future__ import annotations

import os
import re

import pytest
import torch

from mdmcorrect import _native, jit

CAPABILITIES = [(8, 0), (8, 6), (8, 9), (9, 0), (10, 0), (12, 0)]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    pytest.importorskip("cupy", reason="needs CuPy: pip install 'mdmcorrect[jit]'")
    monkeypatch.setenv("MDMCORRECT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def launched(op: str) -> set[str]:
    """Names of the kernels that an operator's launcher asks for."""
    name = rf'"((?:{op}|{op.removeprefix("bidirectional_")})\w*)"'  # attention's backward has shorter ones
    return set(re.findall(name, (jit.sources() / "cuda" / f"{op}.h").read_text()))


def cases() -> list[tuple[str, tuple[int, int]]]:
    """Every operator for every capability; score_tokens, a minute or more each, for two.

    For the others `tools/cuda_table.py` compiles it.
    """
    few = {"score_tokens": [(8, 0), (9, 0)]}
    return [(op, capability) for op in sorted(jit.cuda_ops()) for capability in few.get(op, CAPABILITIES)]


@pytest.mark.parametrize(
    ("op", "capability"), cases(), ids=lambda value: value if isinstance(value, str) else "sm_{}{}".format(*value)
)
def test_every_kernel_compiles_for_every_architecture(op, capability):
    image = jit.compile(op, capability)
    assert image.startswith(b"\x7fELF")
    assert launched(op)
    assert all(name.encode() in image for name in launched(op))


def test_newer_devices_get_ptx():
    image = jit.compile("select_positions", (99, 0))
    assert b".target sm_" in image
    assert image.endswith(b"\0")


@pytest.mark.parametrize(
    ("capability", "target"),
    [
        ((9, 0), "sm_90"),
        ("9.0", "sm_90"),
        ("90", "sm_90"),
        ("sm_90a", "sm_90a"),
        ("9.0a", "sm_90a"),
        ("compute_100f", "sm_100f"),
        ((10, 3), "compute_100"),
        ("12.1", "compute_120"),
    ],
)
def test_architectures(capability, target):
    assert jit._target(capability, [75, 80, 90, 100, 120]) == target


def test_no_architecture():
    with pytest.raises(ValueError, match=r"^capability: expected such as .*, got '90b'"):
        jit._target("90b", [80, 90])
    with pytest.raises(ValueError, match=r"^capability: this NVRTC does not know sm_103a, only up to sm_100"):
        jit._target("sm_103a", [80, 90, 100])


def test_code_for_one_architecture_alone():
    assert jit.compile("select_positions", "sm_90a").startswith(b"\x7fELF")


def test_an_image_is_compiled_once(cache, monkeypatch):
    image = jit.compile("select_positions", (8, 0))
    (kept,) = cache.iterdir()
    monkeypatch.setattr(jit, "_compile", lambda *arguments: pytest.fail("compiled again"))
    assert jit.compile("select_positions", (8, 0)) == image
    assert kept.stat().st_mode & 0o777 == 0o600
    assert cache.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda path: path.write_bytes(b""), "are damaged"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "are damaged"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1] + b"?"), "are damaged"),
        (lambda path: path.write_bytes(path.read_bytes()[32:]), "are damaged"),
        (lambda path: path.chmod(0o666), "others may write"),
        (lambda path: os.chown(path, 12345, -1), "others may write"),
        (lambda path: (path.unlink(), path.mkdir()), "could not read"),
        (lambda path: (path.unlink(), path.symlink_to(path)), "could not read"),
    ],
)
def test_what_cannot_be_trusted_is_compiled_again(cache, caplog, monkeypatch, spoil, why):
    monkeypatch.setattr(jit, "_compile", lambda *arguments: b"\x7fELF, an image")
    image = jit.compile("select_positions", (8, 0))
    (kept,) = cache.iterdir()
    try:
        spoil(kept)
    except PermissionError:
        pytest.skip("only root may give files away")
    assert jit.compile("select_positions", (8, 0)) == image
    assert why in caplog.text
    caplog.clear()
    if kept.is_file():
        assert jit.compile("select_positions", (8, 0)) == image
        assert not caplog.text
    assert [path.name for path in cache.iterdir()] == [kept.name]


def test_a_changed_source_is_compiled_anew(monkeypatch, tmp_path):
    jit.compile("select_positions", (8, 0))
    changed = tmp_path / "csrc"
    for path in jit.sources().glob("c*/*"):
        if path.suffix in {".h", ".cu", ".cuh"}:
            (changed / path.parent.name).mkdir(parents=True, exist_ok=True)
            (changed / path.parent.name / path.name).write_text(path.read_text())
    (changed / "cuda" / "select_positions.cu").open("a").write("\nthis is not C++\n")
    monkeypatch.setattr(jit, "sources", lambda: changed)
    with pytest.raises(RuntimeError, match=r"NVRTC could not compile select_positions for sm_80: (.|\n)*error"):
        jit.compile("select_positions", (8, 0))


def test_a_cache_that_cannot_be_written_costs_only_a_warning(monkeypatch, tmp_path, caplog):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MDMCORRECT_CACHE", str(tmp_path / "file" / "cache"))
    assert jit.compile("select_positions", (8, 0)).startswith(b"\x7fELF")
    assert "could not keep" in caplog.text


def test_bad_requests():
    with pytest.raises(ValueError, match=r"^op: expected one of .*select_positions.*, got 'nothing'"):
        jit.compile("nothing", (8, 0))
    with pytest.raises(ValueError, match=r"^capability: expected at least 7\.5, got 5\.0"):
        jit.compile("select_positions", (5, 0))
    if not torch.cuda.is_available():
        with pytest.raises(RuntimeError, match="expected a CUDA device"):
            jit.load()


def test_the_librarys_own_kernels_stay_unless_they_are_to_be_replaced(monkeypatch):
    installed = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(_native, "build_info", lambda: {"cuda_ops": ["select_positions"]})
    monkeypatch.setattr(jit, "_install", lambda op, capability: installed.append((op, capability)))
    jit.load(["select_positions", "remask_step"])
    assert installed == [("remask_step", (9, 0))]
    jit.load(["select_positions"], replace=True)
    assert installed[1:] == [("select_positions", (9, 0))]


def test_images_come_from_the_cpu_as_bytes():
    _native.load()
    with pytest.raises(RuntimeError, match="image: expected contiguous uint8"):
        torch.ops.mdmcorrect.add_cuda_image("select_positions", torch.zeros(2, 2))
