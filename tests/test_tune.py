"""`mdmcorrect tune`: what it makes of measurements, what it keeps, and who uses that."""

from __future__ import annotations

import json
import logging
import math
import os
import subprocess
import sys

import pytest
import torch

from mdmcorrect import _native, _tuned, cli, ops
from mdmcorrect.cli import tune

INFO = _native.build_info()
DEFAULT = {"attention": "wide", "loss": "wide"}


def case(ours: float, torch: float) -> dict[str, float]:
    return {"ours": ours, "torch": torch}


@pytest.fixture
def cache(monkeypatch, tmp_path):
    """An empty cache folder, and nothing read yet."""
    monkeypatch.setenv("MDMCORRECT_CACHE", str(tmp_path))
    monkeypatch.delenv("MDMCORRECT_TUNE", raising=False)
    caches = (_tuned._read_once, _tuned.dense_attention)
    for each in caches:
        each.cache_clear()
    yield tmp_path
    for each in caches:
        each.cache_clear()


def kept(**changes) -> _tuned.Tuned:
    fields = {"machine": _tuned.machine("cpu"), "attention": {"float32 64": "sdpa"}, "isas": {"loss": "generic"}}
    return _tuned.Tuned(**{**fields, "seconds": {"a case": case(1.0, 2.0)}, **changes})


def test_a_clearly_faster_instruction_set_is_taken():
    found = {
        "wide": {"attention, float32 64, [1]": case(1.0, 2.0), "loss, float32, [1]": case(1.0, 9.0)},
        "narrow": {"attention, float32 64, [1]": case(0.97, 2.0), "loss, float32, [1]": case(0.5, 9.0)},
    }
    tuned = tune.decide({}, found, DEFAULT)
    assert tuned.isas == {"attention": "wide", "loss": "narrow"}
    assert tuned.attention == {"float32 64": "mdmcorrect"}
    assert tuned.seconds["narrow: loss, float32, [1]"] == case(0.5, 9.0)


def test_an_instruction_set_that_could_not_be_measured_is_not_kept():
    found = {"narrow": {"attention, float32 64, [1]": case(1.0, 0.5), "loss, float32, [1]": case(1.0, 1.0)}}
    assert tune.decide({}, found, DEFAULT).isas == {"attention": "narrow", "loss": "narrow"}
    assert tune.decide({}, {}, DEFAULT) == _tuned.Tuned({})


@pytest.mark.parametrize(
    ("short", "long", "choice"),
    [(0.5, 0.5, "sdpa"), (0.5, 1.5, "mdmcorrect"), (1.5, 0.5, "mdmcorrect"), (0.97, 0.97, "mdmcorrect")],
)
def test_torch_attends_where_it_is_clearly_faster_in_every_shape(short, long, choice):
    found = {"": {"attention, float16 64, [1]": case(1.0, short), "attention, float16 64, [2]": case(1.0, long)}}
    assert tune.decide({}, found, {}).attention == {"float16 64": choice}


def test_what_was_written_is_read(cache):
    assert _tuned.read("cpu") is None
    path = _tuned.write(kept())
    assert path.parent == cache
    assert path.stat().st_mode & 0o077 == 0
    assert _tuned.read("cpu") == kept()
    assert list(cache.iterdir()) == [path]
    assert _tuned.forget() == [path]
    assert _tuned.read("cpu") is None


def test_nothing_is_read_where_it_is_switched_off(cache, monkeypatch):
    _tuned.write(kept())
    monkeypatch.setenv("MDMCORRECT_TUNE", "off")
    assert _tuned.read("cpu") is None


@pytest.mark.parametrize(
    "held",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[]",
        b'{"format": 0}',
        json.dumps({"format": 1, "machine": {}, "attention": {}, "isas": {}}).encode(),
        json.dumps({"format": 1, "machine": {}, "attention": {"a": 1}, "isas": {}, "seconds": {}}).encode(),
        json.dumps({"format": 1, "machine": {}, "attention": {"a": "b"}, "isas": {}, "seconds": {}}).encode(),
        json.dumps({"format": 1, "machine": {}, "attention": {}, "isas": {"rows": "avx2"}, "seconds": {}}).encode(),
    ],
    ids=range(9),
)
def test_a_damaged_file_is_passed_over_with_a_line(held, cache, caplog):
    path = _tuned.write(kept())
    path.write_bytes(held)
    with caplog.at_level(logging.WARNING, "mdmcorrect._tuned"):
        assert _tuned.read("cpu") is None
    assert len(caplog.records) == 1
    assert "is not used" in caplog.text


@pytest.mark.parametrize("name", ["name", "torch", "mdmcorrect", "kind"])
def test_another_machines_file_is_passed_over_with_a_line(name, cache, caplog):
    path = _tuned.write(kept())
    held = json.loads(path.read_bytes())
    held["machine"][name] = "another"
    path.write_text(json.dumps(held))
    with caplog.at_level(logging.WARNING, "mdmcorrect._tuned"):
        assert _tuned.read("cpu") is None
    assert f"{name} another" in caplog.text


