"""Whatever a client sends, the answer is a clear refusal within the limits, never a 500 and never a hang."""

from __future__ import annotations

import base64
import io
import json
import socket
import struct
import time
import zlib
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.components.deploy.conftest import Linear, linear_app, pictures, serving
from tests.pictures import saved

FUZZ = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
PNG = {"Content-Type": "image/png"}
NPY = {"Content-Type": "application/x-npy"}
CSV = {"Content-Type": "text/csv"}
JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def strict() -> Iterator[httpx.Client]:
    """An endpoint with narrow limits."""
    app = linear_app(max_body_mib=0.1, max_instances=8, max_megapixels=0.01, timeout_seconds=2)
    with serving(app) as url, httpx.Client(base_url=url, timeout=30, trust_env=False) as client:
        yield client


def refused(response: httpx.Response, status: int, told: str) -> None:
    assert (response.status_code, told in response.json()["error"]) == (status, True), response.text


def npy_file(header: str, data: bytes = b"", version: bytes = b"\x01\x00") -> bytes:
    text = header.encode("latin1") + b"\n"
    return b"\x93NUMPY" + version + struct.pack("<H", len(text)) + text + data


def bomb_png(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    )


class TestSize:
    def test_a_body_that_says_it_is_too_large(self, strict: httpx.Client) -> None:
        refused(strict.post("/invocations", content=b" " * 200_000, headers=JSON), 413, "0.1 MiB")

    def test_a_body_that_does_not_say_how_large_it_is(self, strict: httpx.Client) -> None:
        chunks = (b" " * 10_000 for _ in range(100))
        refused(strict.post("/invocations", content=chunks, headers=JSON), 413, "0.1 MiB")

    @pytest.mark.parametrize("headers", [JSON, NPY, CSV], ids=lambda headers: headers["Content-Type"])
    def test_too_many_instances(self, strict: httpx.Client, headers: dict[str, str]) -> None:
        images = pictures(9).reshape(9, 24)
        stream = io.BytesIO()
        np.save(stream, images)
        bodies = {
            "application/json": json.dumps(images.tolist()).encode(),
            "application/x-npy": stream.getvalue(),
            "text/csv": "\n".join(",".join(map(str, row)) for row in images).encode(),
        }
        refused(
            strict.post("/invocations", content=bodies[headers["Content-Type"]], headers=headers), 413, "limit is 8"
        )

    def test_too_many_encoded_instances(self, strict: httpx.Client) -> None:
        body = {"instances": [{"b64": ""}] * 9}
        refused(strict.post("/v1/models/digits:predict", json=body), 413, "limit is 8")

    def test_json_with_more_values_than_any_request_needs(self, strict: httpx.Client) -> None:
        refused(strict.post("/invocations", content=b"[" + b"[]," * 20_000 + b"[]]", headers=JSON), 413, "values")

    def test_deep_json(self, endpoint: httpx.Client) -> None:
        refused(endpoint.post("/invocations", content=b"[" * 5000 + b"]" * 5000, headers=JSON), 400, "recursion")

    def test_a_picture_with_too_many_pixels(self, strict: httpx.Client) -> None:
        refused(strict.post("/invocations", content=bomb_png(60_000, 60_000), headers=PNG), 400, "too_large")

    def test_an_npy_header_that_promises_too_much(self, strict: httpx.Client) -> None:
        header = "{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000, 24)}"
        refused(strict.post("/invocations", content=npy_file(header), headers=NPY), 400, "0 bytes of data follow")

    def test_an_npy_file_of_objects(self, strict: httpx.Client) -> None:
        stream = io.BytesIO()
        np.save(stream, np.array([{"a": 1}], dtype=object), allow_pickle=True)
        refused(strict.post("/invocations", content=stream.getvalue(), headers=NPY), 400, "needed: integers or floats")


