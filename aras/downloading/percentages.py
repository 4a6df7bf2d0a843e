"""The class percentages of a split's masks, for published zips that lack them."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator
from pathlib import Path

from aras.downloading.notes import read_notes, update_notes
from aras.errors import UserError
from aras.files import whole_file

FAILURES = "failures.csv"
FEW = 512  # masks that are counted sooner than worker processes start


def write_percentages(data: Path, split: str) -> int:
    """Write class_percentages/<split>.csv from the masks of `split`; return how many of them cannot be read.

    Those have no row; failures.csv of the dataset's folder says why.
    """
    from aras.legend import CLASS_NAMES

    masks = sorted((data / split / "masks").glob("*.png"))
    failed: dict[str, str] = {}
    with (
        whole_file(data / "class_percentages" / f"{split}.csv") as part,
        part.open("w", newline="", encoding="utf-8") as file,
    ):
        table = csv.writer(file, lineterminator="\n")
        table.writerow(("filename", *CLASS_NAMES))
        for mask, shares in zip(masks, _shares(masks), strict=True):
            if isinstance(shares, str):
                failed[f"{split}/masks/{mask.name}"] = shares
            else:
                table.writerow((mask.name, *shares))
        about = f"{split}/masks/"  # noted before the table gets its name, so that they cannot be forgotten
        update_notes(data / FAILURES, ("file", "reason"), failed, lambda name: name.startswith(about))
    return len(failed)


def lacks_percentages(data: Path, split: str) -> bool:
    """Return whether `split` has masks, and no table of percentages that covers them all."""
    if not (data / split / "masks").is_dir():
        return False
    failed = any(name.startswith(f"{split}/masks/") for name in read_notes(data / FAILURES))
    return failed or not (data / "class_percentages" / f"{split}.csv").exists()


def _shares(masks: list[Path]) -> Iterator[list[float] | str]:
    """Yield what `percentages_of_mask` returns for each of `masks`, on all cores when they are many."""
    if len(masks) < FEW:
        return map(percentages_of_mask, masks)
    from joblib import Parallel, delayed

    workers = Parallel(n_jobs=os.cpu_count(), batch_size=64, return_as="generator")
    return workers(delayed(percentages_of_mask)(mask) for mask in masks)


def percentages_of_mask(path: Path) -> list[float] | str:
    """Return the percentage of each class in the mask at `path`, or the reason why it cannot be read."""
    import numpy as np

    from aras.legend import NUM_CLASSES, class_percentages, read_mask

    try:
        labels = read_mask(path)
    except UserError as error:
        return str(error)
    return class_percentages(np.bincount(labels.ravel(), minlength=NUM_CLASSES))
