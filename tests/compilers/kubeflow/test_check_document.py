"""A document is read without trusting it."""

from __future__ import annotations

import time

import pytest

from millrace.compilers.kubeflow.document import Document, parse_document, read_document
from millrace.errors import DataError

PIPELINE = "pipelineInfo: {name: p}\nroot: {dag: {tasks: {}}}\nschemaVersion: 2.1.0\n"
PLATFORM = "platforms: {kubernetes: {}}\n"
BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "\n".join(
    f"b{level}: &b{level} [{', '.join([f'*b{level - 1}' if level else '*a'] * 10)}]" for level in range(9)
)


class TestParts:
    def test_pipeline_alone(self) -> None:
        assert parse_document(PIPELINE).platform is None

    @pytest.mark.parametrize("text", [f"{PIPELINE}---\n{PLATFORM}", f"{PLATFORM}---\n{PIPELINE}---\n"])
    def test_with_a_platform(self, text: str) -> None:
        document = parse_document(text)
        assert document.pipeline["schemaVersion"] == "2.1.0"
        assert document.platform == {"platforms": {"kubernetes": {}}}

    def test_json(self) -> None:
        assert read_document('{"pipelineInfo": {"name": "p"}, "root": {}}') == Document(
            {"pipelineInfo": {"name": "p"}, "root": {}}
        )

    @pytest.mark.parametrize(
        ("text", "told"),
        [
            ("", "0 pipeline specs and 0 platform specs"),
            (PLATFORM, "0 pipeline specs and 1 platform specs"),
            (f"{PIPELINE}---\n{PIPELINE}", "2 pipeline specs"),
            (f"{PIPELINE}---\n{PLATFORM}---\n{PLATFORM}", "2 platform specs"),
            ("words", "a part is a str"),
            ("- 1", "a part is a list"),
            ("a: [", "this is no YAML"),
        ],
    )
    def test_wrong_parts(self, text: str, told: str) -> None:
        with pytest.raises(DataError, match=told):
            parse_document(text)


class TestHostile:
    @pytest.mark.parametrize(
        ("text", "told"),
        [
            (BOMB, "values when its YAML aliases are written out"),
            ("a: &a {b: *a}", "levels when its YAML aliases are written out"),
            ("[" * 1_000_000, "nested more than 200 deep"),
            ("\n".join(f"{' ' * depth}a:" for depth in range(1000)), "nested more than 200 deep, at line 201"),
            ("a: !!python/object/apply:os.system [exit]", "could not determine a constructor"),
            ("x" * 9_000_000, "more than 8,388,608 can't run anywhere"),
            ("a: \x00", "control characters are not allowed"),
            ("a: \ud800", "can't be read"),
            ("&a {? *a : b}", "unhashable key"),
            (f"a: {'9' * 10_000}", "can't be read"),
            ("a: 2026-13-41", "can't be read"),
        ],
    )
    def test_is_refused_at_once(self, text: str, told: str) -> None:
        begun = time.perf_counter()
        with pytest.raises(DataError, match=told):
            parse_document(text)
        assert time.perf_counter() - begun < 5

    @pytest.mark.parametrize(
        ("text", "path", "told"),
        [
            (
                "root: {a: {b.c: [x, 2026-01-01]}}",
                "root.a['b.c'][1]",
                "'2026-01-01' is a date in YAML: put it in quotes",
            ),
            ("root: {1: a}", "root.1", "the key 1 is no text"),
            ("root: {a: .nan}", "root.a", "no number"),
            ("root: {a: !!binary aGVsbG8=}", "root.a", "is a bytes in YAML"),
            ("root: {a: 1, b: 2, a: 3}", "", "key 'a' is given twice"),
        ],
    )
    def test_what_the_backend_has_no_form_for(self, text: str, path: str, told: str) -> None:
        found = read_document(text)
        assert isinstance(found, list)
        (finding,) = found
        assert (finding.severity, finding.path) == ("error", path)
        assert told in finding.message
