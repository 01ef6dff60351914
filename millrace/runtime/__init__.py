"""What runs inside a container: the task contract, storage, record files and models."""
