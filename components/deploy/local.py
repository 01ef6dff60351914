"""An endpoint on this machine: started, asked, and stopped or left running."""

from __future__ import annotations

import json

import httpx

from millrace.components.deploy.asking import Address
from millrace.components.deploy.checks import Questions, ask, channel_with_records, read_questions
from millrace.components.deploy.process import Server, started, stop_earlier
from millrace.components.deploy.spec import DeployInputs, DeployOutputs, DeployParameters
from millrace.errors import UnsupportedError
from millrace.runtime.context import Context, Result
from millrace.runtime.schemas import ModelCard, read_json_model

__all__ = ["deploy_here"]

_BODIES = {
    "image": ("--data-binary @PICTURE.png", "image/png"),
    "text": ("-d 'A TEXT'", "text/plain"),
    "tabular": ("--data-binary @ROWS.csv", "text/csv"),
}


def deploy_here(parameters: DeployParameters, inputs: DeployInputs, outputs: DeployOutputs, context: Context) -> Result:
    """Deploy a model on this machine.

    Raises:
        UnsupportedError: For what only a cluster can do.
        ConfigError: When the port is in use.
        TaskFailedError: When the server does not come up, or answers otherwise than the model.
    """
    for name in ("scaling", "canary"):
        if getattr(parameters, name) is not None:
            raise UnsupportedError(
                f"{name}: an endpoint on this machine is one process that starts anew; leave it out here, or deploy "
                "with target=kubeflow and target.serving.kind=kserve"
            )
    channel = channel_with_records(inputs.records.path)
    if url := stop_earlier(context.checkpoints):
        context.log.info("stopped the endpoint at %s that an earlier run of this task left running", url)
    with started(inputs.model.path, parameters, context.checkpoints) as server:
        # The server loads its model while this process loads the same one and the records.
        questions = read_questions(inputs.model.path, inputs.records.path, channel, parameters.check_records)
        server.wait_until_ready(parameters.startup_timeout_seconds)
        context.log.info("the endpoint answers at %s; asking it with %d records", server.url, len(questions.examples))
        metrics = _ask(server, questions, parameters)
        pid = server.process.pid
        if parameters.keep:
            server.hand_over()
            _tell(context, server.url, pid, read_json_model(inputs.model.path / "model.json", ModelCard))
    facts = {
        "url": server.url,
        "pid": pid if parameters.keep else None,
        "model": parameters.name,
        "running": parameters.keep,
    }
    (outputs.endpoint.path / "endpoint.json").write_text(json.dumps(facts, indent=2) + "\n")
    return Result(metrics=metrics, metadata={"endpoint": {"url": server.url, "running": parameters.keep}})


def _ask(server: Server, questions: Questions, parameters: DeployParameters) -> dict[str, float]:
    try:
        return ask(Address(server.url, parameters.name), questions, parameters)
    except httpx.HTTPError as error:
        raise server.failure(f"the endpoint failed while it was checked: {error}") from error


def _tell(context: Context, url: str, pid: int, card: ModelCard) -> None:
    body, kind = _BODIES[card.records.kind]
    context.log.info("the endpoint keeps running: %s (open it in a browser to try it)", url)
    context.log.info("ask it: curl %s -H 'Content-Type: %s' %s/invocations", body, kind, url)
    context.log.info("stop it: kill %d", pid)
