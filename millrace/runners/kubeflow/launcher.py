"""One container task: what the backend's launcher does around it, and the retries."""

from __future__ import annotations

import asyncio
import contextlib
import tarfile
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any

from millrace.errors import TaskFailedError, explain_os_error
from millrace.runners.archive import file_entry, folder_entry
from millrace.runners.engine import SCRATCH
from millrace.runners.kubeflow.cache import Results, find_results, fingerprint, keep_results
from millrace.runners.kubeflow.inputs import WORKSPACE, Artifact, Inputs, Outcome, Scope, Task, value_of
from millrace.runners.kubeflow.outputs import collect
from millrace.runners.kubeflow.placeholders import artifact_place, command_line
from millrace.runners.kubeflow.pods import PodOptions, pod_options
from millrace.runners.kubeflow.record import TaskRecord
from millrace.runners.kubeflow.run import Run
from millrace.runners.kubeflow.values import canonical, text_of
from millrace.runners.pod import Exit, Pod
from millrace.runners.record import TaskState
from millrace.runners.store import SCHEMES, local_path, store_reason

__all__ = ["run_container"]

LOGS = "executor-logs"
"""The artifact that the backend adds to every task: the container's log."""


@dataclass(frozen=True)
class _Plan:
    """What every attempt of a task has in common."""

    task: Task
    uri: str
    """Below which the task's artifacts are."""
    executor_input: Mapping[str, Any]
    image: str
    command: tuple[str, ...]
    options: PodOptions
    workspace: bool
    folder: Path


async def run_container(run: Run, task: Task, scope: Scope, inputs: Inputs, entry: TaskRecord) -> Outcome:
    """Run a task in a container, again where its retry policy says so.

    Raises:
        TaskFailedError: When it failed, or where the backend would fail.
    """
    plan = _plan(run, task, scope, inputs)
    entry.image = plan.image
    key = _cache_key(run, plan, inputs)
    if key and (earlier := find_results(run.cache, key)) is not None:
        return await _reuse(run, earlier, entry)
    outcome = await _tried(run, plan, entry)
    if key:
        results = Results(parameters=outcome.parameters, artifacts=outcome.artifacts, records=entry.artifacts)
        keep_results(run.cache, key, results)
    return outcome


def _cache_key(run: Run, plan: _Plan, inputs: Inputs) -> str:
    """What an earlier result is found by; empty when the task shall run in any case."""
    if not run.reuses or not plan.task.spec.get("cachingOptions", {}).get("enableCache"):
        return ""
    container = run.view.executors[plan.task.component["executorLabel"]]["container"]
    claims = [*plan.options.claims.values(), *(["workspace"] if plan.workspace else [])]
    return fingerprint(plan.task, inputs, container, run.engine.image_id(plan.image), claims)


async def _reuse(run: Run, earlier: Results, entry: TaskRecord) -> Outcome:
    """Give what an earlier task gave, its artifacts at their old places in the store."""
    with _explained():
        for made in (item for items in earlier.records.values() for item in items):
            if made.path is not None:
                await asyncio.to_thread(run.store.upload, made.path, made.uri)
    entry.parameters, entry.artifacts = earlier.parameters, earlier.records
    return Outcome(TaskState.CACHED, parameters=earlier.parameters, artifacts=earlier.artifacts)


async def _tried(run: Run, plan: _Plan, entry: TaskRecord) -> Outcome:
    policy = plan.task.spec.get("retryPolicy", {})
    retries = int(policy.get("maxRetryCount", 0))
    pause = float(str(policy.get("backoffDuration", "0s")).rstrip("s"))
    longest = float(str(policy.get("backoffMaxDuration", "0s")).rstrip("s")) or float("inf")
    began = time.monotonic()
    for attempt in range(retries + 1):
        try:
            async with run.slots:
                if attempt == 0:
                    entry.state, entry.started = TaskState.RUNNING, datetime.now(UTC)
                entry.attempts = attempt + 1
                run.changed()
                return await _attempt(run, plan, attempt, entry)
        except TaskFailedError:
            if attempt == retries or time.monotonic() + pause - began > longest:
                raise
        await asyncio.sleep(pause)
        pause *= float(policy.get("backoffFactor", 2) or 1)
    raise AssertionError("the last attempt returns or raises")


def _plan(run: Run, task: Task, scope: Scope, inputs: Inputs) -> _Plan:
    container = run.view.executors[task.component["executorLabel"]]["container"]
    uri = f"{run.root}/{task.name}/{uuid.uuid4()}"
    defaults = {
        name: canonical(definition["defaultValue"])
        for name, definition in task.definitions.items()
        if "defaultValue" in definition
    }
    parameters = defaults | inputs.parameters
    executor_input = _executor_input(task, uri, parameters, inputs.artifacts)
    given = {name for name, value in inputs.parameters.items() if value is not None}
    template = [*container.get("command", []), *container.get("args", [])]
    fields = {
        "metadata.name": f"{run.identity.resource}-{task.name}",
        "metadata.uid": run.identity.run,
        "metadata.labels['pipeline/runid']": run.identity.run,
        "metadata.namespace": "kubeflow",
        "spec.serviceAccountName": "pipeline-runner",
        "spec.nodeName": "rehearsal",
    }
    options = pod_options(
        container,
        run.view.pods.get(task.component["executorLabel"], {}),
        parameters,
        lambda source: value_of(source, task, scope, run.identity),
        run.secrets,
        run.config_maps,
        fields,
    )
    return _Plan(
        task=task,
        uri=uri,
        executor_input=executor_input,
        image=_image(container["image"], parameters),
        command=command_line(template, executor_input, given, run.compat),
        options=options,
        workspace=any(WORKSPACE in value for value in parameters.values() if isinstance(value, str)),
        folder=run.folder(scope.name(task.name)),
    )


