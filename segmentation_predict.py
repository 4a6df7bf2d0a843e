"""Stage 4b: label images with a trained segmenter: masks, class percentages, and how sure it was.

This is how the images drawn by the unconditional GAN get masks, so that they can be trained on and captioned
(arXiv 2603.09625, pseudo-labels of the synthetic set). An image is done when it has its mask and, written after it, its
rows. Batches are cut from the sorted names alone, so a killed run and its continuation give what an unbroken one gives.
"""

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from aras.command import Command, device_option, limit_option
from aras.errors import UserError
from aras.files import remove_parts, sole_writer, write_bytes
from aras.legend import CLASS_NAMES, class_percentages
from aras.loading import ImageBatch, ImageSet
from aras.pairs import SUFFIX, first_image_size, stems
from aras.patches import png_of_mask
from aras.rows import row_text, whole_rows, write_sorted
from aras.runs import FREE, begin_run, check_same_options, plain
from aras.segmenter import ARCHITECTURES, labels_and_confidence, load_segmenter
from aras.tables import PERCENTAGE_COLUMNS
from aras.training import choose_device, memory_told, share_cores, told_device

if TYPE_CHECKING:
    import torch

CONFIDENCE_COLUMNS = ("filename", "mean", *CLASS_NAMES)
FREE_OPTIONS = FREE | {"limit"}
PACKAGES = ("torch", "segmentation-models-pytorch", "timm", "numpy", "pillow")
WRITERS = 8  # threads; compression lets go of the interpreter
MOST_WORKERS = 16


@dataclass(frozen=True)
class Outputs:
    """Where everything goes."""

    masks: Path
    percentages: Path
    confidence: Path
    failures: Path
    record: Path  # run.json


def outputs_of(images: Path, output: Path | None) -> Outputs:
    """Return where the labels of the folder `images` go: into `output`, or beside the images in their dataset.

    Raises:
        UserError: without `output`, the folder is not `<data>/<split>/images`.
    """
    if output:
        tables = (output / f"{name}.csv" for name in ("class_percentages", "confidence", "failures"))
        return Outputs(output / "masks", *tables, record=output / "run.json")  # type: ignore[misc]
    if images.name != "images":
        raise UserError(f"--images {images} is not <dataset>/<split>/images; say where to write by --output")
    split = images.parent
    percentages = split.parent / "class_percentages" / f"{split.name}.csv"
    confidence, failures, record = (split / name for name in ("confidence.csv", "failures.csv", "masks.run.json"))
    return Outputs(split / "masks", percentages, confidence, failures, record)


def check_not_foreign(outputs: Outputs) -> None:
    """Raise `UserError` when there are masks or tables that this script did not write, such as a split's true masks."""
    if outputs.record.exists():
        return
    masks = outputs.masks.glob("*" + SUFFIX) if outputs.masks.is_dir() else iter(())
    for path in (next(masks, None), outputs.percentages, outputs.confidence):
        if path and path.exists():
            raise UserError(f"{path} was not written by this script: there is no {outputs.record}; use --output DIR")


def settle_tables(outputs: Outputs) -> set[str]:
    """Have both tables hold the images that are done, in the order of names; return those images' stems."""
    tables = {outputs.percentages: PERCENTAGE_COLUMNS, outputs.confidence: CONFIDENCE_COLUMNS}
    rows = {path: whole_rows(path, columns) for path, columns in tables.items()}
    with os.scandir(outputs.masks) as entries:
        done = {entry.name for entry in entries}.intersection(*rows.values())
    for path, columns in tables.items():
        write_sorted(path, columns, rows[path], done)
    return {name.removesuffix(SUFFIX) for name in done}


def confidence_row(name: str, pixels: np.ndarray, sums: np.ndarray) -> list[str]:
    """Return an image's row of confidence.csv from `pixels` (7,) and `sums` (7,); a class without pixels is empty."""
    of_class = [f"{total / count:.4f}" if count else "" for total, count in zip(sums, pixels, strict=True)]
    return [name, f"{sums.sum() / pixels.sum():.4f}", *of_class]


def label_all(
    names: np.ndarray,
    done: set[str],
    model: "torch.nn.Module",
    outputs: Outputs,
    options: dict[str, Any],
    device: "torch.device",
) -> int:
    """Label what is not done, and return how many images could not be; these go to failures.csv."""
    import torch
    from tqdm import tqdm

    size = first_image_size(options["images"], names)
    starts = range(0, len(names), options["batch_size"])  # the same cuts whatever is done: the same sums
    batches = [list(range(start, min(start + options["batch_size"], len(names)))) for start in starts]
    batches = [batch for batch in batches if not done.issuperset(names[batch].tolist())]
    loader: Any = torch.utils.data.DataLoader(
        ImageSet(options["images"], names, size),  # type: ignore[arg-type]
        batch_sampler=batches,
        collate_fn=ImageBatch(options["batch_size"], size),
        num_workers=options["workers"],
        pin_memory=device.type == "cuda",
    )
    failed = 0
    with (
        ThreadPoolExecutor(WRITERS) as pool,
        outputs.percentages.open("a", encoding="utf-8") as percentages,
        outputs.confidence.open("a", encoding="utf-8") as confidence,
        torch.inference_mode(),
        memory_told("lower --batch-size"),
    ):
        for stems_of_batch, images, failures in tqdm(loader, desc="label", disable=None, unit="batch"):
            labels, pixels, sums = labels_and_confidence(model, images, device)
            new = [(i, n) for i, n in enumerate(stems_of_batch) if n not in done and n not in failures]
            list(pool.map(lambda item: write_mask(outputs.masks, item[1], labels[item[0]]), new))  # noqa: B023
            for i, name in new:
                percentages.write(row_text([name + SUFFIX, *class_percentages(pixels[i])]))
                confidence.write(row_text(confidence_row(name + SUFFIX, pixels[i], sums[i])))
            percentages.flush()
            confidence.flush()
            if failures:
                append_failures(outputs.failures, failures)
                failed += len(failures)
    return failed


