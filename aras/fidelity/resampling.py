"""How sure a measure of two sets of images is: one scheme for all of them, in which no image is drawn twice.

Drawing with replacement, as the common bootstrap does, repeats images. An image that is there twice is its own nearest
neighbour, and its set looks smaller and more clustered than it is: of two sets of 64 the Fréchet distance doubles, and
precision, recall and coverage fall by a tenth. So images are left out instead (delete-d jackknife: Shao and Wu 1989,
Annals of Statistics 17, 1176): half of each set is drawn again and again without replacement and the measure taken of
the halves. Values of halves spread about their own mean as values of whole sets do about theirs, or more widely where
sets are of one kind. That the level of a half differs, as it does for measures which depend on the number of images,
does no harm: only the spread is used.

Whole blocks of neighbouring patches are kept or left out (`aras.blocks`), since neighbours are no independent images.
The interval is for the value that is to be expected of sets as large as these, not of endless ones.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from aras.errors import UserError

LEVEL = 0.95
REPEATS = 100
"""Halves: the standard error is then known to about 7 %."""

GROUPS = 200
"""Blocks are joined to at most this many groups that are kept or left out together, so that sums of each are kept."""

ROWS_AT_ONCE = 2048

Keep = tuple[np.ndarray, np.ndarray]
"""Which groups of one set (R, G) bool, and of the other (R, H) bool, are kept in each of R draws."""


@dataclass(frozen=True)
class Estimate:
    """A measure of two sets of images and how sure it is.

    Attributes:
        value: of all images.
        low: where the 95 % interval begins; None where a set has too few blocks to tell.
        high: where it ends; None likewise.
        standard_error: how far values of other images would lie from their mean; None likewise.
    """

    value: float
    low: float | None = None
    high: float | None = None
    standard_error: float | None = None


def groups_of(blocks: np.ndarray | None, images: int, seed: int, most: int = GROUPS) -> np.ndarray:
    """Return the group 0..G-1 of each image, (N,) int64: its block, or some blocks joined at random, alike in size.

    Args:
        blocks: (N,) which block each image is in, of any type; None if each is its own.
        images: N.
        seed: of the order in which blocks are joined.
        most: groups.
    """
    if blocks is None:
        index = np.arange(images)
    else:
        _, index = np.unique(blocks, return_inverse=True)
    sizes = np.bincount(index)
    if len(sizes) <= most:
        return index
    order = np.random.default_rng(seed).permutation(len(sizes))
    ends = np.cumsum(sizes[order])
    group = np.empty(len(sizes), np.int64)
    group[order] = (ends - sizes[order] / 2) * most // images
    return np.unique(group[index], return_inverse=True)[1]


def draws(groups: int, repeats: int, generator: np.random.Generator) -> np.ndarray:
    """Return which groups are kept in each of `repeats` draws of half of them, (R, G) bool."""
    # Of an odd number, every other draw keeps one more.
    counts = np.maximum((groups + np.arange(repeats) % 2) // 2, 1)
    return generator.random((repeats, groups)).argsort(axis=1).argsort(axis=1) < counts[:, None]


def draws_of_two(one: np.ndarray, other: np.ndarray, seed: int) -> Keep:
    """Return `REPEATS` independent draws of the groups of two sets, given the group of each image (N,)."""
    generator = np.random.default_rng(seed)
    return (
        draws(int(one.max()) + 1, REPEATS, generator),
        draws(int(other.max()) + 1, REPEATS, generator),
    )


def estimate(
    value: float,
    replicates: np.ndarray,
    keep: Keep,
    least: float = -np.inf,
    most: float = np.inf,
    scale: float = 1.0,
) -> Estimate:
    """Return `value` with the interval that its `replicates` (R,) give; those that are nan do not count.

    The standard error is the deviation of the replicates times the square root of share / (1 - share), of groups that
    are kept, and the interval is by Student's t of one degree of freedom less than the smaller number of groups. There
    is none where a set has one group, or where the measure could be taken of fewer than half of the draws. Where all
    draws agree, as on a share of 0, it has no width, which says that these images tell no more.

    Args:
        value: of all images.
        replicates: of the images kept in each draw.
        keep: the draws.
        least: below which the measure cannot be.
        most: above which it cannot be.
        scale: of the standard error, for draws of fewer images than `value` is of.
    """
    from scipy.stats import t

    degrees, found = min(each.shape[1] for each in keep) - 1, replicates[~np.isnan(replicates)]
    if degrees < 1 or len(found) < max(len(replicates) / 2, 2):
        return Estimate(value)
    share = float(np.mean([each.mean() for each in keep]))
    error = float(found.std(ddof=1) * np.sqrt(share / (1 - share)) * scale)
    reach = float(t.ppf((1 + LEVEL) / 2, degrees)) * error
    return Estimate(value, max(value - reach, least), min(value + reach, most), error)


def of_means(
    one: np.ndarray,
    other: np.ndarray,
    distance: Callable[[np.ndarray, np.ndarray], float],
    one_blocks: np.ndarray | None = None,
    other_blocks: np.ndarray | None = None,
    seed: int = 0,
) -> Estimate:
    """Return the `distance` of two sets' mean rows with its interval.

    Args:
        one: (N, ...) what is measured of each image: spectra, counts of levels, of borders.
        other: (M, ...) the same of the other set; both may be memory-mapped and are read once.
        distance: of two rows; at least 0.
        one_blocks: (N,) the block of each image, None if each is its own.
        other_blocks: (M,) likewise.
        seed: of the draws.

    Raises:
        UserError: a set is empty, or what `distance` raises for the whole sets.
    """
    if not (len(one) and len(other)):
        raise UserError("a set has no images to measure; add some, or leave the set out")
    groups = groups_of(one_blocks, len(one), seed), groups_of(other_blocks, len(other), seed)
    keep = draws_of_two(*groups, seed)
    sides = [_Sums.of(*side) for side in zip((one, other), groups, strict=True)]
    value = distance(*(side.mean(np.ones(len(side.counts), bool)) for side in sides))
    replicates = [
        _told(distance, sides[0].mean(first), sides[1].mean(second)) for first, second in zip(*keep, strict=True)
    ]
    return estimate(value, np.array(replicates), keep, least=0.0)


def _told(distance: Callable[[np.ndarray, np.ndarray], float], one: np.ndarray, other: np.ndarray) -> float:
    """Return the distance, nan where a half has nothing to measure it by."""
    try:
        return distance(one, other)
    except UserError:
        return float("nan")


@dataclass(frozen=True)
class _Sums:
    """The sum of each group's rows."""

    counts: np.ndarray  # (G,) images
    sums: np.ndarray  # (G, ...) float64

    @classmethod
    def of(cls, rows: np.ndarray, groups: np.ndarray) -> "_Sums":
        """Return the sums of `rows` (N, ...), read block by block."""
        counts = np.bincount(groups)
        sums = np.zeros((len(counts), *rows.shape[1:]))
        for start in range(0, len(rows), ROWS_AT_ONCE):
            block = slice(start, start + ROWS_AT_ONCE)
            np.add.at(sums, groups[block], rows[block])
        return cls(counts, sums)

    def mean(self, kept: np.ndarray) -> np.ndarray:
        """Return the mean row of the images of the groups `kept` (G,) bool."""
        mean: np.ndarray = self.sums[kept].sum(axis=0) / self.counts[kept].sum()
        return mean
