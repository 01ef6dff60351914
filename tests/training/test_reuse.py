"""Trained models are found wherever they are, and refused when they are not what was asked for."""

from __future__ import annotations

import hashlib
import json
import logging
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import boto3
import keras
import numpy as np
import pytest

from millrace.compilers import kubeflow, sagemaker
from millrace.compilers.sagemaker.iam import policies
from millrace.components.manifest.spec import ManifestParameters, manifest
from millrace.components.preprocess.spec import PreprocessParameters, preprocess
from millrace.components.shard.spec import ShardParameters, shard
from millrace.components.train.spec import train
from millrace.errors import ConfigError, DataError, UserError
from millrace.runners.local import LocalRunner, run_pipeline
from millrace.runtime.schemas import ModelCard
from millrace.specs import Distribution, Model, PipelineConfig, Records, pipeline
from millrace.targets.kubeflow import Kubeflow
from millrace.targets.sagemaker import SageMaker
from millrace.training.options.images import Pixels
from millrace.training.options.models import Application, Mlp
from millrace.training.options.reuse import FineTuning, Teacher
from millrace.training.parameters import TrainInputs, TrainParameters
from millrace.training.refusals import refuse
from millrace.training.reuse import find, find_all, load, with_inputs
from tests.conftest import Bucket
from tests.training.reuse_data import SCHEMA, context_in, loaded, packed, write_model

layers = keras.layers
LOG = logging.getLogger("millrace")
ARN = "arn:aws:sagemaker:us-east-1:123456789012:model-package/flowers/1"


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def chain(*stack: Any, shape: tuple[int, ...] = (8, 8, 1)) -> Any:
    return keras.Sequential([keras.Input(shape), layers.Flatten(), *stack])


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "model")


@pytest.fixture(scope="module")
def archive(artifact: Path) -> Path:
    return packed(artifact, artifact.with_name("model.tar.gz"))