class TestTime:
    def test_a_model_that_takes_too_long(self) -> None:
        with serving(linear_app(Linear(seconds=1), timeout_seconds=0.2)) as url:
            started = time.monotonic()
            refused(httpx.post(f"{url}/invocations", json=pictures(1).tolist()), 504, "within 0.2 s")
            assert time.monotonic() - started < 0.9

    def test_nothing_is_decoded_for_a_request_that_was_given_up(self) -> None:
        large = base64.b64encode(saved(Image.new("L", (5000, 5000)))).decode()
        body = {"instances": [{"b64": large}] * 200}
        with serving(linear_app(timeout_seconds=0.3)) as url:
            for _ in range(2):
                assert httpx.post(f"{url}/v1/models/digits:predict", json=body).status_code == 504
            time.sleep(0.3)
            assert httpx.post(f"{url}/invocations", json=pictures(1).tolist()).status_code == 200

    def test_a_body_that_never_ends(self, strict: httpx.Client) -> None:
        with socket.create_connection((strict.base_url.host, strict.base_url.port or 0), timeout=10) as connection:
            lines = (b"POST /invocations HTTP/1.1", b"Host: x", b"Content-Type: application/json", b"Content-Length: 9")
            connection.sendall(b"\r\n".join(lines) + b"\r\n\r\n[")
            assert b" 504 " in connection.recv(1000)

    def test_headers_that_never_end(self, strict: httpx.Client) -> None:
        with socket.create_connection((strict.base_url.host, strict.base_url.port or 0), timeout=10) as connection:
            connection.sendall(b"GET /ping HTTP/1.1\r\n")
            answer = b""
            try:
                for number in range(10_000):
                    connection.sendall(b"X-%d: %s\r\n" % (number, b"x" * 1000))
                answer = connection.recv(1000)
            except ConnectionError:
                return
            assert b" 400 " in answer


class TestForm:
    @pytest.mark.parametrize(
        ("body", "told"),
        [
            ("", "not JSON"),
            ("nope", "not JSON"),
            ("{}", 'instances: a value is required; needed: {"instances": [...]}'),
            ("7", 'given int, needed: {"instances": [...]}'),
            ('{"inputs": [1]}', "inputs: unknown key"),
            ('{"instances": []}', "no instances"),
            ("[]", "needed: [N, 4, 6, 1] or [N, 24] or [N, 4, 6]"),
            ("[[1, 2], [3]]", "not an array of numbers of one shape"),
            ('{"instances": [[[1, 2], [3, 4]]]}', "given an array of shape [1, 2, 2], needed: [N, 4, 6, 1]"),
            (json.dumps([[0.5] * 24]), "given 0.5; don't scale"),
            (json.dumps([[256] * 24]), "given 256"),
            (json.dumps([[-1] * 24]), "given -1"),
            (json.dumps([[None] * 24]), "given nan"),
            (json.dumps([["x"] * 24]), "not an array of numbers"),
            (json.dumps([[10**400] * 24]), "not an array of numbers"),
            ('{"instances": [{"b64": "!!"}]}', "instance 0: not base64"),
            ('{"instances": [{"b64": 5}]}', "instance 0: given int"),
            ('{"instances": [{"b64": ""}]}', "instance 0: the image can't be read: empty"),
            ('{"instances": [{"jpeg": ""}]}', "instance 0: given an object with 'jpeg'"),
        ],
    )
    def test_json_that_the_model_can_not_use(self, endpoint: httpx.Client, body: str, told: str) -> None:
        refused(endpoint.post("/invocations", content=body, headers=JSON), 400, told)

    @pytest.mark.parametrize(
        ("body", "told"),
        [
            ("", "no instances"),
            ("a,b,c", "24 numbers and no header"),
            ("1,2,3", "given an array of shape [1, 3]"),
            ("1,2\n1,2,3", "24 numbers"),
            (",".join(["nan"] * 24), "given nan"),
            ("\xff", "24 numbers"),
        ],
    )
    def test_csv_that_the_model_can_not_use(self, endpoint: httpx.Client, body: str, told: str) -> None:
        refused(endpoint.post("/invocations", content=body.encode("latin1"), headers=CSV), 400, told)

    @pytest.mark.parametrize(
        "content",
        [
            b"",
            b"\x93NUMPY",
            npy_file("os.system('true')"),
            npy_file("(" * 5000),
            npy_file("{'descr': '<f8', 'fortran_order': False, 'shape': (-1, -24)}", bytes(192)),
            npy_file("{'descr': [('a', '<f8')], 'fortran_order': False, 'shape': (24,)}", bytes(192)),
            npy_file("{'descr': ('<f8', (24,)), 'fortran_order': False, 'shape': (1,)}", bytes(192)),
            npy_file("{'descr': '<U9', 'fortran_order': False, 'shape': (1, 24)}", bytes(864)),
            npy_file("{'descr': '<f8', 'fortran_order': False, 'shape': (1, 24)}", bytes(192), b"\x09\x00"),
        ],
    )
    def test_npy_that_the_model_can_not_use(self, endpoint: httpx.Client, content: bytes) -> None:
        assert endpoint.post("/invocations", content=content, headers=NPY).status_code == 400

    def test_a_broken_image(self, endpoint: httpx.Client) -> None:
        refused(endpoint.post("/invocations", content=b"\x89PNG\r\n\x1a\n", headers=PNG), 400, "can't be read")

    @pytest.mark.parametrize("kind", ["text/plain", "application/octet-stream", "multipart/form-data", ""])
    def test_other_content_types(self, endpoint: httpx.Client, kind: str) -> None:
        headers = {"Content-Type": kind} if kind else {}
        refused(endpoint.post("/invocations", content=b"x", headers=headers), 415, "allowed: application/json")

    def test_other_content_types_for_infer(self, endpoint: httpx.Client) -> None:
        refused(endpoint.post("/v2/models/digits/infer", content=b"x", headers=CSV), 415, "text/csv")

    def test_compressed_bodies(self, endpoint: httpx.Client) -> None:
        headers = {**JSON, "Content-Encoding": "gzip"}
        refused(endpoint.post("/invocations", content=b"x", headers=headers), 415, "gzip")

    def test_binary_tensors(self, endpoint: httpx.Client) -> None:
        headers = {**JSON, "Inference-Header-Content-Length": "2"}
        refused(endpoint.post("/v2/models/digits/infer", content=b"{}", headers=headers), 400, "binary")

    @pytest.mark.parametrize(("method", "path"), [("GET", "/invocations"), ("DELETE", "/ping"), ("BREW", "/")])
    def test_other_methods(self, endpoint: httpx.Client, method: str, path: str) -> None:
        assert endpoint.request(method, path).status_code == 405

    def test_unknown_paths(self, endpoint: httpx.Client) -> None:
        assert endpoint.get("/v3").json() == {"error": "Not Found"}


