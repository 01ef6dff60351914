"""Rehearsals of documents that were compiled for Kubeflow Pipelines."""

from millrace.runners.kubeflow.settings import Rehearse

__all__ = ["Rehearse"]
