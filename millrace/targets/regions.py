"""What follows from a region's name."""

from __future__ import annotations

__all__ = ["partition_of"]

_PARTITIONS = {
    "cn-": "aws-cn",
    "us-gov-": "aws-us-gov",
    "us-iso-": "aws-iso",
    "us-isob-": "aws-iso-b",
    "us-isof-": "aws-iso-f",
    "eu-isoe-": "aws-iso-e",
    "eusc-": "aws-eusc",
}


def partition_of(region: str) -> str:
    """The partition of AWS that a region is in: the second part of its ARNs."""
    return next((partition for start, partition in _PARTITIONS.items() if region.startswith(start)), "aws")
