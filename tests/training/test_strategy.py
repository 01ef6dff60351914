"""Which way ranks train together, with Horovod and without."""

from __future__ import annotations

import dataclasses
import logging
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from millrace.errors import ConfigError, UserError
from millrace.runtime.context import Context, Hosts, Rank
from millrace.training.parameters import TrainParameters
from millrace.training.refusals import check_hosts
from millrace.training.strategy import choose_strategy, hosts_of
from tests.conftest import needed

LOG = logging.getLogger("millrace")
ONE, TWO = Hosts(), Hosts(names=("a", "b"))
BOTH = Hosts(processes=2)


@pytest.fixture
def without_horovod(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "horovod", None)  # as if it were not installed


@pytest.mark.usefixtures("without_horovod")
class TestWithout:
    @pytest.mark.parametrize(
        ("hosts", "strategy"),
        [
            (ONE, "single"),
            (BOTH, "single"),
            (TWO, "multiworker"),
            (Hosts(names=("a", "b"), processes=2), "multiworker"),
        ],
    )
    def test_auto_takes_what_there_is(self, hosts: Hosts, strategy: str, caplog: pytest.LogCaptureFixture) -> None:
        assert choose_strategy(TrainParameters(), hosts, LOG) == strategy
        told = "Horovod is not installed: make horovod. One process a host trains instead of 2"
        assert caplog.messages == ([told] if hosts.processes == 2 else [])

    def test_asked_for_by_name(self) -> None:
        with pytest.raises(ConfigError, match="strategy=horovod: Horovod is not installed: make horovod"):
            choose_strategy(TrainParameters(strategy="horovod"), TWO, LOG)


class TestWith:
    @pytest.mark.parametrize(("hosts", "strategy"), [(ONE, "single"), (BOTH, "horovod"), (TWO, "horovod")])
    def test_auto(self, hosts: Hosts, strategy: str) -> None:
        if find_spec("horovod") is None:
            needed("needs Horovod: make horovod")
        assert choose_strategy(TrainParameters(), hosts, LOG) == strategy

    def test_another_one_by_name(self) -> None:
        assert choose_strategy(TrainParameters(strategy="multiworker"), TWO, LOG) == "multiworker"


@pytest.mark.parametrize(
    ("change", "hosts", "processes", "message"),
    [
        ({"strategy": "single"}, 1, 2, "strategy=single, but 2 ranks are there"),
        ({"strategy": "multiworker"}, 2, 2, "strategy=multiworker takes one process a host"),
        ({"batch_size": 3}, 2, 2, "there are 4 ranks: choose 4 or more"),
    ],
)
def test_refused(change: dict[str, Any], hosts: int, processes: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_hosts(TrainParameters.model_validate(change), hosts, processes)


def under_mpirun(hosts: Hosts, ranks: int) -> Context:
    rank = Rank(index=0, size=ranks, local_index=0, local_size=ranks, launched=False)
    return Context(scratch=Path(), checkpoints=Path(), hosts=hosts, rank=rank)


class TestUnderMpirun:
    @pytest.mark.parametrize("hosts", [ONE, TWO, BOTH])
    def test_its_ranks_count(self, hosts: Hosts) -> None:
        if find_spec("horovod") is None:
            needed("needs Horovod: make horovod")
        assert hosts_of(TrainParameters(), under_mpirun(hosts, 2)) == BOTH

    @pytest.mark.parametrize(
        ("change", "hosts", "message"),
        [
            ({}, TWO, "mpirun has started 3 ranks, but the task is for 2 hosts with 1 processes each"),
            ({"elastic": {"min_workers": 1}}, ONE, "elastic: mpirun has started 3 ranks"),
        ],
    )
    def test_refused(self, change: dict[str, Any], hosts: Hosts, message: str) -> None:
        with pytest.raises(UserError, match=message):
            hosts_of(TrainParameters.model_validate(change), under_mpirun(hosts, 3))

    @pytest.mark.usefixtures("without_horovod")
    def test_nobody_trains_for_itself(self) -> None:
        with pytest.raises(ConfigError, match=r"mpirun has started 2 ranks\. Horovod is not installed"):
            hosts_of(TrainParameters(), under_mpirun(ONE, 2))

    def test_ranks_that_elastic_training_has_lost_are_its_own(self) -> None:
        context = under_mpirun(BOTH, 1)
        own = context.rank and context.rank.model_copy(update={"launched": True})
        assert hosts_of(TrainParameters(), dataclasses.replace(context, rank=own)) == BOTH


def test_compiled_steps_of_several_ranks_are_not_refused() -> None:
    check_hosts(TrainParameters(xla=True, deterministic=False), 2, 2)
