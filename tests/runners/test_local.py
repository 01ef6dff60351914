"""Running pipelines on this machine, with real worker processes."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from millrace.errors import UnsupportedError
from millrace.runners.local import LocalRunner, run_pipeline
from millrace.runners.record import PipelineRun, RunState, TaskState
from millrace.runners.worker import last_lines
from millrace.specs import Distribution, PipelineSpec, Resources, pipeline
from tests import toys
from tests.toys import Play, SplitParameters, WorkParameters, WriteParameters


@pytest.fixture(autouse=True)
def importable_by_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(toys.__file__).parents[1]))


@pytest.fixture
def runner(tmp_path: Path) -> LocalRunner:
    return LocalRunner(root=tmp_path / "root", cores=2, memory_gib=4)


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    path = tmp_path / "journal"
    path.touch()
    return path


def run(runner: LocalRunner, **config: Any) -> PipelineRun:
    return run_pipeline(toys.play.compose(Play(**config)), runner)[0]


def states(record: PipelineRun) -> dict[str, str]:
    return {name: task.state.value for name, task in record.tasks.items()}


def executions(journal: Path) -> Counter[str]:
    return Counter(journal.read_text().split("\n")[:-1])


class TestARun:
    def test_hands_outputs_from_task_to_task(self, runner: LocalRunner) -> None:
        record = run(runner)
        assert record.state is RunState.SUCCEEDED, record.reason
        last = record.tasks["last"].output_path("words")
        assert [file.read_text() for file in sorted(last.iterdir())] == ["TO", "BE", "OR", "NOT", "TO", "BE"]
        assert record.tasks["write"].metrics == {"length": 6}

    def test_is_recorded_in_a_file_that_reads_back(self, runner: LocalRunner) -> None:
        record, directory = run_pipeline(toys.play.compose(Play()), runner)
        assert PipelineRun.read(directory) == record

    def test_merges_the_shares_of_a_divided_task(self, runner: LocalRunner) -> None:
        parts = run(runner).tasks["split"].output_path("parts")
        assert sorted(file.name for file in parts.iterdir()) == [*(f"00{i}.txt" for i in range(6)), "schema"]

    def test_fails_when_shares_write_different_files_of_one_name(self, runner: LocalRunner) -> None:
        record = run(runner, split=SplitParameters(clash=True))
        assert states(record)["split"] == "failed"
        assert "two shares wrote different files called 'schema'" in record.reason

    def test_skips_what_a_condition_excludes(self, runner: LocalRunner) -> None:
        record = run(runner, least=0.9)
        assert record.state is RunState.SUCCEEDED
        assert states(record)["last"] == "skipped"
        assert "judge.score >= 0.9 does not hold: judge.score is 0.5" in record.tasks["last"].reason


class TestTheCache:
    def test_makes_a_second_run_do_nothing(self, runner: LocalRunner, journal: Path) -> None:
        config = {"write": WriteParameters(journal=journal), "work": WorkParameters(journal=journal)}
        run(runner, **config)
        record = run(runner, **config)
        assert set(states(record).values()) == {"cached"}
        assert executions(journal) == {"write": 1, "work": 1}

    def test_repeats_only_what_depends_on_a_change(self, runner: LocalRunner) -> None:
        run(runner)
        record = run(runner, work=WorkParameters(seconds=0.01))
        assert states(record) == {
            "write": "cached",
            "work": "succeeded",
            "again": "cached",
            "split": "cached",  # the changed task's output has the same contents
            "judge": "cached",
            "last": "cached",
        }

    def test_is_not_used_for_a_task_that_reads_outside(self, runner: LocalRunner, tmp_path: Path) -> None:
        source = tmp_path / "source.txt"
        source.write_text("one two")
        config = {"write": WriteParameters(outside=str(source))}
        run(runner, **config)
        assert states(run(runner, **config))["write"] == "succeeded"
        assert states(run(runner, **config))["work"] == "cached"
        source.write_text("one two three")
        record = run(runner, **config)
        assert states(record)["work"] == "succeeded"
        assert record.tasks["write"].metrics == {"length": 3}

    def test_can_be_switched_off(self, runner: LocalRunner) -> None:
        run(runner)
        record = run(runner.model_copy(update={"cache": False}))
        assert set(states(record).values()) == {"succeeded"}

    def test_is_kept_for_a_module_beside_which_runs_are_recorded(self, tmp_path: Path) -> None:
        (tmp_path / "alone.py").write_text(Path(toys.__file__).read_text().replace("tests.toys:", "alone:"))
        script = (
            "from pathlib import Path; import alone; from millrace.runners.local import LocalRunner, run_pipeline\n"
            "record, folder = run_pipeline(alone.play.compose(alone.Play()), LocalRunner(root=Path('root')))\n"
            "(folder / 'report.html').write_text('a report')\n"
            "print({task.state.value for task in record.tasks.values()}, record.reason)"
        )
        folders = os.pathsep.join([str(tmp_path), str(Path(toys.__file__).parents[1])])
        for expected in ("{'succeeded'}", "{'cached'}"):
            answer = subprocess.run(
                [sys.executable, "-c", script],
                cwd=tmp_path,
                env={**os.environ, "PYTHONPATH": folders},
                capture_output=True,
                text=True,
                check=True,
            )
            assert answer.stdout.strip() == expected

    def test_that_is_switched_off_is_neither_used_nor_changed(self, runner: LocalRunner) -> None:
        config = {"work": WorkParameters(behaviour="transient_once")}
        cached = run(runner, **config).tasks["work"]
        again = run(runner.model_copy(update={"cache": False}), **config).tasks["work"]
        assert again.shares[0].attempts == 2  # with checkpoints of its own
        assert again.directory != cached.directory
        assert states(run(runner, **config))["work"] == "cached"

    def test_notices_a_file_that_somebody_removed(self, runner: LocalRunner) -> None:
        record = run(runner)
        next(record.tasks["write"].output_path("words").iterdir()).unlink()
        next(record.tasks["split"].output_path("parts").glob("*.txt")).unlink()  # merged, the shares have it still
        record = run(runner)
        assert states(record)["write"] == "succeeded"
        assert len(list(record.tasks["split"].output_path("parts").glob("*.txt"))) == 6

    def test_notices_outputs_that_somebody_removed(self, runner: LocalRunner) -> None:
        removed = run(runner).tasks["write"].output_path("words")
        for file in removed.iterdir():
            file.unlink()
        removed.rmdir()
        assert states(run(runner))["write"] == "succeeded"

    def test_survives_results_that_can_not_be_read(self, runner: LocalRunner) -> None:
        directory = run(runner).tasks["write"].directory
        assert directory is not None
        (directory / "result.json").write_text('{"outputs":')
        assert states(run(runner))["write"] == "succeeded"

    def test_is_shared_by_two_runs_at_the_same_time(self, runner: LocalRunner, journal: Path) -> None:
        config = {"work": WorkParameters(journal=journal, seconds=1)}
        records: list[PipelineRun] = []
        threads = [threading.Thread(target=lambda: records.append(run(runner, **config))) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [record.state for record in records] == [RunState.SUCCEEDED] * 2
        assert executions(journal) == {"work": 1}


class TestTheBudget:
    def test_lets_independent_tasks_and_shares_run_side_by_side(self, runner: LocalRunner, tmp_path: Path) -> None:
        tasks, shares = tmp_path / "tasks", tmp_path / "shares"
        tasks.mkdir()
        shares.mkdir()
        meeting = WorkParameters(meet=tasks)
        record = run(runner, work=meeting, again=meeting, split=SplitParameters(meet=shares))
        assert record.state is RunState.SUCCEEDED, record.reason

    def test_keeps_tasks_apart_that_do_not_fit_together(self, runner: LocalRunner, tmp_path: Path) -> None:
        @pipeline
        def apart(config: Play) -> None:
            written = toys.write(config.write)
            for name in ("one", "two"):
                toys.work.with_options(name=name)(config.work, words=written.words)

        def running_together(update: PipelineRun) -> None:
            together.add(sum(task.state is TaskState.RUNNING for task in update.tasks.values()))

        together: set[int] = set()
        spec = apart.compose(Play(work=WorkParameters(seconds=0.3)))
        record, _ = run_pipeline(spec, runner.model_copy(update={"cores": 1}), watch=running_together)
        assert record.state is RunState.SUCCEEDED
        assert together == {0, 1}

    def test_does_not_keep_out_a_task_that_asks_for_more_than_there_is(self, runner: LocalRunner) -> None:
        @pipeline
        def greedy(config: Play) -> None:
            toys.write.with_options(resources=Resources(cpus=500, memory_gib=9_000))(config.write)

        assert run_pipeline(greedy.compose(Play()), runner)[0].state is RunState.SUCCEEDED


class TestAFailure:
    @pytest.mark.parametrize(
        ("behaviour", "message", "kind", "attempts"),
        [
            ("user", "the words are spelt wrongly: 'tobe'; allowed: real words", "user", 1),
            ("transient", "503 SlowDown (tried 3 times)", "error", 3),
            ("crash", "RuntimeError: boom", "error", 1),
            ("verbose", f"RuntimeError: {'m' * 3986}...", "error", 1),
            ("vanish", "the worker vanished: it was ended by SIGKILL; most often the machine ran out", "error", 1),
            ("disk_full", "the disk is full", "error", 1),
            ("nothing", "ended well but left no result", "error", 1),
        ],
    )
    def test_says_why(self, runner: LocalRunner, behaviour: str, message: str, kind: str, attempts: int) -> None:
        record = run(runner, work=WorkParameters.model_validate({"behaviour": behaviour}))
        share = record.tasks["work"].shares[0]
        assert record.state is RunState.FAILED
        assert message in record.reason
        assert share.failure is not None
        assert (share.failure.kind, share.attempts) == (kind, attempts)
        assert states(record)["split"] in ("skipped", "cancelled")

    def test_leaves_no_output_that_looks_whole(self, runner: LocalRunner) -> None:
        record = run(runner, work=WorkParameters(behaviour="crash"))
        directory = record.tasks["work"].shares[0].directory
        assert directory is not None
        assert not (directory / "outputs").exists()
        assert not (directory / "result.json").exists()
        assert not (directory / "partial").exists()

    def test_of_one_task_for_want_of_its_folder_is_recorded(self, runner: LocalRunner) -> None:
        (runner.root / "tasks").mkdir(parents=True)
        (runner.root / "tasks" / "work").write_text("a file where a folder must be")
        record, directory = run_pipeline(toys.play.compose(Play()), runner.model_copy(update={"cache": False}))
        assert record.state is RunState.FAILED
        assert str(runner.root / "tasks" / "work") in record.reason
        assert states(PipelineRun.read(directory))["work"] == "failed"

    def test_that_is_transient_is_tried_again(self, runner: LocalRunner) -> None:
        record = run(runner, work=WorkParameters(behaviour="transient_once"))
        assert record.state is RunState.SUCCEEDED
        assert record.tasks["work"].shares[0].attempts == 2

    def test_shows_the_log_of_the_last_attempt(self, runner: LocalRunner) -> None:
        run(runner, work=WorkParameters(behaviour="transient"))
        record = run(runner, work=WorkParameters(behaviour="transient"))
        directory = record.tasks["work"].shares[0].directory
        assert directory is not None
        log = directory / "log.txt"
        assert sum("503 SlowDown" in line for line in last_lines(log)) == 1
        assert log.read_text().count("503 SlowDown") == 6

    def test_stops_the_run_or_not_as_asked(self, runner: LocalRunner) -> None:
        config = {"work": WorkParameters(behaviour="user"), "again": WorkParameters(seconds=0.2)}
        record = run(runner.model_copy(update={"keep_going": True, "cores": 1}), **config)
        assert states(record)["again"] == "succeeded"
        assert states(record)["last"] == "skipped"
        assert record.state is RunState.FAILED

    def test_is_a_task_that_runs_longer_than_it_may(self, runner: LocalRunner) -> None:
        @pipeline
        def slow(config: Play) -> None:
            written = toys.write(config.write)
            limits = Resources(timeout_minutes=0.005)
            toys.work.with_options(resources=limits)(WorkParameters(seconds=60), words=written.words)

        record, _ = run_pipeline(slow.compose(Play()), runner)
        assert "ran longer than its limit of 0.005 minutes" in record.reason


def test_a_task_of_several_hosts_is_refused(runner: LocalRunner) -> None:
    @pipeline
    def wide(config: Play) -> None:
        written = toys.write(config.write)
        hosts = Distribution(mode="ranks", hosts=2)
        toys.work.with_options(distribution=hosts)(config.work, words=written.words)

    with pytest.raises(UnsupportedError, match="task 'work' asks for 2 hosts with 1 processes each"):
        run_pipeline(wide.compose(Play()), runner)


def test_ranks_of_a_component_that_starts_none_are_refused(runner: LocalRunner) -> None:
    @pipeline
    def many(config: Play) -> None:
        written = toys.write(config.write)
        ranks = Distribution(mode="ranks", processes=2)
        toys.work.with_options(distribution=ranks)(config.work, words=written.words)

    with pytest.raises(UnsupportedError, match="task 'work' asks for 2 processes, which work does not start"):
        run_pipeline(many.compose(Play()), runner)


def test_a_spec_read_from_json_runs(runner: LocalRunner) -> None:
    spec = PipelineSpec.from_json(toys.play.compose(Play()).to_json())
    assert run_pipeline(spec, runner)[0].state is RunState.SUCCEEDED


def test_the_end_of_a_log_is_safe_to_show(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    log.write_bytes(b"\x1b[31mred\x1b[0m \x1b]0;title\x07\n" + b"y" * 100_000)
    assert [line[:10] for line in last_lines(log)] == ["y" * 10]
    log.write_bytes(b"\x1b[31mred\x1b[0m\n" + b"y" * 5_000)
    lines = last_lines(log)
    assert lines[0] == "red"
    assert len(lines[1]) == 1000


def test_the_end_of_a_log_leaves_out_what_tensorflow_says_of_a_machine_without_a_gpu(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    log.write_text(
        "WARNING: All log messages before absl::InitializeLog() is called are written to STDERR\n"
        "E0000 00:00:1795288914.444685    9958 cuda_platform.cc:52] failed call to cuInit: INTERNAL: CUDA error\n"
        "[1] I0000 00:00:1795288914.444685    9958 cudart_stub.cc:31] Could not find cuda drivers on your machine\n"
        "E0000 00:00:1795288914.444685    9958 matmul.cc:52] out of memory\nthe words are spelt wrongly\n"
    )
    shown = [line.rpartition("] ")[2] for line in last_lines(log)]
    assert shown == ["out of memory", "the words are spelt wrongly"]
