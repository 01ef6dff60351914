"""What runs in a container of SageMaker, and calls to its endpoints."""
