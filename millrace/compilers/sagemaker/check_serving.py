"""Rules across fields of models, endpoints and batch transforms."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from millrace.compilers.findings import Finding
from millrace.compilers.sagemaker.check_jobs import once
from millrace.compilers.sagemaker.limits import (
    CANARY_PERCENT,
    JOINED_PAYLOAD_MIB,
    LINEAR_PERCENT,
    PAYLOAD_MIB,
    ROLLING_PERCENT,
)
from millrace.compilers.sagemaker.view import StepView, View, error, mapping, number, pick, quoted, sequence, warning

__all__ = ["configurations", "endpoints", "models", "names", "packages", "transforms"]

_NO_SOURCE = "the model has a ModelDataSource where a ModelDataUrl, the URI of a model.tar.gz, is needed"
_POLICY = ("DeploymentConfig", "BlueGreenUpdatePolicy")


def models(view: View) -> Iterator[Finding]:
    """A model is one container, or a chain of them."""
    for step in view.of_kind("Model"):
        given = step.arguments
        if "PrimaryContainer" in given and "Containers" in given:
            yield error(step.at("Containers"), "either PrimaryContainer or Containers is needed, both are given")
        elif "PrimaryContainer" not in given and "Containers" not in given:
            yield error(step.at("PrimaryContainer"), "a value is required, or Containers")
        chain = sequence(given.get("Containers"))
        containers = [(step.at("PrimaryContainer"), given.get("PrimaryContainer"))]
        containers += [(f"{step.at('Containers')}[{index}]", one) for index, one in enumerate(chain)]
        for path, container in containers:
            yield from _container(mapping(container), path)
        yield from once(chain, "ContainerHostname", step.at("Containers"))


def _container(given: Mapping[str, Any], path: str) -> Iterator[Finding]:
    if given and "Image" not in given and "ModelPackageName" not in given:
        yield error(f"{path}.Image", "a value is required, or ModelPackageName")
    if "ModelDataUrl" in given and "ModelDataSource" in given:
        yield error(f"{path}.ModelDataUrl", "ModelDataSource says where the model is: leave one of both out")


def packages(view: View) -> Iterator[Finding]:
    """A version in the registry belongs to a group, and says how it is served."""
    for step in view.of_kind("RegisterModel"):
        given = step.arguments
        if "ModelPackageName" in given and "ModelPackageGroupName" in given:
            told = "versions have a group, other packages a name: leave one of both out"
            yield error(step.at("ModelPackageName"), told)
        elif "ModelPackageName" not in given and "ModelPackageGroupName" not in given:
            yield error(step.at("ModelPackageGroupName"), "a value is required")
        if not any(name in given for name in ("InferenceSpecification", "SourceAlgorithmSpecification", "SourceUri")):
            yield error(step.at("InferenceSpecification"), "a value is required: who serves the model")
        containers = sequence(pick(given, "InferenceSpecification", "Containers"))
        for index, container in enumerate(containers):
            if "ModelDataUrl" in mapping(container) and "ModelDataSource" in mapping(container):
                path = f"{step.at('InferenceSpecification', 'Containers')}[{index}].ModelDataUrl"
                yield error(path, "ModelDataSource says where the model is: leave one of both out")


def configurations(view: View) -> Iterator[Finding]:
    """Variants of an endpoint have names, machines and requests."""
    for step in view.of_kind("EndpointConfig"):
        variants = sequence(step.arguments.get("ProductionVariants"))
        shadows = sequence(step.arguments.get("ShadowProductionVariants"))
        path = step.at("ProductionVariants")
        yield from once([*variants, *shadows], "VariantName", path)
        weights = [mapping(one).get("InitialVariantWeight", 1) for one in variants]
        if variants and all(weight == 0 for weight in weights):
            yield error(
                path, "no variant has a weight of more than 0, so none gets requests: raise InitialVariantWeight"
            )
        for index, one in enumerate(variants):
            yield from _variant(mapping(one), f"{path}[{index}]")
        for index, one in enumerate(variants):
            if "ServerlessConfig" in mapping(one) and _has_source(view, mapping(one).get("ModelName")):
                yield error(f"{path}[{index}].ModelName", f"{_NO_SOURCE}: a serverless endpoint takes no such model")
        if shadows and len(variants) != 1:
            told = f"beside shadow variants there is one production variant, given {len(variants)}"
            yield error(step.at("ShadowProductionVariants"), told)


def _variant(given: Mapping[str, Any], path: str) -> Iterator[Finding]:
    if not given:
        return
    if "ServerlessConfig" in given:
        for name in ("InstanceType", "InitialInstanceCount"):
            if name in given:
                yield error(f"{path}.{name}", "a serverless variant has no machines: leave it out")
    elif "InstancePools" not in given:
        for name in ("InstanceType", "InitialInstanceCount"):
            if name not in given and (name == "InstanceType" or "ModelName" in given):
                yield error(f"{path}.{name}", "a value is required, unless there is a ServerlessConfig")


def endpoints(view: View) -> Iterator[Finding]:
    """How an endpoint goes from one configuration to the next."""
    for step in view.of_kind("Endpoint"):
        config = mapping(step.arguments.get("DeploymentConfig"))
        if "BlueGreenUpdatePolicy" in config and "RollingUpdatePolicy" in config:
            told = "either BlueGreenUpdatePolicy or RollingUpdatePolicy is needed, both are given"
            yield error(step.at("DeploymentConfig"), told)
        blue = mapping(config.get("BlueGreenUpdatePolicy"))
        routing, path = (
            mapping(blue.get("TrafficRoutingConfiguration")),
            step.at(*_POLICY, "TrafficRoutingConfiguration"),
        )
        yield from _routing(routing, path)
        yield from _half(view, step.arguments.get("EndpointConfigName"), routing, path)
        waits = [number(blue.get("TerminationWaitInSeconds")) or 0, number(routing.get("WaitIntervalInSeconds")) or 0]
        longest = number(blue.get("MaximumExecutionTimeoutInSeconds"))
        if longest is not None and longest <= sum(waits):
            told = f"{longest:g} seconds are not more than the waits together, {sum(waits):g}: raise it"
            yield error(step.at(*_POLICY, "MaximumExecutionTimeoutInSeconds"), told)
        rolling = mapping(config.get("RollingUpdatePolicy"))
        where = step.at("DeploymentConfig", "RollingUpdatePolicy", "MaximumBatchSize")
        yield from _percent(rolling.get("MaximumBatchSize"), ROLLING_PERCENT, where)
        alarms = sequence(pick(config, "AutoRollbackConfiguration", "Alarms"))
        yield from once(alarms, "AlarmName", step.at("DeploymentConfig", "AutoRollbackConfiguration", "Alarms"))


def _routing(given: Mapping[str, Any], path: str) -> Iterator[Finding]:
    kind = given.get("Type")
    for name, wanted, limits in (
        ("CanarySize", "CANARY", CANARY_PERCENT),
        ("LinearStepSize", "LINEAR", LINEAR_PERCENT),
    ):
        if kind == wanted and name not in given:
            yield error(f"{path}.{name}", f"a value is required with Type {wanted}")
        elif kind in ("ALL_AT_ONCE", "CANARY", "LINEAR") and kind != wanted and name in given:
            yield error(f"{path}.{name}", f"only Type {wanted} has this, given {kind}: leave it out")
        yield from _percent(given.get(name), limits, f"{path}.{name}")


def _half(view: View, config: Any, routing: Mapping[str, Any], path: str) -> Iterator[Finding]:
    """The first step is at most half of each variant's machines, as far as they are known."""
    name = {"CANARY": "CanarySize", "LINEAR": "LinearStepSize"}.get(str(routing.get("Type")), "")
    size = mapping(routing.get(name))
    step = _made(view, "EndpointConfig", config)
    value, counted = number(size.get("Value")), size.get("Type") == "INSTANCE_COUNT"
    for one in sequence(step.arguments.get("ProductionVariants")) if step is not None and value is not None else ():
        count = number(mapping(one).get("InitialInstanceCount"))
        if count is not None and value is not None and 2 * (value if counted else 1) > count:
            told = f"more than half of variant {quoted(mapping(one).get('VariantName'))}, which begins with {count:g}"
            yield warning(f"{path}.{name}", f"{told}: SageMaker takes at most half, so raise InitialInstanceCount")


