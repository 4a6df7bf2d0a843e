"""Class percentages of a tiny dataset, as dataset_creator.py writes them."""

import csv
from pathlib import Path

from aras.legend import CLASS_NAMES, class_percentages, read_mask
from aras.patches import class_counts


def write_percentages(data: Path) -> Path:
    """Write `class_percentages/<split>.csv` of every split of `data` from its masks, and return `data`."""
    for folder in sorted(data.glob("*/masks")):
        path = data / "class_percentages" / f"{folder.parent.name}.csv"
        path.parent.mkdir(exist_ok=True)
        with path.open("w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["filename", *CLASS_NAMES])
            for mask in sorted(folder.glob("*.png"), reverse=True):
                writer.writerow([mask.name, *class_percentages(class_counts(read_mask(mask)))])
    return data
