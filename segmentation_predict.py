"""Stage 4b: label images with a trained segmenter: masks, class percentages, and how sure it was.

This is how the images drawn by the unconditional GAN get masks, so that they can be trained on and captioned
(arXiv 2603.09625, pseudo-labels of the synthetic set). An image is done when it has its mask and, written after it, its
rows; one that was drawn again since is labelled again, and the mask of one that is gone goes too. Batches are cut from
the sorted names alone, so a killed run and its continuation give what an unbroken one gives.
"""

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from aras.command import Command, device_option, limit_option, workers_option
from aras.errors import UserError
from aras.files import read_json, remove_parts, sole_writer, write_bytes
from aras.inference import check_takes, labels_and_confidence, sums_of_classes
from aras.legend import CLASS_NAMES, class_percentages
from aras.loading import LOADER_WORKERS, ImageBatch, ImageSet
from aras.pairs import SUFFIX, stems
from aras.patches import png_of_mask
from aras.rows import row_text, whole_rows, write_sorted
from aras.runs import FREE, begin_run, check_same_options
from aras.segmenter import ARCHITECTURES, load_segmenter
from aras.tables import PERCENTAGE_COLUMNS
from aras.training import choose_device, memory_told, share_cores, told_device

if TYPE_CHECKING:
    import torch

CONFIDENCE_COLUMNS = ("filename", "mean", *CLASS_NAMES)
LABELLED_COLUMNS = ("filename", "size", "mtime_ns")  # of the image when it was labelled
FREE_OPTIONS = FREE | {"limit"}
PACKAGES = ("torch", "segmentation-models-pytorch", "timm", "numpy", "pillow")
WRITERS = 8  # threads; compression lets go of the interpreter


@dataclass(frozen=True)
class Outputs:
    """Where everything goes."""

    masks: Path
    percentages: Path
    confidence: Path
    failures: Path
    labelled: Path
    record: Path  # run.json

    @property
    def tables(self) -> dict[Path, tuple[str, ...]]:
        """The columns of the tables that have a row for each image that is done."""
        return {
            self.percentages: PERCENTAGE_COLUMNS,
            self.confidence: CONFIDENCE_COLUMNS,
            self.labelled: LABELLED_COLUMNS,
        }


def outputs_of(images: Path, output: Path | None) -> Outputs:
    """Return where the labels of the folder `images` go: into `output`, or beside the images in their dataset.

    Raises:
        UserError: without `output`, the folder is not `<data>/<split>/images`.
    """
    if output:
        tables = (output / f"{name}.csv" for name in ("class_percentages", "confidence", "failures", "labelled"))
        return Outputs(output / "masks", *tables, record=output / "run.json")  # type: ignore[misc]
    if images.name != "images":
        raise UserError(f"--images {images} is not <dataset>/<split>/images; say where to write by --output")
    split = images.parent
    percentages = split.parent / "class_percentages" / f"{split.name}.csv"
    confidence, failures, labelled = (split / f"{name}.csv" for name in ("confidence", "failures", "masks.labelled"))
    return Outputs(split / "masks", percentages, confidence, failures, labelled, split / "masks.run.json")


def check_not_foreign(outputs: Outputs) -> None:
    """Raise `UserError` when there are masks or tables that this script did not write, such as a split's true masks."""
    if outputs.record.exists():
        return
    masks = outputs.masks.glob("*" + SUFFIX) if outputs.masks.is_dir() else iter(())
    for path in (next(masks, None), outputs.percentages, outputs.confidence):
        if path and path.exists():
            raise UserError(f"{path} was not written by this script: there is no {outputs.record}; use --output DIR")


def stamps_of(folder: Path) -> dict[str, str]:
    """Return what tells each image of `folder` from one of the same name, by file name, as its row of labelled.csv."""
    found = {}
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.endswith(SUFFIX):
                try:
                    status = entry.stat()
                    found[entry.name] = row_text((entry.name, status.st_size, status.st_mtime_ns))
                except FileNotFoundError:  # a link to nowhere; reading it says so
                    found[entry.name] = row_text((entry.name, "", ""))
    return found


def settle_tables(outputs: Outputs, stamps: dict[str, str]) -> set[str]:
    """Have the tables hold the images that are done, in the order of names; return those images' stems.

    Masks made from an image that is gone or is another now, by `stamps`, are deleted.
    """
    rows = {path: whole_rows(path, columns) for path, columns in outputs.tables.items()}
    for name, stamp in rows[outputs.labelled].items():
        if stamps.get(name) != stamp:
            (outputs.masks / name).unlink(missing_ok=True)
    with os.scandir(outputs.masks) as entries:
        done = {entry.name for entry in entries}.intersection(*rows.values())
    for path, columns in outputs.tables.items():
        write_sorted(path, columns, rows[path], done)
    return {name.removesuffix(SUFFIX) for name in done}


def confidence_row(name: str, pixels: np.ndarray, sums: np.ndarray) -> str:
    """Return an image's line of confidence.csv from `pixels` (7,) and `sums` (7,); a class without pixels is empty."""
    of_class = [f"{total / count:.4f}" if count else "" for total, count in zip(sums, pixels, strict=True)]
    return row_text([name, f"{sums.sum() / pixels.sum():.4f}", *of_class])


