"""From a pipeline to SageMaker's own definition: plain data, without a network."""

from __future__ import annotations

import json

from millrace.compilers.sagemaker.context import Compiling
from millrace.compilers.sagemaker.names import pipeline_name
from millrace.specs import PipelineSpec
from millrace.targets.sagemaker import SageMaker

__all__ = ["compile_pipeline"]


def compile_pipeline(spec: PipelineSpec, target: SageMaker) -> str:
    """The pipeline's definition as JSON text; the same bytes for the same pipeline."""
    context = Compiling.of(spec, target)
    steps = [context.processing_step(spec.task(name)) for name in spec.order()]
    return json.dumps({"Version": "2020-12-01", "Metadata": {"name": pipeline_name(spec.name)}, "Steps": steps})
