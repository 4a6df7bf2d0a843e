"""Areas of interest: a box or a GeoJSON file, and the tiles that share area with it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aras.errors import UserError
from aras.tiles import Bbox, tile_corner, tiles_in_bbox

if TYPE_CHECKING:
    from shapely.geometry.base import BaseGeometry

DEGREES_CRS = ("CRS84", "EPSG::4326", "EPSG:4326")


def tiles_of_bbox(bbox: Bbox, degrees: int) -> list[str]:
    """Return the names of the `degrees`-wide tiles that share area with `bbox`, each once."""
    return list(dict.fromkeys(tiles_in_bbox(bbox, degrees)))


def tiles_of_area(area: BaseGeometry, degrees: int) -> list[str]:
    """Return the names of the `degrees`-wide tiles that share area with `area`, south to north, west to east."""
    from shapely import box, prepare

    prepare(area)
    found = []
    for name in tiles_in_bbox(area.bounds, degrees):
        lat, lon = tile_corner(name) or (0, 0)
        cell = box(lon, lat, lon + degrees, lat + degrees)
        if area.intersects(cell) and (area.contains(cell) or area.intersection(cell).area > 0):
            found.append(name)
    return found


def read_area(path: Path) -> BaseGeometry:
    """Return the polygons in the GeoJSON file `path`, in degrees, as one geometry.

    Raises:
        UserError: not GeoJSON, no polygon in it, or its coordinates are not degrees.
    """
    from shapely import make_valid, union_all
    from shapely.errors import ShapelyError
    from shapely.geometry import shape

    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"--aoi {path} is not readable GeoJSON ({error}); export it again") from None
    check_degrees(content, path)
    try:
        found = [make_valid(shape(geometry)) for geometry in geometries(content)]
        area = union_all([polygon for geometry in found for polygon in polygons(geometry)])
    except (ShapelyError, ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
        raise UserError(f"--aoi {path} has a geometry that cannot be read ({error}); export it again") from None
    if not area.area > 0:
        raise UserError(f"--aoi {path} has no polygon with an area; draw one, or use --bbox")
    west, south, east, north = area.bounds
    if not (-180 <= west < east <= 180 and -90 <= south < north <= 90):
        raise UserError(
            f"--aoi {path} is not in degrees within 180 and 90; export it in EPSG:4326, split at the 180th meridian"
        )
    return area


def check_degrees(content: Any, path: Path) -> None:
    """Raise `UserError` if `content` names another system than degrees, as GeoJSON could before RFC 7946."""
    crs = content.get("crs") if isinstance(content, dict) else None
    name = str(crs.get("properties", {}).get("name", "")) if isinstance(crs, dict) else ""
    if name and not name.endswith(DEGREES_CRS):
        raise UserError(f"--aoi {path} is in {name}, not in degrees; export it in EPSG:4326")


def geometries(content: Any) -> Iterator[dict[str, Any]]:
    """Yield the geometries of a GeoJSON value: a FeatureCollection, a Feature or a bare geometry.

    Raises:
        ValueError: it is none of these.
    """
    kind = content.get("type") if isinstance(content, dict) else None
    if kind == "FeatureCollection":
        for feature in content["features"]:
            yield from geometries(feature)
    elif kind == "Feature":
        if content.get("geometry") is not None:
            yield from geometries(content["geometry"])
    elif kind is not None and ("coordinates" in content or "geometries" in content):
        yield content
    else:
        raise ValueError("it is neither a feature nor a geometry")


def polygons(geometry: BaseGeometry) -> Iterator[BaseGeometry]:
    """Yield the polygons in `geometry`, however nested; points and lines have no area and are left out."""
    if geometry.geom_type == "Polygon":
        yield geometry
    for part in getattr(geometry, "geoms", ()):
        yield from polygons(part)
