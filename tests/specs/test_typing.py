"""mypy and pyright find wiring mistakes before anything runs."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

WRONG = Path(__file__).with_name("wrong_pipeline.py.txt")
ROOT = Path(__file__).parents[2]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "wrong_pipeline.py"
    path.write_text(WRONG.read_text())
    return path


def expected(checker: str) -> dict[int, str]:
    """Lines marked `# checker: fragment` and the fragment of the message expected there."""
    found = {}
    for number, line in enumerate(WRONG.read_text().splitlines(), start=1):
        match = re.search(rf"# {checker}: ([^#]+)", line)
        if match:
            found[number] = match.group(1).strip()
    return found


def check(errors: dict[int, str], checker: str) -> None:
    wanted = expected(checker)
    assert len(wanted) >= 5
    assert sorted(errors) == sorted(wanted)
    for line, fragment in wanted.items():
        assert fragment in errors[line]


def test_mypy(source: Path) -> None:
    answer = subprocess.run(
        [
            sys.executable,
            "-m",
            "mypy",
            "--strict",
            "--no-error-summary",
            "--hide-error-context",
            "--no-pretty",
            str(source),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    found = re.findall(r"wrong_pipeline\.py:(\d+): error: (.*)", answer.stdout)
    check({int(line): message for line, message in reversed(found)}, "mypy")


def test_pyright(source: Path) -> None:
    (source.parent / "pyrightconfig.json").write_text(
        json.dumps({"include": [source.name], "extraPaths": [str(ROOT)], "pythonVersion": "3.11"})
    )
    answer = subprocess.run(
        [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable, "-p", str(source.parent)],
        capture_output=True,
        text=True,
        check=False,
    )
    diagnostics = json.loads(answer.stdout)["generalDiagnostics"]
    errors = {
        item["range"]["start"]["line"] + 1: item["message"] for item in diagnostics if item["severity"] == "error"
    }
    check(errors, "pyright")
