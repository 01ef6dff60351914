"""Rehearsals of definitions that were compiled for SageMaker Pipelines."""
