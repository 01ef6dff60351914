"""The locked requirements of the images: hashed, disjoint, and what this project is tested with."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LOCKS = sorted((ROOT / "containers").rglob("*requirements*.txt"))
LAYERS = {"data": ("base", "data"), "train": ("base", "model", "train"), "serve": ("base", "model", "serve")}


def versions(lock: Path) -> dict[str, str]:
    """Locked versions by package."""
    return dict(re.findall(r"^([a-z0-9.-]+)(?:\[.*\])?==([^\s;]+)", lock.read_text(), re.MULTILINE))


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: str(lock.relative_to(ROOT / "containers")))
class TestLock:
    def test_every_package_has_hashes_and_no_address(self, lock: Path) -> None:
        blocks = re.split(r"\n(?=\S)", lock.read_text().strip())
        assert len(blocks) == len(versions(lock)) > 0
        assert all("--hash=sha256:" in block for block in blocks)
        assert "//" not in lock.read_text()

    def test_versions_are_those_that_the_tests_run_with(self, lock: Path) -> None:
        tested = versions(ROOT / "requirements" / "dev.txt")
        tested["tensorflow-cpu"] = tested["tensorflow"]
        locked = {name: version for name, version in versions(lock).items() if not name.startswith("nvidia-")}
        built = {"cmake", "pip", "wheel"} if lock.name == "build-requirements.txt" else set()
        assert locked == {name: tested.get(name, version if name in built else "") for name, version in locked.items()}


@pytest.mark.parametrize("image", LAYERS)
def test_layers_of_an_image_name_no_package_twice(image: str) -> None:
    names = [name for layer in LAYERS[image] for name in versions(ROOT / "containers" / layer / "requirements.txt")]
    assert len(names) == len(set(names))


def test_the_lock_for_gpus_differs_in_tensorflow_alone() -> None:
    plain, gpu = (versions(ROOT / "containers" / "model" / f"requirements{end}.txt") for end in ("", "-gpu"))
    differing = {name for name, _ in plain.items() ^ gpu.items()}
    assert {name for name in differing if not name.startswith("nvidia-")} == {"tensorflow-cpu"}
    assert any(name.startswith("nvidia-cudnn") for name in gpu)
