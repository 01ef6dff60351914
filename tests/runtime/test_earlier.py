"""Artifacts of earlier runs are found here, and copied from buckets."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from millrace.compilers import kubeflow, sagemaker
from millrace.components.manifest.spec import ManifestParameters, manifest
from millrace.components.preprocess.spec import Previous
from millrace.components.shard.spec import ShardParameters, shard
from millrace.errors import ConfigError, DataError
from millrace.runners.local import LocalRunner, run_pipeline
from millrace.runners.refusals import with_full_ids
from millrace.runtime.earlier import earlier_folder
from millrace.specs import PipelineConfig, pipeline
from millrace.targets.kubeflow import Kubeflow
from millrace.targets.sagemaker import SageMaker
from tests.conftest import Bucket


def write_artifact(folder: Path) -> Path:
    for name in ("plan.json", "shards/a b.parquet", "manifests/a.manifest"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    return folder


def found_in(folder: Path) -> list[str]:
    return sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())


class TestFolders:
    def test_here(self, tmp_path: Path) -> None:
        folder = write_artifact(tmp_path / "made here")
        assert earlier_folder(str(folder), "shards", tmp_path) == folder
        assert earlier_folder(folder.as_uri(), "shards", tmp_path) == folder
        for location in (str(tmp_path / "nowhere"), str(folder / "plan.json")):
            with pytest.raises(DataError, match="there is no folder at"):
                earlier_folder(location, "shards", tmp_path)

    def test_in_a_bucket(self, tmp_path: Path, s3: Bucket) -> None:
        location = s3.upload(write_artifact(tmp_path / "made"), "runs/7/shards")
        s3.put("runs/7/shards-of-another/plan.json", b"")
        copied = earlier_folder(location, "shards", tmp_path)
        assert found_in(copied) == ["manifests/a.manifest", "plan.json", "shards/a b.parquet"]
        assert all((copied / name).read_text() == name for name in found_in(copied))
        some = earlier_folder(f"{location}/", "shards", tmp_path, names=("plan.json", "shards/*"))
        assert found_in(some) == ["plan.json", "shards/a b.parquet"]
        with pytest.raises(DataError, match="there is nothing of that name"):
            earlier_folder(s3.uri("runs/8"), "shards", tmp_path)

    def test_of_a_run(self, tmp_path: Path) -> None:
        made = write_artifact(tmp_path / "tasks" / "shard" / "0123" / "outputs" / "shards")
        outputs = {"shards": {"path": "outputs/shards", "digest": "", "bytes": 0}}
        tasks = {"plan": {"directory": str(made.parents[1]), "outputs": outputs}, "train": {"outputs": {}}}
        record = tmp_path / "runs" / "run-7" / "run.json"
        record.parent.mkdir(parents=True)
        record.write_text(json.dumps({"id": "run-7", "tasks": tasks}))
        scratch = tmp_path / "tasks" / "plan" / "4567" / "scratch"
        assert earlier_folder("run:run-7/plan", "shards", scratch) == made
        with pytest.raises(DataError, match="no shards of a task 'train'; it has shards of: plan"):
            earlier_folder("run:run-7/train", "shards", scratch)
        with pytest.raises(DataError, match="no manifest of a task 'plan'; it made none before it ended"):
            earlier_folder("run:run-7/plan", "manifest", scratch)
        with pytest.raises(DataError, match="no run of that id in the runner's folder, the last ones are run-7;"):
            earlier_folder("run:run-8/plan", "shards", scratch)

    @pytest.mark.parametrize("content", ["{", "[]", '{"tasks": 7}', '{"tasks": {"plan": 7}}'])
    def test_a_broken_record(self, tmp_path: Path, content: str) -> None:
        record = tmp_path / "runs" / "run-7" / "run.json"
        record.parent.mkdir(parents=True)
        record.write_text(content)
        with pytest.raises(DataError, match="the record of that run can't be read"):
            earlier_folder("run:run-7/plan", "shards", tmp_path / "scratch")


class TestParameters:
    @pytest.mark.parametrize("location", ["run:7", "run:7/", "ftp://bucket/x", ""])
    def test_what_names_nothing(self, location: str) -> None:
        for make in (
            lambda: ShardParameters(previous=location),
            lambda: ManifestParameters(previous=location),
            lambda: Previous(records=location),
        ):
            with pytest.raises(ValidationError, match=r"run:ID/TASK|at least 1 character"):
                make()


class Plan(PipelineConfig):
    manifest: ManifestParameters = ManifestParameters(source="s3://bucket/photos")
    shard: ShardParameters = ShardParameters()


@pipeline
def plan(config: Plan) -> None:
    listed = manifest(config.manifest)
    shard(config.shard, manifest=listed.manifest)


class TestElsewhere:
    """What no other machine can find is refused before anything starts."""

    @pytest.mark.parametrize("task", ["manifest", "shard"])
    def test_earlier_runs_do_not_compile(self, task: str) -> None:
        given = {"manifest": {"source": "s3://bucket/photos"}}
        given.setdefault(task, {})["previous"] = "run:7/shard"
        spec = plan.compose(Plan.model_validate(given))
        told = f"^{task}.previous=run:7/shard: only the local runner knows earlier runs: upload the folder"
        with pytest.raises(ConfigError, match=told):
            kubeflow.compile_pipeline(spec, Kubeflow())
        with pytest.raises(ConfigError, match=told):
            sagemaker.compile_pipeline(spec, TARGET)

    def test_nothing_starts_without_it(self, tmp_path: Path) -> None:
        source = tmp_path / "photos"
        source.mkdir()
        for previous, told in (("run:7/shard", "there is no run of that id"), ("/nowhere", "there is nothing at")):
            config = Plan(manifest=ManifestParameters(source=str(source)), shard=ShardParameters(previous=previous))
            with pytest.raises((ConfigError, DataError), match=rf"shard\.previous={previous}: {told}"):
                run_pipeline(plan.compose(config), LocalRunner(root=tmp_path / "runs"))


class TestNames:
    """`latest` and beginnings of ids become whole ids before anything is cached."""

    def test_of_runs(self, tmp_path: Path) -> None:
        for name, made in (("20260101-a", ["shards"]), ("20260102-b", ["shards"]), ("20260103-c", [])):
            folder = tmp_path / "runs" / name
            folder.mkdir(parents=True)
            (folder / "run.json").write_text(json.dumps({"tasks": {"shard": {"outputs": dict.fromkeys(made)}}}))
        for given, whole in (("latest", "20260102-b"), ("20260103", "20260103-c"), ("20260101-a", "20260101-a")):
            config = Plan(shard=ShardParameters(previous=f"run:{given}/shard", seed=3))
            named = with_full_ids(plan.compose(config), tmp_path).task("shard").parameters
            assert (named["previous"], named["seed"]) == (f"run:{whole}/shard", 3)
        for given, told in (("2026", "3 runs begin so"), ("latest/plan", "no run that has made plan in")):
            config = Plan(shard=ShardParameters(previous=f"run:{given.partition('/')[0]}/{given[7:] or 'shard'}"))
            with pytest.raises(ConfigError, match=rf"^shard\.previous=run:{given}.*: .*{told}"):
                with_full_ids(plan.compose(config), tmp_path)


TARGET = SageMaker(role="arn:aws:iam::123456789012:role/R", bucket="lab")
