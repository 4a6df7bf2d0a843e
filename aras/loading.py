"""Batches of pairs to train on, each pair a function of seed and key and of nothing else; batches of images alone."""

import os
import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from aras.command import cores
from aras.distributed import is_first
from aras.errors import UserError
from aras.pairs import SUFFIX, Pairs, ignore_unsure, read_image, read_pair
from aras.training import mixed_seed

if TYPE_CHECKING:
    import torch

    from aras.segmentation.batches import EvalBatches, Key, TrainBatches

PREFETCH = 4
"""Batches that each worker reads ahead, so that a slow read does not stop the GPU."""

LOADER_WORKERS = min(16, cores())
"""Processes that read images, by default; 16 as published, and more than there are cores would only take turns."""

Sample = tuple[np.ndarray, np.ndarray]  # (H, W, 3) uint8 image, (H, W) uint8 labels
Batch = tuple["torch.Tensor", "torch.Tensor"]  # (B, H, W, 3) uint8 images, (B, H, W) uint8 labels
Augment = Callable[[np.ndarray, np.ndarray, int], Sample]


class PairSet:
    """A map from a key (epoch, index, repeat) to the image and labels of a pair, one set of pairs after the other.

    A file that cannot be used comes back as a `UserError` rather than raised, because a DataLoader would wrap it in the
    traceback of a worker. Of labels that a model gave, those less sure than `least` are `NO_DATA`.
    """

    def __init__(
        self,
        sets: list[Pairs],
        size: tuple[int, int],
        seed: int = 0,
        augment: Augment | None = None,
        least: float = 0,
    ):
        self.sets, self.size, self.seed, self.augment, self.least = sets, size, seed, augment, least
        self.ends = np.cumsum([len(pairs) for pairs in sets])

    def __len__(self) -> int:
        return int(self.ends[-1])

    def __getitem__(self, key: "Key") -> Sample | UserError:
        _, index, _ = key
        which = int(np.searchsorted(self.ends, index, side="right"))
        pairs = self.sets[which]
        place = index - (int(self.ends[which]) - len(pairs))
        try:
            image, labels = read_pair(pairs.image(place), pairs.mask(place), self.size)
            if self.least and is_labelled(pairs):
                labels = ignore_unsure(labels, pairs.confidence(place), self.least)
        except UserError as error:
            return error
        return self.augment(image, labels, mixed_seed(self.seed, *key)) if self.augment else (image, labels)


def is_labelled(pairs: Pairs) -> bool:
    """Return whether a model gave `pairs` their masks."""
    return pairs.masks.parent.name == "synth"


class PaperAugmentation:
    """The published augmentation: flips and quarter turns at 0.5, brightness and contrast (within 0.2) at 0.3.

    Images that are not square are not turned, because a batch holds one shape.
    """

    def __init__(self, square: bool = True) -> None:
        os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # else its import asks the network for a newer version
        import albumentations
        import cv2

        cv2.setNumThreads(0)  # its threads do not survive the fork of a worker
        self.transform = albumentations.Compose(
            [
                albumentations.HorizontalFlip(p=0.5),
                albumentations.VerticalFlip(p=0.5),
                albumentations.RandomRotate90(p=0.5 if square else 0),
                albumentations.RandomBrightnessContrast(p=0.3),
            ]
        )

    def __call__(self, image: np.ndarray, labels: np.ndarray, seed: int) -> Sample:
        """Return `image` (H, W, 3) and `labels` (H, W) as `seed` would have them.

        One generator is dealt to all transforms: `Compose.set_random_seed` would give each of them its own from the
        same seed, and then an image is flipped both ways and turned, or not at all.
        """
        self.transform.set_random_state(np.random.default_rng(seed), random.Random(seed))
        result = self.transform(image=image, mask=labels)
        return result["image"], result["mask"]