class TestFinding:
    @pytest.mark.parametrize(
        "named",
        [
            lambda folder: str(folder),
            lambda folder: str(folder / "model.keras"),
            lambda folder: str(folder.with_name("model.tar.gz")),
            lambda folder: (folder / "model.keras").as_uri(),
        ],
    )
    def test_here(self, tmp_path: Path, artifact: Path, archive: Path, named: Callable[[Path], str]) -> None:
        model = named(artifact)
        file = archive if model.endswith(".gz") else artifact / "model.keras"
        found = find(model, digest(file), context_in(tmp_path), title="a model")
        assert found.digest == digest(artifact / "model.keras")
        assert found.card is not None
        weights = load(found, SCHEMA, same_classes=True).get_weights()
        expected = loaded(artifact).get_weights()
        assert all(np.array_equal(one, other) for one, other in zip(weights, expected, strict=True))

    @pytest.mark.parametrize("key", ["a/model", "a/model/model.keras", "b/model.tar.gz"])
    def test_in_s3(self, tmp_path: Path, s3: Bucket, artifact: Path, archive: Path, key: str) -> None:
        s3.upload(artifact, "a/model")
        s3.put("b/model.tar.gz", archive.read_bytes())
        file = archive if key.endswith(".gz") else artifact / "model.keras"
        found = find(s3.uri(key), digest(file), context_in(tmp_path), title="a model")
        assert found.digest == digest(artifact / "model.keras")
        assert (found.card is None) == key.endswith(".keras")
        with pytest.raises(DataError, match=r"a model: .* has SHA-256 \w+, asked for is 0000"):
            find(s3.uri(key), "0" * 64, context_in(tmp_path), title="a model")
        with pytest.raises(DataError, match="no such object"):
            find(s3.uri("nowhere.keras"), "0" * 64, context_in(tmp_path), title="a model")

    def test_in_the_registry(self, tmp_path: Path, s3: Bucket, artifact: Path, archive: Path) -> None:
        registry: Any = boto3.client("sagemaker")
        registry.create_model_package_group(ModelPackageGroupName="flowers")
        container = {"Image": "image", "ModelDataUrl": s3.put("b/model.tar.gz", archive.read_bytes())}
        arn = registry.create_model_package(
            ModelPackageGroupName="flowers",
            InferenceSpecification={
                "Containers": [container],
                "SupportedContentTypes": ["image/png"],
                "SupportedResponseMIMETypes": ["application/json"],
            },
        )["ModelPackageArn"]
        found = find(arn, digest(archive), context_in(tmp_path), title="a model")
        assert found.digest == digest(artifact / "model.keras")
        with pytest.raises(DataError, match="can't be described"):
            find(f"{arn}23", digest(archive), context_in(tmp_path), title="a model")

    def test_of_an_earlier_run(self, tmp_path: Path, artifact: Path) -> None:
        outputs = {"model": {"path": artifact.name, "digest": "", "bytes": 0}}
        tasks = {"train": {"directory": str(artifact.parent), "outputs": outputs}, "plan": {"outputs": {}}}
        record = tmp_path / "runs" / "run-7" / "run.json"
        record.parent.mkdir(parents=True)
        record.write_text(json.dumps({"id": "run-7", "tasks": tasks}))
        context = context_in(tmp_path / "tasks" / "train" / "0123")
        assert find("run:run-7/train", None, context, title="a model").file == artifact / "model.keras"
        with pytest.raises(DataError, match="no model of a task 'plan'; it has models of: train"):
            find("run:run-7/plan", None, context, title="a model")
        with pytest.raises(DataError, match="no run of that id in the runner's folder, the last ones are run-7;"):
            find("run:run-8/train", None, context, title="a model")

    def test_of_a_run_that_made_none(self, tmp_path: Path) -> None:
        record = tmp_path / "runs" / "run-7" / "run.json"
        record.parent.mkdir(parents=True)
        record.write_text(json.dumps({"id": "run-7", "tasks": {"train": {"outputs": {}}}}))
        with pytest.raises(DataError, match="no model of a task 'train'; it made none before it ended: name another"):
            find("run:run-7/train", None, context_in(tmp_path / "tasks" / "train" / "0123"), title="a model")

    @pytest.mark.parametrize("base", [True, False])
    def test_the_network_of_the_preset_is_not_used(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture, base: bool
    ) -> None:
        caplog.set_level("INFO")
        given = TrainInputs(records=Records(), base=Model(location=tmp_path) if base else None)
        tuning = None if base else FineTuning(model="m")
        network = TrainParameters(model=Mlp(), fine_tuning=tuning)
        assert with_inputs(network, given, LOG) == with_inputs(TrainParameters(fine_tuning=tuning), given, LOG)
        assert caplog.messages == [
            "model is not used: the trained model that training starts from brings its own network"
        ]

    def test_roles(self, tmp_path: Path, artifact: Path) -> None:
        inputs = TrainInputs(records=Records(), base=Model(location=artifact))
        parameters = with_inputs(TrainParameters(teacher=Teacher(model=str(artifact))), inputs, LOG)
        assert parameters.fine_tuning == FineTuning()
        sources = find_all(parameters, inputs, context_in(tmp_path))
        of_files = {"": digest(artifact / "model.keras"), " model.json": digest(artifact / "model.json")}
        assert sources.digests == {f"{role}{file}": of_files[file] for role in ("base", "teacher") for file in of_files}
        plain = TrainInputs(records=Records())
        assert find_all(with_inputs(TrainParameters(), plain, LOG), plain, context_in(tmp_path)).digests == {}


