"""Rehearsals of documents that were compiled for Kubeflow Pipelines."""
