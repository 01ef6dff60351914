"""What a run costs."""

from __future__ import annotations

import json
from datetime import date
from typing import Any

import pytest

from millrace.compilers.sagemaker.cost import bill
from millrace.compilers.sagemaker.machines import Machine, Machines
from millrace.errors import ConfigError
from millrace.targets.runs import Cost

_MACHINES = Machines(
    region="us-east-1",
    currency="USD",
    read=date(2026, 1, 1),
    source="a test",
    storage=0,
    spot=(0.1, 0.5),
    machines={"ml.a.large": Machine(2, 8, 0, 6.0, "ptbe"), "ml.b.large": Machine(2, 8, 0, 60.0, "ptbe")},
)


def _processing(name: str = "manifest", machine: str = "ml.a.large", hosts: object = 1, seconds: int = 3600) -> Any:
    return {
        "Name": name,
        "Type": "Processing",
        "Arguments": {
            "ProcessingResources": {
                "ClusterConfig": {"InstanceType": machine, "InstanceCount": hosts, "VolumeSizeInGB": 30}
            },
            "StoppingCondition": {"MaxRuntimeInSeconds": seconds},
        },
    }


def _training(**more: Any) -> Any:
    resources = {"InstanceType": "ml.b.large", "InstanceCount": 2, "VolumeSizeInGB": 30}
    return {"Name": "train", "Type": "Training", "Arguments": {"ResourceConfig": resources, **more}}


def _text(*steps: Any) -> str:
    return json.dumps({"Version": "2020-12-01", "Steps": steps})


def test_a_range_from_the_default_durations() -> None:
    found = bill(_text(_processing(hosts=3)), _MACHINES, Cost(default_minutes=(10, 30)))
    assert found.total == pytest.approx((3.0, 9.0))


def test_a_job_is_never_reckoned_longer_than_its_limit() -> None:
    found = bill(_text(_processing(seconds=900)), _MACHINES, Cost(default_minutes=(10, 60)))
    assert found.items[0].minutes == (10, 15)


def test_a_duration_that_was_measured() -> None:
    found = bill(_text(_training(), _processing("make_it".replace("_", "-"))), _MACHINES, Cost(minutes={"make_it": 20}))
    assert {item.step: item.minutes for item in found.items} == {"train": (5, 60), "make-it": (20, 20)}


def test_spot_is_cheaper() -> None:
    cost = Cost(minutes={"train": 60})
    whole = bill(_text(_training()), _MACHINES, cost).total
    spot = bill(_text(_training(EnableManagedSpotTraining=True)), _MACHINES, cost).total
    assert whole == pytest.approx((120, 120))
    assert spot == pytest.approx((12, 60))


def test_each_job_of_a_search_counts() -> None:
    definition = _training()["Arguments"]
    step = {
        "Name": "tune",
        "Type": "Tuning",
        "Arguments": {
            "HyperParameterTuningJobConfig": {"ResourceLimits": {"MaxNumberOfTrainingJobs": 4}},
            "TrainingJobDefinition": definition,
        },
    }
    found = bill(_text(step), _MACHINES, Cost(minutes={"tune": 30}))
    assert found.total == pytest.approx((240, 240))
    assert found.items[0].note == "4 jobs at the most"


def test_volumes_cost_something() -> None:
    machines = _MACHINES.model_copy(update={"storage": 730.0})
    assert bill(_text(_processing()), machines, Cost(minutes={"manifest": 60})).total == pytest.approx((36, 36))


def test_machines_of_several_types() -> None:
    groups = [{"InstanceType": name, "InstanceCount": 1, "InstanceGroupName": name} for name in _MACHINES.machines]
    step = _training(ResourceConfig={"InstanceGroups": groups, "VolumeSizeInGB": 1})
    assert bill(_text(step), _MACHINES, Cost(minutes={"train": 60})).total == pytest.approx((66, 66))


def test_steps_under_a_condition_count() -> None:
    step = {"Name": "gate", "Type": "Condition", "Arguments": {"Conditions": [], "IfSteps": [_processing()]}}
    assert [item.step for item in bill(_text(step), _MACHINES, Cost()).items] == ["manifest"]


def test_an_endpoint_is_told_by_the_day() -> None:
    variants = [{"InstanceType": "ml.a.large", "InitialInstanceCount": 2}]
    step = {"Name": "deploy-config", "Type": "EndpointConfig", "Arguments": {"ProductionVariants": variants}}
    found = bill(_text(step), _MACHINES, Cost())
    assert found.items == ()
    assert found.endpoints[0].price == (288, 288)


def test_machines_without_a_price_are_named() -> None:
    found = bill(_text(_processing(machine="ml.z.large")), _MACHINES, Cost())
    assert found.unknown == (("manifest", "ml.z.large"),)
    assert found.total == (0, 0)


@pytest.mark.parametrize(
    ("minutes", "message"),
    [
        ({"manifets": 5}, r"cost\.minutes.*'manifets'.*did you mean 'manifest'"),
        ({"manifest": 61}, r"cost\.minutes\.manifest: 61 minutes.*ended after 60"),
    ],
)
def test_mistakes(minutes: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        bill(_text(_processing()), _MACHINES, Cost(minutes=minutes))
