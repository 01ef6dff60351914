"""The report of a run as a page of HTML; how it looks in a browser is in test_report_browser.py."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from html.parser import HTMLParser
from itertools import combinations
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest

import tests
from millrace.components.preprocess.spec import PreprocessParameters, TabularData
from millrace.runners.record import PipelineRun, RunState, TaskRun, TaskState
from millrace.runners.report import write_report
from millrace.runners.report_graph import picture
from millrace.runners.report_text import Setting, duration, number, relative_link, settings
from millrace.runtime.answer_tables import AnswerWriter
from millrace.runtime.pages import size
from tests.runners.recorded import HOSTILE, START, graph, recorded_run, write_rejects


@dataclass
class Page(HTMLParser):
    """What a parser makes of a page."""

    tags: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())

    def values(self, attribute: str) -> list[str]:
        return [attributes[attribute] for _, attributes in self.tags if attribute in attributes]


def parse(path: Path) -> Page:
    page = Page()
    page.feed(path.read_text())
    return page


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> tuple[PipelineRun, Path]:
    """A run that no test may change."""
    run, folder = recorded_run(tmp_path_factory.mktemp("root"))
    write_report(run, folder)
    return run, folder


@pytest.fixture(scope="module")
def page(recorded: tuple[PipelineRun, Path]) -> Page:
    return parse(recorded[1] / "report.html")


def section_of(path: Path, task: str) -> str:
    """The text of one task's section."""
    page = Page()
    page.feed(path.read_text().partition(f'<article id="task-{task}" ')[2].partition(">")[2].partition("</article>")[0])
    return page.text


class TestThePage:
    def test_is_one_file_with_nothing_left_beside_it(self, recorded: tuple[PipelineRun, Path]) -> None:
        assert sorted(file.name for file in recorded[1].iterdir()) == ["report.html", "run.json"]

    def test_is_the_same_each_time(self, recorded: tuple[PipelineRun, Path]) -> None:
        run, folder = recorded
        first = (folder / "report.html").read_bytes()
        assert write_report(PipelineRun.read(folder), folder).read_bytes() == first
        assert write_report(run, folder).read_bytes() == first

    def test_loads_nothing_from_elsewhere(self, page: Page) -> None:
        assert all(source.startswith("data:") for source in page.values("src"))
        assert not [link for link in page.values("href") if "://" in link or link.startswith(("/", "javascript:"))]
        assert {tag for tag, _ in page.tags}.isdisjoint({"iframe", "object", "embed", "form", "base"})

    def test_links_work_after_the_root_was_moved(self, recorded: tuple[PipelineRun, Path], tmp_path: Path) -> None:
        run, folder = recorded
        root = shutil.copytree(folder.parents[1], tmp_path / "elsewhere")
        page = parse(root / "runs" / run.id / "report.html")
        links = {link for link in page.values("href") if not link.startswith(("#", "data:"))}
        assert len(links) > 15
        gone = [link for link in links if not (root / "runs" / run.id / unquote(link)).resolve().exists()]
        assert gone == []
        assert all((root / "runs" / run.id / unquote(link)).resolve().is_relative_to(root) for link in links)

    def test_leads_only_to_sections_that_exist(self, page: Page) -> None:
        ids = page.values("id")
        assert len(ids) == len(set(ids))
        assert {link[1:] for link in page.values("href") if link.startswith("#")} <= set(ids)

    def test_names_the_run_and_where_it_ran(self, page: Page) -> None:
        for fact in (
            "letters failed",
            "task 'quantize' failed",
            "2026-05-04 09:30:00 UTC",
            "1 min 35 s",
            "4 succeeded, 2 cached, 1 skipped, 1 failed, 1 cancelled",
            "0.1.0, Python 3.11.2",
            "0123456789ab+changes",
            "Linux, 2 cores, 8.0 GiB of memory",
        ):
            assert fact in page.text

    def test_shows_a_run_that_goes_on(self, tmp_path: Path) -> None:
        spec = graph(3)
        record = TaskRun(name="step_000", component="preprocess", component_version="1", state=TaskState.RUNNING)
        run = PipelineRun(id="x", pipeline=spec, started=START, millrace="1", tasks={"step_000": record})
        text = parse(write_report(run, tmp_path)).text
        assert "wide running" in text
        assert "not ended" in text


