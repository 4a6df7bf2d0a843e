"""Cutting one tile into patches, a few rows at a time, each work unit for itself.

A unit depends on nothing but its own description, so units may run in any order on any number of processes, and one
that was interrupted is simply done again.
"""

import hashlib
from collections.abc import Iterator
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from aras.errors import UserError
from aras.fencing import Fence
from aras.legend import labels_from_codes
from aras.patches import (
    PERCENTILES,
    class_counts,
    linear_table,
    patch_max_stretch,
    reason_to_skip,
    remove_patch,
    write_patch,
)
from aras.progress import record_of
from aras.rasters import GDAL_OPTIONS, TOLERANCE, Raster, corner_of, read_codes, read_window
from aras.splits import OUTCOMES, SPLITS, SplitPlan, split_grid
from aras.tables import patch_record, write_unit
from aras.tiles import Bbox, patch_name

ROWS_AT_ONCE = 1024  # pixels: the block height of the published COGs; a worker decodes each block once


@dataclass(frozen=True)
class Cutting:
    """Everything that decides how a patch comes out, the same for all of a run.

    Attributes:
        output: the dataset's folder.
        patch_size: width of a patch in pixels.
        stretch: `reflectance`, `patch-max` or `percentile`.
        reflectance_max: reflectance x 10^4 that becomes 255 under `reflectance`.
        max_water: a patch with a larger share of water is dropped.
        split: `spatial` or `random`.
        fractions, seed, block_size, buffer: see `aras.splits.SplitPlan`.
        bbox: only patches that share area with it (west, south, east, north); None for all.
    """

    output: Path
    patch_size: int
    stretch: str
    reflectance_max: int
    max_water: float
    split: str
    fractions: tuple[float, float, float]
    seed: int
    block_size: int
    buffer: int
    bbox: Bbox | None

    def plan(self, per_degree: int) -> SplitPlan:
        """Return how patches of tiles with `per_degree` pixels a degree are dealt to the splits."""
        block_size, buffer = (self.block_size, self.buffer) if self.split == "spatial" else (1, 0)
        return SplitPlan(per_degree, self.patch_size, self.fractions, self.seed, block_size, buffer)


@dataclass(frozen=True)
class Unit:
    """A few patch rows of one tile: what one worker does at a time.

    Attributes:
        image: the image tile.
        maps: the map tiles under it.
        rows: patch rows, from the first to before the last.
        cols: patch columns, likewise.
    """

    image: Raster
    maps: tuple[Raster, ...]
    rows: tuple[int, int]
    cols: tuple[int, int]

    @property
    def name(self) -> str:
        """The name of the unit's record: tile and first row."""
        return f"{self.image.tile}_{self.rows[0]:03d}"

    @property
    def size(self) -> int:
        """Number of patch positions."""
        return (self.rows[1] - self.rows[0]) * (self.cols[1] - self.cols[0])

    @property
    def key(self) -> str:
        """What its patches are made from; another key means that they are to be made again."""
        sources = [raster.stamp for raster in (self.image, *self.maps)]
        return hashlib.sha256(repr((self.rows, self.cols, sources)).encode()).hexdigest()[:16]


