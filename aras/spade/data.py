"""What the conditional GAN is trained on: the options that say so, and an endless stream of pairs cut into batches.

Image number n of a training is place n mod N of a shuffled pass over the N pairs, and step s takes the images
s * B .. (s + 1) * B - 1. Every batch is full, also when a pass ends within it or the set is smaller than a batch, and
where a training stands is one number.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from aras.distributed import rank, world_size
from aras.errors import UserError
from aras.loading import PairSet, loader_of
from aras.pairs import Pairs, find_pairs, image_size, read_pair, told_size
from aras.runs import FREE
from aras.segmenter import STRIDE
from aras.spade.run_folder import RunFolder

if TYPE_CHECKING:
    import torch

FREE_OPTIONS = FREE | {"epochs", "minutes", "micro_batch", "checkpoint_minutes", "draw"}
"""`--epochs` and `--minutes` may be raised to train on: nothing in a recipe depends on how many are to come.

`--micro-batch` changes the order of float sums alone.
"""

SAMPLE = 256  # images that the networks are fitted to before the first step
FEWEST = 2  # images, of which a generator can learn more than one picture


@dataclass(frozen=True)
class Options:
    """The options of generative_trainer_unet_spade_gan.py that a training has, by name."""

    data: Path
    recipe: str
    width: int
    epochs: int
    minutes: float | None
    batch_size: int
    micro_batch: int | None
    lr_generator: float
    lr_discriminator: float
    ema_kimg: float
    label_mix: float
    augment: str
    augment_target: float
    augment_strength: float
    vgg: str
    snapshot_kimg: float
    judge: Path | None
    features: str
    features_weights: Path | None
    quality_split: str
    quality_samples: int
    precision: str
    checkpoint_minutes: float
    workers: int
    seed: int
    outdir: Path
    limit: int | None
    device: str
    draw: bool
    wandb_project: str | None

    @property
    def folder(self) -> RunFolder:
        """The run's folder."""
        return RunFolder(self.outdir, self.recipe, self.width)


@dataclass(frozen=True)
class TrainingSet:
    """The pairs to train on, (height, width) of each, and how many steps go through them how often."""

    pairs: Pairs
    size: tuple[int, int]
    batch_size: int

    def steps(self, epochs: int) -> int:
        """Return how many steps see every pair `epochs` times; the last may begin another pass."""
        return -(-len(self.pairs) * epochs // self.batch_size)

    def epoch(self, step: int) -> float:
        """Return how many passes over the pairs `step` steps are."""
        return step * self.batch_size / len(self.pairs)

    @property
    def told(self) -> str:
        """What there is, in words."""
        return f"{len(self.pairs):,} pairs to train on, {told_size(self.size)} each"


def training_set(options: Options) -> TrainingSet:
    """Return the pairs that `options` name, and check what can be checked without reading every image.

    Raises:
        UserError: there are none, a mask is missing, there is but one, a side is no multiple of `STRIDE`, or a batch
            has fewer images than there are processes.
    """
    pairs = find_pairs(options.data, "train", options.limit)
    if len(pairs) < FEWEST:
        raise UserError(f"{pairs.images} gives 1 image to train on; a GAN needs {FEWEST} or more, so raise --limit")
    first = pairs.image(0)
    size = image_size(first)
    if size[0] % STRIDE or size[1] % STRIDE:
        raise UserError(
            f"{first} is {told_size(size)} pixels; both sides must be multiples of {STRIDE}, so make the dataset again"
            " with such a --patch-size"
        )
    if options.batch_size < world_size():
        raise UserError(
            f"--batch-size {options.batch_size} is shared out by {world_size()} processes; raise it to that"
        )
    return TrainingSet(pairs, size, options.batch_size)


def sample_images(found: TrainingSet) -> "torch.Tensor":
    """Return some of the images of `found`, evenly spread over the names, (N, H, W, 3) uint8.

    Raises:
        UserError: one cannot be read, or is of another size than the others.
    """
    import torch

    count = len(found.pairs)
    places = np.unique(np.linspace(0, count - 1, min(count, SAMPLE)).round().astype(int))
    pairs = (read_pair(found.pairs.image(place), found.pairs.mask(place), found.size) for place in places)
    return torch.from_numpy(np.stack([image for image, _ in pairs]))


def share_of_batch(batch_size: int) -> slice:
    """Return which images of a batch this rank has."""
    first, rest = divmod(batch_size, world_size())
    start = rank() * first + min(rank(), rest)
    return slice(start, start + first + (rank() < rest))


class EndlessBatches:
    """This rank's shares of the batches of the steps `start`..`stop` - 1; set both before each pass over it."""

    def __init__(self, count: int, batch_size: int, seed: int):
        self.count, self.batch_size = count, batch_size
        self.start, self.stop = 0, 0

        @lru_cache(maxsize=2)  # a batch seldom reaches into a third pass
        def order(epoch: int) -> np.ndarray:
            return np.random.default_rng((seed, epoch)).permutation(count)

        self.order = order

    def __len__(self) -> int:
        return self.stop - self.start

    def __iter__(self) -> Iterator[list[tuple[int, int, int]]]:
        share = share_of_batch(self.batch_size)
        for step in range(self.start, self.stop):
            numbers = range(step * self.batch_size + share.start, step * self.batch_size + share.stop)
            passes = (divmod(number, self.count) for number in numbers)
            yield [(1 + epoch, int(self.order(1 + epoch)[place]), 0) for epoch, place in passes]


def train_loader(found: TrainingSet, options: Options, device: "torch.device") -> Any:
    """Return the DataLoader of `found`: images (b, H, W, 3) uint8 and labels (b, H, W) uint8, this rank's of a step."""
    pairs = PairSet([found.pairs], found.size)
    batches: Any = EndlessBatches(len(found.pairs), options.batch_size, options.seed)
    return loader_of(pairs, batches, options.workers, device)
