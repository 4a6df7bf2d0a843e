"""Stage 7: one page to look at, from whatever the other stages left.

The report is one HTML file that needs no server and no network: the map of the patches, class balance, images with
masks, predictions and captions, training curves, what the GANs draw, feature maps, fidelity, selection, the paper's
tables (arXiv 2603.09625) and what made each of them. What is missing is said with the command that makes it.
"""

from pathlib import Path
from typing import Any

import click

from aras.command import Command, seed_option, workers_option
from aras.errors import UserError
from aras.files import part_path, sole_writer, write_text
from aras.report.places import Places
from aras.report.reading import Reader

IMAGES_BESIDE = "_files"
"""What follows the page's name in the name of the folder of its images."""

RUN_FOLDERS = ("segmentation", "spade", "stylegan")
FOLDER = click.Path(path_type=Path, file_okay=False)


def places_of(options: dict[str, Any]) -> Places:
    """Return where to look: in the folders given, else in those of the stages' defaults below --root.

    Raises:
        UserError: a folder that was given is not there.
    """
    root: Path = options["root"]
    names = ("data", "predictions", "captions", "feature_maps", "fidelity", "selection", "results")
    for name in ("root", *names, "runs"):
        for folder in options["runs"] if name == "runs" else [options[name]]:
            if folder is not None and not folder.is_dir():
                raise UserError(f"{folder} is not a folder; check --{name.replace('_', '-')}")
    defaults = {name: root / name for name in names} | {"data": root / "ARAS400k"}
    found = {name: options[name] or defaults[name] for name in names}
    return Places(root=root, runs=options["runs"] or tuple(root / name for name in RUN_FOLDERS), **found)


def images_folder(output: Path) -> Path:
    """Return the folder beside the page `output` that has its images, unless they are in it."""
    return output.with_name(output.stem + IMAGES_BESIDE)


def write_report(places: Places, output: Path, options: dict[str, Any]) -> Reader:
    """Write the page `output`, whole or not at all; return what read for it, with notes of what it could not read."""
    from aras.report.gather import Limits, gather_page
    from aras.report.pictures import Store, remove_others
    from aras.report.render import render

    folder = images_folder(output)
    store, reader = Store(folder if options["images"] == "beside" else None), Reader()
    limits = Limits(
        *(options["cards"], options["points"], options["thumbnail"], options["thumbnail"] // 2),
        *(options["seed"], options["workers"]),
    )
    page = gather_page(places, limits, store, reader)
    part_path(output).unlink(missing_ok=True)
    write_text(output, render(page))
    remove_others(folder, store.names)  # what an earlier page showed; the page that is there now needs none of it
    return reader


@click.command(cls=Command)
@click.option(
    "--root", type=FOLDER, default=Path(), show_default="the working directory", help="Folder with all outputs."
)
@click.option("--data", type=FOLDER, show_default="ROOT/ARAS400k", help="The dataset's folder.")
@click.option(
    "--runs",
    type=FOLDER,
    multiple=True,
    metavar="DIR",
    show_default="segmentation, spade and stylegan in ROOT",
    help="Folder with training runs, in itself or below; once for each.",
)
@click.option("--predictions", type=FOLDER, show_default="ROOT/predictions", help="Masks by segmentation_predict.py.")
@click.option("--captions", type=FOLDER, show_default="ROOT/captions", help="CSVs of captions, and metrics/.")
@click.option("--feature-maps", type=FOLDER, show_default="ROOT/feature_maps", help="Of segformer_vis.py.")
@click.option("--fidelity", type=FOLDER, show_default="ROOT/fidelity", help="Of synthetic_metrics.py.")
@click.option("--selection", type=FOLDER, show_default="ROOT/selection", help="Of synthetic_select.py.")
@click.option("--results", type=FOLDER, show_default="ROOT/results", help="Of results_table.py.")
@click.option(
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    show_default="ROOT/report.html",
    help="The page.",
)
@click.option(
    "--images",
    type=click.Choice(["embedded", "beside"]),
    default="embedded",
    show_default=True,
    help="Have images in the page, or in a folder beside it.",
)
@click.option(
    "--cards", type=click.IntRange(0), default=2000, show_default=True, help="Images to look through, at most."
)
@click.option(
    "--points", type=click.IntRange(0), default=4000, show_default=True, help="Images on each feature map, at most."
)
@click.option(
    "--thumbnail",
    type=click.IntRange(16, 512),
    default=128,
    show_default=True,
    metavar="PIXELS",
    help="Longer side of an image of a card; half of it on the feature maps.",
)
@seed_option
@workers_option()
def main(**options: Any) -> None:
    r"""Make one page of whatever the stages left.

    \b
    Reads   ARAS400k/, segmentation/, spade/, stylegan/, predictions/, captions/, feature_maps/, fidelity/,
            selection/, results/: those that there are
    Writes  report.html
            report_files/ with --images beside

    \b
    Example  python report.py
             python report.py --root demo
             python report.py --runs runs/a --runs runs/b --cards 500 --images beside --output out/report.html

    Images are drawn by --seed from sets of any size, so that every set and class is seen.
    What is missing is said on the page with the command that makes it. What is there and cannot be read is said there
    and here; the exit code is then 1, and all else is on the page.

    To resume, run the same command again. It begins anew, and a page is whole or not there.
    """
    places = places_of(options)
    output: Path = options["output"] or places.root / "report.html"
    with sole_writer(output, is_file=True):
        reader = write_report(places, output, options)
    click.echo(f"Wrote {output}, {output.stat().st_size / 1e6:.1f} MB")
    for note in reader.lines():
        click.echo(f"could not be read: {note}", err=True)
    if reader.count:
        raise UserError(f"{reader.count:,} things could not be read, see above; mend them, all else is on the page")


if __name__ == "__main__":
    main()