class TestHostileNames:
    def test_appear_as_text(self, page: Page) -> None:
        assert page.text.count(HOSTILE) > 15

    def test_add_no_element(self, page: Page) -> None:
        assert [tag for tag, _ in page.tags].count("script") == 1
        assert all(attributes["src"].startswith("data:image/svg+xml") for tag, attributes in page.tags if tag == "img")

    def test_add_no_handler(self, page: Page) -> None:
        assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]

    def test_could_not_run_if_they_did(self, page: Page) -> None:
        policy = next(attributes["content"] for _, attributes in page.tags if "http-equiv" in attributes)
        assert policy.startswith("default-src 'none'; ")
        assert "script-src 'sha256-" in policy


class TestTheSectionOfATask:
    def test_shows_metrics_charts_and_outputs(self, recorded: tuple[PipelineRun, Path]) -> None:
        run, folder = recorded
        text = section_of(folder / "report.html", "train")
        assert "loss 0.25 seconds_a_step 0.00123" in text
        assert "Loss Trials Sample predictions text true predicted confidence true class why was i charged" in text
        assert f"outputs/model 11 bytes {run.tasks['train'].outputs['model'].digest[:12]}" in text
        assert "Took 1 min 05 s Attempts 1 Peak memory 300.0 MiB Cached no" in text

    def test_marks_parameters_that_are_not_at_their_defaults(self, recorded: tuple[PipelineRun, Path]) -> None:
        text = section_of(recorded[1] / "report.html", "train")
        assert "4 parameters, 2 not at their defaults" in text
        assert "epochs 3 default: 20 optimizer.kind adam optimizer.beta 0.9" in text

    def test_shows_the_reason_and_the_last_lines_of_a_failure(self, recorded: tuple[PipelineRun, Path]) -> None:
        text = section_of(recorded[1] / "report.html", "quantize")
        assert text.startswith(f"quantize failed Does what quantize does. {HOSTILE}")
        assert "Attempts 3" in text
        assert "The end of the log line 11 line 12" in text
        assert f"line 29 ValueError: {HOSTILE}" in text

    def test_shows_no_log_of_what_went_well(self, recorded: tuple[PipelineRun, Path]) -> None:
        assert "line 29" not in section_of(recorded[1] / "report.html", "train")

    def test_tells_the_other_states(self, recorded: tuple[PipelineRun, Path]) -> None:
        report = recorded[1] / "report.html"
        assert "deploy skipped Does what deploy does. quantize was failed" in section_of(report, "deploy")
        assert "Took when it ran 0 ms Cached yes, nothing ran" in section_of(report, "shard")
        assert "monitor cancelled" in section_of(report, "monitor")
        assert "Runs only if evaluate.accuracy >= 0.9" in section_of(report, "quantize")

    def test_lists_shares_with_their_logs(self, recorded: tuple[PipelineRun, Path]) -> None:
        text = section_of(recorded[1] / "report.html", "preprocess")
        assert "0 succeeded 12.0 s 1 300.0 MiB log 1 succeeded 6.0 s 1 300.0 MiB log" in text

    def test_leaves_out_what_only_a_terminal_understands(self, tmp_path: Path) -> None:
        run, folder = recorded_run(tmp_path)
        log = (run.tasks["quantize"].shares[0].directory or Path()) / "log.txt"
        log.write_bytes(b"\x1b[31mred\x1b[0m \x00\xff\n")
        assert "The end of the log red \N{REPLACEMENT CHARACTER} " in section_of(write_report(run, folder), "quantize")


