"""Commands of the target `sagemaker`."""
