"""Answers that say that a thing is not there."""

from __future__ import annotations

from typing import Any

__all__ = ["is_missing"]

_CODES = ("ResourceNotFound", "ResourceNotFoundException")
_WORDS = ("Could not find", "does not exist")


def is_missing(error: Any) -> bool:
    """Whether a refusal says that what was asked about does not exist.

    Operations of SageMaker do not agree on the code: some have one for it, some call it a wrong request.

    Args:
        error: A botocore.exceptions.ClientError.
    """
    told = error.response.get("Error", {})
    code, message = told.get("Code"), str(told.get("Message", ""))
    return code in _CODES or (code == "ValidationException" and any(word in message for word in _WORDS))
