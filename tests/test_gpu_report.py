"""`make gpu` without a GPU: the report of the CPU, and what becomes of one when tests fail, die, hang or are ended."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from gpu_report import __main__ as program
from gpu_report import results as written
from gpu_report import running, steps
from gpu_report.results import Entry, Results
from gpu_report.rows import ROWS, node_ids
from gpu_report.running import Budget, run

from mdmcorrect.selfcheck.families import FAMILIES

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def results(tmp_path) -> Results:
    return Results(tmp_path / "gpu-report", "cpu")


def collected(*arguments: str) -> list[str]:
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return [line for line in done.stdout.splitlines() if "::" in line]


@pytest.mark.slow
def test_the_report_of_this_processor(tmp_path):
    """From the command line to the files: the check on every instruction set, a family of tests, a benchmark."""
    out = tmp_path / "report"
    command = [sys.executable, "-m", "gpu_report", "--device", "cpu", "--only", "remask_step", "--out", str(out)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "tools"), str(ROOT)])}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((out / "results.json").read_text())
    verdicts = {(entry["part"], entry["name"].split(" on ")[0]): entry["status"] for entry in found["entries"]}
    assert verdicts == {
        **{("check", family): "ok" for family in FAMILIES},
        ("tests", "remask_step"): "ok",
        ("benchmarks", "remask_step"): "ok",
        ("sanitizer", "all"): "skipped",
    }
    (row,) = found["rows"]
    assert row["case"] == "remask_step[16x1024]"
    assert {"eager torch", "torch.compile"} == set(row["speedup_over"])
    report = (out / "report.md").read_text()
    assert report.startswith("# mdmcorrect on cpu\n\n**Everything that ran passed.** 1 step was skipped, see below.")
    assert "| remask_step[16x1024] | " in report
    assert re.search(r"\| remask_step \| ok \| \(\d+ passed\) \|", report)
    assert "Everything that ran passed." in done.stdout


# What a family of tests can do to its process.
TESTS = {
    "right": "def test_a(): pass\ndef test_b(): pass\n",
    "wrong": "def test_a(): pass\ndef test_b(): assert 1 + 1 == 3, 'arithmetic'\ndef test_c(): assert 0\n",
    "killed": "import os, signal\ndef test_a(): pass\ndef test_b(): os.kill(os.getpid(), signal.SIGSEGV)\n"
    "def test_c(): pass\n",
    "hangs": "import time\ndef test_a(): pass\ndef test_b(): time.sleep(600)\ndef test_c(): pass\n",
    "skipped": "import pytest\ndef test_a(): pytest.skip('needs a moon')\n",
    "broken": "import no_such_package\ndef test_a(): pass\n",
    "empty": "",
    "dead": """
