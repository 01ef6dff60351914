"""References of images: fixed ones pass, those that may change are errors that tell what to write."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from millrace import __version__
from millrace.compilers.images import reference
from millrace.errors import ConfigError
from millrace.targets.images import Images

DIGEST = f"sha256:{'0123456789abcdef' * 4}"


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def _write(content: object) -> None:
    Path("build").mkdir()
    Path("build/images.json").write_text(content if isinstance(content, str) else json.dumps(content))


@pytest.mark.parametrize(
    ("images", "expected"),
    [
        (Images(), f"millrace/train:{__version__}"),
        (Images(tag="2026.11"), "millrace/train:2026.11"),
        (Images(prefix="registry.example.org:5000/team/"), f"registry.example.org:5000/team/train:{__version__}"),
        (Images(prefix=""), f"train:{__version__}"),
        (Images(prefix="registry.example.org/millrace-", tag="1"), "registry.example.org/millrace-train:1"),
    ],
)
def test_a_name_gets_prefix_and_tag(images: Images, expected: str) -> None:
    assert reference("train", images) == expected


def test_a_digest_wins_over_prefix_and_tag() -> None:
    pushed = f"localhost:5000/team/train@{DIGEST}"
    _write({"train": pushed})
    assert reference("train", Images(prefix="other/", tag="1")) == pushed
    assert reference("data", Images()) == f"millrace/data:{__version__}"


@pytest.mark.parametrize(
    "given",
    [
        "registry.example.org/team/mine:1.2",
        "mine:1.2",
        f"mine@{DIGEST}",
        f"registry.example.org:5000/a/b/mine:1.2@{DIGEST}",
        f"mine:latest@{DIGEST}",  # the digest decides
    ],
)
def test_a_full_reference_is_left_alone(given: str) -> None:
    _write({"mine": f"other/mine@{DIGEST}"})
    assert reference(given, Images(prefix="elsewhere/")) == given


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("registry.example.org/team/mine:latest", "`latest` means another image tomorrow.*team/mine:0"),
        ("registry.example.org:5000/team/mine", "has no tag.*registry.example.org:5000/team/mine:0"),
        ("team/mine", "has no tag"),
        ("mine:", "not an image reference"),
        ("mine@sha256:abc", "not an image reference"),
        ("registry.example.org/Team/mine:1", "not an image reference"),
        ("mine:1 ", "not an image reference"),
        ("My Image", r"not an image's name.*registry.example.org/team/my-image:0"),
        ("", "not an image's name"),
    ],
)
def test_what_may_change_or_is_malformed_is_refused(given: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        reference(given, Images())


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (Images(tag="latest"), "target.images.tag.*`latest` means another"),
        (Images(tag=""), "not an image reference"),
        (Images(prefix="Registry.example.org/Team/"), "target.images.prefix.*in lowercase"),
    ],
)
def test_settings_that_make_no_fixed_reference_are_refused(images: Images, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        reference("train", images)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", r"build/images.json: can't be read.*millrace build push="),
        (["train"], r"build/images.json: can't be read"),
        ({"train": "registry.example.org/train:1"}, r"build/images.json: train: a reference by digest"),
        ({"train": "registry.example.org/train@sha256:1"}, r"build/images.json: train: not an image reference"),
    ],
)
def test_a_broken_file_of_digests_is_named(content: object, message: str) -> None:
    _write(content)
    with pytest.raises(ConfigError, match=message):
        reference("train", Images())
