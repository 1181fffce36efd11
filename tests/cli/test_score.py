"""Quality per token: by a head, hidden, or seen, each what its definition says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tiny
import torch

from mdmcorrect.cli import main

TEXT = "abca"


def by_hand(hidden: bool) -> list[float]:
    ids = torch.tensor(tiny.Tokenizer().encode(TEXT))
    found = []
    for place in range(len(ids)):
        tokens = ids.clone()
        if hidden:
            tokens[place] = tiny.MASK
        logits = tiny.model(tokens[None]).logits[0, place]
        logits[tiny.MASK] = -torch.inf
        found.append(logits.softmax(-1)[ids[place]].item())
    return found


@pytest.mark.parametrize("by", ["hidden", "seen"])
@pytest.mark.parametrize("batch", ["1", "3"])
def test_probabilities(by: str, batch: str, tmp_path: Path) -> None:
    texts, out = tmp_path / "texts.jsonl", tmp_path / "out.jsonl"
    texts.write_text(json.dumps({"text": TEXT, "id": 7}) + "\n")
    command = ["score", "tiny:pair", "--texts", str(texts), "--by", by, "--batch-size", batch, "--out", str(out)]
    assert main(command) == 0
    entry = json.loads(out.read_text())
    assert entry["by"] == by
    assert entry["id"] == 7
    assert entry["pieces"] == list(TEXT)
    assert entry["quality"] == pytest.approx(by_hand(by == "hidden"), abs=2e-6)
    assert entry["mean"] == pytest.approx(sum(entry["quality"]) / 4, abs=1e-6)


def test_the_head_comes_first_and_masks_have_no_quality(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    texts = tmp_path / "texts.jsonl"
    texts.write_text(json.dumps({"tokens": [0, tiny.MASK, 2]}) + "\n")
    assert main(["score", "tiny:pair", "--texts", str(texts)]) == 0
    entry = json.loads(capsys.readouterr().out)
    expected = tiny.model(torch.tensor([[0, tiny.MASK, 2]])).quality[0].tolist()
    assert entry["by"] == "head"
    assert entry["quality"] == [pytest.approx(expected[0], abs=1e-6), None, pytest.approx(expected[2], abs=1e-6)]


def test_a_table_for_people_and_words_for_what_is_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["score", "tiny:blind", "--text", TEXT, "--text", "b"]) == 0
    shown = capsys.readouterr().out
    assert shown.count("quality by hidden") == 2
    assert f"    1  {by_hand(True)[1]:.4f}" in shown
    assert main(["score", "tiny:blind", "--text", TEXT, "--by", "head"]) == 2
    assert "--quality-head" in capsys.readouterr().err
    assert main(["score", "tiny:blind"]) == 2


def test_a_scored_file_is_gone_on_with(tmp_path: Path) -> None:
    texts, out = tmp_path / "texts.jsonl", tmp_path / "out.jsonl"
    texts.write_text('"ab"\n"cd"\n"ef"\n')
    command = ["score", "tiny:blind", "--texts", str(texts), "--out", str(out)]
    assert main(command) == 0
    whole = out.read_bytes()
    first = whole.splitlines(keepends=True)[0]
    out.write_bytes(first + b'{"index": 1')
    assert main(command) == 0
    assert out.read_bytes() == whole
    assert main([*command, "--by", "seen"]) == 2
