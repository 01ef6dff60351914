"""From a record, an object, a prediction or a metric back to where it came from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from millrace.cli import main
from millrace.components.analyze.spec import AnalyzeParameters, analyze
from millrace.components.digits.spec import DigitsParameters, digits
from millrace.components.manifest.spec import ColumnLabels, ManifestParameters, manifest
from millrace.components.preprocess.spec import ImageData, PreprocessParameters, TabularData, preprocess
from millrace.components.shard.spec import ShardParameters, shard
from millrace.errors import ConfigError, UserError
from millrace.runners.lineage import of_run, open_run, upstream
from millrace.runners.local import LocalRunner, run_pipeline
from millrace.runners.record import PipelineRun, RunState, going_on
from millrace.runners.report import write_report
from millrace.runners.trace import Trace, trace, uri_of_record
from millrace.specs import PipelineConfig, pipeline


class Data(PipelineConfig):
    """Configuration of a pipeline that makes records."""

    digits: DigitsParameters = DigitsParameters(limit=20)
    manifest: ManifestParameters = ManifestParameters()
    shard: ShardParameters = ShardParameters(shards=2, seed=3)
    preprocess: PreprocessParameters = PreprocessParameters(
        data=ImageData(height=8, width=8, channels=1, encoding="png"), max_error_rate=1
    )


@pipeline
def data(config: Data) -> None:
    """Records of pictures."""
    pictures = digits(config.digits)
    listed = manifest(config.manifest, dataset=pictures.dataset)
    dealt = shard(config.shard, manifest=listed.manifest)
    spread = preprocess.with_options(shares=2)
    spread(config.preprocess, shards=dealt.shards, dataset=pictures.dataset)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("lineage") / ".millrace"


@pytest.fixture(scope="module")
def run(root: Path) -> PipelineRun:
    record, folder = run_pipeline(data.compose(Data()), LocalRunner(root=root))
    assert record.state is RunState.SUCCEEDED
    write_report(record, folder)
    return record


def index(run: PipelineRun) -> pl.DataFrame:
    return pl.read_parquet(run.tasks["manifest"].output_path("manifest") / "index.parquet")


def facts(found: Trace, task: str) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for step in found.steps:
        merged |= step.facts if step.task == task else {}
    return merged


class TestRun:
    def test_chain(self, run: PipelineRun, root: Path) -> None:
        found = of_run(open_run(root, "latest"))
        made_from = {f"{one.task}.{one.output}": one.made_from for one in found.artifacts}
        assert made_from == {
            "digits.dataset": (),
            "manifest.manifest": ("digits.dataset",),
            "shard.shards": ("manifest.manifest",),
            "preprocess.records": ("digits.dataset", "shard.shards"),
        }
        by_task = {one.task: one for one in found.artifacts}
        assert by_task["shard"].parameters == {"seed": 3}
        assert by_task["digits"].parameters == {"limit": 20}
        assert by_task["preprocess"].parameters == {
            "data": {"height": 8, "width": 8, "channels": 1, "encoding": "png"}, "max_error_rate": 1,
        }  # fmt: skip
        assert {task: len(one.keys) for task, one in by_task.items()} == {
            "digits": 1, "manifest": 1, "shard": 1, "preprocess": 2,
        }  # fmt: skip
        assert (found.run, found.revision) == (run.id, run.revision)
        assert sum(found.channels.values()) == 200
        assert found.leaks is not None
        assert found.verdict == "no leaks: of 200 objects no object and no content is in more than one channel"

    def test_in_the_report(self, run: PipelineRun, root: Path) -> None:
        page = (root / "runs" / run.id / "report.html").read_text()
        assert "no leaks: of 200 objects no object and no content is in more than one channel" in page

    def test_leaks_are_told(self, run: PipelineRun, root: Path, tmp_path: Path) -> None:
        table = index(run)
        folder = tmp_path / "outputs" / "manifest"
        folder.mkdir(parents=True)
        leaking = pl.concat(
            [table, table.filter(pl.col("channel") == "train").head(1).with_columns(channel=pl.lit("test"))]
        )
        leaking.write_parquet(folder / "index.parquet")
        task = run.tasks["manifest"].model_copy(update={"directory": tmp_path})
        changed = run.model_copy(update={"tasks": run.tasks | {"manifest": task}})
        assert of_run(changed).verdict == "leaks: in more than one channel there are 1 object, 1 content"
        assert "leaks: in more than one channel" in write_report(changed, tmp_path).read_text()

    def test_which_run(self, run: PipelineRun, root: Path, tmp_path: Path) -> None:
        assert open_run(root, run.id[:-1]).id == run.id
        with pytest.raises(
            ConfigError, match=f"there is no such run in .*, the last ones are {run.id}; of runs on Kube"
        ):
            open_run(root, "nothing")
        with pytest.raises(ConfigError, match="there are none"):
            open_run(tmp_path, "latest")

    def test_of_a_run_that_was_killed(self, run: PipelineRun, root: Path, tmp_path: Path) -> None:
        folder = tmp_path / "runs" / run.id
        folder.mkdir(parents=True)
        run.model_copy(update={"state": RunState.RUNNING}).write(folder)
        with going_on(folder):
            assert open_run(tmp_path, "latest").state is RunState.RUNNING
        assert of_run(open_run(tmp_path, "latest")).state == "interrupted"

    def test_metrics_that_are_not_there(self, run: PipelineRun) -> None:
        with pytest.raises(UserError, match="metrics of manifest: did you mean 'objects'"):
            trace(run, "manifest.objets")

    def test_upstream(self, run: PipelineRun) -> None:
        assert [task.name for task in upstream(run, "shard")] == ["digits", "manifest", "shard"]


class TestObject:
    @pytest.mark.parametrize("channel", ["train", "validation", "test"])
    def test_every_object_is_where_it_says(self, run: PipelineRun, channel: str) -> None:
        records = run.tasks["preprocess"].output_path("records")
        shards = run.tasks["shard"].output_path("shards")
        for row in index(run).filter(pl.col("channel") == channel).head(7).to_dicts():
            found = trace(run, row["uri"])
            assert found.about == row["uri"]
            assert found.object["content"] == row["content"]
            assert [step.task for step in found.steps] == ["digits", "manifest", "shard", "preprocess"]
            place, record = facts(found, "shard"), facts(found, "preprocess")
            assert pl.read_parquet(shards / "shards" / place["shard"])["uri"][place["position"]] == row["uri"]
            assert uri_of_record(records / record["records"], record["record"]) == row["uri"]

    def test_by_key_and_by_part(self, run: PipelineRun) -> None:
        row = index(run).row(5, named=True)
        assert trace(run, row["key"]).about == row["uri"]
        assert trace(run, f"{row['key']}.out").about == row["uri"]
        assert trace(run, row["uri"][-14:]).about == row["uri"]

    def test_several_and_none(self, run: PipelineRun) -> None:
        with pytest.raises(
            UserError, match=r"in the names of several objects of run .*; which one\?\n  file://"
        ) as told:
            trace(run, ".png")
        assert str(told.value).count("\n  file://") == 10
        with pytest.raises(UserError, match="has no object with 'nowhere' in its name"):
            trace(run, "nowhere")

    def test_from_a_record(self, run: PipelineRun) -> None:
        name = "train-00001-of-00002.tfrecord"
        expected = uri_of_record(run.tasks["preprocess"].output_path("records") / name, 5)
        found = trace(run, f"records/{name}#5")
        assert found.about == expected
        assert facts(found, "preprocess") == {"records": name, "record": 5}
        with pytest.raises(UserError, match=r"has no record 9999: it has \d+, counted from 0"):
            trace(run, f"{name}#9999")
        with pytest.raises(UserError, match="has no record file other"):
            trace(run, "other.tfrecord#0")

    def test_from_a_metric(self, run: PipelineRun) -> None:
        found = trace(run, "shard.imbalance")
        assert [step.task for step in found.steps] == ["digits", "manifest", "shard"]
        assert found.steps[-1].facts == {"imbalance": run.tasks["shard"].metrics["imbalance"]}
        assert found.steps[-1].parameters == {"seed": 3}


class TestSetAside:
    def test_objects_without_a_record(self, tmp_path: Path) -> None:
        """One that the manifest sets aside, and one that can't be decoded; those after it have moved up."""
        made, _ = run_pipeline(data.compose(Data()), LocalRunner(root=tmp_path / "first"))
        source = tmp_path / "pictures"
        for file in made.tasks["digits"].output_path("dataset").rglob("*.png"):
            copy = source / file.parent.name / file.name
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(file.read_bytes())
        broken = sorted((source / "3").iterdir())[4:7]
        for file in broken:
            file.write_bytes(file.read_bytes()[:-40])  # the manifest, which reads the head, takes it
        (source / "3" / "note.png").write_text("no picture")
        config = Data(manifest=ManifestParameters(source=str(source)), preprocess=Data().preprocess)
        run, _ = run_pipeline(listed.compose(config), LocalRunner(root=tmp_path / "second"))
        assert run.state is RunState.SUCCEEDED
        aside = trace(run, "note.png")
        assert [step.task for step in aside.steps] == ["manifest"]
        assert aside.object == {}
        assert facts(aside, "manifest")["rejected"]
        rejected = trace(run, broken[0].as_uri())
        assert [step.task for step in rejected.steps] == ["manifest", "shard", "preprocess"]
        assert set(facts(rejected, "preprocess")) == {"rejected"}
        records = run.tasks["preprocess"].output_path("records")
        whole = index(run).filter(~pl.col("uri").is_in([file.as_uri() for file in broken]))
        for row in whole.filter(pl.col("class_label") == "3").to_dicts():
            record = facts(trace(run, row["uri"]), "preprocess")
            assert uri_of_record(records / record["records"], record["record"]) == row["uri"]


