"""Pictures of a conditional GAN: a grid for each snapshot, a figure of samples, and the curves of a training."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from aras.figures import BLUE, GREEN, GREY, VERMILION, save_figure
from aras.files import whole_file
from aras.legend import CLASS_NAMES, COLORS
from aras.pairs import Pairs, read_pair
from aras.showing import choose, class_shares
from aras.spade.quality import Draw

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ROWS, SAMPLES = 8, 3
POOL = 256
"""Masks among which those of a grid are chosen; more would take longer to read than the grid to draw."""

CELL, GAP, LINE = 128, 6, 18  # pixels: the least side of a picture, the space between two, a line of text
INK, PAPER = (34, 34, 34), (255, 255, 255)


def shown_pairs(pairs: Pairs, rows: int = ROWS) -> list[int]:
    """Return which `rows` of `pairs` a grid shows: of evenly spaced ones those that show all classes."""
    places = np.unique(np.linspace(0, len(pairs) - 1, min(len(pairs), POOL)).round().astype(int))
    pool = Pairs(pairs.images, pairs.masks, pairs.names[places])
    return [int(places[index]) for index in choose(class_shares(pool), rows)]


def draw_grid(path: Path, pairs: Pairs, size: tuple[int, int], draw: Draw, rows: int = ROWS) -> None:
    """Write the PNG `path`: a row for each of some masks, with the mask, the real image and three samples.

    The same pairs give the same rows, whatever draws.

    Args:
        path: the file.
        pairs: what the rows are chosen from.
        size: (height, width) of each.
        draw: draws the samples.
        rows: how many.
    """
    import torch

    cells = []
    places = shown_pairs(pairs, rows)
    for place in places:
        real, labels = read_pair(pairs.image(place), pairs.mask(place), size)
        items = [(str(pairs.names[place]), sample) for sample in range(SAMPLES)]
        images = draw(torch.from_numpy(labels).expand(SAMPLES, *labels.shape).contiguous(), items)
        cells.append([COLORS[labels], real, *images.permute(0, 2, 3, 1).cpu().numpy()])
    names = [str(pairs.names[place]) for place in places]
    titles = ["mask", "real", *(f"sample {sample + 1}" for sample in range(SAMPLES))]
    with whole_file(path, durable=False) as part:
        grid_image(cells, names, titles).save(part, format="PNG")


def grid_image(cells: list[list[np.ndarray]], names: list[str], titles: list[str]) -> Image.Image:
    """Return a picture of `cells`, rows of pictures (H, W, 3) uint8 of one size, the first of each row a mask.

    Args:
        cells: small ones are shown larger, each pixel a square.
        names: of the rows.
        titles: of the columns.
    """
    zoom = max(1, -(-CELL // max(cells[0][0].shape[:2])))
    height, width = (zoom * side for side in cells[0][0].shape[:2])
    row_height = LINE + height + GAP
    canvas = Image.new("RGB", (len(titles) * (width + GAP) + GAP, LINE + len(cells) * row_height + LINE + GAP), PAPER)
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(size=12)
    for col, title in enumerate(titles):
        pen.text((GAP + col * (width + GAP), 2), title, INK, font)
    for row, (name, pictures) in enumerate(zip(names, cells, strict=True)):
        top = LINE + row * row_height
        pen.text((GAP, top + 2), name, GREY, font)
        for col, picture in enumerate(pictures):
            image = Image.fromarray(picture).resize((width, height), Image.Resampling.NEAREST)
            canvas.paste(image, (GAP + col * (width + GAP), top + LINE))
    legend = classes_of([pictures[0] for pictures in cells])
    left, top = GAP, LINE + len(cells) * row_height
    for name in legend:
        pen.rectangle((left, top + 3, left + 11, top + 14), tuple(COLORS[CLASS_NAMES.index(name)]), GREY)
        pen.text((left + 15, top + 2), name, INK, font)
        left += 15 + round(font.getlength(name)) + 12
    return canvas


def classes_of(masks: list[np.ndarray]) -> list[str]:
    """Return the names of the classes whose colours are in `masks` (H, W, 3) uint8, in the legend's order."""
    seen = {tuple(color) for mask in masks for color in np.unique(mask.reshape(-1, 3), axis=0)}
    return [name for name, color in zip(CLASS_NAMES, COLORS, strict=True) if tuple(color) in seen]


