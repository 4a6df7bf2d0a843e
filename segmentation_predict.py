"""Stage 4b: label images with a trained segmenter: masks, class percentages, and how sure it was.

This is how the images drawn by the unconditional GAN get masks, so that they can be trained on and captioned
(arXiv 2603.09625, pseudo-labels of the synthetic set). An image is done when it has its mask and, written after it, its
rows; one that was drawn again since is labelled again, and the mask of one that is gone goes too. Batches are cut from
the sorted names alone, so a killed run and its continuation give what an unbroken one gives, on however many GPUs.
"""

import hashlib
from pathlib import Path
from typing import Any

import click
import numpy as np

from aras.command import Command, device_option, limit_option, workers_option
from aras.errors import UserError
from aras.files import sole_writer
from aras.inference import SYMMETRIES
from aras.label_files import (
    Outputs,
    begin_folder,
    check_not_foreign,
    check_same_weights,
    end_folder,
    names_done,
    outputs_of,
    stamps_of,
)
from aras.labelling import Labeller, Share, label_share
from aras.loading import LOADER_WORKERS
from aras.pairs import SUFFIX, stems
from aras.ranks import Rank, device_of, rank_of_process, start_others, tell_end, wait_for_others, wait_for_start
from aras.runs import FREE, begin_run, check_same_options
from aras.segmenter import ARCHITECTURES, load_segmenter
from aras.training import choose_device, memory_told, share_cores, told_device

FREE_OPTIONS = FREE | {"limit", "confidence_maps", "weights", "weights_sha256"}
"""The content of the weights counts, not their name; it has a check of its own."""
PACKAGES = ("torch", "segmentation-models-pytorch", "timm", "numpy", "pillow")


def check_there(weights: tuple[Path, ...]) -> None:
    """Raise `UserError` when a file of `weights` is missing."""
    for path in weights:
        if not path.is_file():
            raise UserError(f"{path} is missing; run segmentation_train.py first, or name the file by --weights")


def told_digests(paths: tuple[Path, ...]) -> str:
    """Return the SHA-256 of each of `paths`, parted by spaces."""
    digests = []
    for path in paths:
        with path.open("rb") as file:
            digests.append(hashlib.file_digest(file, "sha256").hexdigest())
    return " ".join(digests)


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
        check_same_weights(outputs, options["weights"], options["weights_sha256"])
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
    outputs, rank = outputs_of(options["images"], options["output"]), rank_of_process()
    check_there(options["weights"])
    if not rank.leads:
        follow(options, outputs, rank)
        return
    options["weights_sha256"] = told_digests(options["weights"])
    stems(options["images"])  # before a folder is made for the output
    check_not_foreign(outputs)
    with sole_writer(options["output"] or outputs.masks):
        lead(options, outputs, rank)


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
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for all that is written; else it goes into the images' own dataset.",
)
@click.option("--batch-size", type=click.IntRange(1), default=24, show_default=True, help="Images at a time.")
@workers_option(LOADER_WORKERS)
@limit_option
@device_option
def main(**options: Any) -> None:
    r"""Label images with a trained segmenter.

    \b
    Reads   ARAS400k/synth/images, segmentation/best.pt and the run.json beside it
    Writes  ARAS400k/synth/masks, ARAS400k/class_percentages/synth.csv, ARAS400k/synth/confidence.csv
            ARAS400k/synth/confidence/<name>.png with --confidence-maps: 255 is a probability of 1
            ARAS400k/synth/masks.labelled.csv, masks.run.json: from which images and weights, to go on from
            ARAS400k/synth/failures.csv when an image could not be read; the exit code is then 1
            with --output DIR: DIR/masks, DIR/{class_percentages,confidence,labelled,failures}.csv, DIR/run.json

    \b
    Example  python segmentation_predict.py
             python segmentation_predict.py --images ARAS400k/test/images --output predicted
             python segmentation_predict.py --weights a/best.pt --weights b/best.pt --tta --confidence-maps
             torchrun --standalone --nproc-per-node 8 segmentation_predict.py

    confidence.csv has the mean probability of the class that each pixel was given, over all pixels and over those of
    each class; a class that the image was not given is empty.

    Under torchrun the batches are dealt to its processes, each on a GPU of its own and with --workers of its own.

    To resume, run the same command again. It labels again what was drawn again under the same name, and deletes the
    masks and rows of images that are gone.
    """
    label_folder(options)


if __name__ == "__main__":
    main()
