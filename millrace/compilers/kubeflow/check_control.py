"""Rules on control flow: loops, conditions, exit handlers and importers."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from millrace.compilers.findings import Finding
from millrace.compilers.kubeflow.check_edges import fits, type_of
from millrace.compilers.kubeflow.document import Path, shown
from millrace.compilers.kubeflow.view import Use, View, artifacts_of, parameters_of
from millrace.errors import did_you_mean
from millrace.targets.kubeflow import BackendVersion

__all__ = ["conditions", "dependencies", "importers", "loops", "retries"]

_TEXT = r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\""
_REFERENCE = r"inputs\.parameter_values\[(?:'(?P<single>[^']*)'|\"(?P<double>[^\"]*)\")\]"
_CEL_WORDS = (
    *("bool", "contains", "double", "dyn", "endsWith", "has", "int", "matches", "parseJson", "size", "startsWith"),
    *("string", "type", "uint", "artifacts", "e", "false", "in", "inputs", "null", "parameter_values", "true"),
)
_COMPARISON = re.compile(
    rf"(?P<cast>int\(|double\(|string\(|bool\()?{_REFERENCE}\)?\s*(?P<operator>[<>]=?|[=!]=)\s*"
    rf"(?P<literal>{_TEXT}|-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?|true\b|false\b)"
)
_CASTS = {"int(": "NUMBER_INTEGER", "double(": "NUMBER_DOUBLE", "string(": "STRING", "bool(": "BOOLEAN"}


def loops(view: View, compat: BackendVersion) -> Iterator[Finding]:
    """Loops go over a list of values that have the type of the item."""
    for use in view.uses:
        if "artifactIterator" in use.task:
            place = shown((*use.path, "artifactIterator"))
            yield Finding("error", place, "the backend does not loop over artifacts: loop over a list of indices")
        if "parameterIterator" in use.task:
            yield from _loop(view, use, use.task["parameterIterator"], (*use.path, "parameterIterator"))
        limit = use.task.get("iteratorPolicy", {}).get("parallelismLimit", 0)
        if limit < 0:
            yield Finding("error", shown((*use.path, "iteratorPolicy", "parallelismLimit")), f"{limit} is negative")


def _loop(view: View, use: Use, iterator: Mapping[str, Any], path: Path) -> Iterator[Finding]:
    known = parameters_of(use.component)
    item = iterator.get("itemInput", "")
    if item not in known:
        yield Finding("error", shown((*path, "itemInput")), f"unknown input {item!r}: {did_you_mean(item, known)}")
        return
    wanted = known[item].get("parameterType", "STRING")
    items = iterator.get("items", {})
    if "raw" in items:
        values = _json(items["raw"])
        if not isinstance(values, list):
            yield Finding("error", shown((*path, "items", "raw")), "this is no JSON list")
            return
        wrong = [(value, kind) for value in values if (kind := type_of(value)) is None or not fits(kind, wanted)]
        if wrong:
            told = f"items are {wanted}, {wrong[0][0]!r} is {wrong[0][1] or 'null'}"
            yield Finding("error", shown((*path, "items", "raw")), told)
        return
    name = items.get("inputParameter", "")
    if name not in use.parameters:
        hint = did_you_mean(name, use.parameters)
        yield Finding("error", shown((*path, "items", "inputParameter")), f"input {name!r} is not given: {hint}")
    elif known.get(name, {}).get("parameterType") not in ("LIST", "STRING", None):
        kind = known[name]["parameterType"]
        yield Finding("error", shown((*path, "items", "inputParameter")), f"{name!r} is {kind}; a loop needs a list")


def conditions(view: View, compat: BackendVersion) -> Iterator[Finding]:
    """Conditions are CEL over the task's own inputs."""
    for use in view.uses:
        text = use.condition
        if not text:
            continue
        path = shown((*use.path, "triggerPolicy", "condition"))
        if view.importer(use) is not None:
            yield Finding("error", path, "the backend takes no condition on an importer: put it into a group of tasks")
        names = [found["single"] or found["double"] or "" for found in re.finditer(_REFERENCE, text)]
        for name in dict.fromkeys(names):
            if name not in use.parameters:
                hint = did_you_mean(name, use.parameters)
                yield Finding("error", path, f"the condition reads {name!r}, which this task is not given: {hint}")
        bare = re.sub(_TEXT, "0", re.sub(_REFERENCE, "1", text))
        unknown = [word for word in re.findall(r"[A-Za-z_]\w*", bare) if word not in _CEL_WORDS]
        if unknown:
            yield Finding("error", path, f"CEL does not know {unknown[0]!r}")
        elif bare.count("(") != bare.count(")") or re.search(r"[^=!<>]=[^=]|['\"{$]", bare):
            yield Finding("error", path, f"this is no CEL expression: {text}")
        yield from _compared(use, text, path)


