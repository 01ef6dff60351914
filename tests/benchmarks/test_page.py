"""Results in a file, and the page that shows them."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By

from benchmarks.page import marks, render_markdown, render_page, scale_of, write_page
from benchmarks.results import (
    CaseResult,
    Check,
    ContenderResult,
    LimitResult,
    Measurement,
    RatioResult,
    SuiteResult,
    read_result,
    read_results,
)
from millrace.errors import DataError


def rounds(*seconds: float) -> tuple[Measurement, ...]:
    return tuple(Measurement(seconds=one, work=1000, peak_bytes=2**30, more={"largest": 1.005}) for one in seconds)


@pytest.fixture
def result() -> SuiteResult:
    """Everything that a page can show."""
    case = CaseResult(
        name="sum",
        title="Sum of <numbers>",
        unit="numbers",
        contenders=(
            ContenderResult(name="millrace", about="polars", ours=True, cores=1, rounds=rounds(1, 2, 4)),
            ContenderResult(
                name="pandas", about="read_csv", ours=False, cores=1, versions={"pandas": "2.0"}, rounds=rounds(8, 8, 8)
            ),
            ContenderResult(name="gone", about="", ours=False, cores=1, problem="gone.txt can't be installed: why"),
        ),
        ratios=(
            RatioResult(name="millrace", beside="pandas", metric="rate", target=5.0, rounds=(8, 4, 2), met=False),
            RatioResult(name="millrace", beside="pandas", metric="peak_bytes", target=0.5, rounds=(1, 1, 1), met=True),
            RatioResult(name="millrace", beside="gone", metric="rate", target=2.0, rounds=(), met=None),
        ),
        limits=(LimitResult(name="millrace", figure="largest", least=None, most=1.01, rounds=(1.005,) * 3, met=True),),
        checks=(Check(name="the same sum", passed=True), Check(name="readable", passed=False, detail="by nobody")),
        profile="sum took all of it",
    )
    return SuiteResult(
        name="sums", title="Sums", about="Adding up.", command="make bench", quick=False,
        begun=datetime(2026, 1, 2, 3, 4, tzinfo=UTC), seconds=90.0, machine={"processor": "fast", "cores": 2},
        load_before=0.1, load_after=0.2, cases=(case,),
    )  # fmt: skip


class Reader(HTMLParser):
    """Text, tags that are open, and what a page would load."""

    def __init__(self) -> None:
        super().__init__()
        self.text = ""
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links += [value for name, value in attrs if name in ("src", "href") and value]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_shows_all_and_loads_nothing(result: SuiteResult) -> None:
    page = render_page([result])
    reader = Reader()
    reader.feed(page)
    for words in (
        *("Sum of <numbers>", "4.00\u00d7", "at least 5: missed", "gone.txt can't be installed: why", "pandas 2.0"),
        *("at most 1.01", "the same sum", "by nobody", "sum took all of it", "load average 0.1 before", "1.0 GiB"),
    ):
        assert words in reader.text
    assert reader.links == ["#sums"]
    assert "http" not in page.replace("http-equiv", "")
    assert page == render_page([result])


def test_a_page_without_results_says_how_to_get_them() -> None:
    assert "make bench" in render_page([])
    assert "make bench" in render_markdown([])


def test_the_page_of_the_documentation_has_a_heading_for_each_suite(result: SuiteResult) -> None:
    page = render_markdown([result])
    assert page.startswith("# Benchmarks\n")
    assert "\n## Sums\n" in page
    assert "4.00\u00d7" in page


def test_places_in_the_plot(result: SuiteResult) -> None:
    scale = scale_of(result.cases)
    speed, memory = marks(result.cases[0], scale)  # the one without figures has no row
    assert (speed.state, memory.state) == ("missed", "met")
    assert speed.middle == scale.place(4.0)
    assert speed.begin == scale.place(2.0)
    assert speed.begin + speed.width == pytest.approx(scale.place(8.0))
    assert speed.target == scale.place(5.0)
    assert 0 < scale.place(0.5) < scale.place(1.0) < scale.place(8.0) < 100
    assert 1.0 in scale.ticks


def test_what_was_missed(result: SuiteResult) -> None:
    assert result.missed == ("sums, sum: millrace beside pandas, rate", "sums, sum: readable")
    stopped = result.model_copy(update={"cases": (), "problem": "no disk"})
    assert stopped.missed == ("sums: no disk",)


def test_results_are_read_as_written_in_the_order_of_the_suites(result: SuiteResult, tmp_path: Path) -> None:
    for name in ("sums", "apples", "zeros"):
        (tmp_path / f"{name}.json").write_text(result.model_copy(update={"name": name}).model_dump_json())
    assert read_result(tmp_path / "sums.json") == result
    assert [one.name for one in read_results(tmp_path, ("zeros", "sums"))] == ["zeros", "sums", "apples"]


def older(text: str) -> str:
    return json.dumps({**json.loads(text), "version": 0})


def lacking(text: str) -> str:
    return json.dumps({name: value for name, value in json.loads(text).items() if name != "title"})


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (older, "has results of form 0, this page shows form 1: measure again"),
        (lacking, "title"),
        (lambda text: text[:40], "can't be read"),
        (lambda text: "[]", "has results of form None"),
    ],
)
def test_other_files_are_refused(
    result: SuiteResult, tmp_path: Path, spoil: Callable[[str], str], message: str
) -> None:
    path = tmp_path / "sums.json"
    path.write_text(spoil(result.model_dump_json()))
    with pytest.raises(DataError, match=message):
        read_result(path)


@pytest.mark.browser
@pytest.mark.parametrize("width", [400, 1200])
def test_nothing_sticks_out_of_the_window(
    result: SuiteResult, tmp_path: Path, browser: webdriver.Chrome, width: int
) -> None:
    page = write_page([result], tmp_path / "index.html")
    browser.set_window_size(width, 900)
    browser.get(page.as_uri())
    inner = browser.execute_script("return document.documentElement.clientWidth")
    assert browser.execute_script("return document.documentElement.scrollWidth") <= inner
    dots = browser.find_elements(By.CSS_SELECTOR, ".line .dot")
    goals = browser.find_elements(By.CSS_SELECTOR, ".line .goal")
    assert len(dots) == len(goals) == 2
    assert dots[0].rect["x"] < goals[0].rect["x"]  # 4 of 5
    assert dots[1].rect["x"] > goals[1].rect["x"]  # 1 of 0.5
