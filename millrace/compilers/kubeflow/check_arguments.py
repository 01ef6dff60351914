"""Rules on commands and arguments: which placeholders the backend's launcher resolves, and which stay text."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from millrace.compilers.findings import Finding
from millrace.compilers.kubeflow.document import Path, shown
from millrace.compilers.kubeflow.view import Container, View, artifacts_of, before, parameters_of
from millrace.errors import did_you_mean
from millrace.targets.kubeflow import BackendVersion

__all__ = ["PLACEHOLDER", "commands", "conditional_words", "constants", "placeholders"]

PLACEHOLDER = re.compile(r"\{\{\$(?P<inside>.*?)\}\}", re.DOTALL)
_PORT = re.compile(
    r"\.(?P<ends>inputs|outputs)\.(?P<kind>parameters|artifacts)\['(?P<name>[^']+)'\](?P<rest>.*)", re.DOTALL
)
_RESTS: Mapping[tuple[str, str], tuple[str, ...]] = {
    ("inputs", "parameters"): ("",),
    ("inputs", "artifacts"): (".uri", ".path"),
    ("outputs", "parameters"): (".output_file",),
    ("outputs", "artifacts"): (".uri", ".path"),
}
_ADVICE: tuple[tuple[str, str], ...] = (
    (r"\.outputs\.output_file", "take outputs.outputFile from {{$}}"),
    (r".*\.metadata", "take the metadata from {{$}}"),
    (r"\.pipeline_|\.workspace_path", "pass it as the constant of an input parameter: there the driver resolves it"),
    (r"\.inputs\.artifacts\['[^']+'\]$", "take the list of artifacts from {{$}}"),
)


def placeholders(view: View, compat: BackendVersion) -> Iterator[Finding]:
    """Every placeholder in a command or argument is one that is resolved."""
    for container in view.containers:
        if container.dummy:
            continue
        for path, word in container.words():
            guarded = bool(_structure(word))
            for found in PLACEHOLDER.finditer(word):
                problem = _problem(container, found["inside"], guarded)
                if problem:
                    yield Finding("error", shown(path), f"the backend leaves {found[0]} as text: {problem}")


def _problem(container: Container, inside: str, guarded: bool) -> str:
    """Why a placeholder stays text; empty when it does not. Guarded ones may lack their value."""
    if inside == "":
        return ""
    port = _PORT.fullmatch(inside)
    if port is None or port["rest"] not in _RESTS[port["ends"], port["kind"]]:
        advice = (text for pattern, text in _ADVICE if re.match(pattern, inside))
        return next(advice, "no such placeholder is known")
    ends = port["ends"].removesuffix("s")
    name, known = (
        port["name"],
        (parameters_of if port["kind"] == "parameters" else artifacts_of)(container.component, ends),
    )
    if name not in known:
        undeclared = port["kind"] == "parameters" and all(name in use.parameters for use in container.uses)
        return "" if ends == "input" and undeclared else f"unknown {ends} {name!r}: {did_you_mean(name, known)}"
    if ends == "input" and known[name].get("isArtifactList"):
        return "a list of artifacts has no path; take it from {{$}}"
    if port["kind"] == "artifacts" and known[name].get("isOptional") and not guarded:
        missing = [use.name for use in container.uses if name not in use.artifacts]
        if missing:
            return f"task {missing[0]!r} is not given this artifact; take optional ones from {{{{$}}}}"
    return ""


def conditional_words(view: View, compat: BackendVersion) -> Iterator[Finding]:
    """`Concat` is never resolved; `IfPresent` from 2.17 on, of parameters only."""
    for container in view.containers:
        for path, word in container.words():
            structure = _structure(word)
            if not structure:
                continue
            if "Concat" in structure:
                yield Finding(
                    "error", shown(path), "the backend does not resolve Concat: the program gets this JSON text"
                )
            elif before(compat, "2.17"):
                yield Finding(
                    "error", shown(path), f"Kubeflow Pipelines {compat} does not resolve IfPresent: 2.17 does"
                )
            else:
                yield from _if_present(container, structure["IfPresent"], path, word)


def _if_present(container: Container, chosen: Any, path: Path, word: str) -> Iterator[Finding]:
    name = str(chosen.get("InputName", "")) if isinstance(chosen, dict) else ""
    known = parameters_of(container.component)
    if name in artifacts_of(container.component):
        if any(name in use.artifacts for use in container.uses):
            told = f"IfPresent sees parameters only: it takes Else, although the artifact {name!r} is given"
            yield Finding("error", shown(path), told)
    elif name not in known:
        yield Finding("error", shown(path), f"unknown input parameter {name!r}: {did_you_mean(name, known)}")
    if "$.outputs" in word:
        yield Finding("error", shown(path), "with a placeholder of an output inside, IfPresent is not resolved")
    for branch in ("Then", "Else"):
        values = chosen.get(branch, []) if isinstance(chosen, dict) else []
        if not all(isinstance(item, str) for item in (values if isinstance(values, list) else [values])):
            yield Finding("error", shown(path), f"{branch} holds something else than texts: the backend fails on it")


def _structure(word: str) -> dict[str, Any]:
    """The JSON object of a word such as `{"Concat": [...]}`."""
    if not re.match(r'\s*\{\s*"(Concat|IfPresent)"', word):
        return {}
    try:
        found = json.loads(word)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def commands(view: View, compat: BackendVersion) -> Iterator[Finding]:
    """The launcher starts the command itself: an image's entry point is not used."""
    for container in view.containers:
        if container.dummy:
            continue
        command, args = container.spec.get("command", []), container.spec.get("args", [])
        if not command:
            told = f"{args[0][:40]!r} is started as the program" if args else "the launcher then fails"
            severity: Any = "warning" if args else "error"
            yield Finding(
                severity,
                shown((*container.path, "command")),
                f"there is no command: an entry point is not used; {told}",
            )
        elif not _structure(command[0]) and PLACEHOLDER.search(command[0]):
            yield Finding("error", shown((*container.path, "command", 0)), "the program's name can hold no placeholder")
        for path, word in container.words():
            if before(compat, "2.15") and re.search(r"\bdsl\.get_uri\(", word):
                yield Finding("error", shown(path), "dsl.get_uri gives an empty text before Kubeflow Pipelines 2.15")


