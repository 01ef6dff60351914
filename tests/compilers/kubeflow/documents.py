"""A document made with kfp's own DSL, for tests that plant mistakes in it."""

from __future__ import annotations

import copy
import json
import tempfile
from collections.abc import Callable
from functools import cache
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from typing import Any

import yaml

__all__ = ["clean", "clean_parts", "text_of"]


@cache
def clean() -> str:
    """A document that a backend takes as it is."""
    from kfp import compiler

    loader = SourceFileLoader("whole_pipeline", str(Path(__file__).with_name("whole_pipeline.py.txt")))
    spec = spec_from_loader(loader.name, loader)
    assert spec is not None
    module = module_from_spec(spec)
    loader.exec_module(module)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "whole.yaml")
        compiler.Compiler().compile(module.whole, str(path))
        return path.read_text()


@cache
def _parts() -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(clean()))


def clean_parts() -> list[dict[str, Any]]:
    """The same as plain data: the pipeline spec and the platform spec."""
    return copy.deepcopy(_parts())


def text_of(change: Callable[[dict[str, Any], dict[str, Any]], None]) -> str:
    """The clean document with a change made to its two parts."""
    pipeline, platform = clean_parts()
    change(pipeline, platform)
    return f"{json.dumps(pipeline)}\n---\n{json.dumps(platform)}\n"
