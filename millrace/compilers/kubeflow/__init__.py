"""Kubeflow Pipelines: the compiler, and the checks that a document must pass."""
