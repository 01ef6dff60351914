"""Tables to records through the command line: a killed run goes on, and one with an earlier run only adds to it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from millrace.components.analyze.spec import AnalyzeParameters, analyze
from millrace.components.manifest.spec import ManifestParameters, manifest
from millrace.components.preprocess.spec import PreprocessParameters, preprocess
from millrace.components.shard.spec import ShardParameters, shard
from millrace.runners.record import PipelineRun
from millrace.runtime.records import read_records, record_uri
from millrace.runtime.task import read_result
from millrace.specs import PipelineConfig, pipeline
from tests.components.tabular_data import write_table
from tests.conftest import Bucket

ROOT = Path(__file__).parents[2]
PREVIOUS = (
    "manifest.previous=run:latest/manifest", "shard.previous=run:latest/shard", "analyze.previous=run:latest/analyze",
    "preprocess.previous.records=run:latest/preprocess",
)  # fmt: skip


class RowsToRecords(PipelineConfig):
    manifest: ManifestParameters
    shard: ShardParameters = ShardParameters(shards=4)
    analyze: AnalyzeParameters
    preprocess: PreprocessParameters


@pipeline
def rows_to_records(config: RowsToRecords) -> None:
    """The first half of a classification of rows."""
    listing = manifest(config.manifest)
    plan = shard(config.shard, manifest=listing.manifest)
    learnt = analyze(config.analyze, shards=plan.shards)
    preprocess.with_options(shares=2)(config.preprocess, shards=plan.shards, analysis=learnt.analysis)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "my_config" / "pipeline"
    folder.mkdir(parents=True)
    (folder / "rows_to_records.yaml").write_text(
        "# @package _global_\n"
        "pipeline: {name: rows_to_records, function: 'tests.pipelines.test_rows_to_records:rows_to_records'}\n"
        "manifest: {formats: [csv], labels: {kind: column, column: species}}\n"
        "analyze: {data: {kind: tabular}}\n"
        "preprocess: {data: {kind: tabular}}\n"
    )
    return tmp_path


def start(project: Path, source: str, root: str, *words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "millrace", "run", "--config-dir", "my_config", "pipeline=rows_to_records"]
    return subprocess.Popen(
        [*command, f"manifest.source={source}", f"runner.root={root}", *words],
        cwd=project,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def run(project: Path, source: str, root: str, *words: str) -> PipelineRun:
    process = start(project, source, root, *words)
    output, _ = process.communicate()
    assert process.returncode == 0, output
    return PipelineRun.read(max((project / root / "runs").iterdir()))


def records(ran: PipelineRun) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in ran.tasks["preprocess"].output_path("records").iterdir()}


def uris(ran: PipelineRun) -> list[str]:
    """Of all records, as often as they are there."""
    files = sorted(ran.tasks["preprocess"].output_path("records").glob("*.tfrecord"))
    return sorted(record_uri(record) for file in files for record in read_records(file))


def shards(ran: PipelineRun) -> tuple[int, int]:
    """How many were made and how many were kept."""
    told = [read_result(share.directory) for share in ran.tasks["preprocess"].shares if share.directory]
    metrics = [one.metrics for one in told if one is not None]
    return int(sum(one["shards_made"] for one in metrics)), int(sum(one["shards_kept"] for one in metrics))


@pytest.mark.slow
def test_killed_after_each_task_and_within_the_last_it_ends_the_same_and_repeats_nothing(project: Path) -> None:
    (project / "source").mkdir()
    write_table(project / "source" / "a.csv", range(100))
    expected = run(project, "source", "whole")
    finished: dict[Path, int] = {}
    for until in ("manifest/*/result.json", "shard/*/result.json", "analyze/*/result.json", "preprocess/*/c*/train-*"):
        process = start(project, "source", "killed")
        while not list((project / "killed" / "tasks").glob(until)) and process.poll() is None:
            time.sleep(0.005)
        process.kill()
        process.communicate()
        assert process.returncode < 0, "the run was over before it was killed"
        wait_for_workers(project / "killed")
        results = (project / "killed" / "tasks").glob("*/*/result.json")
        finished |= {path: path.stat().st_mtime_ns for path in results if "manifest" not in path.parts}
    ran = run(project, "source", "killed")
    assert records(ran) == records(expected)
    assert {name: ran.tasks[name].state.value for name in ("shard", "analyze")} == {
        "shard": "cached",
        "analyze": "cached",
    }
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    assert len(uris(ran)) == len(set(uris(ran))) == 300


def wait_for_workers(root: Path) -> None:
    """They end by themselves when the run that started them is gone."""
    deadline = time.monotonic() + 60
    while any(
        str(root) in word for process in psutil.process_iter(["cmdline"]) for word in process.info["cmdline"] or ()
    ):
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.slow
def test_of_an_earlier_run_shards_are_made_again_only_where_rows_are_other(project: Path) -> None:
    source = project / "source"
    source.mkdir()
    write_table(source / "a.csv", range(100))
    write_table(source / "b.csv", range(100, 130))
    first = run(project, "source", "root")
    assert shards(first) == (12, 0)
    second = run(project, "source", "root", *PREVIOUS)
    assert shards(second) == (0, 12)
    assert records(second) == records(first)
    append(source / "a.csv")
    write_table(source / "c.csv", range(300, 310))
    third = run(project, "source", "root", *PREVIOUS)
    made = len([name for name in records(third) if name.endswith(".tfrecord")]) - 12
    assert shards(third) == (made, 12)
    told = {name: int(third.tasks["manifest"].metrics[name]) for name in ("added", "changed", "deleted", "unchanged")}
    assert told == {"added": 60, "changed": 0, "deleted": 0, "unchanged": 390}
    assert len(uris(third)) == len(set(uris(third))) == 450
    assert set(uris(first)) < set(uris(third))
    (source / "b.csv").write_bytes((source / "b.csv").read_bytes().replace(b",Dream,r", b",Dream,q", 1))
    fourth = run(project, "source", "root", *PREVIOUS)
    assert shards(fourth) == (1, 11 + made)
    assert uris(fourth) == uris(third)


@pytest.mark.slow
def test_a_table_in_a_bucket_to_which_rows_are_appended_has_another_etag_and_the_same_shards(
    project: Path, s3: Bucket
) -> None:
    table = write_table(project / "a.csv", range(100))
    s3.put("rows/a.csv", table.read_bytes())
    assert shards(run(project, s3.uri("rows"), "root")) == (12, 0)
    append(table)
    s3.put("rows/a.csv", table.read_bytes())
    second = run(project, s3.uri("rows"), "root", *PREVIOUS)
    assert shards(second)[1] == 12
    assert len(uris(second)) == len(set(uris(second))) == 330


def append(path: Path) -> None:
    """30 rows more."""
    before = path.read_bytes()
    write_table(path, range(200, 210))
    path.write_bytes(before + path.read_bytes().partition(b"\n")[2])
