"""A run is recorded as it happened, saved and loaded, kept within its bound, and shown by what can be seen."""

from __future__ import annotations

import io
import json
import re
import unicodedata
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from runs import MASK, NASTY, made, model

from mdmcorrect import replay
from mdmcorrect.cli import main
from mdmcorrect.replay.bound import as_json, bounded, thinned
from mdmcorrect.replay.tokens import reader, visible
from mdmcorrect.samplers import MDLM, P2, PRISM, LLaDA, ProSeCo, SampleResult


@pytest.fixture(scope="module")
def result() -> SampleResult:
    return made()


SAMPLERS = {
    "PRISM": PRISM(steps=8, remask_count=2, temperature=1.0),
    "MDLM": MDLM(steps=6),
    "LLaDA": LLaDA(steps=8, block_length=4),
    "ProSeCo": ProSeCo(steps=8),
    "P2": P2(steps=8),
}


@pytest.mark.parametrize("name", SAMPLERS)
def test_recording_changes_nothing_and_the_run_ends_where_the_result_does(name: str) -> None:
    recorded, plain = made(SAMPLERS[name]), made(SAMPLERS[name], history=False)
    assert torch.equal(recorded.tokens, plain.tokens)
    run = recorded.run()
    assert run.method == recorded.method != ""
    for row in run.rows:
        assert list(row.canvases())[-1] == recorded.tokens[row.index].tolist()
        assert len(row.frames) == int(recorded.steps[row.index])
        assert row.frames[-1].nfe == int(recorded.nfe[row.index])


def test_candidates_are_the_most_probable_tokens_of_what_the_model_read() -> None:
    event = made(MDLM(steps=4)).history[1]
    request = type("Asked", (), {"position_ids": torch.arange(16).expand(2, 16)})
    logits = model(event.before, request).logits
    logits[..., MASK] = -torch.inf
    best = logits.log_softmax(-1).topk(5, -1)
    asked = event.before == MASK
    assert asked.any()
    assert torch.equal(event.candidates.token >= 0, asked[..., None].expand(-1, -1, 5))
    torch.testing.assert_close(event.candidates.logprob[asked], best.values[asked])
    assert torch.equal(event.candidates.token[asked][:, 0], best.indices[asked][:, 0])


def test_candidates_are_fewer_than_five_where_the_vocabulary_is() -> None:
    def small(tokens: torch.Tensor) -> torch.Tensor:
        return torch.zeros(*tokens.shape, 3)

    result = MDLM(steps=2)(small, torch.full((1, 4), 2), mask_id=2, seed=0, history="candidates")
    assert result.history[0].candidates.token.shape == (1, 4, 5)
    assert (result.history[0].candidates.token[..., 2:] == -1).all()
    assert {len(pairs) for pairs in result.run().rows[0].frames[0].candidates.values()} == {2}


def test_candidates_bring_the_scores_that_are_shown() -> None:
    assert set(made().history[0].scores) == {"quality", "confidence", "entropy"}
    assert set(made(MDLM(steps=2)).history[0].scores) == {"confidence", "entropy"}
    assert made(history={"entropy"}).history[0].candidates is None


def test_kinds_of_changes(result: SampleResult) -> None:
    kinds = [kind for row in result.run().rows for frame in row.frames for _, _, kind in frame.changes]
    assert {"filled", "mended", "masked"} <= set(kinds)
    for row in result.run().rows:
        stood: dict[int, int] = {}
        for canvas, frame in zip(list(row.canvases())[1:], row.frames, strict=True):
            for place, token, kind in frame.changes:
                assert canvas[place] == token
                if kind in ("mended", "returned"):
                    assert (stood[place] == token) == (kind == "returned")
                if kind == "masked":
                    assert token == MASK
                else:
                    stood[place] = token
    rewritten = made(ProSeCo(steps=8)).run().rows[0]
    assert any(kind == "rewritten" for frame in rewritten.frames for _, _, kind in frame.changes)


def test_padding_is_no_part_of_a_row() -> None:
    result = made(attention_mask=torch.arange(16).expand(2, 16) >= torch.tensor([[0], [2]]))
    rows = result.run().rows
    assert [len(row.tokens) for row in rows] == [16, 14]
    assert list(rows[1].canvases())[-1] == result.tokens[1, 2:].tolist()