def _made(view: View, kind: str, name: Any) -> StepView | None:
    """The step that makes what a request names: by a property of the step, or by the same name."""
    reference = name.get("Get") if isinstance(name, Mapping) else None
    for step in view.of_kind(kind):
        field = f"{kind}Name"
        if name is not None and (name == step.arguments.get(field) or reference == f"Steps.{step.name}.{field}"):
            return step
    return None


def _has_source(view: View, model: Any) -> bool:
    """Whether a model is made by a step, with a ModelDataSource."""
    step = _made(view, "Model", model)
    if step is None:
        return False
    containers = [step.arguments.get("PrimaryContainer"), *sequence(step.arguments.get("Containers"))]
    return any("ModelDataSource" in mapping(one) and "ModelDataUrl" not in mapping(one) for one in containers)


def names(view: View) -> Iterator[Finding]:
    """Steps that may both run make endpoints and configurations of different names."""
    for kind in ("EndpointConfig", "Endpoint"):
        field, seen = f"{kind}Name", list[StepView]()
        for step in view.of_kind(kind):
            given = step.arguments.get(field)
            same = [one for one in seen if one.arguments.get(field) == given and not _apart(one, step)]
            if given is not None and same:
                shown = repr(given) if isinstance(given, str) else "the same name"
                told = f"step {same[0].name!r} gives {shown}, too: give each a name of its own"
                yield error(step.at(field), told)
            seen.append(step)


