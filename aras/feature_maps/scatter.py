"""Maps of sets as a paper prints them: all sets together, and beside it each set over the others."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from aras.figures import save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#F0E442", "#000000")
"""One a set: colours that colour-blind readers tell apart (Okabe and Ito 2008)."""

DPI = 300
WIDTH = 7.2  # inches: a page's text
PANEL = 4.8  # inches: side of the map of all sets
MARGIN, GAP = 0.1, 0.08  # inches
CELLS = 160  # a side, of the grid on which densities are counted
SHARES = (0.9, 0.5)  # of a set's images inside its outer and its inner contour
THUMBNAIL_CELLS = 11  # a side


@dataclass(frozen=True)
class Map:
    """Points of several sets on a plane."""

    points: np.ndarray  # (N, 2), set after set
    names: Sequence[str]  # of the K sets
    sizes: Sequence[int]  # of the K sets

    @property
    def sets(self) -> np.ndarray:
        """The set of each point, (N,)."""
        return np.repeat(np.arange(len(self.sizes)), self.sizes)

    @property
    def frame(self) -> np.ndarray:
        """A square that holds all points and some margin, as ((left, right), (low, high))."""
        low, high = self.points.min(axis=0), self.points.max(axis=0)
        half = 0.62 * max(float((high - low).max()), 1e-6)  # contours of few points reach far beyond them
        return np.stack([(low + high) / 2 - half, (low + high) / 2 + half], axis=1)


def draw_map(path: Path, found: Map, title: str, caption: str, seed: int) -> None:
    """Write the figure of a map: points in drawn order, so that no set hides another, and contours of their density."""
    from matplotlib.figure import Figure

    columns = 1 if len(found.names) <= 3 else 2
    rows = max(2, -(-len(found.names) // columns))
    side = (PANEL - (rows - 1) * GAP) / rows
    width = PANEL + columns * (side + GAP) + 2 * MARGIN
    height = PANEL + 2 * MARGIN + 0.3 + 0.14 * (caption.count("\n") + 1)
    figure = Figure(figsize=(width, height))

    def axes_at(left: float, low: float, side: float) -> "Axes":
        return figure.add_axes((left / width, low / height, side / width, side / height))

    joint = axes_at(MARGIN, MARGIN, PANEL)
    order = np.random.default_rng(seed).permutation(len(found.points))
    draw_points(joint, found.points[order], [COLORS[k] for k in found.sets[order]], len(order))
    for k in range(len(found.names)):
        draw_contours(joint, found, k)
    frame_axes(joint, found)
    draw_legend(joint, found)
    told = " and ".join(f"{share:.0%}" for share in sorted(shares_of(found)))
    told = f"lines hold {told} of a set's images".replace("%", " %")
    box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 1.5}
    joint.text(
        0.985, 0.015, told, transform=joint.transAxes, ha="right", va="bottom", fontsize=6.5, color="0.35", bbox=box
    )
    for k in range(len(found.names)):
        row, column = divmod(k, columns)
        left, low = MARGIN + PANEL + GAP + column * (side + GAP), MARGIN + PANEL - side - row * (side + GAP)
        draw_one_set(axes_at(left, low, side), found, k, side)
    figure.text(MARGIN / width, 1 - 0.08 / height, title, ha="left", va="top", fontsize=10, fontweight="bold")
    figure.text(MARGIN / width, 1 - 0.28 / height, caption, ha="left", va="top", fontsize=7.5)
    save_figure(path, figure, DPI)


def draw_points(axes: "Axes", points: np.ndarray, colors: Sequence[str] | str, count: int) -> None:
    """Draw `points` (N, 2) as dots whose size suits a map of `count`, as pixels also where the rest is lines."""
    size = float(np.clip(4000 / count, 0.15, 14))
    alpha = 0.85 if count < 5000 else 0.6
    axes.scatter(points[:, 0], points[:, 1], s=size, c=colors, alpha=alpha, linewidths=0, rasterized=True)


def draw_one_set(axes: "Axes", found: Map, k: int, side: float) -> None:
    """Draw set `k` in its colour over all others in grey, on `axes` of `side` inches, which its name fits into."""
    own = found.sets == k
    draw_points(axes, found.points[~own], "0.85", 2 * len(own))
    draw_points(axes, found.points[own], COLORS[k], 2 * len(own))
    frame_axes(axes, found)
    widest = 72 * 0.94 * side / (0.62 * len(found.names[k]))  # points; a letter is about 0.62 of them wide
    axes.text(
        0.03,
        0.97,
        found.names[k],
        transform=axes.transAxes,
        ha="left",
        va="top",
        fontsize=min(8.0, widest),
        clip_on=True,
    )


def shares_of(found: Map) -> tuple[float, ...]:
    """Return the shares of a set that its contours hold; of many sets the inner one alone, else it is a tangle."""
    return SHARES if len(found.names) <= 4 else SHARES[1:]


def draw_contours(axes: "Axes", found: Map, k: int) -> None:
    """Draw the contours of shares of set `k`, the inner one stronger, on a white line that sets it off."""
    from matplotlib.patheffects import withStroke

    density, centres = density_of(found.points[found.sets == k], found.frame)
    levels = sorted({level_of_share(density, share) for share in shares_of(found)})
    if density.max() <= levels[-1]:
        return
    drawn = axes.contour(*centres, density.T, levels=levels, colors=COLORS[k], linewidths=[0.9, 1.6][-len(levels) :])
    drawn.set_path_effects([withStroke(linewidth=2.4, foreground="white", alpha=0.6)])


def density_of(points: np.ndarray, frame: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return the smoothed share of `points` (N, 2) in each cell of a grid over `frame`, and the cells' centres.

    The Gaussian is half as wide as Scott's rule (1992) has it, which is meant for one heap of points and not for many.
    """
    from scipy.ndimage import gaussian_filter

    counts, *edges = np.histogram2d(points[:, 0], points[:, 1], bins=CELLS, range=frame)
    cell = (frame[0, 1] - frame[0, 0]) / CELLS
    scott = float(points.std(axis=0).mean()) * len(points) ** (-1 / 6)
    width = max(0.5 * scott / cell, 1.5)
    return gaussian_filter(counts / len(points), width), [(edge[1:] + edge[:-1]) / 2 for edge in edges]