def test_a_saved_run_is_the_run(result: SampleResult, tmp_path: Path) -> None:
    result.save(tmp_path / "run.json", NASTY)
    loaded = replay.load(tmp_path / "run.json")
    assert replace(loaded, texts=None) == result.run()
    assert loaded.texts is not None
    assert loaded.texts[0] == NASTY[0]
    assert loaded.texts[4] == "\udc80"
    assert loaded.to_html() == result.to_html(NASTY)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda values: values.pop("format"), "does not say"),
        (lambda values: values.update(version=2), "version 1"),
        (lambda values: values.pop("rows"), "damaged"),
        (lambda values: values["rows"][0]["steps"][0]["changes"].append([99, 1, "filled"]), "position 99"),
        (lambda values: values["rows"][0]["steps"][0]["changes"].append([1, 1, "</script>"]), "kinds"),
        (lambda values: values["rows"][0]["steps"][0]["scores"].update(quality=[1.0]), "numbers of quality"),
        (lambda values: values["rows"][0].update(fixed=[0]), "fixed"),
    ],
    ids=["format", "version", "rows", "position", "kind", "scores", "fixed"],
)
def test_damaged_files_are_refused(change, told, result: SampleResult, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "run.json"
    result.save(path)
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))
    with pytest.raises(ValueError, match=told):
        replay.load(path)


def test_no_token_ends_the_script(result: SampleResult) -> None:
    page = result.to_html(NASTY, title="</title><b>")
    assert page.isascii() or "\udc80" not in page
    page.encode("utf-8")  # no half of a surrogate pair
    assert page.count("</script>") == 3
    assert "<b>" not in page
    assert "document.title=" not in page.replace("\\u003c", "<").split("<script type")[0]
    for name in ("run", "extra"):
        block = re.search(rf'id="{name}">(.*?)</script>', page, re.DOTALL)
        assert block is not None
        json.loads(block[1])
    assert "http://www.w3.org/2000/svg" in page
    assert len(re.findall(r"https?://", page)) == 1  # the namespace of SVG, which is a name


def test_a_page_keeps_its_bound(result: SampleResult) -> None:
    whole = len(as_json(result.run()))
    for most in (whole // 2, whole // 4, whole // 12):
        page = result.to_html(max_bytes=most)
        block = re.search(r'id="run">(.*?)</script>', page, re.DOTALL)
        assert block is not None
        assert len(block[1]) <= most
        assert "Shortened to fit" in page
        last = [change for row in json.loads(block[1])["rows"] for change in row["steps"]][-1]
        assert last["nfe"] == 8
    with pytest.raises(ValueError, match="max_bytes"):
        result.to_html(max_bytes=400)
    assert "Shortened" not in result.to_html()


def test_thinned_rows_end_and_begin_the_same(result: SampleResult) -> None:
    row = result.run().rows[0]
    for every in (2, 3, 8, 100):
        less = thinned(row, every)
        every_canvas, few = list(row.canvases()), list(less.canvases())
        assert few[0] == every_canvas[0]
        assert few[-1] == every_canvas[-1]
        assert few[1] == every_canvas[min(every, len(row.frames))]
        assert sum(frame.merged for frame in less.frames) == len(row.frames)
    run, said = bounded(result.run(), 10**9, lambda run: 1)
    assert run == result.run()
    assert said == []


def test_many_rows_are_said_to_be_left_out() -> None:
    result = MDLM(steps=2)(model, torch.full((10, 4), MASK), mask_id=MASK, seed=0, history="candidates")
    assert "first 8 of 10 rows" in result.to_html()
    assert "rows are shown" not in result.to_html(rows=[9])


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"view": "board"}, "view"),
        ({"view": "sudoku", "columns": 5}, "columns"),
        ({"view": "sudoku", "boxes": (3, 3)}, "boxes"),
        ({"columns": 4}, "columns"),
        ({"rows": [7]}, "rows"),
        ({"rows": []}, "rows"),
        ({"max_bytes": 0}, "max_bytes"),
    ],
    ids=["view", "columns", "boxes", "text-columns", "rows", "no-rows", "bytes"],
)
def test_wrong_options_of_a_page(options, told, result: SampleResult) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=told):
        result.to_html(**options)


def test_a_run_without_history_says_so() -> None:
    with pytest.raises(ValueError, match="history"):
        made(history=False).to_html()


