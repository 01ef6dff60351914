"""What a definition has, needs, and can't have."""

from __future__ import annotations

import json
from typing import Any

import pytest

from millrace.errors import ConfigError, DataError
from millrace.runners.record import TaskState
from millrace.runners.rehearsing import refuse_settings
from millrace.runners.sagemaker.definition import read_definition
from millrace.runners.sagemaker.expressions import Values
from millrace.runners.sagemaker.graph import Done, why_not
from millrace.runners.sagemaker.parameters import parameter_values
from millrace.runners.sagemaker.support import images_of, notes, unsupported, user_notes
from millrace.runners.sagemaker.transform import requests_of
from millrace.runners.settings import Rehearse
from tests.runners.sagemaker import definitions as made
from tests.runners.sagemaker.jobs import IMAGE

VALUES = Values({"role": "r", "size": 1, "image": "given:1"}, {})
SERIAL = {"DataSource": {"S3DataSource": {"S3DataType": "S3Prefix"}}, "SplitType": "TFRecord"}
NOT_HERE = ("Callback", "Lambda", "EMR", "AutoML", "ClarifyCheck", "QualityCheck", "InferenceComponent", "ForEach")
DONE, FAILED, SKIPPED = Done(TaskState.SUCCEEDED), Done(TaskState.FAILED), Done(TaskState.SKIPPED)


def test_steps_know_what_they_need() -> None:
    steps = read_definition(made.whole()).steps
    needs = {name: {item.step for item in step.needs} for name, step in steps.items()}
    assert needs == {
        "prepare": set(),
        "enough": {"prepare"},
        "tune": {"enough", "prepare"},
        "train": {"enough", "prepare", "tune"},
        "model": {"enough", "train"},
        "config": {"enough", "model"},
        "endpoint": {"enough", "config"},
        "ask": {"enough", "endpoint"},
        "transform": {"enough", "model", "prepare"},
        "too-few": {"enough", "prepare"},
    }
    assert steps["model"].path == "Steps[1].Arguments.IfSteps[2]"
    assert steps["too-few"].inside == ("enough", "ElseSteps")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{", "no JSON"),
        ("[]", "no list `Steps`"),
        ('{"Steps": []}', "no list `Steps`"),
        ('{"Steps": [{"Name": "a"}]}', "Steps[0]: a step has a Name and a Type"),
        (made.document(made.prepare(), made.prepare()), "the name 'prepare' is that of Steps[0], too"),
        (made.document(made.prepare(DependsOn=["b"])), "needs 'b', which is no step"),
        (made.document(made.prepare(DependsOn=[1])), "Steps[0].DependsOn"),
    ],
)
def test_what_is_no_definition(text: str, told: str) -> None:
    with pytest.raises(DataError) as error:
        read_definition(text)
    assert told in str(error.value)


def without(step: dict[str, Any], **changes: Any) -> str:
    step["Arguments"] = {**step["Arguments"], **changes}
    return made.document(made.prepare(), step)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            without(made.train(), AlgorithmSpecification={"AlgorithmName": "x"}),
            "Steps[1] (train): Arguments.AlgorithmSpecification.AlgorithmName",
        ),
        (without(made.tune(), TrainingJobDefinitions=[{}]), "(tune): Arguments.TrainingJobDefinitions"),
        (without(made.tune(), Autotune={"Mode": "Enabled"}), "Arguments.Autotune"),
        (
            without(made.served()[0], PrimaryContainer={"Mode": "MultiModel", "Image": "x"}),
            "Arguments.PrimaryContainer.Mode",
        ),
        (without(made.served()[0], PrimaryContainer={}, Containers=[{}, {}]), "models of several containers"),
        (without(made.served()[1], AsyncInferenceConfig={"OutputConfig": {}}), "asynchronous inference"),
        (
            without(made.served()[1], ProductionVariants=[{"VariantName": "x"}]),
            "ProductionVariants[0]: inference components",
        ),
        (without(made.served()[4], DataProcessing={"InputFilter": "$.x"}), "filters are not rehearsed"),
        (without(made.served()[4], DataProcessing={"JoinSource": "Input"}), "JoinSource"),
        (without(made.served()[4], TransformInput=SERIAL), "SplitType: TFRecord"),
        (without(made.condition(1, 2), Conditions=[{"Type": "Near"}]), "Conditions[0]: conditions of type 'Near'"),
        (
            without(made.condition(1, 2), Conditions=[{"Type": "Not", "Condition": {"Type": "Xor"}}]),
            "Conditions[0].Condition",
        ),
        *(
            (
                made.document(made.prepare(), {"Name": "x", "Type": kind, "Arguments": {}}),
                f"Steps[1] (x): steps of type {kind}",
            )
            for kind in NOT_HERE
        ),
    ],
)
def test_what_is_not_rehearsed_is_told_by_step_and_path(text: str, told: str) -> None:
    content = json.loads(text)
    content["Steps"] += [made.train("train"), *made.served()[:2]]
    kept = {step["Name"]: step for step in reversed(content["Steps"])}
    content["Steps"] = [kept.pop(name) for name in dict.fromkeys(step["Name"] for step in content["Steps"])]
    found = unsupported(read_definition(json.dumps(content)))
    assert [told in line for line in found] == [True], found


def test_everything_that_is_made_by_hand_is_rehearsed() -> None:
    assert unsupported(read_definition(made.whole())) == []


def test_images_are_known_but_those_of_steps() -> None:
    definition = read_definition(made.whole())
    assert images_of(definition, VALUES) == {IMAGE: "prepare", made.STAND_IN: "tune"}
    step = made.prepare()
    step["Arguments"]["AppSpecification"]["ImageUri"] = made.get("Parameters.image")
    assert images_of(read_definition(made.document(step)), VALUES) == {"given:1": "prepare"}


