"""A network for rows of tables: trained, evaluated, quantized, and asked by way of its endpoint."""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray

from millrace.components.deploy.app import create_app
from millrace.components.deploy.asking import PROTOCOLS
from millrace.components.deploy.rows import rows_of
from millrace.components.deploy.spec import DeployParameters, deploy
from millrace.components.evaluate.spec import EvaluateParameters, evaluate
from millrace.components.predict.spec import PredictParameters, predict
from millrace.components.quantize.spec import QuantizeParameters, quantize
from millrace.components.train.spec import TrainParameters, train
from millrace.errors import ConfigError, DataError, UserError
from millrace.runtime.columns import DateColumn
from millrace.runtime.datasets import load_arrays
from millrace.runtime.limits import Limits
from millrace.runtime.models import load_predictor
from millrace.runtime.schemas import ModelCard, read_json_model
from millrace.runtime.tabular import features, row_features
from millrace.testing import run_component
from tests.components.deploy.conftest import serving
from tests.components.tabular_data import CLASSES, COLUMNS, SCHEMA, bird, write_tabular_records

WIDTH = SCHEMA.shape[0]
BIRDS = [bird(label, 900 + number) for label in range(3) for number in range(12)]
ASK, INFER = "/invocations", "/v2/models/birds/infer"
JSON = "application/json"
MLP = TrainParameters.model_validate(
    {"model": {"kind": "mlp", "units": [16], "dropout": 0}, "epochs": 8, "learning_rate": 0.01, "sample_predictions": 3}
)


def wide(shape: tuple[int, ...], classes: int) -> Any:
    """A network of the user's own."""
    import keras

    layers = keras.layers
    return keras.Sequential([keras.Input(shape), layers.Dense(8, "relu"), layers.Dense(classes, "softmax")])


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tabular_records(tmp_path_factory.mktemp("rows") / "records")


@pytest.fixture(scope="module")
def model(records: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    ran = run_component(train, MLP, tmp_path_factory.mktemp("train"), records=records)
    assert ran.metrics["accuracy"] > 0.8
    return ran.outputs["model"]


@pytest.fixture(scope="module")
def endpoint(model: Path) -> Iterator[httpx.Client]:
    card = read_json_model(model / "model.json", ModelCard)
    app = create_app(lambda: load_predictor(model).predict, card, name="birds", limits=Limits())
    with serving(app) as url, httpx.Client(base_url=url, timeout=60, trust_env=False) as client:
        yield client


def own(model: Path, rows: list[dict[str, Any]]) -> NDArray[np.float32]:
    """What the model itself answers."""
    return load_predictor(model).predict(row_features(rows, SCHEMA))


class TestTraining:
    def test_records_are_the_features_of_the_rows(self, records: Path) -> None:
        found, labels = load_arrays(records, "test", limit=3)
        assert found.dtype == np.float32
        assert found.shape == (3, WIDTH)
        assert labels.tolist() == [0, 0, 0]
        first = row_features([bird(0, 48)], SCHEMA)
        np.testing.assert_array_equal(found[:1], first)

    def test_records_of_another_number_of_features_are_told(self, tmp_path: Path) -> None:
        folder = write_tabular_records(tmp_path, train=(2, 2, 2), validation=(1, 1, 1), test=(0, 0, 0))
        (folder / "schema.json").write_text(SCHEMA.model_copy(update={"columns": COLUMNS[1:]}).model_dump_json())
        with pytest.raises(DataError, match=r"channel 'train' can't be read: .*features.*make the records anew"):
            load_arrays(folder, "train")

    def test_the_model_is_saved_with_the_transformation(self, model: Path, records: Path) -> None:
        import tensorflow as tf

        card = read_json_model(model / "model.json", ModelCard)
        assert card.records == SCHEMA
        examples, _ = load_arrays(records, "test")
        loaded = tf.saved_model.load(str(model / "saved_model"))
        for name in ("serving_default", "features"):
            answers = loaded.signatures[name](features=tf.constant(examples[:5]))
            expected = load_predictor(model).predict(examples[:5])
            np.testing.assert_allclose(answers["probabilities"], expected, atol=1e-6)

    def test_a_custom_network_gets_the_features(self, records: Path, tmp_path: Path) -> None:
        choice = {"kind": "custom", "function": f"{__name__}:wide"}
        parameters = TrainParameters.model_validate({"model": choice, "epochs": 1})
        ran = run_component(train, parameters, tmp_path, records=records)
        examples, _ = load_arrays(records, "test")
        assert load_predictor(ran.outputs["model"]).predict(examples).shape == (len(examples), 3)

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            ({"model": {"kind": "cnn"}}, r"model\.kind=cnn is not for rows of tables, .*use model\.kind=mlp or custom"),
            ({"model": {"kind": "bert"}}, r"model\.kind=bert is not for rows of tables"),
            ({"model": {"kind": "application"}}, r"model\.kind=application is not for rows of tables"),
            (
                {"pixels": {"normalise": "featurewise"}},
                "are for pictures, the records hold rows of tables: leave them out",
            ),
            ({"augmentation": {"horizontal_flip": True}}, "augmentation and pixels are for pictures"),
            ({"buckets": [4]}, "buckets is for texts, the records hold rows of tables"),
        ],
    )
    def test_what_is_for_other_data_is_refused(
        self, records: Path, tmp_path: Path, given: dict[str, Any], message: str
    ) -> None:
        parameters = TrainParameters.model_validate({"model": {"kind": "mlp"}, **given})
        with pytest.raises(ConfigError, match=message):
            run_component(train, parameters, tmp_path, records=records)


