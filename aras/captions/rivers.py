"""Water that is long and narrow in a mask, and the way it runs."""

from dataclasses import dataclass

import numpy as np

RIVER_SLENDERNESS = 5.0
"""A body of water is linear from this ratio of length to width on; a disc has 1.8, a square 2.2."""

RIVER_LENGTH = 0.25
"""Shortest linear water, as a share of the image's longer side."""

RIVER_WIDTH = 0.125
"""Widest linear water, as a share of the image's longer side; what is wider is a lake with islands."""

RIVER_REACH = 0.5
"""Linear water gets at least this share of its length away from where it begins; a moat gets a third."""

DIRECTIONS = ("west to east", "north-west to south-east", "north to south", "north-east to south-west")


@dataclass(frozen=True)
class River:
    """One body of water, taken as a band: its length and mean width, how far it gets (pixels), and the way it runs."""

    length: float
    width: float
    reach: float
    direction: str


def rivers_of(water: np.ndarray) -> list[River]:
    """Return the linear bodies among the true pixels of `water` (H, W), the longest first.

    Pixels connect by edges and corners.
    """
    from scipy import ndimage

    side = max(water.shape)
    bodies, _ = ndimage.label(water, structure=np.ones((3, 3)))
    pixels = np.bincount(bodies.ravel())[1:]
    boxes = enumerate(ndimage.find_objects(bodies), 1)
    found = [river_of(bodies[box] == body) for body, box in boxes if pixels[body - 1] >= RIVER_LENGTH * side]
    return sorted((river for river in found if is_linear(river, side)), key=lambda river: -river.length)


def is_linear(river: River, side: int) -> bool:
    """Return whether `river`, in an image whose longer `side` has so many pixels, is long, narrow and no ring."""
    long = river.length >= max(RIVER_LENGTH * side, RIVER_SLENDERNESS * river.width)
    return long and river.width <= RIVER_WIDTH * side and river.reach >= RIVER_REACH * river.length


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
    reach = float(np.ptp(columns * east + rows * south)) + 1
    angle = np.degrees(np.arctan2(south, east)) % 180  # 0 is west to east, 90 is north to south
    return River(len(rows) / width, width, reach, DIRECTIONS[int((angle + 22.5) // 45) % 4])
