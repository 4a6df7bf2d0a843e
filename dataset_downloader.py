"""Stage 1: an area on Earth -> raw GeoTIFF tiles, or the published dataset, verified and unpacked.

The tiles that share area with a box or a polygon are computed from the two grids (1 degree for the Sentinel-2 RGBNIR
yearly median, 3 degrees for the WorldCover map) and fetched from the open buckets, or from Terrascope with an account.
Each file is resumed where it was cut, measured, opened and read before it gets its name.
Paper: "Grounding Synthetic Data Generation With Vision and Language Models", section on the dataset,
https://arxiv.org/abs/2603.09625. Where we differ from the published script: docs/differences.md.
"""

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click

from aras.command import Command, dry_run_option
from aras.downloading import published, raw_tiles, zenodo
from aras.downloading.areas import read_area, tiles_of_area, tiles_of_bbox
from aras.downloading.download import discard
from aras.downloading.fetching import fetch, measure
from aras.downloading.jobs import (
    FAILED,
    PRESENT,
    bytes_to_fetch,
    check_free,
    check_none_failed,
    plan_lines,
    still_wanted,
    table_lines,
)
from aras.downloading.login import Login, account_from_environment
from aras.downloading.notes import update_notes
from aras.downloading.raw_tiles import PRODUCTS, RGBNIR, TileJob
from aras.downloading.web import Client, is_web_address
from aras.downloading.web_errors import Unreachable
from aras.errors import UserError
from aras.files import sole_writer
from aras.tiles import check_bbox

PAPER_BBOX = (25.668510437000105, 35.81543000000018, 44.83476000000008, 42.10757000000004)  # W, S, E, N: Türkiye
ZENODO_RECORD = "18890661"
CHECKSUMS = Path(__file__).with_name("checksums.md5")
COLLECTION_VERSION = {2021: "v2", 2020: "v1"}


def plan(options: dict[str, Any]) -> list[TileJob]:
    """Return the tiles that the options ask for, by product, south to north and west to east."""
    year, outdir = options["year"], options["outdir"]
    area = read_area(options["aoi"]) if options["aoi"] else None
    jobs = []
    for product in options["products"]:
        image = product is RGBNIR
        tiles = tiles_of_area(area, product.degrees) if area else tiles_of_bbox(options["bbox"], product.degrees)
        if options["source"] == "aws":
            jobs += raw_tiles.bucket_jobs(product, tiles, year, options["s2_url" if image else "map_url"], outdir)
        else:
            name = options["image_collection" if image else "map_collection"]
            name = name or product.collection.format(year=year, version=COLLECTION_VERSION[year])
            address = f"{options['stac_url'].rstrip('/')}/collections/{name}"
            jobs += raw_tiles.catalogue_jobs(product, tiles, year, address, outdir)
    return jobs


def survey(client: Client, jobs: list[TileJob], options: dict[str, Any]) -> None:
    """Find out which of `jobs` are present, which do not exist, and where the others are and how large.

    Raises:
        UserError: the catalogue or the server cannot be asked.
    """
    raw_tiles.mark_present(jobs, options["connections"], client.stop)
    raw_tiles.mark_known_missing(jobs)
    tell_replaced(jobs)
    if options["source"] == "terrascope":
        raw_tiles.locate(client, options["stac_url"], jobs, options["year"])
    try:
        measure(client, jobs, options["connections"])
    except Unreachable as error:
        if not options["dry_run"]:
            raise
        click.echo(f"{error}; the sizes told are those of usual tiles", err=True)


def tell_replaced(jobs: list[Any]) -> None:
    """Print which files are there but are to be fetched again."""
    for job in still_wanted(jobs):
        if job.reason:
            click.echo(f"{job.path} is to be fetched again: {job.reason}", err=True)


def tell_plan(jobs: list[Any], outdir: Path) -> None:
    """Print what there is to do."""
    for line in plan_lines(jobs, outdir):
        click.echo(line)


def download_tiles(client: Client, options: dict[str, Any]) -> list[TileJob]:
    """Fetch the tiles that `options` ask for, and return what became of them."""
    jobs = plan(options)
    if options["source"] == "terrascope":
        client = client.with_login(Login(client, options["token_url"], options["account"]))
    with ExitStack() as locks:
        if not options["dry_run"]:
            for folder in dict.fromkeys(job.path.parent for job in jobs):
                locks.enter_context(sole_writer(folder))
        survey(client, jobs, options)
        tell_plan(jobs, options["outdir"])
        if options["dry_run"]:
            return jobs
        check_free(bytes_to_fetch(jobs), options["outdir"], "the download")
        for job in jobs:
            if job.state == PRESENT:
                discard(job.path)  # what a killed run may have left beside it
        try:
            fetch(client, jobs, options["connections"], byte_bar)
        finally:
            raw_tiles.write_reports(jobs)
    return jobs


