"""A task that is killed again and again in the middle of its work, and run again each time, until it is done."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
from importlib import import_module
from pathlib import Path

from millrace.registry import load_component
from millrace.runtime.execute import execute, read_request

__all__ = ["artifacts", "run_with_kills"]

_ROOT = Path(__file__).parents[1]


def run_with_kills(directory: Path, seed: int = 0, kills: int = 8) -> dict[str, bytes]:
    """Do a task's work twice: in one go in `whole` beside its directory, and in the directory with kills.

    The moment of a kill is a call of a function by the task's main thread, drawn by its number, so that it is the same
    however fast the machine is. Calls are counted in the first run.

    Args:
        directory: A task directory with its request.
        seed: Of the moments.
        kills: How many at most; a task that goes on from what it had done may end before.

    Returns:
        The files of all outputs, which both runs gave alike.
    """
    whole = directory.with_name(f"{directory.name}-whole")
    shutil.copytree(directory, whole)
    command = [sys.executable, "-m", "tests.kills", str(whole), str(directory), str(seed), str(kills)]
    told = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stdout + told.stderr
    assert int(told.stdout.split()[-1]) > 0, "the task was not killed in its work"
    expected, made = artifacts(whole), artifacts(directory)
    assert set(made) == set(expected)
    assert [name for name, content in made.items() if content != expected[name]] == []
    assert not (directory / "scratch").exists()
    return expected


def artifacts(directory: Path) -> dict[str, bytes]:
    """All files of a task's outputs by their paths."""
    folder = directory / "outputs"
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _main(whole: Path, directory: Path, seed: int, kills: int) -> None:
    # Modules are loaded before forks, so that an attempt takes a moment only.
    component = load_component(read_request(directory).component)
    import_module(component.spec.main.partition(":")[0])
    counted = directory.with_name("calls.txt")
    assert _attempt(whole, None, counted) == 0
    total = int(counted.read_text())
    moments = random.Random(seed)
    killed = 0
    while (code := _attempt(directory, moments.randint(1, total) if killed < kills else None, counted)) != 0:
        assert code == -signal.SIGKILL, f"exit code {code}"
        killed += 1
    print(killed)


def _attempt(directory: Path, moment: int | None, counted: Path) -> int:
    """Run the task in a process of its own, to its end or to a call; its exit code as `subprocess` gives it."""
    sys.stdout.flush()
    process = os.fork()
    if process == 0:
        log = os.open(directory / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        calls = _Calls(moment)
        sys.setprofile(calls)
        code = execute(directory)
        sys.setprofile(None)
        counted.write_text(str(calls.number))
        os._exit(code)
    _, status = os.waitpid(process, 0)
    return os.waitstatus_to_exitcode(status)


class _Calls:
    """Counts the calls of a thread, as its profiler, and ends the process by SIGKILL at one of them."""

    def __init__(self, last: int | None) -> None:
        self.number = 0
        self._last = last

    def __call__(self, frame: object, event: str, argument: object) -> None:
        self.number += 1
        if self.number == self._last:
            os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    _main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