def label_all(
    stamps: dict[str, str],
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

    starts = range(0, len(names), options["batch_size"])  # the same cuts whatever is done: the same sums
    batches = [list(range(start, min(start + options["batch_size"], len(names)))) for start in starts]
    batches = [batch for batch in batches if not done.issuperset(names[batch].tolist())]
    loader: Any = torch.utils.data.DataLoader(
        ImageSet(options["images"], names),  # type: ignore[arg-type]
        batch_sampler=batches,
        collate_fn=ImageBatch(options["batch_size"]),
        num_workers=options["workers"],
        pin_memory=device.type == "cuda",
    )
    check = cache(partial(check_takes, model, device=device))
    failed = 0
    with (
        ThreadPoolExecutor(WRITERS) as pool,
        ExitStack() as stack,
        torch.inference_mode(),
        memory_told("lower --batch-size"),
    ):
        tables = [stack.enter_context(path.open("a", encoding="utf-8")) for path in outputs.tables]
        for groups, failures in tqdm(loader, desc="label", disable=None, unit="batch"):
            for group, images in groups:
                new = {name: place for place, name in enumerate(group) if name not in done}
                try:
                    check(tuple(images.shape[1:3]))
                except UserError as error:
                    failures |= dict.fromkeys(new, str(error))
                    continue
                rows = label_group(new, images, model, outputs.masks, pool, device) if new else []
                for name, (percentages, confidence) in zip(new, rows, strict=False):
                    for table, row in zip(tables, (percentages, confidence, stamps[name + SUFFIX]), strict=True):
                        table.write(row)
            for table in tables:
                table.flush()
            if failures:
                append_failures(outputs.failures, failures)
                failed += len(failures)
    return failed


def label_group(
    new: dict[str, int],
    images: "torch.Tensor",
    model: "torch.nn.Module",
    masks: Path,
    pool: ThreadPoolExecutor,
    device: "torch.device",
) -> list[tuple[str, str]]:
    """Write the masks of `new`, names and their places in `images`; return each one's percentages and confidence."""
    found, confidence = labels_and_confidence([model], images, device)
    pixels, sums = sums_of_classes(found, confidence)
    labels = found.cpu().numpy()
    list(pool.map(lambda name: write_mask(masks, name, labels[new[name]]), new))
    return [
        (
            row_text([name + SUFFIX, *class_percentages(pixels[place])]),
            confidence_row(name + SUFFIX, pixels[place], sums[place]),
        )
        for name, place in new.items()
    ]


def append_failures(path: Path, failures: dict[str, str]) -> None:
    """Append the reasons of `failures`, by stem, to the table at `path`."""
    head = "" if path.exists() else row_text(("filename", "reason"))
    with path.open("a", encoding="utf-8") as file:
        file.write(head + "".join(row_text((name + SUFFIX, reason)) for name, reason in failures.items()))


def write_mask(folder: Path, name: str, labels: np.ndarray) -> None:
    """Write `labels` (H, W) uint8 as a mask file."""
    write_bytes(folder / f"{name}{SUFFIX}", png_of_mask(labels), durable=False)


def check_same_weights(outputs: Outputs, weights: Path, digest: str) -> None:
    """Raise `UserError` when the masks were made by weights of another SHA-256 than `digest`."""
    if read_json(outputs.record)["options"].get("weights_sha256") != digest:
        raise UserError(
            f"the content of {weights} is not what it was when {outputs.masks} was begun, as when a training goes on;"
            f" name another --output, or delete {outputs.masks}, {outputs.percentages}, {outputs.confidence} and"
            f" {outputs.record} to label all again"
        )


def run(options: dict[str, Any], outputs: Outputs) -> None:
    """Label the folder, from wherever it stands.

    Raises:
        UserError: images failed; they are in failures.csv.
    """
    remove_parts(outputs.masks)
    outputs.failures.unlink(missing_ok=True)
    stamps = stamps_of(options["images"])
    names = np.array(sorted(name.removesuffix(SUFFIX) for name in stamps)[: options["limit"]])
    done = settle_tables(outputs, stamps) if outputs.record.exists() else set()
    todo = len(names) - len(done.intersection(names.tolist()))
    click.echo(f"Reads {options['images']}: {len(names):,} images, {todo:,} to label")
    click.echo(f"Writes {outputs.masks}, {outputs.percentages}, {outputs.confidence}")
    if not todo:
        return
    share_cores()
    device = choose_device(options["device"])
    model = load_segmenter(options["weights"], options["arch"], options["encoder"]).to(device)
    begin_run(outputs.record, options, PACKAGES, told_device(device), FREE_OPTIONS)
    settle_tables(outputs, stamps)
    failed = label_all(stamps, names, done, model, outputs, options, device)
    settle_tables(outputs, stamps)
    if failed:
        raise UserError(f"{failed} images could not be labelled, see {outputs.failures}; mend them and run this again")


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
@workers_option(LOADER_WORKERS)
@limit_option
@device_option
def main(**options: Any) -> None:
    r"""Label images with a trained segmenter.

    \b
    Reads   ARAS400k/synth/images, segmentation/best.pt and the run.json beside it
    Writes  ARAS400k/synth/masks, ARAS400k/class_percentages/synth.csv, ARAS400k/synth/confidence.csv
            ARAS400k/synth/masks.labelled.csv, masks.run.json: from which images and weights, to go on from
            ARAS400k/synth/failures.csv when an image could not be read; the exit code is then 1
            with --output DIR: DIR/masks, DIR/{class_percentages,confidence,labelled,failures}.csv, DIR/run.json

    \b
    Example  python segmentation_predict.py
             python segmentation_predict.py --images ARAS400k/test/images --output predicted

    confidence.csv has the mean probability of the class that each pixel was given, over all pixels and over those of
    each class; a class that the image was not given is empty.

    To resume, run the same command again. It labels again what was drawn again under the same name, and deletes the
    masks and rows of images that are gone.
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
            check_same_options(outputs.record, options, FREE_OPTIONS | {"weights_sha256"})
            check_same_weights(outputs, weights, options["weights_sha256"])
        outputs.masks.mkdir(parents=True, exist_ok=True)
        run(options, outputs)


if __name__ == "__main__":
    main()
