"""`python -m benchmarks`: what it writes and what it ends with."""

from __future__ import annotations

import subprocess
import sys
import types
from collections.abc import Callable, Iterator
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from benchmarks import __main__ as command
from benchmarks.plan import SUITES, Case, Contender, Ratio, Setting
from benchmarks.results import read_result
from millrace.errors import DataError

HOME = Path(__file__).parents[2]


@pytest.fixture
def offer(monkeypatch: pytest.MonkeyPatch, contender: Callable[..., Contender]) -> Callable[[float | None], None]:
    """Puts a suite among the others: two that wait, the first ten times as long."""

    def offered(target: float | None) -> None:
        def cases(setting: Setting) -> Iterator[Case]:
            pair = [contender(name, "wait.py", seconds=wait, work=1) for name, wait in (("a", 0.1), ("b", 0.01))]
            ratios = (Ratio(name="a", beside="b", target=target),)
            yield Case(name="wait", title="Waiting", unit="things", contenders=tuple(pair), ratios=ratios)
            if target is None:
                raise DataError("the disk is full")

        module = types.ModuleType("benchmarks.suites.waiting")
        vars(module).update(TITLE="Waiting", ABOUT="Waiting, twice.", cases=cases)
        module.__spec__ = ModuleSpec(module.__name__, None)
        monkeypatch.setitem(sys.modules, module.__name__, module)
        monkeypatch.setattr(command, "SUITES", ("waiting",))

    return offered


@pytest.mark.parametrize(("target", "options", "code"), [(0.001, [], 0), (0.9, [], 1), (0.9, ["--quick"], 0)])
def test_the_code_tells_whether_targets_are_met(
    offer: Callable[[float | None], None], tmp_path: Path, target: float, options: list[str], code: int
) -> None:
    offer(target)
    results = tmp_path / "results"
    assert command.main(["--only", "waiting", "--rounds", "1", "--results", str(results), *options]) == code
    result = read_result(results / "waiting.json")
    assert result.quick == bool(options)
    assert len(result.missed) == code
    assert "Waiting, twice." in (results / "index.html").read_text()
    assert command.main(["--page", "--results", str(results)]) == 0


def test_what_stops_a_suite_is_told_with_what_was_measured(
    offer: Callable[[float | None], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    offer(None)
    assert command.main(["--rounds", "1", "--results", str(tmp_path)]) == 1
    result = read_result(tmp_path / "waiting.json")
    assert result.problem == "the disk is full"
    assert [case.name for case in result.cases] == ["wait"]
    assert "missed: waiting: the disk is full" in capsys.readouterr().out


def test_all_suites_are_there() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--list"], cwd=HOME, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    modules = {path.stem for path in (HOME / "benchmarks" / "suites").glob("*.py")} - {"__init__"}
    assert tuple(line.split()[0] for line in done.stdout.splitlines()) == SUITES
    assert modules == set(SUITES)


def test_a_suite_that_is_not_there_is_refused() -> None:
    with pytest.raises(SystemExit) as caught:
        command.main(["--only", "nothing"])
    assert caught.value.code == 2
