"""`millrace compile`: a pipeline, or one component, as Kubeflow's own document."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from millrace.commands.documents import is_printed, size_of, write_document
from millrace.errors import UnsupportedError

if TYPE_CHECKING:
    from millrace.commands.of_target import Asked
    from millrace.settings import Settings

__all__ = ["run"]


def run(settings: Settings, asked: Asked) -> int:
    """Run the command and return the exit code."""
    from millrace.config import target_words, user_components

    if settings.component is None:
        return _compile_pipeline(settings, target_words(asked.words), asked.written)
    return _compile_component(settings, settings.component, user_components(asked.words), asked.written)


def _compile_pipeline(settings: Settings, target_as_typed: str, taken: set[Path]) -> int:
    from millrace.compilers.images import reference
    from millrace.compilers.kubeflow import compile_pipeline
    from millrace.compilers.kubeflow.check import refuse_wrong

    target = settings.kubeflow()
    spec = settings.compose()
    text = compile_pipeline(spec, target)
    refuse_wrong(text, target.compat, strict_images=True)
    path = settings.output or Path("build", f"{spec.name}.kubeflow.yaml")
    if is_printed(path, text):
        return 0
    write_document(path, text, taken)
    images = sorted({reference(component.image, target.images) for component in spec.components})
    print(f"{path}: {size_of(text)}, {len(spec.tasks)} tasks, for Kubeflow Pipelines {target.compat} or later")
    for image in images:
        print(f"image: {image}")
    for parameter in spec.runtime_parameters:
        print(f"open: {parameter.name.replace('.', '_')} = {parameter.default!r} ({parameter.kind})")
    for remark in settings.remarks():
        print(f"note: {remark}")
    print(f"next: millrace upload document={path} {target_as_typed}")
    return 0


def _compile_component(settings: Settings, name: str, added: Mapping[str, str], taken: set[Path]) -> int:
    from millrace.compilers.images import reference
    from millrace.compilers.kubeflow import compile_component
    from millrace.compilers.kubeflow.check import refuse_wrong
    from millrace.registry import load_component

    if settings.runtime:
        raise UnsupportedError("runtime: a component's parameters are all open; leave runtime=[...] out")
    target = settings.kubeflow()
    spec = load_component(name, added).spec
    text = compile_component(spec, target)
    refuse_wrong(text, target.compat, strict_images=True)
    path = settings.output or Path("build", f"{spec.name}.component.yaml")
    if is_printed(path, text):
        return 0
    write_document(path, text, taken)
    print(f"{path}: {size_of(text)}, for Kubeflow Pipelines {target.compat} or later")
    print(f"image: {reference(spec.image, target.images)}")
    print(f"next, in a pipeline of yours: {spec.name} = kfp.components.load_component_from_file({str(path)!r})")
    return 0
