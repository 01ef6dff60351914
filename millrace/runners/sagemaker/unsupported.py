"""What a job or model of a definition may ask for that can't be rehearsed: known before anything starts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["model_problems", "processing_problems", "training_problems"]


def processing_problems(arguments: Mapping[str, Any]) -> list[str]:
    """Sentences about parts of a CreateProcessingJob request, each with its path; open expressions are passed over."""
    return []


def training_problems(arguments: Mapping[str, Any]) -> list[str]:
    """Sentences about parts of a CreateTrainingJob request, each with its path; open expressions are passed over."""
    return []


def model_problems(container: Mapping[str, Any]) -> list[str]:
    """Sentences about parts of a ContainerDefinition, each with its path; open expressions are passed over."""
    return []
