"""Each protocol gives the model's own answers, over real HTTP."""

from __future__ import annotations

import base64
import csv
import io
import json
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from openapi_schema_validator import OAS30Validator
from prometheus_client.parser import text_string_to_metric_families

from tests.components.deploy.conftest import CLASSES, Linear, pictures
from tests.pictures import png

CONTRACT = Path(__file__).parents[4] / "shared" / "contracts" / "open-inference-protocol" / "dataplane.openapi.json"


def b64(image: NDArray[np.uint8]) -> dict[str, str]:
    return {"b64": base64.b64encode(png(image)).decode()}


def npy(array: NDArray[Any], **options: Any) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, **options)
    return stream.getvalue()


def assert_predictions(response: httpx.Response, images: NDArray[np.uint8]) -> None:
    assert response.status_code == 200, response.text
    given = response.json()["predictions"]
    own = Linear()(images)
    np.testing.assert_allclose([one["probabilities"] for one in given], own, atol=1e-6)
    assert [one["index"] for one in given] == own.argmax(axis=1).tolist()
    assert [one["label"] for one in given] == [CLASSES[index] for index in own.argmax(axis=1)]


class TestInvocations:
    @pytest.mark.parametrize("shape", [(-1, 4, 6, 1), (-1, 4, 6), (-1, 24)])
    def test_json_instances(self, endpoint: httpx.Client, shape: tuple[int, ...]) -> None:
        images = pictures(5)
        response = endpoint.post("/invocations", json={"instances": images.reshape(shape).tolist()})
        assert_predictions(response, images)

    def test_json_bare_arrays(self, endpoint: httpx.Client) -> None:
        images = pictures(3)
        assert_predictions(endpoint.post("/invocations", json=images.tolist()), images)

    def test_json_one_bare_image(self, endpoint: httpx.Client) -> None:
        images = pictures(1)
        assert_predictions(endpoint.post("/invocations", json=images[0, ..., 0].tolist()), images)

    @pytest.mark.parametrize("kind", ["image/png", "image/unknown", "application/x-image"])
    def test_image_bytes(self, endpoint: httpx.Client, kind: str) -> None:
        images = pictures(1)
        response = endpoint.post("/invocations", content=png(images[0]), headers={"Content-Type": kind})
        assert_predictions(response, images)

    def test_images_of_other_sizes_are_brought_to_the_models(self, endpoint: httpx.Client) -> None:
        image = np.full((40, 60, 1), 200, np.uint8)
        response = endpoint.post("/invocations", content=png(image), headers={"Content-Type": "image/png"})
        assert_predictions(response, np.full((1, 4, 6, 1), 200, np.uint8))

    @pytest.mark.parametrize("newline", ["\n", "\r\n"])
    def test_csv(self, endpoint: httpx.Client, newline: str) -> None:
        images = pictures(4)
        text = newline.join(",".join(map(str, row)) for row in images.reshape(4, -1)) + newline
        response = endpoint.post("/invocations", content=text, headers={"Content-Type": "text/csv; charset=utf-8"})
        assert_predictions(response, images)

    @pytest.mark.parametrize("dtype", ["uint8", "int64", ">i4", "float32", "float64"])
    def test_npy(self, endpoint: httpx.Client, dtype: str) -> None:
        images = pictures(4)
        response = endpoint.post(
            "/invocations", content=npy(images.astype(dtype)), headers={"Content-Type": "application/x-npy"}
        )
        assert_predictions(response, images)

    def test_npy_in_column_order(self, endpoint: httpx.Client) -> None:
        images = pictures(4)
        response = endpoint.post(
            "/invocations", content=npy(np.asfortranarray(images)), headers={"Content-Type": "application/x-npy"}
        )
        assert_predictions(response, images)

    def test_answers_in_csv(self, endpoint: httpx.Client) -> None:
        images = pictures(3)
        response = endpoint.post("/invocations", json=images.tolist(), headers={"Accept": "text/csv"})
        assert response.headers["content-type"].startswith("text/csv")
        rows = list(csv.reader(io.StringIO(response.text)))
        own = Linear()(images)
        assert [row[0] for row in rows] == [CLASSES[index] for index in own.argmax(axis=1)]
        np.testing.assert_allclose(np.array([row[1:] for row in rows], np.float64), own, atol=1e-6)

    def test_answers_in_npy(self, endpoint: httpx.Client) -> None:
        images = pictures(3)
        response = endpoint.post("/invocations", json=images.tolist(), headers={"Accept": "application/x-npy"})
        np.testing.assert_allclose(np.load(io.BytesIO(response.content)), Linear()(images), atol=1e-6)

    def test_accept_that_names_nothing_possible(self, endpoint: httpx.Client) -> None:
        response = endpoint.post("/invocations", json=pictures(1).tolist(), headers={"Accept": "application/xml"})
        assert response.status_code == 406
        assert "application/x-npy" in response.json()["error"]

    def test_ping(self, endpoint: httpx.Client) -> None:
        assert endpoint.get("/ping").status_code == 200

    def test_execution_parameters(self, endpoint: httpx.Client) -> None:
        assert endpoint.get("/execution-parameters").json()["MaxPayloadInMB"] == 8


