"""`millrace rehearse`: a compiled document in containers on this machine, by the rules of the backend."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from millrace.errors import ConfigError, explain_os_error

if TYPE_CHECKING:
    from millrace.commands.of_target import Asked
    from millrace.settings import Settings
    from millrace.specs import PipelineSpec
    from millrace.targets.kubeflow import Kubeflow

__all__ = ["run"]


def run(settings: Settings, asked: Asked) -> int:
    """Run the command and return the exit code."""
    from millrace.compilers.kubeflow.check import refuse_wrong
    from millrace.runners.kubeflow.display import Display
    from millrace.runners.kubeflow.rehearsal import rehearse
    from millrace.runners.record import RunState
    from millrace.targets.kubeflow import Kubeflow

    target = settings.kubeflow() if settings.target or not settings.document else Kubeflow()
    compat = settings.compat or target.compat
    text = _read(settings.document) if settings.document else _compiled(settings, target)
    refuse_wrong(text, compat)
    with Display() as display:
        record, directory = rehearse(text, settings.rehearse, settings.parameters, compat, display.update)
    display.close(record)
    print(f"record, logs and outputs: {_shown(directory)}")
    return {RunState.SUCCEEDED: 0, RunState.CANCELLED: 130}.get(record.state, 1)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"document: {explain_os_error(error)}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"document: {path} is no text in UTF-8") from None


def _compiled(settings: Settings, target: Kubeflow) -> str:
    """The pipeline compiled, with the work that it hands to cluster services done in its own steps."""
    from millrace.compilers.kubeflow import compile_pipeline

    told = []
    spec, hosts = _on_one_host(settings.compose())
    if hosts:
        told.append(f"{', '.join(hosts)}: trained in one container instead of by Kubeflow's Trainer")
    changed: dict[str, Any] = {}
    if target.serving.kind != "none":
        changed["serving"] = target.serving.model_copy(update={"kind": "none"})
        told.append("deploy: the endpoint is started, checked and ended in its step instead of by KServe")
    if target.tuning.kind != "task":
        changed["tuning"] = target.tuning.model_copy(update={"kind": "task"})
        told.append("tune: the search runs in its step instead of in Katib")
    used = {kind for component in spec.components for kind in component.delegates}
    for line in told:
        if not line.startswith("deploy") or "serving" in used:
            print(f"note: {line}", file=sys.stderr)
    return compile_pipeline(spec, target.model_copy(update=changed))


def _on_one_host(spec: PipelineSpec) -> tuple[PipelineSpec, list[str]]:
    """The pipeline with every task on one host, and the tasks that were not."""
    several = [task.name for task in spec.tasks if task.distribution.hosts > 1]
    tasks = tuple(
        task.model_copy(update={"distribution": task.distribution.model_copy(update={"hosts": 1})})
        if task.name in several
        else task
        for task in spec.tasks
    )
    return spec.model_copy(update={"tasks": tasks}), several


def _shown(directory: Path) -> Path:
    """A folder as people write it: from here, where it is below."""
    here = Path.cwd()
    return directory.relative_to(here) if directory.is_relative_to(here) else directory
