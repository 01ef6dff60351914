"""What a person tells about the place where a pipeline shall run: pydantic data, nothing else."""
