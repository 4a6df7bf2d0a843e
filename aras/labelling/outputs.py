"""What labelling a folder of images writes, and which images are done.

An image is done when it has its mask and its rows, written after it, in all tables; one that was drawn again since is
not, and the mask of one that is gone goes too. Each process of a job appends to tables of its own below `progress`,
which the first one merges at the end, or the next job after a kill.
"""

import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from aras.errors import UserError
from aras.files import remove_parts
from aras.legend import CLASS_NAMES
from aras.pairs import SUFFIX
from aras.ranks import Rank, check_alone
from aras.rows import row_text, whole_rows, write_sorted
from aras.segmenter import check_same_weights
from aras.tables import PERCENTAGE_COLUMNS

CONFIDENCE_COLUMNS = ("filename", "mean", *CLASS_NAMES)
LABELLED_COLUMNS = ("filename", "size", "mtime_ns")  # of the image when it was labelled
FAILURE_COLUMNS = ("filename", "reason")


@dataclass(frozen=True)
class Outputs:
    """Where everything goes."""

    masks: Path
    maps: Path  # folder of the confidence maps
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

    @property
    def progress(self) -> Path:
        """Folder of what the processes of a job have done; it is there only while one runs, or after a kill."""
        return self.masks / ".progress"

    def own(self, table: Path, rank: Rank) -> Path:
        """Return the table to which the process `rank` appends what will go into `table`."""
        return self.progress / rank.name / table.name

    def part_tables(self, table: Path) -> list[Path]:
        """Return what the processes of a job have for `table`."""
        return sorted(self.progress.glob(f"rank*/{table.name}"))


def outputs_of(images: Path, output: Path | None) -> Outputs:
    """Return where the labels of the folder `images` go: into `output`, or beside the images in their dataset.

    Raises:
        UserError: without `output`, the folder is not `<data>/<split>/images`.
    """
    if output:
        tables = (output / f"{name}.csv" for name in ("class_percentages", "confidence", "failures", "labelled"))
        return Outputs(output / "masks", output / "confidence", *tables, record=output / "run.json")  # type: ignore[misc]
    if images.name != "images":
        raise UserError(f"--images {images} is not <dataset>/<split>/images; say where to write by --output")
    split = images.parent
    percentages = split.parent / "class_percentages" / f"{split.name}.csv"
    tables = (split / f"{name}.csv" for name in ("confidence", "failures", "masks.labelled"))
    return Outputs(split / "masks", split / "confidence", percentages, *tables, record=split / "masks.run.json")  # type: ignore[misc]


def check_not_foreign(outputs: Outputs) -> None:
    """Raise `UserError` when there are masks or tables that this script did not write, such as a split's true masks."""
    if outputs.record.exists():
        return
    masks, maps = (next(folder.glob("*" + SUFFIX), None) for folder in (outputs.masks, outputs.maps))
    for path in (masks, maps, outputs.percentages, outputs.confidence):
        if path and path.exists():
            raise UserError(f"{path} was not written by this script: there is no {outputs.record}; use --output DIR")


def check_same_labeller(record: Path, weights: Iterable[Path], digests: str, made: tuple[Path, ...]) -> None:
    """Raise `UserError` when the run.json `record` tells of weights of other SHA-256 than `digests`.

    What `weights` have `made` is named as what to delete, the first of it as what was begun.
    """
    remedy = f"name another --output, or delete {', '.join(map(str, made[:-1]))} and {made[-1]} to label all again"
    check_same_weights(record, weights, digests, made[0], remedy)


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


def begin_folder(outputs: Outputs, stamps: dict[str, str], maps: bool) -> set[str]:
    """Have the folder hold what is done and nothing that a killed job left half; return the stems that are done.

    Raises:
        UserError: a process of such a job still runs, or a table is none of ours.
    """
    outputs.masks.mkdir(parents=True, exist_ok=True)
    check_alone(outputs.progress)
    for folder in (outputs.masks, outputs.maps):
        remove_parts(folder)
    outputs.failures.unlink(missing_ok=True)
    done = settle_tables(outputs, stamps, maps) if outputs.record.exists() else set()
    shutil.rmtree(outputs.progress, ignore_errors=True)
    return done


def end_folder(outputs: Outputs, stamps: dict[str, str], maps: bool) -> set[str]:
    """Put together what the processes of this job have done; return the stems of all that are done."""
    done = settle_tables(outputs, stamps, maps)
    failures: dict[str, str] = {}
    for path in outputs.part_tables(outputs.failures):
        failures |= whole_rows(path, FAILURE_COLUMNS)
    if failures:
        write_sorted(outputs.failures, FAILURE_COLUMNS, failures, failures)
    shutil.rmtree(outputs.progress, ignore_errors=True)  # some file systems keep what the others have just closed
    return done


def settle_tables(outputs: Outputs, stamps: dict[str, str], maps: bool) -> set[str]:
    """Have the tables hold the images that are done, in the order of names; return those images' stems.

    Masks made from an image that is gone or is another now, by `stamps`, are deleted. With `maps` an image without its
    confidence map is not done.
    """
    rows: dict[Path, dict[str, str]] = {}
    for path, columns in outputs.tables.items():
        rows[path] = whole_rows(path, columns)
        for part in outputs.part_tables(path):
            rows[path] |= whole_rows(part, columns)
    for name, stamp in rows[outputs.labelled].items():
        if stamps.get(name) != stamp:
            (outputs.masks / name).unlink(missing_ok=True)
            (outputs.maps / name).unlink(missing_ok=True)
    done = file_names(outputs.masks).intersection(*rows.values())
    if maps:
        done &= file_names(outputs.maps)
    for path, columns in outputs.tables.items():
        write_sorted(path, columns, rows[path], done)
    return {name.removesuffix(SUFFIX) for name in done}


def names_done(outputs: Outputs) -> set[str]:
    """Return the stems that were done when the first process of a job had begun its folder."""
    return {name.removesuffix(SUFFIX) for name in whole_rows(outputs.labelled, LABELLED_COLUMNS)}


def file_names(folder: Path) -> set[str]:
    """Return the names in `folder`, none if there is no such folder."""
    return {entry.name for entry in os.scandir(folder)} if folder.is_dir() else set()