def units_of(image: Raster, maps: tuple[Raster, ...], cutting: Cutting) -> Iterator[Unit]:
    """Yield the work units of a tile: runs of patch rows that start in the same row of stored blocks."""
    size = cutting.patch_size
    rows = whole_patches(image.top - image.tile_top, image.height, size, image.per_degree)
    cols = whole_patches(image.left - image.tile_left, image.width, size, image.per_degree)
    if cutting.bbox:
        west, south, east, north = cutting.bbox
        if west > east:  # the box crosses the 180th meridian: take the side that this tile is on
            west, east = (west, 180.0) if corner_of(image.tile)[1] >= 0 else (-180.0, east)
        n = image.per_degree
        rows = within(rows, (90 - north) * n - image.tile_top, (90 - south) * n - image.tile_top, size)
        cols = within(cols, (west + 180) * n - image.tile_left, (east + 180) * n - image.tile_left, size)
    if not cols:
        return
    band = -(-ROWS_AT_ONCE // image.block_height) * image.block_height
    offset = image.tile_top - image.top
    start = rows.start
    for row in rows:
        if row + 1 == rows.stop or (row * size + offset) // band != ((row + 1) * size + offset) // band:
            yield Unit(image, maps, (start, row + 1), (cols.start, cols.stop))
            start = row + 1


def whole_patches(offset: int, length: int, size: int, cell: int) -> range:
    """Return the patch numbers, counted from a cell's edge, of the whole patches in a span of pixels.

    Args:
        offset: pixels from the cell's edge to the span's start; may be negative.
        length: pixels of the span.
        size: pixels of a patch.
        cell: pixels of the degree cell that the tile is named for.
    """
    return range(max(0, -(-offset // size)), max(0, min(offset + length, cell) // size))


def within(patches: range, low: float, high: float, size: int) -> range:
    """Return those of `patches` that share pixels with the open interval from `low` to `high`, but for rounding."""
    first, last = int((low + TOLERANCE) // size), int(-(-(high - TOLERANCE) // size))
    return range(max(patches.start, first), min(patches.stop, last))


def cut_unit(unit: Unit, cutting: Cutting, fence: Fence | None = None) -> str | None:
    """Write the patches of `unit`, then its record; return what went wrong with its files, or None.

    The record comes last: a unit without one is done again from its start, with the same bytes. It may be done by two
    workers at a time, when a cluster took one of them for lost.

    Args:
        unit: what to cut.
        cutting: how to cut it.
        fence: the leave to write.

    Raises:
        UserError: it is another run's turn to write.
    """
    with fence.writing() if fence else nullcontext():
        return cut_rows(unit, cutting, fence)


def cut_named(unit: Unit, cutting: Cutting, fence: Fence) -> tuple[Unit, str | None]:
    """Return `unit` and what `cut_unit` says of it, as results come back in any order."""
    return unit, cut_unit(unit, cutting, fence)


def take_back(unit: Unit, output: Path) -> None:
    """Delete the patches of a unit that failed, so that the folders hold none that the tables do not tell of."""
    for row, col in product(range(*unit.rows), range(*unit.cols)):
        remove_patch(output, patch_name(unit.image.tile, row, col))


def cut_rows(unit: Unit, cutting: Cutting, fence: Fence | None) -> str | None:
    """Write the patches of all rows of `unit` and its record; return what went wrong with its files, or None."""
    import rasterio

    lines: list[str] = []
    try:
        with rasterio.Env(**GDAL_OPTIONS), rasterio.open(unit.image.path) as image, ExitStack() as opened:
            maps = [(land_map, opened.enter_context(rasterio.open(land_map.path))) for land_map in unit.maps]
            table = stretch_table(unit.image.path, unit.image.stamp, cutting.stretch, cutting.reflectance_max)
            for row in range(*unit.rows):
                if fence:
                    fence.end_if_orphaned()
                lines += cut_row(unit, row, image, maps, table, cutting)
    except UserError as error:
        return str(error)
    except rasterio.errors.RasterioIOError as error:
        return f"{unit.image.path} or a map under it cannot be opened ({error}); download them again"
    write_unit(record_of(unit.name, cutting.output), unit.key, lines)
    return None


@lru_cache(maxsize=4)
def stretch_table(path: str, stamp: str, stretch: str, reflectance_max: int) -> np.ndarray | None:
    """Return the table (65536,) uint8 from reflectance to grey level; None when each patch has its own.

    A tile's percentiles are those of about 750 x 750 of its pixels, the coarsest overview of the published tiles.
    """
    import rasterio

    if stretch == "patch-max":
        return None
    if stretch == "reflectance":
        return linear_table(0, reflectance_max)
    with rasterio.open(path) as image:
        step = max(1, max(image.width, image.height) // 750)
        seen = image.read([1, 2, 3], out_shape=(3, -(-image.height // step), -(-image.width // step)))
    seen = seen[:, (seen > 0).any(axis=0)]
    low, high = np.percentile(seen, PERCENTILES) if seen.size else (0, 1)
    return linear_table(float(low), float(high))


def cut_row(
    unit: Unit,
    row: int,
    image: Any,
    maps: list[tuple[Raster, Any]],
    table: np.ndarray | None,
    cutting: Cutting,
) -> Iterator[str]:
    """Write the patches of one row and yield a line of the record for each position: row, column, outcome, counts."""
    size, tile = cutting.patch_size, unit.image
    top, left = tile.tile_top + row * size, tile.tile_left + unit.cols[0] * size
    width = (unit.cols[1] - unit.cols[0]) * size
    codes, covered = read_codes(maps, tile.per_degree, left, top, width, size)
    labels = labels_from_codes(codes, " or ".join(m.path for m in unit.maps) or "the map")
    splits = split_grid(cutting.plan(tile.per_degree), tile.tile)
    pixels = None
    for col in range(*unit.cols):
        here = slice((col - unit.cols[0]) * size, (col - unit.cols[0] + 1) * size)
        patch_labels = labels[:, here]
        outcome = reason_to_skip(patch_labels, covered[:, here], cutting.max_water)
        counts = None
        if outcome is None:
            if pixels is None:
                rows = (top - tile.top, top - tile.top + size)
                pixels = read_window(image, tile.path, [1, 2, 3], (rows, (left - tile.left, left - tile.left + width)))
            patch = pixels[:, :, here]
            outcome = OUTCOMES[splits[row, col]] if patch.any() else "black"
            if outcome in SPLITS:
                counts = class_counts(patch_labels)
                grey = patch_max_stretch(patch) if table is None else table[patch]
                write_patch(cutting.output / outcome, patch_name(tile.tile, row, col), grey, patch_labels)
        yield patch_record(tile.tile, row, col, tile.per_degree, outcome, counts)
