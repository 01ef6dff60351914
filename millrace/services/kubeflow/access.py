"""Where the API is and who asks: the ways that kfp.Client knows, as one setting each."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from millrace.errors import ConfigError, explain_os_error
from millrace.targets.kubeflow import Api, Kubeflow

__all__ = ["configure"]

_POD_TOKEN = "/var/run/secrets/kubeflow/pipelines/token"  # noqa: S105 - a path, the one that kfp.Client reads

Answer = tuple[str | None, tuple[str, ...]]


def configure(configuration: Any, target: Kubeflow) -> Answer:
    """Fill in address and credentials of a kfp_server_api.Configuration.

    Returns:
        The cookie to send, if any, and all secrets that are in use.

    Raises:
        ConfigError: When something is missing. Never with a secret in it.
    """
    api = target.api
    if api.ca_file is not None:
        _check_file("target.api.ca_file", api.ca_file)
        configuration.ssl_ca_cert = str(api.ca_file)
    configuration.host = _host(api)
    answer = _WAYS[api.auth](configuration, target)
    if not configuration.host:
        raise ConfigError(
            "target.api.host is not set: the URL of Kubeflow Pipelines, http://localhost:8080 for one after\n"
            "  kubectl port-forward -n kubeflow svc/ml-pipeline-ui 8080:80\n"
            "or go through a kube context: target.api.auth=kube_context"
        )
    return answer


def _host(api: Api) -> str:
    """The address that is set, checked, or nothing."""
    host = api.host or os.environ.get("KF_PIPELINES_ENDPOINT") or ""
    if not host:
        return ""
    parts = urlsplit(host)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(
            f"target.api.host: it must begin with http:// or https:// (given: {host.rpartition('@')[2]!r})"
        )
    if parts.username or parts.password:
        raise ConfigError("target.api.host: no user or password in the URL: it would be in every message and record")
    if parts.query or parts.fragment:
        raise ConfigError(f"target.api.host: only scheme, host, port and path (given: {host!r})")
    return host


def _nobody(configuration: Any, target: Kubeflow) -> Answer:
    return None, ()


def _token(configuration: Any, target: Kubeflow) -> Answer:
    return _bearer(configuration, lambda: _secret("token_file", target.api.token_file, "KFP_TOKEN"))


def _cookies(configuration: Any, target: Kubeflow) -> Answer:
    cookie = _secret("cookies_file", target.api.cookies_file, "KFP_COOKIES")
    parts = [part.partition("=")[2].strip() for part in cookie.split(";")]
    return cookie, (cookie, *(part for part in parts if part))


def _iap(configuration: Any, target: Kubeflow) -> Answer:
    client_id = target.api.client_id or os.environ.get("KF_PIPELINES_IAP_OAUTH2_CLIENT_ID")
    if not client_id:
        raise ConfigError("target.api.client_id is not set: the id of the OAuth client of the IAP")
    from google.auth.exceptions import GoogleAuthError
    from kfp.client import auth

    ask: Any = auth.get_auth_token  # its annotations refuse the None that it takes
    try:
        token, _ = ask(
            client_id,
            os.environ.get("KF_PIPELINES_APP_OAUTH2_CLIENT_ID"),
            os.environ.get("KF_PIPELINES_APP_OAUTH2_CLIENT_SECRET"),
        )
    except GoogleAuthError as error:
        raise ConfigError(
            f"no Google credentials for the IAP: gcloud auth application-default login ({error})"
        ) from None
    if not token:
        raise ConfigError(
            "these Google credentials give no token for the IAP: use those of a service account "
            "(GOOGLE_APPLICATION_CREDENTIALS), or set KF_PIPELINES_APP_OAUTH2_CLIENT_ID and _SECRET"
        )
    return _bearer(configuration, lambda: token)


def _in_cluster(configuration: Any, target: Kubeflow) -> Answer:
    configuration.host = configuration.host or f"http://ml-pipeline.{target.namespace}.svc.cluster.local:8888"
    path = Path(os.environ.get("KF_PIPELINES_SA_TOKEN_PATH", _POD_TOKEN))
    if not path.is_file():  # single-user Kubeflow Pipelines asks nobody who they are
        return None, ()
    return _bearer(configuration, lambda: _secret("auth=in_cluster", path, ""))


def _kube_context(configuration: Any, target: Kubeflow) -> Answer:
    given = configuration.host
    try:
        from kubernetes import config
    except ModuleNotFoundError as error:
        raise ConfigError("auth=kube_context needs the package 'kubernetes': pip install -e '.[kubeflow]'") from error
    try:
        file = os.environ.get("KUBECONFIG")  # the package itself reads it once, when it is imported
        config.load_kube_config(file, client_configuration=configuration, context=target.api.kube_context)
    except (config.ConfigException, OSError) as error:
        wanted = f"target.api.kube_context={target.api.kube_context}" if target.api.kube_context else "a kube context"
        raise ConfigError(f"{wanted}: {error}; see them all: kubectl config get-contexts") from None
    server = configuration.host.rstrip("/")
    configuration.host = given or f"{server}/api/v1/namespaces/{target.namespace}/services/ml-pipeline:http/proxy"
    key = str(configuration.api_key.get("authorization", ""))
    return None, tuple(part for part in (key.removeprefix("Bearer ").strip(),) if part)


_WAYS: Mapping[str, Callable[[Any, Kubeflow], Answer]] = {
    "none": _nobody,
    "token": _token,
    "cookies": _cookies,
    "iap": _iap,
    "in_cluster": _in_cluster,
    "kube_context": _kube_context,
}


def _bearer(configuration: Any, read: Callable[[], str]) -> Answer:
    """Send a token, read anew for each request: files of rotating tokens stay right."""

    def refresh(configuration: Any) -> None:
        configuration.api_key["authorization"] = read()

    token = read()
    configuration.api_key["authorization"] = token
    configuration.api_key_prefix["authorization"] = "Bearer"
    configuration.refresh_api_key_hook = refresh
    return None, (token,)


def _secret(field: str, file: Path | None, variable: str) -> str:
    """A secret from its file or the environment, usable as a header."""
    if file is not None:
        source = f"{file} (target.api.{field})"
        _check_file(f"target.api.{field}", file)
        value = file.read_bytes().decode(errors="replace").strip()
    else:
        source = f"the environment variable {variable}"
        value = os.environ.get(variable, "").strip()
        if not value:
            raise ConfigError(f"target.api.{field} is not set, nor is {source}: one of them must hold it")
    if not value or not value.isascii() or not value.isprintable():
        raise ConfigError(f"{source} is empty or holds more than one line of plain text")
    return value


def _check_file(field: str, file: Path) -> None:
    try:
        with file.open("rb"):
            pass
    except OSError as error:
        raise ConfigError(f"{field}: {explain_os_error(error)}") from None