class TestTensorFlowServing:
    def test_status(self, endpoint: httpx.Client) -> None:
        status = endpoint.get("/v1/models/digits").json()
        assert status["ready"] is True
        assert status["model_version_status"][0]["state"] == "AVAILABLE"
        assert endpoint.get("/v1/models").json() == {"models": ["digits"]}

    @pytest.mark.parametrize("path", ["/v1/models/digits:predict", "/v1/models/digits/versions/1:predict"])
    def test_arrays(self, endpoint: httpx.Client, path: str) -> None:
        images = pictures(3)
        body = {"signature_name": "serving_default", "instances": images.tolist()}
        assert_predictions(endpoint.post(path, json=body), images)

    def test_encoded_images_and_arrays_mixed(self, endpoint: httpx.Client) -> None:
        images = pictures(4)
        instances = [b64(images[0]), images[1].tolist(), {"image": b64(images[2])}, {"image": images[3].tolist()}]
        assert_predictions(endpoint.post("/v1/models/digits:predict", json={"instances": instances}), images)

    def test_what_curl_sends_without_a_content_type(self, endpoint: httpx.Client) -> None:
        images = pictures(1)
        response = endpoint.post(
            "/v1/models/digits:predict",
            content=json.dumps({"instances": images.tolist()}),
            headers={"Content-Type": "application/x-www-form-urlencoded"},
        )
        assert_predictions(response, images)

    def test_unknown_model(self, endpoint: httpx.Client) -> None:
        response = endpoint.post("/v1/models/cats:predict", json={"instances": pictures(1).tolist()})
        assert response.status_code == 404
        assert response.json() == {"error": "unknown model 'cats', this endpoint serves 'digits'"}


def infer_body(images: NDArray[np.uint8], datatype: str = "UINT8", **more: Any) -> dict[str, Any]:
    data = images.ravel().tolist()
    return {"inputs": [{"name": "image", "shape": list(images.shape), "datatype": datatype, "data": data}], **more}


