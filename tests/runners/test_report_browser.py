"""The report of a run in headless Chromium: opened from a file, as people do."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.command import Command

from millrace.runners.record import PipelineRun, TaskRun
from millrace.runners.report import write_report
from tests.runners.recorded import HOSTILE, START, graph, recorded_run

pytestmark = pytest.mark.browser

_WIDTHS = [1280, 390]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run, folder = recorded_run(tmp_path_factory.mktemp("root"))
    return write_report(run, folder)


@pytest.fixture(scope="module")
def wide_report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    spec = graph(60)
    tasks = {task.name: TaskRun(name=task.name, component="preprocess", component_version="1") for task in spec.tasks}
    run = PipelineRun(id="x", pipeline=spec, started=START, millrace="1", tasks=tasks)
    return write_report(run, tmp_path_factory.mktemp("wide"))


def show(browser: webdriver.Chrome, page: Path, width: int = 1280, scheme: str = "light") -> None:
    """Open a page with every folded part unfolded."""
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    command(browser, "Emulation.setDeviceMetricsOverride", metrics)
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    command(browser, "Emulation.setEmulatedMedia", media)
    browser.get(page.as_uri())
    script(browser, "for (const part of document.querySelectorAll('details')) part.open = true")


def command(browser: webdriver.Chrome, name: str, arguments: dict[str, Any]) -> None:
    browser.execute("executeCdpCommand", {"cmd": name, "params": arguments})


def script(browser: webdriver.Chrome, text: str) -> Any:
    return browser.execute(Command.W3C_EXECUTE_SCRIPT, {"script": text, "args": []})["value"]


def log(browser: webdriver.Chrome, kind: str) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = browser.execute(Command.GET_LOG, {"type": kind})["value"]
    return entries


class TestThePage:
    def test_loads_without_a_word_in_the_console(self, browser: webdriver.Chrome, report: Path) -> None:
        log(browser, "browser")
        show(browser, report)
        assert browser.title == "letters failed - 20260504-093000-abc123"
        assert log(browser, "browser") == []

    def test_asks_for_nothing_but_itself(self, browser: webdriver.Chrome, report: Path) -> None:
        log(browser, "performance")
        show(browser, report)
        messages = [json.loads(entry["message"])["message"] for entry in log(browser, "performance")]
        asked = [
            message["params"]["request"]["url"]
            for message in messages
            if message["method"] == "Network.requestWillBeSent"
        ]
        assert report.as_uri() in asked
        assert [url for url in asked if url != report.as_uri() and not url.startswith("data:")] == []

    def test_runs_no_script_from_the_data(self, browser: webdriver.Chrome, report: Path) -> None:
        show(browser, report)
        assert script(browser, "return window.hacked === undefined")
        assert len(browser.find_elements(By.TAG_NAME, "script")) == 1

    def test_shows_hostile_names_as_text(self, browser: webdriver.Chrome, report: Path) -> None:
        show(browser, report)
        text = browser.find_element(By.TAG_NAME, "main").text
        assert HOSTILE in text
        assert f"ValueError: {HOSTILE}" in browser.find_element(By.CSS_SELECTOR, "#task-quantize pre").text

    def test_reads_without_scripts(self, browser: webdriver.Chrome, report: Path) -> None:
        command(browser, "Emulation.setScriptExecutionDisabled", {"value": True})
        try:
            browser.get(report.as_uri())
            assert "0.975" in browser.find_element(By.ID, "results").text
            assert browser.find_element(By.CSS_SELECTOR, ".graph svg").size["height"] > 300
        finally:
            command(browser, "Emulation.setScriptExecutionDisabled", {"value": False})


class TestTheGraph:
    def test_leads_to_the_section_of_each_task(self, browser: webdriver.Chrome, report: Path) -> None:
        show(browser, report)
        names = [box.get_attribute("data-task") for box in browser.find_elements(By.CSS_SELECTOR, ".graph a")]
        assert len(names) == 9
        for name in names:
            browser.find_element(By.CSS_SELECTOR, f'.graph a[data-task="{name}"] .name').click()
            section = browser.find_element(By.CSS_SELECTOR, ":target")
            assert section.find_element(By.TAG_NAME, "h3").text.startswith(f"{name} ")
            assert 0 <= script(browser, "return document.querySelector(':target').getBoundingClientRect().top") < 900

    def test_keeps_texts_inside_their_boxes(self, browser: webdriver.Chrome, report: Path) -> None:
        show(browser, report)
        outside = script(
            browser,
            """return [...document.querySelectorAll('.graph a')].filter((box) => {
              const frame = box.querySelector('.box').getBoundingClientRect();
              return [...box.querySelectorAll('text')].some((text) => {
                const own = text.getBoundingClientRect();
                return own.right > frame.right || own.left < frame.left || own.bottom > frame.bottom;
              });
            }).map((box) => box.dataset.task)""",
        )
        assert outside == []

    def test_lights_up_the_lines_of_a_task(self, browser: webdriver.Chrome, report: Path) -> None:
        show(browser, report)
        script(browser, "document.querySelector('.graph a[data-task=\"shard\"]').focus()")
        lit = browser.find_elements(By.CSS_SELECTOR, ".edge.lit")
        assert [(line.get_attribute("data-source"), line.get_attribute("data-target")) for line in lit] == [
            ("manifest", "shard"),
            ("shard", "preprocess"),
        ]


class TestTheLayout:
    @pytest.mark.parametrize("width", _WIDTHS)
    @pytest.mark.parametrize("name", ["report", "wide_report"])
    def test_fits_the_window(
        self, browser: webdriver.Chrome, name: str, width: int, request: pytest.FixtureRequest
    ) -> None:
        show(browser, request.getfixturevalue(name), width)
        wider = script(
            browser,
            """return [...document.querySelectorAll('body *')].filter((element) =>
              !element.parentElement.closest('.scroll, pre, svg') && !element.matches('.skip')
              && element.getBoundingClientRect().right > document.documentElement.clientWidth + 0.5
            ).map((element) => element.outerHTML.slice(0, 80))""",
        )
        assert wider == []
        assert (
            script(browser, "return document.documentElement.scrollWidth - document.documentElement.clientWidth") == 0
        )

    @pytest.mark.parametrize("width", _WIDTHS)
    def test_gives_every_picture_room(self, browser: webdriver.Chrome, report: Path, width: int) -> None:
        show(browser, report, width)
        sizes = script(
            browser,
            """return [...document.querySelectorAll('.charts img, .graph svg')].map((picture) => {
              const box = picture.getBoundingClientRect();
              return [box.width, box.height, picture.tagName === 'svg' || picture.naturalWidth > 0];
            })""",
        )
        assert len(sizes) == 4
        assert all(across > 250 and down > 120 and drawn for across, down, drawn in sizes)

    @pytest.mark.parametrize(("width", "least"), [(1280, 500), (390, 200)])
    def test_gives_tables_of_text_the_whole_width(
        self, browser: webdriver.Chrome, report: Path, width: int, least: int
    ) -> None:
        show(browser, report, width)
        card, charts, inside, text = script(
            browser,
            """const table = document.querySelector('.charts table');
            const across = (element) => element.getBoundingClientRect().width;
            const cells = [...table.querySelectorAll('tbody tr:first-child td')];
            return [across(table.closest('figure')), across(document.querySelector('#task-train .charts')),
              table.scrollWidth <= table.parentElement.clientWidth, across(cells[0])]""",
        )
        assert card == charts
        assert inside or width < 500  # a telephone's is scrolled
        assert text >= least

    def test_draws_bars_where_the_time_went(self, browser: webdriver.Chrome, report: Path) -> None:
        show(browser, report)
        left, right, start, end = script(
            browser,
            """const rows = [...document.querySelectorAll('.times tbody tr')];
            const row = rows.find((row) => row.innerText.startsWith('train'));
            const track = row.querySelector('.track').getBoundingClientRect();
            const bar = row.querySelector('.bar').getBoundingClientRect();
            return [track.left, track.right, bar.left, bar.right]""",
        )
        assert (start - left) / (right - left) == pytest.approx(16 / 95, abs=0.01)
        assert (end - start) / (right - left) == pytest.approx(65 / 95, abs=0.01)


class TestAccessibility:
    @pytest.mark.parametrize("scheme", ["light", "dark"])
    def test_text_stands_out(self, browser: webdriver.Chrome, report: Path, scheme: str) -> None:
        show(browser, report, scheme=scheme)
        faint = script(browser, _CONTRAST)
        assert faint == []

    def test_headings_go_down_one_level_at_a_time(self, browser: webdriver.Chrome, report: Path) -> None:
        show(browser, report)
        levels = script(
            browser, "return [...document.querySelectorAll('h1,h2,h3,h4')].map((h) => Number(h.tagName[1]))"
        )
        assert levels[0] == 1
        assert all(later <= earlier + 1 for earlier, later in pairwise(levels))

    def test_pictures_and_scrolling_regions_have_names(self, browser: webdriver.Chrome, report: Path) -> None:
        show(browser, report)
        nameless = script(
            browser,
            """return [...document.querySelectorAll('img, svg, [role=region], .graph a')].filter((element) =>
              !element.getAttribute('alt') && !element.getAttribute('aria-label')
            ).map((element) => element.outerHTML.slice(0, 80))""",
        )
        assert nameless == []


_CONTRAST = """
const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
const over = (colours) => {  // colours from the bottom up, painted over each other
  canvas.clearRect(0, 0, 1, 1);
  for (const colour of colours) { canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1); }
  return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
};
const luminance = (colour) => {
  const [r, g, b] = colour.map((c) => c / 255).map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const faint = [];
for (const element of document.querySelectorAll('body *')) {
  const svg = element.tagName === 'text';
  const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
  if (!own || element.closest('script, title, .skip, .hidden') || (element.ownerSVGElement && !svg)) continue;
  const below = [];
  for (let part = element; part; part = part.parentElement) below.unshift(getComputedStyle(part).backgroundColor);
  if (svg) below.push(getComputedStyle(element.parentElement.querySelector('.box')).fill);
  const style = getComputedStyle(element);
  const pair = [over(below), over([...below, svg ? style.fill : style.color])].map(luminance).sort((a, b) => b - a);
  const contrast = (pair[0] + 0.05) / (pair[1] + 0.05);
  if (contrast < 4.5) faint.push([contrast.toFixed(2), element.outerHTML.slice(0, 100)]);
}
return faint;
"""
