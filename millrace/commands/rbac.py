"""`millrace rbac`: the permissions that a pipeline's steps need in the cluster, as YAML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["run"]


def run(words: Sequence[str]) -> int:
    """Run the command on its words and return the exit code."""
    from millrace.config import compose_and_call

    return compose_and_call("rbac", words, _print)


def _print(composed: Mapping[str, Any]) -> int:
    from millrace.compilers.kubeflow.rbac import manifests
    from millrace.config import read_settings

    settings = read_settings(composed)
    print(manifests(settings.compose(), settings.kubeflow()), end="")
    return 0
