"""What the first host decides, told by hand what the hosts report."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from millrace.runtime.context import Context, Hosts
from millrace.runtime.launcher import run
from millrace.runtime.launcher.coordinator import Coordinator
from millrace.runtime.launcher.environment import ranks_of
from millrace.runtime.launcher.messages import Limits, Member, Order, Report
from millrace.runtime.launcher.processes import RankProcesses


def running(limits: Limits | None = None) -> Coordinator:
    """Two hosts that have just been told to run."""
    coordinator = Coordinator(("a", "b"), 1, 60.0, limits, lambda: None)
    coordinator.answer(Report(host=1))
    assert coordinator.answer(Report(host=0)).action == "run"
    return coordinator


@pytest.mark.parametrize("host", [0, 1])
def test_a_host_that_was_told_to_stop_before_it_started_its_ranks(host: int) -> None:
    coordinator = running()
    coordinator.answer(Report(host=1 - host, generation=1, state="running"))
    order = coordinator.answer(Report(host=host, generation=1, leaving=True))
    assert (order.action, order.cause and order.cause.kind) == ("end", "stopped")


def test_the_others_go_on_without_it() -> None:
    coordinator = running(Limits(fewest=1, most=None, restarts=1, wait_seconds=0.0))
    coordinator.answer(Report(host=0, generation=1, state="running"))
    order = coordinator.answer(Report(host=1, generation=1, leaving=True))
    assert (order.action, order.polite) == ("stop", False)  # ranks that wait for others can't take a step
    order = coordinator.answer(Report(host=0, generation=1))
    assert order.action == "wait"
    order = coordinator.answer(Report(host=0, generation=1))
    assert (order.action, order.generation, order.members) == ("run", 2, (Member(host=0, ranks=1),))


def test_none_is_left_when_one_can_not_be_started(tmp_path: Path) -> None:
    (tmp_path / "scratch").mkdir()
    (tmp_path / "scratch" / "rank-1").touch()
    ranks = ranks_of((Member(host=0, ranks=2),), 0)
    before = set(psutil.Process().children())
    with pytest.raises(FileExistsError):
        RankProcesses(0, tmp_path, [(rank, {}) for rank in ranks])
    assert set(psutil.Process().children()) <= before


def test_reports_while_ranks_end_count_as_having_reached_the_first_host(tmp_path: Path) -> None:
    gone = [False]

    def ask(report: Report) -> Order:
        gone[0] = not gone[0]
        if gone[0]:
            return Order(action="wait")
        raise ConnectionRefusedError

    context = Context(scratch=tmp_path, checkpoints=tmp_path, hosts=Hosts(names=("a", "b"), index=1))
    host = run._Host(context, tmp_path, ask, lambda: ("127.0.0.1", 1, "lo"), 60.0)
    host._reached -= 60  # ranks took that long to end
    host.report()
    assert host._next().action == "wait"
