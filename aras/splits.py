"""Which split a patch belongs to: a pure function of the seed and of the patch's place on Earth.

Neighbouring patches look alike, so a random split puts near-copies of the training patches into the test set. Here
whole blocks of patches go to one split, and train patches next to a held-out block are left out (Roberts et al. 2017,
"Cross-validation strategies for data with temporal, spatial, hierarchical, or phylogenetic structure",
https://doi.org/10.1111/ecog.02881). Nothing depends on which tiles or patches exist, so adding a tile moves no patch.
"""

import hashlib
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from aras.tiles import tile_corner, tile_name

SPLITS = ("train", "val", "test")
BUFFER = "buffer"
OUTCOMES = (*SPLITS, BUFFER)


@dataclass(frozen=True)
class SplitPlan:
    """How patches are dealt to the splits.

    Attributes:
        tile_pixels: width of a whole tile in pixels.
        patch_size: width of a patch in pixels.
        fractions: shares of train, val and test; they add up to 1.
        seed: another seed deals the blocks anew.
        block_size: width of a block in patches; 1 deals patch by patch.
        buffer: train patches less than this many patches away from a held-out one are left out.
    """

    tile_pixels: int
    patch_size: int
    fractions: tuple[float, float, float]
    seed: int
    block_size: int
    buffer: int

    @property
    def per_side(self) -> int:
        """How many whole patches fit side by side into a tile."""
        return self.tile_pixels // self.patch_size


@lru_cache(maxsize=64)
def dealt_grid(plan: SplitPlan, tile: str) -> np.ndarray:
    """Return the index into `SPLITS` (rows, cols) uint8 of every patch position of `tile`, buffer not yet applied.

    The tile's blocks are put into an order drawn from the seed, and the fractions are cut off that order from a start
    drawn likewise (systematic sampling): each tile has the wanted shares to within one block, and all of them on
    average exactly.
    """
    blocks = -(-plan.per_side // plan.block_size)
    order = np.argsort([drawn(plan.seed, tile, i) for i in range(blocks * blocks)], kind="stable")
    rank = np.empty(blocks * blocks)
    rank[order] = np.arange(blocks * blocks)
    position = (rank + drawn(plan.seed, tile, -1)) / (blocks * blocks) % 1
    bounds = np.cumsum(plan.fractions[:-1])
    split = np.searchsorted(bounds, position, side="right").astype(np.uint8).reshape(blocks, blocks)
    side = slice(plan.per_side)
    return split.repeat(plan.block_size, axis=0).repeat(plan.block_size, axis=1)[side, side]


@lru_cache(maxsize=16)
def split_grid(plan: SplitPlan, tile: str) -> np.ndarray:
    """Return the index into `OUTCOMES` (rows, cols) uint8 of every patch position of `tile`."""
    dealt = dealt_grid(plan, tile)
    if not plan.buffer:
        return dealt
    corner = tile_corner(tile)
    assert corner is not None
    near = np.zeros(dealt.shape, dtype=bool)
    for up in (-1, 0, 1):
        for right in (-1, 0, 1):
            lat, lon = corner[0] + up, (corner[1] + right + 180) % 360 - 180
            if not -90 <= lat < 90:
                continue
            held_out = dealt_grid(plan, tile_name(lat, lon)) != 0
            rows, cols = closeness(plan, -up), closeness(plan, right)
            near |= (rows.astype(np.float32) @ held_out @ cols.T) > 0
    return np.where(near & (dealt == 0), np.uint8(len(SPLITS)), dealt)


def closeness(plan: SplitPlan, tiles_away: int) -> np.ndarray:
    """Return whether patch i of a tile and patch j of the tile `tiles_away` further on are closer than the buffer."""
    start = np.arange(plan.per_side) * plan.patch_size
    apart = np.abs(start[:, None] - (start[None, :] + tiles_away * plan.tile_pixels))
    return apart < (1 + plan.buffer) * plan.patch_size


def drawn(seed: int, tile: str, block: int) -> float:
    """Return a number in [0, 1) that depends on nothing but the arguments, on every machine and version."""
    digest = hashlib.sha256(f"{seed}/{tile}/{block}".encode()).digest()
    return int.from_bytes(digest[:7], "big") / (1 << 56)


def smallest_gap(corners: dict[str, np.ndarray], patch_size: int) -> dict[str, int]:
    """Return the smallest distance in pixels between the patches of each two splits, keyed 'train-val' and so on.

    Args:
        corners: by split, the north-west corners (N, 2) of its patches in pixels of one grid.
        patch_size: width of a patch in pixels.

    The distance is the larger of the gaps along rows and columns: 0 for patches that touch.
    """
    from scipy.spatial import cKDTree

    names = [name for name in SPLITS if len(corners.get(name, ()))]
    gaps = {}
    for i, first in enumerate(names):
        tree = cKDTree(corners[first])
        for second in names[i + 1 :]:
            nearest, _ = tree.query(corners[second], p=np.inf)
            gaps[f"{first}-{second}"] = int(nearest.min()) - patch_size
    return gaps