def test_a_file_that_others_may_write_is_passed_over(cache, caplog):
    _tuned.write(kept()).chmod(0o666)
    with caplog.at_level(logging.WARNING, "mdmcorrect._tuned"):
        assert _tuned.read("cpu") is None
    assert "others may write" in caplog.text


def test_attention_follows_what_was_measured(cache, monkeypatch):
    _tuned.write(kept(attention={"float32 64": "sdpa", "float32 96": "mdmcorrect"}))
    chosen = {width: ops.attention_backend(*[torch.zeros(1, 2, 5, width)] * 3) for width in (64, 96, 128)}
    assert {width: bool(choice.dense) for width, choice in chosen.items()} == {64: True, 96: False, 128: False}
    assert "mdmcorrect tune found torch's attention ahead" in chosen[64].dense
    assert not ops.attention_backend(*[torch.zeros(1, 2, 5, 64)] * 3, batch_invariant=True).dense


def choices_of_a_new_process(cache, **environment) -> dict[str, dict[str, object]]:
    code = "import json; from mdmcorrect import _native; print(json.dumps(_native.build_info()['isa_choices']))"
    variables = {name: value for name, value in os.environ.items() if name not in ("MDMCORRECT_TUNE", "MDMCORRECT_ISA")}
    variables.update(MDMCORRECT_CACHE=str(cache), **environment)
    done = subprocess.run([sys.executable, "-c", code], env=variables, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_kernels_follow_what_was_measured_but_for_scoring_and_draws(cache):
    before = choices_of_a_new_process(cache)
    _tuned.write(kept(isas={"attention": "generic", "loss": "generic"}))
    after = choices_of_a_new_process(cache)
    products = {"bidirectional_attention", "bidirectional_attention_backward", "linear_cross_entropy"}
    for op, choice in after.items():
        expected = {"isa": "generic", "measured": True, "why": "mdmcorrect tune"} if op in products else before[op]
        assert choice == expected
    forced = choices_of_a_new_process(cache, MDMCORRECT_ISA=INFO["isas_supported"][0])
    assert {choice["why"] for choice in forced.values()} == {"MDMCORRECT_ISA"}
    _tuned.write(kept(isas={"attention": "none of this machine's"}))
    assert choices_of_a_new_process(cache) == before


def test_scoring_takes_no_preference_and_nothing_does_once_chosen():
    for group in ("rows", "hidden", "everything"):
        with pytest.raises(RuntimeError, match=f"group: expected attention or loss, got {group}"):
            torch.ops.mdmcorrect.prefer_isa(group, "generic")
    assert not torch.ops.mdmcorrect.prefer_isa("attention", "generic")
    assert _native.build_info.__wrapped__()["isa_choices"] == INFO["isa_choices"]


def test_times_are_taken_in_turns(monkeypatch):
    monkeypatch.setattr(tune, "CASE_SECONDS", 0.0)
    order: list[str] = []
    first, second = tune.best_times(lambda: order.append("ours"), lambda: order.append("torch"))
    assert order == ["ours", "torch"] * 6
    assert 0 <= first < math.inf
    assert 0 <= second < math.inf


def test_every_case_is_measured(monkeypatch):
    monkeypatch.setattr(tune, "CASE_SECONDS", 0.0)
    monkeypatch.setattr(tune, "SHAPES", {"cpu": ((1, 1, 8),)})
    monkeypatch.setattr(tune, "LOSS", (4, 16, 32))
    measured = tune.measure("cpu")
    assert len(measured) == len(tune.DTYPES["cpu"]) * (len(tune.WIDTHS) + 1)
    assert all(time > 0 for seconds in measured.values() for time in seconds.values())
    assert set(tune.decide({}, {"wide": measured}, DEFAULT).attention) == {
        f"{dtype} {width}" for dtype in tune.DTYPES["cpu"] for width in tune.WIDTHS
    }


def test_the_command_keeps_shows_and_forgets(cache, monkeypatch, capsys):
    asked = []

    def pretend(kind, isa, seconds):
        asked.append(isa)
        if isa == "avx2":
            return None  # a process that failed
        return {"attention, float32 64, [1]": case(1.0, 0.5), "loss, float32, [1]": case(1.0, 2.0)}

    monkeypatch.setattr(tune, "measure_apart", pretend)
    assert cli.main(["tune", "--device", "cpu"]) == 0
    printed = capsys.readouterr().out
    assert "attention without masking, float32 64: torch" in printed
    assert "faster by 5% or more" in printed
    assert asked[0] == INFO["isa_choices"]["bidirectional_attention"]["isa"]
    assert set(asked) == set(INFO["isas_supported"]) - {"generic"} or asked == ["generic"]
    assert cli.main(["doctor"]) == 0
    assert "attention without masking by torch for float32 64 wide" in capsys.readouterr().out
    assert cli.main(["tune", "--forget"]) == 0
    assert list(cache.iterdir()) == []


def test_a_process_that_fails_is_told_and_left_out(monkeypatch, capsys):
    monkeypatch.setattr(tune.sys, "executable", "/bin/false")
    assert tune.measure_apart("cpu", "generic", 5.0) is None
    assert "cpu generic could not be measured" in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a device")
def test_no_device():
    with pytest.raises(SystemExit, match="--device: expected a CUDA device"):
        cli.main(["tune", "--device", "cuda"])
