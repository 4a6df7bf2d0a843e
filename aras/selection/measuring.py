"""What images are chosen by, measured once and kept on disk: features, scores, and the classes of the mask.

Each image becomes a row of D + 2 + 7 numbers. A set that a killed run left half-measured goes on where it stopped, and
what cannot be read is told rather than raised: it is the first reason for which an image is left out.
"""

import hashlib
import json
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from aras.errors import UserError
from aras.feature_maps.draws import ImageDraw, draw_images
from aras.feature_maps.features import is_cached, refusal
from aras.feature_maps.row_files import ROWS_AT_ONCE, begin_rows, end_rows, fill_rows, rows_file
from aras.feature_spaces import FeatureSpace, encoder_space
from aras.inference import labels_and_confidence
from aras.legend import NUM_CLASSES, read_mask
from aras.pairs import SUFFIX, told_size
from aras.segmenter import load_segmenter

if TYPE_CHECKING:
    import torch

READERS = 8  # threads; decompression lets go of the interpreter
SCORES = ("confidence", "agreement")
"""The mean probability of the segmenter's labels, and the share of labelled pixels that it labels as the mask does."""

EXTRA = len(SCORES) + NUM_CLASSES  # columns beside the features

ALL = 2**62  # images


@dataclass(frozen=True)
class ImageFolder:
    """Images and, if there are any, their masks.

    Attributes:
        draw: the images.
        masks: the folder of a mask for each.
    """

    draw: ImageDraw
    masks: Path | None

    def key(self, *more: Any) -> str:
        """Return what tells the rows of these images from those of others, or measured by others than `more`."""
        stamp = draw_images("masks", self.masks, ALL, 0).stamp if self.masks else None
        return hashlib.sha256(json.dumps([self.draw.stamp, stamp, *more]).encode()).hexdigest()


@dataclass(frozen=True)
class Rows:
    """The rows (N, D + 9) float32 in an .npz, read block by block: as a whole they may not fit the memory.

    Attributes:
        path: of the .npz.
        offset: where they begin, in bytes.
        shape: (N, D + 9).
        failures: why an image could not be used, by name; its row is nan.
    """

    path: Path
    offset: int
    shape: tuple[int, int]
    failures: dict[str, str]

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def width(self) -> int:
        """D, how many features there are."""
        return self.shape[1] - EXTRA

    def features_of(self, places: np.ndarray | None = None) -> Any:
        """Return the features (M, D) float32 of the images at `places` (M,), of all without: read when indexed."""
        return Features(self, np.arange(len(self)) if places is None else places)

    def scores_and_shares(self) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Return each of `SCORES` (N,), 0..1, and each class's share (N, 7) of the labelled pixels.

        Without masks the agreement and the shares are 0.
        """
        starts = range(0, len(self), ROWS_AT_ONCE)
        parts = [self.read(slice(start, start + ROWS_AT_ONCE), slice(self.width, None)) for start in starts]
        found = np.concatenate(parts)
        scores = {name: found[:, place] for place, name in enumerate(SCORES)}
        return scores, found[:, len(SCORES) :]

    def read(self, index: np.ndarray | slice, columns: slice) -> np.ndarray:
        """Return a copy of some rows; mapped anew, as pages of a lasting map would count as this process's memory."""
        return np.array(np.memmap(self.path, np.float32, "r", self.offset, self.shape)[index, columns])


class Features:
    """Features (M, D) of images in some rows, read from the disk when they are indexed, as a mapped array's are."""

    def __init__(self, rows: Rows, places: np.ndarray):
        self.rows, self.places = rows, places
        self.shape = len(places), rows.width

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: np.ndarray | slice) -> np.ndarray:
        return self.rows.read(self.places[index], slice(0, self.rows.width))


def open_rows(path: Path) -> Rows:
    """Return the rows in the .npz at `path`, which `measure` wrote."""
    with np.load(path) as file:
        failures = json.loads(str(file["failures"]))
    with zipfile.ZipFile(path) as archive:
        start = archive.getinfo("rows.npy").header_offset
    with path.open("rb") as file:
        file.seek(start + 26)  # where a local header tells how long its name and extra field are
        lengths = np.frombuffer(file.read(4), "<u2")
        file.seek(start + 30 + int(lengths.sum()))
        np.lib.format.read_magic(file)
        (count, width), _, _ = np.lib.format.read_array_header_1_0(file)
        return Rows(path, file.tell(), (count, width), failures)