class TestTheGraph:
    def test_tells_states_times_conditions_and_shares(self, recorded: tuple[PipelineRun, Path]) -> None:
        boxes = {box.name: box for box in picture(recorded[0]).boxes}
        assert boxes["train"].detail == "succeeded \N{MIDDLE DOT} 1 min 05 s"
        assert (boxes["shard"].state, boxes["shard"].detail) == ("cached", "cached")
        assert boxes["preprocess"].shares == "\N{MULTIPLICATION SIGN}2"
        assert boxes["quantize"].condition == "if accuracy >= 0.9"
        assert "only if evaluate.accuracy >= 0.9 (it is 0.975)" in boxes["quantize"].title

    def test_tells_what_flows_along_a_line(self, recorded: tuple[PipelineRun, Path]) -> None:
        lines = {(line.source, line.target): line for line in picture(recorded[0]).lines}
        assert lines["train", "evaluate"].title == "train.model \N{RIGHTWARDS ARROW} evaluate.model"
        assert lines["train", "evaluate"].kind == "data"
        assert lines["evaluate", "quantize"].kind == "condition"
        assert lines["evaluate", "monitor"].kind == "order"

    @pytest.mark.parametrize("tasks", [1, 9, 60])
    def test_keeps_boxes_apart_and_below_what_they_depend_on(self, tasks: int) -> None:
        spec = graph(tasks)
        drawn = picture(PipelineRun(id="x", pipeline=spec, started=START, millrace="1"))
        boxes = {box.name: box for box in drawn.boxes}
        assert len(boxes) == tasks
        for one, other in combinations(boxes.values(), 2):
            beside = one.x + one.width < other.x or other.x + other.width < one.x
            assert beside or one.y + one.height < other.y or other.y + other.height < one.y
        for line in drawn.lines:
            assert boxes[line.source].y + boxes[line.source].height < boxes[line.target].y
        for box in boxes.values():
            assert box.x >= 0 <= box.y
            assert box.x + box.width <= drawn.width
            assert box.y + box.height <= drawn.height

    def test_draws_one_line_an_edge(self) -> None:
        spec = graph(60)
        drawn = picture(PipelineRun(id="x", pipeline=spec, started=START, millrace="1"))
        edges = {(source, task.name) for task in spec.tasks for source in task.upstream()}
        assert {(line.source, line.target) for line in drawn.lines} == edges


class TestWrongAnswers:
    def test_are_listed_by_class_with_the_objects(self, recorded: tuple[PipelineRun, Path]) -> None:
        page = Page()
        whole = (recorded[1] / "report.html").read_text()
        page.feed(whole.partition('<section id="answers"')[2].partition(">")[2].partition("</section>")[0])
        assert "1 of 4 records of the channel test are taken for another class." in page.text
        assert f"millrace lineage {recorded[0].id} evaluate.accuracy --json" in page.text
        assert f"Is Taken for Records Objects a {HOSTILE} 1 s3://bucket/a/1.png" in page.text

    def test_are_quoted_for_a_shell(self, tmp_path: Path) -> None:
        run, folder = recorded_run(tmp_path)
        uri = "s3://bucket/it's a cat.png"
        with AnswerWriter(run.tasks["evaluate"].output_path("predictions"), ("a", "b")) as writer:
            writer.add([uri.encode()], np.array([1]), np.array([[0.9, 0.1]], np.float32))
        shown = [text for text in parse(write_report(run, folder)).texts if "s a cat.png" in text]
        assert [shlex.split(text) for text in shown] == [[uri]]

    def test_that_can_not_be_read_are_told(self, tmp_path: Path) -> None:
        run, folder = recorded_run(tmp_path)
        (run.tasks["evaluate"].output_path("predictions") / "answers-00000.parquet").write_text("no table")
        assert "predictions can't be read" in parse(write_report(run, folder)).text


class TestLineage:
    def test_counts_objects_by_class_and_channel(self, page: Page) -> None:
        assert f"Class train test all {HOSTILE} 6 2 8 a 4 2 6 2 classes 10 4 14" in page.text

    def test_shows_first_rows(self, page: Page) -> None:
        assert "The first 8 of 14 rows uri class_label label channel size s3://bucket/a/0.png a 0 train 9" in page.text

    def test_leads_from_the_objects_to_the_model(self, recorded: tuple[PipelineRun, Path], page: Page) -> None:
        digest = recorded[0].tasks["preprocess"].outputs["records"].digest
        assert f"preprocess.records Records shard.shards 18 bytes {digest} train.model Model" in page.text


class TestRejects:
    def test_are_listed_with_totals_by_reason(self, page: Page) -> None:
        assert "truncated 3 too large 1 Object Reason Detail s3://bucket/0-0" in page.text
        assert "Nothing was set aside." in page.text

    def test_beyond_two_hundred_are_counted(self, tmp_path: Path) -> None:
        run, folder = recorded_run(tmp_path)
        write_rejects(run.tasks["preprocess"].output_path("rejects"), 250)
        text = parse(write_report(run, folder)).text
        assert "truncated 126 too large 125" in text
        assert "The first 200 of 251 are shown." in text
        assert "s3://bucket/0-199" in text
        assert "s3://bucket/0-200" not in text


