"""Images drawn for a folder of masks: in batches, by one process or many, each from its own seed.

Batches are cut from the sorted names alone and filled up to one size, so an image depends neither on what an earlier
run had drawn nor on how many processes there are. An image is done when it is there and not older than its mask.
"""

import os
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from aras.distributed import is_first, rank, world_size
from aras.errors import UserError
from aras.files import write_bytes
from aras.legend import read_mask
from aras.loading import cuts
from aras.pairs import SUFFIX, told_size
from aras.patches import png_of_image
from aras.segmenter import STRIDE
from aras.spade.latents import draw_latents, latent_size, seed_of_sample, z_and_noise

if TYPE_CHECKING:
    import torch

WRITERS = 8  # threads; compression and drawing of numbers let go of the interpreter

Item = tuple[int, int]  # place of a mask among the names, number of its sample


@dataclass(frozen=True)
class Drawing:
    """Which images are drawn of which masks.

    Attributes:
        masks: their folder.
        output: where `<name>.png` goes, or `<name>_<k>.png` with more than one of each.
        names: (N,) str stems of the masks, sorted.
        samples: how many images of each.
        seed: what they follow from.
        truncation: what z is multiplied by; under 1, images are more alike and more typical.
        batch_size: images that go through the generator at once.
        workers: processes that read masks.
    """

    masks: Path
    output: Path
    names: np.ndarray
    samples: int
    seed: int
    truncation: float
    batch_size: int
    workers: int

    def __len__(self) -> int:
        return len(self.names) * self.samples

    def mask(self, item: Item) -> Path:
        """Return the mask of `item`."""
        return self.masks / f"{self.names[item[0]]}{SUFFIX}"

    def image(self, item: Item) -> Path:
        """Return the image of `item`."""
        return self.output / self.file_name(item)

    def file_name(self, item: Item) -> str:
        """Return the name of the image of `item`."""
        place, sample = item
        return f"{self.names[place]}{f'_{sample}' if self.samples > 1 else ''}{SUFFIX}"

    def item(self, index: int) -> Item:
        """Return which image is `index` of all."""
        return divmod(index, self.samples)

    @cached_property
    def undone(self) -> set[int]:
        """Which of all images are not there yet, or older than their mask, when this is first asked."""
        drawn, masks = times_of(self.output), times_of(self.masks)
        found = set()
        for index in range(len(self)):
            item = self.item(index)
            if drawn.get(self.file_name(item), -1) < masks.get(self.mask(item).name, 0):
                found.add(index)
        return found

    def batches(self) -> list[list[int]]:
        """Return this process's batches that have something left to draw."""
        own = cuts(len(self), self.batch_size)[rank() :: world_size()]  # cut first: another may be drawing already
        return [batch for batch in own if not self.undone.isdisjoint(batch)]


def times_of(folder: Path) -> dict[str, int]:
    """Return when each PNG of `folder` was written, in ns, by its name; none if there is no such folder."""
    if not folder.is_dir():
        return {}
    with os.scandir(folder) as entries:
        return {entry.name: entry.stat().st_mtime_ns for entry in entries if entry.name.endswith(SUFFIX)}


class MaskSet:
    """A map from an index to the labels (H, W) uint8 that image is drawn from, or the `UserError` that its mask met."""

    def __init__(self, drawing: Drawing):
        self.drawing = drawing

    def __len__(self) -> int:
        return len(self.drawing)

    def __getitem__(self, index: int) -> tuple[int, np.ndarray | UserError]:
        path = self.drawing.mask(self.drawing.item(index))
        try:
            labels = read_mask(path)
            if labels.shape[0] % STRIDE or labels.shape[1] % STRIDE:
                raise UserError(f"{path} is {told_size(labels.shape)} pixels; both sides must be multiples of {STRIDE}")
        except UserError as error:
            return index, error
        return index, labels


