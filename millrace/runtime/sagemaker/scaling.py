"""How many machines an endpoint has: target tracking and schedules of Application Auto Scaling.

What is there already is looked at first, so that nothing is changed twice. Policies and scheduled actions of ours are
called `millrace-...`; others are left alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from millrace.errors import UnsupportedError
from millrace.targets.sagemaker import CustomMetric, EndpointWork, ScheduledCapacity

__all__ = ["Wanted", "described_scaling", "scale", "unscale", "wanted_scaling"]

_NAMESPACE = "sagemaker"
_DIMENSION = "sagemaker:variant:DesiredInstanceCount"
_OURS = "millrace-"
_POLICY = f"{_OURS}tracking"
_PERCENT = 70  # what is held where nothing was asked for
_PREDEFINED = {
    "rps": "SageMakerVariantInvocationsPerInstance",
    "concurrency": "SageMakerVariantConcurrentRequestsPerModelHighResolution",
}
_MACHINE_METRICS = {"cpu": "CPUUtilization", "memory": "MemoryUtilization"}
_SCHEDULE = re.compile(r"(cron|rate|at)\([^()]+\)")


class Wanted(NamedTuple):
    """Limits of the number of machines, and what moves it."""

    minimum: int
    maximum: int
    tracking: dict[str, Any] | None
    """The configuration of the target tracking policy; None leaves it to schedules."""
    scheduled: tuple[ScheduledCapacity, ...]


def wanted_scaling(
    minimum: int, maximum: int, metric: str | None, target: int | None, work: EndpointWork
) -> Wanted | None:
    """What is asked for, in the words of Application Auto Scaling; None for a fixed number of machines.

    Args:
        minimum: Machines at the least.
        maximum: Machines at the most.
        metric: concurrency, rps, cpu or memory; None is cpu.
        target: What is held: requests at a time, requests a second to one machine, percent.
        work: The endpoint, its machines and the target's settings.

    Raises:
        UnsupportedError: Naming the parameter.
    """
    if minimum < 1:
        raise UnsupportedError(
            "scaling.min_replicas=0: an endpoint of SageMaker keeps at least 1 machine: use 1, or delete it when it is "
            "not needed (millrace endpoint endpoint.action=delete)"
        )
    _check_schedules(work.scheduled)
    grows = maximum > minimum
    if not grows and work.custom_metric is not None:
        raise UnsupportedError(
            f"scaling.max_replicas={maximum}: target.serving.custom_metric has nothing to do with {minimum} to "
            f"{maximum} machines: raise it"
        )
    if not grows and not work.scheduled:
        return None
    tracking = _tracking(metric, target, work) if grows else None
    return Wanted(minimum, maximum, tracking, work.scheduled)


def _tracking(metric: str | None, target: int | None, work: EndpointWork) -> dict[str, Any]:
    times = {"ScaleInCooldown": work.cooldowns.back, "ScaleOutCooldown": work.cooldowns.out}
    if work.custom_metric is not None:
        return {
            "TargetValue": work.custom_metric.target,
            "CustomizedMetricSpecification": _custom(work, work.custom_metric),
            **times,
        }
    if metric in _PREDEFINED:
        if target is None:
            raise UnsupportedError(f"scaling.metric={metric}: SageMaker needs the number that is held: scaling.target")
        value = target * 60.0 if metric == "rps" else float(target)  # the metric counts a minute's requests
        return {
            "TargetValue": value,
            "PredefinedMetricSpecification": {"PredefinedMetricType": _PREDEFINED[metric]},
            **times,
        }
    percent = _PERCENT if target is None else target
    chosen = metric or "cpu"
    if chosen == "cpu" and work.cpus is None:
        raise UnsupportedError(
            f"scaling.metric={chosen}: SageMaker adds up the load of all processors, and how many this machine type "
            "has is not known here: scale by rps, concurrency or memory, or choose another target.serving.instance"
        )
    value = float(percent * (work.cpus or 1)) if chosen == "cpu" else float(percent)
    machine = CustomMetric(name=_MACHINE_METRICS[chosen], namespace="/aws/sagemaker/Endpoints", target=value)
    specification = _custom(work, machine)
    return {"TargetValue": value, "CustomizedMetricSpecification": specification, **times}


def _custom(work: EndpointWork, metric: CustomMetric) -> dict[str, Any]:
    dimensions = metric.dimensions or {"EndpointName": work.name, "VariantName": work.variant}
    return {
        "MetricName": metric.name,
        "Namespace": metric.namespace,
        "Dimensions": [{"Name": name, "Value": value} for name, value in sorted(dimensions.items())],
        "Statistic": metric.statistic,
    }


def _check_schedules(scheduled: tuple[ScheduledCapacity, ...]) -> None:
    names = [one.name for one in scheduled]
    for one in scheduled:
        where = f"target.serving.scheduled[{one.name}]"
        if names.count(one.name) > 1:
            raise UnsupportedError(f"{where}: there are several of that name: rename one")
        if not _SCHEDULE.fullmatch(one.schedule):
            raise UnsupportedError(
                f"{where}.schedule={one.schedule!r}: allowed are cron(0 8 * * ? *), rate(1 day) and "
                "at(2027-01-31T08:00:00)"
            )
        if one.min_replicas is None and one.max_replicas is None:
            raise UnsupportedError(f"{where}: it changes nothing: give min_replicas, max_replicas or both")
        if one.min_replicas == 0:
            raise UnsupportedError(f"{where}.min_replicas=0: an endpoint of SageMaker keeps at least 1 machine")
        if one.min_replicas is not None and one.max_replicas is not None and one.min_replicas > one.max_replicas:
            raise UnsupportedError(
                f"{where}.min_replicas={one.min_replicas} is more than max_replicas={one.max_replicas}"
            )


def scale(client: Any, endpoint: str, variant: str, wanted: Wanted) -> list[str]:
    """Bring the scaling of a variant to what is wanted.

    Args:
        client: Of `application-autoscaling`.
        endpoint: Name of the endpoint.
        variant: Name of the variant.
        wanted: Limits, policy and schedules.

    Returns:
        What was changed; nothing when all was so already.
    """
    place = _place(endpoint, variant)
    there = _targets(client, place)
    done = []
    limits = {"MinCapacity": wanted.minimum, "MaxCapacity": wanted.maximum}
    moved = bool(wanted.scheduled) and bool(there)  # a schedule may have set other limits since
    known = _known_limits(there, wanted)
    if not there or (not moved and not limits.items() <= there.items()) or (moved and not known):
        client.register_scalable_target(**place, **limits)
        done.append(f"{wanted.minimum} to {wanted.maximum} machines")
    done += _put_policy(client, place, wanted)
    done += _put_schedules(client, place, wanted)
    return done


def _known_limits(there: Mapping[str, Any], wanted: Wanted) -> bool:
    """Whether the present limits are the wanted ones, or those that one of the schedules leaves."""
    lows = {wanted.minimum, *(one.min_replicas for one in wanted.scheduled if one.min_replicas is not None)}
    highs = {wanted.maximum, *(one.max_replicas for one in wanted.scheduled if one.max_replicas is not None)}
    return there.get("MinCapacity") in lows and there.get("MaxCapacity") in highs


def _put_policy(client: Any, place: Mapping[str, str], wanted: Wanted) -> list[str]:
    ours = {one["PolicyName"]: one for one in _policies(client, place) if one["PolicyName"].startswith(_OURS)}
    if wanted.tracking is None:
        for name in ours:
            client.delete_scaling_policy(PolicyName=name, **place)
        return [f"policy {name} removed" for name in ours]
    if _POLICY in ours and ours[_POLICY].get("TargetTrackingScalingPolicyConfiguration") == wanted.tracking:
        return []
    client.put_scaling_policy(
        PolicyName=_POLICY,
        PolicyType="TargetTrackingScaling",
        TargetTrackingScalingPolicyConfiguration=wanted.tracking,
        **place,
    )
    return [f"policy {_POLICY} holds {wanted.tracking['TargetValue']:g} of {_metric(wanted.tracking)}"]


def _put_schedules(client: Any, place: Mapping[str, str], wanted: Wanted) -> list[str]:
    done = []
    ours = {one["ScheduledActionName"]: one for one in _schedules(client, place)}
    for one in wanted.scheduled:
        capacity = {
            key: value
            for key, value in (("MinCapacity", one.min_replicas), ("MaxCapacity", one.max_replicas))
            if value is not None
        }
        action = {"Schedule": one.schedule, "Timezone": one.timezone, "ScalableTargetAction": capacity}
        there = ours.pop(f"{_OURS}{one.name}", {})
        if action.items() <= {"Timezone": "UTC", **there}.items():
            continue
        client.put_scheduled_action(ScheduledActionName=f"{_OURS}{one.name}", **action, **place)
        done.append(f"schedule {one.name}: {one.schedule} {one.timezone}")
    for name in ours:
        if name.startswith(_OURS):
            client.delete_scheduled_action(ScheduledActionName=name, **place)
            done.append(f"schedule {name.removeprefix(_OURS)} removed")
    return done


def unscale(client: Any, endpoint: str, variant: str) -> list[str]:
    """End the scaling of a variant, where it was ours or where nothing else is left of it."""
    place = _place(endpoint, variant)
    if not _targets(client, place):
        return []
    policies = _policies(client, place)
    schedules = _schedules(client, place)
    done = _put_policy(client, place, Wanted(1, 1, None, ()))
    done += _put_schedules(client, place, Wanted(1, 1, None, ()))
    others = [one for one in (*(item["PolicyName"] for item in policies), *(_name(item) for item in schedules))
              if not one.startswith(_OURS)]  # fmt: skip
    if not others:
        client.deregister_scalable_target(**place)
        done.append("fixed number of machines")
    return done


def described_scaling(client: Any, endpoint: str, variant: str) -> list[str]:
    """How a variant is scaled, a line each: limits, policies, schedules; empty for a fixed number."""
    place = _place(endpoint, variant)
    there = _targets(client, place)
    if not there:
        return []
    lines = [f"{there['MinCapacity']} to {there['MaxCapacity']} machines"]
    for policy in _policies(client, place):
        held = policy.get("TargetTrackingScalingPolicyConfiguration")
        lines.append(f"{policy['PolicyName']}: {held['TargetValue']:g} of {_metric(held)}" if held else _policy(policy))
    for one in _schedules(client, place):
        action = one.get("ScalableTargetAction", {})
        limits = f"{action.get('MinCapacity', '-')} to {action.get('MaxCapacity', '-')} machines"
        lines.append(f"{_name(one)}: {limits} {one['Schedule']} {one.get('Timezone', 'UTC')}")
    return lines


def _place(endpoint: str, variant: str) -> dict[str, str]:
    return {
        "ServiceNamespace": _NAMESPACE,
        "ResourceId": f"endpoint/{endpoint}/variant/{variant}",
        "ScalableDimension": _DIMENSION,
    }


def _targets(client: Any, place: Mapping[str, str]) -> dict[str, Any]:
    found: list[dict[str, Any]] = client.describe_scalable_targets(
        ServiceNamespace=_NAMESPACE, ResourceIds=[place["ResourceId"]], ScalableDimension=_DIMENSION
    )["ScalableTargets"]
    return found[0] if found else {}


def _policies(client: Any, place: Mapping[str, str]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = client.describe_scaling_policies(**place)["ScalingPolicies"]
    return found


def _schedules(client: Any, place: Mapping[str, str]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = client.describe_scheduled_actions(**place)["ScheduledActions"]
    return found


def _name(action: Mapping[str, Any]) -> str:
    return str(action["ScheduledActionName"])


def _policy(policy: Mapping[str, Any]) -> str:
    return f"{policy['PolicyName']}: {policy['PolicyType']}"


def _metric(tracking: Mapping[str, Any]) -> str:
    predefined = tracking.get("PredefinedMetricSpecification", {}).get("PredefinedMetricType")
    return str(predefined or tracking.get("CustomizedMetricSpecification", {}).get("MetricName", "a metric"))
