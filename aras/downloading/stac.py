"""Terrascope's catalogue (STAC API): which GeoTIFF is which tile's.

Searching needs no login. https://api.stacspec.org/v1.0.0/item-search
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import urlencode, urlsplit

from aras.downloading.web import Client, is_web_address, joined
from aras.downloading.web_errors import FetchError, Missing, shown
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


def search(client: Client, stac_url: str, collection: str, bbox: Bbox) -> Iterator[dict[str, Any]]:
    """Yield the items of `collection` that touch `bbox`, page after page; some may come twice.

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
        yield from (item for item in page["features"] if isinstance(item, dict))
        link = next((link for link in page.get("links") or [] if link.get("rel") == "next"), None)
        if link is None:
            return
        request = (link.get("method", "GET").upper(), joined(url, link.get("href")), None)
        if request[0] == "POST":
            request = (*request[:2], {**(query if link.get("merge") else {}), **link.get("body", query)})
    raise UserError(f"--stac-url {shown(stac_url)} sends the same page again and again; try later, or another mirror")


def _page(client: Client, method: str, url: str, query: dict[str, Any] | None) -> Any:
    """Return one page of a search, by GET where the server knows no POST."""
    if method == "GET" or query is None:
        return client.json("GET", url, anonymous=True)
    try:
        return client.json("POST", url, anonymous=True, json=query)
    except FetchError as error:
        if not isinstance(error, Missing) and error.status not in (405, 501):
            raise
    values = {name: ",".join(map(str, value)) if isinstance(value, list) else value for name, value in query.items()}
    return client.json("GET", f"{url}?{urlencode(values, safe=',')}", anonymous=True)


def assets_of_tiles(items: Iterable[dict[str, Any]], names: dict[str, str]) -> dict[str, tuple[str, int | None] | None]:
    """Return (address, bytes or None) of the GeoTIFF of each tile that has an item.

    A tile without an item is left out; one whose item has no GeoTIFF is None. Of two items of one tile, the one updated
    last counts.

    Args:
        items: STAC items.
        names: of each tile wanted, the usual name of its file, which decides between several.
    """
    best: dict[str, tuple[tuple[str, str], dict[str, Any]]] = {}
    for item in items:
        tile = tile_of_item(item)
        if tile not in names:
            continue
        rank = (str((item.get("properties") or {}).get("updated", "")), str(item.get("id")))
        if tile not in best or rank > best[tile][0]:
            best[tile] = (rank, item)
    return {tile: geotiff(item, names[tile]) for tile, (_, item) in best.items()}


def tile_of_item(item: dict[str, Any]) -> str:
    """Return the name of the tile that `item` is of: by its id, else by its footprint; empty when neither tells."""
    corner = tile_corner(str(item.get("id", "")).upper())
    box = item.get("bbox")
    if corner is None and isinstance(box, list) and len(box) == 4:
        corner = (round(box[1]), round(box[0]))
    return tile_name(*corner) if corner else ""


def geotiff(item: dict[str, Any], name: str) -> tuple[str, int | None] | None:
    """Return (address, bytes or None) of the data GeoTIFF among the assets of `item`, `name` if it is there."""
    found = []
    for key, asset in (item.get("assets") or {}).items():
        href = https_href(asset)
        file = PurePosixPath(urlsplit(href).path).name.lower()
        is_tiff = file.endswith((".tif", ".tiff")) or str(asset.get("type", "")).startswith("image/tiff")
        if not href or not is_tiff or any(word in (key + file).lower() for word in NOT_DATA):
            continue
        size = asset.get("file:size")
        rank = (file == name.lower(), "data" in (asset.get("roles") or ()), key)
        found.append((rank, href, size if isinstance(size, int) else None))
    return max(found)[1:] if found else None


def https_href(asset: dict[str, Any]) -> str:
    """Return the http(s) address of `asset`, among its alternates if need be; empty when it has none."""
    others = asset.get("alternate") or {}
    for href in (asset.get("href"), *(other.get("href") for other in others.values() if isinstance(other, dict))):
        if is_web_address(href):
            return str(href)
    return ""
