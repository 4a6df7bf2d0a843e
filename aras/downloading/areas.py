"""Areas of interest: a box or a GeoJSON file, and the tiles that share area with it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aras.downloading.addresses import printable
from aras.errors import UserError
from aras.tiles import Bbox, tile_corner, tiles_in_bbox

if TYPE_CHECKING:
    from shapely.geometry.base import BaseGeometry

DEGREES_CRS = re.compile(r"(.*[:/])?CRS:?84|(.*[:/])?EPSG(/|:|\.xml#)([\d.]*[:/])?4326", re.IGNORECASE)
"""EPSG:4326 or CRS84 by short name, by URN or by URL of the OGC."""


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
        drawn = [shape(geometry) for geometry in geometries(content)]
        area = union_all([polygon for geometry in drawn for polygon in polygons(make_valid(geometry))])
    except (ShapelyError, ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
        raise UserError(f"--aoi {path} has a geometry that cannot be read ({error}); export it again") from None
    if not area.area > 0:
        raise UserError(f"--aoi {path} has no polygon with an area; draw one, or use --bbox")
    west, south, east, north = area.bounds
    if not (-180 <= west < east <= 180 and -90 <= south < north <= 90):
        raise UserError(
            f"--aoi {path} is not in degrees within 180 and 90; export it in EPSG:4326, split at the 180th meridian"
        )
    check_edges([polygon for geometry in drawn for polygon in polygons(geometry)], path)
    return area


def check_degrees(content: Any, path: Path) -> None:
    """Raise `UserError` if `content` names another system than degrees, as GeoJSON could before RFC 7946."""
    crs = content.get("crs") if isinstance(content, dict) else None
    properties = crs.get("properties") if isinstance(crs, dict) else None
    name = str(properties.get("name") or "") if isinstance(properties, dict) else ""
    if name and not DEGREES_CRS.fullmatch(name):
        raise UserError(f"--aoi {path} is in {printable(name)}, not in degrees; export it in EPSG:4326")


def check_edges(drawn: Iterable[BaseGeometry], path: Path) -> None:
    """Raise `UserError` if an edge of the `drawn` polygons goes more than half around the Earth.

    It was meant to go the short way, across the 180th meridian, and would become a belt around the Earth.
    """
    for polygon in drawn:
        for ring in (polygon.exterior, *polygon.interiors):
            if any(abs(one[0] - other[0]) > 180 for one, other in pairwise(ring.coords)):
                raise UserError(
                    f"--aoi {path} has an edge of more than 180 degrees of longitude; split it at the 180th meridian, "
                    "or if it is that wide, in the middle"
                )


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
