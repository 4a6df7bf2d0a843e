"""Stage 2: raw tiles -> 256x256 image/mask pairs, splits and class percentages.

Each 1-degree Sentinel-2 tile is cut into patches counted from its north-west corner; the land-cover labels of a patch
come from the WorldCover map tiles that lie under it, by position. Patches without labels, without image, or almost all
water are dropped. Blocks of neighbouring patches go to one split, with a buffer between train and the others.
Paper: "Grounding Synthetic Data Generation With Vision and Language Models", section on the dataset,
https://arxiv.org/abs/2603.09625. Where we differ from the published script: docs/differences.md.
"""

import csv
import math
import os
from collections.abc import Callable, Generator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import click

from aras.command import Command, Number, dry_run_option, seed_option, workers_option
from aras.cutting import Cutting, Unit, cut_named, take_back, units_of
from aras.engines import each_unordered, engine_of, engine_options
from aras.errors import UserError
from aras.fencing import Fence, new_fence
from aras.files import sole_writer, whole_file
from aras.patches import REFLECTANCE_MAX
from aras.progress import PROGRESS, check_own, drop_unit, record_of, remove_all_parts, stale_units
from aras.rasters import Raster, is_url, raster_of
from aras.runs import begin_run, check_same_options
from aras.sources import image_paths, map_paths, maps_under
from aras.tables import Tally, write_tables
from aras.tiles import IMAGE_DEGREES, check_bbox

PUBLISHED = {"stretch": "patch-max", "split": "random", "fractions": (0.8, 0.1, 0.1)}
PACKAGES = ("numpy", "rasterio", "opencv-python-headless", "pillow", "joblib")

Each = Callable[[Callable[[Unit], Any], list[Unit]], Generator[Any, None, None]]
"""What applies a function to each of some units and yields the results in any order."""


def units_to_cut(
    s2: str, worldcover: str, year: int, cutting: Cutting, published: bool
) -> tuple[list[Unit], list[tuple[str, str]]]:
    """Return the work units of all image tiles, in tile order, and (tile, reason) of the tiles that cannot be used."""
    images, maps = image_paths(s2, year, cutting.bbox), map_paths(worldcover, year, cutting.bbox)
    headers: dict[str, Raster | UserError] = {}
    units: list[Unit] = []
    failed = []
    for tile, path in sorted(images.items()):
        try:
            image = raster_of(path, tile, bands=3, dtype="uint16", degrees=IMAGE_DEGREES)
            under = tuple(maps_under(image, maps, headers, published))
            check_one_grid(image, units)
            units += units_of(image, under, cutting)
        except UserError as error:
            failed.append((tile, str(error)))
    return units, failed


def check_one_grid(image: Raster, units: list[Unit]) -> None:
    """Raise `UserError` unless `image` is in degrees, with pixels as large as those of the tiles before it."""
    if not image.per_degree:
        raise UserError(f"{image.path} is in {image.crs}; warp it to EPSG:4326 first")
    if units and units[0].image.per_degree != image.per_degree:
        raise UserError(
            f"{image.path} and {units[0].image.path} have pixels of different size; put them in two datasets"
        )


