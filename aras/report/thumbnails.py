"""Small versions of images and masks, read by several threads, each once, and put onto the page's sheets."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image

from aras.errors import UserError
from aras.legend import COLORS, NUM_CLASSES, read_mask
from aras.pairs import read_image
from aras.report.page import Sprite
from aras.report.pictures import Sheets, scaled, size_within
from aras.report.reading import Reader

CHUNK = 128  # of items in work at a time
T = TypeVar("T")
R = TypeVar("R")


def in_order(work: Callable[[T], R], items: Iterable[T], workers: int) -> Iterator[R]:
    """Yield `work(item)` of each of `items` in their order, by `workers` threads, with a bounded number in memory.

    Pillow leaves Python's lock while it decodes and resizes, so threads are enough.
    """
    rest = iter(items)
    with ThreadPoolExecutor(workers) as pool:
        while chunk := list(islice(rest, CHUNK)):
            yield from pool.map(work, chunk)


class Thumbnails:
    """Thumbnails on the page's sheets.

    Attributes:
        sheets: the sheets.
        reader: takes notes of images that cannot be read.
        workers: how many threads read.
        made: the sprite of each image so far, by path.
    """

    def __init__(self, sheets: Sheets, reader: Reader, workers: int) -> None:
        self.sheets = sheets
        self.reader = reader
        self.workers = workers
        self.made: dict[Path, Sprite | None] = {}

    def image(self, path: Path, pixels: np.ndarray | None) -> Sprite | None:
        """Return the sprite of the thumbnail `pixels` of the image `path`; it is remembered."""
        self.made[path] = self.sheets.add(pixels, lossless=False) if pixels is not None else None
        return self.made[path]

    def mask(self, pixels: np.ndarray | None) -> Sprite | None:
        """Return the sprite of the thumbnail `pixels` of a mask."""
        return self.sheets.add(pixels, lossless=True) if pixels is not None else None

    def images(self, paths: list[Path], most: int) -> list[Sprite | None]:
        """Return the sprites of the images at `paths`, those that are not there yet with sides of at most `most`."""
        new = [path for path in dict.fromkeys(paths) if path not in self.made]
        for path, (pixels, problem) in zip(
            new, in_order(lambda p: image_thumbnail(p, most), new, self.workers), strict=True
        ):
            self.image(path, pixels)
            if problem:
                self.reader.note(problem)
        return [self.made[path] for path in paths]


def image_thumbnail(path: Path, most: int) -> tuple[np.ndarray | None, str]:
    """Return a thumbnail (h, w, 3) uint8 of the image `path`, or None and why there is none."""
    pixels, problem = image_or_problem(path)
    return (None if pixels is None else shrunk(pixels, most)), problem


def shrunk(pixels: np.ndarray, most: int) -> np.ndarray:
    """Return `pixels` (H, W, 3) uint8 with no side of more than `most`."""
    return np.asarray(scaled(Image.fromarray(pixels), most))


def mask_thumbnail(labels: np.ndarray, most: int) -> np.ndarray:
    """Return a thumbnail (h, w, 3) uint8 of `labels` (H, W) in the legend's colours, none of them mixed."""
    height, width = labels.shape
    columns, rows = size_within(width, height, most)
    return COLORS[labels[np.ix_(places_of(height, rows), places_of(width, columns))]]


def places_of(length: int, count: int) -> np.ndarray:
    """Return the indices (count,) of the middles of `count` equal parts of `length`."""
    return (2 * np.arange(count) + 1) * length // (2 * count)


def image_or_problem(path: Path) -> tuple[np.ndarray | None, str]:
    """Return the image `path` (H, W, 3) uint8, or None and why it cannot be read."""
    if not path.is_file():
        return None, f"{path} is missing"
    try:
        return read_image(path), ""
    except UserError as error:
        return None, str(error)


def mask_or_problem(path: Path) -> tuple[np.ndarray | None, str]:
    """Return the labels (H, W) uint8 of the mask `path`, or None and why it cannot be read."""
    if not path.is_file():
        return None, f"{path} is missing"
    try:
        return read_mask(path), ""
    except UserError as error:
        return None, str(error)


def shares_of_labels(labels: np.ndarray) -> np.ndarray:
    """Return the share (7,) of each class in `labels` (H, W)."""
    return np.bincount(labels.ravel(), minlength=NUM_CLASSES)[:NUM_CLASSES] / max(labels.size, 1)