class TestOpenInferenceProtocol:
    @pytest.mark.parametrize("path", ["/v2/models/digits/infer", "/v2/models/digits/versions/1/infer"])
    @pytest.mark.parametrize("datatype", ["UINT8", "INT32", "FP32"])
    def test_infer(self, endpoint: httpx.Client, path: str, datatype: str) -> None:
        images = pictures(3)
        answer = endpoint.post(path, json=infer_body(images, datatype, id="42")).json()
        assert (answer["model_name"], answer["id"]) == ("digits", "42")
        outputs = {output["name"]: output for output in answer["outputs"]}
        own = Linear()(images)
        assert outputs["probabilities"]["shape"] == [3, 3]
        np.testing.assert_allclose(np.reshape(outputs["probabilities"]["data"], (3, 3)), own, atol=1e-6)
        assert outputs["index"]["data"] == own.argmax(axis=1).tolist()
        assert outputs["label"]["data"] == [CLASSES[index] for index in own.argmax(axis=1)]

    def test_nested_data(self, endpoint: httpx.Client) -> None:
        images = pictures(2)
        body = infer_body(images)
        body["inputs"][0]["data"] = images.tolist()
        flat = endpoint.post("/v2/models/digits/infer", json=infer_body(images)).json()
        assert endpoint.post("/v2/models/digits/infer", json=body).json() == flat

    def test_encoded_images(self, endpoint: httpx.Client) -> None:
        images = pictures(2)
        data = [b64(image)["b64"] for image in images]
        body = {"inputs": [{"name": "image", "shape": [2], "datatype": "BYTES", "data": data}]}
        flat = endpoint.post("/v2/models/digits/infer", json=infer_body(images)).json()
        assert endpoint.post("/v2/models/digits/infer", json=body).json() == flat

    def test_only_the_outputs_asked_for(self, endpoint: httpx.Client) -> None:
        body = infer_body(pictures(1), outputs=[{"name": "label"}])
        answer = endpoint.post("/v2/models/digits/infer", json=body).json()
        assert [output["name"] for output in answer["outputs"]] == ["label"]
        assert "id" not in answer

    @pytest.mark.parametrize(
        ("change", "told"),
        [
            ({"outputs": [{"name": "logits"}]}, "unknown output 'logits', allowed: probabilities, index, label"),
            ({"inputs": []}, "needed: one input 'image'"),
            ({"inputs": [{"name": "x", "shape": [1], "datatype": "UINT8", "data": [1]}]}, "given 'x'"),
            ({"inputs": [{"name": "image", "shape": [1], "datatype": "BOOL", "data": [True]}]}, "datatype 'BOOL'"),
            ({"inputs": [{"name": "image", "shape": [2, 24], "datatype": "UINT8", "data": [1]}]}, "shape [2, 24]"),
            ({"inputs": [{"name": "image", "shape": [-1, -1], "datatype": "UINT8", "data": [1]}]}, "shape [-1, -1]"),
            (
                {"inputs": [{"name": "image", "shape": [1, 1], "datatype": "UINT8", "data": [1]}]},
                "needed: [N, 4, 6, 1]",
            ),
            ({"inputs": [{"name": "image", "shape": [1], "datatype": "BYTES", "data": [7]}]}, "base64 string"),
            ({"id": 7}, "id: Input should be a valid string"),
        ],
    )
    def test_requests_that_the_model_can_not_answer(
        self, endpoint: httpx.Client, change: dict[str, Any], told: str
    ) -> None:
        response = endpoint.post("/v2/models/digits/infer", json={**infer_body(pictures(1)), **change})
        assert response.status_code == 400
        assert told in response.json()["error"]

    def test_what_is_no_object_is_refused(self, endpoint: httpx.Client) -> None:
        response = endpoint.post("/v2/models/digits/infer", json=[1])
        assert (response.status_code, response.json()["error"]) == (400, 'given list, needed: {"inputs": [...]}')

    @pytest.mark.parametrize("path", ["/v2/models/cats", "/v2/models/digits/versions/9", "/v2/models/cats/ready"])
    def test_unknown_models_and_versions(self, endpoint: httpx.Client, path: str) -> None:
        response = endpoint.get(path)
        assert response.status_code == 404
        assert set(response.json()) == {"error"}

    def test_health(self, endpoint: httpx.Client) -> None:
        for path in ("/v2/health/live", "/v2/health/ready", "/v2/models/digits/ready"):
            assert endpoint.get(path).status_code == 200


