"""Rows of numbers, one an image, that are computed once: kept in .npz files, and read in parts.

A row is known by its image's size and time of change, so a file serves every draw of its images, and of a file that
lacks some the others are taken over.
"""

import hashlib
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from aras.errors import UserError
from aras.feature_maps.row_files import ROWS_AT_ONCE, TORN, begin_rows, end_rows, rows_file
from aras.files import part_path
from aras.segmenter import in_short

NAMES, STAMPS, KEY = "names", "stamps", "key"


@dataclass(frozen=True)
class Cache:
    """The rows of one kind of the images of one folder.

    Attributes:
        path: the .npz: `kind` (M, D) float32, `names` (M,), `stamps` (M, 2 or 4) int64 and `key`.
        kind: the name of the rows' array, such as `features`.
        key: what the rows were made by, such as the weights' SHA-256.
        names: of the images whose rows are wanted, (N,) str, sorted.
        stamps: of these images, and of their masks if the rows depend on them, (N, 2 or 4) int64.
    """

    path: Path
    kind: str
    key: str
    names: np.ndarray
    stamps: np.ndarray

    @property
    def digest(self) -> str:
        """What tells these rows from any others."""
        told = "\n".join([self.key, *self.names.tolist()]).encode()
        return hashlib.sha256(told + np.ascontiguousarray(self.stamps).tobytes()).hexdigest()

    def known(self) -> tuple[np.ndarray, np.ndarray]:
        """Return which of the wanted rows the .npz has, and where: (K,) places here and (K,) places there."""
        nothing = np.empty(0, np.int64), np.empty(0, np.int64)
        try:
            with np.load(self.path) as file:
                names, stamps, key = file[NAMES], file[STAMPS], str(file[KEY])
        except TORN:
            return nothing
        if key != self.key or stamps.shape != (len(names), self.stamps.shape[1]) or not len(names):
            return nothing
        there = np.searchsorted(names, self.names).clip(max=len(names) - 1)
        same = (names[there] == self.names) & (stamps[there] == self.stamps).all(axis=1)
        return np.flatnonzero(same), there[same]

    def is_whole(self) -> bool:
        """Return whether every wanted row is there."""
        return len(self.known()[0]) == len(self.names)

    def begin(self, width: int) -> Path:
        """Return an array file (N, `width`) of the wanted rows, nan where they are to be computed.

        It is the one that a killed run left, or a new one with what the .npz has of them.
        """
        rows = rows_file(self.path, self.digest)
        if not rows.exists():
            here, there = self.known()
            begun = part_path(rows)
            begin_rows(begun, (len(self.names), width))
            array = np.load(begun, mmap_mode="r+")
            for places, block in self._blocks(here, there, width):
                array[places] = block
            array.flush()
            begun.replace(rows)
        return rows

    def end(self, rows: Path) -> None:
        """Make the full array file `rows` the .npz."""
        end_rows(rows, self.path, self.kind, {NAMES: self.names, STAMPS: self.stamps, KEY: np.array(self.key)})

    def rows(self, wanted: np.ndarray) -> np.ndarray:
        """Return rows (K, D) float32 of the images at the places `wanted` (K,), ascending, of those wanted here.

        They are a map of a nameless file, so that memory does not grow with them.

        Raises:
            UserError: the .npz is torn, or lacks some.
        """
        here, there = self.known()
        if len(here) < len(self.names):
            raise UserError(f"{self.path} is torn or was changed; delete it, and it is computed again")
        with self._opened() as member:
            width = header_of(member)[1]
        with tempfile.TemporaryFile(dir=self.path.parent) as file:
            # Written rather than mapped: pages of a map would count as this process's memory.
            for _, block in self._blocks(np.arange(len(wanted)), there[wanted], width):
                file.write(block.tobytes())
            file.flush()
            return np.memmap(file, np.float32, "r", shape=(len(wanted), width))

    def _blocks(self, here: np.ndarray, there: np.ndarray, width: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield the places `here` (K,) of rows and the rows themselves, which are at `there` (K,), ascending."""
        if not len(here):
            return
        with self._opened() as member:
            count, found = header_of(member)
            if found != width:
                raise ValueError(f"it has rows of {found} numbers")
            for start in range(0, count, ROWS_AT_ONCE):
                block = np.frombuffer(member.read(4 * width * min(ROWS_AT_ONCE, count - start)), np.float32)
                block = block.reshape(-1, width)
                chosen = slice(*np.searchsorted(there, [start, start + len(block)]))
                yield here[chosen], block[there[chosen] - start]

    @contextmanager
    def _opened(self) -> Iterator[IO[bytes]]:
        """Yield the rows' array file, open; what shows that it is torn is a `UserError`."""
        try:
            with zipfile.ZipFile(self.path) as archive, archive.open(f"{self.kind}.npy") as member:
                yield member
        except TORN as error:
            raise UserError(f"{self.path} is torn ({in_short(error)}); delete it, and it is computed again") from None


def header_of(member: IO[bytes]) -> tuple[int, int]:
    """Return the shape that the header of an open array file tells, and leave the file at its first row.

    Raises:
        ValueError: it is no array of rows of float32.
    """
    np.lib.format.read_magic(member)
    shape, by_column, kind = np.lib.format.read_array_header_1_0(member)
    if len(shape) != 2 or by_column or kind != np.float32:
        raise ValueError("it holds no rows of float32")
    return shape
