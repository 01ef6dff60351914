"""Millrace: typed, containerized deep-learning components for Kubeflow Pipelines and SageMaker."""

__all__ = ["__version__"]

__version__ = "0.1.0"