def _compared(use: Use, text: str, path: str) -> Iterator[Finding]:
    """Numbers are compared with numbers, text with text."""
    for found in _COMPARISON.finditer(text):
        name = found["single"] or found["double"] or ""
        declared = parameters_of(use.component).get(name, {}).get("parameterType")
        left = _CASTS[found["cast"]] if found["cast"] else declared
        right = "STRING" if found["literal"][0] in "'\"" else type_of(_json(found["literal"]))
        if left is None or right is None or (fits(left, right) and fits(right, left)):
            continue
        if found["operator"] in ("==", "!="):
            never = "never" if found["operator"] == "==" else "always"
            yield Finding("warning", path, f"{name!r} is {left}: comparing it with {found['literal']} is {never} true")
        else:
            yield Finding("error", path, f"{name!r} is {left}: CEL can't order it with {found['literal']}")


def dependencies(view: View, compat: BackendVersion) -> Iterator[Finding]:
    """Tasks wait for tasks that there are, and none waits for a task that runs at exit."""
    for use in view.uses:
        known = [other.name for other in view.uses if other.owner == use.owner and other.name != use.name]
        for index, name in enumerate(use.task.get("dependentTasks", [])):
            path = shown((*use.path, "dependentTasks", index))
            if name not in known:
                yield Finding("error", path, f"unknown task {name!r}: {did_you_mean(name, known)}")
            elif view.by_place[use.owner, name].exits:
                yield Finding("error", path, f"{name!r} runs at exit: no task can wait for it")
        if use.exits and not use.task.get("dependentTasks"):
            yield Finding(
                "error", shown((*use.path, "dependentTasks")), "a task at exit needs the task that it follows"
            )


def importers(view: View, compat: BackendVersion) -> Iterator[Finding]:
    """An importer's URI is a constant or a parameter of the pipeline around it."""
    for use in view.uses:
        importer = view.importer(use)
        if importer is None:
            continue
        path: Path = ("deploymentSpec", "executors", use.component["executorLabel"], "importer")
        uri = importer.get("artifactUri", {})
        if "runtimeParameter" in uri:
            name = uri["runtimeParameter"]
            source = use.parameters.get(name, {})
            place = (*use.path, "inputs", "parameters", name)
            if "componentInputParameter" not in source and "constant" not in source.get("runtimeValue", {}):
                yield Finding(
                    "error", shown(place), "an importer's URI can't come from a task: pass a parameter of the pipeline"
                )
            elif "runtimeValue" in source:
                yield Finding("error", shown(place), "the backend looks for the URI in the pipeline's parameters only")
        else:
            yield from _uri(uri.get("constant", ""), (*path, "artifactUri"), use, importer)
        if len(artifacts_of(use.component, "output")) != 1:
            yield Finding("error", shown(path), "an importer's component has one output artifact")
        for key, value in importer.get("metadata", {}).items():
            if value is None:
                yield Finding("error", shown((*path, "metadata", key)), "null can't be stored as metadata")


def _uri(uri: Any, path: Path, use: Use, importer: Mapping[str, Any]) -> Iterator[Finding]:
    if not isinstance(uri, str) or not uri:
        yield Finding("error", shown(path), "the importer has no URI")
    elif "{{" in uri:
        yield Finding("error", shown((*path, "constant")), f"{uri!r} is taken as it is: nothing in it is resolved")
    elif not re.match(r"[a-z][a-z0-9]+:///?[^/?]+", uri):
        yield Finding("error", shown((*path, "constant")), f"{uri!r} has no scheme such as s3://")
    elif uri.startswith("oci://") and importer.get("typeSchema", {}).get("schemaTitle") != "system.Model":
        yield Finding("error", shown((*path, "constant")), "only a system.Model can be imported from oci://")


def retries(view: View, compat: BackendVersion) -> Iterator[Finding]:
    """Retries have a count, and waits that grow."""
    for use in view.uses:
        policy = use.task.get("retryPolicy", {})
        path = (*use.path, "retryPolicy")
        if policy.get("maxRetryCount", 0) < 0:
            yield Finding("error", shown((*path, "maxRetryCount")), f"{policy['maxRetryCount']} is negative")
        factor = policy.get("backoffFactor", 1)
        if isinstance(factor, float) and (factor < 0 or not factor.is_integer()):
            yield Finding("error", shown((*path, "backoffFactor")), f"Argo takes whole factors only, given {factor:g}")
        for name in ("backoffDuration", "backoffMaxDuration"):
            seconds = float(policy.get(name, "0s").removesuffix("s"))
            if seconds < 0:
                yield Finding("error", shown((*path, name)), f"{seconds:g} s is negative")
            elif seconds != int(seconds):
                yield Finding("warning", shown((*path, name)), f"of {seconds:g} s the backend takes the whole seconds")


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None
