"""Who asks and where: every way in, and one clear message for each way that does not work."""

from __future__ import annotations

import socket
import ssl
import time
import traceback
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from millrace.errors import ConfigError
from millrace.services.kubeflow import ServiceError, connect
from millrace.targets.kubeflow import Api, Kubeflow
from tests.services.kubeflow.conftest import TOKEN
from tests.services.kubeflow.fake_server import FakeKubeflow, RefusalError, serving


def at(fake: FakeKubeflow, **settings: Any) -> Kubeflow:
    return Kubeflow(api=Api(host=fake.url, **settings))


def told(target: Kubeflow) -> str:
    """What a person sees, with --debug as well."""
    with pytest.raises(ConfigError) as caught:
        connect(target).get("/healthz")
    shown = "".join(traceback.format_exception(caught.value))
    assert TOKEN not in shown
    return str(caught.value)


class TestCredentials:
    def test_from_the_environment(self, fake: FakeKubeflow, monkeypatch: pytest.MonkeyPatch) -> None:
        fake.token = TOKEN
        monkeypatch.setenv("KFP_TOKEN", f"{TOKEN}\n")
        connection = connect(at(fake, auth="token"))
        assert connection.get("/healthz")["tag_name"] == "2.17.0"
        assert TOKEN not in repr(connection)

    def test_from_a_file_that_is_replaced_meanwhile(self, fake: FakeKubeflow, tmp_path: Path) -> None:
        file = tmp_path / "token"
        file.write_text(TOKEN)
        connection = connect(at(fake, auth="token", token_file=file))
        fake.token = "next"
        file.write_text("next\n")
        assert connection.get("/healthz")
        file.write_text("the-one-after-that")
        with pytest.raises(ServiceError, match=r"Bearer \*\*\*"):
            connection.get("/healthz")

    def test_as_cookies(self, fake: FakeKubeflow, tmp_path: Path) -> None:
        file = tmp_path / "cookies"
        file.write_text(f"authservice_session={TOKEN}\n")
        fake.cookie = f"authservice_session={TOKEN}"
        assert connect(at(fake, auth="cookies", cookies_file=file)).get("/healthz")

    def test_of_a_pod(self, fake: FakeKubeflow, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("KF_PIPELINES_ENDPOINT", raising=False)
        file = tmp_path / "token"
        file.write_text(TOKEN)
        monkeypatch.setenv("KF_PIPELINES_SA_TOKEN_PATH", str(file))
        inside = Kubeflow(api=Api(auth="in_cluster"), namespace="team")
        assert connect(inside).host == "http://ml-pipeline.team.svc.cluster.local:8888"
        fake.token = TOKEN
        assert connect(at(fake, auth="in_cluster")).get("/healthz")

    def test_of_a_kube_context(self, fake: FakeKubeflow, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("KUBECONFIG", str(kubeconfig(tmp_path, fake.url)))
        fake.token = TOKEN
        target = Kubeflow(api=Api(auth="kube_context", kube_context="lab"))
        assert connect(target).host == f"{fake.url}/api/v1/namespaces/kubeflow/services/ml-pipeline:http/proxy"
        assert connect(target).get("/healthz")
        assert fake.requests[-1][1].startswith("/api/v1/namespaces/kubeflow/services/ml-pipeline:http/proxy/apis/")
        assert fake.headers[-1]["authorization"] == f"Bearer {TOKEN}"
        with_host = Kubeflow(api=Api(auth="kube_context", kube_context="lab", host=fake.url))
        assert connect(with_host).get("/healthz")

    def test_of_an_unknown_kube_context(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("KUBECONFIG", str(kubeconfig(tmp_path, "http://127.0.0.1:1")))
        with pytest.raises(ConfigError, match=r"target\.api\.kube_context=moon: .*kubectl config get-contexts"):
            connect(Kubeflow(api=Api(auth="kube_context", kube_context="moon")))

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"auth": "token"}, "target.api.token_file is not set, nor is the environment variable KFP_TOKEN"),
            ({"auth": "cookies"}, "the environment variable KFP_COOKIES"),
            ({"auth": "token", "token_file": Path("none")}, "target.api.token_file: none: No such file"),
            ({"auth": "iap"}, "target.api.client_id is not set"),
            ({"ca_file": Path("none")}, "target.api.ca_file: none: No such file"),
        ],
    )
    def test_that_are_missing_are_named(
        self, fake: FakeKubeflow, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], message: str
    ) -> None:
        for name in ("KFP_TOKEN", "KFP_COOKIES", "KF_PIPELINES_IAP_OAUTH2_CLIENT_ID"):
            monkeypatch.delenv(name, raising=False)
        with pytest.raises(ConfigError) as caught:
            connect(at(fake, **settings))
        assert message in str(caught.value)

    @pytest.mark.parametrize("value", [f"{TOKEN}\n{TOKEN}", f"{TOKEN}é", " "])
    def test_that_are_no_header_are_refused_unseen(self, fake: FakeKubeflow, tmp_path: Path, value: str) -> None:
        file = tmp_path / "token"
        file.write_text(value)
        assert "is empty or holds more than one line" in told(at(fake, auth="token", token_file=file))


