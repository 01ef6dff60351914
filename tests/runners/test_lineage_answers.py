"""From a metric to the records it is over, and from each of these to the answer about it."""

from __future__ import annotations

import html
import json
import shlex
from collections import Counter
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from millrace.cli import main
from millrace.components.digits.spec import DigitsParameters, digits
from millrace.components.evaluate.spec import EvaluateParameters, evaluate
from millrace.components.manifest.spec import ManifestParameters, manifest
from millrace.components.preprocess.spec import ImageData, PreprocessParameters, preprocess
from millrace.components.shard.spec import ShardParameters, shard
from millrace.components.train.spec import TrainParameters, train
from millrace.errors import DataError
from millrace.runners.answers import Measured
from millrace.runners.lineage import of_run
from millrace.runners.local import LocalRunner, run_pipeline
from millrace.runners.record import PipelineRun, RunState
from millrace.runners.report import write_report
from millrace.runners.trace import Trace, trace
from millrace.runtime.datasets import load_arrays
from millrace.runtime.models import load_predictor
from millrace.runtime.records import read_images
from millrace.specs import PipelineConfig, pipeline
from millrace.training.options.models import Mlp

pytestmark = pytest.mark.slow


class Judged(PipelineConfig):
    """Configuration of a pipeline that trains a model and measures it."""

    digits: DigitsParameters = DigitsParameters(limit=60)
    preprocess: PreprocessParameters = PreprocessParameters(
        data=ImageData(height=8, width=8, channels=1, encoding="png")
    )
    train: TrainParameters = TrainParameters(model=Mlp(units=(16,)), epochs=1)
    evaluate: EvaluateParameters = EvaluateParameters(latency_runs=1, mistakes=2)


@pipeline
def judged(config: Judged) -> None:
    """A model of pictures, and what it says about those it has not seen."""
    pictures = digits(config.digits)
    listed = manifest(ManifestParameters(), dataset=pictures.dataset)
    dealt = shard(ShardParameters(shards=2), manifest=listed.manifest)
    records = preprocess(config.preprocess, shards=dealt.shards, dataset=pictures.dataset).records
    evaluate(config.evaluate, model=train(config.train, records=records).model, records=records)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("judged") / ".millrace"


@pytest.fixture(scope="module")
def run(root: Path) -> PipelineRun:
    record, folder = run_pipeline(judged.compose(Judged()), LocalRunner(root=root))
    assert record.state is RunState.SUCCEEDED, record.reason
    write_report(record, folder)
    return record


@pytest.fixture(scope="module")
def objects(run: PipelineRun) -> list[dict[str, Any]]:
    """Rows of the lineage table that are of the channel test."""
    index = pl.read_parquet(run.tasks["manifest"].output_path("manifest") / "index.parquet")
    return index.filter(pl.col("channel") == "test").to_dicts()


def step(found: Trace, task: str) -> dict[str, Any]:
    (facts,) = [step.facts for step in found.steps if step.task == task]
    return facts


def over(run: PipelineRun, metric: str, mistakes: int | None = None) -> Measured:
    found = trace(run, f"evaluate.{metric}", mistakes=mistakes).measured
    assert found is not None
    return found


class TestObject:
    def test_has_the_models_answer(self, run: PipelineRun, objects: list[dict[str, Any]]) -> None:
        records = run.tasks["preprocess"].output_path("records")
        images, _ = load_arrays(records, "test")
        predictor = load_predictor(run.tasks["train"].output_path("model"))
        files = sorted(records.glob("test-*.tfrecord"))
        uris = [image.uri for file in files for image in read_images(file)]
        answers = dict(zip(uris, predictor.predict(images), strict=True))
        assert set(answers) == {row["uri"] for row in objects}
        right = 0
        for row in objects:
            told, answer = step(trace(run, row["uri"]), "evaluate"), answers[row["uri"]]
            assert told["true"] == row["class_label"]
            assert told["predicted"] == predictor.card.records.classes[answer.argmax()]
            assert told["probability"] == pytest.approx(answer.max(), abs=1e-5)
            assert told["probability_of_true"] == pytest.approx(answer[row["label"]], abs=1e-5)
            assert told["right"] == (told["true"] == told["predicted"])
            right += told["right"]
        assert run.tasks["evaluate"].metrics["accuracy"] == right / len(objects)

    def test_leads_on_to_the_model(self, run: PipelineRun, objects: list[dict[str, Any]]) -> None:
        found = trace(run, objects[0]["uri"])
        assert [one.task for one in found.steps] == [
            "digits", "manifest", "shard", "preprocess", "train", "evaluate",
        ]  # fmt: skip
        for task, port in (("manifest", "manifest"), ("train", "model")):
            output = {"path": str(run.tasks[task].output_path(port)), "sha256": run.tasks[task].outputs[port].digest}
            assert step(found, task)[port] == output
        assert found.steps[4].parameters["epochs"] == 1

    def test_of_training_has_none(self, run: PipelineRun) -> None:
        index = pl.read_parquet(run.tasks["manifest"].output_path("manifest") / "index.parquet")
        found = trace(run, index.filter(pl.col("channel") == "train")["uri"][0])
        assert [one.task for one in found.steps] == ["digits", "manifest", "shard", "preprocess", "train"]


