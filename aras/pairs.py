"""Images and their masks: which there are, and one of them read.

A split is a folder `<data>/<split>` with `images/` and `masks/`, in which the same stem names an image and its mask.
`generated` is the exception: `train/generated` holds one drawn image for a mask of `train/masks`.
"""

import hashlib
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from aras.errors import UserError
from aras.legend import NO_DATA, read_mask

SUFFIX = ".png"
GENERATED = "generated"
CONFIDENCE = "confidence"
"""The folder beside masks/ that has the confidence maps of labelled images."""
MODES = ("RGB", "RGBA", "P", "L")
"""Pillow's names for what is read: of others, such as 16-bit grey, its conversion to RGB would cut the values off."""


@dataclass(frozen=True)
class Pairs:
    """The image-mask pairs of a split, in the order of their names."""

    images: Path
    masks: Path
    names: np.ndarray  # (N,) str stems: one block of memory, which forked workers share without copying

    def __len__(self) -> int:
        return len(self.names)

    @property
    def told(self) -> str:
        """How many there are, and a hash of their names: what tells them from others."""
        digest = hashlib.sha256("\n".join(self.names).encode()).hexdigest()
        return f"{len(self):,} pairs with names {digest[:12]}"

    def image(self, index: int) -> Path:
        """Return the image file of pair `index`."""
        return self.images / f"{self.names[index]}{SUFFIX}"

    def mask(self, index: int) -> Path:
        """Return the mask file of pair `index`."""
        return self.masks / f"{self.names[index]}{SUFFIX}"

    def confidence(self, index: int) -> Path:
        """Return the file that tells how sure the mask of pair `index` is; only labelled images have one."""
        return self.masks.parent / CONFIDENCE / f"{self.names[index]}{SUFFIX}"


def find_pairs(data: Path, split: str, limit: int | None = None, only: Path | None = None) -> Pairs:
    """Return the pairs of `split` in the dataset folder `data`, the first `limit` of them if given.

    With `only`, a list of names (see `read_names`), those alone, in the order in which they come without it; the others
    need no mask. The two folders are each listed once, so 380,000 pairs take a second, where a look at every file takes
    a minute.

    Raises:
        UserError: a folder is missing or has no PNG, an image has no mask, or `only` names what is not there.
    """
    folder = data / ("train" if split == GENERATED else split)
    images, masks = folder / (GENERATED if split == GENERATED else "images"), folder / "masks"
    image_names, mask_names = stems(images), stems(masks)
    if split == GENERATED:
        image_names &= mask_names  # what was drawn of masks that are no longer there, or not drawn yet
        if not image_names:
            raise UserError(f"no image of {images} has a mask of its name in {masks}; draw the images again")
    if only:
        image_names = listed_names(only, image_names, images)
    names = sorted(image_names)[:limit]
    without = [name for name in names if name not in mask_names]
    if without:
        raise UserError(
            f"{masks / (without[0] + SUFFIX)} is missing ({len(without)} of {len(names)} images of {images} have no"
            f" mask); {'run segmentation_predict.py' if split == 'synth' else 'make the dataset again'}"
        )
    return Pairs(images, masks, np.array(names))


def listed_names(path: Path, there: set[str], folder: Path) -> set[str]:
    """Return the names in the list `path`, all of which are among those `there` are in `folder`.

    Raises:
        UserError: some are not, or the list cannot be used.
    """
    names = read_names(path)
    missing = sorted(names - there)
    if missing:
        raise UserError(
            f"{path} names {missing[0]}, which is no image of {folder} with a mask ({len(missing)} of its {len(names)}"
            " names are not); make the list again, or name that of this set"
        )
    return names


