"""A layered drawing of a directed graph: where nodes and edges go, in pixels."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from graphlib import TopologicalSorter
from itertools import pairwise
from typing import NamedTuple

__all__ = ["Layout", "Point", "Size", "lay_out"]

_ROW_GAP = 38.0
_NODE_GAP = 18.0
_MARGIN = 6.0
_BEND = "@"
"""Joins a node and a layer to the name of the point where the node's edges pass that layer."""


class Point(NamedTuple):
    """Pixels from the top left corner."""

    x: float
    y: float


class Size(NamedTuple):
    """Pixels."""

    width: float
    height: float


class Layout(NamedTuple):
    """Where everything is."""

    size: Size
    centres: dict[str, Point]
    """Of the nodes."""
    paths: dict[tuple[str, str], str]
    """SVG path data by edge, (from, to)."""


def lay_out(upstream: Mapping[str, Collection[str]], sizes: Mapping[str, Size]) -> Layout:
    """Place nodes in rows below all they depend on, with few crossings and nearly straight edges.

    Args:
        upstream: The nodes that each node depends on; no cycles.
        sizes: Width and height of each node.
    """
    rows = _generations(upstream)
    level = {name: index for index, row in enumerate(rows) for name in row}
    routes: dict[tuple[str, str], list[str]] = {}
    for target, sources in upstream.items():
        for source in sorted(sources):
            bends = {f"{source}{_BEND}{index}": index for index in range(level[source] + 1, level[target])}
            for bend, index in bends.items():
                if bend not in level:
                    rows[index].append(bend)
            level |= bends
            routes[source, target] = [source, *bends, target]
    hops = sorted({hop for route in routes.values() for hop in pairwise(route)})
    all_sizes = {name: sizes.get(name, Size(6.0, 0.0)) for row in rows for name in row}
    rows = _untangled(rows, hops)
    centres_x = _straightened(rows, hops, all_sizes)
    tops, heights = _bands(rows, all_sizes)
    left = min(centres_x[name] - all_sizes[name].width / 2 for name in level) - _MARGIN
    points = {
        name: Point(centres_x[name] - left, tops[index] + heights[index] / 2)
        for index, row in enumerate(rows)
        for name in row
    }
    right = max(point.x + all_sizes[name].width / 2 for name, point in points.items())
    bands = {name: heights[level[name]] if _BEND in name else sizes[name].height for name in level}
    paths = {edge: _path([(points[name], bands[name]) for name in route]) for edge, route in routes.items()}
    size = Size(round(right + _MARGIN, 1), round(tops[-1] + heights[-1] + _MARGIN, 1))
    return Layout(size, {name: points[name] for name in upstream}, paths)


def _generations(upstream: Mapping[str, Collection[str]]) -> list[list[str]]:
    position = {name: index for index, name in enumerate(upstream)}
    sorter = TopologicalSorter(upstream)
    sorter.prepare()
    rows = []
    while sorter.is_active():
        row = sorted(sorter.get_ready(), key=position.__getitem__)
        rows.append(row)
        sorter.done(*row)
    return rows


def _neighbours(hops: Iterable[tuple[str, str]]) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    above: dict[str, list[str]] = {}
    below: dict[str, list[str]] = {}
    for source, target in hops:
        above.setdefault(target, []).append(source)
        below.setdefault(source, []).append(target)
    return above, below


def _untangled(rows: list[list[str]], hops: Sequence[tuple[str, str]]) -> list[list[str]]:
    """Rows in the order with the fewest crossings that a few barycentre sweeps find."""
    above, below = _neighbours(hops)
    best, fewest = rows, _crossings(rows, hops)
    for sweep in range(12):
        if fewest == 0:
            break
        downward = sweep % 2 == 0
        neighbours = above if downward else below
        rows = [list(row) for row in rows]
        fixed: dict[str, int] = {}
        for row in rows if downward else reversed(rows):
            own = {name: index for index, name in enumerate(row)}
            around = {name: [fixed[other] for other in neighbours.get(name, ())] for name in row}
            weight = {name: sum(places) / len(places) if places else own[name] for name, places in around.items()}
            row.sort(key=lambda name: (weight[name], own[name]))
            fixed |= {name: index for index, name in enumerate(row)}
        crossings = _crossings(rows, hops)
        if crossings < fewest:
            best, fewest = rows, crossings
    return best


def _crossings(rows: Sequence[Sequence[str]], hops: Iterable[tuple[str, str]]) -> int:
    place = {name: (index, position) for index, row in enumerate(rows) for position, name in enumerate(row)}
    by_row: dict[int, list[tuple[int, int]]] = {}
    for source, target in hops:
        by_row.setdefault(place[source][0], []).append((place[source][1], place[target][1]))
    return sum(
        (first[0] - second[0]) * (first[1] - second[1]) < 0
        for edges in by_row.values()
        for index, first in enumerate(edges)
        for second in edges[index + 1 :]
    )


def _straightened(
    rows: Sequence[Sequence[str]], hops: Iterable[tuple[str, str]], sizes: Mapping[str, Size]
) -> dict[str, float]:
    """Centres along the rows: each near the mean of its neighbours, none overlapping."""
    above, below = _neighbours(hops)
    x = {name: 0.0 for row in rows for name in row}
    for sweep in range(100):
        for row in rows if sweep % 2 == 0 else reversed(rows):
            wanted = []
            for name in row:
                others = [*above.get(name, ()), *below.get(name, ())]
                wanted.append(sum(x[other] for other in others) / len(others) if others else x[name])
            x |= dict(zip(row, _spread(wanted, [sizes[name].width + _NODE_GAP for name in row]), strict=True))
    return x


def _spread(wanted: Sequence[float], widths: Sequence[float]) -> list[float]:
    """The positions nearest to `wanted` (least squares) that keep order and distance: pooled violators."""
    offsets = [0.0]
    for left, right in pairwise(widths):
        offsets.append(offsets[-1] + (left + right) / 2)
    pools: list[tuple[float, int]] = []
    for value, offset in zip(wanted, offsets, strict=True):
        mean, count = value - offset, 1
        while pools and pools[-1][0] >= mean:
            other, size = pools.pop()
            mean, count = (mean * count + other * size) / (count + size), count + size
        pools.append((mean, count))
    means = [mean for mean, count in pools for _ in range(count)]
    return [mean + offset for mean, offset in zip(means, offsets, strict=True)]


def _bands(rows: Sequence[Sequence[str]], sizes: Mapping[str, Size]) -> tuple[list[float], list[float]]:
    heights = [max(sizes[name].height for name in row) for row in rows]
    tops, top = [], _MARGIN
    for height in heights:
        tops.append(top)
        top += height + _ROW_GAP
    return tops, heights


def _path(stops: Sequence[tuple[Point, float]]) -> str:
    """A smooth line from the bottom of the first stop to the top of the last, straight across those between."""
    (first, height), *rest = stops
    parts = [f"M{first.x:.1f},{first.y + height / 2:.1f}"]
    x, y = first.x, first.y + height / 2
    for point, band in rest:
        top = point.y - band / 2
        middle = (y + top) / 2
        parts.append(f"C{x:.1f},{middle:.1f} {point.x:.1f},{middle:.1f} {point.x:.1f},{top:.1f}")
        x, y = point.x, point.y + band / 2
        parts.append(f"V{y:.1f}")
    return " ".join(parts[:-1])
