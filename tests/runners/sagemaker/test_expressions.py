"""Expressions and conditions have the values and types that the service gives them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from millrace.errors import TaskFailedError
from millrace.runners.sagemaker.conditions import condition_holds
from millrace.runners.sagemaker.expressions import Values, evaluate, references

FILES = {
    "s3://bucket/run/metrics.json": json.dumps(
        {"accuracy": 0.93, "a b": {"list": [1, {"x.y": "deep"}]}, "classes": {"0": 7}}
    ),
    "s3://bucket/broken.json": "{",
}


def read(uri: str) -> bytes:
    if uri not in FILES:
        raise FileNotFoundError(uri)
    return FILES[uri].encode()


@pytest.fixture
def values() -> Values:
    return Values(
        parameters={"epochs": 3, "rate": 0.5, "on": True, "name": "x", "empty": ""},
        execution={"PipelineExecutionId": "abc123"},
        steps={
            "make": {
                "ProcessingOutputConfig": {"Outputs": {"data": {"S3Output": {"S3Uri": "s3://bucket/run/data"}}}},
                "ProcessingJobName": "job",
            },
            "train": {
                "FinalMetricDataList": {"accuracy": {"MetricName": "accuracy", "Value": 0.9}},
                "InputDataConfig": [{"ChannelName": "left", "ContentType": "l"}, {"ChannelName": "right"}],
                "HyperParameters": {"depth.0": "4"},
            },
        },
        property_file=lambda step, name: f"s3://bucket/run/{name}.json",
        read=read,
    )


def get(path: str) -> dict[str, str]:
    return {"Get": path}


def json_get(path: Any, name: str = "metrics", step: str = "make") -> dict[str, Any]:
    return {"Std:JsonGet": {"PropertyFile": get(f"Steps.{step}.PropertyFiles.{name}"), "Path": path}}


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        (get("Parameters.epochs"), 3),
        (get("Parameters.on"), True),
        (get("Execution.PipelineExecutionId"), "abc123"),
        (get("Steps.make.ProcessingOutputConfig.Outputs['data'].S3Output.S3Uri"), "s3://bucket/run/data"),
        (get('Steps.make.ProcessingOutputConfig.Outputs["data"].S3Output.S3Uri'), "s3://bucket/run/data"),
        (get("Steps.make.ProcessingOutputConfig.Outputs[0].S3Output.S3Uri"), "s3://bucket/run/data"),
        (get("Steps.train.InputDataConfig[0].ContentType"), "l"),
        (get("Steps.train.InputDataConfig['right'].ChannelName"), "right"),
        (get("Steps.train.FinalMetricDataList['accuracy'].Value"), 0.9),
        (get("Steps.train.HyperParameters['depth.0']"), "4"),
        ({"Std:Join": {"On": "/", "Values": ["s3:/", "b", get("Parameters.epochs")]}}, "s3://b/3"),
        ({"Std:Join": {"On": "", "Values": [get("Parameters.on"), get("Parameters.rate"), ""]}}, "true0.5"),
        ({"Std:Join": {"On": "-", "Values": [{"Std:Join": {"On": "+", "Values": [1, 2]}}, "x"]}}, "1+2-x"),
        (json_get("accuracy"), 0.93),
        (json_get("['a b']['list'][0]"), 1),
        (json_get("['a b'].list[1]['x.y']"), "deep"),
        (json_get("$.classes['0']"), 7),
        (
            {
                "Std:JsonGet": {
                    "S3Uri": {"Std:Join": {"On": "/", "Values": ["s3://bucket/run", "metrics.json"]}},
                    "Path": "accuracy",
                }
            },
            0.93,
        ),
        (
            {"plain": [get("Parameters.name"), {"Get": "Parameters.name", "more": 1}]},
            {"plain": ["x", {"Get": "Parameters.name", "more": 1}]},
        ),
    ],
)
def test_expressions_have_values(values: Values, expression: Any, expected: Any) -> None:
    found = evaluate(expression, values)
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("expression", "told"),
    [
        (get("Parameters.epoch"), "did you mean 'epochs'"),
        (get("Steps.other.ModelName"), "step 'other' has not ended well"),
        (get("Steps.make"), "not a value of Parameters, Execution or Steps"),
        (get("Steps.make.ProcessingOutputConfig.Outputs['dat'].S3Output"), "did you mean 'data'"),
        (get("Steps.train.InputDataConfig['up'].ChannelName"), "no entry is named 'up'"),
        (get("Steps.train.InputDataConfig[2].ChannelName"), "[2] is beyond the end, 2 are there"),
        (get("Steps.make.ProcessingJobName.x"), "'x' can't be taken from 'job'"),
        (get("Steps.make.ProcessingJobName]"), "can't be read from ']' on"),
        (json_get("loss"), "loss of s3://bucket/run/metrics.json: there is no 'loss'"),
        (json_get("x", "nothing"), "the file is not there"),
        ({"Std:JsonGet": {"S3Uri": "s3://bucket/broken.json", "Path": "x"}}, "the file is no JSON"),
        (json_get("x", step="other"), "step 'other' has not ended well"),
    ],
)
def test_what_is_not_there_is_told(values: Values, expression: Any, told: str) -> None:
    with pytest.raises(TaskFailedError) as error:
        evaluate(expression, values)
    assert told in str(error.value)


def test_steps_that_are_referred_to_are_found() -> None:
    nested = {
        "a": [{"Std:Join": {"On": "", "Values": [get("Steps.one.X"), get("Parameters.p")]}}, json_get("x", step="two")]
    }
    assert references(nested) == {"one", "two"}


def comparison(kind: str, left: Any, right: Any) -> dict[str, Any]:
    return {"Type": kind, "LeftValue": left, "RightValue": right}


LESS = comparison("LessThan", 1, 2)
MORE = comparison("GreaterThan", 1, 2)


@pytest.mark.parametrize(
    ("condition", "holds"),
    [
        (comparison("Equals", get("Parameters.epochs"), 3.0), True),
        (comparison("Equals", get("Parameters.name"), "y"), False),
        (comparison("Equals", get("Parameters.on"), True), True),
        (comparison("GreaterThan", json_get("accuracy"), 0.93), False),
        (comparison("GreaterThanOrEqualTo", json_get("accuracy"), 0.93), True),
        (comparison("LessThan", get("Parameters.rate"), 1), True),
        (comparison("LessThanOrEqualTo", get("Parameters.rate"), 0.4), False),
        ({"Type": "In", "QueryValue": get("Parameters.name"), "Values": ["a", get("Parameters.name")]}, True),
        ({"Type": "In", "QueryValue": 4, "Values": [1, 2]}, False),
        ({"Type": "Not", "Condition": LESS}, False),
        ({"Type": "Not", "Expression": MORE}, True),
        ({"Type": "Or", "Conditions": [MORE, LESS]}, True),
        ({"Type": "Or", "Conditions": [MORE, {"Type": "Not", "Condition": LESS}]}, False),
        ({"Type": "And", "Conditions": [MORE, LESS]}, False),
    ],
)
def test_conditions(values: Values, condition: dict[str, Any], holds: bool) -> None:
    assert condition_holds(condition, values) is holds


@pytest.mark.parametrize(
    "condition",
    [
        comparison("GreaterThan", "2", 1),
        comparison("LessThan", "a", "b"),
        comparison("Equals", "3", 3),
        comparison("Equals", True, 1),
        {"Type": "In", "QueryValue": 1, "Values": ["1"]},
        {"Type": "Or", "Conditions": [LESS, comparison("Equals", get("Parameters.none"), 1)]},
    ],
)
def test_conditions_that_can_not_be_decided_fail(values: Values, condition: dict[str, Any]) -> None:
    with pytest.raises(TaskFailedError):
        condition_holds(condition, values)