import sys
from types import SimpleNamespace
def synchronize(): raise RuntimeError("CUDA error: an illegal memory access was encountered")
sys.modules["torch"] = SimpleNamespace(cuda=SimpleNamespace(is_initialized=lambda: True, synchronize=synchronize))
def test_a(): pass
def test_b(): assert False, "CUDA error"
def test_c(): pass
def test_d(): pass
""",
}


def family(name: str, folder: Path, seconds: float = 60.0) -> steps.Step:
    file = folder / f"test_{name}.py"
    file.write_text(TESTS[name])
    return steps.pytest_step("tests", name, [f"--rootdir={folder}", "-c", "/dev/null", str(file)], seconds, folder)


@pytest.mark.parametrize(
    ("name", "status", "message"),
    [
        ("right", "ok", " (2 passed)"),
        (
            "wrong",
            "FAILED",
            "test_wrong.py::test_b: AssertionError: arithmetic assert (1 + 1) == 3 (1 passed, 2 failed)",
        ),
        ("killed", "crashed", "test_killed.py::test_b: ended by SIGSEGV (1 passed, 1 not run)"),
        ("skipped", "skipped", "needs a moon (1 skipped)"),
        ("broken", "FAILED", "pytest ended with status 2: "),
        ("empty", "skipped", "there is no such test"),
        (
            "dead",
            "FAILED",
            "test_dead.py::test_b: AssertionError: CUDA error assert False (1 passed, 1 failed, 2 not run)",
        ),
    ],
)
def test_what_becomes_of_a_family(results, tmp_path, name, status, message):
    program.take(family(name, tmp_path), results, Budget(600), lambda line: None)
    (entry,) = results.entries
    assert entry.status == status
    assert entry.message.startswith(message)
    assert entry.message == message or name == "broken"


def test_a_family_that_hangs_is_ended(results, tmp_path):
    program.take(family("hangs", tmp_path, seconds=5.0), results, Budget(600), lambda line: None)
    (entry,) = results.entries
    assert (entry.status, entry.message) == (
        "timed out",
        "test_hangs.py::test_b: no end after 5 s (1 passed, 1 not run)",
    )


def test_others_go_on_and_the_first_failure_is_named(results, tmp_path):
    said: list[str] = []
    todo = [family(name, tmp_path) for name in ("right", "killed", "wrong", "skipped")]
    program.take_all(todo, results, Budget(600), said.append)
    assert [entry.status for entry in results.entries] == ["ok", "crashed", "FAILED", "skipped"]
    first = "The first: tests, killed, crashed: test_killed.py::test_b: ended by SIGSEGV"
    assert results.verdict().startswith(f"**2 of 4 steps did not pass.** {first}")
    report = (results.folder / "report.md").read_text()
    assert first in report
    assert "| killed | **crashed** |" in report
    assert re.match(r"tests +killed +crashed: +test_killed.py::test_b: ended by SIGSEGV", said[1])


def test_when_the_time_is_up_nothing_more_is_begun(results, tmp_path):
    program.take(family("right", tmp_path), results, Budget(0.0), lambda line: None)
    assert [(entry.status, entry.message) for entry in results.entries] == [("skipped", "the time was up")]
    assert results.verdict() == "**Nothing was found out.**"


def answered(part: str, name: str, effect=lambda: None) -> steps.Step:
    def read(ended, results):
        effect()
        results.add(Entry(part, name, "ok"))

    return steps.Step(part, name, [sys.executable, "-c", "pass"], 60.0, read)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_leaves_a_report(tmp_path, monkeypatch, number):
    def stop():
        os.kill(os.getpid(), number)
        time.sleep(10)

    kept, interrupt = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job starts with it ignored
    todo = [answered("check", "uniform"), answered("tests", "uniform", stop), answered("tests", "never")]
    monkeypatch.setattr(program, "steps", lambda results, only: todo)
    try:
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            program.main(["--out", str(tmp_path / "out")])
    finally:
        signal.signal(signal.SIGTERM, kept)
        signal.signal(signal.SIGINT, interrupt)
    found = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [entry["name"] for entry in found["entries"]] == ["uniform"]
    assert found["ended"].startswith("interrupted, with the steps that had ended by then")
    assert "Ended: interrupted" in (tmp_path / "out" / "report.md").read_text()


def test_a_report_is_there_while_it_runs(results):
    """So that kill -9 leaves one as well."""
    results.add(Entry("check", "uniform", "ok"))
    assert json.loads((results.folder / "results.json").read_text())["entries"][0]["name"] == "uniform"
    assert "Ended: not yet: this report was written while it ran." in (results.folder / "report.md").read_text()


def test_a_command_ends_with_what_it_started(tmp_path):
    code = "import subprocess, sys, time; print(subprocess.Popen(['sleep', '600']).pid, flush=True); time.sleep(600)"
    ended = run([sys.executable, "-c", code], seconds=3.0, log=tmp_path / "log")
    assert ended.status is None
    pid = int(ended.log.read_text())
    for _ in range(100):
        if not Path(f"/proc/{pid}").exists() or Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z":
            return
        time.sleep(0.05)
    raise AssertionError(f"process {pid} is still there")


def test_a_build_that_fails_is_the_report(tmp_path, monkeypatch):
    monkeypatch.setattr(program, "steps", lambda results, only: pytest.fail("an older library would be asked"))
    log = "print('[3/9] nvcc'); print('x.cu(7): error: no such thing'); print('ninja: build stopped'); exit(2)"
    command = f'{sys.executable} -c "{log}"'
    assert program.main(["--device", "cpu", "--out", str(tmp_path), "--build", command]) == 1
    report = (tmp_path / "report.md").read_text()
    assert "The first: build, library, FAILED: x.cu(7): error: no such thing" in report


def test_a_folder_of_something_else_is_left_alone(tmp_path, capsys):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(SystemExit):
        program.main(["--device", "cpu", "--out", str(tmp_path)])
    assert "thesis.tex" in capsys.readouterr().err
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def doctor(tmp_path: Path, results: Results, said: str, status: int = 0) -> None:
    log = tmp_path / "doctor.log"
    log.write_text(said)
    steps.check("cuda").read(running.Ended(status, 12.0, log), results)


def test_what_doctor_says(tmp_path):
    results = Results(tmp_path, "cuda")
    outcome = {
        "family": "uniform",
        "where": "cuda",
        "status": "ok",
        "cases": 3,
        "failed": 0,
        "message": "",
        "seconds": 1,
    }
    wrong = {**outcome, "family": "score_tokens", "status": "FAILED", "failed": 2, "message": "draw: token[0]: got 1"}
    found = {"usable": True, "facts": {"CUDA device": "Some GPU, sm_90"}, "advice": [], "check": [outcome, wrong]}
    doctor(tmp_path, results, "a warning\n" + json.dumps(found, indent=2))
    assert [(entry.name, entry.status, entry.message) for entry in results.entries] == [
        ("uniform", "ok", "3 cases"),
        ("score_tokens", "FAILED", "draw: token[0]: got 1; 2 of 3 cases failed"),
    ]
    assert results.markdown().startswith("# mdmcorrect on Some GPU, sm_90\n")


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (
            "mdmcorrect doctor: --device: cuda was asked for, but torch finds no CUDA devices\n",
            "torch finds no CUDA dev",
        ),
        (json.dumps({"usable": False, "facts": {}, "advice": ["Install torch."], "check": []}), "Install torch."),
    ],
)
def test_without_a_usable_library_nothing_more_is_asked(tmp_path, said, message):
    results = Results(tmp_path, "cuda")
    command = [sys.executable, "-c", f"print({said!r}); exit(1)"]
    first = steps.Step("check", "doctor", command, 60.0, steps.check("cuda").read)
    program.take_all([first, answered("tests", "never")], results, Budget(600), lambda line: None)
    (entry,) = results.entries
    assert (entry.name, entry.status) == ("doctor", "FAILED")
    assert message in entry.message


ROW = {
    "case": "score_tokens[a|b]",
    "device": "Some GPU",
    "seconds": 8e-5,
    "host_seconds": 3e-5,
    "waits": ["theirs"],
    "gigabytes_per_second": 3000.0,
    "gigaflops_per_second": None,
    "times_the_floor": 1.1,
    "speedup_over": {"eager": 20.0, "theirs": 5.0},
    "peak_bytes": 1e6,
    "peak_of": {},
    "beside": {},
}


def test_measurements_and_a_picture(results, monkeypatch):
    results.rows = [ROW]
    results.add(Entry("benchmarks", "score_tokens", "ok"))
    assert (
        r"| score_tokens[a\|b] | 80.0 us | 30.0 us | 3000.0 GB/s | 1.10 | 20.00 x eager, 5.00 x theirs (waits for the "
        "device) | 1.0 MB |"
    ) in (results.folder / "report.md").read_text()
    monkeypatch.setattr(written.importlib.util, "find_spec", lambda name: None)
    assert results.plot() == "matplotlib is not installed"
    assert not (results.folder / "speedups.png").exists()
    monkeypatch.undo()
    pytest.importorskip("matplotlib")
    assert results.plot() is None
    assert (results.folder / "speedups.png").stat().st_size > 1000
    results.rows = [{"case": "unlike a row", "speedup_over": {"a": None}}]
    assert "Error" in (results.plot() or "")  # which costs nobody the report


def test_without_pytest_the_check_still_runs(results, monkeypatch):
    monkeypatch.setattr(steps.importlib.util, "find_spec", lambda name: None)
    assert [step.part for step in steps.steps(results)] == ["check"]
    assert [(entry.part, entry.status) for entry in results.entries] == [
        ("tests", "skipped"),
        ("benchmarks", "skipped"),
        ("sanitizer", "skipped"),
    ]
    assert "pip install pytest" in results.entries[0].message


SANITIZER = """#!/bin/sh
echo "========= COMPUTE-SANITIZER"
case "$*" in
  *racecheck*--device*) echo "========= Error: Race reported between Write access and Read access"; exit 86;;
  *synccheck*uniform*) echo "Internal Sanitizer Error" >&2; exit 3;;
  *synccheck*) echo '{"case": "draw"}'; echo '{"failed": "token[0]: got 1, expected 2"}'; exit 1;;
