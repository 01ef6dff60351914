"""The digest of the code sees all that a component imports."""

from __future__ import annotations

import ast
import functools
import pkgutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import millrace.components
from millrace.runtime.code import PACKAGES, code_digest

COMPONENTS = [found.name for found in pkgutil.iter_modules(millrace.components.__path__)]
ELSEWHERE = ("millrace", "millrace.", "millrace.errors", "millrace.registry", "millrace.components")
"""Words of messages, and names of all that there is."""


def source(module: str) -> Path | None:
    """Its file; nothing is imported."""
    place = Path(millrace.__file__).parent.joinpath(*module.split(".")[1:])
    return next((file for file in (place.with_suffix(".py"), place / "__init__.py") if file.is_file()), None)


@functools.cache
def imported(file: Path) -> tuple[str, ...]:
    return tuple(_imported(file))


def _imported(file: Path) -> Iterator[str]:
    """Names of modules of the framework, and of what may be some, in imports and in `module:function` strings."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            names = [node.value.partition(":")[0]]
        else:
            continue
        yield from (name for name in names if name.startswith("millrace."))


def followed(component: str) -> set[str]:
    """The modules that a component's modules import, and those that these import."""
    package = f"millrace.components.{component}"
    folder = Path(millrace.components.__path__[0], component)
    left = [package, *(f"{package}.{found.name}" for found in pkgutil.iter_modules([str(folder)]))]
    seen: set[str] = set()
    while left:
        module = left.pop()
        file = None if module in seen or module in ELSEWHERE else source(module)
        if file is not None:
            seen.add(module)
            left += imported(file)
    return seen


@pytest.mark.parametrize("component", COMPONENTS)
def test_all_that_a_component_imports_is_in_it(component: str) -> None:
    modules = followed(component)
    assert len(modules) > 3
    tuned = ("train",) if component == "tune" else ()
    known = (
        *(f"millrace.components.{name}" for name in (component, *tuned)),
        *(f"millrace.{name}" for name in PACKAGES),
    )
    assert [module for module in sorted(modules) if not f"{module}.".startswith(tuple(f"{it}." for it in known))] == []


def test_preprocess_reads_tables_with_the_package_data() -> None:
    assert "millrace.data.tables" in followed("preprocess")


def test_changes_with_the_packages_and_the_component() -> None:
    one = code_digest("millrace.components.preprocess.main")
    assert len(one) == 64
    others = tuple(name for name in PACKAGES if name != "data")
    assert (
        len(
            {
                one,
                code_digest("millrace.components.preprocess.main", others),
                code_digest("millrace.components.shard.main"),
            }
        )
        == 3
    )


def test_is_empty_where_there_is_no_such_module() -> None:
    assert code_digest("nothing_of_this_name") == ""


def test_sees_the_component_that_another_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "two").mkdir()
    (tmp_path / "two" / "main.py").write_text("NAME = 'millrace.components.train.spec:train'")
    (tmp_path / "two" / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    plain, found = code_digest("two.main", ()), []
    framework = tmp_path / "framework"
    (framework / "components" / "train").mkdir(parents=True)
    monkeypatch.setattr(millrace, "__file__", str(framework / "__init__.py"))
    for text in ("1", "2"):
        (framework / "components" / "train" / "main.py").write_text(text)
        code_digest.cache_clear()
        found.append(code_digest("two.main", ()))
    code_digest.cache_clear()
    assert len({plain, *found}) == 3
