"""Start an endpoint, ask it with real records, compare, and stop it or leave it running."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import httpx

from millrace.components.deploy.asking import agreement, latency_ms, requests_per_second
from millrace.components.deploy.payloads import Images
from millrace.components.deploy.process import Server, started, stop_earlier
from millrace.components.deploy.spec import DeployInputs, DeployOutputs, DeployParameters
from millrace.errors import DataError, TaskFailedError
from millrace.runtime.context import Context, Result
from millrace.runtime.datasets import load_arrays
from millrace.runtime.models import Predictor, check_fits, load_predictor
from millrace.runtime.records import counts
from millrace.runtime.schemas import Channel, ModelCard, read_json_model, read_records_schema

__all__ = ["main"]


def main(parameters: DeployParameters, inputs: DeployInputs, outputs: DeployOutputs, context: Context) -> Result:
    """Deploy a model on this machine.

    Raises:
        ConfigError: When the port is in use.
        DataError: When the records do not fit the model.
        TaskFailedError: When the server does not come up, or answers otherwise than the model.
    """
    logging.getLogger("httpx").setLevel(logging.WARNING)  # else it logs each of thousands of requests
    channel = _channel(inputs.records.path)
    card = read_json_model(inputs.model.path / "model.json", ModelCard)
    check_fits("the model", card, read_records_schema(inputs.records.path))
    if url := stop_earlier(context.checkpoints):
        context.log.info("stopped the endpoint at %s that an earlier run of this task left running", url)
    with started(inputs.model.path, parameters, context.checkpoints) as server:
        # The server loads its model while this process loads the same one and the records.
        images, _ = load_arrays(inputs.records.path, channel, limit=parameters.check_records)
        predictor = load_predictor(inputs.model.path)
        server.wait_until_ready(parameters.startup_timeout_seconds)
        context.log.info("the endpoint answers at %s; asking it with %d records", server.url, len(images))
        metrics = _ask(server, parameters, predictor, images)
        pid = server.process.pid
        if parameters.keep:
            server.hand_over()
            _tell(context, server.url, pid, parameters)
    facts = {
        "url": server.url,
        "pid": pid if parameters.keep else None,
        "model": parameters.name,
        "running": parameters.keep,
    }
    (outputs.endpoint.path / "endpoint.json").write_text(json.dumps(facts, indent=2) + "\n")
    return Result(metrics=metrics, metadata={"endpoint": {"url": server.url, "running": parameters.keep}})


def _channel(records: Path) -> Channel:
    for channel in ("test", "validation", "train"):
        if sum(file.records for file in counts(records, channel)):
            return channel
    raise DataError(f"{records}: there are no records to ask the endpoint with")


def _ask(server: Server, parameters: DeployParameters, predictor: Predictor, images: Images) -> dict[str, float]:
    own, classes = predictor.predict(images), predictor.card.records.classes
    try:
        shares = agreement(server.url, parameters.name, images, own, classes, parameters)
        latency = latency_ms(server.url, parameters.name, images[:50], parameters)
        rate = requests_per_second(server.url, parameters.name, images, parameters)
    except httpx.HTTPError as error:
        raise server.failure(f"the endpoint failed while it was checked: {error}") from error
    overall = sum(shares.values()) / len(shares)
    if overall < 1:
        told = ", ".join(f"{protocol} {share:.3f}" for protocol, share in shares.items())
        raise TaskFailedError(f"the endpoint's answers differ from the model's own; share of equal answers: {told}")
    return {"agreement": overall, "latency_ms": latency, "requests_per_second": rate}


def _tell(context: Context, url: str, pid: int, parameters: DeployParameters) -> None:
    context.log.info("the endpoint keeps running: %s (open it in a browser to try it)", url)
    context.log.info("ask it: curl --data-binary @PICTURE.png -H 'Content-Type: image/png' %s/invocations", url)
    context.log.info("stop it: kill %d", pid)
