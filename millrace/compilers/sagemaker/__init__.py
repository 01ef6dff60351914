"""From a pipeline to SageMaker's own pipeline definition."""

from millrace.compilers.sagemaker.pipeline import compile_pipeline

__all__ = ["compile_pipeline"]
