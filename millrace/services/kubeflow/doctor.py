"""What is missing to compile for Kubeflow, to rehearse here and to run there."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import get_args

from millrace.compilers.images import reference
from millrace.errors import ConfigError, MillraceError
from millrace.services.finding import Finding, installed
from millrace.services.kubeflow.cluster import examine_cluster
from millrace.services.kubeflow.connection import connect
from millrace.specs import PipelineSpec
from millrace.targets.kubeflow import BackendVersion, Kubeflow

__all__ = ["examine_kubeflow"]

_EXTRAS = {
    "kubeflow": ("kfp", "kfp-kubernetes", "kfp-server-api", "kubernetes"),
    "rehearse": ("docker", "moto", "obstore"),
}
_PURPOSE = {"kubeflow": "compile and services", "rehearse": "rehearse here"}


def examine_kubeflow(spec: PipelineSpec, target: Kubeflow) -> Iterator[Finding]:
    """Look at packages, the Docker engine, the API and the cluster, for one pipeline."""
    for extra, packages in _EXTRAS.items():
        yield installed(extra, packages, _PURPOSE[extra])
    yield from _docker(spec, target)
    yield from _api(target)
    yield from examine_cluster(spec, target)


def _docker(spec: PipelineSpec, target: Kubeflow) -> Iterator[Finding]:
    try:
        import docker
        from docker.errors import DockerException, ImageNotFound
    except ModuleNotFoundError:
        yield Finding(None, "Docker engine: not looked at without the packages above")
        return
    try:
        client = docker.from_env(timeout=10)
        engine = client.version()["Version"]
    except (DockerException, OSError) as error:
        reason = str(error).rpartition(": ")[2].strip("')(")
        yield Finding(False, f"Docker engine, to rehearse and to build images: {reason}", "sudo systemctl start docker")
        return
    yield Finding(True, f"Docker engine {engine}")
    for name in sorted({component.image for component in spec.components}):
        try:
            wanted = reference(name, target.images)
        except ConfigError as error:
            yield Finding(False, str(error), "millrace build")
            continue
        try:
            client.images.get(wanted)
        except ImageNotFound:
            yield Finding(False, f"image {wanted}: not on this machine", "millrace build")
        except DockerException as error:
            yield Finding(False, f"image {wanted}: {error}", "millrace build")
        else:
            yield Finding(True, f"image {wanted}")


def _api(target: Kubeflow) -> Iterator[Finding]:
    api = target.api
    known = api.host or os.environ.get("KF_PIPELINES_ENDPOINT")
    if known is None and api.auth not in ("in_cluster", "kube_context"):
        yield Finding(None, "API of Kubeflow Pipelines: not looked at, no target.api.host is given")
        return
    try:
        connection = connect(target)
        health = connection.get("/healthz")
    except ConfigError as error:
        yield Finding(False, f"API of Kubeflow Pipelines: {error}")
        return
    tag = str(health.get("tag_name") or "unknown")
    yield Finding(True, f"API of Kubeflow Pipelines at {connection.host}, version {tag}")
    yield from _compat(tag, target)
    if health.get("multi_user") and not api.namespace:
        what = "the API serves several users, and no namespace is set"
        yield Finding(False, what, "add target.api.namespace=YOUR_PROFILE (kubectl get profiles)")
    try:
        connection.get("/pipelines", page_size=1, namespace=api.namespace)
        connection.get("/runs", page_size=1, namespace=api.namespace)
    except MillraceError as error:
        yield Finding(False, f"pipelines and runs can't be listed: {error}")
    else:
        yield Finding(True, "pipelines and runs can be listed")


def _compat(tag: str, target: Kubeflow) -> Iterator[Finding]:
    found = re.match(r"(\d+)\.(\d+)", tag)
    if found is None:
        yield Finding(None, f"version {tag!r} can't be compared with target.compat={target.compat}")
        return
    backend = (int(found[1]), int(found[2]))
    known = {tuple(map(int, name.split("."))): name for name in get_args(BackendVersion)}
    usable = [name for number, name in known.items() if number <= backend]
    wanted = tuple(map(int, target.compat.split(".")))
    mend = (
        f"compile with target.compat={usable[-1]}" if usable else f"upgrade Kubeflow Pipelines to {min(known.values())}"
    )
    yield Finding(wanted <= backend, f"documents for target.compat={target.compat}, backend {tag}", mend)