def constants(view: View, compat: BackendVersion) -> Iterator[Finding]:
    """Constants are passed as they are, but for a few placeholders that are the whole constant."""
    for use in view.uses:
        for name, value in use.parameters.items():
            constant = value.get("runtimeValue", {}).get("constant")
            if not isinstance(constant, str):
                continue
            path = shown((*use.path, "inputs", "parameters", name, "runtimeValue", "constant"))
            if "{{channel:" in constant:
                yield Finding("error", path, "a reference of kfp's DSL was written as text: it is never resolved")
            elif part := re.search(r"\{\{\$\.pipeline_\w+\}\}", constant):
                if part[0] != constant:
                    yield Finding("error", path, f"{part[0]} is resolved only when it is the whole constant")
                elif part[0].endswith("_time_utc}}") and before(compat, "2.16"):
                    yield Finding("error", path, f"Kubeflow Pipelines {compat} does not resolve {part[0]}: 2.16 does")
            elif part := re.search(
                r"\{\{\s*(workflow|inputs|outputs|tasks|steps|item|retries|pod|node)\b.*?\}\}", constant
            ):
                yield Finding("warning", path, f"Argo takes {part[0]} for a reference of its own")
            elif before(compat, "2.17") and "{{$.inputs.parameters[" in constant:
                yield Finding(
                    "warning", path, f"in arguments, backends before 2.17 resolve this by chance only, given {compat}"
                )
