"""The Python of README and docs runs as printed: a page's blocks one after the other, with nothing else defined."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    path
    for path in [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "examples").rglob("*.md")]
    if "```python" in path.read_text()
)
# A block below this comment needs a CUDA device.
ON_CUDA = "<!-- needs a CUDA device -->"


def blocks(page: Path) -> list[tuple[int, str, bool]]:
    """The page's Python: the line each block begins at, its code, and whether it needs a CUDA device."""
    text = page.read_text()
    pattern = rf"({re.escape(ON_CUDA)}\n)?```python\n(.*?)```"
    return [
        (text[: found.start(2)].count("\n"), found[2], bool(found[1]))
        for found in re.finditer(pattern, text, flags=re.DOTALL)
    ]


def run(page: Path) -> dict[str, Any]:
    """What a page's names are at its end."""
    if "integrations.transformers" in page.read_text():
        pytest.importorskip("transformers", reason="needs transformers: pip install 'mdmcorrect[transformers]'")
    torch.manual_seed(0)
    names: dict[str, Any] = {"__name__": "__main__"}  # dataclasses look their module up
    for line, code, on_cuda in blocks(page):
        compiled = compile("\n" * line + code, str(page), "exec")  # so that a failure names the page's own line
        if not on_cuda or torch.cuda.is_available():
            exec(compiled, names)
    return names


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "README.md"], ids=lambda page: page.name)
def test_python_runs(page: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    run(page)


def test_readme_says_what_comes_out() -> None:
    names = run(ROOT / "README.md")
    assert names["scores"].token.shape == (2, 128)
    assert names["worst"].sum(1).tolist() == [8, 8]
    assert [len(answer) for answer in names["answers"]] == [64, 64]
    assert names["judged"].quality_head.out.weight.grad.abs().sum() > 0
    assert (names["result"].tokens != 999).all()
    assert names["answer"].shape == (1, 16)


def test_blocks_are_found() -> None:
    assert {page.name for page in PAGES} >= {"README.md", "attention.md", "compat.md", "losses.md", "samplers.md"}
    assert sum(on_cuda for page in PAGES for _, _, on_cuda in blocks(page)) == 2


def test_readme_names_both_commands() -> None:
    text = (ROOT / "README.md").read_text()
    assert "make demo" in text
    assert "make test" in text


EVERY_PAGE = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SPEED = re.compile(
    r"\d ?(us|ms|microseconds|milliseconds|[GT]FLOP/s|[GT]B/s)\b|\d s\b|\d(\.\d+)?x\b|\d times (as (fast|slow)|faster)"
)
PROCESSOR = re.compile(r"AMD|EPYC|Zen \d|Intel|Xeon|Sapphire Rapids|\b[ABH][12]00\b")
GPU = re.compile(r"\b[ABH][12]00\b")


def unmeasured(text: str) -> list[str]:
    """Sections that state speeds and name no processor, or name a GPU and do not say that they predict."""
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    sections = [section for section in re.split(r"(?m)^(?=## )", prose) if SPEED.search(section)]
    return [
        section.splitlines()[0]
        for section in sections
        if not PROCESSOR.search(section) or (GPU.search(section) and "predicted" not in section)
    ]


@pytest.mark.parametrize("page", EVERY_PAGE, ids=lambda page: page.name)
def test_speeds_name_their_processor(page: Path) -> None:
    assert unmeasured(page.read_text()) == []


def test_a_speed_without_a_processor_is_found() -> None:
    named, nameless, measured = "## A\n3 ms on an AMD EPYC\n", "## B\n3.5x ours\n", "## C\nan H100 takes 7 us\n"
    assert unmeasured(named + nameless + measured) == ["## B", "## C"]
    assert unmeasured("## D\nan H100 is predicted to take 7 us\n") == []


@pytest.mark.parametrize("page", EVERY_PAGE, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\((?!http|#)([^)#]+)[^)]*\)", page.read_text()):
        assert (page.parent / link).exists(), link