class TestWhatIsMissing:
    def test_is_said_where_a_task_folder_was_removed(self, tmp_path: Path) -> None:
        run, folder = recorded_run(tmp_path)
        for name in ("train", "manifest", "preprocess"):
            shutil.rmtree(tmp_path / "tasks" / name)
        report = write_report(run, folder)
        text = section_of(report, "train")
        assert "was removed" in text
        assert "outputs/model is missing" in text
        assert "charts.json can't be read: No such file or directory" in text
        assert "The log is missing" in text
        assert "index.parquet is missing" in parse(report).text
        assert "the folder rejects is missing" in parse(report).text
        assert "Confusion" in section_of(report, "evaluate")

    def test_is_said_where_files_are_broken(self, tmp_path: Path) -> None:
        run, folder = recorded_run(tmp_path)
        (run.tasks["train"].output_path("metrics") / "charts.json").write_text('[{"kind": "pie"}]')
        (run.tasks["manifest"].output_path("manifest") / "index.parquet").write_bytes(b"PAR1 no table")
        (run.tasks["preprocess"].output_path("rejects") / "rejects-0.parquet").write_bytes(b"")
        text = parse(write_report(run, folder)).text
        assert "charts.json is not a list of charts" in text
        assert "index.parquet can't be read" in text
        assert "rejects can't be read" in text

    @pytest.mark.parametrize(("package", "extra"), [("matplotlib", "train"), ("polars", "data")])
    def test_is_said_of_packages(self, package: str, extra: str, tmp_path: Path) -> None:
        _, folder = recorded_run(tmp_path)
        script = (
            f"import sys; sys.modules[{package!r}] = None\n"
            "from pathlib import Path\n"
            "from millrace.runners.record import PipelineRun\n"
            "from millrace.runners.report import write_report\n"
            "folder = Path(sys.argv[1]); write_report(PipelineRun.read(folder), folder)"
        )
        environment = {**os.environ, "PYTHONPATH": str(Path(str(tests.__file__)).parents[1])}
        subprocess.run([sys.executable, "-c", script, str(folder)], check=True, env=environment)
        text = parse(folder / "report.html").text
        assert f"this needs the package {package}, which was not installed: pip install -e '.[{extra}]'" in text


class TestValuesAsText:
    @pytest.mark.parametrize(
        ("seconds", "text"),
        [(None, ""), (0.004, "4 ms"), (12.34, "12.3 s"), (59.97, "1 min 00 s"), (3661, "1 h 01 min")],
    )
    def test_durations(self, seconds: float | None, text: str) -> None:
        assert duration(seconds) == text

    @pytest.mark.parametrize(("count", "text"), [(0, "0 bytes"), (1536, "1.5 KiB"), (3 * 2**40, "3.0 TiB")])
    def test_sizes(self, count: int, text: str) -> None:
        assert size(count) == text

    @pytest.mark.parametrize(("value", "text"), [(1234567.0, "1,234,567"), (0.9712345678, "0.971235"), (1e-9, "1e-09")])
    def test_numbers(self, value: float, text: str) -> None:
        assert number(value) == text

    def test_members_of_unions_have_their_own_defaults(self) -> None:
        schema = PreprocessParameters.model_json_schema()
        given = PreprocessParameters(data=TabularData(exclude=("id",))).model_dump(mode="json")
        told = {row.name: row.default for row in settings(given, schema) if row.default is not None}
        assert told == {"data.kind": "image", "data.exclude": "[]"}

    def test_settings(self) -> None:
        rows = settings({"a": {"b": None, "c": [1, "x"]}, "d": " y", "e": {}})
        assert rows == [
            Setting("a.b", "null"),
            Setting("a.c", '[1, "x"]'),
            Setting("d", '" y"'),
            Setting("e", "{}"),
        ]

    @pytest.mark.parametrize("name", ["a b", "100%", "q?x#y", "javascript:alert(1)", "\N{SNOWMAN}"])
    def test_links(self, name: str, tmp_path: Path) -> None:
        link = relative_link(tmp_path / "tasks" / name, tmp_path / "runs" / "x")
        assert link.startswith("../../tasks/")
        assert unquote(link) == f"../../tasks/{name}"
        assert not set("?#: ") & set(link)


@pytest.mark.parametrize("state", RunState)
def test_every_state_of_a_run_is_shown(state: RunState, tmp_path: Path) -> None:
    run = PipelineRun(id="x", pipeline=graph(1), state=state, started=START, millrace="1")
    assert f"wide {state}" in parse(write_report(run, tmp_path)).text
