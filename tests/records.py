"""Which records tests are made with: so many of each class in each channel, no two the same."""

from __future__ import annotations

from millrace.runtime.schemas import CHANNELS, Channel

Sizes = tuple[int, int, int]
"""Records of each of three classes."""


def numbered(train: Sizes, validation: Sizes, test: Sizes) -> dict[Channel, list[list[tuple[int, int]]]]:
    """Class and number of each record, in two files a channel, or none: no number comes twice in a class."""
    channels: dict[Channel, list[list[tuple[int, int]]]] = {}
    first = 0
    for channel, sizes in zip(CHANNELS, (train, validation, test), strict=True):
        records = [(label, first + number) for label, size in enumerate(sizes) for number in range(size)]
        channels[channel] = [records[::2], records[1::2]] if records else []
        first += max(sizes)
    return channels
