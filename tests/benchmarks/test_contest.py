"""Contenders are run in turn, each in a process of its own, and judged by the ratios of the rounds."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from benchmarks.contest import measure_case, run_contender
from benchmarks.plan import Case, Contender, Limit, Measured, Ratio, Setting
from benchmarks.results import CaseResult, Check
from millrace.errors import ConfigError, TaskFailedError

Make = Callable[..., Contender]
Measure = Callable[[Case], CaseResult]


def test_the_faster_one_has_the_ratio_of_its_rounds(contender: Make, measured: Measure) -> None:
    quick, slow = (contender(name, "wait.py", seconds=wait, work=10) for name, wait in (("quick", 0.01), ("slow", 0.2)))
    found = measured(
        Case(
            name="waiting",
            title="Waiting",
            unit="things",
            contenders=(quick, slow),
            ratios=(
                Ratio(name="quick", beside="slow", target=2.0),
                Ratio(name="slow", beside="quick", target=0.9),
                Ratio(name="quick", beside="slow", metric="seconds", target=2.0),
                Ratio(name="quick", beside="slow", metric="peak_bytes"),
            ),
        )
    )
    first, second = found.contenders
    assert [one.work for one in (*first.rounds, *second.rounds)] == [10] * 4
    faster, slower, sooner, smaller = found.ratios
    pairs = list(zip(first.rounds, second.rounds, strict=True))
    assert faster.rounds == pytest.approx([theirs.seconds / mine.seconds for mine, theirs in pairs])
    assert sooner.rounds == pytest.approx(faster.rounds)
    assert (faster.met, slower.met, sooner.met, smaller.met) == (True, False, True, None)
    assert slower.spread is not None
    assert slower.spread.most < 0.9
    assert [check.passed for check in found.checks] == [True]


def test_limits_hold_in_every_round(contender: Make, measured: Measure) -> None:
    limits = (
        Limit(name="one", figure="total", least=4950, most=4950),
        Limit(name="one", figure="total", most=4949),
        Limit(name="one", figure="misspelt", most=1),
    )
    adding = contender("one", "add.py", count=100)
    found = measured(Case(name="add", title="Adding", unit="numbers", contenders=(adding,), limits=limits))
    assert [limit.met for limit in found.limits] == [True, False, False]
    assert found.limits[0].rounds == (4950.0, 4950.0)
    assert found.checks == ()  # nobody to compare with


def test_different_work_is_told(contender: Make, measured: Measure) -> None:
    pair = contender("more", "add.py", count=100), contender("less", "add.py", count=99)
    found = measured(Case(name="add", title="Adding", unit="numbers", contenders=pair))
    assert found.checks[0].passed is False
    assert "more 100, less 99" in found.checks[0].detail


def test_memory_is_that_of_the_process_and_its_children(contender: Make) -> None:
    plain = run_contender(contender("plain", "add.py", count=10)).measurement
    large = run_contender(contender("large", "add.py", count=10, bytes=200_000_000)).measurement
    parent = run_contender(contender("parent", "children.py", bytes=100_000_000)).measurement
    for one in (large, parent):
        assert one.peak_bytes is not None
        assert plain.peak_bytes is not None
        assert 190_000_000 < one.peak_bytes - plain.peak_bytes < 260_000_000


def test_a_process_has_the_cores_it_is_given(contender: Make) -> None:
    before = os.sched_getaffinity(0)
    told = run_contender(contender("one", "wait.py", seconds=0.01, work=1)).measurement
    assert told.more["cores"] == 1
    assert os.sched_getaffinity(0) == before
    many = contender("many", "wait.py", seconds=0.01, work=1).model_copy(update={"cores": len(before) + 1})
    with pytest.raises(TaskFailedError, match=f"{len(before) + 1} processor cores are asked for"):
        run_contender(many)


def test_one_that_fails_has_no_figures_and_others_go_on(contender: Make, measured: Measure) -> None:
    bad, good = contender("bad", "fails.py"), contender("good", "add.py", count=10)
    ratios = Ratio(name="good", beside="bad", target=1.0), Ratio(name="bad", beside="good", target=1.0)
    found = measured(Case(name="add", title="Adding", unit="numbers", contenders=(bad, good), ratios=ratios))
    failed, whole = found.contenders
    assert "no such thing here" in (failed.problem or "")
    assert failed.rounds == ()
    assert len(whole.rounds) == 2
    assert [ratio.met for ratio in found.ratios] == [None, False]  # a peer that is missing; one that we name


def test_one_that_takes_too_long_is_ended(contender: Make) -> None:
    slow = contender("slow", "wait.py", seconds=60, work=1).model_copy(update={"limit_seconds": 0.5})
    with pytest.raises(TaskFailedError, match="ended with -9"):
        run_contender(slow)


def test_the_profile_tells_where_the_time_went(contender: Make) -> None:
    profile = run_contender(contender("one", "add.py", count=1000, times=50), profile=True).profile
    assert "{built-in method builtins.sum}" in profile


def test_only_scripts_of_ours_are_profiled(contender: Make, measured: Measure) -> None:
    ours = contender("millrace", "add.py", count=1000, times=50)
    other = contender("other", "add.py", count=1000)
    case = Case(
        name="add", title="Adding", unit="numbers", contenders=(ours, other),
        ratios=(Ratio(beside="other", target=1e6),),
    )  # fmt: skip
    found = measured(case)
    assert found.ratios[0].met is False
    assert found.profile == ""


def test_quick_runs_judge_nothing_and_check_all(contender: Make, setting: Setting) -> None:
    pair = contender("millrace", "wait.py", seconds=0.1, work=1), contender("other", "wait.py", seconds=0.01, work=1)

    def checks(found: Measured) -> Iterator[Check]:
        yield Check(name="both were measured", passed=all(found[one.name] for one in pair))

    case = Case(
        name="wait", title="Waiting", unit="things", contenders=pair, checks=checks,
        ratios=(Ratio(beside="other", target=5.0),), limits=(Limit(figure="seconds", most=0.0),),
    )  # fmt: skip
    found = measure_case(case, replace(setting, quick=True))
    assert [found.ratios[0].met, found.limits[0].met] == [None, None]
    assert [check.passed for check in found.checks] == [True, True]


def test_a_check_by_a_contender(contender: Make, setting: Setting) -> None:
    adding = contender("one", "add.py", count=10)
    assert setting.check("reads all", adding, 10) == Check(name="reads all", passed=True, detail="10 of 10")
    assert setting.check("reads all", adding, 11).passed is False
    assert setting.check("reads all", contender("bad", "fails.py"), 1).passed is False


def test_a_misspelt_name_is_refused(contender: Make, measured: Measure) -> None:
    one = contender("one", "add.py", count=10)
    with pytest.raises(ConfigError, match="a ratio names 'two', the contenders are"):
        measured(Case(name="add", title="", unit="", contenders=(one,), ratios=(Ratio(name="one", beside="two"),)))
