"""`millrace compile`: a pipeline as SageMaker's own definition."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from millrace.commands.documents import is_printed, size_of, write_document
from millrace.errors import UnsupportedError

if TYPE_CHECKING:
    from millrace.commands.of_target import Asked
    from millrace.settings import Settings
    from millrace.specs import PipelineSpec
    from millrace.targets.sagemaker import SageMaker

__all__ = ["run"]


def run(settings: Settings, asked: Asked) -> int:
    """Run the command and return the exit code."""
    from millrace.compilers.images import reference
    from millrace.compilers.sagemaker import compile_pipeline
    from millrace.compilers.sagemaker.check import refuse_wrong
    from millrace.config import target_words

    if settings.component is not None:
        raise UnsupportedError(
            f"component={settings.component}: a definition of SageMaker's has no components of its own: compile a "
            "pipeline, or take target=kubeflow"
        )
    target = settings.sagemaker()
    spec = settings.compose()
    text = compile_pipeline(spec, target)
    refuse_wrong(text)
    path = settings.output or Path("build", f"{spec.name}.sagemaker.json")
    if is_printed(path, text):
        return 0
    write_document(path, text, asked.written)
    images = sorted({reference(component.image, target.images) for component in spec.components})
    print(f"{path}: {size_of(text)}, {len(spec.tasks)} tasks, for SageMaker Pipelines")
    for image in images:
        print(f"image: {image}")
    for name, told in _open(spec, target):
        print(f"open: {name}{told}")
    for note in (*settings.remarks(), *_notes(spec, target, images, text)):
        print(f"note: {note}")
    named = "" if path.name.partition(".")[0] == spec.name else f" pipeline.name={spec.name}"
    print(f"next: millrace upload document={path}{named} {target_words(asked.words)}")
    return 0


def _open(spec: PipelineSpec, target: SageMaker) -> Iterator[tuple[str, str]]:
    from millrace.compilers.sagemaker.names import parameter_name

    for name in ("role", "bucket"):
        if getattr(target, name) is None:
            yield name, f" (string, must be given; target.{name} fixes it)"
    for one in spec.runtime_parameters:
        yield parameter_name(one.name), f" = {one.default!r} ({one.kind})"


def _notes(spec: PipelineSpec, target: SageMaker, images: list[str], text: str) -> Iterator[str]:
    from millrace.compilers.sagemaker.context import Compiling
    from millrace.compilers.sagemaker.images import elsewhere, outside_ecr, push_command
    from millrace.compilers.sagemaker.jobs import kind_of
    from millrace.compilers.sagemaker.machines import has_local_storage
    from millrace.compilers.sagemaker.serving import serving_notes
    from millrace.compilers.sagemaker.walk import every_field, every_step

    again = f"`{push_command(target.region)}`, and compile again; rehearsals run as it is"
    if outside_ecr(images):
        yield f"SageMaker pulls images from ECR only: {again}"
    far = elsewhere(images, target.region)
    if far:
        yield (
            f"SageMaker pulls images from ECR in its own region only, and {', '.join(far)} "
            f"{'is' if len(far) == 1 else 'are'} in another than target.region={target.region}: {again}"
        )
    machines = {
        value
        for key, value in every_field(list(every_step(json.loads(text)["Steps"])))
        if key == "InstanceType" and isinstance(value, str) and has_local_storage(value)
    }
    if target.volume_key is not None and machines:
        yield (
            f"{', '.join(sorted(machines))}: target.volume_key is not used there: these machines keep data on storage "
            "of their own, which their hardware encrypts"
        )
    tuned = [task.name for task in spec.tasks if kind_of(task, spec.component_of(task), target) == "tuning"]
    if target.training.groups and tuned:
        yield (f"trials of {', '.join(tuned)} run on machines of one type: tuning jobs take no target.training.groups")
    yield from serving_notes(Compiling.of(spec, target))