@dataclass
class MaskBatch:
    """Turn samples into groups of one size: indices, and labels (B, H, W) uint8; and the reason of each that failed.

    The commonest size is filled up to `batch_size`, and each other mask goes alone.
    """

    batch_size: int

    def __call__(self, samples: list[tuple[int, Any]]) -> tuple[list[tuple[list[int], np.ndarray]], dict[int, str]]:
        """Return the groups of `samples` and the reasons by index."""
        failures = {index: str(labels) for index, labels in samples if isinstance(labels, UserError)}
        masks = {index: labels for index, labels in samples if index not in failures}
        if not masks:
            return [], failures
        ((shape, _),) = Counter(labels.shape for labels in masks.values()).most_common(1)
        together = [index for index, labels in masks.items() if labels.shape == shape]
        filled = np.zeros((self.batch_size, *shape), np.uint8)
        filled[: len(together)] = [masks.pop(index) for index in together]
        return [(together, filled), *(([index], labels[None]) for index, labels in masks.items())], failures


def draw_images(drawing: Drawing, generator: "torch.nn.Module", device: "torch.device") -> dict[str, str]:
    """Draw what is left of this process's share of `drawing`; return why each mask that failed did, by its name.

    `generator` is on `device` and in evaluation mode.
    """
    from tqdm import tqdm

    failures: dict[str, str] = {}
    waiting: list[Future[None]] = []
    drawing.output.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(WRITERS) as pool:
        for groups, failed in tqdm(mask_loader(drawing), desc="draw", disable=None if is_first() else True):
            failures |= {drawing.mask(drawing.item(index)).name: reason for index, reason in failed.items()}
            for indices, labels in groups:
                images = drawn(drawing, generator, indices, labels, device, pool)
                for future in waiting:  # one batch at most waits for the disk
                    future.result()
                new = [(index, image) for index, image in zip(indices, images, strict=True) if index in drawing.undone]
                waiting = [pool.submit(write_image, drawing.image(drawing.item(i)), image) for i, image in new]
        for future in waiting:
            future.result()
    return failures


def mask_loader(drawing: Drawing) -> Any:
    """Return the DataLoader of this process's masks: what a `MaskBatch` makes of each batch."""
    import torch

    return torch.utils.data.DataLoader(
        MaskSet(drawing),  # type: ignore[arg-type]
        batch_sampler=drawing.batches(),
        collate_fn=MaskBatch(drawing.batch_size),
        num_workers=drawing.workers,
    )


def drawn(
    drawing: Drawing,
    generator: "torch.nn.Module",
    indices: list[int],
    labels: np.ndarray,
    device: "torch.device",
    pool: ThreadPoolExecutor | None = None,
) -> np.ndarray:
    """Return the images (len(indices), 3, H, W) uint8 that `indices` are, of `labels` (B, H, W) uint8.

    What comes after the last index is filling.
    """
    import torch

    items = [drawing.item(index) for index in indices]
    seeds: Iterator[int] = (seed_of_sample(drawing.seed, str(drawing.names[place]), k) for place, k in items)
    size = (labels.shape[1], labels.shape[2])
    latents = torch.zeros(len(labels), latent_size(generator, size))
    latents[: len(items)] = draw_latents(seeds, latents.shape[1], "cpu", pool)
    images = images_of(generator, torch.from_numpy(labels), latents, device, drawing.truncation)
    return images[: len(items)].cpu().numpy()


def images_of(
    generator: "torch.nn.Module",
    labels: "torch.Tensor",
    latents: "torch.Tensor",
    device: "torch.device",
    truncation: float = 1.0,
) -> "torch.Tensor":
    """Return the images (B, 3, H, W) uint8, on `device`, of `labels` (B, H, W) uint8.

    Args:
        generator: on `device`, in evaluation mode.
        labels: on any device.
        latents: (B, `latent_size`) float32, what each image is drawn from.
        device: where to compute.
        truncation: what z is multiplied by.
    """
    import torch

    with torch.inference_mode():
        z, noise = z_and_noise(generator, latents.to(device), (labels.shape[1], labels.shape[2]), truncation)
        images = generator(labels.to(device), z, noise)
        return ((images + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def write_image(path: Path, pixels: np.ndarray) -> None:
    """Write `pixels` (3, H, W) uint8 red, green, blue as a PNG, whole or not at all."""
    write_bytes(path, png_of_image(pixels), durable=False)