class TestEvaluate:
    def test_shows_where_the_rows_of_mistakes_are(self, model: Path, records: Path, tmp_path: Path) -> None:
        parameters = EvaluateParameters(channel="train", latency_runs=2, mistakes=64)
        ran = run_component(evaluate, parameters, tmp_path, model=model, records=records)
        examples, labels = load_arrays(records, "train")
        wrong = int((load_predictor(model).predict(examples).argmax(axis=1) != labels).sum())
        page = ran.outputs["report"].read_text()
        assert 0 < wrong < 64
        assert len(re.findall(r'class="uri">file:///birds\.csv#row=\d+<', page)) == wrong
        assert "<img" not in page
        assert f"{WIDTH} features" in page

    def test_says_when_the_records_were_made_otherwise(self, model: Path, records: Path, tmp_path: Path) -> None:
        changed = SCHEMA.model_copy(update={"columns": (COLUMNS[0].model_copy(update={"shift": 45.0}), *COLUMNS[1:])})
        other = write_tabular_records(tmp_path / "records")
        (other / "schema.json").write_text(changed.model_dump_json())
        with pytest.raises(DataError, match=r"made of columns in different ways \('bill'\).*make the records with the"):
            run_component(evaluate, EvaluateParameters(), tmp_path / "task", model=model, records=other)


class TestQuantize:
    @pytest.mark.parametrize("scheme", ["dynamic", "float16", "int8"])
    def test_a_smaller_model_answers_nearly_the_same(
        self, model: Path, records: Path, tmp_path: Path, scheme: Any
    ) -> None:
        parameters = QuantizeParameters(scheme=scheme, latency_runs=2)
        ran = run_component(quantize, parameters, tmp_path, model=model, records=records)
        assert ran.metrics["agreement"] > 0.9
        np.testing.assert_allclose(own(ran.outputs["model"], BIRDS), own(model, BIRDS), atol=0.15)


