"""BERT: the network is keras-hub's, each hyperparameter does what it says, SageMaker and Katib can read the log."""

from __future__ import annotations

import hashlib
import json
import re
import zipfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import keras
import keras_hub
import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import ValidationError

from millrace.compilers.sagemaker import compile_pipeline
from millrace.components.bert.refusals import refuse
from millrace.components.bert.spec import BertParameters, bert
from millrace.components.train.spec import TrainParameters, train
from millrace.errors import ConfigError, DataError, UserError, explain_validation
from millrace.pipelines.text_classification import TextClassification, text_classification
from millrace.runtime.schemas import ImageRecords, ModelCard, TextRecords
from millrace.runtime.task import GivenArtifact, TaskRequest, launch, read_result
from millrace.specs import Distribution
from millrace.specs.charts import Table, charts_adapter
from millrace.targets.images import Images
from millrace.targets.sagemaker import SageMaker
from millrace.testing import Ran, run_component
from millrace.training.models import build_model, load_pretrained
from millrace.training.options.models import Bert
from millrace.training.options.schedules import EarlyStopping
from tests.components.text_data import CLASSES, LENGTH, text_schema, write_text_records
from tests.components.train_data import write_picture_records
from tests.conftest import needed
from tests.runtime.launcher.groups import group_of

TINY = Bert(layers=1, heads=2, hidden=16, intermediate=32, positions=16, dropout=0, pooling="average")
QUICK = {"model": TINY, "epochs": 2, "learning_rate": 0.01, "train_batch_size": 16}
KATIB = re.compile(r"([\w|-]+)\s*=\s*([+-]?\d*(?:\.\d+)?(?:[Ee][+-]?\d+)?)")
"""The default filter of Katib's collector."""


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_text_records(tmp_path_factory.mktemp("texts") / "records")


def texts(count: int = 6) -> NDArray[np.int32]:
    """Token ids of different lengths, padded."""
    random = np.random.default_rng(0)
    ids = random.integers(1, text_schema().vocabulary_size, (count, LENGTH)).astype(np.int32)
    for row in ids:
        row[random.integers(2, LENGTH + 1) :] = 0
    return ids


def built(choice: Bert, policy: str = "float32", schema: TextRecords | ImageRecords | None = None) -> Any:
    return build_model(TrainParameters(model=choice), schema or text_schema(), policy=policy)


def hub(choice: Bert, vocabulary: int = text_schema().vocabulary_size) -> Any:
    """A BertBackbone of that size with weights that no initialiser draws."""
    backbone = keras_hub.models.BertBackbone(
        vocabulary, choice.layers, choice.heads, choice.hidden, choice.intermediate, choice.dropout, choice.positions
    )
    random = np.random.default_rng(1)
    backbone.set_weights([random.normal(0, 0.5, weight.shape) for weight in backbone.weights])
    return backbone


def answered(backbone: Any, ids: NDArray[np.int32]) -> dict[str, Any]:
    outputs: dict[str, Any] = backbone(
        {"token_ids": ids, "segment_ids": np.zeros_like(ids), "padding_mask": (ids != 0).astype(np.int32)}
    )
    return outputs


class TestNetwork:
    @pytest.mark.parametrize("form", ["file", "preset"])
    def test_it_is_the_backbone_of_keras_hub(self, tmp_path: Path, form: str) -> None:
        choice = TINY.model_copy(update={"layers": 2, "pooling": "cls"})
        backbone = hub(choice)
        weights = tmp_path / ("model.weights.h5" if form == "file" else "preset")
        backbone.save_weights(weights) if form == "file" else backbone.save_to_preset(str(weights))
        named = choice.model_copy(update={"weights": str(weights)})
        model = built(named)
        load_pretrained(model, named, text_schema(), tmp_path)
        found = model.get_layer("backbone")(texts())
        np.testing.assert_allclose(found, answered(backbone, texts())["pooled_output"], atol=1e-6)

    def test_the_average_is_that_of_the_tokens_without_padding(self, tmp_path: Path) -> None:
        backbone = hub(TINY)
        backbone.save_weights(tmp_path / "model.weights.h5")
        named = TINY.model_copy(update={"weights": str(tmp_path / "model.weights.h5")})
        model = built(named)
        load_pretrained(model, named, text_schema(), tmp_path)
        every = answered(backbone, texts())["sequence_output"].numpy()
        mask = (texts() != 0)[..., None]
        found = model.get_layer("backbone")(texts())
        np.testing.assert_allclose(found, (every * mask).sum(1) / mask.sum(1), atol=1e-6)

    def test_padding_and_the_other_texts_make_no_difference(self) -> None:
        model = built(TINY.model_copy(update={"pooling": "cls"}))
        together = model(texts()).numpy()
        assert np.allclose(model(texts()[2:3]).numpy(), together[2:3], atol=1e-6)
        assert model(texts()[:0]).shape == (0, len(CLASSES))

    def test_initial_weights_are_the_seeds(self) -> None:
        first, again = built(TINY).get_weights(), built(TINY).get_weights()
        assert all(np.array_equal(one, other) for one, other in zip(first, again, strict=True))

    def test_probabilities_are_float32_in_mixed_precision(self) -> None:
        model = built(TINY, "mixed_bfloat16")
        assert model(texts()).dtype == "float32"
        assert np.allclose(model(texts()), built(TINY)(texts()), atol=0.02)

    def test_frozen_weights_leave_the_classes_to_learn(self, tmp_path: Path) -> None:
        hub(TINY).save_weights(tmp_path / "model.weights.h5")
        weights = str(tmp_path / "model.weights.h5")
        told = BertParameters(model=TINY.model_copy(update={"weights": weights}), freeze_bert_layer=True).training()
        assert len(build_model(told, text_schema(), policy="float32").trainable_variables) == 2