def download_published(client: Client, options: dict[str, Any]) -> list[zenodo.ZipJob]:
    """Fetch, verify and unpack the published zips, and return what became of them."""
    outdir, data, dry_run = options["outdir"], options["outdir"] / "ARAS400k", options["dry_run"]
    jobs = zenodo.zip_jobs(zenodo.read_checksums(options["checksums"]), outdir)
    if (data / "run.json").exists():
        raise UserError(f"{data} holds a dataset that dataset_creator.py made; keep it, and name another --outdir")
    with ExitStack() as locks:
        if not dry_run:
            locks.enter_context(sole_writer(data))
        state = zenodo.State(data)
        for job in jobs:
            published.mark_present(job, state, data, None if dry_run else byte_bar)
        tell_replaced(jobs)
        todo = still_wanted(jobs)
        if todo:
            zenodo.locate(client, f"{options['zenodo_url'].rstrip('/')}/api/records/{ZENODO_RECORD}", todo)
        tell_plan(jobs, outdir)
        if dry_run:
            return jobs
        # What the zips hold is compressed already, so they unpack to about their own size.
        check_free(bytes_to_fetch(jobs) + sum(job.expected for job in todo), outdir, "to download and to unpack")
        fetch(client, jobs, options["connections"], byte_bar)
        for job in jobs:
            if job.state != FAILED and job.path.exists():
                published.put_in_place(job, state, data, byte_bar)
        failed = {job.name: job.reason for job in jobs if job.state == FAILED}
        update_notes(data / published.FAILURES, ("file", "reason"), failed, lambda name: name.endswith(".zip"))
    return jobs


def verify(options: dict[str, Any]) -> None:
    """Compare the zips with their checksums, and raise `UserError` unless all are there and right."""
    wrong = []
    for job in zenodo.zip_jobs(zenodo.read_checksums(options["checksums"]), options["outdir"]):
        verdict = "missing"
        if job.path.is_file():
            verdict = "OK" if zenodo.md5_of(job.path, byte_bar) == job.md5 else "BAD"
        click.echo(f"{job.path}: {verdict}")
        if verdict != "OK":
            wrong.append(job.name)
    if wrong:
        raise UserError(f"{', '.join(wrong)}: missing or bad; --published fetches what is not right")


def byte_bar(total: int, initial: int = 0, what: str = "download") -> Any:
    """Return a progress bar in bytes with rate and ETA; where nobody watches it is drawn seldom."""
    from tqdm import tqdm

    pause = 0.2 if sys.stderr.isatty() else 30.0  # s
    return tqdm(
        total=total, initial=initial, unit="B", unit_scale=True, desc=what, mininterval=pause, maxinterval=pause
    )


def products_of_names(context: click.Context, parameter: click.Parameter, names: str) -> list[Any]:
    """Return the products that --products names."""
    chosen = [name.strip() for name in names.split(",")]
    unknown = [name for name in chosen if name not in PRODUCTS]
    if unknown:
        raise click.BadParameter(f"{unknown[0]!r} is none of {', '.join(PRODUCTS)}")
    return [product for name, product in PRODUCTS.items() if name in chosen]


def checked_url(context: click.Context, parameter: click.Parameter, url: str) -> str:
    """Return `url` if it is an address without a password, which would end up in logs."""
    if not is_web_address(url) or "@" in url:
        raise click.BadParameter(f"{url.rpartition('@')[2]!r} must be http://... or https://... without a password")
    return url


def url_option(name: str, default: str, text: str) -> Any:
    """Return the option of a base URL."""
    return click.option(name, metavar="URL", default=default, show_default=True, callback=checked_url, help=text)


COUNT = click.IntRange(1, 64)