def test_predict_asks_about_pictures_only(model: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.csv").write_text("bill\n3\n")
    with pytest.raises(UserError, match="predict asks about pictures, the model is one of rows of tables"):
        run_component(predict, PredictParameters(), tmp_path / "task", model=model, dataset=tmp_path / "data")


class TestEndpoint:
    def test_answers_as_the_model_itself_in_each_protocol(self, endpoint: httpx.Client, model: Path) -> None:
        asked, expected = np.array(BIRDS, dtype=object), own(model, BIRDS)
        for protocol, ask in PROTOCOLS.rows.items():
            answers = ask(endpoint, "birds", asked)
            assert [label for label, _ in answers] == [CLASSES[index] for index in expected.argmax(axis=1)], protocol
            np.testing.assert_allclose([row for _, row in answers], expected, atol=1e-5, err_msg=protocol)

    def test_takes_one_bare_row_columns_in_any_order_and_missing_ones(
        self, endpoint: httpx.Client, model: Path
    ) -> None:
        answer = endpoint.post("/invocations", json={"seen": "2008-03-01", "bill": "47.5"}).json()["predictions"][0]
        expected = own(model, [{"bill": 47.5, "seen": "2008-03-01"}])[0]
        np.testing.assert_allclose(answer["probabilities"], expected, atol=1e-5)
        body = '\ufeffisland,bill\r\n"Dream",\r\n,38\r\n'
        answers = endpoint.post("/invocations", content=body.encode(), headers={"Content-Type": "text/csv"}).json()
        expected = own(model, [{"island": "Dream"}, {"bill": 38}])
        np.testing.assert_allclose([one["probabilities"] for one in answers["predictions"]], expected, atol=1e-5)

    def test_is_described_by_its_columns(self, endpoint: httpx.Client) -> None:
        told = endpoint.get("/v2/models/birds").json()
        assert [(one["name"], one["datatype"]) for one in told["inputs"]] == [
            ("bill", "FP64"), ("mass", "FP64"), ("island", "BYTES"), ("ring", "BYTES"), ("seen", "BYTES"),
        ]  # fmt: skip
        assert told["parameters"]["features"] == WIDTH
        page = endpoint.get("/").text
        assert [f'name="{column.name}"' in page for column in COLUMNS] == [True] * len(COLUMNS)
        assert 'type="file"' not in page
        assert "does not depend on: id, species. In requests they are ignored." in page

    def test_rows_of_the_training_table_are_taken_as_they_are(self, endpoint: httpx.Client) -> None:
        row = {"bill": 41.5, "island": "Dream"}
        wanted = endpoint.post(ASK, json=[row]).json()
        assert endpoint.post(ASK, json=[{**row, "id": [7], "species": "gentoo"}]).json() == wanted
        for text in (
            (b";id;species;bill;island\n", b"0;n, 7;gentoo;41.5;Dream\n"),
            (b",id,bill,island,\n", b"0,7,41.5,Dream,\n"),
        ):
            body = b"".join(text)
            assert endpoint.post(ASK, content=body, headers={"Content-Type": "text/csv"}).json() == wanted
        columns = {"bill": ("FP64", 41.5), "island": ("BYTES", "Dream"), "id": ("INT64", 7)}
        inputs = [
            {"name": name, "shape": [1], "datatype": kind, "data": [value]} for name, (kind, value) in columns.items()
        ]
        answer = endpoint.post(INFER, json={"inputs": inputs}).json()
        assert answer["outputs"][1]["data"] == [wanted["predictions"][0]["index"]]

    @pytest.mark.parametrize(
        ("path", "kind", "body", "status", "message"),
        [
            (ASK, JSON, b'{"instances": [3]}', 400, "row 0: given int, needed: an object"),
            (ASK, JSON, b'{"instances": [{"bil": 3}]}', 400, "row 0 has none of the model's col"),
            (ASK, JSON, b'[{"bill": 3}, {"bill": 1, "maas": 2}]', 400, "row 1: unknown column 'maa"),
            (ASK, JSON, b'[{"bill": 3}, {"bill": "long"}]', 400, "row 1, column 'bill': 'long' is no"),
            (ASK, JSON, b'[{"seen": "1.2.2008"}]', 400, "row 0, column 'seen': '1.2.2008' is no date"),
            (ASK, JSON, b'[{"island": ["Dream"]}]', 400, "row 0, column 'island'"),
            (ASK, JSON, b'{"instances": []}', 400, "no instances given"),
            (ASK, JSON, json.dumps([{"bill": 1}] * 257).encode(), 413, "257 instances given"),
            (ASK, "text/csv", b"bill,mass\n1\n", 400, "row 0 has 1 values, the header names 2 columns"),
            (ASK, "text/csv", b"bill,bill\n1,2\n", 400, "the header names column 'bill' twice"),
            (ASK, "text/csv", b"bill\n\xff\n", 400, "not UTF-8 in line 2 (byte 0xFF)"),
            (ASK, "text/csv", "bill\n1\n".encode("utf-16"), 400, "UTF-16 is given, UTF-8 is needed"),
            (ASK, "text/csv", b"41.5;Dream\n42.5;Biscoe\n", 400, "line names none of the model's columns: '41.5"),
            (ASK, "text/csv", b"bill;mass\n1;2;3\n", 400, "2 columns, separated by ';'"),
            (ASK, "text/csv", b"id,species\n1,adelie\n", 400, "line names none of the model's columns: 'id"),
            (ASK, JSON, b'[{"id": 7}]', 400, "row 0 has none of the model's columns"),
            (ASK, "text/csv", b"", 400, "no instances given"),
            (ASK, "text/plain", b"1", 415, "allowed: application/json, text/csv"),
            (ASK, "text/csv", b"bill," + ",".join(map(str, range(20_000))).encode() + b"\n", 400,
             "the header names 20001 columns, the model has 5; unknown column '0'"),
            (ASK, "text/csv", b"bill,mass,bill\n1,2,3\n", 400, "the header names column 'bill' twice"),
            (INFER, JSON,
             b'{"inputs": [{"name": "bill", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}]}', 400, "a value a"),
            (INFER, JSON,
             b'{"inputs": [{"name": "bill", "shape": [1], "datatype": "TEXT", "data": [1]}]}', 400, "allowed: UINT8"),
            (INFER, JSON,
             b'{"inputs": [{"name": "bill", "shape": [1], "datatype": "FP32", "data": [1]},'
             b'{"name": "mass", "shape": [2], "datatype": "FP32", "data": [1, 2]}]}', 400, "given: 'bill' 1, 'mass' 2"),
            (INFER, JSON, b'{"inputs": []}', 400, "an input for each column"),
        ],
    )  # fmt: skip
    def test_says_what_is_wrong_with_a_request(
        self, endpoint: httpx.Client, path: str, kind: str, body: bytes, status: int, message: str
    ) -> None:
        answer = endpoint.post(path, content=body, headers={"Content-Type": kind})
        assert (answer.status_code, message in answer.json()["error"]) == (status, True), answer.text


class TestDeploy:
    def test_rows_of_features_have_these_features(self) -> None:
        vectors = row_features(BIRDS, SCHEMA)
        again = row_features(rows_of(vectors, COLUMNS), SCHEMA)
        np.testing.assert_allclose(again, vectors, atol=1e-5)

    @pytest.mark.parametrize(
        ("parts", "form"),
        [
            (("month", "weekday"), None),
            (("year", "month", "day", "weekday", "hour", "minute"), "%d.%m.%Y %H:%M"),
            (("days", "hour"), None),
            (("hour",), None),
            (("days", "hour"), "%Y-%m-%d %H:%M%z"),
            (("year", "month"), "%d %b %Y %T"),
        ],
    )
    def test_dates_of_features_have_these_features(self, parts: Any, form: str | None) -> None:
        given = {"days": (14_000.0, 300.0), "year": (2008.0, 2.0)}
        column = DateColumn(
            name="when",
            format=form,
            parts=parts,
            shifts={part: given[part][0] for part in parts if part in given},
            scales={part: given[part][1] for part in parts if part in given},
        )
        schema = SCHEMA.model_copy(update={"columns": (column,)})
        written = ["2007-03-05T13:45:00", "2009-02-28T00:00:00", "2024-12-31T23:59:00"]
        moments = [datetime.datetime.fromisoformat(text).replace(tzinfo=datetime.UTC) for text in written]
        texts = [moment.strftime(form) for moment in moments] if form else written
        vectors = row_features([*({"when": text} for text in texts), {}], schema)
        again = row_features(rows_of(vectors, [column]), schema)
        np.testing.assert_allclose(again, vectors, atol=1e-4)

    def test_dates_of_years_below_1000_are_written_in_four_digits(self) -> None:
        shifts = {"days": -354_000.0}
        column = DateColumn(name="when", format="%Y-%m-%d", parts=("days",), shifts=shifts, scales={"days": 1.0})
        vectors = features(pl.DataFrame({"when": ["0999-03-05"]}), [column])
        assert rows_of(vectors, [column]) == [{"when": "0999-03-05"}]

    @pytest.mark.slow
    def test_starts_an_endpoint_that_agrees_with_the_model(self, model: Path, records: Path, tmp_path: Path) -> None:
        ran = run_component(deploy, DeployParameters(check_records=8), tmp_path, model=model, records=records)
        assert ran.metrics["agreement"] == 1
        assert ran.metrics["requests_per_second"] > 0