@dataclass(frozen=True)
class Instrument:
    """The segmenter that measures images.

    Attributes:
        model: on `space.device`.
        space: of its encoder's features.
        symmetries: over how many turns and mirror images features are averaged, 1 or 8.
        batch_size: images at once.
        workers: processes that read images.
        size: (height, width) of all images; features of others are no measure of how alike scenes are.
    """

    model: "torch.nn.Module"
    space: FeatureSpace
    symmetries: int
    batch_size: int
    workers: int
    size: tuple[int, int]

    def measure(self, images: ImageFolder, path: Path) -> Rows:
        """Return the rows of `images`, from the .npz at `path` if it has them, or measured and written there."""
        key = images.key(self.space.digest, self.symmetries, self.size)
        if not is_cached(path, key):
            rows = rows_file(path, key)
            if not rows.exists():
                begin_rows(rows, (len(images.draw), self.space.width + EXTRA))
            failures: dict[str, str] = {}
            with ThreadPoolExecutor(READERS) as pool:
                describe = partial(self._describe, images.masks, failures, pool)
                refused = cache(self._refusal)
                failures |= fill_rows(
                    rows, images.draw, describe, refused, self.batch_size, self.workers, self.space.device
                )
            more = {"names": images.draw.names, "key": np.array(key), "failures": np.array(json.dumps(failures))}
            end_rows(rows, path, "rows", more)
        return open_rows(path)

    def _refusal(self, size: tuple[int, int]) -> str | None:
        """Return why images of (height, width) `size` cannot be measured, None if they can."""
        if size != self.size:
            return (
                f"images of {told_size(size)} pixels where training has {told_size(self.size)}; bring both to one size"
            )
        model: Any = self.model
        return refusal(model.encoder, size, self.space.device)

    def _describe(
        self,
        masks: Path | None,
        failures: dict[str, str],
        pool: ThreadPoolExecutor,
        names: list[str],
        pixels: "torch.Tensor",
    ) -> np.ndarray:
        """Return the rows of a batch; nan, with the reason in `failures`, for an image whose mask cannot be used."""
        features = self.space.features(pixels, self.symmetries)[: len(names)].cpu().numpy()
        labels, confidence = labels_and_confidence([self.model], pixels, self.space.device)
        found = np.pad(features, ((0, 0), (0, EXTRA)))
        found[:, -EXTRA] = confidence.mean(dim=(1, 2))[: len(names)].cpu().numpy()
        if masks is None:
            return found
        predicted = labels.cpu().numpy()
        read = list(pool.map(lambda name: mask_or_reason(masks / f"{name}{SUFFIX}", predicted.shape[1:]), names))
        for place, (name, mask) in enumerate(zip(names, read, strict=True)):
            if isinstance(mask, str):
                failures[name] = mask
                found[place] = np.nan
                continue
            labelled = mask < NUM_CLASSES
            found[place, -NUM_CLASSES:] = np.bincount(mask[labelled], minlength=NUM_CLASSES) / labelled.sum()
            found[place, 1 - EXTRA] = (mask == predicted[place])[labelled].mean()
        return found


def open_instrument(
    weights: Path,
    arch: str | None,
    encoder: str | None,
    digest: str,
    symmetries: int,
    batch_size: int | None,
    workers: int,
    device: "torch.device",
    size: tuple[int, int],
) -> Instrument:
    """Return the segmenter in `weights`, whose SHA-256 is `digest`, as what measures images."""
    model = load_segmenter(weights, arch, encoder)
    space = encoder_space(model, digest, device)
    return Instrument(model, space, symmetries, batch_size or (64 if device.type == "cuda" else 8), workers, size)


def mask_or_reason(path: Path, size: tuple[int, ...]) -> np.ndarray | str:
    """Return the mask (H, W) uint8 at `path`, or why it is none of an image of (height, width) `size`."""
    try:
        mask = read_mask(path)
    except UserError as error:
        return str(error)
    if mask.shape != size:
        return f"{path} is {told_size(mask.shape)} pixels where its image is {told_size(size)}"
    return mask if (mask < NUM_CLASSES).any() else f"{path} has no labelled pixel"
