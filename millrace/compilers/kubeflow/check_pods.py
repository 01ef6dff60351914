"""Rules on pods: images, environment, resources, volumes and other Kubernetes settings."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

from millrace.compilers.findings import Finding
from millrace.compilers.kubeflow.check_edges import source_type
from millrace.compilers.kubeflow.document import Path, shown
from millrace.compilers.kubeflow.view import Container, View, before
from millrace.errors import did_you_mean
from millrace.targets.kubeflow import BackendVersion

__all__ = ["environment", "images", "metadata", "mounts", "quantity", "resources", "scheduling", "workspace"]

_QUANTITY = re.compile(r"(?P<sign>[+-]?)(?P<number>\d+\.?\d*|\.\d+)(?P<unit>[KMGTPE]i|[numkMGTPE]|[eE][+-]?\d+)?")
_POWERS = {"n": -9, "u": -6, "m": -3, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_BINARY = {"Ki": 1, "Mi": 2, "Gi": 3, "Ti": 4, "Pi": 5, "Ei": 6}
_PARAMETER = re.compile(r"\{\{\$\.inputs\.parameters\['(.+?)'\]\}\}")
_VARIABLE = re.compile(r"[-._a-zA-Z][-._a-zA-Z0-9]*")
_SECRET = re.compile(
    r"(?i)(^|_)(\w*secret\w*|\w*token|\w*password|passwd|\w*api_?key|access_key|private_key|credentials?)(_|$)"
)
_LABEL = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")
_RESERVED = frozenset({"KFP_POD_NAME", "KFP_POD_UID", "KFP_RETRY_INDEX"})
_MOUNTED = ("/gcs", "/s3", "/minio", "/.local", "/.cache", "/.config", "/kfp-launcher", "/kfp-workspace")
_MOUNTS = ("secretAsVolume", "configMapAsVolume", "pvcMount", "emptyDirMounts", "genericEphemeralVolume")


def images(view: View, compat: BackendVersion, strict: bool = False) -> Iterator[Finding]:
    """An image means the same tomorrow: by digest, or by a tag that is not `latest`."""
    for container in view.containers:
        image = container.spec.get("image", "")
        path = shown((*container.path, "image"))
        if container.dummy:
            continue
        if not image:
            yield Finding("error", path, "the container has no image")
        elif re.search(r"\s", image):
            yield Finding("error", path, f"{image!r} is no image reference")
        elif "{{" not in image and "@" not in image:
            tag = image.rpartition("/")[2].partition(":")[2]
            if tag in ("", "latest"):
                told = "the tag latest" if tag else "no tag"
                yield Finding(
                    "error" if strict else "warning", path, f"{image} has {told}: another run may get another image"
                )
        yield from _parameters(view, container, image, (*container.path, "image"))


def environment(view: View, compat: BackendVersion) -> Iterator[Finding]:
    """Variables have a name, once, and hold no secrets."""
    for container in view.containers:
        names: Counter[str] = Counter()
        for index, variable in enumerate(container.spec.get("env", [])):
            path = (*container.path, "env", index)
            names[variable.get("name", "")] += 1
            yield from _variable(variable.get("name", ""), path, names)
            value = str(variable.get("value", ""))
            if value and "{{" not in value and _SECRET.search(variable.get("name", "")):
                yield Finding(
                    "warning",
                    shown((*path, "value")),
                    f"{variable['name']} looks like a secret, and stands here for all to read: take it from a Secret",
                )
        for group, place in (("secretAsEnv", "keyToEnv"), ("configMapAsEnv", "keyToEnv")):
            for index, source in enumerate(container.pod.get(group, [])):
                for number, entry in enumerate(source.get(place, [])):
                    path = (*container.pod_path, group, index, place, number)
                    names[entry.get("envVar", "")] += 1
                    yield from _variable(entry.get("envVar", ""), path, names)


def _variable(name: str, path: Path, names: Counter[str]) -> Iterator[Finding]:
    if not _VARIABLE.fullmatch(name):
        yield Finding("error", shown(path), f"{name!r} can't name a variable")
    if name in _RESERVED:
        yield Finding("error", shown(path), f"{name} is set by the backend, whose launcher needs it")
    if names[name] == 2:
        yield Finding("error", shown(path), f"{name!r} is set twice")


def resources(view: View, compat: BackendVersion) -> Iterator[Finding]:
    """Quantities are ones that Kubernetes reads, and no request is above its limit."""
    for container in view.containers:
        wanted = container.spec.get("resources", {})
        path = (*container.path, "resources")
        read: dict[str, Decimal] = {}
        for kind in ("Cpu", "Memory"):
            for end in ("Limit", "Request"):
                names = (f"resource{kind}{end}", f"{kind.lower()}{end}")
                name = next((name for name in names if name in wanted), "")
                if name:
                    yield from _quantity(view, container, str(wanted[name]), (*path, name), read, f"{kind}{end}")
            if read.get(f"{kind}Request", Decimal(0)) > read.get(f"{kind}Limit", Decimal("Infinity")):
                yield Finding("error", shown(path), f"the request of {kind.lower()} is above its limit")
        accelerator = wanted.get("accelerator", {})
        for name in [name for name in ("resourceCount", "count") if name in accelerator][:1]:
            if name in accelerator:
                place = (*path, "accelerator", name)
                yield from _quantity(view, container, str(accelerator[name]), place, read, "accelerator")
        count = read.get("accelerator", Decimal(0))
        if count != count.to_integral_value():
            yield Finding("error", shown((*path, "accelerator")), "accelerators come whole only")
        yield from _parameters(
            view, container, accelerator.get("resourceType", ""), (*path, "accelerator", "resourceType")
        )


def _quantity(
    view: View, container: Container, text: str, path: Path, read: dict[str, Decimal], name: str
) -> Iterator[Finding]:
    if _PARAMETER.search(text):
        yield from _parameters(view, container, text, path)
        return
    value = quantity(text)
    if value is None:
        yield Finding("error", shown(path), f"{text!r} is no quantity for Kubernetes: write 500m, 2, 1Gi, 1.5G")
    elif value < 0:
        yield Finding("error", shown(path), f"{text} is negative")
    else:
        read[name] = value


def _parameters(view: View, container: Container, text: str, path: Path) -> Iterator[Finding]:
    """Parameters in a pod's settings: the driver reads texts only, and finds nothing in a number."""
    for name in _PARAMETER.findall(text):
        for use in container.uses:
            if name not in use.parameters:
                hint = did_you_mean(name, use.parameters)
                yield Finding("error", shown(path), f"task {use.name!r} is not given {name!r}: {hint}")
            elif (kind := source_type(view, use, name)) not in ("STRING", None):
                yield Finding(
                    "error", shown(path), f"{name!r} is {kind}; here the backend reads STRING parameters only"
                )


