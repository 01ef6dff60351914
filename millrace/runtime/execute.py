"""Run one task of a component: validate the request, do the work, publish the outputs whole."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import math
import os
import resource
import shutil
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_origin

from filelock import FileLock
from pydantic import JsonValue, ValidationError

from millrace.errors import (
    ConfigError,
    MillraceError,
    PeerError,
    TransientError,
    UserError,
    explain_os_error,
    explain_validation,
    is_disk_full,
)
from millrace.registry import AnyComponent, load_component
from millrace.runtime.context import Context, Rank, Result, summary
from millrace.runtime.task import Failure, MadeArtifact, TaskRequest, TaskResult, whole_result, write_atomically
from millrace.specs import Artifact, Inputs, Metric, Outputs, Parameters, TaskOutput
from millrace.specs.charts import charts_adapter

__all__ = [
    "attempt",
    "digest",
    "end_when_told",
    "end_with_parent",
    "execute",
    "explain",
    "output_handles",
    "perform",
    "read_request",
]

_GRACE_SECONDS = 110.0  # SageMaker kills 120 s after it asked to stop; whoever waits for less ends this group itself
_MESSAGE = 4000


def execute(directory: Path, rank: Rank | None = None) -> int:
    """Run the task in a task directory and return the exit code.

    With a rank, of several that somebody else has started, this process does that one's work only.

    The result appears last, by a rename, after the outputs; a failure is written to failure.json and
    its message to stderr, without a traceback when it is a mistake of the user's.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stdout)
    try:
        with FileLock(directory / ".lock"):  # an earlier worker may still be ending, another run may be at it
            return 0 if whole_result(directory) else _execute(directory, rank)
    except OSError as error:  # of the lock itself
        return explain(directory, error)


def _execute(directory: Path, rank: Rank | None) -> int:
    try:
        for name in ("result.json", "progress.json"):
            (directory / name).unlink(missing_ok=True)
        result = attempt(directory, read_request(directory), rank)
        write_atomically(directory / "result.json", result.model_dump_json(indent=2))
    except Exception as error:  # the boundary of the worker: everything becomes a recorded failure
        for name in ("partial", "scratch"):  # what failed shall not fill the disk
            shutil.rmtree(directory / name, ignore_errors=True)
        return explain(directory, error)
    (directory / "failure.json").unlink(missing_ok=True)
    return 0


def end_when_told() -> None:
    """End at SIGTERM even as a container's first process: without a handler the kernel spares that one."""
    if os.getpid() == 1:
        signal.signal(signal.SIGTERM, lambda *_: os._exit(128 + signal.SIGTERM))


def end_with_parent() -> None:
    """End this process and its children when standard input is closed: nobody waits for the result."""

    def watch() -> None:
        while os.read(sys.stdin.fileno(), 4096):
            pass
        os.killpg(0, signal.SIGTERM)
        time.sleep(_GRACE_SECONDS)
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


def digest(path: Path) -> tuple[str, int]:
    """SHA-256 over the relative names and contents of an artifact's files, and their size in bytes."""
    total = hashlib.sha256()
    size = 0
    for file in _files(path):
        with file.open("rb") as stream:
            content = hashlib.file_digest(stream, "sha256").digest()
            size += stream.tell()
        total.update(f"{file.relative_to(path).as_posix()}\0".encode() + content)
    return total.hexdigest(), size


def read_request(directory: Path) -> TaskRequest:
    """The request in a task directory.

    Raises:
        ConfigError: When there is none, or it is not valid.
    """
    try:
        return TaskRequest.model_validate_json((directory / "task.json").read_bytes())
    except OSError as error:
        raise ConfigError(f"{directory} is not a task directory: {error.strerror}: task.json") from error
    except ValidationError as error:
        raise ConfigError(f"{directory / 'task.json'}: {explain_validation(error)}") from error


