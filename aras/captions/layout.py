"""Where the classes of a mask lie: facts that percentages do not have, in numbers and in words.

Positions are those of a map: the first row is north, the first column west. A class or an area has a position only when
most of it lies there; the shares that count as most are the constants below.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from aras.captions.rivers import River, rivers_of
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

WORTH_TELLING = 1.0
"""Below this percentage of the image, where a class lies is not told."""


@dataclass(frozen=True)
class Patch:
    """One connected area of a class: its class, its share of the image in percent, and its position or `""`."""

    label: int
    percent: float
    position: str


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
    def told(self) -> dict[int, str]:
        """The region in which a class lies or `""`, by label, the largest first; classes of a few pixels left out."""
        order = np.argsort(-self.shares, kind="stable").tolist()
        return {label: position_of(self.labels == label) for label in order if self.shares[label] >= WORTH_TELLING}

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
        return Patch(best[1], 100 * best[0] / self.labels.size, position_of(best[2]))

    @cached_property
    def rivers(self) -> list[River]:
        """Linear water, the longest first."""
        return rivers_of(self.labels == WATER)

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
        """Return the class with which a class shares more than half of its border; None when there is none."""
        edges = self.borders[label]
        return int(edges.argmax()) if 2 * edges.max() > edges.sum() else None


def region(labels: np.ndarray, name: str) -> np.ndarray:
    """Return the part of `labels` (H, W) that is the region `name`."""
    (height, width), (rows, columns) = labels.shape, REGIONS[name]
    return labels[
        rows.start * height // 4 : rows.stop * height // 4, columns.start * width // 4 : columns.stop * width // 4
    ]


def shares_of(labels: np.ndarray) -> np.ndarray:
    """Return the percentage (7,) of each class in `labels`."""
    return 100 * np.bincount(labels.ravel(), minlength=NUM_CLASSES) / max(labels.size, 1)


def share_within(area: np.ndarray, name: str) -> float:
    """Return the share (0 to 1) of the true pixels of `area` (H, W) that lie in the region `name`."""
    return float(region(area, name).sum() / max(area.sum(), 1))


def position_of(area: np.ndarray) -> str:
    """Return the region in which most of the true pixels of `area` (H, W) lie, `""` when there is none."""
    for regions, most in ((QUARTERS, MOST_OF_A_QUARTER), (HALVES, MOST_OF_A_HALF)):
        share, name = max((share_within(area, name), name) for name in regions)
        if share >= most:
            return name
    return ""


def layout_facts(layout: Layout, numbers: bool = True) -> list[str]:
    """Return the layout in sentences for a prompt; without `numbers` there is no digit in them."""
    told = layout.told
    largest = layout.largest
    size = f" ({largest.percent:.0f}% of the image)" if numbers else ""
    where = f", {in_region(largest.position)}" if largest.position else ""
    facts = [f"{CLASS_NAMES[label]} lies mostly {in_region(told[label])}." for label in sorted(told) if told[label]]
    facts.append(f"The largest single area is {CLASS_NAMES[largest.label]}{size}{where}.")
    facts += [f"A narrow strip of water runs {river.direction}." for river in layout.rivers[:2]]
    for label in list(told)[1:3]:
        neighbour = layout.neighbour(label)
        if neighbour is not None:
            facts.append(f"{CLASS_NAMES[label]} borders mostly on {CLASS_NAMES[neighbour]}.")
    return facts


def in_region(name: str) -> str:
    """Return `in the <name>`, or how one says it of the centre."""
    return "at the centre" if name == "centre" else f"in the {name}"
