"""Numbers that SageMaker holds pipelines to and that its service model does not say, each with its source."""

from __future__ import annotations

from typing import Final

__all__ = [
    "CANARY_PERCENT",
    "DEFINITION_CHARACTERS",
    "EXPIRE_AFTER_MINUTES",
    "HYPERPARAMETERS",
    "JOINED_PAYLOAD_MIB",
    "LINEAR_PERCENT",
    "PAYLOAD_MIB",
    "PIPELINE_PARAMETERS",
    "PIPELINE_STEPS",
    "PROCESSING_ROOT",
    "RETRY_ATTEMPTS",
    "ROLLING_PERCENT",
    "SEARCHED",
    "TRAINING_SECONDS",
    "TRAINING_SECONDS_DEFAULT",
    "TUNING_JOBS",
    "TUNING_PARALLEL",
    "VOLUME_GB",
]

DEFINITION_CHARACTERS: Final = 1_048_576
"""API reference, CreatePipeline.PipelineDefinition. The SDK sends 100 KB and more through S3."""

PIPELINE_PARAMETERS: Final = 200
"""API reference, StartPipelineExecution.PipelineParameters: at most 200 items."""

PIPELINE_STEPS: Final = 50
"""Service quotas of Amazon SageMaker, pipelines: 50 steps as long as no higher quota is asked for."""

RETRY_ATTEMPTS: Final = 20
"""Developer guide, "Retry policy for pipeline steps": MaxAttempts; SDK, workflow/retry.py MAX_ATTEMPTS_CAP."""

EXPIRE_AFTER_MINUTES: Final = 14_400
"""Ibid., ExpireAfterMin; SDK, MAX_EXPIRE_AFTER_MIN."""

PROCESSING_ROOT: Final = "/opt/ml/processing"
"""Developer guide, "How Amazon SageMaker Processing configures input and output"."""

TRAINING_SECONDS: Final = 2_419_200
"""API reference, StoppingCondition.MaxRuntimeInSeconds: 28 days."""

TRAINING_SECONDS_DEFAULT: Final = 86_400
"""Ibid.: what a training job may run when nothing is said."""

HYPERPARAMETERS: Final = 100
"""API reference, CreateTrainingJob.HyperParameters: at most 100 items; a tuning job's are static and searched ones."""

SEARCHED: Final = 30
"""Developer guide, "Automatic model tuning resource limits": hyperparameters that can be searched."""

TUNING_JOBS: Final = {"Bayesian": 750, "Random": 10_000, "Hyperband": 10_000, "Grid": 10_000}
"""Ibid.: training jobs of a tuning job, by strategy."""

TUNING_PARALLEL: Final = 100
"""Ibid.: training jobs at a time, by default."""

CANARY_PERCENT: Final = (1, 50)
"""API reference, TrafficRoutingConfig.CanarySize: at most half of the capacity."""

LINEAR_PERCENT: Final = (10, 50)
"""API reference, TrafficRoutingConfig.LinearStepSize."""

ROLLING_PERCENT: Final = (5, 50)
"""API reference, RollingUpdatePolicy.MaximumBatchSize."""

PAYLOAD_MIB: Final = 100
"""API reference, CreateTransformJob.MaxPayloadInMB."""

JOINED_PAYLOAD_MIB: Final = 100
"""Ibid.: MaxConcurrentTransforms * MaxPayloadInMB."""

VOLUME_GB: Final = 16_384
"""API reference, ProcessingClusterConfig.VolumeSizeInGB, and service quotas for training jobs."""
