"""Start this host's ranks, follow them and those of the other hosts, and end together."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from millrace.errors import MillraceError, TaskFailedError, TransientError, UserError
from millrace.runtime.context import Context, Hosts, Result
from millrace.runtime.launcher.coordinator import REPORT_SECONDS, Coordinator
from millrace.runtime.launcher.environment import ranks_of, variables
from millrace.runtime.launcher.messages import Cause, Limits, Order, Report
from millrace.runtime.launcher.network import ask, card_of, own_address, place_of, resolve
from millrace.runtime.launcher.processes import RankProcesses
from millrace.runtime.launcher.server import Store, serving

__all__ = ["run_ranks"]

_LOOK_SECONDS = 0.05
_GONE_SECONDS = 10.0
"""How long the first host may not be reached."""
_FAREWELL_SECONDS = 15.0
_GRACE_SECONDS = 4.0
"""Of ranks whose peers are gone: there is nothing left for them to do."""
_POLITE_SECONDS = 100.0
"""SageMaker kills 120 s after it asked to stop, and the cause is still to be written."""
_NOTE_SECONDS = 30.0
_PATIENCE_SECONDS = 5.0
"""Others are named when they have not come after that."""
_TERMINATED = 128 + signal.SIGTERM

Ask = Callable[[Report], Order]
Meeting = Callable[[], tuple[str, int, str]]
"""Gives address and port of the store, and the network card that leads to it."""


def run_ranks(context: Context, seconds: float, limits: Limits | None = None) -> Result:
    """Run the task of a context as ranks: its host's here, the other hosts' by the same call there.

    Args:
        context: The host's own; `context.hosts` says how many ranks there are.
        seconds: How long hosts and ranks wait for each other.
        limits: With how many ranks to go on when some are lost; None ends when one is.

    Returns:
        What the rank returned that writes this host's outputs. Only the first host's are to be kept.

    Raises:
        MillraceError: Of the kind that the first failure was, with its host, its rank and its own message.
        SystemExit: With 143 when a host was told to stop; a checkpoint was written if one could be.
    """
    if context.directory is None:
        raise MillraceError("ranks are started on a task directory, and this context has none")
    hosts = context.hosts
    if hosts.index == 0:
        with _first(hosts, seconds, limits) as (coordinator, answer, meeting):
            host = _Host(context, context.directory, answer, meeting, seconds)
            try:
                return host.run()
            finally:
                _say_goodbye(coordinator, host)
    address, port = _await_first(context, seconds)
    found = address, port, _card(own_address(address, port))
    return _Host(context, context.directory, lambda report: ask(address, port, report), lambda: found, seconds).run()


@contextlib.contextmanager
def _first(hosts: Hosts, seconds: float, limits: Limits | None) -> Iterator[tuple[Coordinator, Ask, Meeting]]:
    """Serve the store and give orders."""
    store = Store()
    coordinator = Coordinator(hosts.names, hosts.processes, seconds, limits, store.clear)
    here: list[str] = []

    def answer(report: Report, address: str) -> Order:
        here[:] = [address]  # by which the other hosts reach this one, whatever its own name resolves to
        return coordinator.answer(report)

    alone = len(hosts.names) == 1
    wanted = 0 if alone else place_of(hosts.names[0])[1]
    with serving("127.0.0.1" if alone else "", wanted, store, answer) as port:
        yield coordinator, coordinator.answer, lambda: ("127.0.0.1", port, _card((here or ["127.0.0.1"])[0]))


def _say_goodbye(coordinator: Coordinator, host: _Host) -> None:
    """Serve until all hosts that are there know how it ended."""
    coordinator.give_up(Cause(host=0, kind="error", message="it ended without a word"))
    deadline = time.monotonic() + _FAREWELL_SECONDS
    while time.monotonic() < deadline and not coordinator.settled():
        host.report()
        time.sleep(REPORT_SECONDS / 2)


def _await_first(context: Context, seconds: float) -> tuple[str, int]:
    """Find the first host, whose name may resolve late, and which may listen late."""
    name, port = place_of(context.hosts.names[0])
    deadline = time.monotonic() + seconds
    noted = 0.0
    with _stop_noted() as told:
        while not told.is_set():
            try:
                address = resolve(name)
                ask(address, port, Report(host=context.hosts.index))
                return address, port
            except OSError as error:
                now = time.monotonic()
                if now > deadline:
                    raise TransientError(
                        f"the first host {name}:{port} did not come within {seconds:g} s (peer_seconds): {error}"
                    ) from error
                if now - noted > _NOTE_SECONDS:
                    noted = now
                    context.log.info("waiting for the first host %s:%d: %s", name, port, error)
                told.wait(REPORT_SECONDS)
    raise SystemExit(_TERMINATED)


def _card(own: str) -> str:
    """The card with one of this host's addresses; the platform's word counts more, where it has given one."""
    return os.environ.get("HOROVOD_GLOO_IFACE") or card_of(own)


class _Host:
    """This host: its ranks, if there are any at the moment, and what it knows."""

    def __init__(self, context: Context, directory: Path, ask_first: Ask, meeting: Meeting, seconds: float) -> None:
        self.hosts = context.hosts
        self.cores = context.cores
        self.log = context.log
        self.directory = directory
        self.seconds = seconds
        self.ranks: RankProcesses | None = None
        self.generation = 0
        self.cause: Cause | None = None
        """Why ranks could not be started."""
        self.told = threading.Event()
        """Set when this host is told to stop."""
        self._ask = ask_first
        self._meeting = meeting
        self._reached = time.monotonic()
        self._noted = time.monotonic() - _NOTE_SECONDS + _PATIENCE_SECONDS

    def run(self) -> Result:
        """Follow orders until it is over."""
        try:
            with _stop_noted(self.told):
                while (order := self._next()).action != "end":
                    self._follow(order)
                    if self.told.is_set() and self.ranks is None and self.hosts.index:
                        with contextlib.suppress(OSError):
                            self.report()  # else the others wait for this host
                        raise SystemExit(_TERMINATED)
                self._end_ranks(_grace(order))
                if order.cause is not None:
                    raise _error(order, self.hosts)
                if self.ranks is None:
                    raise TransientError("the other hosts went on without this one, which was lost for a while")
                return self.ranks.result()
        finally:
            self._end_ranks(0)

    def report(self) -> Order:
        """Tell the first host how this one is, and get its order.

        Raises:
            OSError: When the first host can't be reached.
        """
        state = self.ranks.state if self.ranks else "failed" if self.cause else "idle"
        order = self._ask(
            Report.model_validate(
                {
                    "host": self.hosts.index,
                    "generation": self.generation,
                    "state": state,
                    "cause": self.ranks.cause if self.ranks else self.cause,
                    "ended": self.ranks.ended if self.ranks else (),
                    "leaving": self.told.is_set(),
                }
            )
        )
        self._reached = time.monotonic()
        return order

    def _next(self) -> Order:
        """The next order: at once when something has happened here, else when it is time."""
        self._pause()
        while True:
            try:
                return self.report()
            except OSError as error:
                if time.monotonic() - self._reached > _GONE_SECONDS:
                    first = self.hosts.names[0]
                    raise TransientError(
                        f"the first host {first} ended or can't be reached any more ({error}); its own log says why"
                    ) from error
                time.sleep(REPORT_SECONDS)

    def _pause(self) -> None:
        due = time.monotonic() + REPORT_SECONDS
        before = self.ranks.state if self.ranks else "idle"
        told = self.told.is_set()
        while time.monotonic() < due:
            time.sleep(_LOOK_SECONDS)
            if self.told.is_set() and self.ranks is not None:
                self.ranks.ask_to_stop()
            if self.told.is_set() != told or (self.ranks and self.ranks.state != before):
                return

    def _follow(self, order: Order) -> None:
        inside = any(member.host == self.hosts.index for member in order.members)
        if order.action == "run" and order.generation == self.generation:
            return
        if order.action == "wait":
            self._note_missing(order)
        if self.ranks is not None:
            if order.cause is not None:
                self.log.warning("%s; the other ranks are started anew", _told(order.cause, self.hosts))
            self._end_ranks(_grace(order))
        self.ranks, self.cause = None, None
        if order.action == "run" and inside and not self.told.is_set():
            try:
                self._start(order)
            except (MillraceError, OSError) as error:
                self.cause = Cause(
                    host=self.hosts.index,
                    kind="user" if isinstance(error, UserError) else "error",
                    message=str(error),
                )
        self.generation = order.generation

    def _start(self, order: Order) -> None:
        own = ranks_of(order.members, self.hosts.index)
        name, meeting = self.hosts.names[self.hosts.index], self._meeting()
        missing = len(self.hosts.names) - len(order.members)
        self.log.info(
            "%s on %s%s, %d of them here, by the network card %s",
            _counted(own[0].size, "rank"),
            _counted(len(order.members), "host"),
            f" ({missing} missing)" if missing else "",
            len(own),
            meeting[2],
        )
        threads = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(max(1, self.cores // len(own))))}
        told = [
            (rank, {**threads, **variables(rank, order.members, self.hosts.index, name, meeting, self.seconds)})
            for rank in own
        ]
        self.ranks = RankProcesses(self.hosts.index, self.directory, told)

    def _end_ranks(self, grace_seconds: float) -> None:
        """End the ranks, and go on reporting meanwhile, as a host that says nothing counts as lost."""
        if self.ranks is None:
            return
        self.ranks.ask_to_stop()
        now = time.monotonic()
        deadline, due = now + grace_seconds, now
        while not self.ranks.gone and now < deadline:
            if now > due:
                due = now + REPORT_SECONDS
                with contextlib.suppress(OSError):
                    self.report()
            time.sleep(_LOOK_SECONDS)
            now = time.monotonic()
        self.ranks.end(0)

    def _note_missing(self, order: Order) -> None:
        now = time.monotonic()
        if order.missing and now - self._noted > _NOTE_SECONDS:
            self._noted = now
            self.log.info("waiting for %s", ", ".join(order.missing))


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'s' if number > 1 else ''}"


def _grace(order: Order) -> float:
    """How long ranks may take to end by themselves."""
    if order.action == "end" and order.cause is None:
        return 0
    polite = order.polite or (order.cause is not None and order.cause.kind == "stopped")
    return _POLITE_SECONDS if polite else _GRACE_SECONDS


@contextlib.contextmanager
def _stop_noted(told: threading.Event | None = None) -> Iterator[threading.Event]:
    """Note SIGTERM instead of ending by it."""
    event = told or threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return
    before = signal.signal(signal.SIGTERM, lambda *_: event.set())
    try:
        yield event
    finally:
        signal.signal(signal.SIGTERM, before)


def _told(cause: Cause, hosts: Hosts) -> str:
    """A cause in words: which host, which rank, and its own message."""
    name = hosts.names[cause.host]
    if cause.rank is None:
        return f"{name}: {cause.message}"
    return f"rank {cause.rank}{f' on {name}' if len(hosts.names) > 1 else ''}: {cause.message}"


def _error(order: Order, hosts: Hosts) -> BaseException:
    """What the first failure means for every host."""
    cause = order.cause
    if cause is None:
        raise ValueError("there is no cause")
    message = _told(cause, hosts)
    if cause.kind == "stopped":
        logging.getLogger("millrace").info("%s", message)
        return SystemExit(_TERMINATED)
    if cause.kind == "disk_full" and cause.host == hosts.index:
        return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), f"rank {cause.rank}")
    kinds: dict[str, type[MillraceError]] = {"user": UserError, "transient": TransientError}
    return kinds.get(cause.kind, TaskFailedError)(message)
