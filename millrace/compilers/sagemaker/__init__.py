"""From a pipeline to SageMaker's own pipeline definition."""
