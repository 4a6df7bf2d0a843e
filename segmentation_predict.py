"""Stage 4b: label images with a trained segmenter: masks, class percentages, and how sure it was.

This is how the images drawn by the unconditional GAN get masks, so that they can be trained on and captioned
(arXiv 2603.09625, pseudo-labels of the synthetic set). An image is done when it has its mask and, written after it, its
rows; one that was drawn again since is labelled again, and the mask of one that is gone goes too. Batches are cut from
the sorted names alone, so a killed run and its continuation give what an unbroken one gives, on however many GPUs; when
memory is short the continuation may take a lower --batch-size.

With --raster it labels a whole georeferenced tile instead: windows that overlap go through the model, their
probabilities are blended so that no seam is left, and the classes become a cloud-optimised GeoTIFF for a GIS.
"""

from pathlib import Path
from typing import Any

import click
import numpy as np

from aras.command import Command, device_option, limit_option, workers_option
from aras.errors import UserError
from aras.files import sole_writer, write_text
from aras.inference import SYMMETRIES
from aras.labelling.images import Labeller, Share, label_share
from aras.labelling.outputs import (
    FAILURE_COLUMNS,
    Outputs,
    begin_folder,
    check_not_foreign,
    check_same_labeller,
    end_folder,
    names_done,
    outputs_of,
    stamps_of,
)
from aras.labelling.raster_files import has_reflectance, open_raster
from aras.labelling.raster_labels import Windows, label_raster
from aras.labelling.raster_targets import Target, begin_target, check_target, reflectance_max_of, targets_of
from aras.loading import LOADER_WORKERS
from aras.pairs import SUFFIX, stems
from aras.patches import REFLECTANCE_MAX
from aras.ranks import Rank, device_of, rank_of_process, start_others, tell_end, wait_for_others, wait_for_start
from aras.rows import row_text
from aras.runs import FREE, begin_run, check_same_options
from aras.segmenter import ARCHITECTURES, STRIDE, digests_of, load_segmenter
from aras.training import choose_device, memory_told, share_cores, told_device

ONLY_RASTER = {"raster", "window", "overlap", "reflectance_max"}
FREE_OPTIONS = FREE | {"limit", "batch_size", "confidence_maps", "weights", "weights_sha256"}
"""The content of the weights counts, not their name; it has a check of its own. With --batch-size sums of floats differ
in their last digits, and so no label but of a pixel whose classes are even to these."""
RASTER_OPTIONS = ("weights", "weights_sha256", "arch", "encoder", "tta", "window", "overlap")
PACKAGES = ("torch", "segmentation-models-pytorch", "timm", "numpy", "pillow")


def load_labeller(options: dict[str, Any], rank: Rank) -> Labeller:
    """Return the models of `options`, on the device of `rank`."""
    share_cores()
    device = device_of(rank, choose_device(options["device"]))
    models = [load_segmenter(path, options["arch"], options["encoder"]).to(device) for path in options["weights"]]
    return Labeller(models, device, SYMMETRIES if options["tta"] else 1, options["confidence_maps"])


def share_of(options: dict[str, Any], stamps: dict[str, str], done: set[str], rank: Rank) -> Share:
    """Return what the process `rank` is to label of the images told by `stamps`."""
    names = np.array(sorted(name.removesuffix(SUFFIX) for name in stamps)[: options["limit"]])
    return Share(options["images"], names, stamps, done, options["batch_size"], options["workers"], rank)


def lead(options: dict[str, Any], outputs: Outputs, rank: Rank) -> None:
    """Label the folder, from wherever it stands, together with the other processes of the job.

    Raises:
        UserError: images failed; they are in failures.csv.
    """
    if outputs.record.exists():
        check_same_options(outputs.record, options, FREE_OPTIONS)
        made = (outputs.masks, outputs.percentages, outputs.confidence, outputs.record)
        check_same_labeller(outputs.record, options["weights"], options["weights_sha256"], made)
    stamps = stamps_of(options["images"])
    share = share_of(options, stamps, begin_folder(outputs, stamps, options["confidence_maps"]), rank)
    todo = len(share.names) - len(share.done.intersection(share.names.tolist()))
    click.echo(f"Reads {options['images']}: {len(share.names):,} images, {todo:,} to label")
    click.echo(f"Writes {outputs.masks}, {outputs.percentages}, {outputs.confidence}")
    if todo:
        labeller = load_labeller(options, rank)
        begin_run(outputs.record, options, PACKAGES, told_device(labeller.device), FREE_OPTIONS)
    start_others(outputs.progress, rank)
    if todo:
        with memory_told("lower --batch-size"):
            label_share(share, labeller, outputs)
    wait_for_others(outputs.progress, rank)
    left = set(share.names.tolist()) - end_folder(outputs, stamps, options["confidence_maps"])
    if left:
        raise UserError(
            f"{len(left)} images could not be labelled, see {outputs.failures}; mend them and run this again"
        )


