"""Requests to the API of Kubeflow Pipelines: one timeout, one way of retrying, one message per failure."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from pydantic import JsonValue

from millrace.errors import ConfigError
from millrace.services.kubeflow.access import configure
from millrace.services.kubeflow.failures import ServiceError, explain_exchange, explain_transport, wrong_answer
from millrace.targets.kubeflow import Kubeflow

__all__ = ["Connection", "ServiceError", "connect", "filtered", "in_path"]

_API = "/apis/v2beta1"


@dataclass(frozen=True)
class Connection:
    """An address that is known and the credentials for it. Nothing is sent before the first request."""

    host: str
    ui: str
    namespace: str | None
    timeout: float
    client: Any = field(repr=False)
    """A kfp_server_api.ApiClient: it knows TLS, proxies and credentials."""
    cluster: str | None = None
    """Address of the Kubernetes API, where a kube context leads there."""
    secrets: tuple[str, ...] = field(default=(), repr=False)
    """Never part of a message, whatever a server echoes."""

    def get(self, path: str, **query: str | int | None) -> dict[str, Any]:
        """Read; tried again when the connection breaks or a gateway is busy."""
        return self._call("GET", path, query)

    def post(self, path: str, body: Mapping[str, JsonValue] | None = None, **query: str | int | None) -> dict[str, Any]:
        """Create or act. Never sent twice: only a connection that was never made is tried again."""
        return self._call("POST", path, query, body=dict(body) if body is not None else None)

    def delete(self, path: str) -> None:
        """Delete; what is gone already is fine."""
        try:
            self._call("DELETE", path, {})
        except ServiceError as error:
            if error.status != 404:
                raise

    def upload(self, path: str, file: Path, **query: str | int | None) -> dict[str, Any]:
        """Send a file as it is, byte for byte."""
        return self._call("POST", path, query, files={"uploadfile": str(file)}, content="multipart/form-data")

    def find(self, path: str, key: str, **query: str | int | None) -> list[dict[str, Any]]:
        """All items of a list, page by page."""
        items: list[dict[str, Any]] = []
        token = None
        while True:
            page = self.get(path, page_size=100, page_token=token, namespace=self.namespace, **query)
            items += page.get(key) or []
            token = page.get("next_page_token")
            if not token:
                return items

    def text(self, base: str, path: str, **query: str | int | None) -> str:
        """A plain text that the UI or the API serves, such as a log."""
        answer = self._exchange("GET", base, path, query, {"response_type": "str"})
        if "html" in (answer.getheader("content-type") or ""):  # a dashboard answers unknown paths with its own page
            raise wrong_answer(base, "", "text/html")
        return str(answer.data or "")

    def _call(
        self,
        method: str,
        path: str,
        query: Mapping[str, str | int | None],
        body: JsonValue = None,
        files: Mapping[str, str] | None = None,
        content: str = "application/json",
    ) -> dict[str, Any]:
        options = {
            "body": body,
            "files": files,
            "header_params": {"Accept": "application/json", "Content-Type": content},
        }
        answer = self._exchange(method, self.host, _API + path, query, options)
        try:
            found = json.loads(answer.data)
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise wrong_answer(self.host, str(answer.data), answer.getheader("content-type"))
        return found

    def _exchange(
        self, method: str, base: str, path: str, query: Mapping[str, str | int | None], options: Mapping[str, Any]
    ) -> Any:
        from kfp_server_api.exceptions import ApiException
        from urllib3.exceptions import HTTPError

        given = [(name, value) for name, value in query.items() if value not in (None, "")]
        try:
            self.client.call_api(
                path,
                method,
                query_params=given,
                auth_settings=["Bearer"],
                _host=base,
                _request_timeout=(min(5.0, self.timeout), self.timeout),
                **options,
            )
        except ApiException as error:
            # No cause in the traceback: it would show headers and whatever the server echoed.
            raise explain_exchange(base, f"{method} {path}", error, self._secrets()) from None
        except UnicodeDecodeError:
            raise wrong_answer(base, "", "bytes that are no text") from None
        except HTTPError as error:
            raise explain_transport(base, error, self._secrets()) from None
        return self.client.last_response

    def _secrets(self) -> tuple[str, ...]:
        """Those that were there at first, and the token that has taken their place meanwhile."""
        key = str(self.client.configuration.api_key.get("authorization") or "").removeprefix("Bearer ")
        return (*self.secrets, key) if key else self.secrets


def connect(target: Kubeflow) -> Connection:
    """Prepare requests to the API that a target names.

    Raises:
        ConfigError: When the address, the credentials or a package are missing.
    """
    try:
        import kfp_server_api
        import urllib3
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"Kubeflow Pipelines needs the package {error.name!r}: pip install -e '.[kubeflow]'"
        ) from error

    configuration: Any = kfp_server_api.Configuration()
    cookie, secrets = configure(configuration, target)
    configuration.host = configuration.host.rstrip("/")
    server, found, _ = configuration.host.partition("/api/v1/namespaces/")
    configuration.proxy = _proxy(configuration.host)
    configuration.retries = urllib3.Retry(
        total=3,
        connect=1,
        read=2,
        status=2,
        other=0,
        redirect=0,
        allowed_methods=["GET"],
        status_forcelist=[429, 502, 503, 504],
        backoff_factor=0.5,
        raise_on_status=False,
        raise_on_redirect=False,
        respect_retry_after_header=False,
    )
    return Connection(
        host=configuration.host,
        ui=(target.api.ui or configuration.host).rstrip("/"),
        namespace=target.api.namespace,
        timeout=target.api.timeout_seconds,
        client=kfp_server_api.ApiClient(configuration, cookie=cookie),
        cluster=server if target.api.auth == "kube_context" and found else None,
        secrets=secrets,
    )


def filtered(**equal: str) -> str:
    """The API's filter for fields that equal a value."""
    predicates = [{"key": key, "operation": "EQUALS", "string_value": value} for key, value in equal.items()]
    return json.dumps({"predicates": predicates})


def in_path(name: str) -> str:
    """A name or an id as one part of a path."""
    return quote(name, safe="")


def _proxy(host: str) -> str | None:
    """The proxy that the environment names, as every other program takes it."""
    parts = urlsplit(host)
    if urllib.request.proxy_bypass(parts.hostname or ""):
        return None
    return urllib.request.getproxies().get(parts.scheme)