@pipeline
def listed(config: Data) -> None:
    """Records of pictures in a folder."""
    found = manifest(config.manifest)
    dealt = shard(config.shard, manifest=found.manifest)
    preprocess(config.preprocess, shards=dealt.shards)


class Rows(PipelineConfig):
    """Configuration of a pipeline that makes records of the rows of a table."""

    manifest: ManifestParameters
    shard: ShardParameters = ShardParameters(shards=1)
    analyze: AnalyzeParameters = AnalyzeParameters(data=TabularData())
    preprocess: PreprocessParameters = PreprocessParameters(data=TabularData())


@pipeline
def rows(config: Rows) -> None:
    """Records of rows."""
    found = manifest(config.manifest)
    dealt = shard(config.shard, manifest=found.manifest)
    learnt = analyze(config.analyze, shards=dealt.shards)
    preprocess(config.preprocess, shards=dealt.shards, analysis=learnt.analysis)


class TestRows:
    def test_of_a_table(self, tmp_path: Path) -> None:
        table = "".join(f"{number},{number % 7}.5,{'yes' if number % 3 else 'no'}\n" for number in range(80))
        (tmp_path / "flowers 1.csv").write_text(f"number,width,label\n{table}")
        listing = ManifestParameters(source=str(tmp_path), formats=("csv",), labels=ColumnLabels(column="label"))
        run, _ = run_pipeline(rows.compose(Rows(manifest=listing)), LocalRunner(root=tmp_path / ".millrace"))
        assert run.state is RunState.SUCCEEDED, run.reason
        found = trace(run, "flowers 1.csv#row=17")
        assert (found.object["row"], found.object["class_label"]) == (17, "yes")
        assert [step.task for step in found.steps] == ["manifest", "shard", "preprocess"]
        told = {step.task: step.parameters for step in found.steps}
        assert told["preprocess"] == {"data": {"kind": "tabular"}}
        record = facts(found, "preprocess")
        assert trace(run, f"{record['records']}#{record['record']}").about == found.about
        assert "of 80 objects" in of_run(run).verdict


