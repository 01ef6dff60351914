"""`millrace compile`: a pipeline, or one component, as Kubeflow's own document."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from millrace.errors import ConfigError, UnsupportedError, explain_os_error

if TYPE_CHECKING:
    from millrace.config import Settings

__all__ = ["run"]


def run(words: Sequence[str]) -> int:
    """Run the command on its words and return the exit code."""
    from millrace.config import compose_and_call, read_settings, target_words, user_components

    taken: set[Path] = set()

    def job(composed: Mapping[str, Any]) -> int:
        settings = read_settings(composed)
        if settings.component is None:
            return _compile_pipeline(settings, target_words(words), taken)
        return _compile_component(settings, settings.component, user_components(words), taken)

    return compose_and_call("compile", words, job)


def _compile_pipeline(settings: Settings, target_as_typed: str, taken: set[Path]) -> int:
    from millrace.compilers.images import reference
    from millrace.compilers.kubeflow import compile_pipeline
    from millrace.compilers.kubeflow.check import refuse_wrong

    target = settings.kubeflow()
    spec = settings.compose()
    text = compile_pipeline(spec, target)
    refuse_wrong(text, target.compat, strict_images=True)
    path = settings.output or Path("build", f"{spec.name}.kubeflow.yaml")
    if _printed(path, text):
        return 0
    _write(path, text, taken)
    images = sorted({reference(component.image, target.images) for component in spec.components})
    print(f"{path}: {_size(text)}, {len(spec.tasks)} tasks, for Kubeflow Pipelines {target.compat} or later")
    for image in images:
        print(f"image: {image}")
    for parameter in spec.runtime_parameters:
        print(f"open: {parameter.name.replace('.', '_')} = {parameter.default!r} ({parameter.kind})")
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
    if _printed(path, text):
        return 0
    _write(path, text, taken)
    print(f"{path}: {_size(text)}, for Kubeflow Pipelines {target.compat} or later")
    print(f"image: {reference(spec.image, target.images)}")
    print(f"next, in a pipeline of yours: {spec.name} = kfp.components.load_component_from_file({str(path)!r})")
    return 0


def _printed(path: Path, text: str) -> bool:
    if str(path) == "-":
        print(text, end="")
        return True
    return False


def _size(text: str) -> str:
    return f"{len(text.encode()) / 1000:.1f} KB"


def _write(path: Path, text: str, taken: set[Path]) -> None:
    """Put a document in place, whole or not at all, and over none that this call has written."""
    if path.absolute() in taken:
        raise ConfigError(
            f"output: {path} was written by another job of this sweep: give each a name of its own, "
            "'output=build/${hydra:job.num}.yaml' for one"
        )
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise ConfigError(f"output: {explain_os_error(error)}") from error
    taken.add(path.absolute())