class TestAddresses:
    @pytest.mark.parametrize(
        ("host", "message"),
        [
            ("localhost:8080", "it must begin with http:// or https://"),
            ("ftp://localhost", "it must begin with http:// or https://"),
            (f"http://me:{TOKEN}@localhost", "no user or password in the URL"),
            ("http://localhost/#/pipelines", "only scheme, host, port and path"),
        ],
    )
    def test_that_are_none_are_refused(self, host: str, message: str) -> None:
        assert message in told(Kubeflow(api=Api(host=host)))

    def test_must_be_given(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("KF_PIPELINES_ENDPOINT", raising=False)
        assert "target.api.host is not set" in told(Kubeflow())

    def test_come_from_the_environment_too(self, fake: FakeKubeflow, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("KF_PIPELINES_ENDPOINT", f"{fake.url}/")
        assert connect(Kubeflow()).get("/healthz")


class TestFailures:
    """Each within seconds, each with what to do."""

    @pytest.fixture(autouse=True)
    def _quick(self) -> Iterator[None]:
        started = time.monotonic()
        yield
        assert time.monotonic() - started < 15

    def test_nobody_listens(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        message = told(Kubeflow(api=Api(host=f"http://127.0.0.1:{port}")))
        assert "can't be reached: Connection refused" in message
        assert "kubectl port-forward" in message

    def test_no_such_host(self) -> None:
        assert "there is no host of this name" in told(Kubeflow(api=Api(host="http://nothing.invalid")))

    def test_no_answer_in_time(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            host = f"http://127.0.0.1:{silent.getsockname()[1]}"
            assert "does not answer in time" in told(Kubeflow(api=Api(host=host, timeout_seconds=0.3)))

    def test_plain_http_where_tls_is_expected(self, fake: FakeKubeflow) -> None:
        message = told(Kubeflow(api=Api(host=fake.url.replace("http:", "https:"))))
        assert "write http:// in target.api.host" in message

    def test_a_certificate_that_is_not_known(self, secure: tuple[str, Path]) -> None:
        url, authority = secure
        message = told(Kubeflow(api=Api(host=url)))
        assert "certificate can't be verified" in message
        assert "target.api.ca_file" in message
        assert connect(Kubeflow(api=Api(host=url, ca_file=authority))).get("/healthz")

    def test_nobody_is_logged_in(self, fake: FakeKubeflow) -> None:
        fake.token = TOKEN
        assert "answers 401 to GET /apis/v2beta1/healthz: it does not know who is asking" in told(at(fake))

    def test_a_secret_that_the_server_echoes(self, fake: FakeKubeflow, monkeypatch: pytest.MonkeyPatch) -> None:
        fake.token = "another"
        monkeypatch.setenv("KFP_TOKEN", TOKEN)
        assert "Request not authenticated: Bearer ***" in told(at(fake, auth="token"))

    @pytest.mark.parametrize(
        ("trouble", "message"),
        [
            (RefusalError(403, "User is not authorized"), "this account has no permission for it"),
            (RefusalError(302, ""), "redirects to https://login.example.org/dex instead of answering"),
            (RefusalError(500, "InternalServerError: no database"), "500 to GET /apis/v2beta1/healthz: the server"),
            ("<html>Sign in</html>", "answers with a web page, not as the API"),
            ("close", "can't be reached"),
            (RefusalError(404, "page not found"), "answers with 404 Not Found, not as the API"),
        ],
    )
    def test_something_else_answers(self, fake: FakeKubeflow, trouble: RefusalError | str, message: str) -> None:
        fake.broken = lambda method, path: trouble
        assert message in told(at(fake))

    def test_reading_is_tried_again_and_writing_is_not(self, fake: FakeKubeflow) -> None:
        left: Iterator[RefusalError | str] = iter([RefusalError(503, "starting"), "close"])
        fake.broken = lambda method, path: next(left, None)
        connection = connect(at(fake))
        assert connection.get("/healthz")
        assert len(fake.requests) == 3
        fake.broken = lambda method, path: "close"
        with pytest.raises(ServiceError):
            connection.post("/runs", {"display_name": "x"})
        assert len(fake.requests) == 4


def kubeconfig(folder: Path, server: str) -> Path:
    file = folder / "config"
    content = {
        "clusters": [{"name": "lab", "cluster": {"server": server}}],
        "users": [{"name": "me", "user": {"token": TOKEN}}],
        "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "me"}}],
        "current-context": "lab",
    }
    file.write_text(yaml.safe_dump(content))
    return file


@pytest.fixture
def secure(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A server with a certificate of its own, and the file that vouches for it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    file, private = tmp_path / "ca.pem", tmp_path / "key.pem"
    file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file, private)
    with serving(FakeKubeflow(), context) as fake:
        yield fake.url.replace("http://127.0.0.1", "https://localhost"), file