class TestRefusals:
    def find(self, tmp_path: Path, place: Path) -> None:
        find(str(place), None, context_in(tmp_path), title="a model")

    def write(self, path: Path, **files: str) -> Path:
        names = {"config": "config.json", "metadata": "metadata.json", "weights": "model.weights.h5"}
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in files.items():
                archive.writestr(names[name], content)
        return path

    def test_what_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="a model: there is nothing at"):
            self.find(tmp_path, tmp_path / "nowhere")
        with pytest.raises(DataError, match=r"a model: there is no model\.keras in"):
            self.find(tmp_path, tmp_path)

    def test_quantized_models(self, tmp_path: Path) -> None:
        folder = tmp_path / "small"
        folder.mkdir()
        (folder / "model.tflite").write_bytes(b"")
        for place in (folder, packed(folder, tmp_path / "small.tar.gz")):
            with pytest.raises(DataError, match="a quantized model, which can't be trained: take the model that was"):
                self.find(tmp_path, place)

    def test_several_models_in_an_archive(self, tmp_path: Path, artifact: Path) -> None:
        for name in ("one", "two"):
            (tmp_path / "models" / name).mkdir(parents=True)
            (tmp_path / "models" / name / "model.keras").write_bytes((artifact / "model.keras").read_bytes())
        with pytest.raises(DataError, match=r"2 models: one/model\.keras, two/model\.keras; needed: one"):
            self.find(tmp_path, packed(tmp_path / "models", tmp_path / "models.tar.gz"))

    def test_files_of_other_kinds(self, tmp_path: Path) -> None:
        chain(layers.Dense(3, activation="softmax")).save(tmp_path / "old.h5")
        with pytest.raises(DataError, match=r"is no Keras model: old\.h5: .*needed: a \.keras file"):
            self.find(tmp_path, tmp_path / "old.h5")
        with pytest.raises(DataError, match=r"is no Keras model: model\.keras holds config\.json"):
            self.find(tmp_path, self.write(tmp_path / "model.keras", config="{}"))

    def test_files_that_grow(self, tmp_path: Path) -> None:
        bomb = self.write(tmp_path / "model.keras", config=" " * (65 * 2**20), metadata="{}", weights="")
        assert bomb.stat().st_size < 2**17
        with pytest.raises(DataError, match="which is too much"):
            self.find(tmp_path, bomb)

    def test_code(self, tmp_path: Path) -> None:
        chain(layers.Lambda(lambda x: x), layers.Dense(3)).save(tmp_path / "lambda.keras")
        with pytest.raises(DataError, match="has a Lambda layer, whose code is not run"):
            self.find(tmp_path, tmp_path / "lambda.keras")
        for module, name in (("os", "system"), ("keras_hub.layers", "SinePositionEncoding")):
            config = json.dumps({"module": module, "class_name": name, "config": {}})
            with pytest.raises(DataError, match=rf"needs code of its own, {module}\.{name}"):
                self.find(tmp_path, self.write(tmp_path / "model.keras", config=config, metadata="{}", weights=""))

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"height": 9}, r"takes images of 8 x 8 .*the records are 9 x 8"),
            ({"channels": 3}, "with 1 channel, the records are 8 x 8 pixels with 3"),
            ({"classes": ("east", "north")}, "different classes: 'west' only in the model"),
            ({"classes": ("west", "north", "east")}, "the same names in another order"),
        ],
    )
    def test_other_records(self, tmp_path: Path, artifact: Path, change: dict[str, Any], message: str) -> None:
        found = find(str(artifact), None, context_in(tmp_path), title="a model")
        with pytest.raises(DataError, match=message):
            load(found, SCHEMA.model_copy(update=change), same_classes=True)

    @pytest.mark.parametrize(
        ("model", "message"),
        [
            (lambda: chain(layers.Dense(4, activation="softmax")), r"answers with \(4,\) numbers, .* 3 classes"),
            (lambda: chain(layers.Dense(3), shape=(8, 9, 1)), r"takes records of shape \(8, 9, 1\), .*\(8, 8, 1\)"),
        ],
    )
    def test_models_without_a_card(self, tmp_path: Path, model: Callable[[], Any], message: str) -> None:
        model().save(tmp_path / "foreign.keras")
        found = find(str(tmp_path / "foreign.keras"), None, context_in(tmp_path), title="a model")
        with pytest.raises(DataError, match=message):
            load(found, SCHEMA, same_classes=True)

    def test_cards_of_other_formats(self, tmp_path: Path, artifact: Path) -> None:
        folder = write_model(tmp_path / "model")
        card = ModelCard.model_validate_json((folder / "model.json").read_bytes())
        (folder / "model.json").write_text(card.model_copy(update={"format": "litert"}).model_dump_json())
        (folder / "model.tflite").write_bytes(b"")
        with pytest.raises(DataError, match="quantized"):
            self.find(tmp_path, folder)


