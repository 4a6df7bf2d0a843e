"""The two kinds of raw tile: what they are called, whether a file is one, and what is known of which exist.

In each folder, `missing.csv` lists the tiles that do not exist (open sea), with the address that said so, and
`failures.csv` those that could not be had last time, with the reason.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from aras.downloading.addresses import shown
from aras.downloading.download import Damaged
from aras.downloading.fetching import in_threads
from aras.downloading.jobs import DONE, FAILED, MISSING, PRESENT, WANTED, Job
from aras.downloading.notes import read_notes, update_notes
from aras.tiles import IMAGE_DEGREES, MAP_DEGREES, image_file, map_file, tile_corner

MISSING_FILE = "missing.csv"
TOLERANCE = 0.01  # degrees that a tile may lie off the corner in its name


@dataclass(frozen=True)
class Product:
    """One of the two kinds of tile.

    Attributes:
        name: as --products has it.
        degrees: width of a tile.
        bands: bands that a file has at least.
        dtype: type of its numbers.
        folder: where its files go, the year to be filled in.
        bucket_path: where the open bucket has a file, the year and the tile to be filled in.
        collection: Terrascope's STAC collection, the year and the version to be filled in.
        collection_option: the option that names another.
        file_name: from tile and year to the file's name.
        mean_size: bytes of a usual tile, for when the server does not say (facts of the buckets).
    """

    name: str
    degrees: int
    bands: int
    dtype: str
    folder: str
    bucket_path: str
    collection: str
    collection_option: str
    file_name: Callable[[str, int], str]
    mean_size: int


RGBNIR = Product(
    "rgbnir", IMAGE_DEGREES, 4, "uint16", "S2RGB_{year}", "rgbnir/{year}/{tile:.3}/{file}",
    "esa-worldcover-s2rgbnir-10m-{year}-{version}", "--image-collection", image_file, 524_000_000,
)  # fmt: skip
MAP = Product(
    "map", MAP_DEGREES, 1, "uint8", "worldcover_{year}", "{version}/{year}/map/{file}",
    "esa-worldcover-map-10m-{year}-{version}", "--map-collection", map_file, 47_000_000,
)  # fmt: skip
PRODUCTS = {product.name: product for product in (RGBNIR, MAP)}


@dataclass(kw_only=True)
class TileJob(Job):
    """One tile to have; its name is the tile's, its group the product's.

    Attributes:
        product: its kind.
        address: where one asks whether it exists; with the open buckets that is the file itself.
        known_missing: whether an earlier run was told there that it does not.
    """

    product: Product
    address: str
    known_missing: bool = False

    def check(self, path: Path) -> None:
        """Raise `Damaged` unless the file at `path` is this tile."""
        check_tile(path, self.name, self.product)


def check_tile(path: Path, tile: str, product: Product) -> None:
    """Open the GeoTIFF at `path` and read the block that is stored last, the first to be lost when a file is cut.

    Raises:
        Damaged: it cannot be read, or is not the `tile` of `product`.
    """
    import rasterio
    from rasterio.errors import RasterioError

    lat, lon = tile_corner(tile) or (0, 0)
    try:
        with rasterio.open(path, driver="GTiff") as file:
            west, south, east, _ = file.bounds
            if max(abs(west - lon), abs(south - lat), abs(east - lon - product.degrees)) > TOLERANCE:
                raise Damaged(f"the file lies at {south:.3f}, {west:.3f} degrees, which is not {tile}")
            if file.count < product.bands or file.dtypes[0] != product.dtype:
                raise Damaged(f"the file has {file.count} bands of {file.dtypes[0]}, so it is no {product.name} tile")
            offsets = {}
            for (row, col), window in file.block_windows(file.count):
                offsets[int(file.get_tag_item(f"BLOCK_OFFSET_{col}_{row}", "TIFF", file.count) or 0)] = window
            file.read(file.count, window=offsets[max(offsets)])
    except RasterioError as error:
        reason = " ".join(str(error.__cause__ or error).split())
        raise Damaged(f"the file is no readable GeoTIFF ({reason})") from None


def mark_present(jobs: list[TileJob], connections: int, stop: threading.Event) -> None:
    """Mark the jobs whose file is there and sound; one that is not sound gets a reason and stays wanted."""

    def look(job: TileJob) -> None:
        try:
            job.check(job.path)
            job.state = PRESENT
        except Damaged as error:
            job.reason = str(error)

    in_threads(look, [job for job in jobs if job.path.exists()], connections, stop)


def mark_known_missing(jobs: list[TileJob]) -> None:
    """Mark the jobs whose address said in an earlier run that there is no such tile."""
    for folder in {job.path.parent for job in jobs}:
        known = read_notes(folder / MISSING_FILE)
        for job in jobs:
            if job.path.parent == folder and job.state == WANTED and known.get(job.name) == job.address:
                job.state, job.known_missing = MISSING, True


def distrust_empty_answers(jobs: list[TileJob]) -> None:
    """Mark what is newly missing as failed where not one tile of a product exists: the address may be a wrong one."""
    for product in PRODUCTS.values():
        own = [job for job in jobs if job.product is product]
        if any(job.state in (DONE, PRESENT) for job in own):
            continue
        for job in own:
            if job.state == MISSING and not job.known_missing:
                job.fail(
                    f"not one of these {product.name} tiles exists at {shown(job.address)} and its like; check the "
                    "address, or if the area is open sea, leave them out with --products"
                )


def missing_lines(jobs: list[TileJob]) -> Iterator[str]:
    """Yield, as text, how many of `jobs` are taken not to exist and how to ask for them again."""
    for folder in dict.fromkeys(job.path.parent for job in jobs):
        count = sum(job.state == MISSING for job in jobs if job.path.parent == folder)
        if count:
            yield f"{folder}: {count} known not to exist ({MISSING_FILE}; delete it to ask again)"


def write_reports(jobs: list[TileJob]) -> None:
    """Bring missing.csv and failures.csv of each folder up to date; what they say of other tiles stays."""
    for folder in {job.path.parent for job in jobs}:
        here = {job.name: job for job in jobs if job.path.parent == folder and job.state != WANTED}
        missing = {tile: job.address for tile, job in here.items() if job.state == MISSING}
        failed = {tile: job.reason for tile, job in here.items() if job.state == FAILED}
        update_notes(folder / MISSING_FILE, ("tile", "address"), missing, here.__contains__)
        update_notes(folder / "failures.csv", ("tile", "reason"), failed, here.__contains__)