def read_names(path: Path) -> set[str]:
    """Return the names of images in the list `path`: one a line, with or without `.png`; empty lines are left out.

    Raises:
        UserError: it cannot be read, has no name, or has one twice.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except FileNotFoundError:
        raise UserError(f"{path} is missing; write a list of names by synthetic_select.py, or name another") from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is not a list of names, one a line; name another") from None
    names = [line.strip().removesuffix(SUFFIX) for line in lines if line.strip()]
    if not names:
        raise UserError(f"{path} names no image; make the list again with milder thresholds, or leave the set out")
    twice = next((name for name, count in Counter(names).items() if count > 1), None)
    if twice:
        raise UserError(f"{path} has {twice} twice; give each name once, as images do not count double")
    return set(names)


def stems(folder: Path) -> set[str]:
    """Return the stems of the PNG files in `folder`.

    Raises:
        UserError: there is no such folder, or no PNG in it, or one whose name is no text.
    """
    try:
        with os.scandir(folder) as entries:
            found = {entry.name[: -len(SUFFIX)] for entry in entries if entry.name.endswith(SUFFIX)}
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(
            f"{folder} is not a folder; check the path, or make it first (dataset_creator.py, or a GAN)"
        ) from None
    if not found:
        raise UserError(f"{folder} has no PNG image; check the path, or make the dataset again with another --seed")
    try:
        "".join(found).encode()
    except UnicodeEncodeError:
        raise UserError(f"{folder} has a PNG whose name is not UTF-8; rename it") from None
    return found


def read_image(path: Path) -> np.ndarray:
    """Return the image file `path` as (H, W, 3) uint8 RGB.

    Raises:
        UserError: it is missing, cannot be read, or does not have 8 bits a channel.
    """
    try:
        with Image.open(path) as image:
            if image.mode in MODES:
                return np.asarray(image.convert("RGB"))
            mode = image.mode
    except FileNotFoundError:
        raise UserError(f"{path} is missing; it was there when the folder was listed") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        # Pillow's message repeats the path, or the file object that it was given.
        reason = "not an image" if isinstance(error, Image.UnidentifiedImageError) else str(error)
        raise UserError(f"{path} cannot be read ({reason}); delete it and make it again") from None
    raise UserError(f"{path} has pixels of mode {mode}; make it an 8-bit image of mode {', '.join(MODES)}")


def image_size(path: Path) -> tuple[int, int]:
    """Return (height, width) of the image file `path`, from its header alone.

    Raises:
        UserError: it is missing or cannot be read.
    """
    try:
        with Image.open(path) as image:
            return image.height, image.width
    except (OSError, SyntaxError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({type(error).__name__}); delete it and make it again") from None


def read_pair(image_path: Path, mask_path: Path, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Return the image (H, W, 3) uint8 and the labels (H, W) uint8 of one pair.

    Raises:
        UserError: a file cannot be read, is not (height, width) = `size`, or a mask has a colour outside the legend.
    """
    image, labels = read_image(image_path), read_mask(mask_path)
    for path, array in ((image_path, image), (mask_path, labels)):
        if array.shape[:2] != size:
            raise UserError(
                f"{path} is {told_size(array.shape[:2])} pixels where the others are {told_size(size)};"
                " make the dataset again with one patch size"
            )
    return image, labels


def ignore_unsure(labels: np.ndarray, path: Path, least: float) -> np.ndarray:
    """Return `labels` (H, W) uint8 with `NO_DATA` where the confidence map `path` is under `least`, 0..1.

    The map is an 8-bit grey PNG of the same size, in which 255 is a probability of 1.

    Raises:
        UserError: it is missing, cannot be read, or is not such a map.
    """
    remedy = "segmentation_predict.py --confidence-maps"
    try:
        with Image.open(path) as image:
            mode, confidence = image.mode, np.asarray(image)
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{path} is missing; write the maps with {remedy}") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = "not an image" if isinstance(error, Image.UnidentifiedImageError) else str(error)
        raise UserError(f"{path} cannot be read ({reason}); delete it and make it again with {remedy}") from None
    if mode != "L":
        raise UserError(f"{path} has pixels of mode {mode}; a map is 8-bit grey (L), so make it again with {remedy}")
    if confidence.shape != labels.shape:
        told = f"{told_size(confidence.shape)} pixels where its mask is {told_size(labels.shape)}"
        raise UserError(f"{path} is {told}; delete it and make it again with {remedy}")
    unsure = np.arange(256) / 255 < least  # by grey value
    return np.where(unsure[confidence], np.uint8(NO_DATA), labels)


def told_size(size: tuple[int, ...]) -> str:
    """Return (height, width) as people say it, width first."""
    return f"{size[1]}x{size[0]}"
