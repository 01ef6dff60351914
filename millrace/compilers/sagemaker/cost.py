"""What one execution of a compiled definition may cost: machines, their number, and how long they run."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from millrace.compilers.sagemaker.machines import Machine, Machines
from millrace.compilers.sagemaker.walk import every_step
from millrace.errors import ConfigError, did_you_mean
from millrace.targets.runs import Cost

__all__ = ["Bill", "Item", "bill"]

_HOURS_A_MONTH = 730


class Item(NamedTuple):
    """One step's machines."""

    step: str
    machine: str
    hosts: int
    minutes: tuple[float, float]
    """Of each machine: the shortest and the longest time that is reckoned with."""
    price: tuple[float, float]
    note: str = ""


class Bill(NamedTuple):
    """A price range."""

    items: tuple[Item, ...]
    endpoints: tuple[Item, ...]
    """Machines that go on after the run: their price is that of a day."""
    unknown: tuple[tuple[str, str], ...]
    """Steps, each with a machine type that has no price in the table."""

    @property
    def total(self) -> tuple[float, float]:
        """Of one execution, without endpoints."""
        return sum(item.price[0] for item in self.items), sum(item.price[1] for item in self.items)


class _Use(NamedTuple):
    """Machines of a step."""

    machine: str
    hosts: int
    volume_gib: float
    jobs: int = 1
    spot: bool = False
    limit_minutes: float = 24 * 60


def bill(text: str, machines: Machines, cost: Cost) -> Bill:
    """What a run of a definition costs.

    Args:
        text: The definition.
        machines: Machine types and prices.
        cost: How long steps take.

    Raises:
        ConfigError: When a duration is given for a step that is not there, or one that takes longer than its limit.
    """
    steps = list(every_step(json.loads(text)["Steps"]))
    uses = {step["Name"]: list(_uses(step)) for step in steps}
    working = [name for name, found in uses.items() if found]
    minutes = {name.replace("_", "-"): value for name, value in cost.minutes.items()}
    for name in minutes:
        if name not in working:
            raise ConfigError(f"cost.minutes: no step {name!r} runs a job: {did_you_mean(name, working)}")
    items, unknown = [], []
    for name in working:
        for use in uses[name]:
            machine = machines.machines.get(use.machine)
            if machine is None:
                unknown.append((name, use.machine))
                continue
            items.append(_item(name, use, machine, machines, _minutes(name, use, minutes, cost)))
    endpoints = []
    for name, use in _endpoints(steps):
        machine = machines.machines.get(use.machine)
        if machine is None:
            unknown.append((name, use.machine))
            continue
        price = machine.price * use.hosts * 24
        endpoints.append(Item(name, use.machine, use.hosts, (24 * 60, 24 * 60), (price, price)))
    return Bill(tuple(items), tuple(endpoints), tuple(sorted(set(unknown))))


def _minutes(name: str, use: _Use, given: Mapping[str, float], cost: Cost) -> tuple[float, float]:
    """The shortest and longest time of one job of a step."""
    if name in given:
        if given[name] > use.limit_minutes:
            raise ConfigError(
                f"cost.minutes.{name}: {given[name]:g} minutes, but the job is ended after {use.limit_minutes:g}"
            )
        return given[name], given[name]
    low, high = cost.default_minutes
    return min(low, use.limit_minutes), min(high, use.limit_minutes)


def _item(name: str, use: _Use, machine: Machine, machines: Machines, minutes: tuple[float, float]) -> Item:
    hourly = machine.price + machines.storage * use.volume_gib / _HOURS_A_MONTH
    low, high = (hourly * use.hosts * use.jobs * each / 60 for each in minutes)
    notes = []
    if use.jobs > 1:
        notes.append(f"{use.jobs} jobs at the most")
    if use.spot:
        low, high = low * machines.spot[0], high * machines.spot[1]
        notes.append("spot")
    return Item(name, use.machine, use.hosts, minutes, (low, high), ", ".join(notes))


def _uses(step: Mapping[str, Any]) -> Iterator[_Use]:
    """The machines of a step that runs jobs."""
    arguments, kind = step["Arguments"], step["Type"]
    if kind == "Processing":
        yield from _cluster(arguments["ProcessingResources"]["ClusterConfig"], arguments, jobs=1)
    elif kind == "Training":
        yield from _cluster(arguments["ResourceConfig"], arguments, jobs=1)
    elif kind == "Tuning":
        limits = arguments["HyperParameterTuningJobConfig"]["ResourceLimits"]
        definition = arguments.get("TrainingJobDefinition", {})
        jobs = limits.get("MaxNumberOfTrainingJobs", 1)
        resources = definition.get("ResourceConfig") or definition.get("HyperParameterTuningResourceConfig", {})
        yield from _cluster(resources, definition, jobs=_number(jobs))
    elif kind == "Transform":
        resources = arguments["TransformResources"]
        yield _Use(str(resources["InstanceType"]), _number(resources["InstanceCount"]), 0)


def _cluster(resources: Mapping[str, Any], arguments: Mapping[str, Any], *, jobs: int) -> Iterator[_Use]:
    limit = arguments.get("StoppingCondition", {}).get("MaxRuntimeInSeconds", 24 * 3600)
    groups: Iterable[Mapping[str, Any]] = resources.get("InstanceGroups") or [resources]
    for group in groups:
        yield _Use(
            machine=str(group.get("InstanceType")),
            hosts=_number(group.get("InstanceCount", 1)),
            volume_gib=_number(resources.get("VolumeSizeInGB", 0)),
            jobs=jobs,
            spot=bool(arguments.get("EnableManagedSpotTraining")),
            limit_minutes=_number(limit) / 60,
        )


def _endpoints(steps: Iterable[Mapping[str, Any]]) -> Iterator[tuple[str, _Use]]:
    for step in steps:
        if step["Type"] == "EndpointConfig":
            for variant in step["Arguments"]["ProductionVariants"]:
                count = _number(variant.get("InitialInstanceCount", 1))
                yield step["Name"], _Use(str(variant.get("InstanceType")), count, 0)


def _number(value: Any) -> int:
    """A number; 1 where only a run knows it."""
    return value if isinstance(value, int) else 1
