"""From a task's executor and its Kubernetes settings to a container's options."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from millrace.errors import TaskFailedError

__all__ = ["PodOptions", "Vault", "constant_of", "pod_options", "quantity"]

_UNITS = {
    "": 1,
    "m": 1e-3,
    "k": 1e3,
    "K": 1e3,
    "M": 1e6,
    "G": 1e9,
    "T": 1e12,
    "P": 1e15,
    "Ki": 2**10,
    "Mi": 2**20,
    "Gi": 2**30,
    "Ti": 2**40,
    "Pi": 2**50,
}
Vault = Mapping[str, Mapping[str, str]]
"""Secrets or ConfigMaps: values by name and key."""
Resolve = Callable[[Mapping[str, Any]], Any]
"""Gives the value of an input parameter's source."""


@dataclass
class PodOptions:
    """What the executor and its Kubernetes settings add to a container."""

    environment: dict[str, str] = field(default_factory=dict)
    cpus: float | None = None
    memory: int | None = None
    shared_memory: int | None = None
    user: str | None = None
    timeout: float | None = None
    claims: dict[str, str] = field(default_factory=dict)
    """PersistentVolumeClaims by the path that they are mounted at."""
    memory_folders: dict[str, int | None] = field(default_factory=dict)
    folders: list[str] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)


def quantity(text: str) -> float:
    """A quantity of Kubernetes (`500m`, `1.5Gi`, `2G`) as a number.

    Raises:
        TaskFailedError: When it is none.
    """
    found = re.fullmatch(r"([+-]?\d*\.?\d+(?:[eE][+-]?\d+)?)([A-Za-z]{0,2})", text.strip())
    if found is None or found[2] not in _UNITS:
        raise TaskFailedError(f"the backend refuses {text!r}: it is no quantity such as 500m, 2 or 1.5Gi")
    return float(found[1]) * _UNITS[found[2]]


def pod_options(
    container: Mapping[str, Any],
    settings: Mapping[str, Any],
    parameters: Mapping[str, Any],
    resolve: Resolve,
    secrets: Vault,
    config_maps: Vault,
    fields: Mapping[str, str],
) -> PodOptions:
    """Options of one task's container.

    Args:
        container: The executor's container.
        settings: Its Kubernetes settings.
        parameters: The task's input parameters, for placeholders in resources.
        resolve: Gives the value of an input parameter's source.
        secrets: Values that stand in for the cluster's Secrets.
        config_maps: Values that stand in for the cluster's ConfigMaps.
        fields: The pod's own fields, for variables that show them.

    Raises:
        TaskFailedError: When a value is missing or can't be read.
    """
    found = PodOptions()
    found.environment.update({item["name"]: item.get("value", "") for item in container.get("env", [])})
    _resources(found, container.get("resources", {}), parameters)
    for item in settings.get("secretAsEnv", []):
        _variables(found, item, "secret", "Secret", secrets, resolve)
    for item in settings.get("configMapAsEnv", []):
        _variables(found, item, "configMap", "ConfigMap", config_maps, resolve)
    for item in settings.get("secretAsVolume", []):
        _mounted(found, item, "secret", "Secret", secrets, resolve)
    for item in settings.get("configMapAsVolume", []):
        _mounted(found, item, "configMap", "ConfigMap", config_maps, resolve)
    marks = {
        f"metadata.{kind}['{name}']": value
        for kind, values in settings.get("podMetadata", {}).items()
        for name, value in values.items()
    }
    for item in settings.get("fieldPathAsEnv", []):
        found.environment[item["name"]] = (marks | dict(fields)).get(item["fieldPath"], "")
    for item in settings.get("pvcMount", []):
        found.claims[item["mountPath"]] = str(resolve(claim_of(item)))
    _folders(found, settings)
    if seconds := int(settings.get("activeDeadlineSeconds", 0)):
        found.timeout = float(seconds)
    security = settings.get("securityContext", {})
    if "runAsUser" in security:
        group = f":{security['runAsGroup']}" if "runAsGroup" in security else ""
        found.user = f"{security['runAsUser']}{group}"
    return found


