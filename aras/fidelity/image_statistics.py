"""What can be said of each image without a network: its power spectrum, its colours, and which classes touch in it.

A row has one after the other the power at each radius, the pixels of each level of red, green and blue, and where there
are masks the neighbours of each two classes and the class of most pixels. Chunks of images are measured by an engine's
workers, which write nothing; rows are kept as features are.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from aras.engines import Engine, each_unordered
from aras.errors import UserError
from aras.feature_maps.row_files import lacking_rows
from aras.fidelity.adjacency import adjacency
from aras.fidelity.caching import Cache
from aras.fidelity.colours import colour_histograms
from aras.fidelity.conditional import dominant_classes
from aras.fidelity.sets import Folder, Size, mask_of_size
from aras.fidelity.spectra import radial_power
from aras.legend import NUM_CLASSES
from aras.loading import cuts
from aras.pairs import SUFFIX, read_image, told_size

VERSION = "1"
"""Of how they are measured: another makes those that are kept be measured again."""

CHUNK = 128
"""Images that a worker measures at a time: 25 MB of 256 pixels a side."""

LEVELS = (3, 256)
BORDERS = (NUM_CLASSES, NUM_CLASSES)
PIXELS, PAIRS = 3 * 256, NUM_CLASSES**2


@dataclass(frozen=True)
class Statistics:
    """Which columns of a row are what.

    Attributes:
        radii: K, how many numbers a spectrum has.
        masks: whether there are borders between classes.
    """

    radii: int
    masks: bool

    @property
    def width(self) -> int:
        """How many numbers a row has."""
        return self.radii + PIXELS + (PAIRS + 1 if self.masks else 0)

    def spectra(self, rows: np.ndarray) -> np.ndarray:
        """Return the power (N, K) of `rows` (N, width)."""
        return rows[:, : self.radii]

    def colours(self, rows: np.ndarray) -> np.ndarray:
        """Return the pixels (N, 3, 256) of each level."""
        return rows[:, self.radii : self.radii + PIXELS].reshape(-1, *LEVELS)

    def borders(self, rows: np.ndarray) -> np.ndarray:
        """Return the neighbours (N, 7, 7) of each two classes."""
        return rows[:, self.radii + PIXELS : self.radii + PIXELS + PAIRS].reshape(-1, *BORDERS)

    def classes(self, rows: np.ndarray) -> np.ndarray:
        """Return the class (N,) uint8 that most of each mask is of."""
        return rows[:, -1].astype(np.uint8)


def statistics_of(size: Size, masks: bool) -> Statistics:
    """Return what is measured of images of (height, width) `size`, with or without masks."""
    return Statistics(radial_power(np.zeros((1, *size, 3), np.uint8)).shape[1], masks)


@dataclass(frozen=True)
class Chunk:
    """Images that a worker measures together: those of `names` (B,), which begin at place `start`."""

    start: int
    names: tuple[str, ...]


@dataclass(frozen=True)
class Measured:
    """What a worker found: rows (B, width) float32 from place `start` on, and why each that is nan failed, by name."""

    start: int
    rows: np.ndarray
    failures: dict[str, str]


def measure_chunk(chunk: Chunk, images: Path, masks: Path | None, size: Size) -> Measured:
    """Return the rows of `chunk` of the folders `images` and `masks`, whose files are of (height, width) `size`."""
    measured = statistics_of(size, masks is not None)
    rows = np.full((len(chunk.names), measured.width), np.nan, np.float32)
    failures: dict[str, str] = {}
    pixels, labels, good = [], [], []
    for index, name in enumerate(chunk.names):
        try:
            image = read_image(images / f"{name}{SUFFIX}")
            if image.shape[:2] != size:
                told = f"{told_size(image.shape[:2])} pixels where the others are {told_size(size)}"
                raise UserError(f"{images / (name + SUFFIX)} is {told}; make it again")
            labels += [mask_of_size(masks, name, size)] if masks else []
            pixels.append(image)
            good.append(index)
        except UserError as error:
            failures[name] = str(error)
    if good:
        stack = np.stack(pixels)
        parts = [radial_power(stack), colour_histograms(stack).reshape(len(good), -1)]
        if masks:
            read = np.stack(labels)
            parts += [adjacency(read).reshape(len(good), -1), dominant_classes(read)[:, None]]
        rows[good] = np.concatenate(parts, axis=1)
    return Measured(chunk.start, rows, failures)


def measure_images(rows: Cache, folder: Folder, size: Size, engine: Engine, workers: int) -> dict[str, str]:
    """Have `rows` hold the statistics of `folder`'s images of (height, width) `size`; return why each failed, by name.

    Those that a killed run measured are not measured again, and memory does not grow with the number of images.

    Raises:
        UserError: a worker was killed, or the engine cannot be had.
    """
    from tqdm import tqdm

    array = rows.begin(statistics_of(size, folder.masks is not None).width)
    chunks, names = list(chunks_lacking(array, folder.images.names)), folder.images.name
    images, masks = folder.images.folder.resolve(), folder.masks.resolve() if folder.masks else None
    work = partial(measure_chunk, images=images, masks=masks, size=size)
    failures: dict[str, str] = {}
    sees = [images, masks] if masks else [images]
    done = each_unordered(engine, work, chunks, max(workers, 1), sees)
    with tqdm(total=sum(len(chunk.names) for chunk in chunks), desc=f"statistics of {names}", disable=None) as bar:
        for found in done:
            np.load(array, mmap_mode="r+")[found.start : found.start + len(found.rows)] = found.rows
            failures |= found.failures
            bar.update(len(found.rows))
    if not failures:
        rows.end(array)
    return failures


def chunks_lacking(array: Path, names: np.ndarray) -> Iterator[Chunk]:
    """Yield the chunks of images `names` (N,) of which the array file `array` lacks rows."""
    lacking = lacking_rows(array)
    for places in cuts(len(names), CHUNK):
        if lacking[places].any():
            yield Chunk(places[0], tuple(names[places].tolist()))