def _image(image: str, parameters: Mapping[str, Any]) -> str:
    if "{{$.inputs.parameters['" not in image:
        return image
    name = image.split("['", 1)[1].split("']", 1)[0]
    return text_of(parameters.get(name))


def _executor_input(
    task: Task, uri: str, parameters: Mapping[str, Any], artifacts: Mapping[str, list[Artifact]]
) -> dict[str, Any]:
    outputs = task.component.get("outputDefinitions", {})
    made = {
        name: {
            "artifacts": [
                {
                    "name": name,
                    "type": definition.get("artifactType", {}),
                    "uri": f"{uri}/{name}",
                    "metadata": canonical(definition.get("metadata", {})),
                }
            ]
        }
        for name, definition in outputs.get("artifacts", {}).items()
    }
    made[LOGS] = {"artifacts": [{"name": LOGS, "type": {"schemaTitle": "system.Artifact"}, "uri": f"{uri}/{LOGS}-0"}]}
    return {
        "inputs": {
            "parameterValues": {name: value for name, value in parameters.items() if value is not None},
            "artifacts": {name: {"artifacts": items} for name, items in artifacts.items()},
        },
        "outputs": {
            "parameters": {
                name: {"outputFile": f"/tmp/kfp/outputs/{name}"}  # noqa: S108 - where the backend puts them
                for name in outputs.get("parameters", {})
            },
            "artifacts": made,
            "outputFile": f"{local_path(uri)}/output_metadata.json",
        },
    }


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    """What goes wrong outside of a task, in the terms of a task that failed."""
    from docker.errors import DockerException
    from obstore.exceptions import BaseError

    try:
        yield
    except OSError as error:
        raise TaskFailedError(f"this machine failed: {explain_os_error(error)}") from error
    except BaseError as error:
        raise TaskFailedError(f"the store failed: {store_reason(error)}") from None
    except DockerException as error:
        raise TaskFailedError(f"the Docker engine failed: {str(error)[:500]}") from error


async def _attempt(run: Run, plan: _Plan, attempt: int, entry: TaskRecord) -> Outcome:
    log = plan.folder / ("log.txt" if attempt == 0 else f"log-{attempt}.txt")
    log.parent.mkdir(parents=True, exist_ok=True)
    entry.log = log
    with _explained():
        ended, results = await asyncio.to_thread(_execute, run, plan, attempt, log)
    if results is None:
        raise TaskFailedError(_why(ended, plan.options))
    entry.parameters = results.parameters
    entry.artifacts = results.records
    return Outcome(TaskState.SUCCEEDED, parameters=results.parameters, artifacts=results.artifacts)


def _execute(run: Run, plan: _Plan, attempt: int, log: Path) -> tuple[Exit, Results | None]:
    pod = _pod(run, plan, attempt)
    with run.engine.container(pod) as container:
        run.engine.put(container, lambda archive: _fill(run, plan, pod, archive))
        with log.open("wb") as stream:
            ended = run.engine.run(container, stream, pod.timeout)
        run.store.upload(log, f"{plan.uri}/{LOGS}-{attempt}")
        if ended.code != 0 or ended.timed_out:
            return ended, None
        return ended, collect(run, plan.task, container, plan.executor_input, plan.uri, plan.folder)


def _pod(run: Run, plan: _Plan, attempt: int) -> Pod:
    options = plan.options
    name = f"{run.identity.resource}-{plan.task.name}-{uuid.uuid4().hex[:8]}"
    own = {"KFP_POD_NAME": name, "KFP_POD_UID": str(uuid.uuid4())}
    if "retryPolicy" in plan.task.spec:
        own["KFP_RETRY_INDEX"] = str(attempt)
    volumes = {path: run.engine.volume(claim) for path, claim in options.claims.items()}
    if plan.workspace:
        volumes[WORKSPACE] = run.engine.volume("workspace")
    return Pod(
        name=name,
        image=plan.image,
        command=plan.command,
        environment={**run.store.environment, **own, **options.environment},
        cpus=options.cpus,
        memory=options.memory,
        shared_memory=options.shared_memory,
        user=options.user,
        volumes=volumes,
        memory_folders=options.memory_folders,
        folders=(*SCRATCH, *options.folders, *volumes),
        files=options.files,
        timeout=options.timeout,
    )


def _fill(run: Run, plan: _Plan, pod: Pod, archive: tarfile.TarFile) -> None:
    """What a container finds: empty folders, small files, its input artifacts and the folders of its outputs."""
    for path in pod.folders:
        archive.addfile(folder_entry(path))
    for path, content in pod.files.items():
        archive.addfile(file_entry(path, len(content)), BytesIO(content))
    fetched: set[str] = set()
    for items in plan.executor_input["inputs"]["artifacts"].values():
        for artifact in items["artifacts"]:
            if artifact["uri"] not in fetched and artifact_place(artifact) and artifact["uri"].startswith(SCHEMES):
                fetched.add(artifact["uri"])
                run.store.download(artifact["uri"], archive)
    place = Path(local_path(plan.uri) or "/")
    for folder in [*list(place.parents)[-2::-1], place]:
        archive.addfile(folder_entry(folder.as_posix()))


def _why(ended: Exit, options: PodOptions) -> str:
    if ended.timed_out:
        return f"it was stopped after {options.timeout:g} s, its time limit"
    if ended.out_of_memory:
        return f"out of memory: the limit is {(options.memory or 0) / 2**30:.2f} GiB"
    return f"the container ended with exit code {ended.code}"
