"""Run a pipeline on this machine: workers in processes, in parallel within a budget, cached by content."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import psutil
from filelock import BaseFileLock, FileLock, Timeout
from pydantic import Field, JsonValue

import millrace
from millrace.errors import (
    ConfigError,
    MillraceError,
    TaskFailedError,
    UserError,
    explain_os_error,
    is_disk_full,
)
from millrace.runners.cache import task_key
from millrace.runners.merge import finished, merge_shares
from millrace.runners.outside import outside_digests
from millrace.runners.record import PipelineRun, RunState, ShareRun, TaskRun, TaskState, going_on
from millrace.runners.refusals import check_tasks, with_full_ids
from millrace.runners.revision import revision
from millrace.runners.stop import Stop, stop_on_signal
from millrace.runners.worker import Cancelled, Worker
from millrace.runtime.context import Hosts, Share
from millrace.runtime.task import Failure, GivenArtifact, TaskRequest, TaskResult, whole_result
from millrace.specs import ComponentSpec, Frozen, PipelineSpec, Task
from millrace.specs.uncached import is_uncached

__all__ = ["LocalRunner", "run_pipeline"]

Watch = Callable[[PipelineRun], None]


class LocalRunner(Frozen):
    """How pipelines run here."""

    root: Path = Path(".millrace")
    """Folder for task directories (`tasks/`, the cache) and records of runs (`runs/`)."""
    cores: int | None = Field(default=None, ge=1)
    """Processor cores to use at most; all when not set."""
    memory_gib: float | None = Field(default=None, gt=0)
    """Memory that tasks may ask for together, in GiB; four fifths of the machine's when not set."""
    cache: bool = True
    """Reuse what an earlier run has made from the same code, parameters and inputs."""
    keep_going: bool = False
    """After a failure, go on with the tasks that do not depend on the failed one."""


@dataclass
class _Unit:
    """One share of one task, ready to run or running."""

    task: Task
    component: ComponentSpec
    share: ShareRun
    cores: float
    memory: float

    @property
    def directory(self) -> Path:
        if self.share.directory is None:
            raise MillraceError(f"task {self.task.name!r} has no directory yet")
        return self.share.directory