NUMBERS = st.one_of(st.integers(), st.floats(), st.booleans(), st.none(), st.text(max_size=5))
VALUES = st.recursive(
    NUMBERS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=6),
        st.dictionaries(st.sampled_from(["b64", "image", "instances", "x"]), inner, max_size=3),
    ),
    max_leaves=30,
)
TENSOR = st.fixed_dictionaries(
    {},
    optional={
        "name": st.one_of(st.just("image"), VALUES),
        "shape": st.one_of(st.lists(st.integers(-2, 30), max_size=5), st.just([1, 24]), VALUES),
        "datatype": st.one_of(st.sampled_from(["UINT8", "FP32", "BYTES", "BOOL"]), VALUES),
        "data": st.one_of(st.lists(NUMBERS, max_size=24), st.just([0] * 24), VALUES),
    },
)
INFER = st.fixed_dictionaries(
    {"inputs": st.one_of(st.lists(TENSOR, max_size=2), VALUES)},
    optional={"id": VALUES, "outputs": st.one_of(st.lists(st.fixed_dictionaries({"name": NUMBERS})), VALUES)},
)


class TestFuzz:
    """Only 200 and 4xx, each within the client's time limit."""

    def check(self, response: httpx.Response) -> None:
        assert response.status_code < 500, response.text
        if response.status_code != 200:
            assert set(response.json()) == {"error"}

    @FUZZ
    @given(body=VALUES)
    def test_json(self, endpoint: httpx.Client, body: Any) -> None:
        content = json.dumps(body)
        self.check(endpoint.post("/invocations", content=content, headers=JSON))
        self.check(endpoint.post("/v1/models/digits:predict", content=content, headers=JSON))

    @FUZZ
    @given(body=INFER)
    def test_infer(self, endpoint: httpx.Client, body: Any) -> None:
        self.check(endpoint.post("/v2/models/digits/infer", content=json.dumps(body), headers=JSON))

    @FUZZ
    @given(body=st.binary(max_size=300), kind=st.sampled_from([JSON, CSV, PNG, NPY]))
    def test_bytes(self, endpoint: httpx.Client, body: bytes, kind: dict[str, str]) -> None:
        self.check(endpoint.post("/invocations", content=body, headers=kind))
        instance = {"instances": [{"b64": base64.b64encode(body).decode()}]}
        self.check(endpoint.post("/v1/models/digits:predict", json=instance))

    @FUZZ
    @given(header=st.text(st.characters(codec="ascii"), max_size=80), data=st.binary(max_size=200))
    def test_npy_headers(self, endpoint: httpx.Client, header: str, data: bytes) -> None:
        self.check(endpoint.post("/invocations", content=npy_file(header, data), headers=NPY))

    @FUZZ
    @given(
        headers=st.dictionaries(
            st.sampled_from(["Content-Type", "Accept", "Content-Encoding"]),
            st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=40).map(str.strip),
        )
    )
    def test_headers(self, endpoint: httpx.Client, headers: dict[str, str]) -> None:
        self.check(endpoint.post("/invocations", content=b"[]", headers=headers))
