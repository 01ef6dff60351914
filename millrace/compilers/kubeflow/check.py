"""What a backend would refuse or silently get wrong in a compiled document, ours or anyone's."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from functools import partial

from millrace.compilers.findings import Finding
from millrace.compilers.kubeflow import (
    check_arguments,
    check_control,
    check_edges,
    check_names,
    check_pods,
    check_sizes,
)
from millrace.compilers.kubeflow.document import Document, read_document
from millrace.compilers.kubeflow.strict import strict_parse
from millrace.compilers.kubeflow.view import View
from millrace.errors import UnsupportedError
from millrace.targets.kubeflow import BackendVersion

__all__ = ["Finding", "check_document", "refuse_wrong"]

Rule = Callable[[View, BackendVersion], Iterator[Finding]]

STRUCTURE: tuple[Rule, ...] = (
    check_names.pipeline_name,
    check_names.task_names,
    check_names.templates,
    check_names.components,
    check_names.graphs,
)
"""What the API server and the Workflow compiler look at."""

CONTENTS: tuple[Rule, ...] = (
    check_edges.parameter_edges,
    check_edges.artifact_edges,
    check_edges.skipped_producers,
    check_edges.outputs,
    check_edges.given,
    check_edges.optional_inputs,
    check_edges.defaults,
    check_edges.literals,
    check_control.loops,
    check_control.conditions,
    check_control.dependencies,
    check_control.importers,
    check_control.retries,
    check_arguments.placeholders,
    check_arguments.conditional_words,
    check_arguments.commands,
    check_arguments.constants,
    check_pods.environment,
    check_pods.resources,
    check_pods.mounts,
    check_pods.scheduling,
    check_pods.metadata,
    check_pods.workspace,
    check_sizes.arguments,
    check_sizes.workflow,
)
"""What drivers, launchers and pods fail on."""


def check_document(text: str, compat: BackendVersion = "2.17", *, strict_images: bool = False) -> list[Finding]:
    """Check a document.

    Args:
        text: YAML or JSON: a pipeline spec, and perhaps a platform spec.
        compat: Version of the backend that shall run it.
        strict_images: Images without a tag, or with `latest`, are errors instead of warnings.

    Returns:
        Findings, errors first; none when the backend takes the document as it is.
    """
    document = read_document(text)
    if not isinstance(document, Document):
        return document
    found, view = strict_parse(document, compat)
    if view is not None:
        rules: tuple[Rule, ...] = (*STRUCTURE, *CONTENTS, partial(check_pods.images, strict=strict_images))
        found += [finding for rule in rules for finding in rule(view, compat)]
    return sorted(dict.fromkeys(found), key=lambda finding: finding.severity)


def refuse_wrong(text: str, compat: BackendVersion, *, strict_images: bool = False) -> None:
    """Check a document, print warnings and stop at errors.

    Raises:
        UnsupportedError: With everything that the backend would refuse or get wrong, by the path of the field.
    """
    findings = check_document(text, compat, strict_images=strict_images)
    for line in _lines(finding for finding in findings if finding.severity == "warning"):
        print(f"warning: {line}", file=sys.stderr)
    if errors := list(_lines(finding for finding in findings if finding.severity == "error")):
        raise UnsupportedError("\n".join(errors))


def _lines(findings: Iterable[Finding]) -> Iterator[str]:
    """A line each; what is the same in several places is told once."""
    places: dict[str, list[str]] = {}
    for finding in findings:
        places.setdefault(finding.message, []).append(finding.path)
    for message, (first, *others) in places.items():
        yield f"{first}{f' and {len(others)} more' if others else ''}: {message}".removeprefix(": ")
