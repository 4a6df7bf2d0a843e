"""The sets of images that are compared: which images of each, where their masks are, and who made those masks.

Every measure is of the same number of images of every set, since most of them change with that number. Sets that lie
in one folder share what is computed of its images.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from aras.blocks import blocks_of
from aras.errors import UserError
from aras.feature_maps.draws import ImageDraw
from aras.files import read_json
from aras.legend import read_mask
from aras.pairs import GENERATED, SUFFIX, image_size, stems, told_size

NONE = "none"
"""What stands for no folder on the command line."""

Size = tuple[int, int]
"""Height and width in pixels."""

Stamps = np.ndarray
"""(N, 2) int64: size in bytes and time of the last change in nanoseconds of files.

The change is that of the inode, which no tool sets back: files unpacked from archives often all have one time of
writing, and images without compression one size.
"""


@dataclass(frozen=True)
class Folder:
    """The images of one folder that any set needs, and their masks.

    Attributes:
        images: the images, in the order of their names.
        stamps: what tells each image from an earlier one of its name.
        masks: the folder of masks of the same names, None if there are none.
        mask_stamps: as `stamps`, of the masks.
    """

    images: ImageDraw
    stamps: Stamps
    masks: Path | None
    mask_stamps: Stamps | None

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True)
class ImageSet:
    """One set: some images of a folder.

    Attributes:
        name: of the set.
        folder: where they are.
        places: (N,) int64, ascending: which of the folder's images they are.
    """

    name: str
    folder: Folder
    places: np.ndarray

    def __len__(self) -> int:
        return len(self.places)

    @property
    def names(self) -> np.ndarray:
        """The stems of its images, (N,) str, sorted."""
        return self.folder.images.names[self.places]

    @property
    def images(self) -> Path:
        """The folder of its images."""
        return self.folder.images.folder

    @property
    def stamp(self) -> str:
        """A hash of the names, sizes and times of its images and masks: another for another set."""
        digest = hashlib.sha256(json.dumps(self.names.tolist()).encode())
        for stamps in (self.folder.stamps, self.folder.mask_stamps):
            digest.update(b"none" if stamps is None else np.ascontiguousarray(stamps[self.places]).tobytes())
        return digest.hexdigest()

    @property
    def blocks(self) -> np.ndarray:
        """Which block of neighbouring patches each image is in, (N,) str; an image that is no patch is its own."""
        found = blocks_of(self.images.parent.parent, self.names)
        return np.array(found.names)[found.index]


@dataclass(frozen=True)
class Wanted:
    """A set as it was asked for."""

    name: str
    folder: Path
    masks: Path | None

    @property
    def place(self) -> tuple[Path, Path | None]:
        """Where it lies, however that is spelt."""
        return self.folder.resolve(), self.masks.resolve() if self.masks else None


def masks_beside(images: Path) -> Path:
    """Return where the masks of the folder `images` are by the layout of a dataset, whether or not they are there."""
    return images.parent / "masks"


def names_in(wanted: Wanted) -> np.ndarray:
    """Return the stems of the images of a set, (N,) str, sorted; of `train/generated` those whose masks still exist.

    Raises:
        UserError: there is no such folder, or no PNG in it.
    """
    found, masks = stems(wanted.folder), masks_beside(wanted.folder)
    if wanted.folder.name == GENERATED and masks.is_dir():
        found &= stems(masks)
        if not found:
            raise UserError(f"no image of {wanted.folder} has a mask of its name in {masks}; draw the images again")
    return np.array(sorted(found))


def equal_number(names: dict[str, np.ndarray], most: int) -> int:
    """Return how many images of every set are compared: of the smallest all, but no more than `most`.

    Args:
        names: those of each set by its name.
        most: at most.

    Raises:
        UserError: a set has fewer than two.
    """
    smallest = min(names, key=lambda name: len(names[name]))
    if len(names[smallest]) < 2:
        raise UserError(f"the set {smallest} has one image, and a distance between sets needs two; add some")
    return min(len(names[smallest]), most)


def drawn(names: np.ndarray, count: int | None, seed: int) -> np.ndarray:
    """Return `count` of `names` (N,), sorted; drawn by `seed` so that fewer are among those of more."""
    if count is None or count >= len(names):
        return names
    return np.sort(names[np.random.default_rng(seed).permutation(len(names))[:count]])


def stamps_of(folder: Path, names: np.ndarray, remedy: str) -> Stamps:
    """Return the stamps of the PNG files `names` of `folder`.

    Raises:
        UserError: one is missing; the line ends with `remedy`.
    """
    found = np.empty((len(names), 2), np.int64)
    for index, name in enumerate(names.tolist()):
        path = folder / f"{name}{SUFFIX}"
        try:
            status = path.stat()
        except FileNotFoundError:
            raise UserError(f"{path} is missing; {remedy}") from None
        found[index] = status.st_size, status.st_ctime_ns
    return found


def find_sets(wanted: list[Wanted], names: dict[str, np.ndarray]) -> dict[str, ImageSet]:
    """Return by name the sets that are `wanted` with the images `names`, and one `Folder` for all that lie in it.

    Raises:
        UserError: an image or its mask is missing.
    """
    found: dict[str, ImageSet] = {}
    for place in dict.fromkeys(each.place for each in wanted):
        together = [each for each in wanted if each.place == place]
        union = np.unique(np.concatenate([names[each.name] for each in together]))
        folder = folder_of(together[0], union)
        for each in together:
            found[each.name] = ImageSet(each.name, folder, np.searchsorted(union, names[each.name]))
    return {each.name: found[each.name] for each in wanted}


def folder_of(wanted: Wanted, names: np.ndarray) -> Folder:
    """Return the folder of `wanted` with the images `names` (N,)."""
    stamps = stamps_of(wanted.folder, names, "make the image again, or delete the link")
    digest = hashlib.sha256(json.dumps(names.tolist()).encode() + stamps.tobytes()).hexdigest()
    images = ImageDraw(wanted.name, wanted.folder, names, digest)
    if wanted.masks is None:
        return Folder(images, stamps, None, None)
    remedy = f"label the images (segmentation_predict.py), or leave the masks out by --masks {wanted.name}={NONE}"
    return Folder(images, stamps, wanted.masks, stamps_of(wanted.masks, names, remedy))


def check_sizes(sets: list[ImageSet]) -> Size:
    """Return (height, width) of the images, by the first of each set.

    Raises:
        UserError: they differ from set to set.
    """
    sizes = {each.name: image_size(each.folder.images.folder / f"{each.names[0]}{SUFFIX}") for each in sets}
    first, size = next(iter(sizes.items()))
    for name, other in sizes.items():
        if other != size:
            raise UserError(
                f"the images of {name} are {told_size(other)} pixels and those of {first} {told_size(size)}; resize"
                " one set, since every measure depends on the size"
            )
    return size


def labelled_by(masks: Path) -> tuple[str, ...] | None:
    """Return the SHA-256 of the weights that predicted `masks`, None if no run.json of such a labelling tells of any.

    It is beside the folder of masks, as segmentation_predict.py writes it.
    """
    for record in (masks.with_name(f"{masks.name}.run.json"), masks.with_name("run.json")):
        told = read_json(record) if record.is_file() else None
        options = told.get("options") if isinstance(told, dict) else None
        if isinstance(options, dict) and isinstance(options.get("weights"), list) and options.get("weights_sha256"):
            return tuple(str(options["weights_sha256"]).split())
    return None


def mask_of_size(masks: Path, name: str, size: Size) -> np.ndarray:
    """Return the labels (H, W) uint8 of the mask `name` in the folder `masks`.

    Raises:
        UserError: it cannot be read, or is not of `size`.
    """
    path = masks / f"{name}{SUFFIX}"
    labels = read_mask(path)
    if labels.shape != size:
        raise UserError(
            f"{path} is {told_size(labels.shape)} pixels and its image {told_size(size)}; make the mask again"
        )
    return labels