def append_failures(path: Path, failures: dict[str, str]) -> None:
    """Append the reasons of `failures`, by stem, to the table at `path`."""
    head = "" if path.exists() else row_text(("filename", "reason"))
    with path.open("a", encoding="utf-8") as file:
        file.write(head + "".join(row_text((name + SUFFIX, reason)) for name, reason in failures.items()))


def write_mask(folder: Path, name: str, labels: np.ndarray) -> None:
    """Write `labels` (H, W) uint8 as a mask file."""
    write_bytes(folder / f"{name}{SUFFIX}", png_of_mask(labels), durable=False)


def run(options: dict[str, Any], outputs: Outputs) -> None:
    """Label the folder, from wherever it stands.

    Raises:
        UserError: images failed; they are in failures.csv.
    """
    remove_parts(outputs.masks)
    outputs.failures.unlink(missing_ok=True)
    names = np.array(sorted(stems(options["images"]))[: options["limit"]])
    done = settle_tables(outputs) if outputs.record.exists() else set()
    todo = len(names) - len(done.intersection(names.tolist()))
    click.echo(f"Reads {options['images']}: {len(names):,} images, {todo:,} to label")
    click.echo(f"Writes {outputs.masks}, {outputs.percentages}, {outputs.confidence}")
    if not todo:
        return
    share_cores()
    device = choose_device(options["device"])
    model = load_segmenter(options["weights"], options["arch"], options["encoder"]).to(device)
    begin_run(outputs.record, options, PACKAGES, told_device(device), FREE_OPTIONS)
    settle_tables(outputs)
    failed = label_all(names, done, model, outputs, options, device)
    settle_tables(outputs)
    if failed:
        raise UserError(f"{failed} images could not be labelled, see {outputs.failures}; mend them and run this again")


@click.command(cls=Command)
@click.option(
    "--images",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("ARAS400k/synth/images"),
    show_default=True,
    help="Folder of PNG images of one size.",
)
@click.option(
    "--weights",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("segmentation/best.pt"),
    show_default=True,
    help="Trained weights: best.pt, a published .pth, or safetensors.",
)
@click.option(
    "--arch",
    type=click.Choice(ARCHITECTURES, case_sensitive=False),
    help="Their architecture; else from the run.json beside them.",
)
@click.option("--encoder", help="Their encoder; else from the run.json beside them.")
@click.option(
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for all that is written; else it goes into the images' own dataset.",
)
@click.option("--batch-size", type=click.IntRange(1), default=24, show_default=True, help="Images at a time.")
@click.option(
    "--workers",
    type=click.IntRange(0),
    default=min(MOST_WORKERS, os.cpu_count() or 1),
    show_default=f"one per core, at most {MOST_WORKERS}",
    help="Processes that read images.",
)
@limit_option
@device_option
def main(**options: Any) -> None:
    r"""Label images with a trained segmenter.

    \b
    Reads   ARAS400k/synth/images, segmentation/best.pt and the run.json beside it
    Writes  ARAS400k/synth/masks, ARAS400k/class_percentages/synth.csv, ARAS400k/synth/confidence.csv
            ARAS400k/synth/failures.csv when an image could not be read; the exit code is then 1
            with --output DIR: DIR/masks, DIR/class_percentages.csv, DIR/confidence.csv, DIR/failures.csv

    \b
    Example  python segmentation_predict.py
             python segmentation_predict.py --images ARAS400k/test/images --output predicted

    confidence.csv has the mean probability of the class that each pixel was given, over all pixels and over those of
    each class; a class that the image was not given is empty.

    To resume, run the same command again.
    """
    outputs = outputs_of(options["images"], options["output"])
    weights: Path = options["weights"]
    if not weights.is_file():
        raise UserError(f"{weights} is missing; run segmentation_train.py first, or name the file by --weights")
    with weights.open("rb") as file:
        options["weights_sha256"] = hashlib.file_digest(file, "sha256").hexdigest()
    stems(options["images"])  # before a folder is made for the output
    check_not_foreign(outputs)
    with sole_writer(options["output"] or outputs.masks):
        if outputs.record.exists():
            check_same_options(outputs.record, {name: plain(value) for name, value in options.items()}, FREE_OPTIONS)
        outputs.masks.mkdir(parents=True, exist_ok=True)
        run(options, outputs)


if __name__ == "__main__":
    main()
