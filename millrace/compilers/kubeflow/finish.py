"""What kfp's DSL can't say is put into the finished document: descriptions, and names that it would not take."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from millrace.compilers.kubeflow.interface import OUTPUT_MARK, Interface

__all__ = ["describe", "end_retries", "finished"]

_WIDTH = 120


def describe(component: Mapping[str, Any], interface: Interface) -> None:
    """Put the descriptions of inputs and outputs into a component's definition, which is changed."""
    inputs, outputs = component.get("inputDefinitions", {}), component.get("outputDefinitions", {})
    for key, value in interface.values.items():
        _describe(inputs, key, value.description)
    for key, taken in interface.taken.items():
        _describe(inputs, key, taken.description)
    for key, made in interface.made.items():
        _describe(outputs, key, made.description)
        _describe(outputs, f"{key}{OUTPUT_MARK}", made.description)


def _describe(definitions: Mapping[str, Any], key: str, description: str) -> None:
    for kind in ("parameters", "artifacts"):
        if description and key in definitions.get(kind, {}):
            definitions[kind][key]["description"] = " ".join(description.split())


def end_retries(document: Mapping[str, Any], ends: Mapping[str, str]) -> None:
    """Set when retries end, by kfp's names of tasks: kfp before 2.17 cuts it down to an hour."""
    for component in (document["root"], *document["components"].values()):
        for name, task in component.get("dag", {}).get("tasks", {}).items():
            if name in ends and "retryPolicy" in task:
                task["retryPolicy"]["backoffMaxDuration"] = ends[name]


def finished(documents: list[dict[str, Any]], header: str) -> str:
    """The documents as text, always the same for the same contents."""
    import yaml

    unmarked = [_unmarked(document) for document in documents]
    return header.replace(OUTPUT_MARK, "") + yaml.safe_dump_all(
        unmarked, sort_keys=True, allow_unicode=True, width=_WIDTH
    )


def _unmarked(item: Any) -> Any:
    """The same without marks of outputs; constants are left as they are."""
    if isinstance(item, dict):
        return {_unmarked(key): value if key == "runtimeValue" else _unmarked(value) for key, value in item.items()}
    if isinstance(item, list):
        return [_unmarked(one) for one in item]
    return item.replace(OUTPUT_MARK, "") if isinstance(item, str) else item
