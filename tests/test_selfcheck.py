"""`mdmcorrect doctor --check`: it passes here, every check it makes can fail, and it survives what kernels can do."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from mdmcorrect import _kernels, _native, cli, jit
from mdmcorrect.selfcheck import check, child, worker
from mdmcorrect.selfcheck.cases import Case, run
from mdmcorrect.selfcheck.comparison import Mismatch, expect_near
from mdmcorrect.selfcheck.families import FAMILIES
from mdmcorrect.selfcheck.worker import NotStarted, Outcome, Worker

ROOT = Path(__file__).resolve().parent.parent


def test_this_processor(capsys):
    """Every family on every instruction set of the machine; several to a line, since all of them pass."""
    assert cli.main(["doctor", "--check", "--device", "cpu"]) == 0
    _, text = capsys.readouterr().out.split("check against the float64 reference: ")
    title, *lines, verdict = text.splitlines()
    isas = _native.build_info()["isas_supported"]
    assert title == "; ".join(f"cpu, {isa}" for isa in isas)
    assert [line.split()[:2] for line in lines] == [[family, "ok"] for family in FAMILIES]
    assert all(f"cases on {', '.join(isas)}, " in line for line in lines)
    assert verdict == "every kernel that was asked agrees with the reference"


def test_a_device_that_is_not_there_is_one_sentence(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(SystemExit, match="--device: cuda was asked for, but torch finds no CUDA devices"):
        cli.main(["doctor", "--check", "--device", "cuda"])
    with pytest.raises(SystemExit, match="--device: expected cpu, cuda or cuda:N, got tpu"):
        cli.main(["doctor", "--check", "--device", "tpu"])
    with pytest.raises(SystemExit, match="add --check"):
        cli.main(["doctor", "--device", "cpu"])


# A device whose kernels misbehave, each in its own way.
FAULTY = """
import os, signal, time
import torch
from mdmcorrect.selfcheck.cases import Case
from mdmcorrect.selfcheck.comparison import expect_near

def case(name, what):
    def call(x):
        what()
        return 2 * x
    return Case("op", name, call, lambda seed: {"x": torch.ones(3)}, check)

def check(results, arguments):
    expect_near("double", results["output 0"], 2 * arguments["x"].double().numpy(), atol=1e-6)

def nothing():
    print("this is no answer")

def wrong():
    case_wrong = case("wrong", nothing)
    return Case("op", "twice", lambda x: 2 * x + torch.tensor([0.0, 0.5, 0.0]), case_wrong.make, check)

def refuse():
    raise RuntimeError("CUDA error: an illegal memory access was encountered\\nCompile with TORCH_USE_CUDA_DSA")