def test_what_is_done_otherwise_is_noted() -> None:
    tuning = made.tune(strategy="Hyperband")
    tuning["RetryPolicies"] = [{"ExceptionType": ["Step.THROTTLING"]}]
    tuning["Arguments"]["TrainingJobDefinition"]["VpcConfig"] = {"Subnets": ["a"], "SecurityGroupIds": ["b"]}
    found = notes(read_definition(made.document(made.prepare(CacheConfig={"Enabled": True}), tuning)), 2)
    assert "VPCs have no effect here" in found
    assert "tune: Hyperband is rehearsed as a random search whose jobs run to their ends" in found
    assert any(line.startswith("retry policies") for line in found)
    assert any(line.startswith("nothing comes from a cache") for line in found)


@pytest.mark.parametrize(
    ("depends", "done", "reason", "handles"),
    [
        (["a"], {"a": DONE}, "", False),
        (["a"], {"a": FAILED}, "a failed", False),
        (["a"], {"a": SKIPPED}, "a did not run", False),
        ([], {"a": FAILED}, "a failed before it started", False),
        ([{"Step": "a", "Trigger": "Failed"}], {"a": FAILED}, "", True),
        ([{"Step": "a", "Trigger": "Failed"}], {"a": DONE}, "a was not failing", False),
        ([{"Step": "a", "Trigger": "Stopped"}], {"a": FAILED}, "a was not stopped", False),
        ([{"Step": "a", "Trigger": "Any"}], {"a": FAILED}, "", True),
        ([{"Step": "a", "Trigger": "Any"}], {"a": DONE}, "", False),
        (["b"], {"a": FAILED, "b": Done(TaskState.SUCCEEDED, after_failure=True)}, "", True),
    ],
)
def test_which_steps_run(depends: list[Any], done: dict[str, Done], reason: str, handles: bool) -> None:
    steps = [made.prepare("a"), made.prepare("b"), made.prepare("x", DependsOn=depends)]
    assert why_not(read_definition(made.document(*steps)).steps["x"], done) == (reason, handles)


def test_only_the_branch_that_was_chosen_runs() -> None:
    steps = read_definition(made.whole()).steps
    done = {"prepare": DONE, "enough": Done(TaskState.SUCCEEDED, branch="IfSteps")}
    assert why_not(steps["tune"], done) == ("", False)
    assert why_not(steps["too-few"], done) == ("the condition enough holds", False)


DEFINITIONS: list[dict[str, Any]] = [
    {"Name": "role", "Type": "String"},
    {"Name": "bucket", "Type": "String"},
    {"Name": "train_epochs", "Type": "Integer", "DefaultValue": 2},
    {"Name": "rate", "Type": "Float", "DefaultValue": 1},
    {"Name": "on", "Type": "Boolean", "DefaultValue": False},
    {"Name": "kind", "Type": "String", "DefaultValue": "a", "EnumValues": ["a", "b"]},
]


def test_parameters_have_the_types_of_the_definition() -> None:
    given = {"train_epochs": "3", "on": "true", "kind": "b", "bucket": "mine"}
    values, told = parameter_values(DEFINITIONS, given, own_store=True)
    assert values == {
        "role": "arn:aws:iam::123456789012:role/rehearsal",
        "bucket": "mine",
        "train_epochs": 3,
        "rate": 1.0,
        "on": True,
        "kind": "b",
    }
    assert isinstance(values["rate"], float)
    assert len(told) == 1


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"train_epochs": 1.5}, "train_epochs: not of type Integer, given 1.5"),
        ({"train_epochs": True}, "not of type Integer"),
        ({"on": 1}, "not of type Boolean"),
        ({"kind": "c"}, "given 'c', allowed: a, b"),
        ({"epochs": 1}, "did you mean 'train_epochs'"),
        ({}, "parameters without a value: bucket (String)"),
    ],
)
def test_parameters_that_are_wrong(given: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError) as error:
        parameter_values(DEFINITIONS, given, own_store=False)
    assert told in str(error.value)


@pytest.mark.parametrize(
    ("split", "several", "most", "bodies"),
    [
        ("None", True, 0, [b"1\n22\r\n\n333"]),
        ("Line", False, 0, [b"1", b"22", b"333"]),
        ("Line", True, 0, [b"1\n22\n333"]),
        ("Line", True, 5, [b"1\n22", b"333"]),
        ("Line", False, 3, [b"1", b"22", b"333"]),
    ],
)
def test_objects_become_requests(split: str, several: bool, most: int, bodies: list[bytes]) -> None:
    assert list(requests_of(b"1\n22\r\n\n333", split, several, most, "x")) == bodies


@pytest.mark.parametrize("given", [{"hold": True}, {"interrupt": {"train": 1}}])
def test_settings_of_the_other_target_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=rf"rehearse\.{next(iter(given))}: not a setting of a rehearsal for Kubeflow"):
        refuse_settings(Rehearse(**given), ("interrupt", "hold"), "Kubeflow")
    refuse_settings(Rehearse(parallel=3), ("interrupt", "hold"), "Kubeflow")


def test_images_that_do_not_run_as_root_are_told() -> None:
    users = {"a": "", "b": "0", "c": "root:root", "d:1": "1000", "millrace/train:1": "1000", "e.com/millrace/data": "7"}
    (told,) = user_notes(users, users.__getitem__)
    assert told.startswith("d:1 runs as user 1000: ")
