"""Figures of a training, its curves and its confusion matrix: drawn without a screen, written whole or not at all."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from aras.files import whole_file
from aras.legend import CLASS_NAMES, NUM_CLASSES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, VERMILION, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#666666"
"""Colours that colour-blind readers tell apart (Okabe and Ito 2008)."""

DPI = 200


def save_figure(path: Path, figure: "Figure", dpi: int = DPI, crop: bool = True) -> None:
    """Write `figure` to the PNG `path`, without the date and version that would make equal figures other bytes.

    To `crop` its empty margins it is laid out twice, which a figure without any can do without.
    """
    with whole_file(path) as part:
        figure.savefig(part, format="png", dpi=dpi, bbox_inches="tight" if crop else None, metadata={"Software": None})


def draw_confusion(path: Path, matrix: np.ndarray, title: str) -> None:
    """Write the confusion `matrix` (7, 7) as a figure: each cell is the percentage of its true class's pixels."""
    from matplotlib.figure import Figure

    support = matrix.sum(axis=1)
    shares = 100 * matrix / np.maximum(support, 1)[:, None]
    figure = Figure(figsize=(6.4, 5.4), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(np.where(support[:, None] > 0, shares, np.nan), cmap="Blues", vmin=0, vmax=100)
    for (truth, predicted), share in np.ndenumerate(shares):
        if support[truth]:
            color = "white" if share > 55 else "black"
            axes.text(predicted, truth, f"{share:.1f}", ha="center", va="center", color=color, fontsize=9)
    names = [f"{name}\n{count:,} px" for name, count in zip(CLASS_NAMES, support, strict=True)]
    axes.set_xticks(range(NUM_CLASSES), CLASS_NAMES, rotation=35, ha="right")
    axes.set_yticks(range(NUM_CLASSES), names, fontsize=8)
    axes.set_xlabel("predicted")
    axes.set_ylabel("truth")
    axes.set_title(title, fontsize=10)
    axes.spines[:].set_visible(False)
    figure.colorbar(image, ax=axes, label="% of the true class", shrink=0.8)
    save_figure(path, figure, crop=False)


def draw_curves(path: Path, lines: list[dict[str, Any]]) -> None:
    """Write a training's curves, from the `lines` of its metrics.jsonl, as a figure: losses, scores, classes, rate."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 6), layout="constrained")
    ((losses, means), (classes, rates)) = figure.subplots(2, 2, sharex=True)
    epochs = [line["epoch"] for line in lines]
    best = max(lines, key=lambda line: line["f1"])["epoch"] if lines else None

    def curve(axes: "Axes", values: list[Any], label: str, **style: Any) -> None:
        axes.plot(epochs, values, label=label, marker="." if len(epochs) < 40 else "", **style)

    curve(losses, [line["train_loss"] for line in lines], "train", color=BLUE)
    curve(losses, [line["val_loss"] for line in lines], "validation", color=VERMILION)
    for name, color in (("f1", BLUE), ("iou", VERMILION), ("accuracy", GREY)):
        curve(means, [line[name] for line in lines], {"f1": "F1", "iou": "IoU"}.get(name, name), color=color)
    palette = ("#000000", "#E69F00", "#56B4E9", "#009E73", "#F0E442", "#CC79A7", "#0072B2")
    for name, color in zip(CLASS_NAMES, palette, strict=True):
        values = [line["class_iou"][name] for line in lines]
        if any(value is not None for value in values):
            curve(classes, [np.nan if value is None else value for value in values], name, color=color)
    curve(rates, [line["lr"] for line in lines], "learning rate", color=GREEN)
    rates.set_yscale("log")
    titles = ("loss", "validation, mean over classes present", "validation IoU of each class", "learning rate")
    for axes, title in zip((losses, means, classes, rates), titles, strict=True):
        axes.set_title(title, fontsize=10)
        axes.grid(alpha=0.3)
        axes.xaxis.get_major_locator().set_params(integer=True)
        if best is not None:
            axes.axvline(best, color="black", lw=0.8, ls=":")
    for axes in (means, classes):
        axes.set_ylim(0, 1)
    for axes in (losses, means):
        axes.legend(fontsize=8)
    classes.legend(fontsize=8, ncols=2)
    for axes in (classes, rates):
        axes.set_xlabel(f"epoch (dotted: the best, {best})")
    save_figure(path, figure, crop=False)
