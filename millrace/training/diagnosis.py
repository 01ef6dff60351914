"""What the figures of a training say about its health, in sentences.

The rules are those of Amazon SageMaker Debugger: vanishing gradient, exploding tensor, dead ReLU, class imbalance, loss
not decreasing, overfit.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from millrace.specs import Curve, Lines
from millrace.training.debug import Look
from millrace.training.options.debug import Debug
from millrace.training.schedule import Row

__all__ = ["Findings", "about_classes", "about_history", "about_look", "look_charts"]

Findings = Iterator[tuple[str, str]]
"""What each is about (a rule and mostly a layer), and a sentence."""

_BESIDE = 1e-3
"""Of the largest layer's gradient."""
_CURVES = 10
"""More lines than these can't be told apart."""


def about_look(debug: Debug, look: Look, step: int) -> Findings:
    """What is wrong in the layers at one step.

    A gradient that is small everywhere, as of a small loss, has not vanished: it must also be small beside the largest.
    """
    largest = max((figures.get("gradient", 0.0) for figures in look.values()), default=0.0)
    for layer, figures in look.items():
        norm = figures.get("gradient_norm", 0.0)
        if not math.isfinite(norm) or norm > debug.exploding:
            yield (
                f"exploding gradient {layer}",
                f"exploding gradient: that of layer {layer} has norm {norm:.3g} at step {step}: try "
                "gradient_clip_norm=1 or a smaller learning_rate",
            )
        elif "gradient" in figures and figures["gradient"] < min(debug.vanishing, _BESIDE * largest):
            yield (
                f"vanishing gradient {layer}",
                f"vanishing gradient: that of layer {layer} has mean size {figures['gradient']:.2g} at step {step}, "
                "so it does not learn: try batch_norm, another activation or a less deep network",
            )
        if (dead := figures.get("dead", 0.0)) > debug.dead_share:
            yield (
                f"dead ReLU {layer}",
                f"dead ReLU: {dead:.0%} of the units of layer {layer} are zero for the whole batch at step {step}: "
                "try a smaller learning_rate",
            )


def about_classes(debug: Debug, records: Mapping[str, int]) -> Findings:
    """Whether a class has many more records than another, which nothing makes up for."""
    most, least = (choose(records, key=lambda name: records[name]) for choose in (max, min))
    if records[most] > debug.imbalance * records[least]:
        yield (
            "class imbalance",
            f"class imbalance: {most!r} has {records[most]} train records, {least!r} has {records[least]}: try "
            "class_weights=balanced",
        )


def about_history(debug: Debug, history: Sequence[Row]) -> Findings:
    """Whether the last epochs led anywhere."""
    span = debug.stalled_epochs
    if len(history) <= span:
        return
    before, now = history[-span - 1]["loss"], history[-1]["loss"]
    if now > before * (1 - debug.stalled_percent / 100):
        yield (
            "loss not decreasing",
            f"loss not decreasing: {before:.4g} at epoch {len(history) - span}, {now:.4g} at epoch {len(history)}: try "
            "another learning_rate, or end training earlier",
        )
    if "validation_loss" not in history[-1]:
        return
    gaps = [row["validation_loss"] - row["loss"] for row in history[-span:]]
    if all(gap > debug.overfit_ratio * row["loss"] for gap, row in zip(gaps, history[-span:], strict=True)):
        yield (
            "overfit",
            f"overfit: for {span} epochs the validation loss has been above the training loss by more than "
            f"{debug.overfit_ratio:.0%} of it ({history[-1]['validation_loss']:.4g} and {now:.4g}): try augmentation, "
            "more dropout or weight decay, or early stopping",
        )


def look_charts(steps: Sequence[int], looks: Sequence[Look]) -> Iterator[Lines]:
    """Plots of all looks, a line a layer."""
    kinds = (
        ("gradient_norm", "Gradients by layer", "norm", True),
        ("activation", "Activations by layer", "standard deviation", True),
        ("dead", "Dead ReLU units by layer", "share that is zero for the whole batch", False),
    )
    for figure, title, label, log in kinds:
        layers = [
            layer for layer in (looks[0] if looks else {}) if all(figure in look.get(layer, {}) for look in looks)
        ]
        shown = layers[:: math.ceil(len(layers) / _CURVES)] if layers else []
        curves = tuple(
            Curve(
                name=layer,
                x=tuple(float(step) for step, look in _finite(steps, looks, layer, figure)),
                y=tuple(look[layer][figure] for _, look in _finite(steps, looks, layer, figure)),
            )
            for layer in shown
        )
        if curves:
            part = f" ({len(shown)} of {len(layers)})" if len(shown) < len(layers) else ""
            yield Lines(
                name=f"{figure}_by_step", title=title + part, x_label="step", y_label=label, curves=curves, y_log=log
            )


def _finite(steps: Sequence[int], looks: Sequence[Look], layer: str, figure: str) -> list[tuple[int, Look]]:
    return [(step, look) for step, look in zip(steps, looks, strict=True) if math.isfinite(look[layer][figure])]
