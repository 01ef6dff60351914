"""Parts that become one artifact."""

from __future__ import annotations

from pathlib import Path

import pytest

from millrace.components.gather.spec import GatherParameters, gather
from millrace.errors import TaskFailedError
from millrace.testing import run_component


def part(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def gathered(tmp_path: Path, *parts: Path) -> dict[str, str]:
    whole = run_component(gather, GatherParameters(), tmp_path / "run", parts=parts).outputs["whole"]
    assert not any(file.is_symlink() for file in whole.rglob("*"))
    return {file.relative_to(whole).as_posix(): file.read_text() for file in whole.rglob("*") if file.is_file()}


def test_every_file_of_every_part(tmp_path: Path) -> None:
    one = part(tmp_path / "one", {"a": "1", "below/b": "2", "schema.json": "same"})
    two = part(tmp_path / "two", {"below/c": "3", "schema.json": "same"})
    assert gathered(tmp_path, one, two) == {"a": "1", "below/b": "2", "below/c": "3", "schema.json": "same"}


def test_links_become_files(tmp_path: Path) -> None:
    part(tmp_path / "one", {"a": "1"})
    links = tmp_path / "links"
    links.mkdir()
    (links / "a").symlink_to(tmp_path / "one" / "a")
    assert gathered(tmp_path, links) == {"a": "1"}


def test_different_files_of_one_name_are_refused(tmp_path: Path) -> None:
    one, two = part(tmp_path / "one", {"schema.json": "1"}), part(tmp_path / "two", {"schema.json": "2"})
    with pytest.raises(TaskFailedError, match=r"different files called 'schema\.json'"):
        gathered(tmp_path, one, two)
