"""A suite that adds numbers up: small scripts beside ours, in no environment of their own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import JsonValue

from benchmarks.contest import measure_case, run_contender
from benchmarks.plan import Case, Contender, Setting
from benchmarks.results import CaseResult

SCRIPTS = {
    "add.py": """
from benchmarks.measure import main

def prepare(given):
    numbers = list(range(given["count"]))
    held = bytearray(given.get("bytes", 0))

    def work():
        held[::4096] = b"x" * len(held[::4096])
        total = 0
        for _ in range(given.get("times", 1)):
            total += sum(numbers)
        return {"work": len(numbers), "total": total}

    return work

if __name__ == "__main__":
    main(prepare)
""",
    "wait.py": """
import os, time
from benchmarks.measure import main

def prepare(given):
    def work():
        time.sleep(given["seconds"])
        return {"work": given["work"], "cores": len(os.sched_getaffinity(0))}
    return work

if __name__ == "__main__":
    main(prepare)
""",
    "children.py": """
import subprocess, sys
from benchmarks.measure import main

HOLD = "import time; held = b'x' * %d; time.sleep(1.0)"

def prepare(given):
    def work():
        command = [sys.executable, "-c", HOLD % given["bytes"]]
        children = [subprocess.Popen(command) for _ in range(2)]
        return sum(child.wait() == 0 for child in children)
    return work

if __name__ == "__main__":
    main(prepare)
""",
    "fails.py": """
raise SystemExit("no such thing here")
""",
}


@pytest.fixture
def contender(tmp_path: Path) -> Callable[..., Contender]:
    """Makes contenders of the scripts above."""
    for name, text in SCRIPTS.items():
        (tmp_path / name).write_text(text)

    def make(name: str, script: str, **arguments: JsonValue) -> Contender:
        return Contender(name=name, about=f"{script} of a test", script=str(tmp_path / script), arguments=arguments)

    return make


@pytest.fixture
def setting(tmp_path: Path) -> Setting:
    """Two rounds, judged."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    return Setting(scratch=scratch, rounds=2, try_contender=lambda one: run_contender(one).measurement)


@pytest.fixture
def measured(setting: Setting) -> Callable[[Case], CaseResult]:
    """Measures a case."""
    return lambda case: measure_case(case, setting)
