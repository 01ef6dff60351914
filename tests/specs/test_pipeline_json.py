"""Any pipeline round-trips through JSON byte for byte; any other JSON is refused with a reason."""

from __future__ import annotations

import contextlib
import json
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from millrace.errors import CompositionError
from millrace.specs import Dataset, Metric, PipelineSpec, pipeline, when
from tests import toys
from tests.toys import (
    JudgeParameters,
    Play,
    SplitParameters,
    WorkParameters,
    WriteParameters,
    judge,
    split,
    work,
    write,
)

finite = st.floats(allow_nan=False, allow_infinity=False)


def grown(data: st.DataObject) -> PipelineSpec:
    """A pipeline of random tasks, each reading what earlier ones made."""

    @pipeline
    def random(config: Play) -> None:
        made: list[Dataset] = []
        metrics: list[Metric] = []
        for number in range(data.draw(st.integers(1, 12))):
            name = f"task_{number}"
            kinds = ["write", *(["work", "split", "judge"] if made else [])]
            kind = data.draw(st.sampled_from(kinds))
            with (
                when(data.draw(st.sampled_from(metrics)) >= data.draw(finite)) if metrics else contextlib.nullcontext()
            ):
                if kind == "write":
                    written = write.with_options(name=name)(WriteParameters(text=data.draw(st.text())))
                    made.append(written.words)
                    metrics.append(written.length)
                elif kind == "work":
                    more = tuple(data.draw(st.lists(st.sampled_from(made), max_size=3)))
                    seconds = data.draw(st.floats(0, 1e300))
                    task = work.with_options(name=name, cache=data.draw(st.booleans()))
                    made.append(task(WorkParameters(seconds=seconds), words=made[0], more=more).words)
                elif kind == "split":
                    spread = split.with_options(name=name, shares=data.draw(st.integers(1, 10_000)))
                    made.append(spread(SplitParameters(), words=data.draw(st.sampled_from(made))).parts)
                else:
                    parameters = JudgeParameters(score=data.draw(finite))
                    waiting = judge.with_options(name=name, after=("task_0",))
                    metrics.append(waiting(parameters, words=data.draw(st.sampled_from(made))).score)

    return random.compose(Play())


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_a_pipeline_round_trips_byte_for_byte(data: st.DataObject) -> None:
    spec = grown(data)
    text = spec.to_json()
    again = PipelineSpec.from_json(text)
    assert again == spec
    assert again.to_json() == text


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every container of a JSON value with each of its keys."""
    keys: list[Any] = list(value) if isinstance(value, dict) else list(range(len(value)))
    below = [item for key in keys if isinstance(value[key], dict | list) for item in places(value[key])]
    return [(value, key) for key in keys] + below


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | finite | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@settings(deadline=None, max_examples=200)
@given(st.data())
def test_changed_json_is_read_or_refused(data: st.DataObject) -> None:
    content = json.loads(toys.play.compose(Play()).to_json())
    container, key = data.draw(st.sampled_from(places(content)))
    container[key] = data.draw(anything)
    with contextlib.suppress(CompositionError, ValidationError):  # nothing else may be raised
        read = PipelineSpec.from_json(json.dumps(content))
        assert PipelineSpec.from_json(read.to_json()) == read


@pytest.mark.parametrize(
    "text", ["", "null", "[]", "{}", "{", '{"name": "x"}', "[" * 100_000, '{"name": NaN}', '{"a":' * 100_000, "\x00"]
)
def test_other_text_is_refused(text: str) -> None:
    with pytest.raises((CompositionError, ValidationError)):
        PipelineSpec.from_json(text)


def test_unknown_fields_are_refused_at_every_depth() -> None:
    text = toys.play.compose(Play()).to_json()
    for number in range(len(places(json.loads(text)))):
        content = json.loads(text)
        container, key = places(content)[number]
        if isinstance(container, dict) and key in ("name", "task", "cpus", "limit", "shares", "mode", "threshold"):
            container["surprise"] = 1
            with pytest.raises((CompositionError, ValidationError), match="surprise"):
                PipelineSpec.from_json(json.dumps(content))


def test_of_two_thousand_tasks_takes_seconds_not_minutes() -> None:
    @pipeline
    def chain(config: Play) -> None:
        words = write(config.write).words
        for number in range(2_000):
            words = work.with_options(name=f"work_{number}")(config.work, words=words).words

    begun = time.monotonic()
    spec = chain.compose(Play())
    assert PipelineSpec.from_json(spec.to_json()) == spec
    assert len(spec.order()) == 2_001
    assert time.monotonic() - begun < 10
