"""Kubeflow Pipelines: the compiler, and the checks that a document must pass."""

from millrace.compilers.kubeflow.component import compile_component
from millrace.compilers.kubeflow.pipeline import compile_pipeline

__all__ = ["compile_component", "compile_pipeline"]
