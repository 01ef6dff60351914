"""Every component folder passes the contract suite that is shipped for authors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import millrace
from millrace.registry import COMPONENTS, load_component
from millrace.specs import Component
from millrace.testing import ComponentContract


@pytest.fixture(params=sorted(COMPONENTS), autouse=True)
def component(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Component[Any, ..., Any]:
    loaded = load_component(request.param)
    monkeypatch.setattr(TestEveryComponent, "component", loaded, raising=False)
    return loaded


class TestEveryComponent(ComponentContract):
    pass


def test_every_folder_is_registered() -> None:
    folders = {item.parent.name for item in (Path(millrace.__file__).parent / "components").glob("*/spec.py")}
    assert folders == set(COMPONENTS)
