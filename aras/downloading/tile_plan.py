"""Which tiles are to be had and where: those of an area, in the open buckets or in Terrascope's catalogue."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from aras.downloading.areas import read_area, tiles_of_area, tiles_of_bbox
from aras.downloading.jobs import MISSING, still_wanted
from aras.downloading.raw_tiles import PRODUCTS, RGBNIR, Product, TileJob
from aras.downloading.stac import assets_of_tiles, boxes_of, check_collection, search
from aras.downloading.web import Client
from aras.tiles import VERSION_OF_YEAR

COLLECTION_VERSION = {2021: "v2", 2020: "v1"}


def plan(options: dict[str, Any]) -> list[TileJob]:
    """Return the tiles that the script's `options` ask for, by product, south to north and west to east.

    Raises:
        UserError: the file of --aoi has no area to take.
    """
    year, outdir = options["year"], options["outdir"]
    area = read_area(options["aoi"]) if options["aoi"] else None
    jobs = []
    for product in options["products"]:
        image = product is RGBNIR
        tiles = tiles_of_area(area, product.degrees) if area else tiles_of_bbox(options["bbox"], product.degrees)
        if options["source"] == "aws":
            jobs += bucket_jobs(product, tiles, year, options["s2_url" if image else "map_url"], outdir)
        else:
            name = options["image_collection" if image else "map_collection"]
            name = name or product.collection.format(year=year, version=COLLECTION_VERSION[year])
            address = f"{options['stac_url'].rstrip('/')}/collections/{name}"
            jobs += catalogue_jobs(product, tiles, year, address, outdir)
    return jobs


def bucket_jobs(product: Product, tiles: Iterable[str], year: int, base: str, outdir: Path) -> list[TileJob]:
    """Return the jobs of `tiles` from the open bucket, or a mirror of it, at `base`; it has none of open sea."""
    jobs = []
    for tile in tiles:
        file, version = product.file_name(tile, year), VERSION_OF_YEAR[year]
        url = f"{base.rstrip('/')}/{product.bucket_path.format(year=year, tile=tile, file=file, version=version)}"
        jobs.append(tile_job(product, tile, year, url, outdir))
        jobs[-1].url, jobs[-1].optional = url, True
    return jobs


def catalogue_jobs(product: Product, tiles: Iterable[str], year: int, collection: str, outdir: Path) -> list[TileJob]:
    """Return the jobs of `tiles` from the STAC collection at `collection`; `locate` finds their files."""
    return [tile_job(product, tile, year, collection, outdir) for tile in tiles]


def tile_job(product: Product, tile: str, year: int, address: str, outdir: Path) -> TileJob:
    """Return the job of a `tile` of which `address` can say whether it exists."""
    path = outdir / product.folder.format(year=year) / product.file_name(tile, year)
    size = product.mean_size
    return TileJob(name=tile, group=product.name, path=path, usual_size=size, product=product, address=address)


def locate(client: Client, stac_url: str, jobs: list[TileJob], year: int) -> None:
    """Set the address and size of the wanted `jobs` by a search of the catalogue; those not in it are missing.

    Raises:
        UserError: the catalogue cannot be searched, or has no such collection.
    """
    for product in PRODUCTS.values():
        asked = {job.name: job for job in still_wanted(jobs) if job.product is product}
        if not asked:
            continue
        address = next(iter(asked.values())).address
        collection = address.rpartition("/")[2]
        items = (item for box in boxes_of(asked, product.degrees) for item in search(client, stac_url, collection, box))
        found = assets_of_tiles(items, {tile: product.file_name(tile, year) for tile in asked})
        if not found:
            check_collection(client, address, product.collection_option)
        for tile, job in asked.items():
            asset = found.get(tile)
            if asset:
                job.url, job.promised = asset
                job.size = job.promised
            elif tile in found:
                job.fail(f"its item in {collection} has no GeoTIFF to download")
            else:
                job.state = MISSING