def attempt(directory: Path, request: TaskRequest, rank: Rank | None = None) -> TaskResult:
    """Do the work of `request` in a task directory, in this process.

    Raises:
        MillraceError: When the request is wrong or the component fails on purpose.
    """
    component = load_component(request.component)
    started = time.monotonic()
    partial, scratch = directory / "partial", directory / "scratch"
    for folder in (partial, scratch, directory / "outputs"):
        shutil.rmtree(folder, ignore_errors=True)
    for folder in (partial, scratch, directory / "checkpoints"):
        folder.mkdir(parents=True, exist_ok=True)
    outputs = output_handles(component, partial)
    context = Context(
        scratch=scratch,
        checkpoints=directory / "checkpoints",
        share=request.share,
        hosts=request.hosts,
        rank=rank,
        directory=directory,
        cores=max(1, request.cores // (rank.local_size if rank else 1)),
        progress_file=directory / "progress.json",
        run=request.run,
        task=request.name,
        cluster=request.cluster,
        endpoint=request.endpoint,
    )
    result = perform(component, request, outputs, context)
    _write_metrics(component, outputs, result)
    made = {name: _made(component, name, handle.path, result) for name, handle in _artifacts(outputs)}
    partial.replace(directory / "outputs")
    shutil.rmtree(scratch, ignore_errors=True)
    if declared := {metric.name: result.metrics[metric.name] for metric in component.spec.metrics}:
        context.log.info("%s", summary(declared))
    return TaskResult(
        outputs=made,
        metrics=result.metrics,
        seconds=time.monotonic() - started,
        peak_memory=_peak_memory(),
    )


def perform(component: AnyComponent, request: TaskRequest, outputs: Outputs, context: Context) -> Result:
    """Call a component's `main` with what a request asks for, and check what it returns.

    Raises:
        MillraceError: When the request is wrong or the component fails on purpose.
    """
    main = _main(component)
    return _checked(
        component, main(_parameters(component, request), _input_handles(component, request), outputs, context)
    )


def _peak_memory() -> int:
    """Largest resident set so far in bytes of any one process: this one, or one that it started and that has ended.

    Not their sum: ranks and trials that run at the same time need that many times as much. For this process, where the
    kernel tells it, without what a parent had before exec.
    """
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with contextlib.suppress(OSError):
        lines = Path("/proc/self/status").read_text().splitlines()
        own = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
    return max(own, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss) * 1024


def _main(component: AnyComponent) -> Callable[..., Any]:
    module, _, function = component.spec.main.partition(":")
    try:
        main: Callable[..., Any] = getattr(import_module(module), function)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"component {component.spec.name!r} needs the package {error.name!r}, which is not installed here; "
            f"it belongs to the {component.spec.image!r} image: pip install -e '.[{component.spec.image}]'"
        ) from error
    return main


def _parameters(component: AnyComponent, request: TaskRequest) -> Parameters:
    try:
        return component.parameters.model_validate(request.parameters)
    except ValidationError as error:
        raise ConfigError(explain_validation(error, component.parameters, prefix=request.name)) from error


def _input_handles(component: AnyComponent, request: TaskRequest) -> Inputs:
    model = component.inputs
    if not (isinstance(model, type) and issubclass(model, Inputs)):
        raise MillraceError(f"component {component.spec.name!r} has no Inputs model")
    values: dict[str, object] = {}
    for name, info in model.model_fields.items():
        kinds = [item for item in get_args(info.annotation) if item not in (Ellipsis, NoneType)] or [info.annotation]
        handles = tuple(
            kinds[0](location=given.path, uri=given.uri, parts=given.parts, metadata=given.metadata)
            for given in request.inputs.get(name, ())
        )
        if get_origin(info.annotation) is tuple:
            values[name] = handles
        elif handles:
            values[name] = handles[0]
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise ConfigError(explain_validation(error, prefix=request.name)) from error


