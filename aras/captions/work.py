"""Which images or percentage rows are to be captioned, and into which CSV.

Names, not objects, are held: a set of 300,000 images takes some tens of megabytes.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from aras.captions.percentages import read_percentages
from aras.errors import UserError
from aras.pairs import SUFFIX, stems
from aras.splits import SPLITS

CAPTIONED_SPLITS = (*SPLITS, "synth")


@dataclass(frozen=True)
class Item:
    """One thing to caption.

    Attributes:
        name: the image's file name, with `.png`.
        image: its file, where there is one.
        percentages: (7,) of the classes in the legend's order, where they are known.
        mask: its mask, where there is one.
    """

    name: str
    image: Path | None = None
    percentages: tuple[float, ...] | None = None
    mask: Path | None = None


@dataclass(frozen=True)
class Work:
    """What is captioned into one CSV, in the order of names.

    Attributes:
        table: the CSV of the whole set.
        names: (N,) file names with `.png`.
        images: folder of the images, if they are wanted.
        percentages: (N, 7) float64, if they are wanted.
        masks: folder of the masks, if they are wanted.
        part: (i, n) when this is shard i of n.
    """

    table: Path
    names: np.ndarray
    images: Path | None = None
    percentages: np.ndarray | None = None
    masks: Path | None = None
    part: tuple[int, int] | None = None

    def __len__(self) -> int:
        return len(self.names)

    @property
    def output(self) -> Path:
        """The CSV to write: a shard has its own, so that the jobs of an array never share one."""
        return shard_path(self.table, *self.part) if self.part else self.table

    def item(self, index: int) -> Item:
        """Return item `index`."""
        name = str(self.names[index])
        return Item(
            name,
            self.images / name if self.images else None,
            tuple(self.percentages[index].tolist()) if self.percentages is not None else None,
            self.masks / name if self.masks else None,
        )

    def items(self, without: set[str]) -> Iterator[Item]:
        """Yield the items in order, those named in `without` left out."""
        for index, name in enumerate(self.names.tolist()):
            if name not in without:
                yield self.item(index)

    def first(self, limit: int | None) -> "Work":
        """Return the first `limit` of it, all if None."""
        return self._of(slice(limit))

    def shard(self, shard: tuple[int, int] | None) -> "Work":
        """Return `shard` (i, n), every n-th item from the i-th on; all of it if None."""
        if shard is None:
            return self
        i, n = shard
        return replace(self._of(slice(i - 1, None, n)), part=shard)

    def _of(self, part: slice) -> "Work":
        percentages = None if self.percentages is None else self.percentages[part]
        return replace(self, names=self.names[part], percentages=percentages)


def shard_path(table: Path, i: int, n: int) -> Path:
    """Return the CSV of shard i of n of what is to be joined in `table`."""
    return table.with_name(f"{table.stem}_shard_{i}_of_{n}{table.suffix}")


def shards_of(table: Path) -> list[Path]:
    """Return the CSVs of shards that lie beside `table`, however many shards there were to be."""
    pattern = re.compile(re.escape(table.stem) + r"_shard_\d+_of_\d+" + re.escape(table.suffix))
    folder = table.parent
    return sorted(p for p in folder.iterdir() if pattern.fullmatch(p.name)) if folder.is_dir() else []


def parse_shard(text: str) -> tuple[int, int]:
    """Return (i, n) of `i/n`, 1 <= i <= n.

    Raises:
        UserError: it is not that.
    """
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    i, n = (int(found[1]), int(found[2])) if found else (0, 0)
    if not 1 <= i <= n:
        raise UserError(f"--shard {text} is not I/N with I from 1 to N, such as 1/8")
    return i, n


def split_work(data: Path, split: str, output: Path, image: bool, percentages: bool, mask: bool) -> Work:
    """Return the work on one split of the dataset folder `data`.

    Args:
        data: the dataset's folder.
        split: train, val, test or synth.
        output: the CSV to write.
        image: whether images are wanted.
        percentages: whether percentages are wanted.
        mask: whether masks are wanted.

    Raises:
        UserError: what is wanted is not there.
    """
    table = data / "class_percentages" / f"{split}.csv"
    folder = data / split
    return own_work(
        output,
        folder / "images" if image else None,
        table if percentages else None,
        folder / "masks" if mask else None,
    )


def own_work(output: Path, images: Path | None, percentages: Path | None, masks: Path | None) -> Work:
    """Return the work on a folder of images, on a table of percentages, or on both joined by name.

    Raises:
        UserError: none of them is given, or one is missing, cannot be read or does not cover the others.
    """
    names: list[str] = []
    rows: np.ndarray | None = None
    if percentages:
        names, rows = read_percentages(percentages)
    if images:
        listed = sorted(name + SUFFIX for name in stems(images))
        if rows is not None:
            rows = rows[rows_of(listed, names, images, percentages)]
        names = listed
    if not names:
        raise UserError("nothing to caption: name a folder by --images or a table by --percentages")
    order = np.argsort(np.array(names))
    if masks:
        check_covered(names, {stem + SUFFIX for stem in stems(masks)}, images or percentages, masks)
    ordered = np.array(names)[order]
    return Work(output, ordered, images, None if rows is None else rows[order], masks)


def rows_of(listed: list[str], names: list[str], images: Path, percentages: Path | None) -> list[int]:
    """Return the row of each of the images `listed` in a table of `names`."""
    place = {name: row for row, name in enumerate(names)}
    check_covered(listed, place.keys(), images, percentages)
    return [place[name] for name in listed]


def check_covered(names: Iterable[str], there: Iterable[str], of: Path | None, place: Path | None) -> None:
    """Raise `UserError` when one of `names` is not `there`, in `place`."""
    missing = sorted(set(names) - set(there))
    if missing:
        raise UserError(f"{place} lacks {missing[0]} ({len(missing):,} that {of} has); make it again, complete")


def splits_present(data: Path, image: bool) -> list[str]:
    """Return the splits under `data` that have images, or percentages where no `image` is wanted.

    Raises:
        UserError: there is none.
    """
    there = [
        split
        for split in CAPTIONED_SPLITS
        if (data / split / "images" if image else data / "class_percentages" / f"{split}.csv").exists()
    ]
    if not there:
        wanted = "{train,val,test,synth}/images" if image else "class_percentages/{train,val,test,synth}.csv"
        raise UserError(f"{data} has no {wanted}; check --data, or make the dataset first (dataset_creator.py)")
    return there