def quantity(text: str) -> Decimal | None:
    """The value of a Kubernetes quantity; None when it is none."""
    found = _QUANTITY.fullmatch(text)
    if found is None:
        return None
    unit = found["unit"] or ""
    value = Decimal(f"{found['sign']}{found['number']}")
    if unit in _BINARY:
        return value * Decimal(1024) ** _BINARY[unit]
    power = _POWERS.get(unit)
    return value.scaleb(power if power is not None else int(unit[1:] or 0) if unit else 0)


def mounts(view: View, compat: BackendVersion) -> Iterator[Finding]:
    """Mounts are at absolute paths, each once, and not where the backend mounts its own."""
    for container in view.containers:
        seen: set[str] = set()
        for group in _MOUNTS:
            for index, mount in enumerate(container.pod.get(group, [])):
                place = (*container.pod_path, group, index)
                path = str(mount.get("mountPath", ""))
                if not path.startswith("/"):
                    yield Finding("warning", shown((*place, "mountPath")), f"{path!r} is taken as '/{path}'")
                elif path.rstrip("/") in seen:
                    yield Finding("error", shown((*place, "mountPath")), f"{path!r} is mounted twice")
                elif path.rstrip("/") in _MOUNTED:
                    yield Finding(
                        "error", shown((*place, "mountPath")), f"{path!r} is where the backend mounts its own"
                    )
                seen.add(path.rstrip("/"))
                for size in ("sizeLimit", "size"):
                    if mount.get(size) and quantity(str(mount[size])) is None:
                        yield Finding("error", shown((*place, size)), f"{mount[size]!r} is no quantity for Kubernetes")


