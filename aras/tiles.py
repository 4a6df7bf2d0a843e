"""Names of tiles and patches, and where on Earth they lie.

A tile is named by its south-west corner: `N41E031`. Image tiles are 1 degree wide, WorldCover maps 3 degrees, with
corners at multiples of 3 (facts of the open buckets; see docs/differences.md). A patch is a tile, a row and a column
counted from the tile's north-west corner: `N41E031_012_034`.
"""

import math
import re

from aras.errors import UserError

IMAGE_DEGREES = 1
MAP_DEGREES = 3
PIXELS_PER_DEGREE = 12000
Bbox = tuple[float, float, float, float]  # west, south, east, north in degrees

TILE = re.compile(r"(?<![A-Za-z0-9])([NS])(\d{2})([EW])(\d{3})(?!\d)")
PATCH = re.compile(r"([NS]\d{2}[EW]\d{3})_(\d{3,})_(\d{3,})")


def tile_name(lat: int, lon: int) -> str:
    """Return the name of the tile whose south-west corner is (`lat`, `lon`)."""
    return f"{'N' if lat >= 0 else 'S'}{abs(lat):02d}{'E' if lon >= 0 else 'W'}{abs(lon):03d}"


def tile_corner(text: str) -> tuple[int, int] | None:
    """Return (latitude, longitude) of the south-west corner of the tile named in `text`; None when none is."""
    found = TILE.search(text)
    if not found:
        return None
    north_south, lat, east_west, lon = found.groups()
    return (int(lat) if north_south == "N" else -int(lat)), (int(lon) if east_west == "E" else -int(lon))


def patch_name(tile: str, row: int, col: int) -> str:
    """Return the name that a patch's image, mask, percentages, captions and prediction share."""
    return f"{tile}_{row:03d}_{col:03d}"


def patch_position(name: str) -> tuple[str, int, int] | None:
    """Return (tile, row, column) of a patch's name, with or without suffix; None when it is not one."""
    found = PATCH.match(name)
    return (found[1], int(found[2]), int(found[3])) if found else None


def tiles_in_bbox(bbox: Bbox, degrees: int) -> list[str]:
    """Return the names of the `degrees`-wide tiles that share area with `bbox`, south to north, west to east.

    Edges are exclusive: a box that ends exactly on a tile's edge does not touch the tile beyond. A box whose west is
    larger than its east crosses the 180th meridian.
    """
    west, south, east, north = bbox
    if west > east:
        return tiles_in_bbox((west, south, 180, north), degrees) + tiles_in_bbox((-180, south, east, north), degrees)
    lats = range(math.floor(south / degrees) * degrees, math.ceil(north / degrees) * degrees, degrees)
    lons = range(math.floor(west / degrees) * degrees, math.ceil(east / degrees) * degrees, degrees)
    return [tile_name(lat, lon) for lat in lats for lon in lons]


def check_bbox(bbox: Bbox) -> None:
    """Raise `UserError` unless `bbox` is west, south, east, north in degrees and has an area."""
    west, south, east, north = bbox
    told = f"--bbox {west:g} {south:g} {east:g} {north:g}"
    if not all(map(math.isfinite, bbox)):
        raise UserError(f"{told}: every number must be finite")
    if not (-180 <= west <= 180 and -180 <= east <= 180 and -90 <= south <= 90 and -90 <= north <= 90):
        raise UserError(f"{told}: give W S E N in degrees, longitudes within 180 and latitudes within 90")
    if south >= north:
        raise UserError(f"{told}: south must be less than north; the order is W S E N")
    if west == east or (west, east) == (180, -180):
        raise UserError(f"{told}: west and east are the same, so the box has no area; the order is W S E N")


def map_tile_of(lat: int, lon: int) -> str:
    """Return the name of the 3-degree map tile in which the image tile at (`lat`, `lon`) lies."""
    return tile_name(lat // MAP_DEGREES * MAP_DEGREES, lon // MAP_DEGREES * MAP_DEGREES)


VERSION_OF_YEAR = {2021: "v200", 2020: "v100"}


def image_file(tile: str, year: int) -> str:
    """Return the file name of an image tile, as the open bucket and Terrascope spell it."""
    return f"ESA_WorldCover_10m_{year}_{VERSION_OF_YEAR[year]}_{tile}_S2RGBNIR.tif"


def map_file(tile: str, year: int) -> str:
    """Return the file name of a map tile, as the open bucket and Terrascope spell it."""
    return f"ESA_WorldCover_10m_{year}_{VERSION_OF_YEAR[year]}_{tile}_Map.tif"
