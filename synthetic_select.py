"""Stage 7: choose the generated images to train on.

More synthetic images are not always better (arXiv 2603.09625 has both together below one of them alone), so a subset is
chosen, in steps that each say why an image goes: it cannot be read, the segmenter is unsure of it, it is a near-
duplicate of a training image, it is far from all of them, it is a near-duplicate of another generated one, or it is
beyond the budget. What is normal is told by held-out real images: the limits are quantiles of what those have. The
budget is filled by chance, but so that the classes come as near as they can to a target mix.

Nothing here trains anything, and no label of the test split is looked at.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import click
import numpy as np

from aras.command import Command, Number, data_option, device_option, limit_option, seed_option, workers_option
from aras.errors import UserError
from aras.feature_maps.draws import ImageDraw, draw_images
from aras.files import read_json, remove_parts, sole_writer
from aras.loading import LOADER_WORKERS
from aras.pairs import GENERATED, SUFFIX, image_size
from aras.runs import FREE, begin_run
from aras.segmenter import ARCHITECTURES, digests_of
from aras.selection.figure import draw_selection
from aras.selection.measuring import ALL, ImageFolder, Instrument, Rows, open_instrument
from aras.selection.mix import target_of
from aras.selection.outputs import Outputs, read_confidence, summary_lines, summary_of, write_lists, write_summary
from aras.selection.steps import (
    Limits,
    Selection,
    drop_near_and_far,
    drop_repeats,
    drop_unreadable,
    drop_unsure,
    keep_budget,
)
from aras.training import choose_device, memory_told, share_cores, told_device

FREE_OPTIONS = FREE | {"features_cache", "batch_size"}
PACKAGES = ("torch", "segmentation-models-pytorch", "timm", "numpy", "scipy", "pillow")
AGREEMENT = "agreement"
CANDIDATES = "candidates"


def places_of(options: dict[str, Any]) -> dict[str, Any]:
    """Return `options` with the folders and tables that were not given: those of `--set` in the dataset."""
    data, generated = options["data"], options["set"] == GENERATED
    split = data / ("train" if generated else "synth")
    images = options["images"] or split / (GENERATED if generated else "images")
    confidence = options["confidence"] or (AGREEMENT if generated else str(images.parent / "confidence.csv"))
    return options | {
        "own_images": options["images"] is not None,
        "images": images,
        "masks": options["masks"] or images.parent / "masks",
        "confidence": confidence,
        "train_images": options["train_images"] or data / "train" / "images",
        "held_out_images": options["held_out_images"] or data / "val" / "images",
    }


def folder_of(name: str, images: Path, masks: Path, most: int = ALL) -> ImageFolder:
    """Return the images of a folder, the first `most` of them, with their masks if there is a folder of them."""
    draw = draw_images(name, images, ALL, 0)
    if len(draw) > most:
        stamp = hashlib.sha256(f"{draw.stamp} {most}".encode()).hexdigest()
        draw = ImageDraw(name, images, draw.names[:most], stamp)
    return ImageFolder(draw, masks if masks.is_dir() else None)


def folders_of(options: dict[str, Any]) -> dict[str, ImageFolder]:
    """Return the candidates, the training images and the held-out ones.

    Raises:
        UserError: a folder is missing or empty, or there are no masks where there must be.
    """
    limit = options["limit"] or ALL
    name = options["images"].name if options["own_images"] else options["set"]
    found = {CANDIDATES: folder_of(name, options["images"], options["masks"], limit)}
    for name in ("train", "held_out"):
        images = options[f"{name}_images"]
        found[name] = folder_of(name, images, images.parent / "masks")
    need = [CANDIDATES, "train"] + (["held_out"] if options["confidence"] == AGREEMENT else [])
    for name in need:
        if found[name].masks is None:
            folder = options["masks"] if name == CANDIDATES else options[f"{name}_images"].parent / "masks"
            raise UserError(f"{folder} is not a folder; label the images first (segmentation_predict.py), or name them")
    return found


def measured(folders: dict[str, ImageFolder], instrument: Instrument, cache: Path) -> dict[str, Rows]:
    """Return the rows of all sets.

    Raises:
        UserError: a real image cannot be used; those are not to be dropped, but to be mended.
    """
    found = {}
    for name, folder in folders.items():
        path = cache / (f"{CANDIDATES}_of_{folder.draw.name}.npz" if name == CANDIDATES else f"{name}.npz")
        found[name] = instrument.measure(folder, path)
        failures = found[name].failures
        if failures and name != CANDIDATES:
            path.unlink()
            raise UserError(f"{next(iter(failures.values()))} ({len(failures)} of {folder.draw.folder} cannot be used)")
    return found


def table_of_confidence(options: dict[str, Any], weights_sha256: str) -> dict[str, float]:
    """Return the confidence of each image by `--confidence`, and say when it is none that a limit can be found for."""
    path = Path(options["confidence"])
    masks: Path = options["masks"]
    records = [path for path in (masks.with_name("masks.run.json"), masks.with_name("run.json")) if path.is_file()]
    told = read_json(records[0]).get("options", {}) if records else {}
    other = told and (told.get("weights_sha256") != weights_sha256 or told.get("tta"))
    if other and options["min_confidence"] is None:
        click.echo(
            f"WARNING: {path} was written with other weights or --tta, so what held-out images have of it is not known;"
            " give --min-confidence"
        )
    return read_confidence(path)


def select(
    folders: dict[str, ImageFolder], rows: dict[str, Rows], options: dict[str, Any], table: dict[str, float] | None
) -> tuple[Selection, dict[str, Any]]:
    """Return what became of each candidate, and the same as selection.json has it."""
    device = choose_device(options["device"])
    candidates, train, held_out = rows[CANDIDATES], rows["train"], rows["held_out"]
    selection = Selection(folders[CANDIDATES].draw.names)
    told = AGREEMENT if table is None else "confidence"
    measured_scores, shares = candidates.scores_and_shares()
    scores, normal = measured_scores[told], held_out.scores_and_shares()[0][told]
    failures = dict(candidates.failures)
    if table is not None:
        unlisted = {name for name in selection.names.tolist() if name not in table}
        failures = (
            dict.fromkeys(unlisted, f"{options['confidence']} has no row of it with a mean from 0 to 1") | failures
        )
        scores = np.array([table.get(name, np.nan) for name in selection.names.tolist()])
    limits = Limits(
        options["min_confidence"],
        options["min_distance"],
        options["max_distance"],
        options["tail"],
        options["duplicate_tail"],
        options["neighbors"],
    )
    target = target_of(options["target_mix"], train.scores_and_shares()[1].mean(axis=0, dtype=np.float64))
    drop_unreadable(selection, failures)
    drop_unsure(selection, scores, normal, limits, told)
    with memory_told("use --device cpu"):
        drop_near_and_far(selection, candidates, train, folders["train"].draw.names, held_out, limits, device)
        drop_repeats(selection, candidates, scores, device)
    keep_budget(selection, shares, target, options["budget"], options["seed"])
    return selection, summary_of(selection, shares, target, options["target_mix"])


def run(options: dict[str, Any], outputs: Outputs) -> None:
    """Choose, and write what was chosen."""
    folders = folders_of(options)
    weights_sha256 = digests_of([options["weights"]])
    table, score = None, AGREEMENT
    content = b""
    if options["confidence"] != AGREEMENT:
        table, score = table_of_confidence(options, weights_sha256), "confidence"
        content = Path(options["confidence"]).read_bytes()
    stamps = [folder.key(weights_sha256) for folder in folders.values()]
    key = hashlib.sha256(json.dumps([*stamps, hashlib.sha256(content).hexdigest()]).encode()).hexdigest()
    device = choose_device(options["device"])
    begin_run(outputs.record, options | {"weights_sha256": weights_sha256}, PACKAGES, told_device(device), FREE_OPTIONS)
    if outputs.is_of(key):
        click.echo(f"Finished already, see {outputs.summary}")
        return
    remove_parts(outputs.folder)
    told = ", ".join(f"{len(folder.draw):,} {name.replace('_', '-')}" for name, folder in folders.items())
    click.echo(f"Reads {told} images; {score} is the score. Writes {outputs.folder}")
    instrument = open_instrument(
        options["weights"],
        options["arch"],
        options["encoder"],
        weights_sha256,
        options["symmetries"],
        options["batch_size"],
        options["workers"],
        device,
        image_size(folders["train"].draw.folder / f"{folders['train'].draw.names[0]}{SUFFIX}"),
    )
    cache = options["features_cache"] or outputs.folder / "features"
    with sole_writer(cache):
        rows = measured(folders, instrument, cache)
        selection, summary = select(folders, rows, options, table)  # reads the cache until it has chosen
    write_lists(outputs, selection)
    title = f"{summary['selected']:,} of {summary['images']:,} images of {'/'.join(options['images'].parts[-2:])}"
    draw_selection(outputs.figure, selection, summary, options["images"], options["train_images"], title)
    write_summary(outputs, summary, key)
    click.echo("\n".join(summary_lines(summary)))
    if not summary["selected"]:
        click.echo("WARNING: no image is left; the generator's images are not like real ones, or the limits are strict")


@click.command(cls=Command)
@data_option
@click.option(
    "--set",
    type=click.Choice(["synth", GENERATED]),
    default="synth",
    show_default=True,
    help="What to choose from: synth/images, or train/generated with the masks that they were drawn from.",
)
@click.option(
    "--images",
    type=click.Path(path_type=Path, file_okay=False),
    help="Another folder to choose from, with its masks beside it or in --masks.",
)
@click.option("--masks", type=click.Path(path_type=Path, file_okay=False), help="Their masks.")
@click.option(
    "--confidence",
    metavar="FILE|agreement",
    help="How sure the segmenter is: its table, or on how many pixels its labels agree with the mask.  [default: the"
    " confidence.csv beside the images, agreement for generated]",
)
@click.option(
    "--train-images",
    type=click.Path(path_type=Path, file_okay=False),
    help="Real images that are trained on, with masks beside them.  [default: ARAS400k/train/images]",
)
@click.option(
    "--held-out-images",
    type=click.Path(path_type=Path, file_okay=False),
    help="Real images that are not: what they have is normal.  [default: ARAS400k/val/images]",
)
@click.option(
    "--weights",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("segmentation/best.pt"),
    show_default=True,
    help="Trained segmenter, which gives features and scores.",
)
@click.option("--arch", type=click.Choice(ARCHITECTURES, case_sensitive=False), help="Its architecture, if need be.")
@click.option("--encoder", help="Its encoder, if need be.")
@click.option(
    "--symmetries",
    type=click.Choice(["1", "8"]),
    default="8",
    show_default=True,
    callback=lambda context, parameter, text: int(text),
    help="Average the features of an image over its turns and mirror images, which are the same scene; 1 is quicker.",
)
@click.option(
    "--tail",
    type=Number(0, 0.5),
    default=0.05,
    show_default=True,
    help="The share of held-out images that would go as unsure, and the share as out of distribution.",
)
@click.option(
    "--duplicate-tail",
    type=Number(0, 0.5),
    default=0.01,
    show_default=True,
    help="The share that would go as near-duplicates of training images.",
)
@click.option("--min-confidence", type=Number(0, 1), help="The least confidence or agreement.  [default: by --tail]")
@click.option("--min-distance", type=Number(0), help="Of near-duplicates.  [default: by --duplicate-tail]")
@click.option("--max-distance", type=Number(0), help="To the k-th training image.  [default: by --tail]")
@click.option("--neighbors", type=click.IntRange(1), default=5, show_default=True, help="That k.")
@click.option("--budget", type=click.IntRange(1), metavar="N", help="How many images to choose at most; else all left.")
@click.option(
    "--target-mix",
    default="real",
    show_default=True,
    metavar="real|uniform|Tree=0.2,...",
    help="The classes' shares that --budget is filled towards: the training images', equal ones, or these.",
)
@click.option(
    "--outdir",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("selection"),
    show_default=True,
    help="Folder for all that is written.",
)
@click.option(
    "--features-cache",
    type=click.Path(path_type=Path, file_okay=False),
    show_default="OUTDIR/features",
    help="Folder for what is measured, which runs with other limits can share.",
)
@click.option("--batch-size", type=click.IntRange(1), show_default="64 on a GPU, 8 on a CPU", help="Images at a time.")
@workers_option(LOADER_WORKERS)
@seed_option
@limit_option
@device_option
@click.pass_context
def main(context: click.Context, **options: Any) -> None:
    r"""Choose the generated images to train on.

    \b
    Reads   ARAS400k/synth/{images,masks,confidence.csv}, ARAS400k/{train,val}/{images,masks}, segmentation/best.pt
    Writes  selection/selected.txt (a name a line), for segmentation_train.py --only synth=selection/selected.txt
            selection/dropped.csv: why each other image went, by what number, and what it is near to
            selection/selection.json, selection.png: how many went at each step, limits, mix of the classes
            selection/features/*.npz (to go on from), run.json

    \b
    Example  python synthetic_select.py
             python synthetic_select.py --budget 100000 --target-mix uniform
             python synthetic_select.py --set generated --budget 40000 --outdir selection_generated

    Near-duplicates are nearer, in the encoder's features, than any but one in a hundred held-out images is to its
    nearest training image; of those of each other the one that is surest stays. Out of distribution is what is farther
    from its k-th nearest training image than 95 of a hundred. Without --budget, --target-mix has nothing to choose.

    To resume, run the same command again.
    """
    if options["target_mix"] not in ("real", "uniform"):
        try:
            target_of(options["target_mix"], np.zeros(7))
        except ValueError as error:
            raise click.BadParameter(str(error), context, param_hint="'--target-mix'") from None
    if options["target_mix"] != "real" and not options["budget"]:
        raise click.UsageError("--target-mix says how to fill --budget; give both", context)
    share_cores()
    outputs = Outputs(options["outdir"])
    with sole_writer(outputs.folder):
        run(places_of(options), outputs)


if __name__ == "__main__":
    main()
