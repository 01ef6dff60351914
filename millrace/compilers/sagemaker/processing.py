"""Processing steps: a component as it is, with its inputs fetched and its outputs stored by the service."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from millrace.compilers.sagemaker.expressions import Expression, Step, below, join
from millrace.compilers.sagemaker.machines import local_gb
from millrace.compilers.sagemaker.names import step_name
from millrace.errors import UnsupportedError
from millrace.runtime.sagemaker.hyperparameters import as_json
from millrace.specs import Port, Shards, Task

if TYPE_CHECKING:
    from millrace.compilers.sagemaker.context import Compiling

__all__ = ["chunks", "is_sharded", "processing_step"]

_LONGEST_ARGUMENT = 256
_MOST_ARGUMENTS = 100
_MOST_PORTS = 10
_LONGEST_VALUE = 256
_LONGEST_SECONDS = 777_600
_MOST_HOSTS = 100
_INPUTS, _OUTPUTS = "/opt/ml/processing/input", "/opt/ml/processing/output"


def chunks(text: str) -> list[str]:
    """A text in pieces that are arguments short enough; none of them looks like an option."""
    pieces = []
    while text:
        end = min(len(text), _LONGEST_ARGUMENT)
        while 1 < end < len(text) and text[end] in "- ":
            end -= 1
        pieces.append(text[:end])
        text = text[end:]
    return pieces


def processing_step(
    task: Task, context: Compiling, *, arguments: Sequence[Expression] = (), depends_on: Sequence[str] = ()
) -> Step:
    """A Processing step that runs the task's component.

    Args:
        task: The task; its step has the task's own name.
        context: The pipeline.
        arguments: Further arguments of the container.
        depends_on: Steps to wait for, beside those of tasks that are read or named.

    Raises:
        UnsupportedError: For more than a processing job takes.
    """
    target = context.target
    inputs, archives = _inputs(task, context)
    files = [{"PropertyFileName": "metrics", "OutputName": "metrics", "FilePath": "metrics.json"}]
    environment = context.job(task).environment
    outputs: dict[str, Any] = {"Outputs": list(_outputs(task, context))}
    if target.output_key is not None:
        outputs["KmsKeyId"] = target.output_key
    request = {
        "ProcessingResources": {"ClusterConfig": _cluster(task, context)},
        "AppSpecification": {
            "ImageUri": context.image(task),
            "ContainerEntrypoint": ["millrace", "exec"],
            "ContainerArguments": _arguments(task, context, archives, arguments),
        },
        "RoleArn": context.role,
        **({"ProcessingInputs": inputs} if inputs else {}),
        **({"ProcessingOutputConfig": outputs} if outputs["Outputs"] else {}),
        **({"Environment": dict(sorted(environment.items()))} if environment else {}),
        "StoppingCondition": {"MaxRuntimeInSeconds": context.seconds(task)},
        **_network(context),
        **({"Tags": context.tags} if target.tags else {}),
    }
    _check(task, context, request)
    return {
        "Name": step_name(task.name),
        "Type": "Processing",
        "Arguments": request,
        **context.depends_on(task, *depends_on),
        **({"PropertyFiles": files} if context.component(task).metrics else {}),
        **context.cache(task),
        **context.retries(task),
    }


def _arguments(
    task: Task, context: Compiling, archives: Sequence[tuple[str, str]], further: Sequence[Expression]
) -> list[Expression]:
    found: list[Expression] = [context.component(task).entry, "--task", task.name]
    found += ["--parameters", *chunks(as_json(task.parameters))]
    for path, one in context.opened(task):
        option = "--open-text" if one.kind == "string" else "--open"
        found += [option, join("=", path, context.open_value(one))]
    for name, folder in archives:
        found += ["--archive", f"{name}={folder}"]
    return [*found, *further]


def _inputs(task: Task, context: Compiling) -> tuple[list[dict[str, Any]], list[tuple[str, str]]]:
    """The job's inputs, and for those that come in an archive the folder inside it."""
    inputs, archives = [], []
    for port in context.component(task).inputs:
        outputs = task.inputs.get(port.name, ())
        for number, output in enumerate(outputs):
            name = f"{port.name}.{number}" if port.many else port.name
            made = context.made(output)
            if made.archive is not None:
                archives.append((name, made.archive))
            if _hosts(task) > 1 and is_sharded(port):
                inputs.append(_input(name, below(made.uri, "plan.json")))
                inputs.append(_input(f"{name}+shards", below(made.uri, "shards/"), "ShardedByS3Key"))
            else:
                inputs.append(_input(name, made.uri))
    return inputs, archives


