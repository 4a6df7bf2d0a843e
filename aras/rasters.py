"""Georeferenced tiles on one global pixel grid.

A tile's pixels are counted from longitude -180 and latitude 90, so that image and map tiles of any place meet in whole
numbers and no coordinate is ever rounded twice. Paths may be files or http(s) URLs (read through GDAL's /vsicurl).
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from aras.errors import UserError
from aras.tiles import tile_corner, tile_name

QUALITY = "InputQuality"
"""In the names of layers that lie beside Terrascope's maps."""

TOLERANCE = 0.01
"""How far off the whole-pixel grid, in pixels, a tile may lie through rounding in its header."""

GDAL_OPTIONS = {
    "GDAL_CACHEMAX": 192 << 20,  # bytes: one row of 1024-pixel blocks of a 12000 x 4 uint16 tile is 98 MB
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
    "GDAL_HTTP_MAX_RETRY": 5,
    "GDAL_HTTP_RETRY_DELAY": 1,
    "GDAL_HTTP_MERGE_CONSECUTIVE_RANGES": "YES",
    "CPL_VSIL_CURL_ALLOWED_EXTENSIONS": ".tif",
}


@dataclass(frozen=True)
class Raster:
    """A tile's header: where it lies on the global pixel grid, and how it is stored.

    Attributes:
        path: file or URL.
        tile: name of its south-west corner.
        crs: its coordinate system, as text.
        per_degree: pixels per degree.
        left: columns between longitude -180 and its west edge.
        top: rows between latitude 90 and its north edge.
        width: columns.
        height: rows.
        block_height: rows of one stored block.
        stamp: changes when the file does.
    """

    path: str
    tile: str
    crs: str
    per_degree: int
    left: int
    top: int
    width: int
    height: int
    block_height: int
    stamp: str

    @property
    def tile_left(self) -> int:
        """Global column of the west edge that the tile's name tells."""
        return (corner_of(self.tile)[1] + 180) * self.per_degree

    @property
    def tile_top(self) -> int:
        """Global row of the north edge of the degree cell that the tile's name tells."""
        return (90 - corner_of(self.tile)[0] - 1) * self.per_degree


def corner_of(tile: str) -> tuple[int, int]:
    """Return (latitude, longitude) of the south-west corner of a tile known to be well named."""
    corner = tile_corner(tile)
    assert corner is not None
    return corner


def raster_of(path: str, tile: str, bands: int, dtype: str, degrees: int) -> Raster:
    """Return the header of the tile at `path`, whose name says that it lies in the cell `tile`, `degrees` wide.

    Raises:
        UserError: not a readable GeoTIFF, too few bands, another type of number, rotated, off the pixel grid, or
            elsewhere than its name says.
    """
    import rasterio

    try:
        with rasterio.Env(**GDAL_OPTIONS), rasterio.open(path) as file:
            crs = file.crs.to_string() if file.crs else "none"
            transform, size, count, kind = file.transform, (file.width, file.height), file.count, file.dtypes[0]
            block_height = file.block_shapes[0][0]
    except rasterio.errors.RasterioIOError as error:
        raise UserError(f"{path} cannot be opened ({one_line(error)}); {remedy_for(path)}") from None
    if count < bands or kind != dtype:
        raise UserError(f"{path} has {count} bands of {kind}, not {bands} of {dtype}; is it in the wrong folder?")
    if transform.b or transform.d or transform.a <= 0 or transform.e >= 0:
        raise UserError(f"{path} is not north-up; warp it to the grid of the other tiles first")
    geographic = crs == "EPSG:4326"
    per_degree = round(1 / transform.a) if geographic else 0
    left, top = ((transform.c + 180) * per_degree, (90 - transform.f) * per_degree) if geographic else (0.0, 0.0)
    if geographic and (
        abs(per_degree * transform.a - 1) > TOLERANCE / max(size)
        or abs(-per_degree * transform.e - 1) > TOLERANCE / max(size)
        or max(abs(left - round(left)), abs(top - round(top))) > TOLERANCE
    ):
        raise UserError(f"{path} does not lie on a grid of whole pixels per degree; warp it to one first")
    raster = Raster(path, tile, crs, per_degree, round(left), round(top), *size, block_height, stamp_of(path))
    if geographic and not in_its_cell(raster, degrees):
        raise UserError(f"{path} does not lie where its name says; rename it, or download it again")
    return raster


def stamp_of(path: str) -> str:
    """Return what changes when the file at `path` does: its name, size and time; of a URL only itself."""
    if is_url(path):
        return path
    told = Path(path).stat()
    return f"{Path(path).name} {told.st_size} {told.st_mtime_ns}"


def in_its_cell(raster: Raster, degrees: int) -> bool:
    """Return whether a tile shares area with the cell, `degrees` wide, that its name tells."""
    width = degrees * raster.per_degree
    top = raster.tile_top - (degrees - 1) * raster.per_degree  # tile_top is that of the cell's southernmost degree
    across = raster.tile_left < raster.left + raster.width and raster.left < raster.tile_left + width
    return across and top < raster.top + raster.height and raster.top < top + width


