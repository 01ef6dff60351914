"""The authors' pages, followed to the letter; and what happens when authors name things like ours."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from millrace.errors import ConfigError
from millrace.registry import load_pipeline

ROOT = Path(__file__).parents[2]


def python(*words: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", *words],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200", **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def millrace(*words: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return python("-m", "millrace", *words, cwd=cwd, **environment)


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """The files of the two pages, where their titles say."""
    for page in ("components.md", "pipelines.md"):
        text = (ROOT / "docs" / page).read_text()
        for name, content in re.findall(r'^```\w+ title="([^"]+)"\n(.*?)^```', text, re.DOTALL | re.MULTILINE):
            file = tmp_path / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(content)
    for folder in ("my_package", "my_package/blur"):
        (tmp_path / folder / "__init__.py").touch()
    return tmp_path


class TestThePages:
    @pytest.mark.parametrize("folder", [".", "src"])
    def test_component_passes_its_tests(self, written: Path, folder: str) -> None:
        (written / folder).mkdir(exist_ok=True)
        (written / "my_package").rename(written / folder / "my_package")
        (written / "pytest.ini").write_text(f"[pytest]\npythonpath = {folder}\n")
        answer = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "tests"],
            cwd=written,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert answer.returncode == 0, answer.stdout

    def test_component_is_described(self, written: Path) -> None:
        answer = millrace("describe", "blur", "--config-dir", "my_config", cwd=written)
        assert "Standard deviation in pixels." in answer.stdout, answer.stderr

    def test_pipeline_is_described_with_its_tasks(self, written: Path) -> None:
        answer = millrace("describe", "blurred", "--config-dir", "my_config", cwd=written)
        assert "digits -> blur -> manifest -> shard -> preprocess" in answer.stdout, answer.stderr

    def test_every_key_of_the_pipeline_is_shown(self, written: Path) -> None:
        answer = millrace("run", "--config-dir", "my_config", "pipeline=blurred", "--cfg", "job", cwd=written)
        assert re.search(r"^least: 100$", answer.stdout, re.MULTILINE), answer.stderr
        assert re.search(r"^  radius: 2\.0$", answer.stdout, re.MULTILINE)

    def test_pipeline_runs(self, written: Path) -> None:
        words = ("run", "--config-dir", "my_config", "pipeline=blurred", "blur.radius=1", "digits.limit=20")
        answer = millrace(*words, cwd=written)
        assert answer.returncode == 0, answer.stdout + answer.stderr
        assert re.search(r"blur\.blurred +200$", answer.stdout, re.MULTILINE)

    def test_type_checkers_find_nothing(self, written: Path) -> None:
        answer = python("-m", "mypy", "--strict", "my_package", cwd=written, MYPYPATH=str(ROOT))
        assert answer.returncode == 0, answer.stdout


class TestNames:
    @pytest.mark.parametrize("name", ["config.yaml", "pipeline/digits.yaml", "model/cnn.yaml"])
    def test_of_the_librarys_files_are_refused_not_ignored(self, tmp_path: Path, name: str) -> None:
        file = tmp_path / "my_config" / name
        file.parent.mkdir(parents=True)
        file.write_text("{}\n")
        answer = millrace("run", "--config-dir", "my_config", "--cfg", "job", cwd=tmp_path)
        assert answer.returncode == 2
        assert f"{file} has the name of one of the library's own files: rename it" in answer.stderr

    def test_of_the_librarys_folders_shadow_nothing(self, tmp_path: Path) -> None:
        for name in ("components/train", "pipelines", "conf"):
            (tmp_path / name).mkdir(parents=True)
        for name in ("components/train/spec.py", "components/__init__.py", "pipelines/digits.py", "numpy.py"):
            (tmp_path / name).write_text("raise RuntimeError('shadowed')\n")
        (tmp_path / "conf" / "config.yaml").write_text("nonsense: 1\n")
        answer = millrace("run", "--cfg", "job", cwd=tmp_path)
        assert answer.returncode == 0, answer.stderr
        assert "nonsense" not in answer.stdout
        assert millrace("describe", "train", cwd=tmp_path).returncode == 0

    def test_shared_by_a_component_and_a_pipeline_describe_both(self, tmp_path: Path) -> None:
        answer = millrace("describe", "digits", cwd=tmp_path)
        assert "digits 1: Write" in answer.stdout
        assert "digits: Classify" in answer.stdout


class TestAModuleThatCanNotBeImported:
    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("import os\n1 / 0\n", "mine.py:2: ZeroDivisionError: division by zero"),
            ("import os\nimport x y\n", "mine.py:2: SyntaxError: invalid syntax"),
            ("from os import nine\n", "mine.py:1: ImportError: cannot import name 'nine' from 'os'"),
            ("import nothing_of_this_name\n", "needs the package 'nothing_of_this_name': install it first"),
            ("from tests.toys import *\n", "there is no mine:flow: allowed: play"),
            ("from tests.toys import *\nwrite(WriteParameters())\n", "mine.py:2: component 'write' is called outside"),
        ],
    )
    def test_is_told_with_the_authors_line(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, message: str
    ) -> None:
        name = f"mine_{abs(hash(text))}"  # each is imported once only
        (tmp_path / f"{name}.py").write_text(text)
        monkeypatch.syspath_prepend(tmp_path)
        with pytest.raises(ConfigError) as caught:
            load_pipeline(f"{name}:flow")
        assert message.replace("mine", name) in str(caught.value)


def test_narrow_terminals_see_whole_names(tmp_path: Path) -> None:
    script = (
        "from rich.console import Console; from millrace import library;"
        "library._console = lambda: Console(markup=False, width=80); library.describe(['digits']);"
        "library.list_components([])"
    )
    answer = python("-c", script, cwd=tmp_path)
    assert "preprocess.data[image].max_pixels" in answer.stdout
    assert "[number, number]; value [1.0, 1.0]" in answer.stdout
    assert max(map(len, answer.stdout.splitlines())) <= 80
