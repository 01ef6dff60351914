"""What SageMaker would refuse or silently get wrong in a pipeline definition, ours or anyone's."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator

from millrace.compilers.findings import Finding
from millrace.compilers.sagemaker import (
    check_arguments,
    check_conditions,
    check_envelope,
    check_graph,
    check_jobs,
    check_machines,
    check_policies,
    check_serving,
    check_tuning,
)
from millrace.compilers.sagemaker.reading import read_definition
from millrace.compilers.sagemaker.view import View, gather
from millrace.errors import UnsupportedError

__all__ = ["Finding", "check_document", "refuse_wrong"]

RULES: tuple[Callable[[View], Iterator[Finding]], ...] = (
    check_envelope.declarations,
    check_envelope.names,
    check_envelope.steps,
    check_envelope.files,
    check_envelope.unused,
    check_policies.caches,
    check_policies.retries,
    check_graph.dependencies,
    check_graph.branches,
    check_graph.cycles,
    check_conditions.conditions,
    check_conditions.failures,
    check_arguments.mlflow,
    check_arguments.arguments,
    check_jobs.processing,
    check_jobs.training,
    check_jobs.tags,
    check_machines.volumes,
    check_machines.shards,
    check_tuning.tuning,
    check_serving.models,
    check_serving.packages,
    check_serving.configurations,
    check_serving.endpoints,
    check_serving.names,
    check_serving.transforms,
)
"""What the pipeline service looks at, and what the services behind its steps do."""


def check_document(text: str) -> list[Finding]:
    """Check a pipeline definition.

    Args:
        text: JSON: `Version`, `Parameters`, `Steps`.

    Returns:
        Findings, errors first; none when SageMaker takes the definition as it is.

    Raises:
        ConfigError: When botocore is missing, which knows SageMaker's requests.
    """
    definition = read_definition(text)
    if not isinstance(definition, dict):
        return definition
    found = list(check_envelope.top(definition))
    view = gather(definition)
    for rule in RULES:
        found += rule(view)
    return sorted(dict.fromkeys(found), key=lambda finding: finding.severity)


def refuse_wrong(text: str) -> None:
    """Check a definition, print warnings and stop at errors.

    Raises:
        UnsupportedError: With everything that SageMaker would refuse or get wrong, by the path of the field.
    """
    findings = check_document(text)
    for finding in findings:
        if finding.severity == "warning":
            print(f"warning: {finding.path}: {finding.message}", file=sys.stderr)
    errors = [finding for finding in findings if finding.severity == "error"]
    if errors:
        raise UnsupportedError("\n".join(_collapsed(errors)))


def _collapsed(errors: list[Finding]) -> Iterator[str]:
    """A line for each mistake: one setting stands in many steps."""
    alike: dict[tuple[str, str], list[str]] = {}
    for one in errors:
        alike.setdefault((one.path.rpartition(".")[2], one.message), []).append(one.path)
    for (_, message), (first, *others) in alike.items():
        also = f" (also {', '.join(others)})" if others else ""
        yield f"{first}: {message}{also}".removeprefix(": ")