# fmt: off
@click.command(cls=Command)
@click.option(
    "--bbox", nargs=4, type=float, metavar="W S E N", default=PAPER_BBOX, show_default="the paper's, Türkiye",
    help="Area in degrees; a box whose W is larger than its E crosses the 180th meridian.",
)
@click.option(
    "--aoi", type=click.Path(path_type=Path, dir_okay=False, exists=True), metavar="FILE.geojson",
    help="Area as polygons in degrees, instead of --bbox; all tiles that share area with it.",
)
@click.option("--year", type=click.Choice([2021, 2020]), default=2021, show_default=True, help="Year of the tiles.")
@click.option(
    "--products", default="rgbnir,map", show_default=True, callback=products_of_names,
    help="Which kinds of tile.",
)
@click.option(
    "--source", type=click.Choice(["aws", "terrascope"]), default="aws", show_default=True,
    help="The open buckets, or the platform behind a login (TERRASCOPE_USERNAME and TERRASCOPE_PASSWORD).",
)
@click.option(
    "--outdir", type=click.Path(path_type=Path, file_okay=False), default=Path(), show_default="here",
    help="Where the folders of tiles, or the zips and ARAS400k, go.",
)
@click.option("--published", is_flag=True, help="Fetch the published dataset instead: zips, verified and unpacked.")
@click.option("--verify", is_flag=True, help="Only compare the published zips in --outdir with --checksums.")
@click.option(
    "--checksums", type=click.Path(path_type=Path, dir_okay=False), default=CHECKSUMS,
    show_default="checksums.md5 beside the script",
    help="MD5s of the published zips, in md5sum's format.",
)
@dry_run_option
@click.option("--connections", type=COUNT, default=8, show_default=True, help="Downloads at a time.")
@click.option("--tries", type=COUNT, default=6, show_default=True, help="Tries in a row that may fail.")
@click.option(
    "--retry-wait", type=click.FloatRange(0, 60), default=1.0, show_default=True, metavar="SECONDS",
    help="Pause after the first failure; it doubles with each further one. A server's own Retry-After goes first.",
)
@click.option(
    "--silence", type=click.FloatRange(0.1), default=60.0, show_default=True, metavar="SECONDS",
    help="Time without a byte after which a connection counts as cut.",
)
@url_option(
    "--s2-url", "https://esa-worldcover-s2.s3.eu-central-1.amazonaws.com",
    "Bucket of image tiles, or a mirror.",
)
@url_option("--map-url", "https://esa-worldcover.s3.eu-central-1.amazonaws.com", "Bucket of map tiles, or a mirror.")
@url_option("--stac-url", "https://stac.terrascope.be", "Terrascope's STAC API.")
@url_option(
    "--token-url", "https://sso.terrascope.be/auth/realms/terrascope/protocol/openid-connect/token",
    "Terrascope's OpenID Connect token endpoint.",
)
@url_option("--zenodo-url", "https://zenodo.org", "Zenodo, or a mirror that speaks its API.")
@click.option(
    "--image-collection", metavar="ID", show_default="esa-worldcover-s2rgbnir-10m-2021-v2",
    help="STAC collection of image tiles. The default is inferred from the platform's other names.",
)
@click.option(
    "--map-collection", metavar="ID", show_default="esa-worldcover-map-10m-2021-v2",
    help="STAC collection of map tiles.",
)
@click.pass_context
def main(context: click.Context, **options: Any) -> None:
    """Fetch raw Sentinel-2 and WorldCover tiles, or the published dataset.

    \b
    Reads:    the open buckets, Terrascope or Zenodo
    Writes:   S2RGB_2021/*_S2RGBNIR.tif and worldcover_2021/*_Map.tif, named by year; in each folder missing.csv
              (tiles over open sea that do not exist) and failures.csv (with reasons; tried again next time).
              With --published: the zips, and ARAS400k/{train,val,test,synth} with class_percentages/*.csv
    Example:  python dataset_downloader.py --bbox 29 40.9 29.3 41.1 --dry-run
              python dataset_downloader.py --aoi istanbul.geojson --year 2020
              python dataset_downloader.py --published

    To resume, run the same command again.
    """  # noqa: D301
    given = {name for name in options if context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE}
    if {"bbox", "aoi"} <= given:
        raise click.UsageError("give either --bbox or --aoi")
    if (options["published"] or options["verify"]) and given & {"bbox", "aoi", "year", "products", "source"}:
        raise click.UsageError("--published and --verify take the whole dataset: leave out the options of an area")
    check_bbox(options["bbox"])
    if options["source"] == "terrascope":
        try:
            options["account"] = account_from_environment()
        except UserError as error:
            raise click.UsageError(str(error)) from None
    client = Client(options["tries"], options["retry_wait"], options["silence"])
    if options["verify"]:
        verify(options)
        return
    jobs: list[Any] = download_published(client, options) if options["published"] else download_tiles(client, options)
    if not options["dry_run"]:
        for line in table_lines(jobs):
            click.echo(line)
        check_none_failed(jobs)


# fmt: on

if __name__ == "__main__":
    main()
