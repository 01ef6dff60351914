"""Tasks that reach outside the pipeline, also by a parameter inside another, run each time."""

from __future__ import annotations

from typing import Any

import pytest

from millrace.components.analyze.spec import analyze
from millrace.components.preprocess.spec import preprocess
from millrace.specs import Task
from millrace.specs.uncached import is_uncached

SHA256 = "0" * 64
TEXTS: dict[str, Any] = {"kind": "text", "vocabulary": None, "sha256": None}


@pytest.mark.parametrize("component", [analyze, preprocess])
@pytest.mark.parametrize(
    ("data", "outside"),
    [
        ({"kind": "image"}, False),
        (TEXTS, False),
        ({**TEXTS, "vocabulary": "/words.txt"}, True),
        ({**TEXTS, "vocabulary": "s3://bucket/words.txt", "sha256": SHA256}, False),
    ],
)
def test_a_vocabulary_without_a_digest_is_read_each_time(component: Any, data: dict[str, Any], outside: bool) -> None:
    task = Task(name="one", component=component.spec.name, parameters={"data": data})
    assert is_uncached(task, component.spec) is outside


@pytest.mark.parametrize(
    ("opened", "outside"),
    [("data.vocabulary", True), ("data", True), ("previous.records", True), ("data.height", False), ("pre", False)],
)
def test_values_that_are_not_known_yet(opened: str, outside: bool) -> None:
    task = Task(name="one", component="preprocess", parameters={"data": TEXTS, "previous": None})
    assert is_uncached(task, preprocess.spec, [opened]) is outside
