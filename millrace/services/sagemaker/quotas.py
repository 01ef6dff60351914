"""Quotas of an account for the machines that a definition asks for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from millrace.services.finding import Finding
from millrace.services.sagemaker.document import Document
from millrace.services.sagemaker.failures import ServiceError
from millrace.services.sagemaker.session import Session

__all__ = ["examine_quotas", "machines_of"]


def examine_quotas(opened: Session, document: Document) -> Iterator[Finding]:
    """Compare what each step asks for with what the account may have at one time."""
    wanted = machines_of(document)
    if not wanted:
        return
    try:
        listed = {
            str(item["QuotaName"]): item
            for item in opened.pages("service-quotas", "list_service_quotas", "Quotas", ServiceCode="sagemaker")
        }
    except ServiceError as error:
        yield Finding(None, f"quotas: not looked at: {error}")
        return
    for name, count in sorted(wanted.items()):
        if name not in listed:
            yield Finding(None, f"quota {name}: Service Quotas does not list it; asked for: {count}")
            continue
        value = float(listed[name]["Value"])
        mend = (
            "aws service-quotas request-service-quota-increase --service-code sagemaker "
            f"--quota-code {listed[name].get('QuotaCode', 'CODE')} --desired-value {count} --region {opened.region}"
        )
        yield Finding(value >= count, f"quota {name}: {value:g}, the largest step asks for {count}", mend)


def machines_of(document: Document) -> dict[str, int]:
    """Machines that the largest step of each kind has at one time, by the names of their quotas."""
    found: dict[str, int] = {}
    for step in document.steps.values():
        for instance, count, use in _machines(str(step["Type"]), step.get("Arguments") or {}):
            if isinstance(instance, str) and isinstance(count, int):
                name = f"{instance} for {use} usage"
                found[name] = max(found.get(name, 0), count)
    return found


def _machines(kind: str, arguments: Mapping[str, Any]) -> Iterator[tuple[Any, Any, str]]:
    if kind == "Processing":
        cluster = (arguments.get("ProcessingResources") or {}).get("ClusterConfig") or {}
        yield cluster.get("InstanceType"), cluster.get("InstanceCount"), "processing job"
    elif kind == "Training":
        yield from _training(arguments, 1)
    elif kind == "Tuning":
        limits = (arguments.get("HyperParameterTuningJobConfig") or {}).get("ResourceLimits") or {}
        parallel = limits.get("MaxParallelTrainingJobs", 1)
        one = arguments.get("TrainingJobDefinition")
        for definition in [one] if one else arguments.get("TrainingJobDefinitions") or []:
            yield from _training(definition, parallel if isinstance(parallel, int) else 1)
    elif kind == "Transform":
        resources = arguments.get("TransformResources") or {}
        yield resources.get("InstanceType"), resources.get("InstanceCount"), "transform job"
    elif kind == "EndpointConfig":
        for variant in arguments.get("ProductionVariants") or []:
            yield variant.get("InstanceType"), variant.get("InitialInstanceCount"), "endpoint"


def _training(arguments: Mapping[str, Any], times: int) -> Iterator[tuple[Any, Any, str]]:
    resources = arguments.get("ResourceConfig") or {}
    spot = arguments.get("EnableManagedSpotTraining") is True
    use = "spot training job" if spot else "training job"
    for group in resources.get("InstanceGroups") or [resources]:
        count = group.get("InstanceCount")
        yield group.get("InstanceType"), count * times if isinstance(count, int) else None, use
        if resources.get("KeepAlivePeriodInSeconds"):
            yield group.get("InstanceType"), count * times if isinstance(count, int) else None, "training warm pool"
