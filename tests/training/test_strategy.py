"""Which way ranks train together, with Horovod and without."""

from __future__ import annotations

import logging
import sys
from importlib.util import find_spec
from typing import Any

import pytest

from millrace.errors import ConfigError, UserError
from millrace.runtime.context import Hosts
from millrace.training.parameters import TrainParameters
from millrace.training.refusals import check_hosts
from millrace.training.strategy import choose_strategy
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


def test_compiled_steps_of_several_ranks_are_not_refused() -> None:
    check_hosts(TrainParameters(xla=True, deterministic=False), 2, 2)
