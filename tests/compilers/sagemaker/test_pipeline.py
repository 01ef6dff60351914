"""Pipelines of all shapes as SageMaker definitions."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from millrace.compilers.sagemaker import compile_pipeline
from millrace.compilers.sagemaker.check import check_document
from millrace.errors import ConfigError, UnsupportedError
from millrace.pipelines.digits import Digits, digits
from millrace.specs import OpenField, Pipeline, RuntimeParameter
from millrace.specs.runtime_parameters import open_fields
from tests.compilers.kubeflow import flows
from tests.compilers.sagemaker.definitions import compiled, nested, of_digits, sagemaker, searching, with_task
from tests.compilers.sagemaker.flows import Fits, Searches, fits, searches
from tests.toys import Play, play

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("flow", flows.FLOWS, ids=lambda flow: flow.name)
def test_every_shape_is_well_formed(flow: Pipeline[flows.Config]) -> None:
    definition = compiled(flow.compose(flows.Config()))
    assert [finding for finding in check_document(definition.text) if finding.severity == "error"] == []
    check_order(definition.content["Steps"], set())


def check_order(steps: list[dict[str, Any]], known: set[str]) -> None:
    """Each step comes after those that it names."""
    for step in steps:
        inside = step["Arguments"] if step["Type"] == "Condition" else {}
        text = json.dumps(inside.get("Conditions", step["Arguments"]))
        named = {part.split(".")[0] for part in text.split("Steps.")[1:]} | set(step.get("DependsOn", ()))
        assert named <= known, f"{step['Name']} needs {named - known}"
        known.add(step["Name"])
        for branch in ("IfSteps", "ElseSteps"):
            check_order(inside.get(branch, []), set(known))


class TestEnvelope:
    def test_it_is_a_definition(self) -> None:
        content = of_digits().content
        assert content["Version"] == "2020-12-01"
        assert content["PipelineExperimentConfig"] == {
            "ExperimentName": {"Get": "Execution.PipelineName"},
            "TrialName": {"Get": "Execution.PipelineExecutionId"},
        }
        assert content["Parameters"] == []

    def test_role_and_bucket_are_asked_for_where_they_are_not_known(self) -> None:
        definition = compiled(play.compose(Play()), role=None, bucket=None)
        assert definition.content["Parameters"] == [
            {"Name": "role", "Type": "String"},
            {"Name": "bucket", "Type": "String"},
        ]
        request = definition.request("write")
        assert request["RoleArn"] == {"Get": "Parameters.role"}
        place = request["ProcessingOutputConfig"]["Outputs"][0]["S3Output"]["S3Uri"]["Std:Join"]
        assert place["On"] == "/"
        assert place["Values"] == [
            "s3:/",
            {"Get": "Parameters.bucket"},
            "millrace/play",
            {"Get": "Execution.PipelineExecutionId"},
            "write/words",
        ]

    def test_open_fields_are_typed_parameters(self) -> None:
        names = ["train.epochs", "train.learning_rate", "train.deterministic", "quantize.scheme", "gate.accuracy"]
        definition = compiled(open_fields(digits, Digits(), names))
        parameters = {one["Name"]: one for one in definition.content["Parameters"]}
        assert parameters["train_epochs"] == {"Name": "train_epochs", "Type": "Integer", "DefaultValue": 20}
        assert parameters["train_learning_rate"]["Type"] == "Float"
        assert parameters["train_deterministic"] == {
            "Name": "train_deterministic",
            "Type": "Boolean",
            "DefaultValue": True,
        }
        assert parameters["quantize_scheme"]["Type"] == "String"
        assert parameters["quantize_scheme"]["DefaultValue"] in parameters["quantize_scheme"]["EnumValues"]
        (condition,) = definition.steps["when-evaluate-accuracy"]["Arguments"]["Conditions"]
        assert condition["RightValue"] == {"Get": "Parameters.gate_accuracy"}
        assert check_errors(definition.text) == []

    def test_all_settings_together_are_a_definition(self) -> None:
        definition = of_digits(
            network={"subnets": ["subnet-1"], "security_groups": ["sg-1"], "encrypt": True},
            tags={"team": "vision"},
            unmet="fail",
            training={"spot": True, "mode": "FastFile", "debugger": {}, "profiler": {}, "compression": "none"},
            tuning={"warm_start": {"parents": ["earlier"]}},
            serving={"kind": "endpoint"},
        )
        assert check_errors(definition.text) == []


def check_errors(text: str) -> list[str]:
    return [str(finding) for finding in check_document(text) if finding.severity == "error"]


class TestConditions:
    def test_tasks_stand_inside_what_decides_on_them(self) -> None:
        definition = compiled(flows.loop_in_condition.compose(flows.Config()))
        outer = definition.steps["when-write-length"]["Arguments"]
        assert [step["Name"] for step in outer["IfSteps"]] == ["split", "judge", "dragged", "when-judge-score"]
        inner = definition.steps["when-judge-score"]["Arguments"]
        assert [step["Name"] for step in inner["IfSteps"]] == ["inner"]
        assert outer["Conditions"] == [
            {
                "Type": "GreaterThanOrEqualTo",
                "LeftValue": {
                    "Std:JsonGet": {"PropertyFile": {"Get": "Steps.write.PropertyFiles.metrics"}, "Path": "length"}
                },
                "RightValue": 3.0,
            }
        ]
        assert inner["Conditions"][0]["Type"] == "GreaterThan"

    def test_two_of_one_metric_have_names_of_their_own(self) -> None:
        definition = compiled(flows.independent_conditions.compose(flows.Config()))
        assert [step["Name"] for step in definition.content["Steps"] if step["Type"] == "Condition"] == [
            "when-judge-score",
            "when-judge-score-2",
        ]

    def test_a_training_tells_its_metrics_itself(self) -> None:
        spec = searching()
        condition = spec.task("quantize").conditions[0]
        trained = condition.model_copy(update={"metric": condition.metric.model_copy(update={"task": "train"})})
        step = compiled(with_task(spec, "quantize", conditions=(trained,))).steps["when-train-accuracy"]
        left = step["Arguments"]["Conditions"][0]["LeftValue"]
        assert left == {"Get": "Steps.train.FinalMetricDataList['accuracy'].Value"}

    def test_an_unmet_one_skips_its_tasks_or_fails_with_a_message(self) -> None:
        spec = open_fields(digits, Digits(), ["gate.accuracy"])
        assert compiled(spec).steps["when-evaluate-accuracy"]["Arguments"]["ElseSteps"] == []
        fail = compiled(spec, unmet="fail").steps["when-evaluate-accuracy-unmet"]
        value = {"Std:JsonGet": {"PropertyFile": {"Get": "Steps.evaluate.PropertyFiles.metrics"}, "Path": "accuracy"}}
        assert fail == {
            "Name": "when-evaluate-accuracy-unmet",
            "Type": "Fail",
            "Arguments": {
                "ErrorMessage": {
                    "Std:Join": {
                        "On": "",
                        "Values": [
                            "evaluate.accuracy is ",
                            value,
                            ", and must be >= ",
                            {"Get": "Parameters.gate_accuracy"},
                        ],
                    }
                }
            },
        }
        fixed = of_digits(unmet="fail").steps["when-evaluate-accuracy-unmet"]["Arguments"]["ErrorMessage"]
        assert fixed["Std:Join"]["Values"][2] == ", and must be >= 0"

    def test_tasks_of_conditions_that_do_not_imply_each_other_are_not_joined(self) -> None:
        with pytest.raises(UnsupportedError, match=r"tasks\.needs_both: .*Put one of the `when` blocks into the other"):
            compiled(flows.unjoinable.compose(flows.Config()))


class TestDependencies:
    def test_tasks_wait_for_those_that_are_named(self) -> None:
        definition = compiled(flows.loops_in_a_row.compose(flows.Config()))
        assert definition.steps["last"]["DependsOn"] == ["again", "judge"]
        assert "DependsOn" not in definition.steps["judge"]

    def test_producers_come_first(self) -> None:
        check_order(of_digits(serving={"kind": "endpoint"}).content["Steps"], set())
        check_order(compiled(fits.compose(Fits())).content["Steps"], set())


class TestNames:
    def test_a_step_is_called_as_its_task(self) -> None:
        assert set(compiled(flows.two_of_one.compose(flows.Config())).steps) == {
            *("write", "work-1", "work-2", "for-loop-1", "condition-2")
        }

    def test_those_that_collide_are_refused(self) -> None:
        spec = flows.two_of_one.compose(flows.Config())
        tasks = [task.model_copy(update={"name": "when_write_length"}) if task.name == "work_2" else task
                 for task in spec.tasks]  # fmt: skip
        (condition,) = [one for one in flows.loop_in_condition.compose(flows.Config()).tasks if one.name == "split"]
        tasks[-1] = tasks[-1].model_copy(update={"conditions": condition.conditions})
        with pytest.raises(
            ConfigError, match="task 'when_write_length' and the condition 'when-write-length' would both"
        ):
            compiled(spec.model_copy(update={"tasks": tuple(tasks)}))

    def test_those_that_are_too_long_are_refused(self) -> None:
        spec = play.compose(Play())
        long = "j" * 60
        judge = spec.task("judge").model_copy(update={"name": long})
        last = spec.task("last")
        metric = last.conditions[0].metric.model_copy(update={"task": long})
        conditions = (last.conditions[0].model_copy(update={"metric": metric}),)
        others = [task for task in spec.tasks if task.name not in ("judge", "last")]
        tasks = (*others, judge, last.model_copy(update={"conditions": conditions}))
        with pytest.raises(ConfigError, match=r"its step would be called 'when-j+-score', 71 characters"):
            compiled(spec.model_copy(update={"tasks": tasks}))

    def test_parameters_that_collide_are_refused(self) -> None:
        fills = (OpenField(task="judge", path="score"),)
        both = tuple(RuntimeParameter(name=name, kind="float", default=0.5, fills=fills) for name in ("a.b_c", "a_b.c"))
        with pytest.raises(ConfigError, match=r"runtime: a\.b_c and a_b\.c would both be called 'a_b_c'"):
            compiled(play.compose(Play()).model_copy(update={"runtime_parameters": both}))
        role = (RuntimeParameter(name="role", kind="float", default=0.5, fills=fills),)
        spec = play.compose(Play()).model_copy(update={"runtime_parameters": role})
        with pytest.raises(ConfigError, match=r"target\.role, which is null, and role would both.*target\.role=\.\.\."):
            compiled(spec, role=None)
        compiled(spec)

    def test_settings_of_unknown_tasks_are_refused(self) -> None:
        with pytest.raises(ConfigError, match=r"target\.tasks\.wrok: unknown task: did you mean 'work'"):
            compiled(play.compose(Play()), tasks={"wrok": {"cache": False}})


class TestBytes:
    def test_the_same_pipeline_gives_the_same_bytes_whatever_the_order_of_hashes(self, tmp_path: Path) -> None:
        written = [compiled_elsewhere(tmp_path, PYTHONHASHSEED=seed) for seed in ("0", "1", "42")]
        assert len(written[0]) > 10_000
        assert written[0] == written[1] == written[2]

    def test_nothing_is_asked_for_and_no_sdk_is_imported(self, tmp_path: Path) -> None:
        program = (
            "import socket, sys\n"
            "def refuse(*given, **named): raise AssertionError(f'network: {given}')\n"
            "socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse\n"
            "sys.argv = ['millrace', 'compile', 'pipeline=digits', 'target=sagemaker']\n"
            "from millrace.cli import main\n"
            "code = main()\n"
            "heavy = [name for name in ('sagemaker', 'boto3', 'kfp', 'tensorflow', 'numpy', 'optuna') "
            "if name in sys.modules]\n"
            "assert not heavy, heavy\n"
            "sys.exit(code)\n"
        )
        environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
        answer = subprocess.run(
            [sys.executable, "-c", program],
            cwd=tmp_path,
            env={**environment, "PYTHONPATH": str(ROOT), "HOME": str(tmp_path)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert answer.returncode == 0, answer.stderr
        assert (tmp_path / "build" / "digits.sagemaker.json").exists()

    def test_a_spec_that_was_written_and_read_gives_the_same(self) -> None:
        spec = searches.compose(
            Searches.model_validate({"tune": {"space": searching().task("tune").parameters["space"]}})
        )
        again = type(spec).from_json(spec.to_json())
        assert compile_pipeline(again, sagemaker()) == compile_pipeline(spec, sagemaker())


def compiled_elsewhere(folder: Path, **environment: str) -> str:
    answer = subprocess.run(
        [sys.executable, "-m", "millrace", "compile", "pipeline=digits", "target=sagemaker", "output=-"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr
    return answer.stdout


def test_steps_are_found_wherever_they_are_nested() -> None:
    names = [step["Name"] for step in nested(of_digits().content["Steps"])]
    assert len(names) == len(set(names)) == 10
