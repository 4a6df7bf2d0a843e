"""The tables of a dataset: patches, footprints, class percentages, skipped patches.

Workers leave one record per patch position, in one file per work unit. The tables are made from all records together,
in the order of names, so they are the same whatever the number of workers and of interruptions. Records are read twice
rather than held: what grows with the dataset is one pair of numbers per kept patch.
"""

import csv
import json
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from aras.blocks import block_name
from aras.files import whole_file, write_text
from aras.legend import CLASS_NAMES, class_percentages
from aras.rasters import corner_of
from aras.splits import SPLITS, smallest_gap
from aras.tiles import patch_name

PERCENTAGE_COLUMNS = ("filename", *CLASS_NAMES)
PATCH_COLUMNS = ("name", "split", "tile", "row", "col", "block", "west", "south", "east", "north")
METERS_PER_DEGREE = 111_320
"""Of latitude; of longitude at the equator."""


class PatchRecord(NamedTuple):
    """What became of one patch position; `outcome` is a split or the reason why it was dropped."""

    tile: str
    row: int
    col: int
    per_degree: int
    outcome: str
    counts: np.ndarray  # (7,) pixels of each class; zeros when dropped

    @property
    def name(self) -> str:
        """The patch's name."""
        return patch_name(self.tile, self.row, self.col)

    def corner(self, patch_size: int) -> tuple[int, int]:
        """Return the global (row, column) of its north-west pixel."""
        lat, lon = corner_of(self.tile)
        top, left = (90 - lat - 1) * self.per_degree, (lon + 180) * self.per_degree
        return top + self.row * patch_size, left + self.col * patch_size

    def bounds(self, patch_size: int) -> tuple[float, float, float, float]:
        """Return (west, south, east, north) in degrees."""
        top, left = self.corner(patch_size)
        n = self.per_degree
        edges = (left / n - 180, 90 - (top + patch_size) / n, (left + patch_size) / n - 180, 90 - top / n)
        return tuple(round(edge, 8) for edge in edges)  # type: ignore[return-value]


def patch_record(tile: str, row: int, col: int, per_degree: int, outcome: str, counts: np.ndarray | None) -> str:
    """Return a record as a line of its unit's file; `records` reads it back."""
    told = " ".join(map(str, counts)) if counts is not None else ""
    return f"{tile},{row},{col},{per_degree},{outcome},{told}\n"


def write_unit(path: Path, key: str, lines: list[str]) -> None:
    """Write the records of a finished unit, made from what `key` stands for."""
    write_text(path, f"{key}\n" + "".join(lines), alone=False)


def unit_key(path: Path) -> str:
    """Return the key of the unit whose records are at `path`."""
    with path.open() as file:
        return file.readline().rstrip("\n")


def unit_records(path: Path) -> Iterator[PatchRecord]:
    """Yield the records of one unit."""
    with path.open(newline="") as file:
        next(file)
        for tile, row, col, per_degree, outcome, counts in csv.reader(file):
            pixels = np.array(counts.split(), dtype=np.int64) if counts else np.zeros(len(CLASS_NAMES), np.int64)
            yield PatchRecord(tile, int(row), int(col), int(per_degree), outcome, pixels)


def records(folder: Path) -> Iterator[PatchRecord]:
    """Yield the records of all units below `folder`, in the order of tile, row and column."""
    for path in sorted(folder.glob("*.csv"), key=unit_order):
        yield from unit_records(path)


def unit_order(path: Path) -> tuple[str, int]:
    """Return the key by which unit files sort: tile, then first row as a number."""
    tile, row = path.stem.split("_")
    return tile, int(row)