@dataclass
class _Execution:
    """One run while it goes on. All state is changed by the thread that drives it."""

    spec: PipelineSpec
    runner: LocalRunner
    run: PipelineRun
    directory: Path
    watch: Watch
    stop: Stop = field(default_factory=Stop)
    waiting: list[_Unit] = field(default_factory=list)
    running: dict[Future[TaskResult], _Unit] = field(default_factory=dict)
    cores: float = field(init=False)
    memory: float = field(init=False)
    stopped: bool = False
    claims: list[BaseFileLock] = field(default_factory=list)
    """Held until the run is over."""

    def __post_init__(self) -> None:
        self.cores = float(self.runner.cores or os.cpu_count() or 1)
        self.memory = self.runner.memory_gib or 0.8 * psutil.virtual_memory().total / 2**30

    def drive(self) -> None:
        with ThreadPoolExecutor(max_workers=256) as pool:
            try:
                while self._step(pool):
                    pass
            except BaseException:
                self.stop.asked.set()  # else leaving the pool would wait for the workers' own end
                raise

    def _step(self, pool: ThreadPoolExecutor) -> bool:
        """Start what can be started and take what has ended; whether anything is still running."""
        self._plan()
        self._start(pool)
        self._save()
        finished, _ = wait(self.running, timeout=0.5, return_when=FIRST_COMPLETED)
        for future in finished:
            self._finish(self.running.pop(future), future)
        return bool(finished or self.running)

    def _save(self) -> None:
        try:
            self.run.write(self.directory)
        except OSError as error:  # a full disk may have room again when the task that filled it has failed
            if not is_disk_full(error):
                self.stopped, self.run.reason = True, explain_os_error(error)
        self.watch(self.run)

    def _plan(self) -> None:
        """Decide on every pending task whose upstream tasks are final: skip it, reuse it or queue it."""
        for name in self.spec.order():
            record = self.run.tasks[name]
            task = self.spec.task(name)
            upstream = [self.run.tasks[other] for other in sorted(task.upstream())]
            if record.state is not TaskState.PENDING or record.shares or not all(item.state.final for item in upstream):
                continue
            if self.stop.asked.is_set() or self.stopped:
                self._end(record, TaskState.CANCELLED, "the run was ended before it started")
            elif blocked := [item for item in upstream if not item.state.done]:
                self._end(record, TaskState.SKIPPED, f"{blocked[0].name} was {blocked[0].state}")
            elif (unmet := self._unmet(task)) is not None:
                self._end(record, TaskState.SKIPPED, unmet)
            else:
                try:
                    self._prepare(task, record)
                except OSError as error:
                    self.waiting = [unit for unit in self.waiting if unit.task is not task]
                    self._end(record, TaskState.FAILED, explain_os_error(error))
                    self.stopped = True

    def _unmet(self, task: Task) -> str | None:
        for condition in task.conditions:
            value = self.run.tasks[condition.metric.task].metrics[condition.metric.port]
            if not condition.holds(value):
                return f"{condition} does not hold: {condition.metric} is {value:.6g}"
        return None

    def _prepare(self, task: Task, record: TaskRun) -> None:
        component = self.spec.component_of(task)
        count = task.for_each.shares if task.for_each else 1
        digests = {
            port: [self.run.tasks[output.task].outputs[output.port].digest for output in outputs]
            for port, outputs in task.inputs.items()
        }
        record.started = datetime.now(UTC)
        known = outside_digests(task, component, self.runner.root)
        outside = is_uncached(task, component, known=known)
        own = not outside and not (self.runner.cache and task.cache)
        for index in range(count):
            key = task_key(task, component, digests, Share(index=index, count=count), known)
            directory = self.runner.root.absolute() / "tasks" / task.name / key[:20]
            if own or (outside and not self._claim(directory)):
                directory = directory.with_name(f"{key[:20]}-{self.run.id}")
            share = ShareRun(index=index, key=key, directory=directory)
            record.shares.append(share)
            result = None if own or outside else whole_result(directory)
            if result is not None:
                share.state, share.seconds, share.peak_memory = TaskState.CACHED, result.seconds, result.peak_memory
                continue
            if outside:
                (directory / "result.json").unlink(missing_ok=True)
            cores, memory = min(task.resources.cpus, self.cores), min(task.resources.memory_gib, self.memory)
            self.waiting.append(_Unit(task, component, share, cores, memory))
        self._conclude(task, record)

    def _claim(self, directory: Path) -> bool:
        """Whether a directory may be written anew: no other run that is going on has claimed it."""
        directory.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(directory.with_name(f".{directory.name}.claim"))
        try:
            lock.acquire(blocking=False)
        except Timeout:
            return False
        self.claims.append(lock)
        return True

    def _start(self, pool: ThreadPoolExecutor) -> None:
        """Start waiting units in order while cores and memory are free; one unit always fits."""
        if self.stop.asked.is_set() or self.stopped:
            self._drop_waiting()
            return
        for unit in list(self.waiting):
            used_cores = sum(item.cores for item in self.running.values())
            used_memory = sum(item.memory for item in self.running.values())
            fits = used_cores + unit.cores <= self.cores and used_memory + unit.memory <= self.memory
            if self.running and not fits:
                continue
            alone = not self.running and len(self.waiting) == 1
            self.waiting.remove(unit)
            unit.share.state = self.run.tasks[unit.task.name].state = TaskState.RUNNING
            unit.share.started = datetime.now(UTC)
            worker = self._worker(unit, int(self.cores if alone else max(1, unit.cores)))
            self.running[pool.submit(_run_worker, worker, unit.share)] = unit

    def _drop_waiting(self) -> None:
        for unit in self.waiting:
            unit.share.state = TaskState.CANCELLED
            self._conclude(unit.task, self.run.tasks[unit.task.name])
        self.waiting.clear()

    def _worker(self, unit: _Unit, cores: int) -> Worker:
        inputs = {
            port: tuple(
                GivenArtifact(
                    path=self.run.tasks[output.task].output_path(output.port),
                    metadata=self.run.tasks[output.task].outputs[output.port].metadata,
                )
                for output in outputs
            )
            for port, outputs in unit.task.inputs.items()
        }
        shares = unit.task.for_each.shares if unit.task.for_each else 1
        request = TaskRequest(
            name=unit.task.name,
            component=unit.component.entry,
            parameters=unit.task.parameters,
            inputs=inputs,
            share=Share(index=unit.share.index, count=shares),
            hosts=Hosts(processes=unit.task.distribution.processes),
            cores=cores,
        )
        timeout = unit.task.resources.timeout_minutes * 60
        return Worker(unit.directory, request, unit.task.retries, timeout, self.stop)

    def _finish(self, unit: _Unit, future: Future[TaskResult]) -> None:
        share, record = unit.share, self.run.tasks[unit.task.name]
        try:
            result = future.result()
        except Cancelled:
            share.state = TaskState.CANCELLED
        except MillraceError as error:
            self._fail(share, error)
        except OSError as error:
            self._fail(share, TaskFailedError(explain_os_error(error)))
        else:
            share.state = TaskState.SUCCEEDED
            share.seconds, share.peak_memory = result.seconds, result.peak_memory
        self._conclude(unit.task, record)

    def _fail(self, share: ShareRun, error: Exception) -> None:
        share.state = TaskState.FAILED
        share.failure = Failure(kind="user" if isinstance(error, UserError) else "error", message=str(error))
        self.stopped = self.stopped or not self.runner.keep_going

    def _conclude(self, task: Task, record: TaskRun) -> None:
        """Give the task its own state once all of its shares have one."""
        if record.state.final or not all(share.state.final for share in record.shares):
            return
        failed = [share for share in record.shares if share.failure is not None]
        if failed and failed[0].failure:
            which = f"share {failed[0].index}: " if len(record.shares) > 1 else ""
            self._end(record, TaskState.FAILED, f"{which}{failed[0].failure.message}")
        elif any(share.state is TaskState.CANCELLED for share in record.shares):
            self._end(record, TaskState.CANCELLED, "the run was ended while it ran")
        else:
            cached = all(share.state is TaskState.CACHED for share in record.shares)
            try:
                self._publish(task, record)
            except (MillraceError, OSError) as error:
                told = TaskFailedError(explain_os_error(error)) if isinstance(error, OSError) else error
                self._fail(record.shares[0], told)
                self._end(record, TaskState.FAILED, str(told))
            else:
                self._end(record, TaskState.CACHED if cached else TaskState.SUCCEEDED, "")

    def _publish(self, task: Task, record: TaskRun) -> None:
        directories = [share.directory for share in record.shares if share.directory is not None]
        if task.for_each is None:
            record.directory, result = directories[0], finished(directories[0])
        else:
            record.directory, result = merge_shares(directories)
        record.outputs, record.metrics = dict(result.outputs), dict(result.metrics)

    def _end(self, record: TaskRun, state: TaskState, reason: str) -> None:
        record.state, record.reason, record.ended = state, reason, datetime.now(UTC)


