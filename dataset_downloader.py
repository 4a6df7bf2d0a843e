"""Stage 1: an area on Earth -> raw GeoTIFF tiles, or the published dataset, verified and unpacked.

The tiles that share area with a box or a polygon are computed from the two grids (1 degree for the Sentinel-2 RGBNIR
yearly median, 3 degrees for the WorldCover map) and fetched from the open buckets, or from Terrascope with an account.
Each file is resumed where it was cut, measured, opened and read before it gets its name.
Paper: "Grounding Synthetic Data Generation With Vision and Language Models", section on the dataset,
https://arxiv.org/abs/2603.09625. Where we differ from the published script: docs/differences.md.
"""

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click

from aras.command import Command, Number, dry_run_option
from aras.downloading import published, raw_tiles, zenodo
from aras.downloading.console import byte_bar, products_of_names, tell, tell_unsound, url_option
from aras.downloading.download import discard, md5_of
from aras.downloading.fetching import fetch, measure
from aras.downloading.jobs import (
    FAILED,
    PRESENT,
    check_free,
    check_none_failed,
    plan_lines,
    room_for_downloads,
    still_wanted,
    table_lines,
)
from aras.downloading.login import Login, account_from_environment
from aras.downloading.raw_tiles import TileJob
from aras.downloading.tile_plan import locate, plan
from aras.downloading.web import Client
from aras.downloading.web_errors import Unreachable
from aras.errors import UserError
from aras.files import sole_writer
from aras.tiles import check_bbox

PAPER_BBOX = (25.668510437000105, 35.81543000000018, 44.83476000000008, 42.10757000000004)  # W, S, E, N: Türkiye
DATASET = "ARAS400k"
ZENODO_RECORD = "18890661"
CHECKSUMS = Path(__file__).with_name("checksums.md5")


def zip_jobs(options: dict[str, Any]) -> list[zenodo.ZipJob]:
    """Return the published zips to have in --outdir."""
    return zenodo.zip_jobs(zenodo.read_checksums(options["checksums"]), options["outdir"])


def survey(client: Client, jobs: list[TileJob], options: dict[str, Any]) -> None:
    """Find out which of `jobs` are present, which do not exist, and where the others are and how large.

    Raises:
        UserError: the catalogue or the server cannot be asked.
    """
    raw_tiles.mark_present(jobs, options["connections"], client.stop)
    raw_tiles.mark_known_missing(jobs)
    tell_unsound(jobs)
    if options["source"] == "terrascope":
        locate(client, options["stac_url"], jobs, options["year"])
    try:
        measure(client, jobs, options["connections"])
    except Unreachable as error:
        if not options["dry_run"]:
            raise
        click.echo(f"{error}; the sizes told are those of usual tiles", err=True)


def tell_result(jobs: list[Any]) -> None:
    """Print the table of what became of `jobs`."""
    tell(table_lines(jobs))
    tell(raw_tiles.missing_lines(jobs))


def download_tiles(client: Client, jobs: list[TileJob], options: dict[str, Any]) -> None:
    """Fetch the tiles of `jobs`, and note on each what became of it."""
    if options["source"] == "terrascope":
        client = client.with_login(Login(client, options["token_url"], options["account"]))
    survey(client, jobs, options)
    tell(plan_lines(jobs))
    if options["dry_run"]:
        tell(raw_tiles.missing_lines(jobs))
        return
    check_free(room_for_downloads(jobs), "the download")
    for job in jobs:
        if job.state == PRESENT:
            discard(job.path)  # what a killed run may have left beside it
    try:
        fetch(client, jobs, options["connections"], byte_bar)
    finally:
        raw_tiles.distrust_empty_answers(jobs)
        raw_tiles.write_reports(jobs)