def _input(name: str, uri: Expression, distribution: str = "FullyReplicated") -> dict[str, Any]:
    return {
        "InputName": name,
        "S3Input": {
            "S3Uri": uri,
            "LocalPath": f"{_INPUTS}/{name}",
            "S3DataType": "S3Prefix",
            "S3InputMode": "File",
            "S3DataDistributionType": distribution,
        },
    }


def _outputs(task: Task, context: Compiling) -> Iterator[dict[str, Any]]:
    for port in context.component(task).outputs:
        yield {
            "OutputName": port.name,
            "S3Output": {
                "S3Uri": context.output_uri(task, port.name),
                "LocalPath": f"{_OUTPUTS}/{port.name}",
                "S3UploadMode": "EndOfJob",
            },
        }


def is_sharded(port: Port) -> bool:
    """Whether each host of a task gets a part of the files that come by an input."""
    return port.artifact.fits(Shards.artifact_type()) and not port.many


def _hosts(task: Task) -> int:
    return 1 if task.for_each is None else task.for_each.shares


def _cluster(task: Task, context: Compiling) -> dict[str, Any]:
    instance, size = context.instance(task, "processing"), context.volume_gib(task)
    key, local = context.volume_key(instance), local_gb(instance)
    if local is not None and size > local:
        raise UnsupportedError(
            f"target.tasks.{task.name}.volume_gib: {size} GiB are asked for, and {instance} has {local} GB of its own, "
            "which a processing job can't go beyond: ask for less, or for another machine "
            f"(target.tasks.{task.name}.instance)"
        )
    return {
        "InstanceCount": _hosts(task),
        "InstanceType": instance,
        "VolumeSizeInGB": size,
        **({"VolumeKmsKeyId": key} if key is not None else {}),
    }


def _network(context: Compiling) -> dict[str, Any]:
    network = context.target.network
    found = {
        **({"EnableInterContainerTrafficEncryption": True} if network.encrypt else {}),
        **({"EnableNetworkIsolation": True} if network.isolate else {}),
        **({"VpcConfig": context.vpc} if context.vpc else {}),
    }
    return {"NetworkConfig": found} if found else {}


def _check(task: Task, context: Compiling, request: Mapping[str, Any]) -> None:
    """Refuse what a processing job can't take, in the words of the task.

    Raises:
        UnsupportedError: Naming the task, what is too much, and a way out.
    """
    where = f"tasks.{task.name}"
    arguments = request["AppSpecification"]["ContainerArguments"]
    if len(arguments) > _MOST_ARGUMENTS:
        raise UnsupportedError(
            f"{where}: its parameters take {len(arguments)} arguments of {_LONGEST_ARGUMENT} characters; a processing "
            f"job takes {_MOST_ARGUMENTS}: put large values into an input, or leave fewer fields open"
        )
    for what in ("input", "output"):
        ports = request.get("ProcessingInputs", ()) if what == "input" else _ports(request)
        if len(ports) > _MOST_PORTS:
            way = (
                f"put them together before it by tasks with the component `gather`, each of {_MOST_PORTS} parts at most"
                if what == "input"
                else "divide the task"
            )
            raise UnsupportedError(f"{where}: {len(ports)} {what}s; a processing job takes {_MOST_PORTS}: {way}")
    if _hosts(task) > _MOST_HOSTS:
        raise UnsupportedError(f"{where}: {_hosts(task)} shares; a processing job has {_MOST_HOSTS} hosts at most")
    if context.seconds(task) > _LONGEST_SECONDS:
        raise UnsupportedError(
            f"target.tasks.{task.name}.timeout_minutes: a processing job may run {_LONGEST_SECONDS // 60} minutes at "
            f"most, given {context.seconds(task) / 60:g}"
        )
    for name, value in context.job(task).environment.items():
        if len(name) > _LONGEST_VALUE or len(value) > _LONGEST_VALUE:
            raise UnsupportedError(
                f"target.tasks.{task.name}.environment.{name}: {max(len(name), len(value))} characters; a processing "
                f"job takes {_LONGEST_VALUE}: put it into an input or a parameter"
            )


def _ports(request: Mapping[str, Any]) -> Sequence[Any]:
    found: Sequence[Any] = request.get("ProcessingOutputConfig", {}).get("Outputs", ())
    return found