def output_handles(component: AnyComponent, partial: Path) -> Outputs:
    """A component's outputs, to be written below a folder."""
    values: dict[str, object] = {}
    for name, info in component.outputs.model_fields.items():
        kind = info.annotation
        if isinstance(kind, type) and issubclass(kind, Artifact):
            path = partial / f"{name}{kind.suffix}"
            if not kind.suffix:
                path.mkdir()
            values[name] = kind(location=path)
        elif kind is Metric:
            values[name] = Metric(producer=TaskOutput(task=component.spec.name, port=name))
    return component.outputs.model_validate(values)


def _artifacts(outputs: Outputs) -> Iterator[tuple[str, Artifact]]:
    for name, value in outputs:
        if isinstance(value, Artifact):
            yield name, value


def _checked(component: AnyComponent, returned: object) -> Result:
    if not isinstance(returned, Result):
        raise MillraceError(f"{component.spec.main} returned {type(returned).__name__}, it must return a Result")
    missing = [metric.name for metric in component.spec.metrics if metric.name not in returned.metrics]
    if missing:
        raise MillraceError(f"{component.spec.main} did not report the metrics {missing}")
    bad = [name for name, value in returned.metrics.items() if not math.isfinite(value)]
    if bad:
        raise MillraceError(f"{component.spec.main} reported metrics that are not finite numbers: {bad}")
    return returned


def _write_metrics(component: AnyComponent, outputs: Outputs, result: Result) -> None:
    handle = getattr(outputs, "metrics", None)
    if not isinstance(handle, Artifact):
        return
    (handle.path / "metrics.json").write_text(json.dumps(result.metrics, indent=2) + "\n")
    (handle.path / "charts.json").write_bytes(charts_adapter.dump_json(result.charts))


def _made(component: AnyComponent, name: str, path: Path, result: Result) -> MadeArtifact:
    if not path.exists():
        raise MillraceError(f"{component.spec.main} did not write its output {name!r}")
    info = component.outputs.model_fields[name].annotation
    metadata: dict[str, JsonValue] = {}
    if name in result.metadata and isinstance(info, type) and issubclass(info, Artifact):
        metadata = info.facts.model_validate(result.metadata[name]).model_dump(mode="json")
    content, size = digest(path)
    return MadeArtifact(path=f"outputs/{path.name}", digest=content, bytes=size, metadata=metadata)


def _files(path: Path) -> Iterator[Path]:
    if path.is_file():
        yield path
        return
    for folder, subfolders, names in os.walk(path):
        subfolders.sort()
        for name in sorted(names):
            yield Path(folder, name)


def explain(directory: Path, error: Exception) -> int:
    """Print why an attempt failed, put it into failure.json, and give the exit code that it means."""
    failure, code = _classify(error)
    if len(failure.message) > _MESSAGE:
        failure = failure.model_copy(update={"message": f"{failure.message[:_MESSAGE]}..."})
    unforeseen = failure.kind == "error" and not isinstance(error, MillraceError)
    if unforeseen or os.environ.get("MILLRACE_DEBUG"):
        traceback.print_exception(error)
    print(f"error: {failure.message}", file=sys.stderr, flush=True)
    with contextlib.suppress(OSError):  # on a full disk the exit code and the log still tell
        write_atomically(directory / "failure.json", failure.model_dump_json(indent=2))
    return code


def _classify(error: Exception) -> tuple[Failure, int]:
    if isinstance(error, UserError):
        return Failure(kind="user", message=str(error)), UserError.exit_code
    if isinstance(error, TransientError):
        follows = isinstance(error, PeerError)
        return Failure(kind="transient", message=str(error), follows=follows), TransientError.exit_code
    if isinstance(error, MillraceError):
        return Failure(kind="error", message=str(error)), MillraceError.exit_code
    if is_disk_full(error):
        return Failure(kind="disk_full", message=explain_os_error(error)), 1
    if isinstance(error, MemoryError):
        return Failure(kind="error", message="memory ran out"), 1
    if isinstance(error, (ConnectionError, TimeoutError)):
        return Failure(kind="transient", message=f"{type(error).__name__}: {error}"), TransientError.exit_code
    return Failure(kind="error", message=f"{type(error).__name__}: {error}"), 1
