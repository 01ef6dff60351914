"""Values, conditions and command lines follow the backend's rules."""

from __future__ import annotations

import json
from typing import Any

import pytest

from millrace.errors import TaskFailedError
from millrace.runners.kubeflow.conditions import check_expression, condition_holds, select
from millrace.runners.kubeflow.placeholders import command_line
from millrace.runners.kubeflow.pods import quantity
from millrace.runners.kubeflow.values import number_text, parse_text, text_of

PARAMETERS = {"text": "it's", "whole": 3, "real": 0.5, "flag": True, "items": [1, 2]}


def of(name: str) -> str:
    return f"inputs.parameter_values['{name}']"


@pytest.mark.parametrize(
    ("condition", "holds"),
    [
        (f"{of('text')} == 'it\\'s'", True),
        (f'{of("text")} != "it\'s"', False),
        (f"int({of('whole')}) > 2", True),
        (f"!(int({of('whole')}) > 2)", False),
        (f"double({of('whole')}) >= 3.0", True),
        (f"{of('real')} < 0.75 && {of('flag')} == true", True),
        (f"{of('real')} > 0.75 || !({of('flag')} == true)", False),
        (f"int({of('whole')}) == 3 && !({of('text')} == 'a') && !({of('text')} == 'b')", True),
        (f"{of('whole')} == '3'", False),
        (f"size({of('items')}) + 1 == 3 ? true : false", True),
        (f"'3' in ['1', '3'] || {of('flag')}", None),
    ],
)
def test_conditions(condition: str, holds: bool | None) -> None:
    if holds is None:
        assert check_expression(condition) is not None
    else:
        assert condition_holds(condition, PARAMETERS) is holds


@pytest.mark.parametrize(
    ("condition", "told"),
    [
        (f"{of('text')} > 1", "no such overload: string > int"),
        (f"{of('nothing')} == 1", "no such key: 'nothing'"),
        (f"{of('text')}", "not a bool"),
        (f"int({of('text')}) == 1", "invalid literal"),
        ("__import__('os').system('true') == 0", "the function '__import__' is unknown"),
    ],
)
def test_conditions_that_the_backend_can_not_evaluate_fail_the_task(condition: str, told: str) -> None:
    with pytest.raises(TaskFailedError, match=told):
        condition_holds(condition, PARAMETERS)


def test_a_selector_reads_a_part_of_a_loop_item() -> None:
    assert select('parseJson(string_value)["a"]', {"a": [1, 2], "b": 3}) == [1, 2]
    assert select('parseJson(string_value)["b"]', '{"b": 3.0}') == 3
    with pytest.raises(TaskFailedError, match="no such key"):
        select('parseJson(string_value)["c"]', {"a": 1})


@pytest.mark.parametrize(
    ("value", "text"),
    [(3.0, "3"), (0.1, "0.1"), (1e-7, "0.0000001"), (True, "true"), ([1.0, {"a": None}], '[1,{"a":null}]'), (None, "")],
)
def test_text_of_values(value: Any, text: str) -> None:
    assert text_of(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(3.0, "3"), (0.00001, "1e-05"), (1234567.5, "1.2345675e+06"), (-0.25, "-0.25"), (2e20, f"{2:0<21}")],
)
def test_numbers_in_commands_since_2_17(value: float, text: str) -> None:
    assert number_text(value) == text


def test_output_parameters_are_parsed_as_strictly_as_by_the_launcher() -> None:
    assert parse_text(" 7\n", "NUMBER_INTEGER") == 7
    assert parse_text("1e3", "NUMBER_DOUBLE") == 1000
    assert parse_text("T", "BOOLEAN") is True
    assert parse_text(" x\n", "STRING") == " x\n"
    assert parse_text('{"a": 1.0}', "STRUCT") == {"a": 1}
    for text, kind in (("7.0", "NUMBER_INTEGER"), ("yes", "BOOLEAN"), ("{}", "LIST"), ("nan", "NUMBER_DOUBLE")):
        with pytest.raises(ValueError, match=r".+"):
            parse_text(text, kind)


def _line(*template: str, compat: Any = "2.17", **parameters: Any) -> tuple[str, ...]:
    given = {name for name, value in parameters.items() if value is not None}
    executor_input = {
        "inputs": {
            "parameterValues": parameters,
            "artifacts": {"data": {"artifacts": [{"uri": "s3://b/k", "metadata": {}}]}},
        },
        "outputs": {"parameters": {"out": {"outputFile": "/tmp/kfp/outputs/out"}}},
    }
    return command_line(template, executor_input, given, compat)


def test_placeholders_are_replaced_wherever_they_stand() -> None:
    line = _line(
        "run",
        "--rate={{$.inputs.parameters['rate']}}",
        "{{$.inputs.artifacts['data'].path}}:{{$.inputs.artifacts['data'].uri}}",
        "{{$.outputs.parameters['out'].output_file}}",
        "{{$}}",
        rate=1e-5,
    )
    assert line[:4] == ("run", "--rate=1e-05", "/s3/b/k:s3://b/k", "/tmp/kfp/outputs/out")
    assert json.loads(line[4])["inputs"]["parameterValues"] == {"rate": 1e-5}
    assert _line("{{$.inputs.parameters['rate']}}", rate=1e-5, compat="2.16") == ("0.00001",)


def test_if_present_is_resolved_since_2_17() -> None:
    clause = '{"IfPresent": {"InputName": "a", "Then": ["--a", "{{$.inputs.parameters[\'a\']}}"], "Else": ["--none"]}}'
    assert _line("run", clause, a="x") == ("run", "--a", "x")
    assert _line("run", clause) == ("run", "--none")
    with pytest.raises(TaskFailedError, match="passes IfPresent on as text"):
        _line("run", clause, a="x", compat="2.16")


@pytest.mark.parametrize(
    "word",
    [
        "{{$.inputs.parameters['b']}}",
        "{{$.inputs.artifacts['data']}}",
        "{{$.inputs.artifacts['other'].path}}",
        "{{$.outputs.output_file}}",
        "{{$.inputs.artifacts['data'].metadata['rows']}}",
        '{"Concat": ["a", "b"]}',
    ],
)
def test_what_the_backend_would_leave_as_text_is_refused(word: str) -> None:
    with pytest.raises(TaskFailedError, match=r"the backend (can't|2\.17)"):
        _line("run", word, a=1)


def test_arguments_that_no_kernel_starts_are_refused() -> None:
    with pytest.raises(TaskFailedError, match=r"131,072 bytes can't be started"):
        _line("run", "x" * 131_072)
    with pytest.raises(TaskFailedError, match="command and arguments are empty"):
        _line()


def test_quantities() -> None:
    assert [quantity(text) for text in ("500m", "2", "1.5Gi", "1G")] == [0.5, 2, 1.5 * 2**30, 1e9]
    with pytest.raises(TaskFailedError, match="no quantity"):
        quantity("1 GB")
