"""Hosts that start ranks: they end well together, and when one fails all say why it did."""

from __future__ import annotations

import signal
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from millrace.runtime.task import TaskRequest
from tests.runtime.launcher.groups import Group, group_of
from tests.runtime.launcher.walkers import WalkParameters, walk

STEPS = 5


def asked(**parameters: Any) -> TaskRequest:
    checked = WalkParameters.model_validate(parameters)
    return TaskRequest(name="walk", component=walk.spec.entry, parameters=checked.model_dump(mode="json"), cores=2)


def taken(group: Group) -> list[int]:
    """The steps that were taken, in their order."""
    lines = (group.directory(0) / "checkpoints" / "taken.txt").read_text().splitlines()
    return [int(line.split()[0]) for line in lines]


class TestTogether:
    def test_ranks_of_one_host(self, tmp_path: Path) -> None:
        with group_of(tmp_path, asked(), processes=3) as group:
            assert group.wait() == [0]
            assert group.metrics()["total"] == sum(range(STEPS))
            assert (group.directory(0) / "outputs" / "path" / "steps.txt").read_text() == f"{sum(range(STEPS))}\n"
            assert group.log().count("epoch=") == STEPS
            for rank in range(3):
                assert f"[{rank}] from step 0 of 3 ranks" in group.log()
            assert not (group.directory(0) / "scratch").exists()

    def test_ranks_of_two_hosts_of_which_one_is_late(self, tmp_path: Path) -> None:
        with group_of(tmp_path, asked(), hosts=2, start=(1,)) as group:
            group.wait_for("waiting for the first host 127.0.0.1:", host=1)
            group.start(0)
            assert group.wait() == [0, 0]
            assert [group.metrics(host)["total"] for host in (0, 1)] == [sum(range(STEPS))] * 2
            assert "epoch=" in group.log(0)
            assert "epoch=" not in group.log(1)
            assert "[2] from step 0 of 4 ranks" in group.log(1)


class TestFailing:
    @pytest.mark.parametrize(
        ("kind", "code", "failure", "message"),
        [
            ("raise", 2, "user", "there is a hole in the road"),
            ("crash", 1, "error", "RuntimeError: unforeseen"),
            ("kill", 1, "error", "the worker vanished: it was ended by SIGKILL"),
            ("exit", 1, "error", "it ended early, without a result"),
        ],
    )
    def test_all_end_with_the_first_cause(
        self, tmp_path: Path, kind: str, code: int, failure: str, message: str
    ) -> None:
        trouble = {"rank": 2, "kind": kind}
        with group_of(tmp_path, asked(trouble=trouble), hosts=2) as group:
            assert group.wait() == [code, code]
            for told, words in group.failures():
                assert told == failure
                assert words.startswith(f"rank 2 on {group.hosts[0].names[1]}: {message}")
            assert all(f"error: rank 2 on {group.hosts[0].names[1]}: {message}" in group.log(host) for host in (0, 1))

    def test_a_rank_that_hangs(self, tmp_path: Path) -> None:
        with group_of(tmp_path, asked(trouble={"kind": "hang"})) as group:
            assert group.wait() == [75]
            told = "rank 1: it did not come as far as the others within 20 s (peer_seconds), and does not answer"
            assert group.failures() == [("transient", told)]

    def test_the_first_host_is_switched_off(self, tmp_path: Path) -> None:  # another one: in containers
        with group_of(tmp_path, asked(steps=10_000), hosts=2) as group:
            group.wait_for("epoch=2")
            group.kill_host(0)
            assert group.wait()[1] == 75
            kind, message = group.failures()[1]
            assert kind == "transient"
            assert message.startswith(f"the first host {group.hosts[0].names[0]} ended or can't be reached any more")

    def test_a_host_that_never_comes(self, tmp_path: Path) -> None:
        with group_of(tmp_path, asked(peer_seconds=2), hosts=3, start=(0, 2)) as group:
            assert group.wait() == [75, 75]
            name = group.hosts[0].names[1]
            assert [message for _, message in group.failures()][::2] == [
                f"{group.hosts[0].names[0]}: {name} did not come within 2 s (peer_seconds)"
            ] * 2

    def test_nobody_listens(self, tmp_path: Path) -> None:
        with group_of(tmp_path, asked(peer_seconds=2), hosts=2, start=(1,)) as group:
            assert group.wait() == [75]
            assert "did not come within 2 s (peer_seconds): [Errno 111]" in group.failures()[1][1]

    def test_the_port_is_taken(self, tmp_path: Path) -> None:
        with group_of(tmp_path, asked(), hosts=2, start=()) as group, socket.socket() as other:
            other.bind(("", int(group.hosts[0].names[0].partition(":")[2])))
            other.listen()
            group.start(0)
            assert group.wait() == [2]
            assert "set MILLRACE_PORT to one that is free" in group.failures()[0][1]


