"""Each rule finds the mistake that is planted for it in a clean document, and nothing else."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from millrace.compilers.kubeflow.check import Finding, check_document
from millrace.targets.kubeflow import BackendVersion
from tests.compilers.kubeflow.documents import clean, clean_parts, text_of

Keys = tuple[str | int, ...]
Change = tuple[Keys, Any]
DROP = object()

TASKS: Keys = ("components", "comp-exit-handler-1", "dag", "tasks")
BODY = "components.comp-exit-handler-1.dag.tasks"
EXECUTORS: Keys = ("deploymentSpec", "executors")
MAKE: Keys = (*EXECUTORS, "exec-make", "container")
MAKE_PATH = "deploymentSpec.executors.exec-make.container"
POD: Keys = ("platforms", "kubernetes", "deploymentSpec", "executors", "exec-make")
POD_PATH = "platforms.kubernetes.deploymentSpec.executors.exec-make"
PLACES: dict[str, tuple[Keys, str]] = {
    "TASKS": (TASKS, BODY),
    "EXECUTORS": (EXECUTORS, "deploymentSpec.executors"),
    "MAKE": (MAKE, MAKE_PATH),
    "POD": (POD, POD_PATH),
}
MISTAKES: list[dict[str, Any]] = yaml.safe_load(Path(__file__).with_name("mistakes.yaml").read_text())


def keys_of(text: str) -> Keys:
    """`MAKE/args/0` as keys."""
    keys: Keys = tuple(int(part) if part.isdigit() else part for part in text.split("/"))
    return (*PLACES[str(keys[0])][0], *keys[1:]) if keys[0] in PLACES else keys


def path_of(text: str) -> str:
    """`MAKE.args[0]` as the path that a finding tells."""
    first, dot, rest = text.partition(".")
    return f"{PLACES[first][1]}{dot}{rest}" if first in PLACES else text


def set_in(part: Any, keys: Keys, value: Any) -> None:
    for key in keys[:-1]:
        part = part.setdefault(key, {}) if isinstance(key, str) else part[key]
    if value is DROP:
        del part[keys[-1]]
    else:
        part[keys[-1]] = value


def changed(changes: Sequence[Change]) -> str:
    def change(pipeline: dict[str, Any], platform: dict[str, Any]) -> None:
        for keys, value in changes:
            set_in(platform if keys[0] == "platforms" else pipeline, keys, value)

    return text_of(change)


def only(changes: Sequence[Change], compat: BackendVersion = "2.17", strict_images: bool = True) -> Finding:
    findings = check_document(changed(changes), compat, strict_images=strict_images)
    assert len(findings) == 1, [str(finding) for finding in findings]
    return findings[0]


class TestClean:
    @pytest.mark.parametrize("compat", ["2.15", "2.16", "2.17"])
    def test_document(self, compat: BackendVersion) -> None:
        assert check_document(clean(), compat, strict_images=True) == []

    def test_json_instead_of_yaml(self) -> None:
        assert check_document(changed([])) == []

    def test_in_time(self) -> None:
        check_document(clean())
        begun = time.perf_counter()
        check_document(clean())
        assert time.perf_counter() - begun < 1


class TestAMistake:
    @pytest.mark.parametrize("mistake", MISTAKES, ids=[mistake["name"] for mistake in MISTAKES])
    def test_is_found(self, mistake: dict[str, Any]) -> None:
        changes: list[Change] = [(keys_of(text), value) for text, value in mistake.get("set", {}).items()]
        changes += [(keys_of(text), DROP) for text in mistake.get("drop", [])]
        finding = only(changes, mistake.get("compat", "2.17"))
        assert (finding.severity, finding.path) == (mistake["finds"], path_of(mistake["at"]))
        assert mistake["told"] in finding.message

    def test_images_of_others_are_warnings(self) -> None:
        assert only([((*MAKE, "image"), "tools")], strict_images=False).severity == "warning"

    def test_all_are_found_errors_first(self) -> None:
        changes: list[Change] = [
            ((*MAKE, "image"), "tools"),
            ((*MAKE, "args", 0), "{{$.pipeline_root}}"),
            ((*TASKS, "make", "retry"), 1),
        ]
        findings = check_document(changed(changes))
        assert [finding.severity for finding in findings] == ["error", "error", "warning"]


class TestUnusable:
    def test_nothing_that_can_be_parsed(self) -> None:
        (finding,) = check_document("pipelineInfo: 3\nroot: {}\n")[:1]
        assert (finding.path, finding.severity) == ("pipelineInfo", "error")

    def test_no_yaml(self) -> None:
        (finding,) = check_document("a: [")
        assert "this is no YAML" in finding.message

    @pytest.mark.parametrize("part", [0, 1])
    def test_any_value_of_another_type(self, part: int) -> None:
        """Whatever stands in a place, there are findings and no crash."""
        paths: list[Keys] = []

        def collect(value: Any, keys: Keys) -> None:
            items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
            for key, inner in items:
                paths.append((*keys, key))
                collect(inner, (*keys, key))

        collect(clean_parts()[part], ())
        for keys in paths[:: max(1, len(paths) // 25)]:
            for odd in (None, "x", [[-1]], {"a": {"b": None}}):
                parts = clean_parts()
                set_in(parts[part], keys, odd)
                check_document("\n---\n".join(json.dumps(item) for item in parts))


class TestSizes:
    def test_an_argument(self) -> None:
        finding = only([((*MAKE, "args", 0), "x" * 131_072)])
        assert finding.path == f"{MAKE_PATH}.args[0]"
        assert "an argument has 131,071 at most" in finding.message

    def test_the_executor_input(self) -> None:
        constant: Keys = (*TASKS, "use-3", "inputs", "parameters", "name", "runtimeValue", "constant")
        finding = only([(constant, "x" * 131_000)])
        assert finding.path == f"{BODY}.use-3.inputs.parameters"
        assert "the executor input {{$}} has about 131," in finding.message

    def test_a_workflow_too_large_for_etcd(self) -> None:
        def grow(pipeline: dict[str, Any], platform: dict[str, Any]) -> None:
            tasks = pipeline["components"]["comp-exit-handler-1"]["dag"]["tasks"]
            for index in range(60):
                task = json.loads(json.dumps(tasks["finish-3"]))
                task["inputs"]["parameters"]["status"]["runtimeValue"]["constant"] = "x" * 14_000
                tasks[f"big-{index}"] = task

        (finding,) = check_document(text_of(grow))
        assert finding.severity == "error"
        assert "etcd takes objects of 1,572,864" in finding.message

    def test_a_large_one_is_a_warning(self) -> None:
        def grow(pipeline: dict[str, Any], platform: dict[str, Any]) -> None:
            pipeline["components"]["comp-finish"]["inputDefinitions"]["parameters"]["status"]["description"] = "x"
            tasks = pipeline["components"]["comp-exit-handler-1"]["dag"]["tasks"]
            for index in range(45):
                task = json.loads(json.dumps(tasks["finish-3"]))
                task["inputs"]["parameters"]["status"]["runtimeValue"]["constant"] = "x" * 13_000
                tasks[f"big-{index}"] = task

        (finding,) = check_document(text_of(grow))
        assert finding.severity == "warning"