def level_of_share(density: np.ndarray, share: float) -> float:
    """Return the density above which the cells hold `share` of all."""
    ordered = np.sort(density, axis=None)[::-1]
    held = np.cumsum(ordered)
    return float(ordered[np.searchsorted(held, share * held[-1])])


def frame_axes(axes: "Axes", found: Map) -> None:
    """Leave a thin frame and no numbers: the axes of such a map have no unit."""
    axes.set(xlim=found.frame[0], ylim=found.frame[1], xticks=[], yticks=[], aspect="equal")
    axes.spines[:].set(linewidth=0.5, color="0.5")


def draw_legend(axes: "Axes", found: Map) -> None:
    """Name each set's colour and how many images it has."""
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], marker="o", linestyle="", markersize=5, color=COLORS[k], label=f"{name} ({size:,})")
        for k, (name, size) in enumerate(zip(found.names, found.sizes, strict=True))
    ]
    axes.legend(handles=handles, loc="lower left", fontsize=7.5, framealpha=0.85, edgecolor="0.7", handletextpad=0.2)


def draw_thumbnails(path: Path, found: Map, title: str, image_of: Callable[[int], np.ndarray]) -> None:
    """Write a figure with images where they lie on the map, each in a frame of its set's colour.

    The map is cut into `THUMBNAIL_CELLS` squares a side; each that has points shows the one nearest to its centre.
    `image_of` returns the image (H, W, 3) uint8 of a point.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    figure = Figure(figsize=(WIDTH, WIDTH + 0.2))
    axes = figure.add_axes((0.01, 0.01, 0.98, 0.98 * WIDTH / (WIDTH + 0.2)))
    draw_points(axes, found.points, [COLORS[k] for k in found.sets], 2 * len(found.points))
    (left, right), _ = found.frame
    half = 0.42 * (right - left) / THUMBNAIL_CELLS
    for index, (x, y) in central_points(found).items():
        axes.imshow(image_of(index), extent=(x - half, x + half, y - half, y + half), zorder=3)
        color = COLORS[found.sets[index]]
        axes.add_patch(
            Rectangle((x - half, y - half), 2 * half, 2 * half, fill=False, edgecolor=color, linewidth=1.6, zorder=4)
        )
    frame_axes(axes, found)
    draw_legend(axes, found)
    figure.text(0.01, 0.995, title, ha="left", va="top", fontsize=10, fontweight="bold")
    save_figure(path, figure, DPI)


def central_points(found: Map) -> dict[int, tuple[float, float]]:
    """Return the point nearest to the centre of each occupied square of the map, with that centre."""
    low, side = found.frame[:, 0], (found.frame[0, 1] - found.frame[0, 0]) / THUMBNAIL_CELLS
    cells = np.floor((found.points - low) / side).astype(int)  # (N, 2)
    centres = low + (cells + 0.5) * side
    off = np.square(found.points - centres).sum(axis=1)
    order = np.lexsort((off, cells[:, 1], cells[:, 0]))
    _, first = np.unique(cells[order], axis=0, return_index=True)
    return {int(i): (float(centres[i, 0]), float(centres[i, 1])) for i in order[first]}
