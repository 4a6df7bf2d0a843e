"""One metric's work: streams of generated and of real images, their features, and what is kept for the next time.

Many processes share it: each takes every so-manieth batch, and sums or rows are put together at the end.
"""

import hashlib
import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import click
import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from stylegan_dataset import ImageDataset
from stylegan_distances import FeatureSums
from stylegan_distributed import add_up, from_first, in_any, is_first
from stylegan_features import Detector, MetricUnavailable, encoder_detector, inception_detector, vgg_detector
from stylegan_files import whole_file

T = TypeVar("T")

SEED = 0
READERS = 8  # threads
DETECTORS = {"inception": inception_detector, "vgg": vgg_detector, "encoder": encoder_detector}


@dataclass
class Job:
    """A metric's work on one of the processes that share it.

    Attributes:
        G: the generator, on `device`.
        dataset: the real images; None where none are needed.
        most_real: how many of them are used at most; None for all.
        samples: how many images are generated.
        device: where to compute.
        rank: which of the processes this is.
        world_size: how many there are.
        batch: images at a time.
        cache_dir: where features of real images are kept; None for nowhere.
        weights: files named by the user, by detector.
        progress: whether a bar is shown.
        canonical: whether the detector that was asked for has the weights of the metric's definition.
    """

    G: Any
    dataset: ImageDataset | None
    most_real: int | None
    samples: int
    device: torch.device
    rank: int
    world_size: int
    batch: int
    cache_dir: Path | None = None
    weights: dict[str, Path | None] = field(default_factory=dict)
    progress: bool = False
    canonical: bool = True

    @property
    def reals(self) -> ImageDataset:
        """The real images of a job that has some."""
        assert self.dataset is not None
        return self.dataset

    def detector(self, name: str) -> Detector:
        """Return the detector `inception`, `vgg` or `encoder`.

        Raises:
            MetricUnavailable: its weights are missing, here or on another machine.
        """
        found = agreed(lambda: DETECTORS[name](self.weights.get(name), self.device))
        self.canonical = found.canonical
        return found

    def starts(self, count: int, batch: int, what: str) -> Iterator[int]:
        """Yield where this process's batches of `count` images begin; the first process shows a bar."""
        from tqdm import tqdm

        starts = range(self.rank * batch, count, batch * self.world_size)
        shown = self.progress and is_first()
        yield from tqdm(starts, desc=what, unit="batch", disable=not shown, leave=False)

    def fakes(self) -> Iterator[tuple[slice, Tensor]]:
        """Yield this process's generated images (n, 3, R, R) uint8, and which of all they are.

        Each batch has its own seed: they are the same however many processes share the work, and random numbers of a
        training go on as if nothing had been drawn.
        """
        for start in self.starts(self.samples, self.batch, "generated"):
            count = min(self.batch, self.samples - start)
            with seeded(start, self.device):
                z = torch.randn(count, self.G.z_dim).to(self.device)
                images = self.G(z, self.labels(count))
            yield slice(start, start + count), coloured((images * 127.5 + 128).clamp(0, 255).to(torch.uint8))

    def labels(self, count: int) -> Tensor | None:
        """Return labels (count, c_dim) drawn from those of the real images, None for a network without."""
        return self.reals.random_labels(count).to(self.device) if self.G.c_dim else None

    def real_indices(self) -> np.ndarray:
        """Return which real images are used, in order."""
        everything = np.arange(len(self.reals))
        if self.most_real is None or self.most_real >= len(everything):
            return everything
        return np.sort(np.random.default_rng(SEED).permutation(everything)[: self.most_real])

    def real_images(self, indices: np.ndarray) -> Iterator[tuple[slice, Tensor]]:
        """Yield this process's share of the real images `indices`, (n, 3, R, R) uint8, and which of them they are."""

        def read(start: int) -> tuple[int, Tensor]:
            chosen = indices[start : start + self.batch]
            return start, torch.from_numpy(np.stack([self.reals[int(index)][0] for index in chosen]))

        for start, images in read_ahead(read, self.starts(len(indices), self.batch, "real")):
            yield slice(start, start + len(images)), coloured(images.to(self.device))

    def sums(self, detector: Detector, images: Iterable[tuple[slice, Tensor]]) -> FeatureSums:
        """Return the sums of the features of every process's `images`."""
        found = FeatureSums(detector.width, self.device)
        for _, batch in images:
            found.add(detector.features(batch))
        count = torch.tensor(float(found.count), dtype=torch.float64)
        add_up(count, found.total, found.products)
        found.count = int(count)
        return found

    def rows(self, width: int, count: int, parts: Iterable[tuple[slice, Tensor]]) -> Tensor:
        """Return rows (count, width) float32 on the CPU, put together from every process's `parts`."""
        found = torch.zeros(count, width)
        for place, part in parts:
            found[place] = part.float().cpu()
        add_up(found)
        return found

    def features(self, detector: Detector, images: Iterable[tuple[slice, Tensor]], count: int) -> Tensor:
        """Return the features (count, D) float32 of every process's `images`, on the CPU."""
        return self.rows(detector.width, count, ((place, detector.features(batch)) for place, batch in images))

    def real_sums(self, detector: Detector) -> FeatureSums:
        """Return the sums of the real images' features, from the cache if they are there."""

        def make() -> dict[str, Tensor]:
            found = self.sums(detector, self.real_images(self.real_indices()))
            count = torch.tensor(found.count)
            return {"count": count, "total": found.total.cpu(), "products": found.products.cpu()}

        kept = self.kept(detector, "sums", self.real_indices(), make)
        found = FeatureSums(detector.width)
        found.count, found.total, found.products = int(kept["count"]), kept["total"], kept["products"]
        return found

    def real_features(self, detector: Detector, indices: np.ndarray) -> Tensor:
        """Return the features (len(indices), D) of real images, from the cache if they are there."""

        def make() -> dict[str, Tensor]:
            return {"features": self.features(detector, self.real_images(indices), len(indices))}

        return self.kept(detector, "features", indices, make)["features"]

    def kept(
        self, detector: Detector, what: str, indices: np.ndarray, make: Callable[[], dict[str, Tensor]]
    ) -> dict[str, Tensor]:
        """Return what `make` returns for the real images `indices`, in every process, or what it once returned."""
        if self.cache_dir is None:
            return make()
        path = self.cache_dir / f"real-{detector.name}-{what}-{self.key(detector, indices)}.safetensors"
        before = from_first(lambda: read_kept(path))
        if before is not None:
            return before
        found = make()
        if is_first():
            write_kept(path, found)
        return found

    def key(self, detector: Detector, indices: np.ndarray) -> str:
        """Return what tells these features from those of other weights or images."""
        reals = self.reals
        told = [detector.digest, reals.source.stamp(), reals.symmetries, reals.chosen.tolist(), indices.tolist()]
        return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16]


