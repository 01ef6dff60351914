"""A step of a Kubeflow pipeline whose work is done by a cluster job of several hosts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from millrace.errors import ConfigError
from millrace.registry import AnyComponent
from millrace.runtime.cluster.api import connect, current_account
from millrace.runtime.cluster.jobs import work_out
from millrace.runtime.cluster.remote import RemoteArtifact, RemoteTask
from millrace.runtime.cluster.transfer import check_uri, download
from millrace.runtime.task import GivenArtifact, TaskRequest, TaskResult

__all__ = ["hand_over"]

_SHOWN = "metrics"
"""The output that the step itself needs, for what the UI shows."""


def hand_over(
    request: TaskRequest,
    component: AnyComponent,
    outputs: Mapping[str, str],
    directory: Path,
) -> TaskResult:
    """Have a task done by the job that its cluster work asks for.

    Args:
        request: The task; its cluster work is set.
        component: Its component.
        outputs: Where each output port's artifact belongs.
        directory: The task directory; the metrics are put into its outputs, all else stays in the bucket.

    Raises:
        MillraceError: When the task can't be handed over, or failed.
    """
    work = request.cluster
    ports = {port.name for port in component.spec.outputs}
    wanted = {name: uri for name, uri in outputs.items() if name in ports}
    if work is None or not wanted:
        raise ConfigError(f"{request.name}: there is nothing that a cluster job could make")
    if work.service_account is None:  # the job's pods read and write the same storage as this one
        work = work.model_copy(update={"service_account": current_account()})
    if work.kind == "trainjob" and work.pod.image_pull_policy:
        print(f"image_pull_policy {work.pod.image_pull_policy} does not reach the job: its TrainingRuntime decides")
    inputs = {name: tuple(map(_remote, given)) for name, given in request.inputs.items() if given}
    places = {name: [uri for one in given for uri in (one.parts or (one.uri,))] for name, given in inputs.items()}
    for name, uris in {**places, **{name: [uri] for name, uri in wanted.items()}}.items():
        for uri in uris:
            check_uri(uri, f"{request.name}.{name}")
    task = RemoteTask(
        name=request.name,
        run=request.run,
        parameters=request.parameters,
        inputs=inputs,
        outputs=wanted,
        share=request.share,
        processes=work.processes,
    )
    result = work_out(connect(work.namespace), work, request.component, task)
    if _SHOWN in result.outputs:
        download(wanted[_SHOWN], directory / result.outputs[_SHOWN].path, single=False)
    return result


def _remote(given: GivenArtifact) -> RemoteArtifact:
    return RemoteArtifact(uri=given.uri, parts=given.parts, metadata=given.metadata)
