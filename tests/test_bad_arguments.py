"""What is wrong with an argument is said in one sentence: its name, what was expected, what came."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.append(str(Path(__file__).parent))
from bad_arguments import CALLS, COMMANDS

from mdmcorrect import cli

CASES = [
    pytest.param(call, name, value, id=f"{call}-{name}-{index}")
    for call, (_, _, arguments) in CALLS.items()
    for name, values in arguments.items()
    for index, value in enumerate(values)
]


def what_is_wrong_with(text: str, name: str) -> str | None:
    """Why a message is not one sentence that names the argument, what was expected and what came."""
    if "\n" in text or len(text) > 300:
        return "not one sentence"
    if name not in re.findall(r"\w+", text.split(": ")[0]):
        return f"does not begin with {name}"
    if "expected" not in text or ("got" not in text and "do not fit" not in text):
        return "does not say what was expected and what came"
    return None


@pytest.mark.parametrize("call", CALLS)
def test_what_is_right_is_taken(call: str) -> None:
    function, base, _ = CALLS[call]
    function(**{name: value.clone() if isinstance(value, torch.Tensor) else value for name, value in base.items()})


@pytest.mark.parametrize(("call", "name", "value"), CASES)
def test_each_is_answered_by_one_sentence(call: str, name: str, value: Any) -> None:
    function, base, _ = CALLS[call]
    given = {**base, name: value}
    with pytest.raises((TypeError, ValueError)) as caught:
        function(**given)
    assert what_is_wrong_with(str(caught.value), name) is None, str(caught.value)


@pytest.mark.parametrize(("name", "words"), COMMANDS.items(), ids=list(COMMANDS))
def test_each_command_line_is_answered(name: str, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(words)
    assert caught.value.code not in (0, None)
    said = capsys.readouterr().err + str(caught.value)
    assert name in said
    assert "Traceback" not in said


def test_there_are_three_hundred() -> None:
    assert len(CASES) + len(COMMANDS) >= 300


@pytest.mark.parametrize(
    "text", ["k: expected an int,\ngot 3", "q: expected an int, got 3", "k: bad value 3", "k: expected an int"]
)
def test_the_rule_refuses(text: str) -> None:
    assert what_is_wrong_with(text, "k") is not None
