"""From a document's command and arguments to what a container is started with."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from millrace.errors import TaskFailedError
from millrace.runners.kubeflow.inputs import WORKSPACE, Artifact
from millrace.runners.kubeflow.values import compact, number_text, text_of
from millrace.runners.store import local_path
from millrace.targets.kubeflow import BackendVersion

__all__ = ["artifact_place", "command_line", "condition_of", "known_placeholders"]

LONGEST = 131_071
"""Bytes of one argument: the kernel's limit."""
_PLACEHOLDER = re.compile(r"\{\{\$.*?\}\}")
_PARAMETER = re.compile(r"\{\{\$\.inputs\.parameters\['(.+?)'\]\}\}")
_KNOWN = re.compile(
    r"\{\{\$(\.inputs\.(parameters\['.+?'\]|artifacts\['.+?'\]\.(uri|path))"
    r"|\.outputs\.(parameters\['.+?'\]\.output_file|artifacts\['.+?'\]\.(uri|path)))?\}\}"
)


def artifact_place(artifact: Artifact) -> str | None:
    """Where an artifact is in a container."""
    if artifact.get("customPath"):
        return str(artifact["customPath"])
    place = local_path(artifact["uri"])
    if place and artifact.get("metadata", {}).get("_kfp_workspace") is True:
        return f"{WORKSPACE}/.artifacts{place}"
    return place


def known_placeholders(executor_input: Mapping[str, Any]) -> dict[str, str]:
    """What the launcher replaces, beside input parameters."""
    found = {"{{$}}": compact(executor_input)}
    for end in ("inputs", "outputs"):
        for name, items in executor_input.get(end, {}).get("artifacts", {}).items():
            if items.get("artifacts"):
                first = items["artifacts"][0]
                found[f"{{{{$.{end}.artifacts['{name}'].uri}}}}"] = first["uri"]
                if (place := artifact_place(first)) is not None:
                    found[f"{{{{$.{end}.artifacts['{name}'].path}}}}"] = place
    for name, output in executor_input.get("outputs", {}).get("parameters", {}).items():
        found[f"{{{{$.outputs.parameters['{name}'].output_file}}}}"] = output["outputFile"]
    return found


def condition_of(argument: str) -> tuple[str, Any] | None:
    """The kind (`IfPresent`, `Concat`) and content of an argument that is a structure, or None."""
    if not re.match(r'\s*\{"(IfPresent|Concat)":', argument):
        return None
    try:
        [(kind, content)] = json.loads(argument).items()
    except ValueError:
        return None
    return kind, content


def command_line(
    template: Sequence[str], executor_input: Mapping[str, Any], given: set[str], compat: BackendVersion
) -> tuple[str, ...]:
    """The command with every placeholder replaced.

    Args:
        template: Command and arguments of the document.
        executor_input: With the defaults of parameters that were not given.
        given: Names of the parameters that were given.
        compat: Version of the backend.

    Raises:
        TaskFailedError: When the backend would leave a placeholder as it is, or start nothing.
    """
    if not template:
        raise TaskFailedError("the backend refuses this: command and arguments are empty")
    parameters = executor_input.get("inputs", {}).get("parameterValues", {})
    known = known_placeholders(executor_input)
    found = []
    for argument in template:
        for part in _chosen(argument, given, compat):
            driver = compat >= "2.17" and "$.outputs" not in argument
            found.append(_replaced(part, known, parameters, shortest=driver))
    for argument in found:
        if len(argument.encode()) > LONGEST:
            raise TaskFailedError(
                f"an argument of {len(argument.encode()):,} bytes can't be started; {LONGEST:,} are allowed: "
                f"{argument[:60]}..."
            )
    return tuple(found)


def _chosen(argument: str, given: set[str], compat: BackendVersion) -> Iterator[str]:
    structure = condition_of(argument)
    if structure is None:
        yield argument
        return
    kind, content = structure
    if kind == "Concat" or compat < "2.17":
        raise TaskFailedError(f"the backend {compat} passes {kind} on as text: {argument[:100]}")
    branch = content.get("Then" if content["InputName"] in given else "Else")
    if branch is None:
        return
    for part in branch if isinstance(branch, list) else [branch]:
        if not isinstance(part, str):
            raise TaskFailedError(f"the backend refuses {kind} with other parts than texts: {argument[:100]}")
        yield part


def _replaced(argument: str, known: Mapping[str, str], parameters: Mapping[str, Any], *, shortest: bool) -> str:
    def replace(found: re.Match[str]) -> str:
        placeholder = found[0]
        if placeholder in known:
            return known[placeholder]
        named = _PARAMETER.fullmatch(placeholder)
        if named is None or parameters.get(named[1]) is None:
            raise TaskFailedError(
                f"the backend can't replace {placeholder}: "
                f"{'the task has no such value' if _KNOWN.fullmatch(placeholder) else 'it knows no such placeholder'}"
            )
        value = parameters[named[1]]
        if shortest and isinstance(value, int | float) and not isinstance(value, bool):
            return number_text(value)
        return text_of(value)

    return _PLACEHOLDER.sub(replace, argument)