def limited(units: list[Unit], limit: int | None) -> list[Unit]:
    """Return the units that hold the first `limit` patch positions, the last one cut to whole rows."""
    if limit is None:
        return units
    kept, left = [], limit
    for unit in units:
        width = unit.cols[1] - unit.cols[0]
        rows = min(unit.rows[1] - unit.rows[0], -(-left // width))
        if rows <= 0:
            break
        kept.append(Unit(unit.image, unit.maps, (unit.rows[0], unit.rows[0] + rows), unit.cols))
        left -= rows * width
    return kept


def absolute(place: str) -> str:
    """Return the folder `place` as any process may name it; a URL as it is."""
    return place if is_url(place) else str(Path(place).absolute())


def folders_of(*places: str) -> list[Path]:
    """Return those of `places` that are folders rather than URLs."""
    return [Path(place) for place in places if not is_url(place)]


def cut_all(units: list[Unit], cutting: Cutting, fence: Fence, each: Each) -> list[tuple[str, str]]:
    """Cut `units` wherever `each` does, with a progress bar; return (unit, reason) of those that failed."""
    from tqdm import tqdm

    failed = []
    done = each(partial(cut_named, cutting=cutting, fence=fence), units)
    with closing(done), tqdm(total=sum(u.size for u in units), unit="patch", desc="patches", smoothing=0.05) as bar:
        for unit, reason in done:
            bar.update(unit.size)
            if reason:
                take_back(unit, cutting.output)
                failed.append((unit.name, reason))
    return sorted(failed)


def create(cutting: Cutting, fence: Fence, todo: list[Unit], failed: list[tuple[str, str]], each: Each) -> Tally:
    """Cut `todo`, add what goes wrong to `failed`, and write all tables; return what the whole dataset holds."""
    output = cutting.output
    remove_all_parts(output)
    if todo:
        failed += cut_all(todo, cutting, fence, each)
        remove_all_parts(output)  # of workers that a cluster lost meanwhile
    else:
        click.echo("All patches are there already.")
    write_failures(output / "failures.csv", failed)
    return write_tables(output, output / PROGRESS, cutting.patch_size, cutting.block_size, cutting.fractions)


def write_failures(path: Path, failed: list[tuple[str, str]]) -> None:
    """Write (what, reason) of all that failed to `path`; remove the file when nothing did."""
    if not failed:
        path.unlink(missing_ok=True)
        return
    with whole_file(path) as part, part.open("w", newline="") as file:
        csv.writer(file).writerows([("unit", "reason"), *failed])


def check_published(context: click.Context, options: dict[str, Any]) -> None:
    """Set what --as-published stands for in `options`, unless the command line says otherwise, which is an error."""
    for name, value in PUBLISHED.items():
        given = context.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT
        if given and options[name] != value:
            raise click.UsageError(f"--as-published means --{name} {value}; leave out --{name}, or --as-published")
        options[name] = value


def check_options(options: dict[str, Any]) -> None:
    """Raise an error for fractions that do not add up or a box that is none."""
    if not (abs(sum(options["fractions"]) - 1) < 1e-6 and min(options["fractions"]) >= 0):
        raise click.UsageError(f"--fractions must be three shares that add up to 1, not {options['fractions']}")
    if not math.isfinite(options["max_water"]):
        raise click.UsageError("--max-water must be a number from 0 to 1")
    if options["bbox"]:
        check_bbox(options["bbox"])


def report(tally: Tally, output: Path) -> None:
    """Print what was kept and dropped, the class mix of each split, and the smallest distances between splits."""
    for line in tally.lines():
        click.echo(line)
    click.echo(f"Wrote {output}/{{train,val,test}}, class_percentages, patches.csv, patches.geojson, skipped.csv")


@click.command(cls=Command)
@click.option("--s2", default="S2RGB_2021", show_default=True, help="Folder of image tiles, or the bucket's URL.")
@click.option("--worldcover", default="worldcover_2021", show_default=True, help="Folder of map tiles, or the URL.")
@click.option(
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("ARAS400k"),
    show_default=True,
    help="The dataset's folder.",
)
@click.option("--patch-size", type=click.IntRange(8), default=256, show_default=True, help="Pixels a side.")
@click.option(
    "--stretch",
    type=click.Choice(["reflectance", "patch-max", "percentile"]),
    default="reflectance",
    show_default=True,
    help="To 8 bits by one scale for all (reflectance), each patch by its maximum (as published), or each tile by its "
    "2nd and 98th percentile.",
)
@click.option(
    "--reflectance-max",
    type=click.IntRange(1, 65535),
    default=REFLECTANCE_MAX,
    show_default=True,
    help="Reflectance x 10000 that becomes 255 under --stretch reflectance.",
)
@click.option(
    "--split",
    type=click.Choice(["spatial", "random"]),
    default="spatial",
    show_default=True,
    help="Deal blocks of neighbouring patches, or every patch for itself (neighbours on both sides).",
)
@click.option(
    "--fractions",
    type=(float, float, float),
    default=(0.8, 0.1, 0.1),
    show_default=True,
    help="Shares of train, val, test.",
)
@click.option("--block-size", type=click.IntRange(1), default=8, show_default=True, help="Patches a side of a block.")
@click.option(
    "--buffer",
    type=click.IntRange(0),
    default=1,
    show_default=True,
    help="Train patches closer than this many patches to a val or test block are left out.",
)
@click.option("--max-water", type=Number(0, 1), default=0.9, show_default=True, help="Drop patches with more water.")
@click.option("--bbox", type=(float, float, float, float), metavar="W S E N", help="Only patches that touch this box.")
@click.option("--year", type=click.Choice(["2021", "2020"]), default="2021", show_default=True, help="For URLs.")
@click.option("--as-published", is_flag=True, help="The published pixels and selection, with their defects.")
@workers_option()
@engine_options
@seed_option
@click.option("--limit", type=click.IntRange(1), metavar="N", help="Look at the first N patch positions only.")
@dry_run_option
@click.pass_context
def main(context: click.Context, output: Path, workers: int, dry_run: bool, limit: int | None, **options: Any) -> None:
    r"""Cut raw tiles into image/mask pairs and deal them to train, val and test.

    \b
    Reads   S2RGB_2021/, worldcover_2021/ (any part of them, nested folders too), or their buckets by URL
    Writes  ARAS400k/{train,val,test}/{images,masks}/<tile>_<row>_<col>.png
            ARAS400k/class_percentages/{train,val,test}.csv
            ARAS400k/patches.csv, patches.geojson (for QGIS), skipped.csv, run.json
            ARAS400k/failures.csv when a tile could not be read; the exit code is then 1

    \b
    Example  python dataset_creator.py
             python dataset_creator.py --s2 my_tiles --output mine --patch-size 512 --dry-run
             python dataset_creator.py --engine dask --scheduler tcp://node1:8786

    --limit rounds up to whole rows of a tile. --as-published gives the published
    pixels (each patch stretched by its maximum) and tiles (only those whose map is found one degree around), split
    at random; the split itself is ours, as theirs is not known.

    To resume, run the same command again.
    """
    if options["as_published"]:
        check_published(context, options)
    check_options(options)
    record, told = output / "run.json", {**options, "limit": limit, "output": output}
    if record.exists():
        check_same_options(record, told)
    engine, s2, worldcover = engine_of(options), options["s2"], options["worldcover"]
    if not engine.is_local:  # its workers have other current folders
        s2, worldcover, output = absolute(s2), absolute(worldcover), output.absolute()
    cutting = Cutting(
        output=output, **{name: options[name] for name in Cutting.__dataclass_fields__ if name != "output"}
    )
    units, failed = units_to_cut(s2, worldcover, int(options["year"]), cutting, options["as_published"])
    units = limited(units, limit)
    stale = stale_units({unit.name: unit.key for unit in units}, output)
    todo = [unit for unit in units if (path := record_of(unit.name, output)) in stale or not path.exists()]
    click.echo(
        f"Reads {s2} and {worldcover}: {len({u.image.tile for u in units})} tiles, {sum(u.size for u in units)} patch "
        f"positions, {sum(u.size for u in units if not u.maps)} of them without a map. "
        f"Writes {output}: {sum(u.size for u in todo)} positions to do"
    )
    if dry_run:
        for tile, reason in failed:
            click.echo(f"cannot be used: {tile}: {reason}")
        return
    if not units and not failed:
        raise UserError("the image tiles hold no whole patch to cut; check --bbox, --patch-size and --s2")
    check_own(output)
    with sole_writer(output):
        begin_run(record, told, PACKAGES)
        fence = new_fence(output / PROGRESS, os.getpid() if engine.is_local else None)
        for path in stale:
            drop_unit(path, output)
        each = partial(each_unordered, engine, workers=workers, sees=(fence.path, *folders_of(s2, worldcover)))
        tally = create(cutting, fence, todo, failed, each)
    report(tally, output)
    if failed:
        raise UserError(f"{len(failed)} parts of tiles failed, see {output}/failures.csv; the first: {failed[0][1]}")
    if not tally.kept:
        raise UserError(
            f"no patch was kept, see {output}/skipped.csv; check --s2, --worldcover, --bbox and --max-water"
        )


if __name__ == "__main__":
    main()
