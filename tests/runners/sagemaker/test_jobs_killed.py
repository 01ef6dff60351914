"""What a rehearsal that was killed leaves is removed by the next one; signals remove it at once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from millrace.runners.engine import connect
from tests.runners.rehearsals import SECONDS, left_behind, wait_until_gone

pytestmark = pytest.mark.docker

RUN = """
import sys
from pathlib import Path
from millrace.runners.engine import connect
from millrace.runners.sagemaker.place import open_place
from millrace.runners.sagemaker.training import run_training
from millrace.runners.store import open_store
from tests.runners.sagemaker.jobs import training

engine = connect(sys.argv[1])
try:
    with open_store(None) as store, open_place(engine, store, Path(sys.argv[2]), region="us-east-1") as place:
        script = "import time; print('ready', flush=True); time.sleep(600)"
        run_training(place, "endless", training(script, 2), watch=lambda host, line: print(line, flush=True))
finally:
    engine.close()
"""


@pytest.fixture
def running(docker_engine: Any, tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    identity = f"killed-{os.getpid()}-{time.monotonic_ns()}"
    process = subprocess.Popen(
        [sys.executable, "-c", RUN, identity, str(tmp_path)],
        cwd=Path(__file__).parents[3],
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),  # what started the tests may ignore it
    )
    assert process.stdout
    assert process.stdout.readline() == "ready\n"
    yield process, identity
    process.kill()
    process.wait()


def test_after_a_kill_the_next_rehearsal_cleans_up(
    docker_engine: Any, running: tuple[subprocess.Popen[str], str], tmp_path: Path
) -> None:
    process, identity = running
    assert len(left_behind(docker_engine, identity)) == 3, "two hosts and their network"
    process.kill()
    process.wait()
    connect("next").close()
    wait_until_gone(docker_engine, identity)
    assert [path.name for path in tmp_path.iterdir()] == ["jobs"]


def test_an_interruption_cleans_up_itself(docker_engine: Any, running: tuple[subprocess.Popen[str], str]) -> None:
    process, identity = running
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=SECONDS) != 0
    assert left_behind(docker_engine, identity) == []