def _resources(found: PodOptions, resources: Mapping[str, Any], parameters: Mapping[str, Any]) -> None:
    cpu = resources.get("resourceCpuLimit") or resources.get("cpuLimit")
    memory = resources.get("resourceMemoryLimit") or resources.get("memoryLimit")
    if cpu:
        found.cpus = quantity(_filled(str(cpu), parameters))
    if memory:
        found.memory = int(quantity(_filled(memory if isinstance(memory, str) else f"{memory}G", parameters)))


def _filled(text: str, parameters: Mapping[str, Any]) -> str:
    named = re.search(r"\{\{\$\.inputs\.parameters\['(.+?)'\]\}\}", text)
    return str(parameters.get(named[1], "")) if named else text


def _folders(found: PodOptions, settings: Mapping[str, Any]) -> None:
    for item in settings.get("emptyDirMounts", []):
        limit = item.get("sizeLimit")
        if item.get("medium") == "Memory":
            if item["mountPath"] == "/dev/shm":  # noqa: S108 - Docker has an option of its own for it
                found.shared_memory = int(quantity(limit)) if limit else None
            else:
                found.memory_folders[item["mountPath"]] = int(quantity(limit)) if limit else None
        else:
            found.folders.append(item["mountPath"])
    found.folders += [item["mountPath"] for item in settings.get("genericEphemeralVolume", [])]
    if shared := settings.get("enabledSharedMemory"):
        found.shared_memory = int(quantity(shared["size"])) if shared.get("size") else None


def constant_of(item: Mapping[str, Any], kind: str) -> str | None:
    """The name of a Secret or ConfigMap where the document has it as a constant."""
    source = item.get(f"{kind}NameParameter", {})
    constant = source.get("runtimeValue", {}).get("constant")
    name = constant if constant is not None else item.get(f"{kind}Name") if not source else None
    return str(name) if name else None


def claim_of(item: Mapping[str, Any]) -> Mapping[str, Any]:
    """The source of the name of a PersistentVolumeClaim."""
    if "pvcNameParameter" in item:
        found: Mapping[str, Any] = item["pvcNameParameter"]
        return found
    if "constant" in item:
        return {"runtimeValue": {"constant": item["constant"]}}
    return {key: item[key] for key in ("taskOutputParameter", "componentInputParameter") if key in item}


def _named(item: Mapping[str, Any], kind: str, what: str, vault: Vault, resolve: Resolve) -> Mapping[str, str] | None:
    source = item.get(f"{kind}NameParameter")
    name = str(resolve(source)) if source else item[f"{kind}Name"]
    if name not in vault:
        if item.get("optional"):
            return None
        raise TaskFailedError(f"there is no {what} {name!r} in this rehearsal: {where(what)}")
    return vault[name]


def where(what: str) -> str:
    """How a Secret or ConfigMap is given to a rehearsal."""
    key = "secrets" if what == "Secret" else "config_maps"
    return f"put it into a YAML file, `NAME: {{KEY: VALUE}}`, and name the file: rehearse.{key}=FILE"


def _variables(
    found: PodOptions, item: Mapping[str, Any], kind: str, what: str, vault: Vault, resolve: Resolve
) -> None:
    values = _named(item, kind, what, vault, resolve)
    for entry in item.get("keyToEnv", []) if values is not None else []:
        key = entry[f"{kind}Key"]
        if values is not None and key in values:
            found.environment[entry["envVar"]] = values[key]
        elif not item.get("optional"):
            raise TaskFailedError(f"a {what} has no key {key!r}: {where(what)}")


def _mounted(found: PodOptions, item: Mapping[str, Any], kind: str, what: str, vault: Vault, resolve: Resolve) -> None:
    for key, value in (_named(item, kind, what, vault, resolve) or {}).items():
        found.files[f"{item['mountPath'].rstrip('/')}/{key}"] = value.encode()


def named_values(settings: Mapping[str, Any]) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """Secrets and ConfigMaps that must be there and whose names are constants: what, name, keys."""
    for section, kind, what in (
        ("secretAsEnv", "secret", "Secret"),
        ("configMapAsEnv", "configMap", "ConfigMap"),
        ("secretAsVolume", "secret", "Secret"),
        ("configMapAsVolume", "configMap", "ConfigMap"),
    ):
        for item in settings.get(section, []):
            name = constant_of(item, kind)
            if name and not item.get("optional"):
                yield what, name, tuple(entry[f"{kind}Key"] for entry in item.get("keyToEnv", []))
