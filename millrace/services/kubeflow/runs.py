"""Start runs; the same id never starts a second one."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock
from pydantic import JsonValue

from millrace.errors import ConfigError
from millrace.services.kubeflow.connection import Connection, ServiceError, filtered, in_path
from millrace.services.kubeflow.document import Document, given_parameters
from millrace.services.kubeflow.marks import digest, mark, read_mark
from millrace.services.kubeflow.versions import Version, upload_document
from millrace.targets.kubeflow import Kubeflow
from millrace.targets.runs import Submit

__all__ = ["Submitted", "experiment_id", "fresh_id", "runs_marked", "submit_run"]


class Submitted(NamedTuple):
    """A run on the target."""

    run_id: str
    link: str
    new: bool
    """False: an earlier submit of the same id has started it."""
    version: Version


def fresh_id(name: str) -> str:
    """An id that nobody has used: the pipeline's name, the time and a random end."""
    return f"{name}-{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"


def submit_run(
    connection: Connection,
    document: Document,
    target: Kubeflow,
    submit: Submit,
    identity: str,
    settle: float = 1.5,
) -> Submitted:
    """Start a run of a document, or find the one that was started with this id.

    The API has no run id of the client's choice. The id is a mark in the run's description: it is
    searched for before a run is made, and again afterwards, when of several equal ones the first stays and
    the others are ended and deleted.

    Args:
        connection: Where to.
        document: The compiled pipeline.
        target: Service account and pipeline root.
        submit: Experiment, name and parameters.
        identity: The id of the run.
        settle: Seconds between making a run and looking for equal ones; the API's clock has whole seconds.

    Raises:
        ConfigError: When the parameters do not fit the document, or the id names another run.
        ServiceError: When the API can't be reached or refuses.
    """
    parameters = given_parameters(document, submit.parameters)
    content = digest(
        version=document.version,
        parameters=parameters,
        pipeline_root=target.pipeline_root,
        service_account=target.service_account,
    )
    with _lock(connection, identity):
        version = upload_document(connection, document)
        first = _first(connection, identity, content)
        if first is None:
            body = _body(connection, target, submit, version, parameters)
            body["display_name"] = submit.name or identity
            body["description"] = mark("run", identity, content)
            made = _create(connection, body, identity, content, settle)
        else:
            made = first
    link = f"{connection.ui}/#/runs/details/{made[0]}"
    return Submitted(made[0], link, made[1], version)


def experiment_id(connection: Connection, name: str) -> str:
    """Id of the experiment of this name, which is made when there is none."""
    found = connection.find("/experiments", "experiments", filter=filtered(display_name=name))
    if not found:
        body: dict[str, JsonValue] = {"display_name": name}
        if connection.namespace:
            body["namespace"] = connection.namespace
        try:
            return str(connection.post("/experiments", body)["experiment_id"])
        except ServiceError:
            found = connection.find("/experiments", "experiments", filter=filtered(display_name=name))
            if not found:  # else somebody else was faster
                raise
    if found[0].get("storage_state") == "ARCHIVED":
        raise ConfigError(f"submit.experiment={name!r} is archived: restore it in the UI, or name another")
    return str(found[0]["experiment_id"])


def runs_marked(connection: Connection, identity: str) -> list[dict[str, Any]]:
    """All runs with an id of ours, the first one first."""
    predicate = {"key": "description", "operation": "IS_SUBSTRING", "string_value": f"[millrace run={identity} "}
    runs = connection.find("/runs", "runs", filter=json.dumps({"predicates": [predicate]}))
    own = [run for run in runs if (read_mark("run", run) or ("", ""))[0] == identity]  # SQL's LIKE has wildcards
    return sorted(own, key=lambda run: (str(run.get("created_at")), str(run["run_id"])))


def _first(connection: Connection, identity: str, content: str) -> tuple[str, bool] | None:
    runs = runs_marked(connection, identity)
    if not runs:
        return None
    _, earlier = read_mark("run", runs[0]) or ("", "")
    if earlier != content:
        raise ConfigError(
            f"submit.id={identity} is the id of run {runs[0]['run_id']}, which has another document, other parameters "
            "or another service account: choose another id"
        )
    for extra in runs[1:]:  # whoever made it was killed before it could look again
        if extra.get("state") in ("PENDING", "RUNNING", "PAUSED"):
            _end(connection, str(extra["run_id"]))
    return str(runs[0]["run_id"]), False


def _end(connection: Connection, run_id: str) -> None:
    connection.post(f"/runs/{in_path(run_id)}:terminate")
    connection.delete(f"/runs/{in_path(run_id)}")


def _body(
    connection: Connection, target: Kubeflow, submit: Submit, version: Version, parameters: dict[str, JsonValue]
) -> dict[str, JsonValue]:
    config: dict[str, JsonValue] = {"parameters": parameters}
    if target.pipeline_root:
        config["pipeline_root"] = target.pipeline_root
    body: dict[str, JsonValue] = {
        "experiment_id": experiment_id(connection, submit.experiment),
        "pipeline_version_reference": {
            "pipeline_id": version.pipeline_id,
            "pipeline_version_id": version.version_id,
        },
        "runtime_config": config,
    }
    return body | ({"service_account": target.service_account} if target.service_account else {})


def _create(
    connection: Connection, body: dict[str, JsonValue], identity: str, content: str, settle: float
) -> tuple[str, bool]:
    try:
        own = str(connection.post("/runs", body)["run_id"])
    except ServiceError as error:
        if not error.may_pass:
            raise
        first = _first(connection, identity, content)  # it may have been made, and only the answer lost
        if first is None:
            raise
        return first
    time.sleep(settle)
    runs = runs_marked(connection, identity)
    if not runs or runs[0]["run_id"] == own:
        return own, True
    _end(connection, own)
    return str(runs[0]["run_id"]), False


def _lock(connection: Connection, identity: str) -> FileLock:
    """Two processes of this machine wait for each other; the API itself has no lock."""
    name = hashlib.sha256(f"{connection.host}\n{connection.namespace}\n{identity}".encode()).hexdigest()[:16]
    folder = Path(tempfile.gettempdir()) / f"millrace-submit-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    return FileLock(folder / f"{name}.lock")
