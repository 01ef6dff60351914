"""What a step's service account must be allowed to do in its namespace, by the kind of work it hands over."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from millrace.errors import ConfigError
from millrace.runtime.cluster.api import (
    EXPERIMENTS,
    INFERENCE_SERVICES,
    MPI_JOBS,
    PODS,
    TRAIN_JOBS,
    TRIALS,
    Cluster,
    Resource,
)

__all__ = ["RIGHTS", "Right", "check_rights"]


class Right(NamedTuple):
    """Something that an account must be allowed to do."""

    verb: str
    resource: Resource
    subresource: str = ""

    def __str__(self) -> str:
        return f"{self.verb} {self.resource.full_name}{f'/{self.subresource}' if self.subresource else ''}"


def _rights(resource: Resource, verbs: Sequence[str], *more: Right) -> tuple[Right, ...]:
    return (*(Right(verb, resource) for verb in verbs), *more)


_LIST_PODS, _READ_LOGS = Right("list", PODS), Right("get", PODS, "log")

RIGHTS: dict[str, tuple[Right, ...]] = {
    "trainjob": _rights(TRAIN_JOBS, ("create", "delete", "get"), _LIST_PODS, _READ_LOGS),
    "mpijob": _rights(MPI_JOBS, ("create", "delete", "get"), _LIST_PODS, _READ_LOGS),
    "inferenceservice": _rights(INFERENCE_SERVICES, ("create", "get", "patch"), _LIST_PODS),
    "experiment": _rights(EXPERIMENTS, ("create", "delete", "get"), Right("list", TRIALS), _LIST_PODS),
}
"""By the kind of ClusterWork: these and no more."""


def check_rights(cluster: Cluster, kind: str) -> None:
    """Check that this account may do all that a kind of work needs, before anything is begun.

    Raises:
        ConfigError: With all that it may not do, and the line that mends it.
    """
    missing = [right for right in RIGHTS[kind] if not cluster.may(*right)]
    if missing:
        raise ConfigError(
            f"this step's service account may not {', '.join(map(str, missing))} in namespace {cluster.namespace!r}; "
            "`millrace rbac pipeline=... target=kubeflow` prints the Role that allows it, for `kubectl apply -f -`"
        )
