"""What is shown of sets of any size: draws that one pass makes and that depend on nothing but seed and names."""

import hashlib
import heapq
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np

from aras.legend import CLASS_NAMES, NUM_CLASSES
from aras.pairs import GENERATED, SUFFIX
from aras.report.places import SETS, Places
from aras.report.reading import Reader, numbers_of

T = TypeVar("T")


class Draw(Generic[T]):
    """A random sample of a stream: the items whose keys have the least hashes, so that their order does not matter.

    Attributes:
        most: how many are kept.
        count: how many there were.
    """

    def __init__(self, most: int, seed: int) -> None:
        self.most = most
        self.count = 0
        self.seed = str(seed).encode()
        self.kept: list[tuple[int, str, int, T]] = []  # with a count, so that equal names are never held against items

    def add(self, key: str, item: T) -> None:
        """Take notice of `item`, known as `key`."""
        self.count += 1
        digest = hashlib.blake2b(key.encode("utf-8", "surrogateescape"), digest_size=8, key=self.seed)
        rank = -int.from_bytes(digest.digest())
        if len(self.kept) < self.most:
            heapq.heappush(self.kept, (rank, key, self.count, item))
        elif self.kept and rank > self.kept[0][0]:
            heapq.heapreplace(self.kept, (rank, key, self.count, item))

    def items(self) -> dict[str, T]:
        """Return what is kept, by key in sorted order."""
        return {key: item for _, key, _, item in sorted(self.kept, key=lambda kept: kept[1])}


@dataclass
class SetTally:
    """What is known of a set of images before any is opened.

    Attributes:
        count: images in it.
        shares: (7,) the share of each class in all of it; None when no table tells.
        drawn: some of its stems, with their shares (7,) or None.
    """

    count: int = 0
    shares: np.ndarray | None = None
    drawn: dict[str, np.ndarray | None] = field(default_factory=dict)


def tally_sets(places: Places, reader: Reader, most: int, seed: int) -> dict[str, SetTally]:
    """Return the tally of each set that the dataset has, with draws of at most `most` images."""
    found: dict[str, SetTally] = {}
    for name in SETS:
        table = places.percentages(name)
        tally = tally_table(table, reader, most, seed) if name != GENERATED and table.is_file() else SetTally()
        if not tally.count and places.images(name).is_dir():
            tally = tally_folder(places.images(name), most, seed)
        if tally.count:
            found[name] = tally
    return found


def tally_table(path: Path, reader: Reader, most: int, seed: int) -> SetTally:
    """Return the tally of the set whose percentages are in the table `path`."""
    draw: Draw[np.ndarray] = Draw(most, seed)
    sums = np.zeros(NUM_CLASSES)
    for filename, *cells in reader.rows(path, ("filename", *CLASS_NAMES)):
        shares = numbers_of(cells)
        if shares is None or min(shares) < 0 or not is_file_name(filename):
            reader.note(f"{path} has a row that is no file name and seven percentages, {filename!r}; it is left out")
            continue
        percent = np.array(shares, dtype=np.float64)
        sums += percent
        draw.add(filename.removesuffix(SUFFIX), percent / 100)
    return SetTally(draw.count, sums / max(sums.sum(), 1e-9), dict(draw.items()))


def is_file_name(text: str) -> bool:
    """Return whether `text` names a file in a folder, and nothing out of it."""
    return text not in ("", ".", "..") and "/" not in text and "\0" not in text


def tally_folder(folder: Path, most: int, seed: int) -> SetTally:
    """Return the tally of the images in `folder`, which no table tells of."""
    draw: Draw[None] = Draw(most, seed)
    for stem in stems_in(folder):
        draw.add(stem, None)
    return SetTally(draw.count, None, dict(draw.items()))


def stems_in(folder: Path) -> Iterator[str]:
    """Yield the stems of the PNG files in `folder`, in no order."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.endswith(SUFFIX):
                yield entry.name.removesuffix(SUFFIX)


def dealt_out(counts: dict[str, int], total: int) -> dict[str, int]:
    """Return how many of `counts` each set gives to `total`: the same number, or all it has where that is less."""
    given: dict[str, int] = {}
    left = total
    for rank, name in enumerate(sorted(counts, key=lambda name: counts[name])):
        given[name] = min(counts[name], left // (len(counts) - rank))
        left -= given[name]
    return {name: given[name] for name in counts}