class TestMetric:
    def test_is_over_the_records_of_its_channel(self, run: PipelineRun, objects: list[dict[str, Any]]) -> None:
        found = over(run, "accuracy")
        assert (found.channel, found.which, found.objects, found.records) == ("test", "", len(objects), len(objects))
        assert (found.right + found.wrong, found.right / found.records) == (
            len(objects), run.tasks["evaluate"].metrics["accuracy"],
        )  # fmt: skip
        assert found.model == str(run.tasks["train"].output_path("model"))

    def test_names_every_wrong_answer(self, run: PipelineRun, objects: list[dict[str, Any]]) -> None:
        mistakes = over(run, "accuracy").mistakes
        told = {row["uri"]: step(trace(run, row["uri"]), "evaluate") for row in objects}
        assert {one.uri for one in mistakes} == {uri for uri, answer in told.items() if not answer["right"]}
        assert len(mistakes) > 20
        for one in mistakes:
            assert (one.true, one.predicted) == (told[one.uri]["true"], told[one.uri]["predicted"])
        assert [one.probability for one in mistakes] == sorted((one.probability for one in mistakes), reverse=True)
        assert over(run, "accuracy", 3).mistakes == mistakes[:3]

    def test_of_a_class_is_over_the_records_of_the_class(self, run: PipelineRun) -> None:
        mistakes = over(run, "accuracy").mistakes
        metrics = run.tasks["evaluate"].metrics
        name = mistakes[0].predicted
        recall, precision = over(run, f"recall.{name}"), over(run, f"precision.{name}")
        assert recall.right == precision.right
        assert recall.right / recall.records == pytest.approx(metrics[f"recall.{name}"])
        assert precision.right / precision.records == pytest.approx(metrics[f"precision.{name}"])
        assert [one.uri for one in precision.mistakes] == [one.uri for one in mistakes if one.predicted == name]
        assert [one.uri for one in recall.mistakes] == [one.uri for one in mistakes if one.true == name]
        assert precision.which == f"that are taken for {name!r}"
        f1 = over(run, f"f1.{name}")
        assert 2 * f1.right / (recall.records + precision.records) == pytest.approx(metrics[f"f1.{name}"])
        assert f1.wrong == recall.wrong + precision.wrong

    def test_of_no_records_has_tasks_alone(self, run: PipelineRun) -> None:
        for metric in ("evaluate.size_bytes", "evaluate.latency_ms", "manifest.objects"):
            found, (task, _, name) = trace(run, metric), metric.partition(".")
            assert found.measured is None
            assert found.steps[-1].facts == {name: run.tasks[task].metrics[name]}
        assert "train, whose answers are not kept" in over(run, "overfit_gap").which

    def test_leads_to_the_manifest_and_the_model(self, run: PipelineRun) -> None:
        found = trace(run, "evaluate.accuracy")
        assert found.revision == run.revision
        for task, port in (("manifest", "manifest"), ("preprocess", "records"), ("train", "model")):
            assert step(found, task)[port]["sha256"] == run.tasks[task].outputs[port].digest
        assert found.steps[-1].parameters == {"latency_runs": 1, "mistakes": 2}

    def test_whose_answers_were_damaged(self, run: PipelineRun, tmp_path: Path) -> None:
        folder = tmp_path / "outputs" / "predictions"
        folder.mkdir(parents=True)
        (folder / "answers-00000.parquet").write_bytes(b"PAR1")
        task = run.tasks["evaluate"].model_copy(update={"directory": tmp_path})
        damaged = run.model_copy(update={"tasks": run.tasks | {"evaluate": task}})
        with pytest.raises(DataError, match=r"the answers in .* can't be read"):
            trace(damaged, "evaluate.accuracy")


class TestCommand:
    def say(self, capsys: pytest.CaptureFixture[str], root: Path, *words: str) -> str:
        assert main(["lineage", "latest", *words, "--root", str(root)]) == 0
        return capsys.readouterr().out

    def test_metric(self, run: PipelineRun, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
        found = over(run, "accuracy")
        told = self.say(capsys, root, "evaluate.accuracy")
        counts = f"{found.right} are classified correctly, {found.wrong} are not"
        assert f"over {found.records} records of the channel test (the manifest has {found.objects} objects" in told
        assert counts in told
        assert "the most confident first, the first 20; --json lists all:" in told
        assert [line.split()[-1] for line in told.splitlines() if ", taken for " in line] == [
            one.uri for one in found.mistakes[:20]
        ]

    def test_metric_as_json(self, run: PipelineRun, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
        told = json.loads(self.say(capsys, root, "evaluate.accuracy", "--json"))["measured"]
        assert told == over(run, "accuracy").model_dump(mode="json")

    def test_object(self, run: PipelineRun, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
        wrong = over(run, "accuracy").mistakes[0]
        told = self.say(capsys, root, wrong.uri)
        for fact in (f"true={wrong.true}", f"predicted={wrong.predicted}", "right=false", "shown as a mistake in="):
            assert fact in told

    def test_run(self, run: PipelineRun, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert "evaluate.predictions" in self.say(capsys, root)
        made = {f"{one.task}.{one.output}": one.made_from for one in of_run(run).artifacts}
        assert made["evaluate.predictions"] == ("preprocess.records", "train.model")


def test_the_report_names_objects_to_ask_about(run: PipelineRun, root: Path) -> None:
    mistakes = over(run, "accuracy").mistakes
    often, _ = Counter((one.true, one.predicted) for one in mistakes).most_common(1)[0]
    surest = next(one.uri for one in mistakes if (one.true, one.predicted) == often)
    section = (root / "runs" / run.id / "report.html").read_text().partition('id="answers-title"')[2]
    assert shlex.quote(surest) in html.unescape(section.partition("</section>")[0])
