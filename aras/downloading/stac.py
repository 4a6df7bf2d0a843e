"""Terrascope's catalogue (STAC API): which GeoTIFF is which tile's.

Searching needs no login. https://api.stacspec.org/v1.0.0/item-search
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import urlencode, urlsplit

from aras.downloading.addresses import joined, shown
from aras.downloading.web import Client
from aras.downloading.web_errors import SURVEY_TRIES, FetchError, Missing
from aras.errors import UserError
from aras.tiles import Bbox, tile_corner, tile_name

PAGE = 100  # items
NOT_DATA = ("inputquality", "input_quality", "thumbnail", "overview", "preview")


def boxes_of(tiles: Iterable[str], degrees: int) -> list[Bbox]:
    """Return the box around the `tiles` east of Greenwich and the one around those west of it.

    Two boxes, so that none spans the Earth when the tiles lie on both sides of the 180th meridian.
    """
    corners = [corner for tile in tiles if (corner := tile_corner(tile))]
    boxes: list[Bbox] = []
    for side in ([c for c in corners if c[1] >= 0], [c for c in corners if c[1] < 0]):
        if side:
            lats, lons = [lat for lat, _ in side], [lon for _, lon in side]
            boxes.append((min(lons), min(lats), max(lons) + degrees, max(lats) + degrees))
    return boxes


def check_collection(client: Client, address: str, option: str) -> None:
    """Raise `UserError` unless there is a collection at `address`; `option` is the one that names another."""
    try:
        client.json("GET", address, SURVEY_TRIES, anonymous=True)
    except Missing:
        raise UserError(f"{shown(address)} is no collection; check {option}") from None
    except FetchError as error:
        raise UserError(f"{shown(address)} has no tile of this area ({error}); check {option}") from None


def search(client: Client, stac_url: str, collection: str, bbox: Bbox) -> Iterator[dict[str, Any]]:
    """Yield the items of `collection` that touch `bbox`, page after page; some may come twice.

    The addresses of their assets are made absolute.

    Raises:
        UserError: the catalogue cannot be searched; the message names --stac-url.
    """
    url = stac_url.rstrip("/") + "/search"
    query = {"collections": [collection], "bbox": list(bbox), "limit": PAGE}
    request: tuple[str, str, dict[str, Any] | None] = ("POST", url, query)
    seen: list[tuple[str, str, dict[str, Any] | None]] = []
    while request not in seen:
        seen.append(request)
        try:
            page = _page(client, *request)
        except FetchError as error:
            raise UserError(f"--stac-url {shown(stac_url)} cannot be searched: {error}") from None
        if not isinstance(page, dict) or not isinstance(page.get("features"), list):
            raise UserError(f"--stac-url {shown(stac_url)} does not answer as a STAC API does; check the address")
        yield from (with_absolute_hrefs(item, request[1]) for item in objects(page["features"]))
        link = link_of(page, "next")
        if not link:
            return
        request = (str(link.get("method", "GET")).upper(), joined(request[1], link.get("href")), None)
        if request[0] == "POST":
            body = link["body"] if isinstance(link.get("body"), dict) else query
            request = (*request[:2], {**(query if link.get("merge") else {}), **body})
    raise UserError(f"--stac-url {shown(stac_url)} sends the same page again and again; try later, or another mirror")


def _page(client: Client, method: str, url: str, query: dict[str, Any] | None) -> Any:
    """Return one page of a search, by GET where the server knows no POST."""
    if method == "GET" or query is None:
        return client.json("GET", url, SURVEY_TRIES, anonymous=True)
    try:
        return client.json("POST", url, SURVEY_TRIES, anonymous=True, json=query)
    except FetchError as error:
        if not isinstance(error, Missing) and error.status not in (405, 501):
            raise
    values = {name: ",".join(map(str, value)) if isinstance(value, list) else value for name, value in query.items()}
    return client.json("GET", f"{url}?{urlencode(values, safe=',')}", SURVEY_TRIES, anonymous=True)


def objects(value: Any) -> list[dict[str, Any]]:
    """Return the JSON objects in the list or object `value`; none in what is neither."""
    values = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [each for each in values if isinstance(each, dict)]


def link_of(value: dict[str, Any], relation: str) -> dict[str, Any]:
    """Return the first link of this `relation` that a STAC answer or item has; empty when it has none."""
    return next((link for link in objects(value.get("links")) if link.get("rel") == relation), {})


def with_absolute_hrefs(item: dict[str, Any], page: str) -> dict[str, Any]:
    """Return `item`, found on `page`, with the addresses of its assets made absolute and what is no asset left out."""
    base = joined(page, link_of(item, "self").get("href")) or page
    assets = item.get("assets")
    named = assets.items() if isinstance(assets, dict) else ()
    absolute = {key: {**asset, "href": href_of(asset, base)} for key, asset in named if isinstance(asset, dict)}
    return {**item, "assets": absolute}


def href_of(asset: dict[str, Any], base: str) -> str:
    """Return the http(s) address of `asset`, among its alternates if need be; empty when it has none."""
    found = (joined(base, place.get("href")) for place in (asset, *objects(asset.get("alternate"))))
    return next(filter(None, found), "")


def assets_of_tiles(items: Iterable[dict[str, Any]], names: dict[str, str]) -> dict[str, tuple[str, int | None] | None]:
    """Return (address, bytes or None) of the GeoTIFF of each tile that has an item.

    A tile without an item is left out; one whose item has no GeoTIFF is None. Of two items of one tile, the one updated
    last counts.

    Args:
        items: STAC items as `search` yields them.
        names: of each tile wanted, the usual name of its file, which decides between several.
    """
    best: dict[str, tuple[tuple[str, str], dict[str, Any]]] = {}
    for item in items:
        tile = tile_of_item(item)
        if tile not in names:
            continue
        properties = item.get("properties")
        updated = properties.get("updated") if isinstance(properties, dict) else None
        rank = (str(updated or ""), str(item.get("id")))
        if tile not in best or rank > best[tile][0]:
            best[tile] = (rank, item)
    return {tile: geotiff(item, names[tile]) for tile, (_, item) in best.items()}


def tile_of_item(item: dict[str, Any]) -> str:
    """Return the name of the tile that `item` is of: by its id, else by its footprint; empty when neither tells."""
    corner = tile_corner(str(item.get("id", "")).upper())
    box = item.get("bbox")
    if corner is None and isinstance(box, list) and len(box) == 4 and all(map(is_degrees, box)):
        corner = (round(box[1]), round(box[0]))
    return tile_name(*corner) if corner else ""


def is_degrees(value: Any) -> bool:
    """Return whether `value` is a number of degrees."""
    return isinstance(value, int | float) and -180 <= value <= 180


def geotiff(item: dict[str, Any], name: str) -> tuple[str, int | None] | None:
    """Return (address, bytes or None) of the data GeoTIFF among the assets of `item`, `name` if it is there."""
    found = []
    for key, asset in item["assets"].items():
        href, roles = asset["href"], asset.get("roles")
        file = PurePosixPath(urlsplit(href).path).name.lower()
        is_tiff = file.endswith((".tif", ".tiff")) or str(asset.get("type", "")).startswith("image/tiff")
        if not href or not is_tiff or any(word in (key + file).lower() for word in NOT_DATA):
            continue
        size = asset.get("file:size")
        rank = (file == name.lower(), isinstance(roles, list) and "data" in roles, key)
        found.append((rank, href, size if type(size) is int and size > 0 else None))
    return max(found)[1:] if found else None
