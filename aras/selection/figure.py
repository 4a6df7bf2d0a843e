"""A selection to look at: how many went at each step, the mix of the classes, and images that stayed and went."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from aras.errors import UserError
from aras.figures import BLUE, GREY, VERMILION, save_figure
from aras.legend import CLASS_NAMES
from aras.pairs import SUFFIX, read_image
from aras.selection.steps import REASONS, Selection

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SHOWN = 8  # images of each row

ROWS = ("selected", "unsure", "train duplicate", "out of distribution", "duplicate")


def draw_selection(
    path: Path, selection: Selection, summary: dict[str, Any], images: Path, train_images: Path, title: str
) -> None:
    """Write the figure of `selection` to `path`.

    Args:
        path: of the PNG.
        selection: what became of each image.
        summary: the same in numbers, as selection.json has it.
        images: the folder of the images to choose from.
        train_images: that of the real ones, of which near-duplicates are shown beside theirs.
        title: above it all.
    """
    from matplotlib.figure import Figure

    shown = {name: places for name in ROWS if len(places := shown_places(selection, name))}
    figure = Figure(figsize=(11, 3.5 + 1.15 * len(shown)), layout="constrained")
    parts: Any = figure.subfigures(2, 1, height_ratios=(3.5, max(1.15 * len(shown), 0.1)))
    above, below = parts
    counts, mix = above.subplots(1, 2, width_ratios=(1, 1.4))
    _draw_counts(counts, summary)
    _draw_mix(mix, summary)
    grid = below.subplots(len(shown), SHOWN, squeeze=False) if shown else ()
    for row, (name, places) in zip(grid, shown.items(), strict=True):
        for axes in row:
            axes.axis("off")
        row[0].set_title(name, fontsize=9, loc="left")
        for axes, place in zip(row, places.tolist(), strict=False):
            axes.imshow(_strip(selection, place, name, images, train_images), interpolation="nearest")
    figure.suptitle(title, fontsize=11)
    save_figure(path, figure, crop=False)


def shown_places(selection: Selection, name: str) -> np.ndarray:
    """Return the places (at most `SHOWN`,) of images to show: the clearest cases of a reason, or evenly what stayed."""
    if name == "selected":
        left = selection.left
        return left[np.linspace(0, len(left) - 1, min(SHOWN, len(left))).astype(int)] if len(left) else left
    places = np.flatnonzero(selection.reason == 1 + REASONS.index(name))
    order = np.argsort(selection.value[places], kind="stable")
    return places[order[::-1] if name == "out of distribution" else order][:SHOWN]


def _strip(selection: Selection, place: int, name: str, images: Path, train_images: Path) -> np.ndarray:
    """Return the image at `place` (H, W, 3); a near-duplicate beside what it is near to, (H, 2 W + 4, 3)."""
    own = read_image(images / f"{selection.names[place]}{SUFFIX}")
    if "duplicate" not in name:
        return own
    folder = train_images if name == "train duplicate" else images
    try:
        other = read_image(folder / f"{selection.other[place]}{SUFFIX}")
    except UserError:  # gone since; the figure is not what tells of it
        return own
    if other.shape != own.shape:
        return own
    return np.concatenate([own, np.full((len(own), 4, 3), 255, np.uint8), other], axis=1)


def _draw_counts(axes: "Axes", summary: dict[str, Any]) -> None:
    """Draw how many images each reason took, and how many are left."""
    names = [*summary["dropped"], "selected"]
    values = [*summary["dropped"].values(), summary["selected"]]
    bars = axes.barh(names, values, color=[VERMILION] * (len(names) - 1) + [BLUE])
    axes.bar_label(bars, [f"{value:,}" for value in values], padding=3, fontsize=8)
    axes.invert_yaxis()
    axes.margins(x=0.15)
    axes.set_title(f"{summary['images']:,} images", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_mix(axes: "Axes", summary: dict[str, Any]) -> None:
    """Draw each class's share before and after, and that of the target."""
    colors = {"before": GREY, "after": BLUE, "target": "black"}
    named = {"before": "all that could be read", "after": "selected", "target": f"target ({summary['target_mix']})"}
    places = np.arange(len(CLASS_NAMES))
    for at, (name, mix) in enumerate(summary["mix"].items()):
        values = [100 * share for share in mix.values()]
        axes.bar(places + 0.27 * (at - 1), values, 0.25, color=colors[name], label=named[name])
    axes.set_xticks(places, CLASS_NAMES)
    axes.set_ylabel("% of pixels")
    axes.legend(fontsize=8)
    axes.set_title("classes", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
