"""Tables of class percentages: `filename` and a column for each class, a row for each image."""

import csv
from array import array
from collections import Counter
from pathlib import Path

import numpy as np

from aras.errors import UserError
from aras.legend import CLASS_NAMES
from aras.pairs import SUFFIX

SUM_TOLERANCE = 4.0
"""Seven percentages, each rounded to an integer, add up to 100 within this."""


def read_percentages(path: Path) -> tuple[list[str], np.ndarray]:
    """Return the file names (with `.png`) and the percentages (N, 7) float64 of the table at `path`.

    Its columns are `filename` and one for each class, in any order; others are ignored.

    Raises:
        UserError: it is missing, no such table, or a row's numbers are no percentages.
    """
    names: list[str] = []
    values = array("d")
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            columns = columns_of(next(reader, []), path)
            for row in reader:
                names.append(with_suffix(row[columns[0]]))
                values.extend(float(row[column]) for column in columns[1:])
    except FileNotFoundError:
        raise UserError(f"{path} is missing; make it first (dataset_creator.py, segmentation_predict.py)") from None
    except (ValueError, IndexError, csv.Error) as error:
        raise UserError(f"{path} is no table of percentages (row {len(names)}: {error}); make it again") from None
    if not names:
        raise UserError(f"{path} has no rows; make it again")
    percentages = np.array(values).reshape(-1, len(CLASS_NAMES))
    check_percentages(names, percentages, path)
    return names, percentages


def columns_of(header: list[str], path: Path) -> list[int]:
    """Return the places of the columns `filename` and the classes in `header`."""
    lacking = [name for name in ("filename", *CLASS_NAMES) if name not in header]
    if lacking:
        raise UserError(f"{path} has no column {', '.join(lacking)}; its first line must name filename and the classes")
    return [header.index(name) for name in ("filename", *CLASS_NAMES)]


def with_suffix(name: str) -> str:
    """Return `name` with `.png`."""
    if not name or "/" in name or "\n" in name:
        raise ValueError(f"{name!r} is no file name")
    return name if name.endswith(SUFFIX) else name + SUFFIX


def check_percentages(names: list[str], percentages: np.ndarray, path: Path) -> None:
    """Raise `UserError` unless each name stands once and each row of `percentages` (N, 7) adds up to 100."""
    sums = percentages.sum(axis=1)
    wrong = np.flatnonzero(~((percentages >= 0).all(axis=1) & (abs(sums - 100) <= SUM_TOLERANCE)))
    if len(wrong):
        told = f"{names[wrong[0]]} add up to {sums[wrong[0]]:g}, not 100"
        raise UserError(f"{path}: the percentages of {told} ({len(wrong):,} such rows); make the table again")
    if len(set(names)) < len(names):
        twice = next(name for name, count in Counter(names).items() if count > 1)
        raise UserError(f"{path} has {twice} twice; leave one row of each image")