def _apart(one: StepView, other: StepView) -> bool:
    """Whether two steps stand in different branches of one condition."""
    branches = dict(one.inside)
    return any(branches.get(name, branch) != branch for name, branch in other.inside)


def _percent(size: Any, limits: tuple[int, int], path: str) -> Iterator[Finding]:
    value = number(mapping(size).get("Value"))
    if mapping(size).get("Type") == "CAPACITY_PERCENT" and value is not None and not limits[0] <= value <= limits[1]:
        yield error(f"{path}.Value", f"{value} percent is out of range: {limits[0]} to {limits[1]}")


def transforms(view: View) -> Iterator[Finding]:
    """Batch transforms: requests that a container can hold."""
    for step in view.of_kind("Transform"):
        if _has_source(view, step.arguments.get("ModelName")):
            yield error(step.at("ModelName"), f"{_NO_SOURCE}: batch transform takes no such model")
        largest = number(step.arguments.get("MaxPayloadInMB"))
        several = number(step.arguments.get("MaxConcurrentTransforms"))
        if largest is not None and largest > PAYLOAD_MIB:
            yield error(step.at("MaxPayloadInMB"), f"{largest} is out of range: 0 to {PAYLOAD_MIB}")
        elif largest and several and largest * several > JOINED_PAYLOAD_MIB:
            told = f"{several} requests of {largest} MiB at a time are more than {JOINED_PAYLOAD_MIB} MiB together"
            yield error(step.at("MaxConcurrentTransforms"), f"{told}: lower one")
        if largest == 0 and pick(step.arguments, "TransformInput", "SplitType") not in (None, "None"):
            told = "0 sends objects of any size as a stream, which can't be split: take SplitType None"
            yield error(step.at("MaxPayloadInMB"), told)