def run_pipeline(
    spec: PipelineSpec,
    runner: LocalRunner | None = None,
    *,
    config: dict[str, JsonValue] | None = None,
    watch: Watch = lambda run: None,
) -> tuple[PipelineRun, Path]:
    """Run a pipeline here and return its record and the folder of the run.

    Tasks whose code, parameters and inputs are those of an earlier run are not run again. Ctrl-C (or
    SIGTERM) ends the workers; the same call goes on from what they had finished.

    Args:
        spec: What to run.
        runner: Where and with how much; defaults when not given.
        config: The pipeline's configuration, for the record.
        watch: Called with the record whenever something may have changed, twice a second or more.

    Returns:
        The record, whose `state` tells how it went, and the folder that holds `run.json`.

    Raises:
        UserError: When a task would be refused as it starts, or asks for hosts or ranks that nobody would start.
    """
    runner = runner or LocalRunner()
    spec = with_full_ids(spec, runner.root)
    check_tasks(spec)
    started = datetime.now(UTC)
    run = PipelineRun(
        id=f"{started:%Y%m%d-%H%M%S}-{uuid4().hex[:6]}",
        pipeline=spec,
        started=started,
        millrace=millrace.__version__,
        revision=revision(),
        python=platform.python_version(),
        machine={"system": platform.platform(), "cores": os.cpu_count(), "memory": psutil.virtual_memory().total},
        config=config or {},
        tasks={task.name: _pending(spec, task) for task in spec.tasks},
    )
    directory = runner.root.absolute() / "runs" / run.id
    with ExitStack() as stack:
        _begin(run, runner.root, directory, stack)
        execution = _Execution(spec, runner, run, directory, watch)
        with stop_on_signal(execution.stop):
            execution.drive()
        for claim in execution.claims:
            claim.release()
        _settle(run, cancelled=execution.stop.asked.is_set())
        watch(run)
        try:
            run.write(directory)
        except OSError as error:
            raise TaskFailedError(explain_os_error(error)) from error
    return run, directory


def _begin(run: PipelineRun, root: Path, directory: Path, stack: ExitStack) -> None:
    """Make the folder of a run, with its first record in it, and a lock as long as the stack."""
    try:
        directory.mkdir(parents=True)
        stack.enter_context(going_on(directory))
        run.write(directory)
    except OSError as error:
        if is_disk_full(error):
            raise TaskFailedError(explain_os_error(error)) from error
        told = f"{explain_os_error(error)}; give a folder that can be written"
        raise ConfigError(f"runner.root={root} can't be used: {told}") from error


def _pending(spec: PipelineSpec, task: Task) -> TaskRun:
    component = spec.component_of(task)
    inputs = {port: [str(output) for output in outputs] for port, outputs in task.inputs.items()}
    return TaskRun(
        name=task.name,
        component=component.name,
        component_version=component.version,
        parameters=dict(task.parameters),
        inputs=inputs,
    )


def _settle(run: PipelineRun, *, cancelled: bool) -> None:
    run.ended = datetime.now(UTC)
    for task in run.tasks.values():
        if not task.state.final:
            task.state, task.reason, task.ended = TaskState.CANCELLED, "the run was ended before it started", run.ended
    failed = [task for task in run.tasks.values() if task.state is TaskState.FAILED]
    if failed:
        run.state, run.reason = RunState.FAILED, f"task {failed[0].name!r} failed: {failed[0].reason}"
    elif run.reason:
        run.state = RunState.FAILED
    elif cancelled:
        run.state, run.reason = RunState.CANCELLED, "it was cancelled"
    else:
        run.state = RunState.SUCCEEDED


def _run_worker(worker: Worker, share: ShareRun) -> TaskResult:
    try:
        return worker.run()
    finally:
        share.attempts = worker.attempts