class TestOptions:
    @pytest.mark.parametrize(
        "wrong",
        [
            {"model": "s3://bucket/model.keras"},
            {"model": "gs://bucket/model"},
            {"model": ARN},
            {"model": "arn:aws:s3:::bucket/model.keras", "sha256": "0" * 64},
            {"model": "https://example.com/model.keras", "sha256": "0" * 64},
            {"model": "run:seven"},
            {"sha256": "0" * 64},
        ],
    )
    def test_places(self, wrong: dict[str, Any]) -> None:
        for kind in (FineTuning, Teacher):
            with pytest.raises(ValueError, match="model"):
                kind.model_validate(wrong)

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            ({"fine_tuning": {"layer_decay": 0.5, "multipliers": {"a": 1}}}, "leave one of them out"),
            ({"fine_tuning": {"model": "m", "frozen_epochs": 3}, "epochs": 3}, "leaves no epoch of 3"),
            (
                {"fine_tuning": {}, "model": {"kind": "application", "weights": "w.h5", "trainable": False}},
                "unfreeze=0 does",
            ),
        ],
    )
    def test_contradictions(self, given: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            TrainParameters.model_validate(given)

    def test_numbers_as_text(self) -> None:
        assert FineTuning.model_validate({"unfreeze": "3"}).unfreeze == 3
        assert FineTuning.model_validate({"unfreeze": "block_3"}).unfreeze == "block_3"

    @pytest.mark.parametrize(
        ("parameters", "inputs", "message"),
        [
            (TrainParameters(fine_tuning=FineTuning(model="m")), ["base"], "the input 'base' is a model, too"),
            (TrainParameters(teacher=Teacher(model="m")), ["teacher"], "the input 'teacher' is a model, too"),
            (TrainParameters(teacher=Teacher()), [], r"teacher\.model is missing"),
            (TrainParameters(fine_tuning=FineTuning()), [], r"nothing to start from: model\.kind=cnn has random"),
            (TrainParameters(fine_tuning=FineTuning(), model=Application()), [], "nothing to start from"),
            (TrainParameters(fine_tuning=FineTuning(head="keep"), model=Application(weights="w.h5")), [], "head=keep"),
            (
                TrainParameters(model=Application(weights="w.h5")),
                ["base"],
                r"model\.weights=w\.h5, but training starts",
            ),
            (TrainParameters(pixels=Pixels(rescale=1)), ["base"], "pixels is set"),
        ],
    )
    def test_are_refused_while_compiling(self, parameters: TrainParameters, inputs: list[str], message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            refuse(parameters.model_dump(mode="json"), [*inputs, "records"], Distribution())

    def test_ports_are_optional(self) -> None:
        ports = {port.name: port.optional for port in train.spec.inputs}
        assert ports["base"]
        assert ports["teacher"]


PATHS: list[tuple[dict[str, Any], str]] = [
    ({"fine_tuning": {"model": "run:7/train"}}, r"fine_tuning\.model=run:7/train: only the local runner knows"),
    ({"teacher": {"model": "run:7/train"}}, r"teacher\.model=run:7/train: only the local runner knows"),
    ({"fine_tuning": {"model": "/models/flowers"}}, r"fine_tuning\.model=/models/flowers: a path of this machine"),
    ({"teacher": {"model": "flowers.keras"}}, r"teacher\.model=flowers\.keras: a path of this machine.*sha256"),
    ({"model": {"kind": "bert", "weights": "file:///w.h5"}}, r"model\.weights=file:///w\.h5: a path of this machine"),
    ({"parallel": {"tensor": 2}}, r"parallel\.tensor=2 must divide"),
    ({"elastic": {}}, r"elastic\.min_workers=1, with 1 rank"),
    ({"teacher": {}}, r"teacher\.model is missing"),
]


class TestOneRank:
    """What no other machine can do is refused by the compilers, with one rank as with several."""

    @pytest.mark.parametrize(("given", "told"), PATHS)
    def test_refused(self, given: dict[str, Any], told: str) -> None:
        spec = twice.compose(Twice(first=TrainParameters.model_validate(given)))
        with pytest.raises(UserError, match=rf"^first\.{told}"):
            kubeflow.compile_pipeline(spec, Kubeflow())
        with pytest.raises(UserError, match=rf"^first\.{told}"):
            sagemaker.compile_pipeline(spec, TestPipelines.target)

    def test_mounted_models_are_not(self) -> None:
        given = TrainParameters(fine_tuning=FineTuning(model="/models/flowers"))
        mounted = Kubeflow.model_validate({"pod": {"volume_claims": [{"claim": "models", "path": "/models"}]}})
        assert kubeflow.compile_pipeline(twice.compose(Twice(first=given)), mounted)


class TestRunHere:
    """Nothing is started, when the last task could not."""

    @pytest.mark.parametrize(
        ("given", "processes", "told"),
        [
            ({"parallel": {"tensor": 3}}, 2, r"second\.parallel\.tensor=3 must divide"),
            ({"strategy": "single"}, 2, r"second\.strategy=single, but 2 ranks .* hosts=1, processes=1"),
            ({"batch_size": 2}, 3, r"second\.batch_size=2: .* choose 3 or more"),
            ({"elastic": {}, "strategy": "multiworker"}, 2, r"second\.elastic: strategy=multiworker"),
            ({"teacher": {"model": "/nowhere"}}, 1, r"second\.teacher\.model=/nowhere: there is nothing at /nowhere"),
            (
                {"teacher": {"model": "run:7/train"}},
                1,
                "there is no run of that id in .*/runs; the last ones are run-6",
            ),
        ],
    )
    def test_refused(self, tmp_path: Path, given: dict[str, Any], processes: int, told: str) -> None:
        (tmp_path / "runs" / "run-6").mkdir(parents=True)
        (tmp_path / "runs" / "run-6" / "run.json").touch()
        parameters = TrainParameters.model_validate(given).model_dump(mode="json")
        change = {"parameters": parameters, "distribution": Distribution(processes=processes)}
        spec = twice.compose(Twice())
        tasks = [task.model_copy(update=change) if task.name == "second" else task for task in spec.tasks]
        for task in tasks:
            task.inputs.pop("base", None)
        with pytest.raises(UserError, match=told):
            run_pipeline(spec.model_copy(update={"tasks": tuple(tasks)}), LocalRunner(root=tmp_path))
        assert not (tmp_path / "tasks").exists()


class Twice(PipelineConfig):
    """Configuration of two trainings, one after the other."""

    manifest: ManifestParameters = ManifestParameters(source="s3://pictures/all")
    first: TrainParameters = TrainParameters()
    second: TrainParameters = TrainParameters()


@pipeline
def twice(config: Twice) -> None:
    """Train, and train on with what was trained."""
    plan = shard(ShardParameters(), manifest=manifest(config.manifest).manifest)
    records = preprocess(PreprocessParameters(), shards=plan.shards).records
    first = train.with_options(name="first")(config.first, records=records)
    train.with_options(name="second")(config.second, records=records, base=first.model)


class TestPipelines:
    target = SageMaker(role="arn:aws:iam::123456789012:role/R", bucket="lab")

    def test_kubeflow(self) -> None:
        text = kubeflow.compile_pipeline(twice.compose(Twice()), Kubeflow())
        assert "base={{$.inputs.artifacts['base'].path}}" in text

    @pytest.mark.parametrize(
        ("model", "name", "resource"),
        [
            ("s3://models/teacher.tar.gz", "ReadObjects", "arn:aws:s3:::models/teacher.tar.gz"),
            (ARN, "ReadModelPackages", ARN),
        ],
    )
    def test_sagemaker(self, model: str, name: str, resource: str) -> None:
        config = Twice(second=TrainParameters(teacher=Teacher(model=model, sha256="0" * 64)))
        text = sagemaker.compile_pipeline(twice.compose(config), self.target)
        [second] = [step for step in json.loads(text)["Steps"] if step["Name"] == "second"]
        channels = {
            one["ChannelName"]: one["DataSource"]["S3DataSource"] for one in second["Arguments"]["InputDataConfig"]
        }
        assert channels["base"]["S3Uri"] == {"Get": "Steps.first.ModelArtifacts.S3ModelArtifacts"}
        assert second["Arguments"]["Environment"]["MILLRACE_ARCHIVES"] == "base=."
        [statement] = [
            one
            for one in policies(text, "twice", self.target).documents["execution"]["Statement"]
            if one["Sid"] == name
        ]
        assert resource in statement["Resource"]

    def test_settings_that_a_base_leaves_no_use_for(self) -> None:
        config = Twice(second=TrainParameters(pixels=Pixels(rescale=1)))
        with pytest.raises(ConfigError, match=r"second\.pixels is set, but training starts from a trained model"):
            sagemaker.compile_pipeline(twice.compose(config), self.target)
