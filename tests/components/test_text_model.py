"""A small model of texts through evaluate, quantize and deploy: Keras layers on token ids, and a vocabulary."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from pydantic import ValidationError

from millrace.components.deploy.app import create_app
from millrace.components.deploy.asking import PROTOCOLS
from millrace.components.deploy.spec import DeployParameters, deploy
from millrace.components.evaluate.spec import EvaluateParameters, evaluate
from millrace.components.predict.spec import PredictParameters, predict
from millrace.components.quantize.spec import QuantizeParameters, quantize
from millrace.errors import DataError, UserError
from millrace.runtime.datasets import load_arrays
from millrace.runtime.limits import Limits
from millrace.runtime.models import load_predictor
from millrace.runtime.schemas import ModelCard, read_json_model
from millrace.runtime.texts import MAX_CHARACTERS, load_encoder, padded
from millrace.testing import run_component
from tests.components.deploy.conftest import serving
from tests.components.text_data import CLASSES, LENGTH, WORDS, sentence, text_schema, tokens, write_text_records

pytestmark = pytest.mark.slow
SENTENCES = [sentence(label, 900 + number) for label in range(3) for number in range(3)]


INFER = "/v2/models/texts/infer"


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_text_records(tmp_path_factory.mktemp("records"))


@pytest.fixture(scope="module")
def model(records: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained, but not so much that it makes no mistake."""
    import keras

    from millrace.training.export import export

    keras.utils.set_random_seed(3)
    layers = keras.layers
    network: Any = keras.Sequential(
        [
            keras.Input((LENGTH,), dtype="int32"),
            layers.Embedding(len(WORDS), 8),
            layers.GlobalMaxPooling1D(),
            layers.Dense(3, activation="softmax"),
        ]
    )
    network.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy")
    network.fit(*load_arrays(records, "train"), epochs=5, batch_size=16, verbose=0)
    folder = tmp_path_factory.mktemp("model")
    export(network, "bag", text_schema(), folder, records)
    return folder


@pytest.fixture(scope="module")
def endpoint(model: Path) -> Iterator[httpx.Client]:
    card = read_json_model(model / "model.json", ModelCard)
    encode = load_encoder(model, text_schema())
    app = create_app(lambda: load_predictor(model).predict, card, name="texts", limits=Limits(), encode=encode)
    with serving(app) as url, httpx.Client(base_url=url, timeout=60, trust_env=False) as client:
        yield client


def own(model: Path, texts: list[str]) -> Any:
    """What the model itself answers."""
    schema = text_schema()
    return load_predictor(model).predict(padded(load_encoder(model, schema)(texts), schema))


class TestSavedModel:
    def test_takes_token_ids_by_both_signatures(self, model: Path, records: Path) -> None:
        import tensorflow as tf

        ids, _ = load_arrays(records, "test")
        loaded = tf.saved_model.load(str(model / "saved_model"))
        for name in ("serving_default", "tokens"):
            answers = loaded.signatures[name](tokens=tf.constant(ids[:5]))
            np.testing.assert_allclose(answers["probabilities"], load_predictor(model).predict(ids[:5]), atol=1e-6)
        assert answers["classes"].numpy()[0].tolist() == [name.encode() for name in CLASSES]

    def test_refuses_tokens_that_are_none(self, model: Path) -> None:
        predictor = load_predictor(model)
        with pytest.raises(DataError, match=r"the model needs texts as int32 \[N, 12\], given: int64 \[2, 12\]"):
            predictor.predict(np.zeros((2, 12), np.int64))
        with pytest.raises(DataError, match="tokens are numbers from 0 to 32, given: 0 to 33"):
            predictor.predict(np.arange(12, dtype=np.int32)[None] * 3)


class TestEvaluate:
    def test_gives_figures_and_shows_the_texts_of_mistakes(self, model: Path, records: Path, tmp_path: Path) -> None:
        parameters = EvaluateParameters(channel="train", latency_runs=2, mistakes=64)
        ran = run_component(evaluate, parameters, tmp_path, model=model, records=records)
        ids, labels = load_arrays(records, "train")
        predicted = load_predictor(model).predict(ids).argmax(axis=1)
        assert ran.metrics["accuracy"] == pytest.approx((predicted == labels).mean())
        page = ran.outputs["report"].read_text()
        shown = re.findall(r'<p class="said">(.*?)</p>', page)
        wrong = [" ".join(WORDS[token] for token in row if token > 4) for row in ids[predicted != labels].tolist()]
        assert 0 < len(wrong) < 64
        assert sorted(shown) == sorted(wrong)
        assert "<img" not in page
        assert "12 tokens" in page

    def test_says_when_the_model_is_for_something_else(self, model: Path, records: Path, tmp_path: Path) -> None:
        card = json.loads((model / "model.json").read_text())
        for change, message in (
            ({"vocabulary_sha256": "0" * 64}, "different vocabularies, of 33 and 33 tokens"),
            ({"max_seq_length": 20}, r"takes texts of 20 tokens, the records are 12 tokens"),
        ):
            folder = tmp_path / str(len(change)) / next(iter(change))
            folder.mkdir(parents=True)
            (folder / "model.json").write_text(json.dumps({**card, "records": {**card["records"], **change}}))
            with pytest.raises(DataError, match=message):
                run_component(evaluate, EvaluateParameters(), folder / "task", model=folder, records=records)