def test_visible_leaves_no_control() -> None:
    assert visible("a\nb\tc") == "a⏎b⇥c"
    assert visible("\x1b[31m") == "\\x1b[31m"
    assert visible("\udc80\u202e\x85") == "\\udc80\\u202e\\x85"
    assert visible(" 👩\u200d🔬 é שלום") == " 👩\u200d🔬 é שלום"
    assert len(visible("x" * 1000)) < 300
    joiners = "\u200c\u200d"
    for character in map(chr, [*range(0x3000), *range(0xD7F0, 0xE010), *range(0x3000, 0x110000, 97)]):
        kept = visible(character)
        assert kept in joiners or not {unicodedata.category(each) for each in kept} & {"Cc", "Cf", "Cs", "Zl", "Zp"}


def test_text_for_a_terminal(result: SampleResult) -> None:
    shown = result.text(NASTY)
    assert "\x1b" not in shown
    assert "\u202e" not in shown
    assert shown.count("step ") == 8
    assert len(result.text(every=4).splitlines()) == 1 + 2 * 3
    assert "\x1b[" in result.text(NASTY, colour=True)
    grid = result.text(columns=4).splitlines()
    assert len(grid) == 1 + 8 * 5
    last = re.sub(r"[^0-9 ]", " ", " ".join(grid[-4:])).split()
    assert [int(token) for token in last] == result.tokens[0].tolist()
    with pytest.raises(ValueError, match="row"):
        result.text(row=9)


def test_plot_shows_what_was_recorded(result: SampleResult) -> None:
    pytest.importorskip("matplotlib", reason="needs matplotlib: pip install 'mdmcorrect[demo]'")
    figure = result.plot()
    above, below, twin = figure.axes
    assert [line.get_label() for line in above.get_lines()] == ["quality", "confidence"]
    assert [line.get_label() for line in twin.get_lines()] == ["entropy"]
    up = sum(bar.get_height() for bar in below.patches if bar.get_height() > 0)
    kinds = [kind for row in result.run().rows for frame in row.frames for _, _, kind in frame.changes]
    assert up == pytest.approx(sum(kind != "masked" for kind in kinds) / 2)
    figure.savefig(io.BytesIO())


class Pieces:
    """A tokenizer that loses the space before a token that stands first, as sentence pieces do."""

    all_special_ids = (3,)
    pieces = ("▁a", "▁fox", "es", "<eos>", "<0xE2>")

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        return [0]

    def decode(self, ids: list[int]) -> str:
        return "".join("\ufffd" if n == 4 else self.pieces[n].replace("▁", " ") for n in ids).lstrip(" ")

    def convert_ids_to_tokens(self, token: int) -> str:
        return self.pieces[token]


def test_a_tokenizers_tokens_keep_their_spaces() -> None:
    say = reader(Pieces())
    assert [say(n) for n in range(5)] == [" a", " fox", "es", "<eos>", "<0xE2>"]
    assert reader({1: "x"})(2) == "⟨2⟩"
    assert reader(str)(5) == "5"
    with pytest.raises(TypeError, match="tokenizer"):
        reader(3)


def test_molecules_are_drawn_where_rdkit_is() -> None:
    letters = ["C", "C", "C", "O", "N", "C", "C", "C", "C", "C", "C", "_"]
    ethanol = MDLM(steps=2)(model, torch.full((1, 4), MASK), mask_id=MASK, seed=0, history="candidates")
    page = ethanol.to_html(letters, view="smiles")
    try:
        import rdkit  # noqa: F401
    except ImportError:
        assert "No molecule is drawn" in page
    else:
        assert page.count("data:image/svg+xml;base64") == 1


def test_the_command_shows_and_refuses(
    result: SampleResult, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, page = tmp_path / "run.json", tmp_path / "run.html"
    result.save(run, NASTY)
    assert main(["replay", str(run), "-o", str(page), "--view", "grid", "--rows", "1"]) == 0
    assert page.read_text(encoding="utf-8") == result.to_html(NASTY, view="grid", rows=[1])
    assert main(["replay", str(run), "--every", "4"]) == 0
    assert capsys.readouterr().out == result.text(NASTY, every=4)
    for wrong in ([str(tmp_path / "none.json")], [str(page)], [str(run), "-o", "run.doc"], [str(run), "--rows", "9"]):
        assert main(["replay", *wrong]) == 2
        out, told = capsys.readouterr()
        assert out == ""
        assert told.startswith("mdmcorrect replay: ")
        assert told.count("\n") == 1
