"""Ctrl-C loses nothing, and ends a loop that is told to let it."""

import os
import signal
import subprocess
import sys

import pytest
import torch
from combinations import MASK, PRESETS, canvas
from toys import Toy

from mdmcorrect import cli
from mdmcorrect.examples.sudoku.puzzles import Geometry, generate
from mdmcorrect.examples.sudoku.solve import solve
from mdmcorrect.samplers import MDLM, Interrupted, LLaDA, Sampler, progress
from mdmcorrect.samplers import engine as engine_module
from mdmcorrect.samplers.part_steps import PartSteps


def interrupted(preset=None, **options):
    preset = preset or LLaDA(steps=6)
    return preset(Toy(), canvas(), mask_id=MASK, seed=1, **options)


def goes_on(result, preset=None):
    preset = preset or LLaDA(steps=6)
    rest = preset(Toy(), mask_id=MASK, state=result.state)
    assert torch.equal(rest.tokens, preset(Toy(), canvas(), mask_id=MASK, seed=1).tokens)


def test_an_interrupted_run_is_returned_and_says_so(caplog):
    model = Toy()
    model.fail_at = 3
    result = LLaDA(steps=6)(model, canvas(), mask_id=MASK, seed=1)
    assert result.stopped == "interrupted"
    assert result.steps.tolist() == [2] * 4
    assert 'LLaDA: interrupted; returns what there is, and result.stopped is "interrupted"' in caplog.text
    goes_on(result)


@pytest.mark.parametrize(
    "preset", [LLaDA(steps=6), MDLM(steps=6), PRESETS["proseco"]], ids=["llada", "mdlm", "proseco"]
)
def test_or_raised_with_the_run_in_it(preset):
    model = Toy()
    model.fail_at = 3
    with pytest.raises(KeyboardInterrupt) as caught:
        preset(model, canvas(), mask_id=MASK, seed=1, on_interrupt="raise", history=True)
    assert isinstance(caught.value, Interrupted)
    result = caught.value.result
    assert result.stopped == "interrupted"
    assert len(result.history) == result.steps.max()
    goes_on(result, preset)


def test_a_loop_over_batches_ends():
    """The one call that is interrupted raises: no other batch is begun."""
    begun, results = [], []

    def loop():
        for batch in range(5):
            begun.append(batch)
            model = Toy()
            model.fail_at = 2 if batch == 1 else None
            results.append(LLaDA(steps=4)(model, canvas(), mask_id=MASK, on_interrupt="raise"))

    with pytest.raises(KeyboardInterrupt):
        loop()
    assert begun == [0, 1]
    assert [result.stopped for result in results] == ["finished"]


def test_on_interrupt_is_one_of_two():
    with pytest.raises(ValueError, match="on_interrupt: expected 'return' or 'raise', got 'ignore'"):
        interrupted(on_interrupt="ignore")


def raises(*_, **__):
    raise KeyboardInterrupt


def test_in_the_callback():
    result = interrupted(callback=lambda event: raises() if event.index == 2 else None, history=True)
    assert result.stopped == "interrupted"
    assert result.steps.tolist() == [3] * 4
    assert len(result.history) == 3
    goes_on(result)


def test_in_what_the_caller_gave():
    calls = []

    def third(*_):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return torch.zeros(4, dtype=torch.bool)

    goes_on(interrupted(stop=third))
    calls.clear()

    def tokens_processor(tokens, logits):
        third()
        return tokens

    result = interrupted(tokens_processor=tokens_processor)
    assert result.steps.tolist() == [2] * 4
    goes_on(result)


def test_before_the_first_step():
    result = interrupted(stop=raises)
    assert result.stopped == "interrupted"
    assert torch.equal(result.tokens, canvas())
    goes_on(result)


def test_while_the_bar_is_taken_down(monkeypatch):
    pytest.importorskip("rich")
    monkeypatch.setattr("rich.progress.Progress.stop", raises)
    result = interrupted(progress=True)
    assert result.stopped == "interrupted"
    assert result.complete(MASK).all()


def test_while_it_finishes(monkeypatch):
    """In the step that fills what is left: the run is that of the step before."""
    sampler = Sampler(steps=2, scoring=MDLM(steps=2).parts().scoring, plan=MDLM(steps=2).parts().plan)
    with monkeypatch.context() as patch:
        patch.setattr(PartSteps, "_fill", raises)
        patch.setattr(engine_module, "plan_of", lambda engine: None)
        result = sampler(Toy(), torch.full((3, 40), MASK), mask_id=MASK, seed=1)
    if result.stopped == "interrupted":
        rest = sampler(Toy(), mask_id=MASK, state=result.state)
        assert torch.equal(rest.tokens, sampler(Toy(), torch.full((3, 40), MASK), mask_id=MASK, seed=1).tokens)


LOOP = """
import signal, sys, time
import torch
from mdmcorrect.samplers import LLaDA

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job starts with the signal ignored

def model(tokens):
    print("forward", flush=True)
    time.sleep(0.2)
    return torch.zeros(*tokens.shape, 8)

stopped = []
try:
    for batch in range(3):
        result = LLaDA(steps=4)(model, torch.full((1, 4), 7), mask_id=7{options})
        stopped.append(result.stopped)
        {check}
except KeyboardInterrupt as error:
    stopped.append("raised " + error.result.stopped)
print("batches", stopped, flush=True)
"""


@pytest.mark.parametrize(
    ("options", "check", "expected"),
    [
        (', on_interrupt="raise"', "", "batches ['raised interrupted']"),
        ("", "if result.stopped == 'interrupted': break", "batches ['interrupted']"),
        ("", "", "batches ['interrupted', 'finished', 'finished']"),
    ],
    ids=["raise", "look", "neither"],
)
def test_a_real_signal(options, check, expected):
    code = LOOP.format(options=options, check=check)
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    for line in process.stdout:
        if line.startswith("forward"):
            os.kill(process.pid, signal.SIGINT)
            break
    rest, errors = process.communicate(timeout=120)
    assert expected in rest, (rest, errors)
    assert process.returncode == 0


def test_the_command_line_ends_with_one_line(monkeypatch, capsys):
    monkeypatch.setattr("mdmcorrect.cli.doctor.run", raises)
    assert cli.main(["doctor"]) == 130
    assert capsys.readouterr().err == "mdmcorrect doctor: interrupted\n"


def test_the_sudoku_loop_ends_at_the_batch_it_is_in():
    puzzles = generate(Geometry(2, 3), clues=20, count=4, split="test", seed=0)
    calls = []

    def model(tokens, condition):
        calls.append(len(tokens))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return torch.zeros(*tokens.shape, 7)

    with pytest.raises(Interrupted):
        solve(model, puzzles, LLaDA(steps=4), batch=2)
    assert calls == [2, 2]


def test_progress_of_a_run_whose_length_nobody_knows():
    pytest.importorskip("rich")
    with progress.progress_bar(True, None, "run") as advance:
        advance()