def collated(samples: list[Sample | UserError]) -> "Batch | UserError":
    """Return the samples as one batch, or the first sample that is an error."""
    import torch

    good = [sample for sample in samples if not isinstance(sample, UserError)]
    if len(good) < len(samples):
        return next(sample for sample in samples if isinstance(sample, UserError))
    images, labels = zip(*good, strict=True)
    return torch.from_numpy(np.stack(images)), torch.from_numpy(np.stack(labels))


def loader_of(pairs: PairSet, batches: "TrainBatches | EvalBatches", workers: int, device: "torch.device") -> Any:
    """Return the DataLoader of `pairs` in `batches`, with workers that stay from epoch to epoch."""
    import torch

    return torch.utils.data.DataLoader(
        pairs,  # type: ignore[arg-type]
        batch_sampler=batches,
        collate_fn=collated,
        num_workers=workers,
        persistent_workers=workers > 0,
        prefetch_factor=PREFETCH if workers else None,
        pin_memory=device.type == "cuda",
        generator=torch.Generator(),  # else a new iterator draws from torch's own, which must follow from the step
    )


def batches_of(loader: Any, what: str) -> Iterator["Batch"]:
    """Yield the batches of `loader` under a progress bar named `what`, which the first process alone shows.

    Raises:
        UserError: a worker met a file that cannot be used.
    """
    from tqdm import tqdm

    for batch in tqdm(loader, desc=what, leave=False, disable=None if is_first() else True, unit="batch"):
        if isinstance(batch, UserError):
            raise batch
        yield batch


class ImageSet:
    """A map from an index to the image (H, W, 3) uint8 of `names[index]`, or the `UserError` that it met."""

    def __init__(self, folder: Path, names: np.ndarray):
        self.folder, self.names = folder, names

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> tuple[str, np.ndarray | UserError]:
        name = str(self.names[index])
        try:
            return name, read_image(self.folder / f"{name}{SUFFIX}")
        except UserError as error:
            return name, error


def cuts(count: int, batch_size: int) -> list[list[int]]:
    """Return the indices 0..`count` - 1 in batches; what is cut alike each time is computed alike, to the last bit."""
    starts = range(0, count, batch_size)
    return [list(range(start, min(start + batch_size, count))) for start in starts]


def image_loader(
    folder: Path, names: np.ndarray, batches: list[list[int]], batch_size: int, workers: int, device: "torch.device"
) -> Any:
    """Return the DataLoader of `batches` of the images `names` of `folder`: what an `ImageBatch` makes of each."""
    import torch

    return torch.utils.data.DataLoader(
        ImageSet(folder, names),  # type: ignore[arg-type]
        batch_sampler=batches,
        collate_fn=ImageBatch(batch_size),
        num_workers=workers,
        pin_memory=device.type == "cuda",
    )


@dataclass
class ImageBatch:
    """Turn samples into groups of one size, names and images (B, H, W, 3) uint8, and the reason of each that failed.

    The images of the commonest size are filled up with black to `batch_size`, and each other one goes alone: what
    becomes of an image does not depend, to the last bit, on how many others it shares its batch with.
    """

    batch_size: int

    def __call__(self, samples: list[tuple[str, Any]]) -> tuple[list[tuple[list[str], "torch.Tensor"]], dict[str, str]]:
        """Return the groups of `samples` and the reasons by name."""
        import torch

        failures = {name: str(image) for name, image in samples if isinstance(image, UserError)}
        images = {name: image for name, image in samples if name not in failures}
        if not images:
            return [], failures
        ((shape, _),) = Counter(image.shape for image in images.values()).most_common(1)
        together = [name for name, image in images.items() if image.shape == shape]
        filled = np.zeros((self.batch_size, *shape), np.uint8)
        filled[: len(together)] = [images.pop(name) for name in together]
        alone = [([name], torch.from_numpy(image[None].copy())) for name, image in images.items()]
        return [(together, torch.from_numpy(filled)), *alone], failures
