"""`millrace exec` as a container of a processing job calls it: real processes, the service's own files."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from millrace.runtime.sagemaker.inputs import EMPTY
from millrace.runtime.sagemaker.processing import here
from tests.runtime.sagemaker.layout import Processing, files, put, words_folder

WRITE, WORK, SPLIT = "tests.toys:write", "tests.toys:work", "tests.toys:split"


def chunks(parameters: dict[str, Any], size: int = 7) -> list[str]:
    text = json.dumps(parameters)
    return [text[start : start + size] for start in range(0, len(text), size)]


def succeed(ran: subprocess.CompletedProcess[str]) -> str:
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


class TestAJobThatSucceeds:
    def test_its_outputs_lie_where_the_service_takes_them_from(self, tmp_path: Path) -> None:
        job = Processing(tmp_path)
        job.take("words", "metrics")
        said = succeed(job.exec(WRITE, "--parameters", *chunks({"text": "a b c"})))
        assert files(job.output("words")) == {"000.txt": "a", "001.txt": "b", "002.txt": "c"}
        assert json.loads((job.output("metrics") / "metrics.json").read_text()) == {"length": 3.0}
        assert "length=3" in said
        assert json.loads(job.message) == {"metrics": {"length": 3.0}, "facts": {"words": {"objects": 3}}}
        assert job.failure == ""

    def test_an_output_that_is_not_asked_for_is_not_stored(self, tmp_path: Path) -> None:
        job = Processing(tmp_path)
        job.take("metrics")
        succeed(job.exec(WRITE))
        assert not job.output("words").exists()

    def test_open_fields_win_over_the_constant_parameters(self, tmp_path: Path) -> None:
        job = Processing(tmp_path)
        job.give("words", "a")
        job.take("metrics")
        succeed(job.exec("tests.toys:judge", "--parameters", '{"score": 0.25}', "--open", "score=1"))
        assert json.loads((job.output("metrics") / "metrics.json").read_text()) == {"score": 1.0}

    @pytest.mark.parametrize("text", ["12 3.0", "1e5", "null", "--task", "a=b", "", "ü"])
    def test_open_text_is_taken_as_it_is(self, tmp_path: Path, text: str) -> None:
        job = Processing(tmp_path)
        job.take("words", "metrics")
        succeed(job.exec(WRITE, "--parameters", '{"text": "x"}', "--open-text", f"text={text}"))
        found = [word for name, word in files(job.output("words")).items() if name != EMPTY]
        assert found == text.split()

    def test_what_lay_in_the_folders_before_is_gone(self, tmp_path: Path) -> None:
        job = Processing(tmp_path)
        job.take("words", "metrics")
        words_folder(job.output("words") / "old", "x")
        succeed(job.exec(WRITE, "--parameters", '{"text": "a"}'))
        assert files(job.output("words")) == {"000.txt": "a"}


class TestInputs:
    def test_folders_are_read_where_they_are(self, tmp_path: Path) -> None:
        job = Processing(tmp_path)
        job.give("words", "a", "b")
        job.take("words")
        succeed(job.exec(WORK))
        assert files(job.output("words")) == {"a.txt": "A", "b.txt": "B"}

    def test_a_port_that_takes_many(self, tmp_path: Path) -> None:
        job = Processing(tmp_path)
        for number in (10, 2, 0):
            job.give(f"more.{number}", f"m{number}")
        job.give("words", "a")
        job.take("words")
        succeed(job.exec(WORK))

    @pytest.mark.parametrize("made", [True, False])
    def test_nothing_in_the_store_is_an_empty_folder_and_marked_for_the_next(self, tmp_path: Path, made: bool) -> None:
        job = Processing(tmp_path)
        folder = job.give("words")
        if not made:
            folder.rmdir()
        job.take("words")
        succeed(job.exec(WORK))
        assert files(job.output("words")) == {EMPTY: ""}

    def test_the_mark_of_an_empty_folder_is_not_seen(self, tmp_path: Path) -> None:
        job = Processing(tmp_path)
        (job.give("words", "a") / EMPTY).touch()
        job.take("words")
        succeed(job.exec(WORK))
        assert files(job.output("words")) == {"a.txt": "A"}

    def test_hosts_take_their_shares(self, tmp_path: Path) -> None:
        found = []
        for host in ("algo-1", "algo-2"):
            job = Processing(tmp_path / host)
            job.machines("config", host, ["algo-2", "algo-1"], current_instance_type="ml.m5.large")
            job.give("words", "a", "b", "c")
            job.take("parts")
            succeed(job.exec(SPLIT))
            found.append(sorted(path.stem for path in job.output("parts").iterdir()))
        assert found == [["a", "c", "schema"], ["b", "schema"]]

    def test_what_came_by_key_is_the_share(self, tmp_path: Path) -> None:
        job = Processing(tmp_path)
        job.machines("config", "algo-2", ["algo-1", "algo-2"])
        job.give("words", "b", "d", distribution="ShardedByS3Key")
        job.take("parts")
        succeed(job.exec(SPLIT))
        assert sorted(path.stem for path in job.output("parts").iterdir()) == ["b", "d", "schema"]

    def test_an_artifact_that_comes_apart_is_put_together(self, tmp_path: Path) -> None:
        job = Processing(tmp_path)
        job.machines("config", "algo-2", ["algo-1", "algo-2"])
        job.give("words", "plan")
        job.give("words+shards", "b", distribution="ShardedByS3Key")
        job.take("listed")
        succeed(job.exec("tests.runtime.sagemaker.lister:lister"))
        assert files(job.output("listed")) == {"listed.html": "plan.txt shards/b.txt"}

    def test_a_one_file_artifact_is_found_under_any_name(self, tmp_path: Path) -> None:
        job = Processing(tmp_path)
        job.give("words", "a")
        put(job.give("page") / "report.html", "hello")
        job.take("listed")
        succeed(job.exec("tests.runtime.sagemaker.lister:lister"))
        assert files(job.output("listed")) == {"listed.html": "a.txt hello"}
        put(job.base / "processing" / "input" / "page" / "other.html", "hello")
        ran = job.exec("tests.runtime.sagemaker.lister:lister")
        assert ran.returncode == 2
        assert "here.page: there must be one file *.html below" in ran.stderr
        assert "found: other.html, report.html" in ran.stderr


class TestOutputs:
    def test_links_are_stored_as_files(self, tmp_path: Path) -> None:
        job = Processing(tmp_path)
        job.give("words", "a")
        job.take("model")
        succeed(job.exec("tests.runtime.sagemaker.learner:learn", "--parameters", '{"link": true}'))
        made = files(job.output("model"))
        assert made["latest"] == made["weights"]
        assert not any(path.is_symlink() for path in job.output("model").iterdir())

    def test_links_to_folders_are_refused_and_nothing_is_stored(self, tmp_path: Path) -> None:
        job = Processing(tmp_path)
        job.give("words", "a")
        job.take("listed", "folder")
        ran = job.exec("tests.runtime.sagemaker.lister:lister", "--parameters", '{"link": true}')
        assert ran.returncode == 1
        assert "the output 'folder' holds a link to a folder, out, and SageMaker stores no links" in ran.stderr
        assert files(job.base / "processing" / "output") == {}
        assert job.failure == job.message


class TestAJobThatFails:
    def fails(self, job: Processing, code: int, *words: str, component: str = WRITE) -> str:
        ran = job.exec(component, *words)
        assert ran.returncode == code, ran.stderr
        assert "Traceback" not in ran.stderr
        assert ran.stderr.count("error: ") == 1
        assert job.failure == job.message
        assert job.failure == ran.stderr.partition("error: ")[2].rstrip("\n")[:1024]
        assert files(job.base / "processing" / "output") == {}
        return ran.stderr

    @pytest.mark.parametrize(
        ("behaviour", "code", "told"),
        [
            ("user", 2, "the words are spelt wrongly"),
            ("transient", 75, "503 SlowDown"),
            ("disk_full", 1, "the disk is full"),
            ("vanish", 1, "it was ended by SIGKILL; most often the machine ran out of memory"),
            ("nothing", 1, "the worker ended with exit code 0 and no explanation"),
        ],
    )
    def test_exit_code_and_reason(self, tmp_path: Path, behaviour: str, code: int, told: str) -> None:
        job = Processing(tmp_path)
        job.give("words", "a")
        job.take("words")
        assert told in self.fails(job, code, "--parameters", json.dumps({"behaviour": behaviour}), component=WORK)

    @pytest.mark.parametrize(
        ("words", "told"),
        [
            (("--parameters", '{"text": 1'), "here: --parameters is not JSON"),
            (("--parameters", "[1]"), "here: --parameters must be a JSON object (given: [1])"),
            (("--parameters", '{"txt": "a"}'), "here.txt: unknown key: did you mean 'text'?"),
            (("--open", "text"), "here: --open: 'text' is not of the form NAME=VALUE"),
            (("--endpoint", '{"name": "x"}'), "here: --endpoint.variant: a value is required"),
        ],
    )
    def test_arguments(self, tmp_path: Path, words: tuple[str, ...], told: str) -> None:
        job = Processing(tmp_path)
        job.take("words")
        assert told in self.fails(job, 2, *words)

    def test_an_argument_that_is_none_of_ours(self, tmp_path: Path) -> None:
        job = Processing(tmp_path)
        job.ready()
        ran = job.run(WRITE, "--tsak", "here")
        assert (ran.returncode, "unknown argument '--tsak'; allowed: --task" in ran.stderr) == (2, True)
        assert "--task is required" in job.run(WRITE).stderr

    def test_an_input_that_is_missing_or_for_nobody(self, tmp_path: Path) -> None:
        job = Processing(tmp_path)
        assert "here.words: an artifact is required" in self.fails(job, 2, component=WORK)
        job.give("wrods", "a")
        assert "has no input for 'wrods'" in self.fails(job, 2, component=WORK)

    def test_an_output_that_the_image_does_not_know(self, tmp_path: Path) -> None:
        job = Processing(tmp_path)
        job.take("wrods")
        assert "has no outputs called ['wrods']" in self.fails(job, 2)

    @pytest.mark.parametrize(
        ("change", "told"),
        [
            ("{", "Invalid JSON"),
            ("", "Invalid JSON"),
            ([], "Input should be"),
            ({"ProcessingInputs": [{"S3Input": {}}]}, "ProcessingInputs.0.InputName: a value is required"),
            (
                {"ProcessingInputs": [{"InputName": "words", "S3Input": {"LocalPath": "/opt/ml/../../etc"}}]},
                "'/opt/ml/../../etc' is no path below /opt/ml",
            ),
            (
                {"ProcessingOutputConfig": {"Outputs": [{"OutputName": "words", "S3Output": {"LocalPath": "/etc"}}]}},
                "'/etc' is no path below /opt/ml",
            ),
        ],
    )
    def test_hostile_files_of_the_service(self, tmp_path: Path, change: object, told: str) -> None:
        job = Processing(tmp_path)
        job.ready()
        put(job.base / "config" / "processingjobconfig.json", change)
        ran = job.run(WRITE, "--task", "here")
        assert ran.returncode == 2
        assert told in ran.stderr
        assert "Traceback" not in ran.stderr

    @pytest.mark.parametrize(
        ("machines", "told"),
        [
            ({"current_host": "algo-3", "hosts": ["algo-1"]}, "current_host 'algo-3' is not one of hosts, ['algo-1']"),
            ({"current_host": "algo-1", "hosts": []}, "hosts: Tuple should have at least 1 item"),
            ({"hosts": ["a"]}, "current_host: a value is required"),
        ],
    )
    def test_machines_that_can_not_be(self, tmp_path: Path, machines: object, told: str) -> None:
        job = Processing(tmp_path)
        put(job.base / "config" / "resourceconfig.json", machines)
        assert told in self.fails(job, 2)
        (job.base / "config" / "resourceconfig.json").unlink()
        assert "resourceconfig.json: No such file" in self.fails(job, 2)

    def test_an_output_folder_that_can_not_be_written_to_is_refused_before_the_work(self, tmp_path: Path) -> None:
        job = Processing(tmp_path)
        job.take("words")
        job.output("words").rmdir()
        job.output("words").write_text("in the way")
        job.ready()
        ran = job.run(WRITE, "--task", "here", "--parameters", json.dumps({"journal": str(tmp_path / "journal")}))
        assert ran.returncode == 2
        assert "may not write to" in ran.stderr
        assert "runs as root" in ran.stderr
        assert not (tmp_path / "journal").exists()

    @pytest.mark.parametrize("behaviour", ["well", "stubborn"])
    def test_sigterm_ends_the_worker_and_leaves_nothing(self, tmp_path: Path, behaviour: str) -> None:
        job = Processing(tmp_path)
        job.give("words", "a")
        job.take("words")
        job.ready()
        journal = tmp_path / "journal"
        seconds = 0 if behaviour == "stubborn" else 60
        parameters = {"behaviour": behaviour, "seconds": seconds, "journal": str(journal)}
        process = job.start(WORK, "--task", "here", "--parameters", json.dumps(parameters))
        deadline = time.monotonic() + 30
        while not (journal.exists() and (behaviour == "well" or "stubborn" in journal.read_text())):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        _, told = process.communicate(timeout=25)
        assert process.returncode == 143
        assert told == "error: the task was ended by SIGTERM\n"
        assert job.failure == "the task was ended by SIGTERM"
        assert files(job.base / "processing" / "output") == {}
        assert list((tmp_path / "tmp").iterdir()) == []


def test_a_file_that_finds_no_room_leaves_all_folders_empty(tmp_path: Path) -> None:
    shared = Path("/dev/shm")  # a file system of its own on every Linux: from there files are copied
    if not os.access(shared, os.W_OK) or shared.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("needs a second file system, at /dev/shm")
    program = """
import resource, signal, sys
from pathlib import Path
from millrace.runtime.sagemaker.outputs import store
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
places = list(map(Path, sys.argv[1:]))
store(dict(zip(places[::2], places[1::2])))
"""
    one, two = words_folder(tmp_path / "one", "old"), words_folder(tmp_path / "two")
    with TemporaryDirectory(dir=shared) as made:
        small, large = words_folder(Path(made, "small"), "a"), words_folder(Path(made, "large"), "b", "c")
        put(large / "c.txt", "c" * 200_000)
        words = [str(path) for path in (one, small, two, large)]
        ran = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True, check=False)
        assert "File too large" in ran.stderr
        assert files(one) == files(two) == {}
        put(large / "c.txt", "c")
        subprocess.run([sys.executable, "-c", program, *words], check=True)
        assert (files(one), files(two)) == ({"a.txt": "a"}, {"b.txt": "b", "c.txt": "c"})


def test_a_processing_job_is_recognised_by_its_file(tmp_path: Path) -> None:
    job = Processing(tmp_path)
    assert not here(job.base)
    job.ready()
    assert here(job.base)
