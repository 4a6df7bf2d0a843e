"""Where the classes of a mask lie: facts that percentages do not have, in numbers and in words.

Positions are those of a map: the first row is north, the first column west. A class has a position only when most of it
lies there; the shares that count as most are the constants below.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from aras.legend import CLASS_NAMES, NUM_CLASSES, WATER

HALVES = {
    "north": (slice(0, 2), slice(0, 4)),
    "south": (slice(2, 4), slice(0, 4)),
    "west": (slice(0, 4), slice(0, 2)),
    "east": (slice(0, 4), slice(2, 4)),
}
QUARTERS = {
    "north-west": (slice(0, 2), slice(0, 2)),
    "north-east": (slice(0, 2), slice(2, 4)),
    "south-west": (slice(2, 4), slice(0, 2)),
    "south-east": (slice(2, 4), slice(2, 4)),
    "centre": (slice(1, 3), slice(1, 3)),
}
REGIONS = HALVES | QUARTERS
"""Each region as quarters of the image's height and width, (rows, columns)."""

MOST_OF_A_QUARTER = 0.6
"""A class lies in a quarter of the image, or in its centre, when this share of the class does."""

MOST_OF_A_HALF = 0.8
"""A class lies in a half of the image when this share of the class does."""

RIVER_SLENDERNESS = 5.0
"""A body of water is linear from this ratio of length to width on; a disc has 1.8, a square 2.2."""

RIVER_LENGTH = 0.25
"""Shortest linear water, as a share of the image's longer side."""

DIRECTIONS = ("west to east", "north-west to south-east", "north to south", "north-east to south-west")


@dataclass(frozen=True)
class Patch:
    """One connected area of a class: its class, its share of the image in percent, and where its middle lies."""

    label: int
    percent: float
    position: str


@dataclass(frozen=True)
class River:
    """One long and narrow body of water: its length and mean width in pixels, and the way it runs."""

    length: float
    width: float
    direction: str


class Layout:
    """The layout of one mask.

    Attributes:
        labels: (H, W) uint8, each below 7.
    """

    def __init__(self, labels: np.ndarray) -> None:
        self.labels = labels

    @cached_property
    def shares(self) -> np.ndarray:
        """(7,) percent of the image that each class covers."""
        return shares_of(self.labels)

    @cached_property
    def region_shares(self) -> dict[str, np.ndarray]:
        """(7,) percent of each region that each class covers, by the region's name."""
        return {name: shares_of(region(self.labels, name)) for name in REGIONS}

    @cached_property
    def positions(self) -> dict[int, str]:
        """The region in which a class lies, by label, for classes that lie in one."""
        found = {label: self.position(label) for label in range(NUM_CLASSES) if self.shares[label]}
        return {label: where for label, where in found.items() if where}

    def share_of_class(self, label: int, name: str) -> float:
        """Return the share (0 to 1) of a class's pixels that lie in the region `name`; 0 for an absent class."""
        total = int((self.labels == label).sum())
        return float((region(self.labels, name) == label).sum() / total) if total else 0.0

    def position(self, label: int) -> str:
        """Return the region in which most of a class lies, `""` when it is spread over more than half the image."""
        for regions, most in ((QUARTERS, MOST_OF_A_QUARTER), (HALVES, MOST_OF_A_HALF)):
            share, name = max((self.share_of_class(label, name), name) for name in regions)
            if share >= most:
                return name
        return ""

    @cached_property
    def largest(self) -> Patch:
        """The largest connected area of one class; pixels connect by their edges."""
        from scipy import ndimage

        best = (0, 0, np.zeros(0))
        for label in np.flatnonzero(self.shares):
            areas, _ = ndimage.label(self.labels == label)
            pixels = np.bincount(areas.ravel())[1:]
            if pixels.max() > best[0]:
                best = (int(pixels.max()), int(label), areas == pixels.argmax() + 1)
        return Patch(best[1], 100 * best[0] / self.labels.size, position_of_middle(best[2]))

    @cached_property
    def rivers(self) -> list[River]:
        """Linear water, the longest first; pixels connect by edges and corners."""
        from scipy import ndimage

        bodies, _ = ndimage.label(self.labels == WATER, structure=np.ones((3, 3)))
        least = RIVER_LENGTH * max(self.labels.shape)
        pixels = np.bincount(bodies.ravel())[1:]
        boxes = enumerate(ndimage.find_objects(bodies), 1)
        found = [river_of(bodies[box] == body) for body, box in boxes if pixels[body - 1] >= least]
        linear = [river for river in found if river.length >= max(least, RIVER_SLENDERNESS * river.width)]
        return sorted(linear, key=lambda river: -river.length)

    @cached_property
    def borders(self) -> np.ndarray:
        """(7, 7) int64, symmetric: how many edges between pixels two classes share; zeros on the diagonal."""
        counts = np.zeros((NUM_CLASSES, NUM_CLASSES), dtype=np.int64)
        for one, other in ((self.labels[:-1], self.labels[1:]), (self.labels[:, :-1], self.labels[:, 1:])):
            both = one.astype(np.int64) * NUM_CLASSES + other
            counts += np.bincount(both.ravel(), minlength=NUM_CLASSES**2).reshape(NUM_CLASSES, NUM_CLASSES)
        counts += counts.T.copy()
        np.fill_diagonal(counts, 0)
        return counts

    def neighbour(self, label: int) -> int | None:
        """Return the class with which a class shares most of its border; None when it has none."""
        edges = self.borders[label]
        return int(edges.argmax()) if edges.any() else None