def follow(options: dict[str, Any], outputs: Outputs, rank: Rank) -> None:
    """Label the share of a process that does not lead."""
    wait_for_start(outputs.progress, rank)
    with sole_writer(outputs.progress / rank.name, is_file=True):
        share = share_of(options, stamps_of(options["images"]), names_done(outputs), rank)
        if share.batches():
            with memory_told("lower --batch-size"):
                label_share(share, load_labeller(options, rank), outputs)
        tell_end(outputs.progress, rank)


def label_folder(options: dict[str, Any]) -> None:
    """Label a folder of images, alone or as one of the processes of a job."""
    options = {name: value for name, value in options.items() if name not in ONLY_RASTER}
    outputs, rank = outputs_of(options["images"], options["output"]), rank_of_process()
    if not rank.leads:
        follow(options, outputs, rank)
        return
    stems(options["images"])  # before a folder is made for the output
    check_not_foreign(outputs)
    with sole_writer(options["output"] or outputs.masks):
        lead(options, outputs, rank)


def label_rasters(options: dict[str, Any]) -> None:
    """Label whole rasters, one after the other.

    Raises:
        UserError: some could not be labelled; of several, they are in rasters.failures.csv.
    """
    targets = targets_of(options["raster"][: options["limit"]], options["output"])
    todo = [target for target in targets if not target.is_finished(options["confidence_maps"])]
    click.echo(f"Reads {len(targets)} rasters, {len(todo)} to label")
    labeller = load_labeller(options, Rank()) if todo else None
    reasons = {}
    with memory_told("lower --batch-size or --window"):
        for target in targets:
            try:
                with sole_writer(target.labels, is_file=True):
                    label_one(target, options, labeller)
            except UserError as error:
                reasons[str(target.raster)] = str(error)
    failures = options["output"] / "rasters.failures.csv"
    if len(targets) > 1:
        failures.unlink(missing_ok=True)
    if reasons:
        first = next(iter(reasons.values()))
        if len(targets) == 1:
            raise UserError(first)
        write_text(failures, "".join(row_text(row) for row in (FAILURE_COLUMNS, *reasons.items())))
        raise UserError(f"{len(reasons)} rasters could not be labelled, see {failures}; the first: {first}")


def label_one(target: Target, options: dict[str, Any], labeller: Labeller | None) -> None:
    """Label one raster, unless its labels are there already.

    Raises:
        UserError: it cannot be read, or labels are there that this script did not write, or wrote with other options.
    """
    with open_raster(target.raster) as file:
        has_crs, is_reflectance = file.crs is not None, has_reflectance(file)
    known = (options["reflectance_max"] or reflectance_max_of(options["weights"])) if is_reflectance else None
    scale = known or (REFLECTANCE_MAX if is_reflectance else None)
    told = {name: options[name] for name in RASTER_OPTIONS} | {"raster": target.raster, "reflectance_max": scale}
    check_target(target, told, options["weights"])
    if labeller is None or target.is_finished(labeller.maps):
        return
    if not has_crs:
        click.echo(f"WARNING: {target.raster} has no coordinate system (CRS), so its labels will have none")
    if scale and not known:
        click.echo(
            f"WARNING: no run.json tells how the training's images were scaled; takes --reflectance-max {scale}."
            " Labels of another scale are wrong"
        )
    if scale:
        click.echo(f"Scales {target.raster} so that a reflectance of {scale / 10_000:g} is 255")
    begin_target(target, told, told_device(labeller.device))
    label_raster(target, labeller, Windows(options["window"], options["overlap"], options["batch_size"]), scale)
    click.echo(f"Wrote {target.labels}" + (f", {target.confidence}" if labeller.maps else ""))


def check_raster_options(context: click.Context, options: dict[str, Any]) -> None:
    """Set the default of --overlap; raise a usage error for options that do not go together."""
    given = {name for name in options if context.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT}
    if not options["raster"]:
        if given & ONLY_RASTER:
            raise click.UsageError(f"--{min(given & ONLY_RASTER).replace('_', '-')} is for --raster")
        if options["output"] and options["output"].is_file():
            raise click.UsageError(f"--output {options['output']} is a file; name a folder")
        return
    if "images" in given:
        raise click.UsageError("--images or --raster, not both")
    if options["output"] is None:
        raise click.UsageError("--raster needs --output, a folder or a .tif")
    if options["overlap"] is None:
        options["overlap"] = options["window"] // 4
    if options["window"] % STRIDE or options["overlap"] >= options["window"]:
        raise click.UsageError(f"--window must be a multiple of {STRIDE}, and --overlap less than it")
    if rank_of_process().count > 1:
        raise click.UsageError("--raster runs in one process, not under torchrun; start one for each GPU")