class TestQuantize:
    def test_makes_a_smaller_model_with_the_vocabulary(self, model: Path, records: Path, tmp_path: Path) -> None:
        parameters = QuantizeParameters(scheme="dynamic", channel="train", latency_runs=2)
        ran = run_component(quantize, parameters, tmp_path, model=model, records=records)
        assert ran.metrics["agreement"] > 0.95
        small = ran.outputs["model"]
        assert (small / "vocabulary.txt").read_bytes() == (model / "vocabulary.txt").read_bytes()
        np.testing.assert_allclose(own(small, SENTENCES), own(model, SENTENCES), atol=0.05)

    def test_int8_is_for_pictures(self, model: Path, records: Path, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="use dynamic or float16"):
            run_component(quantize, QuantizeParameters(), tmp_path, model=model, records=records)


def test_predict_asks_about_pictures_only(model: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.txt").write_text("the card")
    with pytest.raises(UserError, match="predict asks about pictures"):
        run_component(predict, PredictParameters(), tmp_path / "task", model=model, dataset=tmp_path / "data")


class TestEndpoint:
    def test_answers_as_the_model_itself_in_each_protocol(self, endpoint: httpx.Client, model: Path) -> None:
        asked = np.array(["Lost my CARD, stolen\n?", 'send "money", abroad', "", *SENTENCES], dtype=object)
        expected = own(model, asked.tolist())
        for protocol, ask in PROTOCOLS.texts.items():
            answers = ask(endpoint, "texts", asked)
            assert [label for label, _ in answers] == [CLASSES[index] for index in expected.argmax(axis=1)], protocol
            np.testing.assert_allclose([row for _, row in answers], expected, atol=1e-5, err_msg=protocol)

    def test_is_described_as_one_of_texts(self, endpoint: httpx.Client) -> None:
        told = endpoint.get("/v2/models/texts").json()
        assert told["inputs"] == [{"name": "text", "datatype": "BYTES", "shape": [-1]}]
        assert told["parameters"]["max_seq_length"] == LENGTH
        page = endpoint.get("/").text
        assert "<textarea" in page
        assert 'type="file"' not in page

    @pytest.mark.parametrize(
        ("path", "kind", "body", "status", "message"),
        [
            ("/invocations", "application/json", b'{"instances": [3]}', 400, "instance 0: given int, needed: a text"),
            ("/invocations", "application/json", b'{"instances": [{"b64": "aa"}]}', 400, "an object with other keys"),
            ("/invocations", "application/json", b'{"instances": []}', 400, "no instances given"),
            ("/invocations", "application/json", b'{"texts": ["a"]}', 400, 'needed: {"instances": ["a text", ...]}'),
            ("/invocations", "application/json", b'["\\ud800"]', 400, "not JSON"),
            ("/invocations", "application/json", json.dumps(["a"] * 257).encode(), 413, "257 instances given"),
            ("/invocations", "text/plain", b"\xff", 400, "not UTF-8"),
            ("/invocations", "text/plain", b"a" * (MAX_CHARACTERS + 1), 413, "text 0 has 100001 characters"),
            ("/invocations", "text/csv", b"a,b\n", 400, "row 0 has 2 values"),
            ("/invocations", "text/csv", b'"a\n', 400, "not CSV"),
            ("/invocations", "image/png", b"a", 415, "allowed: application/json, text/csv, text/plain"),
            (INFER, "application/json",
             b'{"inputs": [{"name": "text", "shape": [1], "datatype": "INT32", "data": [1]}]}', 400, "allowed: BYTES"),
            (INFER, "application/json",
             b'{"inputs": [{"name": "text", "shape": [2], "datatype": "BYTES", "data": ["a"]}]}', 400, "hold 1"),
            (INFER, "application/json",
             b'{"inputs": [{"name": "image", "shape": [1], "datatype": "BYTES", "data": ["a"]}]}', 400, "one input"),
        ],
    )  # fmt: skip
    def test_says_what_is_wrong_with_a_request(
        self, endpoint: httpx.Client, path: str, kind: str, body: bytes, status: int, message: str
    ) -> None:
        answer = endpoint.post(path, content=body, headers={"Content-Type": kind})
        assert (answer.status_code, message in answer.json()["error"]) == (status, True), answer.text

    def test_takes_one_bare_text_and_never_special_tokens(self, endpoint: httpx.Client, model: Path) -> None:
        for text in ("the card", "[SEP] [PAD] the card"):
            answer = endpoint.post("/invocations", json=text).json()["predictions"][0]
            np.testing.assert_allclose(answer["probabilities"], own(model, [text])[0], atol=1e-5)
        assert load_encoder(model, text_schema())(["[SEP] card"])[0][-2:] == tokens("card")[-2:]


class TestDeploy:
    def test_starts_an_endpoint_that_agrees_with_the_model(self, model: Path, records: Path, tmp_path: Path) -> None:
        ran = run_component(deploy, DeployParameters(check_records=8), tmp_path, model=model, records=records)
        assert ran.metrics["agreement"] == 1
        assert ran.metrics["requests_per_second"] > 0

    def test_needs_the_vocabulary_of_the_model(self, model: Path, records: Path, tmp_path: Path) -> None:
        import shutil

        folder = shutil.copytree(model, tmp_path / "model")
        (folder / "vocabulary.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n")
        with pytest.raises(DataError, match="another vocabulary than the schema's"):
            run_component(deploy, DeployParameters(check_records=2), tmp_path / "task", model=folder, records=records)


def test_schemas_of_texts_are_told_from_those_of_images() -> None:
    schema = json.loads(text_schema().model_dump_json())
    with pytest.raises(ValidationError, match="height"):
        ModelCard.model_validate(
            {"format": "keras", "name": "x", "parameters": 1, "bytes": 1, "records": {**schema, "kind": "image"}}
        )