class TestWeightsThatDoNotFit:
    def load(self, tmp_path: Path, **named: Any) -> None:
        choice = TINY.model_copy(update=named)
        load_pretrained(built(choice), choice, text_schema(), tmp_path)

    def test_another_size(self, tmp_path: Path) -> None:
        hub(TINY.model_copy(update={"layers": 2, "hidden": 8})).save_to_preset(str(tmp_path / "preset"))
        with pytest.raises(ConfigError, match=r"set model\.layers=2, model\.hidden=8$"):
            self.load(tmp_path, weights=str(tmp_path / "preset"))

    def test_another_vocabulary(self, tmp_path: Path) -> None:
        hub(TINY, vocabulary=99).save_to_preset(str(tmp_path / "preset"))
        with pytest.raises(DataError, match=r"knows 99 tokens, the records' vocabulary has"):
            self.load(tmp_path, weights=str(tmp_path / "preset"))
        with pytest.raises(DataError, match=r"does not fit a BertBackbone of layers=1, .* and a vocabulary of"):
            self.load(tmp_path, weights=str(tmp_path / "preset" / "model.weights.h5"))

    def test_another_digest_and_no_file(self, tmp_path: Path) -> None:
        hub(TINY).save_weights(tmp_path / "model.weights.h5")
        digest = hashlib.sha256((tmp_path / "model.weights.h5").read_bytes()).hexdigest()
        self.load(tmp_path, weights=str(tmp_path / "model.weights.h5"), sha256=digest)
        with pytest.raises(DataError, match=r"model\.sha256 asks for 000"):
            self.load(tmp_path, weights=str(tmp_path / "model.weights.h5"), sha256="0" * 64)
        with pytest.raises(DataError, match=r"^model\.weights: .*nowhere/config\.json: there is no such file"):
            self.load(tmp_path, weights=str(tmp_path / "nowhere"))

    def test_a_uri_needs_a_digest(self) -> None:
        with pytest.raises(ValidationError, match="need sha256"):
            Bert(weights="s3://bucket/bert")


class TestNetworksForOtherRecords:
    def test_bert_for_pictures(self, tmp_path: Path) -> None:
        pictures = write_picture_records(tmp_path / "records")
        with pytest.raises(ConfigError, match="the records hold pictures: use cnn, mlp, application or custom"):
            run_component(train, TrainParameters(model=TINY, batch_size=8), tmp_path / "train", records=pictures)
        with pytest.raises(ConfigError, match="the records hold images: use `train`"):
            run_component(bert, BertParameters(), tmp_path / "bert", records=pictures)

    def test_a_network_for_pictures_for_texts(self, tmp_path: Path, records: Path) -> None:
        with pytest.raises(
            ConfigError, match=r"model\.kind=cnn is not for texts, which the records hold: use model\.kind=bert"
        ):
            run_component(train, TrainParameters(batch_size=8), tmp_path, records=records)

    def test_texts_longer_than_the_positions(self) -> None:
        with pytest.raises(ConfigError, match=r"model\.positions=8, but the records have texts of up to 12 tokens"):
            built(TINY.model_copy(update={"positions": 8}))

    def test_another_length_than_the_records(self, tmp_path: Path, records: Path) -> None:
        with pytest.raises(ConfigError, match=r"max_seq_length=64, but the records have texts of up to 12 tokens"):
            run_component(bert, BertParameters(max_seq_length=64), tmp_path, records=records)


