"""`millrace train` as the container of a training job: real processes, the service's own files."""

from __future__ import annotations

import io
import json
import signal
import subprocess
import tarfile
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from millrace.cli import main
from millrace.registry import load_component
from millrace.runtime.sagemaker.training import model_port
from tests.runtime.sagemaker.layout import Training, files, put
from tests.runtime.sagemaker.learner import learn

LEARN = learn.spec.entry


def training(folder: Path, hyperparameters: Mapping[str, str] | None = None, **environment: str) -> Training:
    job = Training(folder, LEARN, hyperparameters or {}, **environment)
    job.give("words", "a", "b")
    return job


def succeed(job: Training) -> str:
    ran = job.run()
    assert ran.returncode == 0, ran.stderr
    assert job.failure == ""
    return ran.stdout


def weights(job: Training) -> list[str]:
    return (job.base / "model" / "weights").read_text().splitlines()


def archive(folder: Path, name: str, members: Mapping[str, str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(folder / name, "w:gz") as opened:
        for member, text in members.items():
            info = tarfile.TarInfo(member)
            info.size = len(text)
            opened.addfile(info, io.BytesIO(text.encode()))


class TestAJobThatSucceeds:
    def test_model_and_data_lie_where_the_service_takes_them_from(self, tmp_path: Path) -> None:
        job = training(tmp_path)
        said = succeed(job)
        assert [*files(job.base / "model")] == ["weights"]
        assert [*files(job.base / "output" / "data")] == [
            "logs/events.out.tfevents.0",
            "metrics/charts.json",
            "metrics/metrics.json",
        ]
        assert files(job.base / "output" / "tensorboard") == {"events.out.tfevents.0": "1\n2\n"}
        assert "epoch=1 accuracy=0.1\n" in said
        assert "accuracy=0.9 epochs=2\n" in said

    def test_hyperparameters_are_texts_and_single_values_win(self, tmp_path: Path) -> None:
        given = {
            "epochs": "3",
            "rate": "1e-2",
            "name": "12",
            "shape": '{"kind":"mlp","units":4}',
            "shape.units": "8",
            "_tuning_objective_metric": "accuracy",
            "sagemaker_region": "us-east-1",
        }
        job = training(tmp_path, given, MILLRACE_TEXTS="name,other")
        succeed(job)
        assert json.loads(weights(job)[0]) | {"seconds": 0} == {
            "epochs": 3,
            "rate": 0.01,
            "name": "12",
            "shape": {"kind": "mlp", "units": 8},
            "seconds": 0,
            "fail": False,
            "link": False,
        }

    def test_one_host_is_known_by_its_name(self, tmp_path: Path) -> None:
        job = training(tmp_path, MILLRACE_PROCESSES="2")
        succeed(job)
        assert weights(job)[1:3] == ["0 of algo-1 x 2", "a b"]

    def test_channels_of_a_port_that_takes_many_and_one_that_is_not_there(self, tmp_path: Path) -> None:
        job = training(tmp_path)
        for number in (10, 9, 0):
            job.give(f"more.{number}", f"m{number}", mode="FastFile")
        succeed(job)
        assert weights(job)[4] == "m0.txt m9.txt m10.txt"

    def test_archives_of_earlier_trainings(self, tmp_path: Path) -> None:
        job = training(tmp_path, MILLRACE_ARCHIVES="before=.,words=metrics")
        for name, members in (
            ("before", {"weights": "old"}),
            ("words", {"metrics/m.txt": "from an archive", "logs/l.txt": "other"}),
        ):
            if name == "before":
                job.give(name)
            folder = job.base / "input" / "data" / name
            for file in folder.iterdir():
                file.unlink()
            archive(folder, "output.tar.gz", members)
        succeed(job)
        assert weights(job)[2:4] == ["from an archive", "old"]

    def test_a_job_without_channels(self, tmp_path: Path) -> None:
        job = Training(tmp_path, "tests.toys:write", {"text": "a b"})
        succeed(job)
        assert not any((job.base / "model").iterdir())
        assert files(job.base / "output" / "data" / "words") == {"000.txt": "a", "001.txt": "b"}


class TestCheckpoints:
    def test_a_job_that_is_interrupted_goes_on(self, tmp_path: Path) -> None:
        job = training(tmp_path, {"epochs": "3", "seconds": "30"})
        kept = job.base / "checkpoints"
        kept.mkdir()
        process = job.start()
        events = job.base / "checkpoints" / "job-1"
        deadline = time.monotonic() + 30
        assert process.stdout is not None
        while "epoch=1" not in process.stdout.readline():
            assert time.monotonic() < deadline
        process.send_signal(signal.SIGTERM)
        _, told = process.communicate(timeout=30)
        assert process.returncode == 143
        assert told == "error: the task was ended by SIGTERM\n"
        assert files(job.base / "model") == files(job.base / "output" / "data") == {}
        assert files(events) == {"epoch": "1"}
        assert files(job.base / "output" / "tensorboard") == {"events.out.tfevents.0": "1\n"}
        put(job.base / "input" / "config" / "hyperparameters.json", {"epochs": "3"})
        said = succeed(job)
        assert "going on from epoch 1" in said
        assert "epoch=1 " not in said
        assert files(kept) == {"job-1/epoch": "3"}

    def test_jobs_of_one_folder_do_not_take_each_others(self, tmp_path: Path) -> None:
        job = training(tmp_path, TRAINING_JOB_NAME="job-2")
        put(job.base / "checkpoints" / "job-1" / "epoch", "1")
        assert "going on" not in succeed(job)
        assert files(job.base / "checkpoints") == {"job-1/epoch": "1", "job-2/epoch": "2"}

    def test_without_a_folder_for_them_they_end_with_the_job(self, tmp_path: Path) -> None:
        job = training(tmp_path)
        succeed(job)
        assert not (job.base / "checkpoints").exists()


class TestSeveralHosts:
    @pytest.mark.parametrize(("current", "kept"), [("localhost", False), ("127.0.0.1", True)])
    def test_only_what_the_first_made_is_kept(self, tmp_path: Path, current: str, kept: bool) -> None:
        job = training(tmp_path)
        groups = [
            {"instance_group_name": "one", "instance_type": "ml.m5.large", "hosts": ["localhost"]},
            {"instance_group_name": "two", "instance_type": "ml.m5.xlarge", "hosts": ["127.0.0.1"]},
        ]
        hosts = ["localhost", "127.0.0.1"]
        job.machines("input/config", current, hosts, network_interface_name="lo", instance_groups=groups)
        succeed(job)
        assert bool(files(job.base / "model")) is kept
        assert bool(files(job.base / "output" / "data")) is kept
        assert (job.base / "output" / "tensorboard").exists() is kept
        if kept:
            assert weights(job)[1] == "0 of 127.0.0.1,localhost x 1"
            assert weights(job)[-1] == "lo"

    def test_a_host_whose_name_is_not_known_yet_is_waited_for(self, tmp_path: Path) -> None:
        job = training(tmp_path)
        job.machines("input/config", "localhost", ["localhost", "algo-2.invalid"])
        process = job.start()
        with pytest.raises(subprocess.TimeoutExpired):
            process.communicate(timeout=5)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=10)
        assert process.returncode == 143


class TestAJobThatFails:
    def fails(self, job: Training, code: int) -> str:
        ran = job.run()
        assert ran.returncode == code, ran.stderr
        assert ran.stderr.count("error: ") == 1
        assert job.failure == ran.stderr.partition("error: ")[2].rstrip("\n")[:1024]
        assert files(job.base / "model") == files(job.base / "output" / "data") == {}
        return ran.stderr

    def test_a_long_reason_is_cut(self, tmp_path: Path) -> None:
        job = training(tmp_path, {"fail": "true"})
        self.fails(job, 2)
        assert job.failure == "x" * 1024

    @pytest.mark.parametrize(
        ("hyperparameters", "told"),
        [
            ({"epochs": "many"}, "here.epochs: Input should be a valid integer"),
            ({"epohcs": "1"}, "here.epohcs: unknown key: did you mean 'epochs'?"),
            ({"shape.unit": "1"}, "here.shape.unit: unknown key: did you mean 'units'?"),
        ],
    )
    def test_hyperparameters(self, tmp_path: Path, hyperparameters: dict[str, str], told: str) -> None:
        assert told in self.fails(training(tmp_path, hyperparameters), 2)

    @pytest.mark.parametrize(
        ("variable", "value", "told"),
        [
            ("MILLRACE_COMPONENT", "", "the variable MILLRACE_COMPONENT is not set"),
            ("MILLRACE_COMPONENT", "learn", "unknown component 'learn'"),
            ("MILLRACE_PROCESSES", "0", "MILLRACE_PROCESSES: '0', allowed: a whole number, 1 or more"),
            ("MILLRACE_ARCHIVES", "words", "MILLRACE_ARCHIVES: 'words' is not of the form NAME=VALUE"),
            ("MILLRACE_ARCHIVES", "words=.", "here.words: there must be one archive below"),
            ("TRAINING_JOB_NAME", "../x", "TRAINING_JOB_NAME: '../x' is no name of a job"),
        ],
    )
    def test_variables(self, tmp_path: Path, variable: str, value: str, told: str) -> None:
        assert told in self.fails(training(tmp_path, None, **{variable: value}), 2)

    def test_a_stream(self, tmp_path: Path) -> None:
        job = training(tmp_path)
        job.give("more.0", mode="Pipe")
        assert "here.more.0: the channel comes as a stream (Pipe), and components read files" in self.fails(job, 2)

    @pytest.mark.parametrize(
        ("file", "content", "told"),
        [
            ("hyperparameters.json", '{"epochs": 1}', "hyperparameters.json.epochs: Input should be a valid string"),
            ("hyperparameters.json", '{"epochs": "1"', "Invalid JSON"),
            ("resourceconfig.json", "[]", "Input should be an object"),
            ("inputdataconfig.json", '{"words": 3}', "inputdataconfig.json.words: Input should be"),
            ("inputdataconfig.json", '{"../../x": {}}', "has no input for '../../x'"),
        ],
    )
    def test_hostile_files_of_the_service(self, tmp_path: Path, file: str, content: str, told: str) -> None:
        job = training(tmp_path)
        put(job.base / "input" / "config" / file, content)
        assert told in self.fails(job, 2)

    def test_outside_of_a_job_nothing_is_touched(self, tmp_path: Path) -> None:
        job = training(tmp_path)
        (job.base / "input" / "config" / "hyperparameters.json").unlink()
        ran = job.run()
        assert ran.returncode == 2
        assert "runs in containers of SageMaker's training jobs (there is no " in ran.stderr
        assert job.failure == ""

    def test_arguments_are_refused(self, tmp_path: Path) -> None:
        ran = training(tmp_path).run("epochs=3")
        assert ran.returncode == 2
        assert "(given: epochs=3)" in ran.stderr


def test_the_model_is_the_first_output_that_is_one() -> None:
    assert model_port(learn.spec) == "model"
    assert model_port(load_component("tests.toys:write").spec) is None


def test_the_command_is_for_the_service_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    assert "  train " not in capsys.readouterr().out
    assert main(["train", "--help"]) == 0
    assert "millrace run pipeline=digits" in capsys.readouterr().out
    for words in (["train"], ["millrace", "train"]):
        assert main(words) == 2
        assert "there is no /opt/ml/input/config/hyperparameters.json" in capsys.readouterr().err