def read_kept(path: Path) -> dict[str, Tensor] | None:
    """Return the tensors in `path`, None if it is absent, torn or not to be read."""
    try:
        return load_file(path)
    except (SafetensorError, OSError):
        return None


def write_kept(path: Path, found: dict[str, Tensor]) -> None:
    """Write the tensors to `path`; where the disk refuses, say so and go on, as they can be made again."""
    try:
        with whole_file(path) as part:
            save_file(found, part)
    except (SafetensorError, OSError) as error:
        click.echo(f"WARNING: {path} is not written ({error}); it will be computed again", err=True)


def read_ahead(read: Callable[[int], T], places: Iterable[int]) -> Iterator[T]:
    """Yield `read(place)` of all `places` in order, while threads read on."""
    waiting: deque[Any] = deque()
    with ThreadPoolExecutor(READERS) as pool:
        for place in places:
            waiting.append(pool.submit(read, place))
            if len(waiting) > READERS:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def coloured(images: Tensor) -> Tensor:
    """Return `images` (N, C, R, R), grey ones as three equal channels, which is what detectors take."""
    return images if images.shape[1] == 3 else images.expand(-1, 3, -1, -1)


def agreed(make: Callable[[], T]) -> T:
    """Return what `make` does, if it does so in every process.

    Raises:
        MetricUnavailable: it raised this here or in another.
    """
    found, failed = None, None
    try:
        found = make()
    except MetricUnavailable as error:
        failed = error
    if in_any(failed is not None):
        raise failed or MetricUnavailable("a file of weights is missing on another machine; put it there as well")
    assert found is not None
    return found


def by_first(make: Callable[[], T]) -> T:
    """Return to every process what `make` returns in the first, the only one that calls it.

    Raises:
        ValueError: it raised this there, or numbers were too large to decompose; it is raised in every process, as none
            may go on to what the others do not do.
    """

    def tried() -> tuple[T | None, str | None]:
        try:
            return make(), None
        except (ValueError, torch.linalg.LinAlgError) as error:
            return None, str(error)

    found, fault = from_first(tried)
    if fault is not None:
        raise ValueError(fault)
    return found  # type: ignore[return-value]


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Have random numbers follow from `seed` while the body runs; after it they go on as before."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