def region(labels: np.ndarray, name: str) -> np.ndarray:
    """Return the part of `labels` (H, W) that is the region `name`."""
    (height, width), (rows, columns) = labels.shape, REGIONS[name]
    return labels[
        rows.start * height // 4 : rows.stop * height // 4, columns.start * width // 4 : columns.stop * width // 4
    ]


def shares_of(labels: np.ndarray) -> np.ndarray:
    """Return the percentage (7,) of each class in `labels`."""
    return 100 * np.bincount(labels.ravel(), minlength=NUM_CLASSES) / max(labels.size, 1)


def position_of_middle(area: np.ndarray) -> str:
    """Return where the mean of the true pixels of `area` (H, W) lies on a grid of three by three."""
    rows, columns = np.nonzero(area)
    row = ("north", "", "south")[int(3 * (rows.mean() + 0.5) / area.shape[0])]
    column = ("west", "", "east")[int(3 * (columns.mean() + 0.5) / area.shape[1])]
    return "-".join(part for part in (row, column) if part) or "centre"


def river_of(body: np.ndarray) -> River:
    """Return the length, width and direction of the true pixels of `body` (H, W), taken as a band.

    In a band of width w the mean distance to the nearest bank is w / 4, however it bends; its length follows from the
    area. The direction is that of the pixels' largest variance.
    """
    from scipy import ndimage

    distance = ndimage.distance_transform_edt(np.pad(body, 1))[1:-1, 1:-1]
    width = max(4 * (float(distance[body].mean()) - 0.5), 1.0)
    rows, columns = np.nonzero(body)
    spread = np.cov(np.stack([columns, rows])) if len(rows) > 1 else np.eye(2)
    east, south = np.linalg.eigh(spread)[1][:, -1]
    angle = np.degrees(np.arctan2(south, east)) % 180  # 0 is west to east, 90 is north to south
    return River(len(rows) / width, width, DIRECTIONS[int((angle + 22.5) // 45) % 4])


def layout_facts(layout: Layout, numbers: bool = True) -> list[str]:
    """Return the layout in sentences for a prompt; without `numbers` there is no digit in them."""
    largest = layout.largest
    size = f" ({largest.percent:.0f}% of the image)" if numbers else ""
    facts = [f"{CLASS_NAMES[label]} lies mostly in the {where}." for label, where in layout.positions.items()]
    facts.append(f"The largest single area is {CLASS_NAMES[largest.label]}{size}, {in_region(largest.position)}.")
    facts += [f"A narrow strip of water runs {river.direction}." for river in layout.rivers[:2]]
    order = np.argsort(-layout.shares, kind="stable")
    for label in (int(label) for label in order[1:3]):
        neighbour = layout.neighbour(label)
        if neighbour is not None:
            facts.append(f"{CLASS_NAMES[label]} borders mostly on {CLASS_NAMES[neighbour]}.")
    return facts


def in_region(name: str) -> str:
    """Return `in the <name>`, or how one says it of the centre."""
    return "at the centre" if name == "centre" else f"in the {name}"
