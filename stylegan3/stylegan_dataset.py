"""The images that a GAN learns from: which there are, in which order they come, and how they reach the training."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from stylegan_cache import PixelCache, default_cache_bytes
from stylegan_errors import StyleganError
from stylegan_files import named, read_json, write_json
from stylegan_images import channels_of, decoded, opened, refuse_faults, refuse_unlike, size_fault, verify
from stylegan_labels import read_labels
from stylegan_sources import LABELS, open_source

CHECKED = 256  # images that one thread checks before it tells of its progress
PIECE = 32  # images that one worker hands over at a time
PREFETCH = 2  # pieces that each worker reads ahead


class ImageDataset:
    """A map from an index to an image (C, R, R) uint8 and its label (K,) float32.

    The first image by name decides the resolution, and whether the set is greyscale (C is 1) or RGB (C is 3), to which
    greyscale and palette images are converted; see stylegan_images.py for what is refused. Index i is image i mod N in
    symmetry i div N: 0 as it is, 1 mirrored, and with `dihedral` all eight symmetries of the square.

    Attributes:
        name: the file name of the folder, or of the zip without its suffix.
        resolution: R, a power of two.
        channels: C.
        label_dim: K, 0 without labels.
        labels: (N, K) float32.
    """

    def __init__(
        self,
        path: str | Path,
        cond: bool = False,
        mirror: bool = False,
        dihedral: bool = False,
        max_size: int | None = None,
        seed: int = 0,
        cache_bytes: int | None = None,
    ):
        """Find the images of a folder or zip.

        Args:
            path: the folder, with all folders below it, or the zip.
            cond: whether images have labels, from dataset.json.
            mirror: whether each image counts as two, itself and its mirror image.
            dihedral: whether each image counts as eight; it includes `mirror`.
            max_size: how many images are used at most, drawn by `seed`, before symmetries.
            seed: see `max_size`.
            cache_bytes: memory for decoded images; without it, half of what is free.

        Raises:
            StyleganError: there are no images, the first cannot be used, or labels and images do not match.
        """
        self.path = Path(path)
        self.source = open_source(self.path)
        self.name = named(self.path).name if self.path.is_dir() else self.path.stem
        self.chosen = chosen_images(len(self.source), max_size, seed)
        self.symmetries = 8 if dihedral else 2 if mirror else 1
        first = int(self.chosen[0])
        image = opened(self.source.read(first), self.source.where(first))
        if fault := size_fault(image.size):
            raise StyleganError(f"{self.source.where(first)} {fault}; {remedy()}")
        self.resolution, self.channels = image.size[0], channels_of(image)
        self.labels = self.find_labels() if cond else np.zeros((len(self.chosen), 0), np.float32)
        self.label_dim = self.labels.shape[1]
        shape = self.channels, self.resolution, self.resolution
        self.cache = PixelCache(shape, len(self.chosen), default_cache_bytes() if cache_bytes is None else cache_bytes)

    def find_labels(self) -> np.ndarray:
        """Return the labels of the chosen images, (N, K) float32."""
        found = read_labels(self.source.labels(), self.source.names.tolist(), f"{self.path}/{LABELS}")
        return found[self.chosen]

    def __len__(self) -> int:
        return len(self.chosen) * self.symmetries

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        symmetry, image = divmod(index, len(self.chosen))
        return turned(self.pixels(image), symmetry), self.labels[image]

    def pixels(self, image: int) -> np.ndarray:
        """Return the pixels (C, R, R) uint8 of the chosen image `image`, which the caller may change."""
        found = self.cache.get(image)
        if found is None:
            index = int(self.chosen[image])
            found = decoded(self.source.read(index), self.resolution, self.channels, self.source.where(index))
            self.cache.put(image, found)
        return found

    def random_labels(self, count: int, generator: torch.Generator | None = None) -> torch.Tensor:
        """Return the labels (`count`, K) float32 of images drawn with replacement by `generator`, on the CPU."""
        drawn = torch.randint(len(self.chosen), (count,), generator=generator)
        return torch.from_numpy(self.labels)[drawn]

    def fault(self, image: int) -> str | None:
        """Return what is wrong with the file of the chosen image `image`, if anything is without decoding it."""
        index = int(self.chosen[image])
        where = self.source.where(index)
        try:
            found = opened(self.source.read(index), where)
            refuse_unlike(found, self.resolution, self.channels, where)
            verify(found, where)
        except StyleganError as error:
            return error.message
        return None

    def check(self, workers: int = 1, progress: bool = True, record: Path | None = None) -> None:
        """Look at every image file: that it can be read, its mode and size, and the checksums that PNG and zip have.

        Args:
            workers: threads.
            progress: whether a bar is shown.
            record: a file that tells which set was found good; the same one is not looked at again.

        Raises:
            StyleganError: some cannot be used; the first of them are named.
        """
        stamp = {"good": self.source.stamp(), "images": len(self.chosen), "channels": self.channels}
        if record and record.exists() and read_json(record) == stamp:
            return
        refuse_faults(self.faults(max(1, workers), progress), len(self.chosen), remedy(self.resolution))
        if record:
            write_json(record, stamp)

    def faults(self, workers: int, progress: bool) -> list[str]:
        """Return what is wrong with the images that cannot be used, in their order."""
        from tqdm import tqdm

        def look(start: int) -> tuple[int, list[str | None]]:
            images = range(start, min(start + CHECKED, len(self.chosen)))
            return len(images), [self.fault(image) for image in images]

        found: list[str] = []
        bar = tqdm(total=len(self.chosen), desc="check images", unit="image", leave=False, disable=not progress)
        with bar, ThreadPoolExecutor(workers) as pool:
            for count, told in pool.map(look, range(0, len(self.chosen), CHECKED)):
                found += [fault for fault in told if fault]
                bar.update(count)
        return found


def remedy(resolution: int = 256) -> str:
    """Return how images are made alike."""
    options = f"--transform=center-crop --resolution={resolution}x{resolution}"
    return f"mend or remove them, or make a set with dataset_tool.py {options}"


def chosen_images(count: int, most: int | None, seed: int) -> np.ndarray:
    """Return the indices of at most `most` of `count` images, drawn by `seed`, in order."""
    everything = np.arange(count)
    if most is None or most >= count:
        return everything
    return np.sort(np.random.default_rng(seed).permutation(everything)[:most])


def turned(pixels: np.ndarray, symmetry: int) -> np.ndarray:
    """Return `pixels` (C, R, R) in one of the square's eight symmetries: mirrored if odd, then quarter turns."""
    mirrored = pixels[..., ::-1] if symmetry % 2 else pixels
    return np.ascontiguousarray(np.rot90(mirrored, symmetry // 2, (1, 2)))


@lru_cache(maxsize=2)
def epoch_order(count: int, seed: int, epoch: int) -> np.ndarray:
    """Return the order (count,) of the images in `epoch`."""
    return np.random.default_rng([seed, epoch]).permutation(count)


class EndlessBatches:
    """The indices of one process's share of every batch, without end.

    The order is a function of the seed and of how many images came before: a run goes on exactly where it stopped
    (`start_image`), and the shares of however many processes make up the same batches. Each epoch is one permutation
    of all images, so each comes equally often; a sliding shuffle, the published way, has a state that depends on all
    batches before.
    """

    def __init__(
        self, dataset: ImageDataset, batch: int, rank: int = 0, world_size: int = 1, seed: int = 0, start_image: int = 0
    ):
        """Set up the shares of process `rank` of `world_size` in batches of `batch` images, all processes together."""
        if batch % world_size:
            raise StyleganError(f"--batch {batch} must be a multiple of the {world_size} processes")
        self.count, self.batch, self.rank, self.world_size = len(dataset), batch, rank, world_size
        self.seed, self.start_image = seed, start_image

    def index(self, position: int) -> int:
        """Return which image is the `position`-th of the training, from 0."""
        epoch, place = divmod(position, self.count)
        return int(epoch_order(self.count, self.seed, epoch)[place])

    def __iter__(self) -> Iterator[list[int]]:
        start = self.start_image
        while True:
            yield [self.index(position) for position in range(start + self.rank, start + self.batch, self.world_size)]
            start += self.batch


class Pieces:
    """Batches cut into pieces of at most `PIECE`, so that all workers read on the same batch."""

    def __init__(self, batches: EndlessBatches):
        self.batches = batches

    def __iter__(self) -> Iterator[list[int]]:
        for batch in self.batches:
            for start in range(0, len(batch), PIECE):
                yield batch[start : start + PIECE]


class PieceReader:
    """A map from indices to images and labels, or to the `StyleganError` met: a worker would raise a traceback."""

    def __init__(self, dataset: ImageDataset):
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitems__(self, indices: list[int]) -> "Piece | StyleganError":
        try:
            images, labels = zip(*(self.dataset[index] for index in indices), strict=True)
        except StyleganError as error:
            return error
        return torch.from_numpy(np.stack(images)), torch.from_numpy(np.stack(labels))


Piece = tuple[torch.Tensor, torch.Tensor]  # (n, C, R, R) uint8 images, (n, K) float32 labels


def as_is(piece: Any) -> Any:
    """Return `piece`, which needs no collating."""
    return piece


def loader(dataset: ImageDataset, batches: EndlessBatches, workers: int) -> Iterator[Piece]:
    """Yield the share's images (n, C, R, R) uint8 and labels (n, K) float32 of every batch, in pinned memory for a GPU.

    Raises:
        StyleganError: an image cannot be read, or a worker was killed.
    """
    pieces: Any = torch.utils.data.DataLoader(
        PieceReader(dataset),  # type: ignore[arg-type]
        batch_sampler=Pieces(batches),
        collate_fn=as_is,
        num_workers=workers,
        prefetch_factor=PREFETCH if workers else None,
        generator=torch.Generator(),  # else it draws from torch's own, which a resumed run could not follow
    )
    share = batches.batch // batches.world_size
    pin = torch.cuda.is_available()
    shape = dataset.channels, dataset.resolution, dataset.resolution
    read = read_pieces(pieces)
    while True:
        images = torch.empty(share, *shape, dtype=torch.uint8, pin_memory=pin)
        labels = torch.empty(share, dataset.label_dim, pin_memory=pin)
        for start in range(0, share, PIECE):
            images[start : start + PIECE], labels[start : start + PIECE] = next(read)
        yield images, labels


def read_pieces(pieces: Any) -> Iterator[Piece]:
    """Yield `pieces`, or raise what they met."""
    with killed_told():
        for piece in pieces:
            if isinstance(piece, StyleganError):
                raise piece
            yield piece


@contextmanager
def killed_told() -> Iterator[None]:
    """Raise `StyleganError` where the body ends because a worker was killed, which PyTorch may tell at any time."""
    try:
        yield
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise StyleganError(
            "a process that reads images was killed, perhaps because memory or /dev/shm is full; lower --workers, or"
            " start the container with more (docker run --shm-size=8g)"
        ) from None