def test_each_hyperparameter_reaches_the_training() -> None:
    told = BertParameters(
        epochs=7, learning_rate=0.1, epsilon=0.2, train_batch_size=3, validation_batch_size=4, test_batch_size=5,
        train_steps_per_epoch=6, validation_steps=8, test_steps=9, run_test=True, use_xla=True, use_amp=True,
        enable_checkpointing=False, enable_tensorboard=False, run_validation=False, run_sample_predictions=True,
        enable_sagemaker_debugger=True,
    ).training()  # fmt: skip
    assert (told.epochs, told.learning_rate, getattr(told.optimizer, "epsilon", None)) == (7, 0.1, 0.2)
    assert (told.batch_size, told.validation_batch_size, told.test_batch_size) == (3, 4, 5)
    assert (told.steps_per_epoch, told.validation_steps, told.test_steps) == (6, 8, 9)
    assert (told.xla, told.deterministic, told.amp) == (True, False, True)
    assert (told.checkpoint_steps, told.tensorboard, told.validation) == (None, False, "end")
    assert told.sample_predictions == 5
    assert told.debug is not None
    plain = BertParameters(test_steps=9).training()
    assert (plain.test_steps, plain.sample_predictions, plain.debug, plain.deterministic) == (0, 0, None, True)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"freeze_bert_layer": True}, "freezes random weights"),
        ({"run_validation": False, "early_stopping": EarlyStopping()}, "gives no validation_loss after an epoch"),
        ({"model": {"heads": 3}}, "heads=3 must divide hidden=128"),
        ({"fine_tuning": {"model": "base.keras", "frozen_epochs": 3}}, "leaves no epoch of 3"),
    ],
)
def test_what_contradicts_itself_is_refused(asked: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as refused:
        BertParameters.model_validate(asked)
    assert message in explain_validation(refused.value, BertParameters)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, records: Path) -> Path:
    """A task directory with the log of a process of its own, as a container has it."""
    folder = tmp_path_factory.mktemp("bert") / "task"
    parameters = BertParameters.model_validate(
        {
            **QUICK, "epochs": 8, "run_test": True, "run_sample_predictions": True, "enable_sagemaker_debugger": True,
            "debug": {"every_steps": 5}, "validation_batch_size": 5, "max_seq_length": LENGTH,
        }
    )  # fmt: skip
    TaskRequest(
        name="bert",
        component=bert.spec.entry,
        parameters=parameters.model_dump(mode="json"),
        inputs={"records": (GivenArtifact(path=records),)},
    ).write(folder)
    assert launch(folder).wait(300) == 0, (folder / "log.txt").read_text()
    return folder


@pytest.mark.slow
class TestTraining:
    def metrics(self, trained: Path) -> dict[str, float]:
        result = read_result(trained)
        assert result is not None
        return result.metrics

    def test_it_learns(self, trained: Path) -> None:
        metrics = self.metrics(trained)
        assert metrics["accuracy"] > 0.9
        assert metrics["test_accuracy"] > 0.9
        assert metrics["epochs"] == 8

    def test_the_model_is_made_of_keras_alone(self, trained: Path) -> None:
        folder = trained / "outputs" / "model"
        with zipfile.ZipFile(folder / "model.keras") as archive:
            config = archive.read("config.json").decode()
        assert "keras_hub" not in config
        assert {name.partition(".")[0] for name in re.findall(r'"module": "([^"]+)"', config)} == {"keras"}
        model: Any = keras.models.load_model(folder / "model.keras")
        assert model.input.dtype == "int32"
        card = ModelCard.model_validate_json((folder / "model.json").read_bytes())
        assert (card.name, card.records.kind, card.parameters) == ("bert", "text", model.count_params())
        assert (folder / "vocabulary.txt").is_file()

    def test_sample_predictions_are_in_the_log_and_in_the_charts(self, trained: Path) -> None:
        charts = charts_adapter.validate_json((trained / "outputs" / "metrics" / "charts.json").read_bytes())
        (table,) = [chart for chart in charts if isinstance(chart, Table)]
        assert table.columns == ("text", "class", "answer", "probability")
        assert len(table.rows) == 5
        log = (trained / "log.txt").read_text()
        for text, kind, answer, probability in table.rows:
            assert kind in CLASSES
            assert f"sample: {text}: answer {answer} ({probability}), class {kind}" in log
        assert any(chart.name.startswith("gradient_norm") for chart in charts)

    def test_sagemaker_and_katib_read_the_same_lines(self, trained: Path) -> None:
        log = (trained / "log.txt").read_text().splitlines()
        rows = [json.loads(line) for line in (trained / "checkpoints" / "history.jsonl").read_text().splitlines()]
        validations = [float(f"{row['validation_accuracy']:.6g}") for row in rows]
        last = float(f"{self.metrics(trained)['accuracy']:.6g}")
        read = {name: _read(regex, log) for name, regex in _definitions().items()}
        assert read["accuracy"] == [*validations, last]
        assert read["epochs"] == [8.0]
        assert read["validation:accuracy"] == validations
        assert read["train:loss"] == [float(f"{row['loss']:.6g}") for row in rows]
        found = [(name, value) for line in log for name, value in KATIB.findall(line)]
        assert [float(value) for name, value in found if name == "validation_accuracy"] == validations
        assert [float(value) for name, value in found if name == "accuracy"][-1] == last


