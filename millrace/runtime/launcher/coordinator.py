"""Decides on the first host what all hosts do: who takes part, when they begin, why they end.

Hosts report twice a second and are answered with an order. One set of ranks that runs together is a generation;
where ranks may be lost (`Limits`) another one follows on the hosts that are left.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from millrace.runtime.launcher.messages import Cause, Limits, Member, Order, Report, first_rank

__all__ = ["REPORT_SECONDS", "Coordinator"]

REPORT_SECONDS = 0.5
"""Between two reports of a host."""
_LOST_SECONDS = 10.0
"""Without a report a host is lost."""
_DOUBT_SECONDS = 6.0
"""The same while ranks complain about others that are gone."""
_COMPLAINT_SECONDS = 3.0
"""How long to look for whom they mean while all hosts are well."""
_STOP_SECONDS = 150.0
"""How long a host may take to end its ranks when all are well."""

Phase = Literal["gathering", "running", "stopping", "over"]


@dataclass
class _Host:
    report: Report
    at: float


@dataclass
class Coordinator:
    """The state of all hosts, as far as the first one knows it; its methods may be called by any thread."""

    names: Sequence[str]
    processes: int
    """Ranks of each host."""
    seconds: float
    """How long hosts are waited for."""
    limits: Limits | None
    """None: nothing may be lost."""
    renew: Callable[[], None]
    """Called before the ranks of a new generation look for each other."""
    generation: int = 0
    members: tuple[Member, ...] = ()
    cause: Cause | None = None
    _phase: Phase = "gathering"
    _polite: bool = False
    _restarts: int = 0
    _hosts: dict[int, _Host] = field(default_factory=dict)
    _joined: set[int] = field(default_factory=set)
    """Members that have begun this generation."""
    _told: set[int] = field(default_factory=set)
    """Hosts that know that it is over."""
    _complained: float | None = None
    _since: float = field(default_factory=time.monotonic)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def answer(self, report: Report) -> Order:
        """Take a host's report and say what it is to do."""
        with self._lock:
            self._take(report)
            self._decide()
            if self._phase == "over":
                self._told.add(report.host)
            return self._order()

    def settled(self) -> bool:
        """Whether every host that is still there knows that it is over."""
        with self._lock:
            self._decide()
            there = {host for host, known in self._hosts.items() if self._age(known) < _DOUBT_SECONDS}
            return self._phase == "over" and there <= self._told

    def give_up(self, cause: Cause) -> None:
        """End everything."""
        with self._lock:
            if self._phase != "over":
                self._end(cause)

    def _take(self, report: Report) -> None:
        if report.host >= len(self.names):
            return
        self._hosts[report.host] = _Host(report, time.monotonic())
        if report.generation == self.generation and report.state != "idle":
            self._joined.add(report.host)

    def _decide(self) -> None:
        if self._phase == "gathering":
            self._gather()
        elif self._phase == "running":
            self._look_after()
        elif self._phase == "stopping":
            self._await_stop()

    def _order(self) -> Order:
        actions: dict[Phase, Literal["wait", "run", "stop", "end"]] = {
            "gathering": "wait", "running": "run", "stopping": "stop", "over": "end",
        }  # fmt: skip
        return Order(
            action=actions[self._phase],
            generation=self.generation,
            members=self.members,
            polite=self._polite,
            missing=tuple(self._missing()) if self._phase == "gathering" else (),
            cause=self.cause,
        )

    def _gather(self) -> None:
        """Begin when all are there; or when enough are and the others were waited for."""
        leaving = [told for host in range(len(self.names)) if (told := self._leaving(host))]
        if leaving and (self.limits is None or leaving[0].host == 0):
            self._end(leaving[0])
            return
        chosen = self._candidates()
        waited = time.monotonic() - self._since
        complete = len({member.host for member in chosen}) == len(self.names) or self._full(chosen)
        if complete or (
            self.limits and self._enough(chosen) and (self.generation or waited > self.limits.wait_seconds)
        ):
            self.renew()
            self.generation += 1
            self.members = chosen
            self._joined, self._complained, self.cause = set(), None, None
            self._enter("running")
        elif waited > self.seconds:
            self._end(self._too_few())

    def _candidates(self) -> tuple[Member, ...]:
        left = (self.limits and self.limits.most) or len(self.names) * self.processes
        chosen = []
        for host in range(len(self.names)):
            known = self._hosts.get(host)
            there = known and known.report.state == "idle" and not known.report.leaving
            if known and there and self._age(known) < _DOUBT_SECONDS and left > 0:
                chosen.append(Member(host=host, ranks=min(left, self.processes)))
                left -= chosen[-1].ranks
        return tuple(chosen)

    def _enough(self, members: Sequence[Member]) -> bool:
        fewest = self.limits.fewest if self.limits else 1
        return bool(members) and members[0].host == 0 and sum(member.ranks for member in members) >= fewest

    def _full(self, members: Sequence[Member]) -> bool:
        most = self.limits.most if self.limits else None
        return most is not None and self._enough(members) and sum(member.ranks for member in members) >= most

    def _missing(self) -> Iterator[str]:
        present = {member.host for member in self._candidates()}
        return (name for host, name in enumerate(self.names) if host not in present)

    def _too_few(self) -> Cause:
        missing = ", ".join(self._missing())
        told = f"{missing} did not come within {self.seconds:g} s (peer_seconds)"
        if self.cause is None:
            return Cause(host=0, kind="transient", message=told)
        short = f"{self.cause.message}; {told}, and fewer than min_workers are left"
        return self.cause.model_copy(update={"kind": "transient", "message": short})

    def _look_after(self) -> None:
        reports = [self._hosts[member.host].report for member in self.members]
        if all(report.state == "done" and report.generation == self.generation for report in reports):
            self._end(None)
        elif cause := self._found(reports):
            self._lose(cause)
        elif self._could_grow():
            self._stop(polite=True)

    def _found(self, reports: Sequence[Report]) -> Cause | None:
        """What went wrong first; None while nothing did, or while it is not clear yet."""
        now = time.monotonic()
        told = [report.cause for report in reports if report.cause and report.generation == self.generation]
        if told and self._complained is None:
            self._complained = now
        if genuine := [cause for cause in told if not cause.follows]:
            return genuine[0]
        for member in self.members:
            if stopped := self._left(member.host):
                return stopped
        limit = _DOUBT_SECONDS if told else _LOST_SECONDS
        for member in self.members:
            known = self._hosts[member.host]
            again = member.host in self._joined and known.report.generation != self.generation
            if again or self._age(known) > limit:
                how = "was started again" if again else "ended or can't be reached any more"
                return Cause(host=member.host, kind="transient", message=how, lost=True)
        waited = now - (self._complained or now)
        well = all(self._age(self._hosts[member.host]) < _COMPLAINT_SECONDS / 2 for member in self.members)
        if not (told and waited > _COMPLAINT_SECONDS and well):
            return None
        return self._silent(reports) or told[0]

    def _silent(self, reports: Sequence[Report]) -> Cause | None:
        """The one rank that the others complain about: all have ended but for it."""
        ended = {rank for report in reports for rank in report.ended}
        silent: list[tuple[int, int]] = []
        for member in self.members:
            first = first_rank(self.members, member.host)
            silent += [(member.host, rank) for rank in range(first, first + member.ranks) if rank not in ended]
        if len(silent) != 1:
            return None
        told = f"it did not come as far as the others within {self.seconds:g} s (peer_seconds), and does not answer"
        [(host, rank)] = silent
        return Cause(host=host, rank=rank, kind="transient", message=told, lost=True)

    def _lose(self, cause: Cause) -> None:
        """Go on without what is lost, if that is allowed and can help; else end."""
        leaving = [told for member in self.members if (told := self._leaving(member.host))]
        if cause.kind == "stopped" and leaving:
            cause = leaving[0]
        self.cause = cause
        helps = cause.lost or cause.kind == "transient" or (cause.kind == "stopped" and bool(leaving))
        if self.limits is None or not helps or self._leaving(0) or self._restarts >= self.limits.restarts:
            self._end(cause)
            return
        self._restarts += not leaving
        self._stop(polite=cause.kind == "stopped" and cause.host in self._joined)

    def _could_grow(self) -> bool:
        if self.limits is None or time.monotonic() - self._since < self.limits.wait_seconds:
            return False
        inside = {member.host for member in self.members}
        new = any(member.host not in inside for member in self._candidates())
        return new and not self._full(self.members) and all(host in self._joined for host in inside)

    def _stop(self, *, polite: bool) -> None:
        self._polite = polite
        self._enter("stopping")

    def _await_stop(self) -> None:
        """Wait until no rank of this generation is left on a host that answers."""
        limit = _STOP_SECONDS if self._polite else _LOST_SECONDS
        waited = time.monotonic() - self._since
        if waited > limit or not any(self._busy(self._hosts[member.host]) for member in self.members):
            self._enter("gathering")

    def _busy(self, known: _Host) -> bool:
        """Whether a host that answers may still have ranks."""
        report = known.report
        ended = report.state == "idle" and report.generation == self.generation
        return not ended and self._age(known) < _DOUBT_SECONDS

    def _leaving(self, host: int) -> Cause | None:
        known = self._hosts.get(host)
        if known is None or not known.report.leaving:
            return None
        return Cause(host=host, kind="stopped", message="it was told to stop")

    def _left(self, host: int) -> Cause | None:
        """The same for one that started no ranks of this generation, since it was told before."""
        report = self._hosts[host].report
        started = report.state != "idle" or report.generation != self.generation
        return None if started else self._leaving(host)

    def _end(self, cause: Cause | None) -> None:
        self.cause = cause
        self._enter("over")

    def _enter(self, phase: Phase) -> None:
        self._phase = phase
        self._since = time.monotonic()

    def _age(self, known: _Host) -> float:
        return time.monotonic() - known.at