def download_published(client: Client, jobs: list[zenodo.ZipJob], options: dict[str, Any]) -> None:
    """Fetch, verify and unpack the published zips of `jobs`, and note on each what became of it."""
    data, dry_run = options["outdir"] / DATASET, options["dry_run"]
    if (data / "run.json").exists():
        raise UserError(f"{data} holds a dataset that dataset_creator.py made; keep it, and name another --outdir")
    state = zenodo.State(data)
    for job in jobs:
        published.mark_present(job, state, data, None if dry_run else byte_bar)
    tell_unsound(jobs)
    todo = still_wanted(jobs)
    if todo:
        zenodo.locate(client, f"{options['zenodo_url'].rstrip('/')}/api/records/{ZENODO_RECORD}", todo)
    tell(plan_lines(jobs))
    if dry_run:
        return
    # What the zips hold is compressed already, so they unpack to about their own size.
    room = {data: sum(job.expected for job in todo)}
    check_free(room_for_downloads(jobs) | room, "to download and to unpack")
    try:
        fetch(client, jobs, options["connections"], byte_bar)
        for job in jobs:
            if job.state != FAILED:
                published.put_in_place(job, state, data, byte_bar)
    finally:
        published.write_reports(jobs, data)


def verify(options: dict[str, Any]) -> None:
    """Compare the zips with their checksums, and raise `UserError` unless all are there and right."""
    wrong = []
    for job in zip_jobs(options):
        verdict = "missing"
        if job.path.is_file():
            verdict = "OK" if md5_of(job.path, byte_bar) == job.md5 else "BAD"
        click.echo(f"{job.path}: {verdict}")
        if verdict != "OK":
            wrong.append(job.name)
    if wrong:
        raise UserError(f"{', '.join(wrong)}: missing or bad; --published fetches what is not right")


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
    "--products", metavar="rgbnir,map", default="rgbnir,map", show_default=True, callback=products_of_names,
    help="Which kinds of tile: rgbnir (images), map (land cover), or both with a comma.",
)
@click.option(
    "--source", type=click.Choice(["aws", "terrascope"]), default="aws", show_default=True,
    help="The open buckets, or the platform behind a login: it needs TERRASCOPE_USERNAME and TERRASCOPE_PASSWORD in "
    "the environment, for --dry-run too.",
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
@click.option(
    "--tries", type=COUNT, default=14, show_default=True,
    help="Tries in a row that may fail; 14 take about 8 minutes.",
)
@click.option(
    "--retry-wait", type=Number(0, 60), default=1.0, show_default=True, metavar="SECONDS",
    help="Pause after the first failure; it doubles with each further one, up to a minute. A server's own Retry-After "
    "goes first.",
)
@click.option(
    "--silence", type=Number(0.1), default=60.0, show_default=True, metavar="SECONDS",
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
    "--image-collection", metavar="ID", show_default="esa-worldcover-s2rgbnir-10m-2021-v2, or -2020-v1",
    help="STAC collection of image tiles, by --year. The default is inferred from the platform's other names.",
)
@click.option(
    "--map-collection", metavar="ID", show_default="esa-worldcover-map-10m-2021-v2, or -2020-v1",
    help="STAC collection of map tiles, by --year.",
)
@click.pass_context
def main(context: click.Context, **options: Any) -> None:
    """Fetch raw Sentinel-2 and WorldCover tiles, or the published dataset.

    \b
    Reads:    the open buckets, Terrascope or Zenodo
    Writes:   S2RGB_2021/*_S2RGBNIR.tif and worldcover_2021/*_Map.tif, named by year; in each folder missing.csv
              (tiles over open sea that do not exist; delete it to ask again) and failures.csv (with reasons; tried
              again next time).
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
    jobs: list[Any] = zip_jobs(options) if options["published"] else plan(options)
    folders = [options["outdir"] / DATASET] if options["published"] else [job.path.parent for job in jobs]
    with ExitStack() as locks:
        if not options["dry_run"]:
            for folder in dict.fromkeys(folders):
                locks.enter_context(sole_writer(folder))
            locks.callback(tell_result, jobs)  # however it ends
        (download_published if options["published"] else download_tiles)(client, jobs, options)
    if not options["dry_run"]:
        check_none_failed(jobs)


# fmt: on

if __name__ == "__main__":
    main()