def draw_rows(path: Path, rows: dict[str, list[np.ndarray]], names: list[str], words: tuple[str, str, str]) -> None:
    """Write a figure to the PNG `path`: a column for each of `names`, a row for each of `rows`, the legend below.

    Args:
        path: the file.
        rows: pictures (H, W, 3) uint8 of each column by the name of the row; the first row is of masks.
        names: of the columns, tile_row_column.
        words: title, a line under it, and the attribution, which goes below the legend.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    width, height = 1.15 * len(names) + 1.0, 1.15 * len(rows) + 1.35  # inches
    figure = Figure(figsize=(width, height))
    axes = figure.subplots(len(rows), len(names), squeeze=False)
    left, right, top, bottom = 0.95 / width, 1 - 0.05 / width, 1 - 0.82 / height, 0.5 / height
    figure.subplots_adjust(left=left, right=right, top=top, bottom=bottom, wspace=0.05, hspace=0.05)
    for row, (label, pictures) in enumerate(rows.items()):
        for col, picture in enumerate(pictures):
            show(axes[row, col], picture)
        axes[row, 0].set_ylabel(label, fontsize=8, rotation=0, ha="right", va="center", labelpad=6)
    for col, name in enumerate(names):
        tile, _, place = name.partition("_")
        axes[0, col].set_title(f"{tile}\n{place}", fontsize=6.5, pad=3)
    figure.text(0.5, 1 - 0.1 / height, words[0], ha="center", va="top", fontsize=10, fontweight="bold")
    figure.text(0.5, 1 - 0.31 / height, words[1], ha="center", va="top", fontsize=8)
    figure.text(0.5, 0.04 / height, words[2], ha="center", va="bottom", fontsize=5.5, color="0.35")
    shown = classes_of(next(iter(rows.values())))
    colors = ["#{:02x}{:02x}{:02x}".format(*COLORS[CLASS_NAMES.index(name)]) for name in shown]
    handles = [
        Patch(facecolor=color, edgecolor="0.4", linewidth=0.4, label=name)
        for name, color in zip(shown, colors, strict=True)
    ]
    figure.legend(
        handles=handles, loc="lower center", ncol=len(handles), frameon=False, fontsize=7.5, handlelength=1.1,
        handleheight=1.1, columnspacing=1.2, handletextpad=0.5, bbox_to_anchor=(0.5, 0.14 / height),
    )  # fmt: skip
    save_figure(path, figure, crop=False)


def show(axes: "Axes", picture: np.ndarray) -> None:
    """Draw `picture` (H, W, 3) without smoothing, in a thin frame."""
    axes.imshow(picture, interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set(linewidth=0.4, color="0.4")


def draw_curves(path: Path, lines: list[dict[str, Any]], marks: dict[str, Any] | None = None) -> None:
    """Write a training's curves, from the `lines` of its metrics.jsonl, as a figure; dashed are the `marks`.

    Args:
        path: the PNG.
        lines: one for each snapshot.
        marks: what quality.json has: the floor of the distance, the ceiling of the agreement.
    """
    from matplotlib.figure import Figure

    marks = marks or {}
    figure = Figure(figsize=(10.5, 6), layout="constrained")
    panels = figure.subplots(2, 3, sharex=True).ravel()
    kimg = [line["kimg"] for line in lines]

    def curve(axes: "Axes", name: str, label: str, color: str) -> None:
        values = [np.nan if line.get(name) is None else line[name] for line in lines]
        if not np.isnan(np.array(values, float)).all():
            axes.plot(kimg, values, label=label, color=color, marker="." if len(kimg) < 40 else "")

    distance, agreement, diversity, losses, strength, speed = panels
    curve(distance, "frechet", "all samples", BLUE)
    curve(distance, "frechet_one_each", "one of each mask", VERMILION)
    curve(agreement, "agreement_miou", "mean IoU", BLUE)
    curve(agreement, "agreement_accuracy", "accuracy", GREY)
    curve(diversity, "diversity_levels", "grey levels", BLUE)
    curve(losses, "discriminator_loss", "discriminator", BLUE)
    curve(losses, "generator_loss", "generator", VERMILION)
    curve(strength, "augment_strength", "strength", GREEN)
    curve(speed, "images_per_second", "images/s", GREY)
    dashed = (
        (distance, "frechet_floor", BLUE),
        (agreement, "ceiling_miou", BLUE),
        (agreement, "ceiling_accuracy", GREY),
    )
    for axes, name, color in dashed:
        if marks.get(name) is not None:
            axes.axhline(marks[name], color=color, lw=0.9, ls="--", label="_")
    titles = (
        marks.get("distance", "Fréchet distance"),
        "judge's agreement with the masks",
        "difference of two samples, grey levels",
        "loss",
        "strength of the adaptive augmentation",
        "training images per second",
    )
    best = next((line["kimg"] for line in reversed(lines) if line.get("best")), None)
    for axes, title in zip(panels, titles, strict=True):
        axes.set_title(title, fontsize=10)
        axes.grid(alpha=0.3)
        axes.set_ylim(bottom=None if axes is losses else 0)
        if best is not None:
            axes.axvline(best, color="black", lw=0.8, ls=":")
        if len(axes.get_legend_handles_labels()[1]) > 1:
            axes.legend(fontsize=8)
    for axes in panels[3:]:
        axes.set_xlabel("thousand images seen" + (f" (dotted: the best, {best:g})" if best is not None else ""))
    save_figure(path, figure, crop=False)