class TestCommand:
    def say(self, root: Path, *words: str) -> int:
        return main(["lineage", *words, "--root", str(root)])

    def test_run(self, run: PipelineRun, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert self.say(root) == 0
        told = capsys.readouterr().out
        assert f"run {run.id}, code " in told
        for word in ("manifest.manifest", "seed=3", "no leaks: of 200 objects", "train"):
            assert word in told

    def test_object_as_json(self, run: PipelineRun, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
        row = index(run).row(0, named=True)
        assert self.say(root, run.id, row["key"], "--json") == 0
        assert json.loads(capsys.readouterr().out)["object"]["uri"] == row["uri"]

    def test_object(self, run: PipelineRun, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
        row = index(run).row(0, named=True)
        assert self.say(root, "latest", row["key"]) == 0
        told = capsys.readouterr().out
        assert row["content"] in told
        assert "record=" in told

    def test_completion(
        self, run: PipelineRun, root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.chdir(root.parent)
        for line, found in (
            (f"millrace lineage {run.id[:4]}", [run.id]),
            ("millrace lineage latest shard.", ["shard.imbalance", "shard.objects"]),
        ):
            monkeypatch.setenv("COMP_LINE", line)
            monkeypatch.setenv("COMP_POINT", str(len(line)))
            assert main(["-sc", "query=bash"]) == 0
            assert capsys.readouterr().out.split() == found

    @pytest.mark.parametrize(
        ("words", "told"),
        [
            (("latest", "nowhere"), "has no object with 'nowhere'"),
            (("other",), "there is no such run"),
            (("latest", "a", "b"), "unexpected argument 'b'"),
            (("--jsno",), "unexpected argument '--jsno'"),
        ],
    )
    def test_mistakes(
        self, run: PipelineRun, root: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], told: str
    ) -> None:
        assert self.say(root, *words) == 2
        assert told in capsys.readouterr().err
