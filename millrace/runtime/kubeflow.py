"""`millrace exec` inside a pod of Kubeflow Pipelines.

The backend has downloaded the inputs before, and uploads the outputs afterwards. The work itself is done by a
worker in a private folder; when it is well, its outputs are moved to where the backend looks for them, and
what it is told about them, the executor output, is written last.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from pydantic import JsonValue, ValidationError

from millrace.errors import ConfigError, MillraceError, TaskFailedError, UserError, explain_os_error, explain_validation
from millrace.registry import AnyComponent, load_component
from millrace.runtime.container import home, reason, work_folder
from millrace.runtime.context import Hosts, Share
from millrace.runtime.executor import (
    ExecutorInput,
    ExecutorOutput,
    RuntimeArtifact,
    RuntimeArtifacts,
    artifact_path,
    plain_metadata,
    read_executor_input,
    whole_numbers,
    without_nulls,
)
from millrace.runtime.kubeflow_ui import chart_metadata, metrics_metadata, summary_page
from millrace.runtime.process import cores_allowed, follow, stop_on_signals
from millrace.runtime.publish import publish
from millrace.runtime.task import (
    GivenArtifact,
    TaskRequest,
    TaskResult,
    read_result,
    write_atomically,
)
from millrace.runtime.union import add_tree, symbolic_link
from millrace.specs import Chart, Port
from millrace.specs.charts import charts_adapter
from millrace.specs.dotted import merged
from millrace.targets.kubeflow import ClusterWork

__all__ = ["CHECKPOINTS", "kept_checkpoints", "run"]

CHECKPOINTS = "MILLRACE_CHECKPOINTS"
"""Environment variable: a folder on a volume that outlives the pod, where unfinished tasks leave their checkpoints."""
TERMINATION_LOG = Path("/dev/termination-log")
"""Where Kubernetes takes the message of a container that failed from."""
_LONGEST_MESSAGE = 4096
_SUMMARY = "summary"
_JOBS = ("trainjob", "mpijob")
"""Kinds of cluster work that run the component on other machines; of others the component itself takes care."""


class _Arguments(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"millrace exec: {message}")


def run(words: Sequence[str]) -> int:
    """Run a component on the arguments of a container and return the exit code.

    Raises:
        MillraceError: When something is wrong before or after the component's own work.
    """
    try:
        with stop_on_signals(), work_folder() as directory:
            return _run(_parsed(words), directory)
    except OSError as error:
        raise _told(TaskFailedError(explain_os_error(error))) from error
    except MillraceError as error:
        raise _told(error) from error.__cause__


def _parsed(words: Sequence[str]) -> argparse.Namespace:
    parser = _Arguments(prog="millrace exec", add_help=False, allow_abbrev=False)
    parser.add_argument("component")
    parser.add_argument("--executor-input", required=True, type=read_executor_input)
    parser.add_argument("--run", required=True)
    parser.add_argument("--task", required=True)
    for name in ("--input", "--output", "--open"):
        parser.add_argument(name, action="append", default=[], type=_pair)
    parser.add_argument("--part", action="append", default=[], type=_pair)
    parser.add_argument("--cluster", type=_cluster)
    parser.add_argument("--processes", type=int, default=1)
    found = parser.parse_args(list(words))
    for name in ("input", "output", "open"):
        setattr(found, name, dict(getattr(found, name)))
    variable = re.fullmatch(r"\$\((\w+)\)", found.run)  # Kubernetes puts in the value, runners of one machine don't
    found.run = os.environ.get(variable[1], "") if variable else found.run
    if found.cluster is not None and not found.run:
        raise ConfigError("--run: work in the cluster is named after the run, which has no id here")
    unfilled = [value for value in (found.run, *found.input.values(), *found.output.values()) if "{{" in value]
    if unfilled:
        raise ConfigError(f"the backend left placeholders as they were: {', '.join(unfilled)}")
    return found


def _pair(text: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if not (name and separator and value):
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form NAME=VALUE")
    return name, value


def _cluster(text: str) -> ClusterWork:
    try:
        return ClusterWork.model_validate_json(text)
    except ValidationError as error:
        raise ConfigError(explain_validation(error, ClusterWork, prefix="--cluster")) from error


def _run(asked: argparse.Namespace, directory: Path) -> int:
    component = load_component(asked.component)
    given: ExecutorInput = asked.executor_input
    _check_outputs(component, given, asked.task)
    request = TaskRequest(
        name=asked.task,
        component=asked.component,
        parameters=_parameters(asked.task, given.inputs.parameter_values, asked.open),
        inputs={port.name: _given(asked, component, port, directory / "inputs") for port in component.spec.inputs},
        share=_share(asked.task, given.inputs.parameter_values),
        hosts=Hosts(processes=asked.processes),
        cores=cores_allowed(),
        run=asked.run,
        cluster=asked.cluster,
    )
    task = directory / "task"
    request.write(task)
    if asked.cluster is not None and asked.cluster.kind in _JOBS:
        _answer(asked, component, task, _handed_over(request, component, given, task))
        return 0
    kept = kept_checkpoints(request)
    if kept is not None:
        kept.mkdir(parents=True, exist_ok=True)
        (task / "checkpoints").symlink_to(kept)
    code = follow(task, home(directory))
    result = read_result(task)
    if code != 0 or result is None:
        return _failed(task, code)
    _answer(asked, component, task, result)
    if kept is not None:
        shutil.rmtree(kept, ignore_errors=True)
    return 0


def kept_checkpoints(request: TaskRequest) -> Path | None:
    """Where the next pod that tries the same task finds its checkpoints; None when they end with this pod."""
    folder = os.environ.get(CHECKPOINTS)
    if not (folder and request.run):
        return None
    inputs = {port: [[one.uri, *one.parts] for one in given] for port, given in request.inputs.items()}
    facts = [request.parameters, inputs, request.share.index, request.share.count]
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    return Path(folder).absolute() / request.run / f"{request.name}-{digest[:16]}"


def _handed_over(request: TaskRequest, component: AnyComponent, given: ExecutorInput, task: Path) -> TaskResult:
    from millrace.runtime.cluster.step import hand_over

    outputs = {name: items.artifacts[0].uri for name, items in given.outputs.artifacts.items() if items.artifacts}
    return hand_over(request, component, outputs, task)


def _parameters(task: str, values: Mapping[str, JsonValue], opened: Mapping[str, str]) -> dict[str, JsonValue]:
    text = values.get("parameters", "{}")
    try:
        base = json.loads(text) if isinstance(text, str) else text
    except ValueError as error:
        raise ConfigError(f"{task}: the input `parameters` is not JSON: {error}") from error
    if not isinstance(base, dict):
        raise ConfigError(f"{task}: the input `parameters` must be a JSON object (given: {str(text)[:80]})")
    for name, dotted in opened.items():
        if name not in values:
            raise ConfigError(f"{task}.{dotted}: the run gives no value to the input {name!r}")
    return merged(base, {dotted: whole_numbers(values[name]) for name, dotted in opened.items()})


def _share(task: str, values: Mapping[str, JsonValue]) -> Share:
    named = {field: values[f"share_{field}"] for field in Share.model_fields if f"share_{field}" in values}
    try:
        share = Share.model_validate(named)
    except ValidationError as error:
        raise ConfigError(explain_validation(error, prefix=f"{task}.share")) from error
    if share.index >= share.count:
        raise ConfigError(f"{task}.share_index: {share.index} is not below share_count, which is {share.count}")
    return share


def _given(asked: argparse.Namespace, component: AnyComponent, port: Port, folder: Path) -> tuple[GivenArtifact, ...]:
    """What is given to an input of the component, where the worker finds it.

    Each `--part PORT=NAME` names an input of the document with what one task made for a port that takes many.
    """
    parts = [name for owner, name in asked.part if owner == port.name]
    if parts:
        return tuple(one for name in parts for one in _taken(asked, port, name, folder, together=True))
    return _taken(asked, port, port.name, folder, together=not port.many)


def _taken(
    asked: argparse.Namespace, port: Port, name: str, folder: Path, *, together: bool
) -> tuple[GivenArtifact, ...]:
    """The artifacts of an input of the document, or one folder of links to what is in all of them."""
    found = asked.executor_input.inputs.artifacts.get(name, RuntimeArtifacts()).artifacts
    if not found:
        if name == port.name and (port.optional or port.many):
            return ()
        raise ConfigError(f"{asked.task}.{name}: an artifact is required")
    paths = [artifact_path(artifact) for artifact in found]
    if len(found) == 1 and name in asked.input:
        paths = [Path(asked.input[name])]
    facts = _facts(port)
    if len(found) > 1 and together:
        whole = folder / name
        whole.mkdir(parents=True)
        add_tree(whole, paths, symbolic_link)
        return (GivenArtifact(path=whole, parts=tuple(one.uri for one in found)),)
    return tuple(
        GivenArtifact(
            path=_present(f"{asked.task}.{name}", path, port, folder / f"{name}-{number}"),
            uri=artifact.uri if "://" in artifact.uri else "",
            metadata={name: value for name, value in plain_metadata(artifact.metadata).items() if name in facts},
        )
        for number, (path, artifact) in enumerate(zip(paths, found, strict=True))
    )


def _facts(port: Port) -> frozenset[str]:
    named = port.artifact.metadata.get("properties")
    return frozenset(named) if isinstance(named, dict) else frozenset()


def _present(name: str, path: Path, port: Port, stand_in: Path) -> Path:
    """A path that is there, with the suffix of its type: stores have neither empty folders nor our suffixes."""
    suffix = port.artifact.suffix
    if not path.exists():
        if suffix:
            raise ConfigError(f"{name}: there is nothing at {path}")
        print(f"{name} is empty: there is nothing at {path}", flush=True)
        stand_in.mkdir(parents=True)
        return stand_in
    if suffix and path.suffix != suffix:
        stand_in.parent.mkdir(parents=True, exist_ok=True)
        stand_in = stand_in.with_name(f"{stand_in.name}{suffix}")
        stand_in.symlink_to(path.absolute())
        return stand_in
    return path


def _check_outputs(component: AnyComponent, given: ExecutorInput, task: str) -> None:
    """Refuse a document of another version before hours are spent on it."""
    metrics = {metric.name for metric in component.spec.metrics}
    unknown = sorted(set(given.outputs.parameters) - metrics)
    unknown += sorted(name for name in given.outputs.artifacts if name not in _outputs(component) and "-" not in name)
    if unknown:
        raise ConfigError(
            f"{task}: the component {component.spec.name!r} of this image has no outputs called {unknown}; "
            f"compile the pipeline with the image's version of Millrace"
        )


def _outputs(component: AnyComponent) -> frozenset[str]:
    """Names of all artifacts that an attempt makes, those for the UI among them."""
    ports = {port.name for port in component.spec.outputs}
    return frozenset(ports | ({_SUMMARY} if "metrics" in ports else set()) | set(component.spec.charts))


def _answer(asked: argparse.Namespace, component: AnyComponent, task: Path, result: TaskResult) -> None:
    """Put the outputs in place, and tell the backend last."""
    given: ExecutorInput = asked.executor_input
    charts = _charts(task, result)
    made = dict(_for_ui(asked.task, component, task, result, charts))
    for name, output in result.outputs.items():
        metadata = without_nulls(output.metadata)
        if name == "metrics":
            shown = metrics_metadata(component.spec, result.metrics)
            metadata |= shown
            if len(shown) < len(result.metrics):
                print(f"the UI shows {len(shown)} of {len(result.metrics)} metrics, the artifact has all", flush=True)
        made[name] = (task / output.path, metadata)
    answered: dict[str, RuntimeArtifacts] = {}
    for name, declared in given.outputs.artifacts.items():
        if name not in made or not declared.artifacts:
            continue
        artifact = declared.artifacts[0]
        path, metadata = made[name]
        if path.exists():  # a cluster job has uploaded its outputs itself; the backend takes none for that
            publish(path, Path(asked.output[name]) if name in asked.output else artifact_path(artifact))
        told = RuntimeArtifact(name=artifact.name, uri=artifact.uri, metadata=metadata)
        answered[name] = RuntimeArtifacts(artifacts=(told,))
    values = {name: result.metrics[name] for name in given.outputs.parameters}
    answer = ExecutorOutput(parameter_values=values, artifacts=answered)
    given.outputs.output_file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(given.outputs.output_file, answer.model_dump_json(by_alias=True, exclude_none=True))


def _charts(task: Path, result: TaskResult) -> dict[str, Chart]:
    if "metrics" not in result.outputs:
        return {}
    text = (task / result.outputs["metrics"].path / "charts.json").read_bytes()
    return {chart.name: chart for chart in charts_adapter.validate_json(text)}


def _for_ui(
    name: str, component: AnyComponent, task: Path, result: TaskResult, charts: Mapping[str, Chart]
) -> Iterator[tuple[str, tuple[Path, dict[str, JsonValue]]]]:
    """Artifacts that only the UI reads: their files and metadata."""
    folder = task / "ui"
    folder.mkdir()
    if "metrics" in result.outputs:
        (folder / _SUMMARY).write_text(summary_page(name, component.spec, result.metrics), encoding="utf-8")
        yield _SUMMARY, (folder / _SUMMARY, {})
    for chart_name in component.spec.charts:
        chart = charts.get(chart_name)  # there is none where its figures are undefined
        (folder / chart_name).write_text(chart.model_dump_json() if chart else "{}", encoding="utf-8")
        yield chart_name, (folder / chart_name, chart_metadata(chart) if chart else {})


def _failed(task: Path, code: int) -> int:
    """Say why, where it was not said yet, and give the exit code."""
    _tell(reason(task, code))
    return code if code > 0 else 1


def _told(error: MillraceError) -> MillraceError:
    _tell(str(error))
    return error


def _tell(message: str) -> None:
    with contextlib.suppress(OSError):
        if TERMINATION_LOG.exists():
            TERMINATION_LOG.write_bytes(message.encode()[:_LONGEST_MESSAGE])
