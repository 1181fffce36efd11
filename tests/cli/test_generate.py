"""Prompts in, completions out: the same as by Python, in any batch, and after a kill none is lost or comes twice."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch

from mdmcorrect import replay
from mdmcorrect.canvas import Canvas
from mdmcorrect.cli import main
from mdmcorrect.cli._presets import preset_of, preset_types
from mdmcorrect.cli._told import UserError
from mdmcorrect.samplers import PRISM, LLaDA

HERE = Path(__file__).parent
PRISMS = ["--preset", "prism", "--steps", "6", "--set", "remask_count=1", "--set", "temperature=1.0"]
PROMPTS = ["abc", "de", "a b c d", "p", "op"]


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps({"prompt": text, "id": f"q{n}"}) + "\n" for n, text in enumerate(PROMPTS)))
    return path


def generate(prompts: Path, out: Path, *more: str) -> int:
    return main(["generate", "tiny:pair", "--prompts", str(prompts), "--out", str(out), "--new-tokens", "8", *more])


def test_answers_are_those_of_the_sampler(prompts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.jsonl"
    assert generate(prompts, out, *PRISMS, "--seed", "5") == 0
    found = lines(out)
    assert [entry["index"] for entry in found] == list(range(5))
    assert [entry["id"] for entry in found] == [f"q{n}" for n in range(5)]
    tokenizer, sampler = tiny.Tokenizer(), PRISM(steps=6, remask_count=1, temperature=1.0)
    for entry, text in zip(found, PROMPTS, strict=True):
        canvas = Canvas.from_prompts([tokenizer.encode(text)], new_tokens=8, mask_id=tiny.MASK)
        seed = torch.tensor([(5 << 32) + entry["index"]])
        result = sampler(tiny.model, canvas.tokens, mask_id=tiny.MASK, eos_id=tiny.EOS, seed=seed)
        assert entry["tokens"] == canvas.completions(result.tokens, tiny.EOS)[0].tolist()
        assert entry["completion"] == tokenizer.decode(entry["tokens"])
        assert entry["nfe"] == int(result.nfe)
        assert entry["prompt"] == text
    assert "5 of 5 prompts" in capsys.readouterr().err


def test_batches_change_nothing(prompts: Path, tmp_path: Path) -> None:
    one, three = tmp_path / "one.jsonl", tmp_path / "three.jsonl"
    assert generate(prompts, one, *PRISMS, "--quiet") == 0
    assert generate(prompts, three, *PRISMS, "--quiet", "--batch-size", "3") == 0
    assert [entry["tokens"] for entry in lines(one)] == [entry["tokens"] for entry in lines(three)]


def test_a_file_cut_anywhere_is_completed(prompts: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    assert generate(prompts, out, *PRISMS, "--quiet") == 0
    whole = out.read_bytes()
    ends = [n for n, byte in enumerate(whole) if byte == ord("\n")]
    for cut in sorted({0, 1, *range(0, len(whole), 97), *ends, *(end + 1 for end in ends)}):
        out.write_bytes(whole[:cut])
        assert generate(prompts, out, *PRISMS, "--quiet", "--batch-size", "2") == 0
        assert out.read_bytes() == whole, cut


def test_a_killed_run_goes_on(prompts: Path, tmp_path: Path) -> None:
    whole, out, counter = tmp_path / "whole.jsonl", tmp_path / "out.jsonl", tmp_path / "calls"
    assert generate(prompts, whole, *PRISMS, "--quiet") == 0
    counter.write_text("20")
    command = [sys.executable, "-m", "mdmcorrect", "generate", "tiny:pair", "--prompts", str(prompts)]
    environment = {**os.environ, "TINY_DIES": str(counter)}
    environment["PYTHONPATH"] = os.pathsep.join([str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])])
    command += ["--out", str(out), "--new-tokens", "8", *PRISMS]
    killed = subprocess.run(command, env=environment, capture_output=True, check=False)
    assert killed.returncode == 9
    assert 0 < len(lines(out)) < 5
    with out.open("ab") as file:
        file.write(b'{"index": 3, "prompt": "p", "compl')  # a kill in the middle of a line
    assert generate(prompts, out, *PRISMS) == 0
    assert out.read_bytes() == whole.read_bytes()
    assert generate(prompts, out, *PRISMS) == 0  # nothing is left to do
    assert out.read_bytes() == whole.read_bytes()


def test_another_run_is_not_gone_on_with(prompts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.jsonl"
    assert generate(prompts, out, *PRISMS, "--quiet") == 0
    before = out.read_bytes()
    assert generate(prompts, out, *PRISMS, "--seed", "1") == 2
    assert "other settings" in capsys.readouterr().err
    prompts.write_text('"cba"\n' * 5)
    assert generate(prompts, out, *PRISMS) == 2
    assert "another than is given now" in capsys.readouterr().err
    assert out.read_bytes() == before
    assert generate(prompts, out, *PRISMS, "--overwrite", "--quiet") == 0
    assert [entry["prompt"] for entry in lines(out)] == ["cba"] * 5
    out.write_text("my notes\n")
    assert generate(prompts, out, *PRISMS) == 2
    assert out.read_text() == "my notes\n"


def test_two_processes_do_not_write_one_file(prompts: Path, tmp_path: Path) -> None:
    import fcntl

    out = tmp_path / "out.jsonl"
    with out.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert generate(prompts, out, *PRISMS) == 2


def test_pages_and_runs(prompts: Path, tmp_path: Path) -> None:
    pages, runs = tmp_path / "pages", tmp_path / "runs"
    more = ["--html", str(pages), "--runs", str(runs), "--batch-size", "2", "--quiet"]
    assert generate(prompts, tmp_path / "out.jsonl", *PRISMS, *more) == 0
    assert sorted(path.name for path in pages.iterdir()) == [f"{n:05d}.html" for n in range(5)]
    for entry in lines(tmp_path / "out.jsonl"):
        saved = replay.load(runs / f"{entry['index']:05d}.json")
        assert len(saved.rows) == 1
        last = list(saved.rows[0].canvases())[-1][len(entry["prompt"]) :]
        assert last[: len(entry["tokens"])] == entry["tokens"]
    assert "prompt 3" in (pages / "00003.html").read_text(encoding="utf-8")


def test_ids_masks_and_lines_on_stdout(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "ids.jsonl"
    file.write_text(json.dumps({"tokens": [0, tiny.MASK, 2, tiny.MASK]}) + "\n\n" + json.dumps("ab") + "\n")
    steps = ["--steps", "2", "--new-tokens", "0", "--no-special-tokens"]
    assert main(["generate", "tiny:pair", "--prompts", str(file), "--quiet", *steps]) == 0
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    tokens = torch.tensor([[0, tiny.MASK, 2, tiny.MASK]])
    result = LLaDA(steps=2)(tiny.model, tokens, mask_id=tiny.MASK, eos_id=tiny.EOS, seed=0)
    assert first["tokens"] == result.tokens[0, 1:].tolist()
    assert second["tokens"] == []


WRONG = {
    "preset": (["--preset", "Nothing"], "expected one of DFM"),
    "setting": (["--set", "warmth=3"], "with a setting of LLaDA: steps"),
    "value": (["--steps", "4", "--set", "temperature=-1"], "temperature"),
    "no steps": ([], "it needs steps"),
    "twice": (["--steps", "4", "--set", "steps=5"], "given twice"),
    "batch": (["--steps", "4", "--batch-size", "0"], "--batch-size"),
    "seed": (["--steps", "4", "--seed", str(1 << 31)], "--seed"),
    "device": (["--steps", "4", "--device", "abacus"], "--device abacus"),
    "overwrite": (["--steps", "4", "--overwrite"], "--overwrite"),
    "prompts": (["--steps", "4", "--prompts", "none.jsonl"], "none.jsonl"),
    "mask": (["--steps", "4", "--mask-id", "99"], "99"),
    "quality": (["--preset", "PRISM", "--steps", "4", "--set", "remask_count=1"], "quality"),
    "head": (["--steps", "4", "--head-module", "norm"], "--head-module"),
    "chat": (["--steps", "4", "--chat"], "knows no chats"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_said_in_a_line(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments, told = WRONG[name]
    assert main(["generate", "tiny:blind", "--prompt", "ab", "--quiet", *arguments]) == 2
    out, errors = capsys.readouterr()
    assert out == ""
    assert told in errors
    assert errors.count("\n") == 1


@pytest.mark.parametrize(
    ("model", "told"),
    [
        ("tiny:fails", "no weights here"),
        ("tiny:three", "3 things"),
        ("tiny:nothing", "nothing"),
        ("no_such_module:load", "no_such_module"),
        ("no/such/folder", "nothing is downloaded"),
    ],
    ids=["fails", "three", "attribute", "module", "folder"],
)
def test_wrong_models(model: str, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", model, "--prompt", "ab", "--steps", "2"]) == 2
    errors = capsys.readouterr().err
    assert told in errors
    assert errors.count("\n") == 1


@pytest.mark.parametrize("line", ["{", "3", '{"question": "a"}', '{"prompt": 3}', '{"prompt": "a", "text": "b"}'])
def test_wrong_lines_are_named(line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "wrong.jsonl"
    file.write_text(f'"ab"\n{line}\n')
    assert main(["generate", "tiny:pair", "--prompts", str(file), "--steps", "2"]) == 2
    assert "line 2" in capsys.readouterr().err


def test_presets_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["generate", "--presets"])
    assert ended.value.code == 0
    listed = capsys.readouterr().out
    assert all(f"\n{name}: " in f"\n{listed}" for name in preset_types())
    assert len(preset_types()) >= 28
    assert "remask_count=None" in listed


def test_a_folder_of_transformers_with_a_head(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("transformers", reason="needs transformers: pip install 'mdmcorrect[transformers]'")
    from transformers import BertConfig, BertForMaskedLM, BertTokenizerFast

    from mdmcorrect.heads import QualityHead, attach

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefgh"]
    folder = tmp_path / "bert"
    torch.manual_seed(0)
    config = BertConfig(vocab_size=len(words), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
                        intermediate_size=16)  # fmt: skip
    attach(BertForMaskedLM(config), QualityHead(16)).save_pretrained(folder)
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    BertTokenizerFast(vocab={word: n for n, word in enumerate(words)}).save_pretrained(folder)
    command = ["generate", str(folder), "--prompt", "a b c", "--prompt", "d", "--batch-size", "2", "--quiet"]
    capsys.readouterr()
    assert main([*command, "--no-special-tokens", "--new-tokens", "4", *PRISMS]) == 0
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [len(answer["tokens"]) for answer in answers] == [4, 4]
    assert all(4 not in answer["tokens"] for answer in answers)  # no mask is left
    assert main(["score", str(folder), "--text", "a b"]) == 0
    assert capsys.readouterr().out.startswith("quality by head, mean 0.5")  # an untrained head's


def test_stop_ends_an_answer(prompts: Path, tmp_path: Path) -> None:
    out, stopped = tmp_path / "out.jsonl", tmp_path / "stopped.jsonl"
    steps = ["--preset", "LLaDA", "--steps", "8", "--set", "block_length=1", "--quiet"]
    assert generate(prompts, out, *steps) == 0
    string = lines(out)[0]["completion"][2:4]
    assert generate(prompts, stopped, *steps, "--stop", string) == 0
    for before, after in zip(lines(out), lines(stopped), strict=True):
        assert after["completion"] == before["completion"].split(string)[0]
        assert tiny.MASK not in after["tokens"]
    assert lines(stopped)[0]["nfe"] < lines(out)[0]["nfe"]


def test_a_preset_that_was_written(prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its file or folder, with settings on the line before its own; a preset's name is no folder's."""
    from mdmcorrect.samplers import LLaDA, Preset

    folder, out, again = tmp_path / "model", tmp_path / "out.jsonl", tmp_path / "again.jsonl"
    LLaDA(steps=8, block_length=1).save_pretrained(folder)
    steps = ["--preset", "LLaDA", "--steps", "4", "--set", "block_length=1", "--quiet", "--seed", "1"]
    assert generate(prompts, out, *steps) == 0
    assert generate(prompts, again, "--preset", str(folder), "--steps", "4", "--quiet", "--seed", "1") == 0
    assert [line["tokens"] for line in lines(again)] == [line["tokens"] for line in lines(out)]
    Preset.from_pretrained(folder).save_pretrained(tmp_path / "LLaDA")
    monkeypatch.chdir(tmp_path)
    assert preset_of("LLaDA", ["block_length=2"], 3)[0] == LLaDA(steps=3, block_length=2)
    with pytest.raises(UserError, match=r"^--preset model: LLaDA: expected one of .*got 'stepz'; did you mean steps\?"):
        preset_of("model", ["stepz=2"], None)
    with pytest.raises(UserError, match=r"^--set steps=2: steps is given twice"):
        preset_of("model", ["steps=2"], 3)
    with pytest.raises(UserError, match=r"^--preset .: name: expected a folder with sampler.json"):
        preset_of(".", [], None)