class TestStopping:
    @pytest.mark.parametrize("first", [0, 1])
    def test_all_stop_with_a_checkpoint_and_go_on_from_it(self, tmp_path: Path, first: int) -> None:
        request = asked(steps=100)
        with group_of(tmp_path, request, hosts=2) as group:
            group.wait_for("epoch=3")
            group.process(first).send_signal(signal.SIGTERM)
            assert group.wait() == [143, 143]
            before = taken(group)
            for host in (0, 1):
                group.start(host)
            assert group.wait() == [0, 0]
            assert f"[0] from step {len(before)} of 4 ranks" in group.log()
            assert taken(group) == list(range(100))

    def test_nothing_is_left_of_a_killed_host(self, tmp_path: Path) -> None:
        with group_of(tmp_path, asked(steps=10_000)) as group:
            group.wait_for("epoch=2")
            ranks = group.ranks(0)
            group.process(0).kill()
            deadline = time.monotonic() + 30
            while any(rank.is_running() and rank.status() != "zombie" for rank in ranks):
                assert time.monotonic() < deadline
                time.sleep(0.05)


class TestElastic:
    def test_a_killed_rank_is_started_again(self, tmp_path: Path) -> None:
        with group_of(tmp_path, asked(min_workers=1, trouble={"kind": "kill"}), hosts=2) as group:
            assert group.wait() == [0, 0]
            assert taken(group) == list(range(STEPS))
            assert "rank 1 on" in group.log()
            assert group.log().count("4 ranks on 2 hosts") == 2

    def test_a_mistake_is_not_tried_again(self, tmp_path: Path) -> None:
        with group_of(tmp_path, asked(min_workers=1, trouble={"kind": "raise"})) as group:
            assert group.wait() == [2]
            assert group.log().count("2 ranks on 1 host") == 1

    def test_a_lost_host_is_missed_and_taken_in_when_it_comes_back(self, tmp_path: Path) -> None:
        alone, together = "2 ranks on 1 host (1 missing)", "4 ranks on 2 hosts"
        with group_of(tmp_path, asked(steps=100_000, min_workers=2, wait_seconds=2), hosts=2) as group:
            group.wait_for(together)
            group.kill_host(1)
            group.wait_for(alone, count=group.log().count(alone) + 1)
            group.start(1)
            group.wait_for(together, count=2)
            group.wait_for("[2] from step", host=1)
            group.process(0).send_signal(signal.SIGTERM)
            assert group.wait() == [143, 143]
            steps = taken(group)
            assert steps == list(range(len(steps)))

    def test_a_host_that_is_told_to_leave_costs_no_step(self, tmp_path: Path) -> None:
        with group_of(tmp_path, asked(steps=60, seconds=0.05, min_workers=2), hosts=2) as group:
            group.wait_for("epoch=5")
            group.process(1).send_signal(signal.SIGTERM)
            assert group.wait() == [0, 143]
            assert taken(group) == list(range(60))

    def test_too_few_are_left(self, tmp_path: Path) -> None:
        with group_of(tmp_path, asked(steps=10_000, peer_seconds=3, min_workers=3), hosts=2) as group:
            group.wait_for("epoch=2")
            group.kill_host(1)
            assert group.wait()[0] == 75
            assert "fewer than min_workers are left" in group.failures()[0][1]

    def test_no_more_than_the_most(self, tmp_path: Path) -> None:
        with group_of(tmp_path, asked(min_workers=1, max_workers=3), hosts=2) as group:
            assert group.wait() == [0, 0]
            assert "[0] from step 0 of 3 ranks" in group.log(0)
