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

MEGABYTE = 1 << 20


@pytest.fixture(scope="module")
def timers():
    spec = importlib.util.spec_from_file_location("timers", bench.BENCHMARKS / "timers.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class FakeCuda:
    """torch.cuda of a device with a clock and a queue of its own; what is asked of it is written down."""

    CYCLES_PER_SECOND = 1e9

    def __init__(self):
        self.host, self.device, self.log, self.held, self.peak = 0.0, 0.0, [], 0, 0
        fake = self

        class Event:
            def __init__(self, enable_timing):
                assert enable_timing
                self.time = None

            def record(self):
                self.time = max(fake.device, fake.host)
                fake.log.append("event")

            def query(self):
                return self.time <= fake.host

            def elapsed_time(self, end):
                assert fake.log[-1] == "synchronize", "an event was read before the device came to it"
                return (end.time - self.time) * 1e3

        self.Event = Event

    def work(self, what: str, seconds: float = 0.0, host: float = 0.0) -> None:
        """What takes the host so long to queue, and the device to do once it has come to it."""
        self.log.append(what)
        self.host += host
        self.device = max(self.device, self.host) + seconds

    def _sleep(self, cycles):
        self.work("spin", cycles / self.CYCLES_PER_SECOND)

    def set_device(self, device):
        self.log.append(f"device {device}")

    def get_device_properties(self, device):
        return SimpleNamespace(L2_cache_size=1000)

    def get_device_name(self, device):
        return "Fake GPU"

    def synchronize(self):
        self.log.append("synchronize")
        self.host = max(self.host, self.device)

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
def on_fake(timers, monkeypatch):
    cuda = FakeCuda()
    timer = timers.CudaTimer(torch.device("cpu"), cuda)  # tensors on the CPU, everything else on the fake
    monkeypatch.setattr(timers.time, "perf_counter", lambda: cuda.host)
    monkeypatch.setattr(timer, "_fill_cache", lambda: cuda.work("fill", 2e-6))
    return timer, cuda


def test_cpu_time_is_that_of_all_calls(timers, monkeypatch):
    now = 0.0

    def call():
        nonlocal now
        now += 0.25

    monkeypatch.setattr(timers.time, "perf_counter", lambda: now)
    assert timers.CpuTimer().sample(call, 3) == (0.75, 0.75, False)


def test_cuda_time_is_the_calls_own(on_fake):
    """Each call finds other things in the cache, and neither that nor the spin is counted."""
    timer, cuda = on_fake
    assert cuda.log == ["device cpu"]
    seconds, host_seconds, queued = timer.sample(lambda: cuda.work("call", 0.25, host=1e-5), 3)
    assert (seconds, host_seconds, queued) == (pytest.approx(0.75), pytest.approx(3e-5), True)
    assert cuda.log[1:] == ["spin", "fill", "event", "call", "event"] * 3 + ["synchronize"]
    assert timer.name() == "Fake GPU"


def test_more_than_the_cache_holds_is_read(timers):
    timer = timers.CudaTimer(torch.device("cpu"), FakeCuda())
    assert timer._other.nbytes == 2000
    before = timer._other.clone()
    timer._fill_cache()
    assert torch.equal(timer._other, before)  # nothing is left to be written back


@pytest.mark.parametrize("launches", [1, 120])
def test_the_hosts_time_is_not_the_kernels(on_fake, launches):
    """Launches that take ten times as long to queue as to run, as a sampler's step has many."""
    timer, cuda = on_fake

    def call():
        for _ in range(launches):
            cuda.work("launch", 1e-6, host=1e-5)

    seconds, host_seconds, queued = timer.sample(call, 4)
    assert queued
    assert seconds == pytest.approx(4 * launches * 1e-6)
    assert host_seconds == pytest.approx(4 * launches * 1e-5)


def test_a_call_that_waits_has_the_hosts_time_in_it_and_is_named(on_fake, timers):
    timer, cuda = on_fake

    def call():
        cuda.work("launch", 1e-6, host=1e-5)
        cuda.synchronize()
        cuda.host += 1e-4  # what the host makes of it

    def then():
        call()
        cuda.work("launch", 1e-6)

    sample = timer.sample(then, 50)
    assert not sample.queued
    assert sample.seconds >= 50 * 1e-4
    assert cuda.log.count("spin") < 50  # it is not tried again for each of the calls
    most = (cuda.device - 0.0) * cuda.CYCLES_PER_SECOND
    assert most < 4 * timers.MOST_CYCLES


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

def test_other(versus):
    versus(lambda: 1, floor=lambda: 2, peers={})
"""


def test_table_of_a_run_in_which_one_case_fails(tmp_path, capsys, monkeypatch):
    folder = tmp_path / "benchmarks"
    folder.mkdir()
    for name in ("conftest.py", "timers.py"):
        shutil.copy(bench.BENCHMARKS / name, folder)
    (folder / "bench_it.py").write_text(CASES)
    (tmp_path / "pytest.ini").write_text("[pytest]\npython_files = bench_*.py\n")
    monkeypatch.setattr(bench, "BENCHMARKS", folder)
    command = ["bench", "fast", "wrong", "--seconds-per-case", "0.1", "--json", str(tmp_path / "out.json")]
    assert cli.main(command) == 1
    (row,) = json.loads((tmp_path / "out.json").read_text())
    assert row["case"] == "fast"
    assert row["seconds"] > 0
    assert row["gigabytes_per_second"] == pytest.approx(256 / row["seconds"] / 1e9)
    assert set(row["speedup_over"]) == {"slow"}
    text = capsys.readouterr().out
    assert row["device"] in text
    assert "slow" in text
    assert row["host_seconds"] is None  # on the CPU there is one time


def test_table_of_a_device(tmp_path, capsys):
    """The host's time beside the device's, and who could not be queued."""
    case = {
        "name": "test_step",
        "device": "Fake GPU",
        "seconds": {"ours": 2e-5, "floor": 1e-5, "theirs": 4e-4},
        "host_seconds": {"ours": 9e-5, "floor": 1e-5, "theirs": 4e-4},
        "waits": ["theirs"],
        "times_the_floor": 2.0,
        "speedup_over": {"theirs": 20.0},
    }
    measured = tmp_path / "measured"
    measured.write_text(json.dumps(case) + "\n")
    bench.print_table(bench.table(measured))
    _, _, titles, line = capsys.readouterr().out.splitlines()
    assert titles.split()[:3] == ["case", "time", "host"]
    assert line.split("  ")[0] == "step"
    assert "20.0 us" in line
    assert "90.0 us" in line
    assert line.endswith("theirs 20.00; waits for the device, so its host's time counts: theirs")


def test_smoke_times_nothing(monkeypatch):
    commands = []
    monkeypatch.setattr(
        bench.subprocess, "run", lambda command, check: commands.append(command) or SimpleNamespace(returncode=3)
    )
    assert cli.main(["bench", "--smoke"]) == 3
    (command,) = commands
    assert "--smoke" in command
    assert "-rs" in command, "what is skipped, and why"
    assert not any("measured" in word for word in command)