def check_nesting(image: Raster, land_map: Raster) -> None:
    """Raise `UserError`, naming both files, unless every image pixel lies wholly within one map pixel."""
    if image.crs != land_map.crs or not image.per_degree:
        raise UserError(
            f"{image.path} is in {image.crs} and {land_map.path} in {land_map.crs}; both must be in EPSG:4326"
        )
    if image.per_degree % land_map.per_degree:
        raise UserError(
            f"the pixels of {image.path} (1/{image.per_degree} degree) do not nest in those of {land_map.path} "
            f"(1/{land_map.per_degree} degree); warp one to the other's grid first"
        )


def overlap(image: Raster, land_map: Raster) -> bool:
    """Return whether the two tiles share area."""
    scale = image.per_degree // land_map.per_degree
    return (
        land_map.left * scale < image.left + image.width
        and image.left < (land_map.left + land_map.width) * scale
        and land_map.top * scale < image.top + image.height
        and image.top < (land_map.top + land_map.height) * scale
    )


def read_codes(
    maps: list[tuple[Raster, Any]], per_degree: int, left: int, top: int, width: int, height: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the map codes (height, width) uint8 of a window of the global grid, and where there is a map at all.

    The window is put together from all `maps` (header, open file) that reach into it; code 0 where none does. Coarser
    maps are read nearest-neighbour: a map pixel covers whole image pixels, so nothing is interpolated.
    """
    codes = np.zeros((height, width), dtype=np.uint8)
    covered = np.zeros((height, width), dtype=bool)
    for land_map, file in maps:
        scale = per_degree // land_map.per_degree
        x0, x1 = max(left, land_map.left * scale), min(left + width, (land_map.left + land_map.width) * scale)
        y0, y1 = max(top, land_map.top * scale), min(top + height, (land_map.top + land_map.height) * scale)
        if x0 >= x1 or y0 >= y1:
            continue
        rows, cols = (y0 // scale, -(-y1 // scale)), (x0 // scale, -(-x1 // scale))
        window = tuple((a - edge, b - edge) for (a, b), edge in ((rows, land_map.top), (cols, land_map.left)))
        part = read_window(file, land_map.path, 1, window)
        if scale > 1:
            part = part.repeat(scale, axis=0).repeat(scale, axis=1)
            part = part[y0 - rows[0] * scale :, x0 - cols[0] * scale :][: y1 - y0, : x1 - x0]
        here = (slice(y0 - top, y1 - top), slice(x0 - left, x1 - left))
        codes[here] = part
        covered[here] = True
    return codes, covered


def read_window(file: Any, path: str, bands: int | list[int], window: tuple[tuple[int, int], ...]) -> np.ndarray:
    """Return the pixels of a window ((row, row), (column, column)) of an open rasterio `file`.

    Raises:
        UserError: the file is truncated or damaged there.
    """
    import rasterio

    try:
        return file.read(bands, window=window)
    except rasterio.errors.RasterioIOError as error:
        raise UserError(f"{path} is damaged or cut short ({one_line(error)}); {remedy_for(path)}") from None


def is_url(text: str) -> bool:
    """Return whether `text` is an http(s) address rather than a file or folder."""
    return text.startswith(("http://", "https://"))


def remedy_for(path: str) -> str:
    """Return what to do about a tile that cannot be read."""
    if is_url(path):
        return "run the same command again, or download it first with dataset_downloader.py"
    return "delete it and download it again"


def one_line(error: Exception) -> str:
    """Return the text of a GDAL error without line breaks and without its advice to look elsewhere."""
    return " ".join(str(error.__cause__ or error).split())


def tile_files(folder: Path, ending: str) -> dict[str, str]:
    """Return {tile: path} of the GeoTIFFs below `folder`, links followed, whose names tell a tile.

    Of several files of one tile the one whose name ends as the archive's do (`ending`) counts; the archive's quality
    layers never do.

    Raises:
        UserError: no such folder, none in it, or two files of one tile.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder; run dataset_downloader.py first, or name another one")
    named: dict[str, list[Path]] = {}
    for parent, folders, names in os.walk(folder, followlinks=True):
        folders.sort()
        for path in (Path(parent, name) for name in sorted(names)):
            if path.suffix.lower() in (".tif", ".tiff") and tile_corner(path.stem) and QUALITY not in path.stem:
                named.setdefault(tile_name(*corner_of(path.stem)), []).append(path)
    if not named:
        raise UserError(f"{folder} has no GeoTIFF with a tile in its name; run dataset_downloader.py first")
    found = {}
    for tile, paths in sorted(named.items()):
        best = [path for path in paths if path.stem.endswith(ending)] or paths
        if len(best) > 1:
            raise UserError(f"{best[0]} and {best[1]} are the same tile; delete one of them")
        found[tile] = str(best[0])
    return found