esac
echo "========= ERROR SUMMARY: 0 errors"
"""


def test_sanitizers_ask_first_about_what_failed(tmp_path, monkeypatch):
    results = Results(tmp_path / "out", "cuda")
    results.add(Entry("tests", "score_tokens", "crashed"))
    binary = tmp_path / "compute-sanitizer"
    binary.write_text(SANITIZER)
    binary.chmod(binary.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    todo = list(steps.sanitizers(results, ["uniform", "score_tokens"]))
    assert [step.name for step in todo] == [
        f"{tool} {op}" for tool in ("memcheck", "racecheck", "synccheck") for op in ("score_tokens", "uniform")
    ]
    assert todo[0].command[0] == str(binary)
    assert [*todo[0].command[-5:]] == ["score_tokens", "--only", "2", "--device", "cuda"]
    program.take_all(todo, results, Budget(600), lambda line: None)
    became = {entry.name: (entry.status, entry.message) for entry in results.entries if entry.part == "sanitizer"}
    assert became["memcheck, uniform"] == ("ok", "")
    assert became["racecheck, uniform"] == ("FAILED", "Error: Race reported between Write access and Read access")
    wrong = "the sanitizer found nothing, but the results are wrong: token[0]: got 1, expected 2"
    assert became["synccheck, score_tokens"] == ("FAILED", wrong)
    assert became["synccheck, uniform"] == ("crashed", "ended with status 3: Internal Sanitizer Error")


def test_what_a_sanitizer_runs():
    """A family's first cases, without being asked for them line by line."""
    command = [sys.executable, "-m", "mdmcorrect.selfcheck.child", "uniform", "--only", "2", "--device", "cpu"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    assert done.returncode == 0, done.stderr
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert sum("passed" in answer for answer in answers) == 2
    assert answers[-1] == {"done": "uniform"}


def test_every_gpu_test_is_in_one_family():
    assert tuple(FAMILIES) == steps.OPERATORS
    tests = collected("tests/gpu", "-m", "gpu")
    assert len(tests) > 400
    files = [*steps.BY_OPERATOR, *steps.BY_FILE.values()]
    assert len(files) == len(set(files))
    assert {test.split("::")[0] for test in tests} <= set(files)
    assert steps.NVRTC in steps.BY_FILE
    for test in tests:
        file, name = test.split("::", 1)
        if file in steps.BY_OPERATOR:
            assert sum(op in name for op in steps.OPERATORS) <= 1, test
    rest = steps.tests(steps.NO_OPERATORS, "cuda", Path("/tmp")).command
    arguments = rest[rest.index("gpu_report.events") + 1 :]
    of_none = {test for test in tests if test.split("::")[0] in steps.BY_OPERATOR} - {
        test for test in tests if any(op in test.split("::", 1)[1] for op in steps.OPERATORS)
    }
    assert set(collected(*arguments)) == of_none


def test_essential_rows_exist():
    everything = set(collected("benchmarks"))
    assert [row for file in ROWS for row in node_ids(file) if row not in everything] == []


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
@pytest.mark.parametrize(("asked", "built"), [({}, "native"), ({"MDMCORRECT_CUDA_ARCHS": "90"}, "90")])
def test_make_gpu_builds_for_the_device_and_reports(tmp_path, asked, built):
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\necho "$MDMCORRECT_CUDA_ARCHS, $PYTHONPATH, $*"\n')
    python.chmod(python.stat().st_mode | stat.S_IXUSR)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MDMCORRECT", "MAKE"))}
    command = ["make", "--silent", "gpu", f"PYTHON={python}", "GPU_ARGS=--minutes 3"]
    done = subprocess.run(command, cwd=ROOT, env={**environment, **asked}, capture_output=True, text=True, check=True)
    last = done.stdout.splitlines()[-1]
    assert last == f"{built}, tools, -m gpu_report --build make build PYTHON={python} --minutes 3"


def test_without_a_device_one_sentence_is_the_report(tmp_path):
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a device")
    command = [sys.executable, "-m", "gpu_report", "--out", str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "tools"), str(ROOT)])}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "torch finds no CUDA devices" in done.stdout
    assert len(json.loads((tmp_path / "results.json").read_text())["entries"]) == 1