@click.command(cls=Command)
@click.option(
    "--images",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("ARAS400k/synth/images"),
    show_default=True,
    help="Folder of PNG images; quickest when they are of one size.",
)
@click.option(
    "--weights",
    type=click.Path(path_type=Path, dir_okay=False),
    multiple=True,
    default=(Path("segmentation/best.pt"),),
    show_default=True,
    help="Trained weights: best.pt, a published .pth, or safetensors. Repeat it for the mean probability of several.",
)
@click.option(
    "--arch",
    type=click.Choice(ARCHITECTURES, case_sensitive=False),
    help="Their architecture; else from the run.json beside each, or its published name.",
)
@click.option("--encoder", help="Their encoder; else told like their architecture.")
@click.option(
    "--tta",
    is_flag=True,
    default=None,
    help="Mean probability over the 8 symmetries of the square, for 8 times the work.",
)
@click.option("--confidence-maps", is_flag=True, help="Also write each pixel's confidence, as a grey PNG per image.")
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    help="Folder for all that is written, else the images' own dataset; with --raster a folder or a .tif.",
)
@click.option(
    "--raster",
    type=click.Path(path_type=Path, dir_okay=False),
    multiple=True,
    help="Label this whole GeoTIFF rather than a folder; may be repeated. 8-bit RGB as it is; 16-bit reflectance "
    "(red, green, blue first, as in Sentinel-2 composites) is scaled as the training images were.",
)
@click.option(
    "--window",
    type=click.IntRange(STRIDE),
    default=512,
    show_default=True,
    help=f"Pixels a side of what goes through the model, with --raster; a multiple of {STRIDE}.",
)
@click.option(
    "--overlap",
    type=click.IntRange(0),
    show_default="a quarter of --window",
    help="Pixels that neighbouring windows share; more is smoother and slower.",
)
@click.option(
    "--reflectance-max",
    type=click.IntRange(1, 65535),
    show_default=f"that of the training's dataset, where the run.json files tell, else {REFLECTANCE_MAX}",
    help="Reflectance x 10000 that becomes 255, for 16-bit rasters.",
)
@click.option("--batch-size", type=click.IntRange(1), default=24, show_default=True, help="Images at a time.")
@workers_option(LOADER_WORKERS)
@limit_option
@device_option
@click.pass_context
def main(context: click.Context, **options: Any) -> None:
    r"""Label images with a trained segmenter.

    \b
    Reads   ARAS400k/synth/images, segmentation/best.pt and the run.json beside it
    Writes  ARAS400k/synth/masks, ARAS400k/class_percentages/synth.csv, ARAS400k/synth/confidence.csv
            ARAS400k/synth/confidence/<name>.png with --confidence-maps: 255 is a probability of 1
            ARAS400k/synth/masks.labelled.csv, masks.run.json: from which images and weights, to go on from
            ARAS400k/synth/failures.csv when an image could not be read; the exit code is then 1
            with --output DIR: DIR/masks, DIR/{class_percentages,confidence,labelled,failures}.csv, DIR/run.json
            with --raster: DIR/<name>_labels.tif or the .tif itself, a cloud-optimised GeoTIFF in the legend's colours,
            255 where there is no data; its .aux.xml (class names) and .run.json; with --confidence-maps another
            one, <name>_labels_confidence.tif; DIR/rasters.failures.csv when some of several could not be read

    \b
    Example  python segmentation_predict.py
             python segmentation_predict.py --images ARAS400k/test/images --output predicted
             python segmentation_predict.py --weights a/best.pt --weights b/best.pt --tta --confidence-maps
             python segmentation_predict.py --raster N41E031_S2RGBNIR.tif --output N41E031_labels.tif
             torchrun --standalone --nproc-per-node 8 segmentation_predict.py

    confidence.csv has the mean probability of the class that each pixel was given, over all pixels and over those of
    each class; a class that the image was not given is empty.

    Under torchrun the batches are dealt to its processes, each on a GPU of its own and with --workers of its own;
    rasters are labelled by one process, which reads them itself.

    To resume, run the same command again. It labels again what was drawn again under the same name, and deletes the
    masks and rows of images that are gone.
    """
    check_raster_options(context, options)
    options["weights_sha256"] = digests_of(options["weights"])
    if options["raster"]:
        label_rasters(options)
    else:
        label_folder(options)


if __name__ == "__main__":
    main()