@dataclass
class Tally:
    """What came out.

    Attributes:
        kept: patches by split.
        dropped: patch positions by reason.
        pixels: by split, pixels of each class (7,).
        gaps: smallest distance in pixels between two splits, by "train-val" and so on.
        pixel_meters: height of a pixel.
        fractions: the shares that the splits were to have.
    """

    fractions: tuple[float, float, float]
    kept: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    pixels: dict[str, np.ndarray] = field(default_factory=lambda: {s: np.zeros(len(CLASS_NAMES), int) for s in SPLITS})
    gaps: dict[str, int] = field(default_factory=dict)
    pixel_meters: float = 0.0

    def lines(self) -> Iterator[str]:
        """Yield the tally as lines of text."""
        yield f"{'split':8}{'patches':>9}  " + "".join(f"{name:>10}" for name in CLASS_NAMES) + "   (% of pixels)"
        for split in SPLITS:
            shares = "".join(f"{share:10.2f}" for share in class_percentages(self.pixels[split]))
            yield f"{split:8}{self.kept[split]:9,}  {shares}"
        if self.dropped:
            yield "dropped: " + ", ".join(f"{reason} {count:,}" for reason, count in sorted(self.dropped.items()))
        for pair, gap in self.gaps.items():
            yield f"smallest distance {pair}: {gap:,} pixels (about {gap * self.pixel_meters:,.0f} m north to south)"
        for split, share in zip(SPLITS, self.fractions, strict=True):
            if self.kept and share and not self.kept[split]:
                yield f"WARNING: {split} is empty; try another --seed or a smaller --block-size"


def write_tables(
    output: Path, progress: Path, patch_size: int, block_size: int, fractions: tuple[float, float, float]
) -> Tally:
    """Write all tables of the dataset at `output` from the records in `progress`; return what they add up to."""
    tally = Tally(fractions)
    corners: dict[str, list[tuple[int, int]]] = {split: [] for split in SPLITS}
    with ExitStack() as stack:

        def table(path: Path, columns: tuple[str, ...]) -> Any:
            part = stack.enter_context(whole_file(path))
            writer = csv.writer(stack.enter_context(part.open("w", newline="")), lineterminator="\n")
            writer.writerow(columns)
            return writer

        patches, skipped = (
            table(output / "patches.csv", PATCH_COLUMNS),
            table(output / "skipped.csv", ("name", "reason")),
        )
        percentages = {s: table(output / "class_percentages" / f"{s}.csv", PERCENTAGE_COLUMNS) for s in SPLITS}
        for record in records(progress):
            if record.outcome not in SPLITS:
                tally.dropped[record.outcome] += 1
                skipped.writerow((record.name, record.outcome))
                continue
            tally.kept[record.outcome] += 1
            tally.pixels[record.outcome] += record.counts
            tally.pixel_meters = METERS_PER_DEGREE / record.per_degree
            corners[record.outcome].append(record.corner(patch_size))
            percentages[record.outcome].writerow((f"{record.name}.png", *class_percentages(record.counts)))
            place = (record.tile, record.row, record.col)
            patches.writerow(
                (record.name, record.outcome, *place, block_name(*place, block_size), *record.bounds(patch_size))
            )
    write_footprints(output / "patches.geojson", progress, patch_size)
    tally.gaps = smallest_gap({split: np.array(where) for split, where in corners.items()}, patch_size)
    return tally


def write_footprints(path: Path, progress: Path, patch_size: int) -> None:
    """Write the outlines of all kept patches as GeoJSON (RFC 7946), one feature a line."""
    with whole_file(path) as part, part.open("w") as file:
        file.write('{"type": "FeatureCollection", "features": [')
        comma = ""
        for record in records(progress):
            if record.outcome not in SPLITS:
                continue
            west, south, east, north = record.bounds(patch_size)
            ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
            feature = {
                "type": "Feature",
                "properties": {
                    "name": record.name,
                    "split": record.outcome,
                    "tile": record.tile,
                    "row": record.row,
                    "col": record.col,
                },
                "geometry": {"type": "Polygon", "coordinates": [ring]},
            }
            file.write(f"{comma}\n{json.dumps(feature)}")
            comma = ","
        file.write("\n]}\n")
