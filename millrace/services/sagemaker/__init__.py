"""Talk to SageMaker: pipelines, runs, schedules, endpoints."""
