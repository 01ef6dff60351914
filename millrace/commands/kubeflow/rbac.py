"""`millrace rbac`: the permissions that a pipeline's steps need in the cluster, as YAML."""

from __future__ import annotations

from millrace.commands.of_target import Asked
from millrace.settings import Settings

__all__ = ["run"]


def run(settings: Settings, asked: Asked) -> int:
    """Run the command and return the exit code."""
    from millrace.compilers.kubeflow.rbac import manifests

    print(manifests(settings.compose(), settings.kubeflow()), end="")
    return 0
