"""Which raw tiles there are, on disk or on a server, and which maps lie under an image tile."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from aras.errors import UserError
from aras.rasters import Raster, check_nesting, corner_of, is_url, overlap, raster_of, tile_files
from aras.tiles import IMAGE_DEGREES, MAP_DEGREES, Bbox, image_file, map_file, tile_name, tiles_in_bbox


def image_paths(s2: str, year: int, bbox: Bbox | None) -> dict[str, str]:
    """Return {tile: path or URL} of the image tiles."""
    if not is_url(s2):
        return tile_files(Path(s2), "_S2RGBNIR")
    tiles = tiles_in_bbox(required(bbox), IMAGE_DEGREES)
    return existing({tile: f"{s2.rstrip('/')}/{tile[:3]}/{image_file(tile, year)}" for tile in tiles}, s2)


def map_paths(worldcover: str, year: int, bbox: Bbox | None) -> dict[str, str]:
    """Return {tile: path or URL} of the map tiles."""
    if not is_url(worldcover):
        return tile_files(Path(worldcover), "_Map")
    tiles = tiles_in_bbox(required(bbox), MAP_DEGREES)
    return existing({tile: f"{worldcover.rstrip('/')}/{map_file(tile, year)}" for tile in tiles}, worldcover)


def required(bbox: Bbox | None) -> Bbox:
    """Return `bbox`, which reading from a URL needs."""
    if bbox is None:
        raise UserError("--bbox W S E N is needed when --s2 or --worldcover is a URL")
    return bbox


def existing(urls: dict[str, str], base: str) -> dict[str, str]:
    """Return those of `urls` {tile: URL} that the server has; tiles over open sea have none (404)."""
    with ThreadPoolExecutor(16) as pool:
        there = pool.map(exists, urls.values())
        found = {tile: url for (tile, url), yes in zip(urls.items(), there, strict=True) if yes}
    if not found:
        raise UserError(f"{base} has no tile of --bbox; check both")
    return found


def exists(url: str) -> bool:
    """Return whether the server has `url`.

    Raises:
        UserError: the server cannot be reached, or answers neither yes nor 404.
    """
    import requests

    try:
        answer = requests.head(url, timeout=60, allow_redirects=True)
    except requests.RequestException as error:
        raise UserError(f"{url} cannot be reached ({type(error).__name__}); check the network and the URL") from None
    if not answer.ok and answer.status_code != 404:
        raise UserError(f"{url} answers HTTP {answer.status_code}; check the URL, or try again later")
    return answer.ok


def maps_under(
    image: Raster, maps: dict[str, str], headers: dict[str, Raster | UserError], published: bool
) -> Iterator[Raster]:
    """Yield the map tiles that share area with `image`, from the nine whose 3-degree cell can hold it.

    The published script looks one degree around the corner instead, and takes the first that overlaps.
    """
    lat, lon = corner_of(image.tile)
    offsets = (-1, 0, 1) if published else (-2, -1, 0)
    for tile in (tile_name(lat + north, lon + east) for north in offsets for east in offsets):
        if tile not in maps:
            continue
        if tile not in headers:
            headers[tile] = header_or_error(maps[tile], tile)
        header = headers[tile]
        if isinstance(header, UserError):
            raise header
        check_nesting(image, header)
        if overlap(image, header):
            yield header
            if published:
                return


def header_or_error(path: str, tile: str) -> Raster | UserError:
    """Return the header of a map tile, or what is wrong with it, so that each file is opened once."""
    try:
        return raster_of(path, tile, bands=1, dtype="uint8", degrees=MAP_DEGREES)
    except UserError as error:
        return error