FAMILIES = {
    "right": [case("once", nothing), case("again", nothing)],
    "wrong": [case("once", nothing), wrong(), wrong()],
    "after wrong": [case("once", nothing)],
    "illegal": [case("once", refuse)],
    "killed": [case("once", nothing), case("dies", lambda: os.kill(os.getpid(), signal.SIGILL))],
    "hangs": [case("waits", lambda: time.sleep(600))],
    "leaves": [case("exits", lambda: os._exit(7))],
    "at last": [case("once", nothing)],
}
"""


@pytest.fixture(scope="module")
def faulty(tmp_path_factory):
    folder = tmp_path_factory.mktemp("faulty")
    (folder / "faulty_cases.py").write_text(FAULTY)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        patch.setenv("PYTHONPATH", str(folder))
        yield "faulty_cases"


def test_what_kernels_can_do_is_reported_and_survived(faulty):
    said = []
    found = check.check_device("cpu", ["generic"], said.append, seconds=3.0, cases=faulty)
    became = {outcome.family: (outcome.status, outcome.cases, outcome.failed, outcome.message) for outcome in found}
    assert became == {
        "right": ("ok", 2, 0, ""),
        "wrong": ("FAILED", 3, 2, "twice: double[1]: got 2.5, expected 2, tolerance 1.0e-06 (1 of 3 differ)"),
        "after wrong": ("ok", 1, 0, ""),
        "illegal": (
            "FAILED",
            1,
            1,
            "once: RuntimeError: CUDA error: an illegal memory access was encountered Compile with TORCH_USE_CUDA_DSA",
        ),
        "killed": ("crashed", 2, 1, "dies: the process ended by SIGILL"),
        "hangs": ("timed out", 1, 1, "waits: no end after 3 s"),
        "leaves": ("crashed", 1, 1, "exits: the process ended with status 7"),
        "at last": ("ok", 1, 0, ""),
    }
    assert not check.passed(found)
    assert said[0] == "check against the float64 reference: cpu, generic"
    assert said[2] == (
        "wrong                    FAILED     on generic: twice: double[1]: got 2.5, expected 2, tolerance 1.0e-06 "
        "(1 of 3 differ); 2 of 3 cases failed"
    )
    assert said[-1].startswith("do not trust results of wrong, illegal, killed, hangs, leaves on this device")


def test_a_child_that_cannot_start_says_why(faulty):
    (lost,) = check.workers("cpu", ["no_such_set"], cases=faulty)
    with pytest.raises(NotStarted, match=r"ended with status 1 \(.*no_such_set.*\)"):
        lost.about()
    with pytest.raises(NotStarted):  # at once, and not after another start
        lost.ask("right")
    assert lost._process is None
    (first, *_) = check.outcomes([lost], cases=faulty)
    assert (first[0].status, first[0].cases) == ("crashed", 0)
    assert first[0].message.startswith("could not start: the process ended with status 1")


def test_a_family_without_a_kernel_is_skipped_and_nothing_checked_is_no_pass(faulty, monkeypatch):
    monkeypatch.setattr(Worker, "_start", lambda self: None)
    monkeypatch.setattr(Worker, "about", lambda self: {"lacking": {"op": "this build has none"}, "device": "cuda:0"})
    outcome = Worker("cuda", device="cuda").ask("op")
    assert outcome == Outcome("op", "cuda", "skipped", 0, message="this build has none")
    assert not check.passed([outcome])
    assert list(check.lines([outcome])) == ["op                       skipped    on cuda: this build has none"]


def test_kernels_that_are_compiled_first_have_more_time(monkeypatch):
    waits = []

    class Answers:
        def get(self, timeout):
            waits.append(timeout)
            raise worker.queue.Empty

    def start(self):
        self._process, self._answers = _Silent(), Answers()

    monkeypatch.setattr(Worker, "_start", start)
    monkeypatch.setattr(Worker, "about", lambda self: {"lacking": {}, "compiled_here": ["slow"]})
    monkeypatch.setattr(Worker, "close", lambda self: None)
    asked = Worker("cuda", device="cuda", seconds=20.0)
    assert asked.ask("fast").message.endswith("no end after 20 s")
    assert asked.ask("slow").message.endswith("no end after 400 s")
    assert waits == pytest.approx([20.0, 400.0], abs=1.0)


class _Silent:
    class stdin:
        write = staticmethod(lambda text: None)
        flush = staticmethod(lambda: None)


def test_what_a_child_says_of_a_device(monkeypatch):
    """On a CUDA device that is made up."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Some GPU")
    monkeypatch.setattr(_kernels, "CUDA_OPS", frozenset({"uniform"}))
    monkeypatch.setattr(jit, "available", lambda op: op == "score_tokens")
    with FakeTensorMode():
        about = child.about("cuda:0", ["uniform", "score_tokens", "remask_step"])
    assert about == {
        "device": "cuda:0, Some GPU, sm_90",
        "lacking": {"uniform": None, "score_tokens": None, "remask_step": "this build has no CUDA kernel for it"},
        "compiled_here": ["score_tokens"],
    }


def test_lines_name_the_instruction_sets_that_differ():
    def outcome(where, status, message=""):
        return Outcome("uniform", where, status, 3, int(bool(message)), message, 0.25)

    found = [outcome("avx512", "ok"), outcome("avx2", "FAILED", "a case: wrong"), outcome("generic", "ok")]
    assert list(check.lines(found)) == [
        "uniform                  ok         3 cases on avx512, generic, 0.5 s",
        "uniform                  FAILED     on avx2: a case: wrong",
    ]


def test_findings_as_json(faulty, monkeypatch, capsys):
    right = [Outcome("uniform", "generic", "ok", 3)]
    monkeypatch.setattr(check, "check_device", lambda device, isas, say: right)
    assert cli.main(["doctor", "--check", "--device", "cpu", "--json"]) == 0
    (entry,) = json.loads(capsys.readouterr().out)["check"]
    assert (entry["family"], entry["status"], entry["cases"]) == ("uniform", "ok", 3)


def spoilt(value: torch.Tensor) -> torch.Tensor:
    """A copy in which the last finite number is another, or an infinity is none."""
    wrong = value.clone(memory_format=torch.contiguous_format)
    flat = wrong.view(-1)
    finite = flat.isfinite().nonzero()
    if len(finite) == 0:
        return wrong.zero_()
    place = int(finite[-1])
    if value.dtype == torch.bool:
        flat[place] = ~flat[place]
    elif value.is_floating_point():
        flat[place] += 0.1 + 0.1 * float(value.nan_to_num(0, 0, 0).abs().max())
    else:
        flat[place] += 1
    return wrong


