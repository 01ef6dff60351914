"""Where a pipeline's files are: below one place in S3 for each execution."""

from __future__ import annotations

from millrace.compilers.sagemaker.expressions import EXECUTION_ID, Expression, join, parameter
from millrace.compilers.sagemaker.names import pipeline_name
from millrace.specs import PipelineSpec
from millrace.targets.sagemaker import SageMaker

__all__ = ["in_execution", "in_pipeline"]


def in_pipeline(spec: PipelineSpec, target: SageMaker, *below: Expression) -> Expression:
    """A place that all executions of the pipeline share: `s3://BUCKET/PREFIX/PIPELINE/...`."""
    bucket = parameter("bucket") if target.bucket is None else target.bucket
    return join("/", "s3:/", bucket, target.prefix, pipeline_name(spec.name), *below)


def in_execution(spec: PipelineSpec, target: SageMaker, *below: Expression) -> Expression:
    """A place of one execution: `s3://BUCKET/PREFIX/PIPELINE/EXECUTION_ID/...`."""
    return in_pipeline(spec, target, EXECUTION_ID, *below)
