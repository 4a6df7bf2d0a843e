"""Which images an epoch of training has, and in what order: each once, mixed from several sets, or rare classes lifted.

An order is a function of (seed, epoch), so a run that goes on, and every process of several, find it again.
"""

import csv
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np

from aras.command import cores
from aras.errors import UserError
from aras.legend import CLASS_NAMES, NUM_CLASSES, class_percentages, read_mask
from aras.pairs import SUFFIX, Pairs

SAMPLINGS = ("uniform", "balanced")
"""What `--sampling` takes."""

MOST_LIFT = 10.0
"""How much more often than its share a class may be drawn, so that a class of one image does not fill the epochs."""

MASKS_A_TASK = 256  # read by a thread at a time

PASS, DRAW = 1, 2  # what sets the draws of one (seed, epoch, set) apart


class EpochOrder:
    """The order of each epoch's images, as indices into the sets laid one after the other.

    Args:
        sizes: how many images each set has.
        seed: what the order follows from.
        mix: a number for each set. An epoch has the first set once, and of each other set as many images as stand to
            them as its number to the first's. Without it, an epoch has every image of every set.
        weights: of each set, (N,) the weight of each image. Each image is then drawn, with replacement, by its weight
            within its own set, so the sets keep their numbers of images. Without it, no image of a set comes again
            before all others of it have come, across epochs too.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        seed: int,
        mix: Sequence[float] | None = None,
        weights: Sequence[np.ndarray] | None = None,
    ):
        self.sizes, self.seed, self.weights = list(sizes), seed, weights
        self.mix = mix
        self.counts = self.sizes
        if mix is not None:
            self.counts = [max(1, round(self.sizes[0] * number / mix[0])) for number in mix]
        self.starts = np.cumsum([0, *self.sizes[:-1]])

    def __len__(self) -> int:
        """Return how many images an epoch has."""
        return sum(self.counts)

    def order(self, epoch: int) -> np.ndarray:
        """Return the indices (len,) int64 of `epoch`, which counts from 1."""
        shuffle = np.random.default_rng((self.seed, epoch)).permutation
        if self.mix is None and self.weights is None:
            return shuffle(len(self))
        chosen = self._in_turn if self.weights is None else self._by_weight
        return shuffle(np.concatenate([start + chosen(which, epoch) for which, start in enumerate(self.starts)]))

    def _in_turn(self, which: int, epoch: int) -> np.ndarray:
        """Return the images of a set that come in `epoch`: a piece of one shuffled pass over the set after another."""
        size, count = self.sizes[which], self.counts[which]
        first = (epoch - 1) * count
        passes = range(first // size, (first + count - 1) // size + 1)
        key = (self.seed, which, PASS)
        laid = np.concatenate([np.random.default_rng((*key, 1 + turn)).permutation(size) for turn in passes])
        begin = first - passes[0] * size
        return laid[begin : begin + count]

    def _by_weight(self, which: int, epoch: int) -> np.ndarray:
        """Return the images of a set that are drawn for `epoch`."""
        assert self.weights is not None
        weights = self.weights[which].astype(np.float64)
        rng = np.random.default_rng((self.seed, which, DRAW, epoch))
        return rng.choice(self.sizes[which], self.counts[which], p=weights / weights.sum())


def mix_of(text: str, sets: int) -> tuple[float, ...]:
    """Return the numbers of `--mix` `text`, such as 1:2, one for each of `sets` sets.

    Raises:
        ValueError: there are more or fewer, or one is not above 0; the message is for a usage error.
    """
    try:
        numbers = tuple(float(word) for word in text.split(":"))
    except ValueError:
        raise ValueError(f"{text} is not numbers with a colon between them, such as 1:2") from None
    if not all(0 < number < float("inf") for number in numbers):
        raise ValueError(f"{text} has a number that is not above 0; to leave a set out, leave out its --train")
    if len(numbers) != sets:
        raise ValueError(
            f"{text} has {len(numbers)} numbers for {sets} --train sets; give one for each, in their order"
        )
    return numbers


def balanced_weights(shares: np.ndarray) -> np.ndarray:
    """Return the weight (N,) float64 with which each image is drawn, from its class `shares` (N, 7), 0..1.

    Repeat factor sampling (Gupta et al. 2019, LVIS, arXiv 1908.03195) repeats an image by the largest
    r_c = sqrt(t / f_c) of its classes, f_c being how frequent class c is. Here f_c is its share of all pixels and t an
    equal share, 1/7; and because nearly every patch has a few pixels of something rare, an image is lifted by the
    quadratic mean of r_c over its pixels rather than by the largest: sqrt(sum over c of share_c * t / f_c). No r_c is
    above `MOST_LIFT`. An image without a label has weight 0.

    Raises:
        UserError: no image has a label.
    """
    if not shares.any():
        raise UserError("--sampling balanced: no mask has a labelled pixel; make the masks again, or sample uniformly")
    frequency = shares[shares.any(axis=1)].mean(axis=0, dtype=np.float64)  # (7,)
    lift = np.minimum(1 / NUM_CLASSES / np.maximum(frequency, 1e-12), MOST_LIFT**2)  # (7,) r_c squared
    return np.sqrt(shares @ lift)


def class_shares(pairs: Pairs, table: Path) -> np.ndarray:
    """Return each class's share (N, 7) float32, 0..1, of the labelled pixels of each mask of `pairs`.

    They are read from `table` (class_percentages/<split>.csv), and from the masks themselves where it is missing or
    lacks them.

    Raises:
        UserError: the table or a mask cannot be read.
    """
    known = percentages_of(table) if table.exists() else {}
    shares = np.zeros((len(pairs), NUM_CLASSES), np.float32)
    missing = []
    for place, name in enumerate(pairs.names):
        if name in known:
            shares[place] = known[name]
        else:
            missing.append(place)
    tasks = [missing[start : start + MASKS_A_TASK] for start in range(0, len(missing), MASKS_A_TASK)]
    with ThreadPoolExecutor(cores()) as threads:
        for places, found in zip(tasks, threads.map(partial(percentages_in_masks, pairs), tasks), strict=True):
            shares[places] = found
    return shares / 100


def percentages_in_masks(pairs: Pairs, places: Sequence[int]) -> list[list[float]]:
    """Return the percentage of each class in the masks of the pairs at `places`, to the digit that a table has."""
    counts = (np.bincount(read_mask(pairs.mask(place)).ravel(), minlength=NUM_CLASSES) for place in places)
    return [class_percentages(count) for count in counts]


def percentages_of(table: Path) -> dict[str, np.ndarray]:
    """Return the percentages (7,) float32 by image stem in `table`, a CSV of `filename` and a column for each class.

    Raises:
        UserError: it is not such a table.
    """
    try:
        with table.open(newline="", encoding="utf-8") as file:
            rows = csv.DictReader(file)
            missing = [name for name in ("filename", *CLASS_NAMES) if name not in (rows.fieldnames or ())]
            if missing:
                raise ValueError(f"it has no column {missing[0]}")
            return {str(row["filename"]).removesuffix(SUFFIX): percentages_in_row(row) for row in rows}
    except (ValueError, csv.Error) as error:  # bytes that are no text are a ValueError too
        raise UserError(
            f"{table} is not a table of class percentages ({error}); delete it, and the masks are counted instead"
        ) from None


def percentages_in_row(row: dict[str, str]) -> np.ndarray:
    """Return the percentages (7,) float32 in a row of a table.

    Raises:
        ValueError: one is missing, or is no percentage.
    """
    words = [row[name] or "" for name in CLASS_NAMES]  # a torn row lacks its last values
    percentages = np.array([float(word) for word in words], np.float32)
    if not ((percentages >= 0) & (percentages <= 100)).all():
        raise ValueError(f"{row['filename']} has {', '.join(words)}")
    return percentages
