"""How an endpoint is measured."""

from __future__ import annotations

import base64
from pathlib import Path

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from millrace.components.deploy.asking import TENSORFLOW, Address, accuracy, agreement, requests_per_second, unready
from millrace.runtime.limits import Limits
from millrace.runtime.models import load_predictor
from tests.components.deploy.conftest import CLASSES, SCHEMA, pictures, serving


def test_a_machine_too_busy_for_the_time_given_still_answers(endpoint: httpx.Client) -> None:
    assert requests_per_second(Address(str(endpoint.base_url), "digits"), pictures(3), Limits(), seconds=0) > 0


@pytest.mark.slow
def test_tensorflow_serving_is_asked_by_the_signature_of_our_saved_models(tmp_path: Path) -> None:
    """Our SavedModel behind the REST interface of TensorFlow Serving, which is played here."""
    import keras
    import tensorflow as tf

    from millrace.training.export import export

    layers = [keras.layers.Rescaling(1 / 255), keras.layers.Flatten(), keras.layers.Dense(3, activation="softmax")]
    card = export(keras.Sequential([keras.Input((4, 6, 1)), *layers]), "linear", SCHEMA, tmp_path)
    (tmp_path / "model.json").write_text(card.model_dump_json())
    answer = tf.saved_model.load(str(tmp_path / "saved_model")).signatures["serving_default"]

    async def predict(request: Request) -> Response:
        encoded = [base64.b64decode(item["b64"]) for item in (await request.json())["instances"]]
        rows = {name: values.numpy().tolist() for name, values in answer(images=tf.constant(encoded)).items()}
        labels = [label.decode() for label in rows["labels"]]
        pairs = zip(labels, rows["probabilities"], strict=True)
        return JSONResponse({"predictions": [{"labels": label, "probabilities": row} for label, row in pairs]})

    async def state(request: Request) -> Response:
        return JSONResponse({"model_version_status": [{"state": "AVAILABLE"}]})

    model = "/v1/models/digits"
    routes = [Route(f"{model}:predict", predict, methods=["POST"]), Route(model, state), Route("/ping", state)]
    images = pictures(5)
    own = load_predictor(tmp_path).predict(images)
    with serving(Starlette(routes=routes)) as url:
        address = Address(url, "digits", protocols=TENSORFLOW)
        assert unready(address, "any", Limits()) == ""
        assert agreement(address, images, own, CLASSES, Limits()) == {"tensorflow": 1.0}
        assert accuracy(address, images, own.argmax(axis=1), CLASSES, Limits()) == 1.0
        other = address._replace(name="other")
        assert "GET /v1/models/other answered 404" in unready(other, "any", Limits())