def scheduling(view: View, compat: BackendVersion) -> Iterator[Finding]:
    """Pull policies, tolerations and deadlines that Kubernetes takes."""
    for container in view.containers:
        pod = container.pod
        policy = pod.get("imagePullPolicy")
        if policy and policy not in ("Always", "IfNotPresent", "Never"):
            hint = did_you_mean(policy, ("Always", "IfNotPresent", "Never"))
            yield Finding("error", shown((*container.pod_path, "imagePullPolicy")), f"{policy!r}: {hint}")
        if int(pod.get("activeDeadlineSeconds", 0)) < 0:
            place = (*container.pod_path, "activeDeadlineSeconds")
            yield Finding("error", shown(place), f"{pod['activeDeadlineSeconds']} is negative")
        for index, toleration in enumerate(pod.get("tolerations", [])):
            yield from _toleration(toleration, (*container.pod_path, "tolerations", index))


def _toleration(toleration: dict[str, Any], path: Path) -> Iterator[Finding]:
    allowed = {"operator": ("Equal", "Exists"), "effect": ("NoExecute", "NoSchedule", "PreferNoSchedule")}
    for name, values in allowed.items():
        if toleration.get(name) and toleration[name] not in values:
            hint = did_you_mean(toleration[name], values)
            yield Finding("error", shown((*path, name)), f"{toleration[name]!r}: {hint}")
    if toleration.get("operator") == "Exists" and toleration.get("value"):
        yield Finding("error", shown((*path, "value")), "with operator Exists there is no value")
    if not toleration.get("key") and toleration.get("operator") != "Exists" and "tolerationJson" not in toleration:
        yield Finding("error", shown(path), "without a key the operator must be Exists")
    if "tolerationSeconds" in toleration and toleration.get("effect") != "NoExecute":
        yield Finding("error", shown((*path, "tolerationSeconds")), "these are for the effect NoExecute only")


def metadata(view: View, compat: BackendVersion) -> Iterator[Finding]:
    """Labels of pods and of node selectors."""
    for container in view.containers:
        groups = (
            (("podMetadata", "labels"), container.pod.get("podMetadata", {}).get("labels", {})),
            (("nodeSelector", "labels"), container.pod.get("nodeSelector", {}).get("labels", {})),
        )
        for keys, labels in groups:
            for name, value in labels.items():
                prefix, _, short = name.rpartition("/")
                if not short or len(prefix) > 253 or not _LABEL.fullmatch(short) or not _LABEL.fullmatch(value):
                    place = (*container.pod_path, *keys, name)
                    yield Finding(
                        "error",
                        shown(place),
                        f"{name}={value} is no label for Kubernetes: letters, digits, '-', '_' and '.', 63 at most",
                    )


def workspace(view: View, compat: BackendVersion) -> Iterator[Finding]:
    """A workspace is declared where it is used, and its claim can be made."""
    declared = view.config.get("workspace")
    path: Path = ("platforms", "kubernetes", "pipelineConfig")
    for use in view.uses:
        for name, value in use.parameters.items():
            constant = value.get("runtimeValue", {}).get("constant")
            if isinstance(constant, str) and "{{$.workspace_path}}" in constant and declared is None:
                place = (*use.path, "inputs", "parameters", name)
                yield Finding("error", shown(place), "the pipeline has no workspace: declare one in its configuration")
    if declared is not None and before(compat, "2.15"):
        yield Finding("error", shown((*path, "workspace")), f"Kubeflow Pipelines {compat} has no workspaces: 2.15 has")
    elif declared is not None:
        size = str(declared.get("size", ""))
        value = quantity(size)
        if value is None or value < 0:
            yield Finding("error", shown((*path, "workspace", "size")), f"{size!r} is no size: write 10Gi")
        patch = declared.get("kubernetes", {}).get("pvcSpecPatch", {})
        for name in patch.keys() - {"accessModes", "storageClassName"}:
            place = (*path, "workspace", "kubernetes", "pvcSpecPatch", name)
            yield Finding("error", shown(place), "the backend takes accessModes and storageClassName only")
    for name in ("resourceTtlOnCompletion", "resourceTtlOnSuccess", "resourceTtlOnFailure", "activeDeadlineSeconds"):
        if int(view.config.get(name, 1)) < 0:
            yield Finding("error", shown((*path, name)), f"{view.config[name]} is negative")
