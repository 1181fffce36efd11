"""The page plays in a browser: it shows the run, tokens stay text, keys work, controls have names, colours contrast."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import Browser, find
from runs import MASK, NASTY, made

from mdmcorrect.replay.tokens import visible
from mdmcorrect.samplers import SampleResult

pytestmark = pytest.mark.skipif(find() is None, reason="needs Chromium: apt-get install chromium-headless-shell")


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    opened = Browser(tmp_path_factory.mktemp("profile"))
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def result() -> SampleResult:
    return made()


@pytest.fixture
def page(browser: Browser, result: SampleResult, tmp_path: Path) -> Browser:
    path = tmp_path / "run.html"
    path.write_text(result.to_html(NASTY), encoding="utf-8")
    browser.errors.clear()
    browser.open(path)
    yield browser
    assert browser.errors == []
    assert browser.fetched == [path.as_uri()]


CELLS = "[...document.querySelectorAll('#tokens [role=option]')]"


def where(browser: Browser) -> str:
    return browser.run("document.getElementById('where').textContent")


def test_every_step_shows_its_canvas(page: Browser, result: SampleResult) -> None:
    row = result.run().rows[0]
    for number, canvas in enumerate(row.canvases()):
        whole = "cell.previousSibling.textContent + cell.textContent"
        shown = page.run(f"{CELLS}.map((cell) => [cell.className.split(' ')[1], {whole}])")
        for place, (kind, text) in enumerate(shown):
            if kind == "taken":
                assert canvas[place] == MASK
            elif kind == "masked":
                assert canvas[place] == MASK
                assert text == "\u00a0"
            else:
                assert text == (visible(NASTY[canvas[place]]) or f"⟨{canvas[place]}⟩")
        assert where(page) == f"step {number} of 8"
        page.press("ArrowRight")
    assert page.run("document.title").startswith("PRISM")
    assert page.run("document.querySelectorAll('#tokens b, #tokens script, #about b').length") == 0


def test_keys_play_step_and_jump(page: Browser) -> None:
    page.press("End")
    assert where(page) == "step 8 of 8"
    page.press("Home")
    page.press("ArrowRight")
    page.press("ArrowRight")
    page.press("ArrowLeft")
    assert where(page) == "step 1 of 8"
    page.press(" ")
    assert page.run("document.getElementById('play').getAttribute('aria-label')") == "Pause"
    page.press(" ")
    assert page.run("document.getElementById('play').getAttribute('aria-label')") == "Play"
    page.run("document.getElementById('speed').value = '160'")
    page.run("document.getElementById('play').click()")
    waiting = (
        "new Promise((done) => { const ask = () => document.getElementById('where').textContent === 'step 8 of 8' "
    )
    page.run(waiting + "? done() : setTimeout(ask, 50); ask(); })")
    assert page.run("document.getElementById('said').textContent").startswith("Step 8.")


def test_tokens_are_reached_and_told_by_the_keyboard(page: Browser) -> None:
    page.press("End")
    for _ in range(20):
        page.press("Tab")
        if page.run("document.activeElement.getAttribute('role')") == "option":
            break
    for _ in range(5):
        page.press("ArrowRight")
    assert page.run("document.activeElement.dataset.place") == "5"
    assert page.run("document.querySelector('#about caption').textContent").startswith("The model's best")
    assert page.run("document.querySelectorAll('#about tr').length") == 5
    page.press("Enter")
    assert page.run("document.activeElement.getAttribute('aria-selected')") == "true"
    assert where(page) == "step 8 of 8"


def test_the_pointer_shows_a_tokens_candidates(page: Browser) -> None:
    page.press("End")
    page.hover("[data-place='7']")
    assert "Position 7" in page.run("document.getElementById('about').textContent")


def test_every_control_has_a_name_and_a_role(page: Browser) -> None:
    nodes = page.ask("Accessibility.getFullAXTree")["nodes"]
    roles: dict[str, list[str]] = {}
    for node in nodes:
        if not node.get("ignored"):
            roles.setdefault(node["role"]["value"], []).append(node.get("name", {}).get("value", ""))
    for role in ("button", "combobox", "slider", "option", "listbox", "image", "complementary", "heading"):
        assert roles[role], role
        assert all(roles[role]), role
    assert {"Play", "First step", "Step back", "Step forward", "Last step"} <= set(roles["button"])
    assert page.run("document.documentElement.lang") == "en"


CONTRAST = """(() => {
  const parse = (text) => text.match(/[\\d.]+/g).map(Number);
  const linear = (v) => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const light = (rgb) => { const [r, g, b] = rgb.slice(0, 3).map(linear);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const paper = parse(getComputedStyle(document.body).backgroundColor).slice(0, 3);
  const worst = {};
  const box = document.getElementById("tokens");
  for (const kind of ["given", "filled", "mended", "rewritten", "taken b0", "taken b4", "b0", "b1", "b2", "b3", "b4"]) {
    const cell = document.createElement("span");
    cell.style.transition = "none";
    cell.className = "token " + kind;
    box.append(cell);
    const style = getComputedStyle(cell), back = parse(style.backgroundColor);
    const a = light(parse(style.color)), b = light(back.length > 3 && back[3] === 0 ? paper : back);
    worst[kind] = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    cell.remove();
  }
  return worst;
})()"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours_contrast(scheme: str, page: Browser) -> None:
    page.prefer(prefers_color_scheme=scheme, prefers_reduced_motion="reduce")
    found = page.run(CONTRAST)
    assert {kind: ratio for kind, ratio in found.items() if ratio < 4.5} == {}  # WCAG AA
    assert page.run(f"getComputedStyle({CELLS}[0]).transitionDuration") == "0s"


def test_a_grid_has_its_columns_and_an_address_its_step(browser: Browser, result: SampleResult, tmp_path: Path) -> None:
    path = tmp_path / "grid.html"
    path.write_text(result.to_html(view="sudoku"), encoding="utf-8")
    browser.errors.clear()
    browser.open(path, "#row=1&step=3")
    assert where(browser) == "step 3 of 8"
    tops = browser.run(f"{CELLS}.map((cell) => Math.round(cell.getBoundingClientRect().top))")
    assert [tops.count(top) for top in sorted(set(tops))] == [4] * 4
    assert browser.run("document.querySelectorAll('#tokens .top').length") == 8
    assert browser.run("document.getElementById('row').value") == "1"
    assert browser.errors == []


def test_a_narrow_window_scrolls_in_no_direction_but_down(page: Browser) -> None:
    page.ask("Emulation.setDeviceMetricsOverride", width=360, height=700, deviceScaleFactor=1, mobile=False)
    assert page.run("document.documentElement.scrollWidth") <= 360
    page.ask("Emulation.clearDeviceMetricsOverride")


def test_a_mended_token_tells_what_it_was(page: Browser, result: SampleResult) -> None:
    row = result.run().rows[0]
    step, place = next(
        (number, place)
        for number, frame in enumerate(row.frames)
        for place, _, kind in frame.changes
        if kind == "mended"
    )
    for _ in range(step + 1):
        page.press("ArrowRight")
    stood = [canvas[place] for canvas in list(row.canvases())[: step + 1] if canvas[place] != MASK][-1]
    page.hover("h1")
    page.hover(f"[data-place='{place}']")
    assert f"It was {visible(NASTY[stood])} before." in page.run("document.getElementById('about').textContent")


def test_what_is_pointed_at_is_told_of_every_step(browser: Browser, result: SampleResult, tmp_path: Path) -> None:
    path = tmp_path / "grid.html"
    path.write_text(result.to_html(view="grid"), encoding="utf-8")
    browser.open(path)
    browser.hover("h1")
    browser.hover("[data-place='9']")
    told = "document.getElementById('about').textContent"
    for _ in range(8):
        browser.press("ArrowRight")
        assert browser.run(told).count("Position 9") == 1
    browser.hover("h1")
    browser.press("ArrowLeft")
    assert "Position" not in browser.run(told)