@pytest.mark.parametrize("case", [case for cases in FAMILIES.values() for case in cases], ids=str)
def test_one_wrong_number_is_seen(case: Case):
    """In every result of every case, gradients among them."""
    arguments = case.make(0)
    results = run(case, arguments)
    case.check(results, arguments)
    for name, value in results.items():
        if value.numel() == 0 or bool(value.isnan().all()):
            continue
        with pytest.raises(Mismatch):
            case.check({**results, name: spoilt(value)}, arguments)


@pytest.mark.parametrize(
    ("got", "expected", "options", "sentence"),
    [
        ([1.0, 2.0], [1.0, 2.5], {"atol": 0.1}, "x[1]: got 2, expected 2.5, tolerance 1.0e-01 (1 of 2 differ)"),
        ([1.0, np.nan], [1.0, 2.0], {"atol": 9.0}, "x[1]: got nan, expected 2, tolerance 9.0e+00 (1 of 2 differ)"),
        ([np.inf], [-np.inf], {"rtol": 1.0}, "x[0]: got inf, expected -inf"),
        ([1.0, 7.0], [1.0, np.inf], {"rtol": 1.0}, "x[1]: got 7, expected inf"),
        ([1, 2, 3], [1, 5, 4], {}, "x[1]: got 2, expected 5 (2 of 3 differ)"),
        ([2**62], [2**62 + 1], {}, f"x[0]: got {2**62}, expected {2**62 + 1} (1 of 1 differ)"),
        ([True, False], [False, False], {}, "x[0]: got True, expected False (1 of 2 differ)"),
        ([1.0], [1.0, 2.0], {"atol": 9.0}, "x: got shape [1], expected [2]"),
    ],
)
def test_differences_are_sentences(got, expected, options, sentence):
    with pytest.raises(Mismatch) as raised:
        expect_near("x", torch.tensor(got), np.array(expected), **options)
    assert str(raised.value).startswith(sentence)


def test_what_agrees_passes():
    expect_near("x", torch.tensor([1.0, np.nan, np.inf, -np.inf]), np.array([1.1, np.nan, np.inf, -np.inf]), atol=0.2)
    expect_near("x", torch.tensor([1, 2, 3]), np.array([1, 2, 4]), most=1)
    expect_near("x", torch.zeros(0, 3), np.zeros((0, 3)))


def launched_by(kernel: str, case: Case) -> bool:
    """Whether a case makes a launcher of csrc/cuda ask for this kernel."""
    op = {"attention_backward": "bidirectional_attention"}.get(kernel[:18], case.op)
    if case.op != op or not kernel.startswith((case.op, "attention_backward")):
        return False
    arguments = case.make(0)
    tensor = next(iter(arguments.values()))
    if re.search(r"_(float32|bfloat16|float16)", kernel) and str(tensor.dtype).removeprefix("torch.") not in (
        re.findall(r"bfloat16|float16|float32", kernel)
    ):
        return False
    if case.op == "score_tokens":
        in_pieces = tensor.shape[-1] > 4096  # and few rows
        guided = "uncond_logits" in arguments
        return ("_rows_" not in kernel) == in_pieces and ("conclude" in kernel or ("guided" in kernel) == guided)
    if case.op == "bidirectional_attention":
        width = int(kernel.rsplit("_", 1)[1]) if kernel[-1].isdigit() else None
        backward = not kernel.startswith("attention_backward") or bool(case.gradients)
        return tensor.dtype != torch.float32 and backward and tensor.shape[-1] == width
    if kernel == "score_hidden_gather":
        return "row_index" in arguments
    if kernel == "linear_cross_entropy_kept":
        return "smoothed" in case.name
    return True


def test_every_cuda_kernel_is_asked():
    names = {
        name
        for header in (ROOT / "csrc" / "cuda").glob("*.h")
        for name in re.findall(r'"([a-z]+_[a-z0-9_]+)"', header.read_text())
        if name.startswith((*FAMILIES, "attention_backward"))
    }
    assert len(names) > 60
    cases = [case for family in FAMILIES.values() for case in family if "cuda" in case.devices]
    assert [name for name in sorted(names) if not any(launched_by(name, case) for case in cases)] == []
    without = [case for case in cases if "guidance of" not in case.name]  # the check itself can fail
    assert not any(launched_by("score_tokens_scan_guided_float16", case) for case in without)
