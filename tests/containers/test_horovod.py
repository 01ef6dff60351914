"""`make horovod`: what it says when it can't, that it builds once, and that what it builds reduces over two ranks."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import needed

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "tools" / "build-horovod"
TWO_RANKS = Path(__file__).with_name("two_ranks.py")


def build(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SCRIPT), *words],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )


def commands(folder: Path, *names: str) -> str:
    """A PATH with some of this machine's commands only."""
    folder.mkdir()
    for name in names:
        (folder / name).symlink_to(shutil.which(name) or needed(f"needs {name}: apt-get install {name}"))
    return str(folder)


def reduced(said: str) -> list[dict[str, Any]]:
    """What the ranks print, by rank."""
    ranks = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
    return sorted(ranks, key=lambda rank: int(rank["rank"]))


def right(rank: int) -> dict[str, Any]:
    """What a rank of two must print."""
    return {
        "rank": rank,
        "size": 2,
        "sum": [3.0],
        "half": 3.0,
        "mean": [0.5, 1.0],
        "gathered": [0, 1, 1],
        "broadcast": 1.0,
        "last to join": [1, 1],
        "horovod": "0.28.1",
    }


class TestMessages:
    @pytest.mark.parametrize(
        ("there", "missing"), [((), "g++, make, patch"), (("make", "patch"), "g++"), (("g++",), "make, patch")]
    )
    def test_what_is_missing_is_said_in_one_line_with_its_cure(
        self, tmp_path: Path, there: tuple[str, ...], missing: str
    ) -> None:
        path = commands(tmp_path / "bin", *there)
        done = build("--no-cuda", PATH=path, XDG_CACHE_HOME=str(tmp_path / "cache"))
        cure = missing.replace(",", "")
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == f"error: building Horovod needs {missing}: apt-get install {cure}\n"

    def test_an_environment_without_tensorflow(self, tmp_path: Path) -> None:
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "venv")], check=True)
        python = str(tmp_path / "venv" / "bin" / "python")
        done = build("--python", python)
        assert done.returncode == 2
        assert done.stderr == f"error: there is no TensorFlow for {python}: `make setup` installs it into .venv\n"

    def test_no_interpreter(self, tmp_path: Path) -> None:
        done = build("--python", str(tmp_path / "python"))
        assert done.returncode == 2
        assert done.stderr == f"error: {tmp_path}/python is no Python interpreter: No such file or directory\n"


def test_a_build_that_is_killed_leaves_no_wheel_and_no_lock(tmp_path: Path) -> None:
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path), "TMPDIR": str(tmp_path)}
    command = [sys.executable, str(SCRIPT), "--no-cuda", "--prefix", str(tmp_path / "prefix")]
    first = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert first.stdout is not None
    with first:
        assert first.stdout.readline().startswith("building Horovod")
        os.killpg(first.pid, signal.SIGKILL)
    assert list(tmp_path.rglob("*.whl")) == []
    path = commands(tmp_path / "bin")
    after = build("--no-cuda", PATH=path, XDG_CACHE_HOME=str(tmp_path))
    assert after.stderr.startswith("error: building Horovod needs g++"), "it waits for the dead one"


@pytest.mark.slow
def test_a_second_call_takes_the_cached_wheel_and_two_ranks_reduce_with_it(tmp_path: Path) -> None:
    first = build("--no-cuda", "--prefix", str(tmp_path / "first"))
    assert first.returncode == 0, first.stderr
    path = commands(tmp_path / "bin")
    second = build("--no-cuda", "--prefix", str(tmp_path / "second"), PATH=path)
    assert (second.returncode, second.stderr) == (0, ""), "a cached wheel needs no compiler"
    assert second.stdout.splitlines()[-1].endswith(".whl (cached)")
    (packages,) = (tmp_path / "second").glob("lib/python3*/site-packages")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HOROVOD_")}
    ranks = subprocess.run(
        [sys.executable, str(TWO_RANKS)],
        env={**environment, "PYTHONPATH": str(packages)},
        stdout=subprocess.PIPE,
        text=True,
        check=False,
        timeout=180,
    )
    assert ranks.returncode == 0
    assert reduced(ranks.stdout) == [right(0), right(1)]


@pytest.mark.docker
def test_two_ranks_reduce_in_the_train_image(docker_engine: Any, images: dict[str, str]) -> None:
    said: bytes = docker_engine.containers.run(
        images["train"],
        ["-c", TWO_RANKS.read_text()],
        entrypoint="python",
        user="4321",
        network_mode="none",
        read_only=True,
        tmpfs={"/tmp": ""},
        cap_drop=["ALL"],
        remove=True,
    )
    assert reduced(said.decode()) == [right(0), right(1)]
