"""What a tuning job tries, and what it stops."""

from __future__ import annotations

import itertools
from statistics import fmean
from typing import Any

import pytest

from millrace.errors import TaskFailedError
from millrace.runners.sagemaker.search import Range, falls_behind, open_search, read_ranges

RANGES = read_ranges(
    {
        "ContinuousParameterRanges": [
            {"Name": "rate", "MinValue": "0.001", "MaxValue": "1", "ScalingType": "Logarithmic"},
            {"Name": "momentum", "MinValue": "0.5", "MaxValue": "0.999", "ScalingType": "ReverseLogarithmic"},
        ],
        "IntegerParameterRanges": [{"Name": "layers", "MinValue": "1", "MaxValue": "4"}],
        "CategoricalParameterRanges": [{"Name": "optimizer", "Values": ["adam", "sgd"]}],
    }
)
CATEGORIES = [Range("a", values=("1", "2")), Range("b", values=("x", "y", "z"))]


@pytest.mark.parametrize("strategy", ["Random", "Bayesian", "Hyperband"])
def test_values_are_texts_in_their_ranges_and_the_same_for_a_seed(strategy: str) -> None:
    def points() -> list[dict[str, str]]:
        search = open_search(strategy, RANGES, 1, maximize=True)
        found = []
        for number in range(20):
            point = search.ask(number)
            assert point is not None
            search.tell(number, float(point["rate"]) if number % 3 else None)
            found.append(point)
        return found

    found = points()
    assert found == points()
    for point in found:
        assert 0.001 <= float(point["rate"]) <= 1
        assert 0.5 <= float(point["momentum"]) <= 0.999
        assert point["layers"] in {"1", "2", "3", "4"}
        assert point["optimizer"] in {"adam", "sgd"}
    assert len({tuple(point.values()) for point in found}) == 20


def test_scaling_decides_what_the_middle_is() -> None:
    by_name = {item.name: item for item in RANGES}
    assert float(by_name["rate"].at(0.5)) == pytest.approx(0.0316, rel=0.01)
    assert 1 - float(by_name["momentum"].at(0.5)) == pytest.approx(0.02236, rel=0.01)
    assert by_name["layers"].at(0.5) in {"2", "3"}
    for name, place in itertools.product(("rate", "momentum"), (0.0, 0.3, 1.0)):
        assert by_name[name].place(by_name[name].at(place)) == pytest.approx(place, abs=1e-6)
    assert by_name["rate"].place("2") is None
    assert by_name["rate"].place("much") is None


def test_a_bayesian_search_learns_from_its_parents() -> None:
    def asked(parents: int) -> float:
        search = open_search("Bayesian", [Range("x", high=1)], 1, maximize=True)
        for step in range(parents):
            search.learn({"x": str(step / parents)}, -abs(step / parents - 0.8))
        search.learn({"x": "7"}, 100.0)  # outside: means nothing here
        points = [search.ask(number) for number in range(8)]
        return fmean(abs(float(point["x"]) - 0.8) for point in points if point)

    assert asked(40) < 0.15 < asked(0)


def test_a_grid_has_every_combination_once() -> None:
    search = open_search("Grid", CATEGORIES, 0, maximize=True)
    points = list(iter(lambda: search.ask(0), None))
    assert [tuple(point.values()) for point in points if point] == list(itertools.product("12", "xyz"))
    with pytest.raises(TaskFailedError, match="categorical ranges only, given layers"):
        open_search("Grid", RANGES, 0, maximize=True)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"MinValue": "2", "MaxValue": "1"}, "MinValue 2 is above MaxValue 1"),
        ({"MinValue": "a", "MaxValue": "1"}, "are numbers"),
        ({"MinValue": "0", "MaxValue": "1", "ScalingType": "Logarithmic"}, "above 0"),
        ({"MinValue": "0", "MaxValue": "1", "ScalingType": "ReverseLogarithmic"}, "below 1"),
        (None, "nothing to search"),
    ],
)
def test_ranges_that_are_none(given: dict[str, Any] | None, told: str) -> None:
    with pytest.raises(TaskFailedError, match=told):
        read_ranges({"ContinuousParameterRanges": [{"Name": "x", **given}]} if given else {})


@pytest.mark.parametrize(
    ("values", "behind"),
    [
        ([0.4], True),  # averages after one epoch: 0.1, 0.5, 0.9
        ([0.6], False),
        ([0.9, 0.35], True),  # after two: 0.2, 0.6
        ([0.1, 0.45], False),
        ([0.2, 0.95, 0.2], False),  # nobody got so far
        ([], False),
    ],
)
def test_a_job_is_stopped_when_it_is_worse_than_the_median(values: list[float], behind: bool) -> None:
    earlier = [[0.1, 0.3], [0.5, 0.7], [0.9]]
    assert falls_behind(values, earlier, maximize=True) is behind
    mirrored = [[-value for value in other] for other in earlier]
    assert falls_behind([-value for value in values], mirrored, maximize=False) is behind


def test_nobody_is_stopped_without_others() -> None:
    assert not falls_behind([0.1], [], maximize=True)