@pytest.mark.skipif(not CONTRACT.is_file(), reason=f"the Open Inference Protocol's OpenAPI file is not at {CONTRACT}")
class TestOpenInferenceContract:
    """Answers are checked against the schemas of the protocol's own OpenAPI file."""

    REQUESTS: tuple[tuple[str, str, str, Any, int], ...] = (
        ("/v2", "GET", "/v2", None, 200),
        ("/v2/models/{model_name}", "GET", "/v2/models/digits", None, 200),
        ("/v2/models/{model_name}", "GET", "/v2/models/cats", None, 404),
        ("/v2/models/{model_name}/versions/{model_version}", "GET", "/v2/models/digits/versions/1", None, 200),
        ("/v2/models/{model_name}/infer", "POST", "/v2/models/digits/infer", infer_body(pictures(2), id="a"), 200),
        ("/v2/models/{model_name}/infer", "POST", "/v2/models/digits/infer", {"inputs": []}, 400),
        ("/v2/models/{model_name}/infer", "POST", "/v2/models/cats/infer", infer_body(pictures(2)), 404),
    )

    @pytest.mark.parametrize(("template", "method", "path", "body", "status"), REQUESTS)
    def test_answer_fits_its_schema(
        self, endpoint: httpx.Client, template: str, method: str, path: str, body: Any, status: int
    ) -> None:
        document = json.loads(CONTRACT.read_text())
        response = endpoint.request(method, path, json=body)
        assert response.status_code == status
        described = document["paths"][template][method.lower()]["responses"][str(status)]
        schema = described["content"]["application/json"]["schema"]
        # The file gives tensor data the type `bytes`, which JSON schema does not have: over HTTP it is an array.
        document["components"]["schemas"]["TensorData"] = {"type": "array"}
        OAS30Validator({**schema, "components": document["components"]}).validate(response.json())

    def test_the_protocols_own_example_is_understood(self, endpoint: httpx.Client) -> None:
        document = json.loads(CONTRACT.read_text())
        example = document["components"]["schemas"]["InferenceRequest"]["x-examples"]["Example 1"]
        response = endpoint.post("/v2/models/digits/infer", json=example)
        assert response.status_code == 400  # well formed, but about another model's tensors
        assert "unknown output 'output0'" in response.json()["error"]


class TestMetrics:
    def test_requests_are_counted_by_route_and_status(self, endpoint: httpx.Client) -> None:
        def count(route: str, status: str) -> float:
            families = text_string_to_metric_families(endpoint.get("/metrics").text)
            samples = (sample for family in families for sample in family.samples)
            wanted = {"route": route, "status": status}
            return sum(
                sample.value
                for sample in samples
                if sample.name == "millrace_requests_total" and wanted.items() <= sample.labels.items()
            )

        before = count("/v2/models/{model}", "404"), count("unknown", "404")
        endpoint.get("/v2/models/other")
        endpoint.get("/no/such/path")
        assert (count("/v2/models/{model}", "404"), count("unknown", "404")) == (before[0] + 1, before[1] + 1)

    def test_batches_latency_and_queue_are_there(self, endpoint: httpx.Client) -> None:
        endpoint.post("/invocations", json=pictures(3).tolist())
        families = {family.name for family in text_string_to_metric_families(endpoint.get("/metrics").text)}
        assert {"millrace_batch_images", "millrace_request_seconds", "millrace_waiting_images"} <= families


class TestPage:
    def test_it_is_self_contained(self, endpoint: httpx.Client) -> None:
        response = endpoint.get("/")
        assert response.headers["content-type"].startswith("text/html")
        assert "default-src 'none'" in response.headers["content-security-policy"]
        text = response.text.replace(str(endpoint.base_url).rstrip("/"), "")
        assert "http://" not in text
        assert "https://" not in text

    def test_class_names_can_not_break_out_of_the_script(self, endpoint: httpx.Client) -> None:
        assert "two, \\u0022quoted\\u0022" in endpoint.get("/").text or 'two, \\"quoted\\"' in endpoint.get("/").text
