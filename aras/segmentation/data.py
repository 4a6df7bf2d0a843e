"""What a segmenter is trained, validated and tested on: the options that say so, and the batches that they make."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from aras.distributed import from_first, world_size
from aras.errors import UserError
from aras.loading import PairSet, PaperAugmentation, is_labelled, loader_of
from aras.pairs import SUFFIX, Pairs, find_pairs, image_size, told_size
from aras.segmentation.batches import EvalBatches, TrainBatches
from aras.segmentation.run_folder import RunFolder
from aras.segmentation.sampling import EpochOrder, balanced_weights, class_shares, mix_of
from aras.segmenter import STRIDE

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Options:
    """The options of segmentation_train.py, by name."""

    data: Path
    train: tuple[str, ...]
    mix: str | None
    sampling: str
    min_confidence: float
    arch: str
    encoder: str
    encoder_weights: str
    init_weights: Path | None
    epochs: int
    batch_size: int
    eval_batch_size: int | None
    lr: float
    loss: str
    ema: float
    patience: int
    tta: bool
    precision: str
    compile: bool
    checkpoint_minutes: float
    workers: int
    seed: int
    outdir: Path
    limit: int | None
    device: str
    wandb_project: str | None
    only: tuple[str, ...] = ()
    only_sha256: str | None = None

    @property
    def lists(self) -> dict[str, Path]:
        """The list of the names to train on, by the set that has one."""
        return lists_of(self.only)

    @property
    def images_at_once(self) -> int:
        """How many images a process evaluates at once."""
        return self.eval_batch_size or self.batch_size

    @property
    def folder(self) -> RunFolder:
        """The run's folder."""
        return RunFolder(self.outdir, self.arch, self.encoder)


def lists_of(texts: tuple[str, ...]) -> dict[str, Path]:
    """Return the list of names of each set, from `--only SET=FILE`.

    Raises:
        ValueError: one has another form, or two are of one set; the message is for a usage error.
    """
    found: dict[str, Path] = {}
    for text in texts:
        name, _, path = text.partition("=")
        if not name or not path:
            raise ValueError(f"{text} is not SET=FILE, such as synth=selection/selected.txt")
        if name in found:
            raise ValueError(f"{name} has two lists; give each set one")
        found[name] = Path(path)
    return found


def digest_of_lists(lists: dict[str, Path]) -> str | None:
    """Return the SHA-256 of each of `lists` behind the name of its set, None if there is none."""
    digests = [f"{name} {hashlib.sha256(path.read_bytes()).hexdigest()}" for name, path in sorted(lists.items())]
    return ", ".join(digests) or None


@dataclass
class Loaders:
    """The batches of the three splits, and what is known of them.

    Attributes:
        train: this rank's shares of the batches to train on.
        val: its batches of the validation split.
        test: its batches of the test split.
        names: of the test split's images.
        sets: what tells the pairs of each set, by its name.
        told: how many there are, in words.
    """

    train: Any
    val: Any
    test: Any
    names: np.ndarray
    sets: dict[str, str]
    told: str


def make_loaders(options: Options, device: "torch.device") -> Loaders:
    """Return the batches of all splits, and check what can be checked without reading every image.

    Raises:
        UserError: a split is missing or incomplete, the size is none that the model takes, or an epoch has no batch.
    """
    names = (*options.train, "val", "test")
    found = [find_pairs(options.data, name, options.limit, options.lists.get(name)) for name in names]
    *sets, val, test = found
    size = check_sets(sets, options.batch_size, options.min_confidence)
    told = " + ".join(f"{len(pairs):,} {name}" for name, pairs in zip(options.train, sets, strict=True))
    augment = PaperAugmentation(square=size[0] == size[1])
    train_set = PairSet(sets, size, options.seed, augment, options.min_confidence)
    train_batches = TrainBatches(epoch_order(options, sets), options.batch_size)
    if not train_batches.steps:
        raise UserError(
            f"{len(train_batches.order)} images are too few to train on: batch normalisation needs two, and each"
            " process one; raise --limit or --mix, or add --train sets"
        )
    val_loader, test_loader = (
        loader_of(PairSet([pairs], size), EvalBatches(len(pairs), options.images_at_once), options.workers, device)
        for pairs in (val, test)
    )
    return Loaders(
        loader_of(train_set, train_batches, options.workers, device),
        val_loader,
        test_loader,
        test.names,
        {name: pairs.told for name, pairs in zip(names, found, strict=True)},
        f"{told} to train on, {len(val):,} val, {len(test):,} test, {told_size(size)} each",
    )


def check_sets(sets: list[Pairs], batch_size: int, least: float) -> tuple[int, int]:
    """Return (height, width) of the first image of `sets`, which are to be trained on in batches of `batch_size`.

    Raises:
        UserError: a side is no multiple of `STRIDE`; there are too few images in a batch; or a confidence map is
            missing where labels less sure than `least` are to be left out.
    """
    first = sets[0].image(0)
    size = image_size(first)
    if size[0] % STRIDE or size[1] % STRIDE:
        raise UserError(
            f"{first} is {told_size(size)} pixels; both sides must be multiples of {STRIDE}, so make the dataset again"
            " with such a --patch-size"
        )
    if batch_size < world_size():
        raise UserError(f"--batch-size {batch_size} is shared out by {world_size()} processes; raise it to that")
    for pairs in filter(is_labelled, sets) if least else ():
        folder = pairs.confidence(0).parent
        there = {entry.name for entry in os.scandir(folder)} if folder.is_dir() else set()
        for index, name in enumerate(pairs.names):
            if f"{name}{SUFFIX}" not in there:
                raise UserError(
                    f"{pairs.confidence(index)} is missing; write the maps with segmentation_predict.py"
                    " --confidence-maps"
                )
    return size


def epoch_order(options: Options, sets: list[Pairs]) -> EpochOrder:
    """Return the order of the images of `sets` in each epoch."""
    weights = None
    if options.sampling == "balanced":
        tables = [options.data / "class_percentages" / f"{pairs.masks.parent.name}.csv" for pairs in sets]
        shares = from_first(lambda: [class_shares(pairs, table) for pairs, table in zip(sets, tables, strict=True)])
        weights = [balanced_weights(share) for share in shares]
    mix = mix_of(options.mix, len(sets)) if options.mix else None
    return EpochOrder([len(pairs) for pairs in sets], options.seed, mix, weights)
