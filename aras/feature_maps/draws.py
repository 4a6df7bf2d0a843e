"""Folders of images to compare: which images of each, and which of them are neighbours on the ground."""

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from aras.blocks import blocks_of
from aras.errors import UserError
from aras.pairs import SUFFIX, read_image, stems


@dataclass(frozen=True)
class ImageDraw:
    """Images of one folder, all of them or as many as were drawn."""

    name: str  # of the set
    folder: Path
    names: np.ndarray  # (N,) str stems, sorted
    stamp: str  # a hash of their names, sizes and times: another for other images

    def __len__(self) -> int:
        return len(self.names)

    def image(self, index: int) -> np.ndarray:
        """Return image `index` (H, W, 3) uint8."""
        return read_image(self.folder / f"{self.names[index]}{SUFFIX}")


def folders_given(texts: Iterable[str], option: str) -> dict[str, Path]:
    """Return the folder of each set by its name, from `NAME=DIR` as `--option` was given.

    Raises:
        UserError: one has another form, or two have one name.
    """
    found: dict[str, Path] = {}
    for text in texts:
        name, equals, folder = text.partition("=")
        if not equals or not folder or not re.fullmatch(r"\w[\w.-]*", name):
            raise UserError(f"--{option} {text} is not NAME=DIR with a name of letters, digits, '.', '-' and '_'")
        if name in found:
            raise UserError(f"--{option} {name} is given twice; give each set a name of its own")
        found[name] = Path(folder)
    return found


def draw_images(name: str, folder: Path, most: int, seed: int) -> ImageDraw:
    """Return the images of `folder`, `most` of them drawn without replacement if there are more.

    The draw follows from `seed` and the number of images alone, so folders with the same names give the same names.

    Raises:
        UserError: there is no such folder, or no PNG in it.
    """
    names = np.array(sorted(stems(folder)))
    if len(names) > most:
        names = names[np.sort(np.random.default_rng(seed).choice(len(names), most, replace=False))]
    digest = hashlib.sha256()
    for stem in names.tolist():
        path = folder / f"{stem}{SUFFIX}"
        try:
            status = path.stat()
        except FileNotFoundError:
            raise UserError(
                f"{path} is missing or a link to nowhere; make the image again, or delete the link"
            ) from None
        digest.update(json.dumps([stem, status.st_size, status.st_mtime_ns]).encode())
    return ImageDraw(name, folder, names, digest.hexdigest())


def blocks_of_draws(draws: list[ImageDraw]) -> np.ndarray:
    """Return which block of neighbouring patches each image is in, (N,) str; an image that is no patch is its own.

    Images of the same place in two sets, as a patch and what was drawn from its mask, are in one block.
    """
    found: list[str] = []
    for draw in draws:
        blocks = blocks_of(draw.folder.parent.parent, draw.names)
        names = [f"{'' if tile else draw.name}/{name}" for name, tile in zip(blocks.names, blocks.tiles, strict=True)]
        found += [names[index] for index in blocks.index.tolist()]
    return np.array(found)