def _definitions() -> dict[str, str]:
    """Regular expressions of the compiled training job by name, with two of the component's README."""
    readme = (Path(__file__).parents[2] / "components" / "bert" / "README.md").read_text()
    told = re.findall(r"""name: "([\w:]+)", regex: '([^']+)'""", readme)
    assert [name for name, _ in told] == ["train:loss", "train:accuracy", "validation:loss", "validation:accuracy"]
    target = SageMaker.model_validate(
        {
            "images": Images(prefix="123456789012.dkr.ecr.us-east-1.amazonaws.com/millrace/"),
            "training": {"metrics": [{"name": name, "regex": regex} for name, regex in told]},
        }
    )
    config = TextClassification.model_validate({"manifest": {"source": "s3://bucket/texts"}})
    steps = json.loads(compile_pipeline(text_classification.compose(config), target))["Steps"]
    (step,) = [step for step in steps if step["Type"] == "Training"]
    assert step["Arguments"]["HyperParameters"]["epsilon"] == "1e-08"
    return {one["Name"]: one["Regex"] for one in step["Arguments"]["AlgorithmSpecification"]["MetricDefinitions"]}


def _read(regex: str, log: list[str]) -> list[float]:
    return [float(found[1]) for line in log for found in re.finditer(regex, line)]


def run(folder: Path, records: Path, **parameters: Any) -> Ran:
    return run_component(bert, BertParameters.model_validate({**QUICK, **parameters}), folder, records=records)


IN_STEP = BertParameters.model_validate({**QUICK, "train_batch_size": 15, "peer_seconds": 60})


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, records: Path) -> float:
    """The loss of one rank without XLA."""
    return run_component(bert, IN_STEP, tmp_path_factory.mktemp("alone"), records=records).metrics["loss"]


@pytest.mark.slow
def test_a_compiled_step_learns_the_same_and_what_is_switched_off_is_not_there(
    tmp_path: Path, records: Path, alone: float
) -> None:
    switched_off = dict.fromkeys(("run_validation", "enable_checkpointing", "enable_tensorboard"), False)
    parameters = IN_STEP.model_copy(update={"use_xla": True, **switched_off})
    ran = run_component(bert, parameters, tmp_path, records=records)
    assert ran.metrics["loss"] == pytest.approx(alone, rel=1e-3)
    assert [file.name for file in (tmp_path / "checkpoints").iterdir()] == ["history.jsonl"]
    assert list(ran.outputs["logs"].iterdir()) == []
    rows = [json.loads(line) for line in (tmp_path / "checkpoints" / "history.jsonl").read_text().splitlines()]
    assert [sorted(row) for row in rows] == [["accuracy", "epoch", "learning_rate", "loss"]] * 2


@pytest.mark.slow
def test_two_ranks_learn_what_one_does(tmp_path: Path, records: Path, alone: float) -> None:
    if find_spec("horovod") is None:
        needed("needs Horovod: make horovod")
    request = TaskRequest(
        name="bert",
        component=bert.spec.entry,
        parameters=IN_STEP.model_dump(mode="json"),
        inputs={"records": (GivenArtifact(path=records),)},
        cores=2,
    )
    with group_of(tmp_path / "ranks", request) as group:
        assert group.wait(180) == [0], group.log()
    result = read_result(group.directory(0))
    assert result is not None
    assert result.metrics["loss"] == pytest.approx(alone, rel=1e-3)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"train_batch_size": 1}, "train_batch_size=1: the records of a step"),
        (
            {"enable_checkpointing": False, "elastic": {}},
            "enable_checkpointing=false .*: use enable_checkpointing=true",
        ),
        ({"use_xla": True, "parallel": {"tensor": 2}}, r"parallel\.tensor=2 needs use_xla=false"),
    ],
)
def test_refusals_name_its_own_parameters(given: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError, match=told):
        refuse(given, ["records"], Distribution(processes=2))


@pytest.mark.slow
def test_it_goes_on_from_an_earlier_model_and_refuses_weights_beside_it(
    tmp_path: Path, records: Path, trained: Path
) -> None:
    base = trained / "outputs" / "model"
    parameters = BertParameters(epochs=1, learning_rate=1e-4, train_batch_size=16, model=Bert(pooling="average"))
    further = run_component(bert, parameters, tmp_path / "further", records=records, base=base)
    assert further.metrics["accuracy"] > 0.9
    weighted = TINY.model_copy(update={"weights": "bert.weights.h5"})
    with pytest.raises(UserError, match=r"leave model\.weights out"):
        run(tmp_path / "both", records, fine_tuning={"model": str(base)}, model=weighted)
