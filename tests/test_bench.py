"""`mdmcorrect bench` and what it measures with; the CUDA form of a timer against a device that is made up."""

from __future__ import annotations

import importlib.util
import json
import shutil
from types import SimpleNamespace

import pytest
import torch

from mdmcorrect import _native, cli
from mdmcorrect.cli import bench

pytest.importorskip("pytest_benchmark", reason="needs pytest-benchmark: pip install 'mdmcorrect[bench]'")

MEGABYTE = 1 << 20


@pytest.fixture(scope="module")
def timers():
    spec = importlib.util.spec_from_file_location("timers", bench.BENCHMARKS / "timers.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class FakeCuda:
    """torch.cuda of a device on which time passes when `work` says so; what is asked of it is written down."""

    def __init__(self):
        self.now, self.log, self.held, self.peak = 0.0, [], 0, 0
        fake = self

        class Event:
            def __init__(self, enable_timing):
                assert enable_timing
                self.time = None

            def record(self):
                self.time = fake.now
                fake.log.append("event")

            def elapsed_time(self, end):
                assert fake.log[-1] == "synchronize", "an event was read before the device came to it"
                return (end.time - self.time) * 1e3

        self.Event = Event

    def work(self, what: str, seconds: float = 0.0) -> None:
        self.log.append(what)
        self.now += seconds

    def set_device(self, device):
        self.log.append(f"device {device}")

    def get_device_properties(self, device):
        return SimpleNamespace(L2_cache_size=1000)

    def get_device_name(self, device):
        return "Fake GPU"

    def synchronize(self):
        self.log.append("synchronize")

    def allocate(self, size: int) -> None:
        self.held += size
        self.peak = max(self.peak, self.held)

    def reset_peak_memory_stats(self):
        self.peak = self.held

    def memory_allocated(self):
        return self.held

    def max_memory_allocated(self):
        return self.peak


@pytest.fixture
def on_fake(timers):
    cuda = FakeCuda()
    timer = timers.CudaTimer(torch.device("cpu"), cuda)  # tensors on the CPU, everything else on the fake
    return timer, cuda


def test_cpu_time_is_that_of_all_calls(timers, monkeypatch):
    now = 0.0

    def call():
        nonlocal now
        now += 0.25

    monkeypatch.setattr(timers.time, "perf_counter", lambda: now)
    assert timers.CpuTimer().seconds(call, 3) == 0.75


def test_cuda_time_is_the_calls_own(on_fake, monkeypatch):
    """Each call finds the cache overwritten, and the time that takes is not counted."""
    timer, cuda = on_fake
    overwritten = []
    monkeypatch.setattr(torch.Tensor, "zero_", lambda self: overwritten.append(self.nbytes) or cuda.work("flush", 10.0))
    assert cuda.log == ["device cpu"]
    assert timer.seconds(lambda: cuda.work("call", 0.25), 3) == pytest.approx(0.75)
    assert cuda.log[1:] == ["flush", "event", "call", "event"] * 3 + ["synchronize"]
    assert overwritten == [2000] * 3
    assert timer.name() == "Fake GPU"


def test_cuda_peak_is_beyond_what_was_there_and_what_comes_back(on_fake):
    timer, cuda = on_fake
    cuda.held = cuda.peak = 5000

    def call():
        result = torch.zeros(25)  # 100 bytes
        cuda.allocate(100)
        cuda.allocate(700)  # workspace
        cuda.held -= 800
        return result, None

    assert timer.peak_bytes(call) == 700


def test_cpu_peak(timers):
    def call():
        torch.ones(64 * MEGABYTE, dtype=torch.int8)
        return torch.ones(8 * MEGABYTE, dtype=torch.int8)

    peak = timers.CpuTimer().peak_bytes(call)
    if peak is None:
        pytest.skip("this system does not tell")
    assert 48 * MEGABYTE < peak < 80 * MEGABYTE


@pytest.mark.parametrize("shape", [(3, 5), (4, 16)])
def test_floors_move_the_bytes(timers, on_fake, shape):
    values = torch.arange(1.0, 1 + shape[0] * shape[1]).reshape(shape)
    assert timers.CpuTimer().move(values)() != 0
    copied = on_fake[0].move(values)()
    half = copied.numel() // 4  # floats
    assert 2 * copied.nbytes == values.nbytes // 2 * 2
    assert torch.equal(copied[: 4 * half].view(torch.float32), values.reshape(-1)[:half])


def test_a_device_that_is_not_there_is_one_sentence(capsys, monkeypatch):
    def answer(device: str) -> str:
        with pytest.raises(SystemExit) as stop:
            cli.main(["bench", "--device", device])
        return str(stop.value)

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert answer("cuda") == (
        "mdmcorrect bench: --device: cuda was asked for, but torch finds no CUDA devices; see `mdmcorrect doctor`"
    )
    assert answer("tpu") == "mdmcorrect bench: --device: expected cpu, cuda or cuda:N, got tpu"
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(_native, "build_info", lambda: {"cuda_ops": []})
    assert "torch finds 2 CUDA devices" in answer("cuda:2")
    assert "this build has no CUDA kernels" in answer("cuda:1")
    monkeypatch.setattr(_native, "build_info", lambda: {"cuda_ops": ["score_tokens"]})
    assert bench.device_problem("cuda:1") is None


CASES = """
import torch

def test_fast(versus, timer, device):
    x = torch.ones(64, device=device)
    versus(lambda: x.sum(), floor=timer.move(x), peers={"slow": lambda: x.cumsum(0)}, bytes_moved=x.nbytes, memory=True)

def test_wrong(versus):
    versus(lambda: 1 / 0, floor=lambda: None, peers={})
"""


def test_table_of_a_run_in_which_one_case_fails(tmp_path, capsys, monkeypatch):
    folder = tmp_path / "benchmarks"
    folder.mkdir()
    for name in ("conftest.py", "timers.py"):
        shutil.copy(bench.BENCHMARKS / name, folder)
    (folder / "bench_it.py").write_text(CASES)
    (tmp_path / "pytest.ini").write_text("[pytest]\npython_files = bench_*.py\n")
    monkeypatch.setattr(bench, "BENCHMARKS", folder)
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)  # within its workers nothing is timed
    assert cli.main(["bench", "--json", str(tmp_path / "out.json")]) == 1
    (row,) = json.loads((tmp_path / "out.json").read_text())
    assert row["case"] == "fast"
    assert row["seconds"] > 0
    assert row["gigabytes_per_second"] == pytest.approx(256 / row["seconds"] / 1e9)
    assert set(row["speedup_over"]) == {"slow"}
    text = capsys.readouterr().out
    assert row["device"] in text
    assert "slow" in text
