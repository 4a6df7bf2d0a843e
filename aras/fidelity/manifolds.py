"""Precision, recall, density and coverage: how far two sets of features lie within each other's neighbourhoods.

Around each image of a set lies a ball that reaches to its k-th nearest neighbour in that set, and the balls together
stand for what images of its kind may look like. Everything is exact and taken block by block.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from aras.errors import UserError
from aras.fidelity.nearest import BLOCK, block_of, mean_of, nearest, squares_between, starts
from aras.fidelity.resampling import Estimate, Keep, draws_of_two, estimate, groups_of

if TYPE_CHECKING:
    import torch

PRECISION_NEIGHBORS = 3
"""Of precision and recall, as Kynkaanniemi et al. have it."""

DENSITY_NEIGHBORS = 5
"""Of density and coverage, as Naeem et al. have it."""

IMAGES_OF_DRAWS = 1000
"""At most, from which intervals are drawn: their distances are kept in memory, 12 MB."""

ROUNDING = 1e-12
"""Of squared lengths in float64: an image that lies on the edge of a ball is in it, however sums are rounded."""


@dataclass(frozen=True)
class Manifold:
    """How far the images of a set lie among real ones, and real ones among them.

    Attributes:
        precision: share of images that lie in a ball of a real one, 0..1.
        recall: share of real images that lie in a ball of one of the set, 0..1.
        density: mean number of real balls that an image lies in, over k: about 1 for images of the same kind.
        coverage: share of real balls in which an image lies, 0..1.
    """

    precision: Estimate
    recall: Estimate
    density: Estimate
    coverage: Estimate


def manifold_scores(
    real: np.ndarray,
    fake: np.ndarray,
    k: int = PRECISION_NEIGHBORS,
    density_k: int = DENSITY_NEIGHBORS,
    real_blocks: np.ndarray | None = None,
    fake_blocks: np.ndarray | None = None,
    seed: int = 0,
    device: "torch.device | None" = None,
) -> Manifold:
    """Return how far `fake` images lie among `real` ones and the other way round, each with its interval.

    All four depend on how many images there are, precision and recall the most, so compare sets of equal number only.
    One far-out real image has a large ball and can make precision high; density and coverage bear that better. The
    interval comes from draws of half of each set, in which the balls are made anew, so it covers what other real images
    would change as well as what other images of the set would. Where there are more than `IMAGES_OF_DRAWS` images, it
    comes from whole blocks with as many, and is narrowed by the square root of the share that these are.

    Args:
        real: features (N, D) float32, may be memory-mapped: they are read block by block.
        fake: (M, D) likewise.
        k: the neighbour to which balls reach, for precision and recall.
        density_k: the same for density and coverage.
        real_blocks: (N,) the block of each image, None if each is its own.
        fake_blocks: (M,) likewise.
        seed: of the draws of the interval.
        device: where to compute, the CPU if None.

    Raises:
        UserError: a set has no more images than neighbours are asked for, or features that are no finite numbers.

    Source:
        Kynkaanniemi et al. 2019, arXiv 1904.06991, eq. 1 and 2 (precision, recall); Naeem et al. 2020, arXiv 2002.09797
        (density, coverage).
    """
    fewest = min(len(real), len(fake))
    if fewest <= max(k, density_k):
        raise UserError(
            f"precision, recall, density and coverage need {max(k, density_k) + 1} images in each set, and one has"
            f" {fewest}; add some, or leave the set out"
        )
    values = _shares(real, fake, k, density_k, device)
    rows = _sample(real_blocks, len(real), seed), _sample(fake_blocks, len(fake), seed)
    groups = [
        groups_of(None if blocks is None else blocks[chosen], len(chosen), seed)
        for blocks, chosen in zip((real_blocks, fake_blocks), rows, strict=True)
    ]
    scale = float(np.sqrt(max(len(rows[0]) / len(real), len(rows[1]) / len(fake))))
    keep = draws_of_two(groups[0], groups[1], seed)
    replicates = _replicates(real[rows[0]], fake[rows[1]], groups, keep, k, density_k)
    limits = {"precision": 1.0, "recall": 1.0, "density": np.inf, "coverage": 1.0}
    found = zip(limits, values, replicates.T, strict=True)
    return Manifold(**{name: estimate(value, row, keep, 0.0, limits[name], scale) for name, value, row in found})


def _sample(blocks: np.ndarray | None, images: int, seed: int) -> np.ndarray:
    """Return which images intervals are drawn from, (n,) int64: all, or whole blocks of `IMAGES_OF_DRAWS` in all."""
    if images <= IMAGES_OF_DRAWS:
        return np.arange(images)
    index = np.arange(images) if blocks is None else np.unique(blocks, return_inverse=True)[1]
    sizes = np.bincount(index)
    order = np.random.default_rng(seed).permutation(len(sizes))
    chosen = order[np.cumsum(sizes[order]) <= IMAGES_OF_DRAWS]
    return np.flatnonzero(np.isin(index, chosen))


def _replicates(
    real: np.ndarray, fake: np.ndarray, groups: list[np.ndarray], keep: Keep, k: int, density_k: int
) -> np.ndarray:
    """Return the four scores of each draw (R, 4), nan where it keeps no more images than neighbours."""
    within = [_matrix(each, each) for each in (real, fake)]
    for matrix in within:
        np.fill_diagonal(matrix, 0)
    between = _matrix(real, fake)
    found = np.full((len(keep[0]), 4), np.nan)
    for row, one, other in zip(found, *keep, strict=True):
        here, there = np.flatnonzero(one[groups[0]]), np.flatnonzero(other[groups[1]])
        if min(len(here), len(there)) <= max(k, density_k):
            continue
        own = np.partition(within[0][np.ix_(here, here)], sorted({k, density_k}), axis=1)  # each itself is the first
        others = np.partition(within[1][np.ix_(there, there)], k, axis=1)[:, k]
        across = between[np.ix_(here, there)]
        inside = across <= own[:, density_k, None]
        row[0] = (across <= own[:, k, None]).any(axis=0).mean()
        row[1] = (across <= others).any(axis=1).mean()
        row[2:] = inside.sum() / (density_k * len(there)), inside.any(axis=1).mean()
    return found


def _matrix(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return the squared distances (n, m) float32 between `one` (n, D) and `other` (m, D), 0 between copies."""
    import torch

    mean = one.mean(axis=0, dtype=np.float64)
    left, right = (torch.from_numpy(each - mean) for each in (one, other))
    squares = squares_between(left, right)
    lengths = left.square().sum(dim=1)[:, None] + right.square().sum(dim=1)
    return squares.masked_fill_(squares < ROUNDING * lengths, 0).float().numpy()


def _shares(real: np.ndarray, fake: np.ndarray, k: int, density_k: int, device: "torch.device | None") -> list[float]:
    """Return precision, recall, density and coverage."""
    import torch

    real_reach = nearest(real, real, max(k, density_k), True, device, "balls of real images")[0]
    fake_reach = nearest(fake, fake, k, True, device, "balls of the set")[0]
    near, wide = (_squared(real_reach[:, n - 1], device) for n in (k, density_k))
    of_fake = _squared(fake_reach[:, k - 1], device)
    inside = torch.zeros(len(fake), dtype=torch.bool, device=device)  # a ball of a real image
    recalled, covered = (torch.zeros(len(real), dtype=torch.bool, device=device) for _ in range(2))
    count = 0
    for rows, columns, squares in _blocks(real, fake, device):
        inside[columns] |= (squares <= near[rows, None]).any(dim=0)
        recalled[rows] |= (squares <= of_fake[columns]).any(dim=1)
        within = squares <= wide[rows, None]
        covered[rows] |= within.any(dim=1)
        count += int(within.sum())
    shares = [float(each.double().mean()) for each in (inside, recalled, covered)]
    return [*shares[:2], count / (density_k * len(fake)), shares[2]]


def _squared(distances: np.ndarray, device: "torch.device | None") -> "torch.Tensor":
    """Return the squares of `distances` (N,), float64 on `device`."""
    import torch

    return torch.from_numpy(distances).to(device).square()


def _blocks(
    real: np.ndarray, fake: np.ndarray, device: "torch.device | None"
) -> Iterator[tuple[slice, slice, "torch.Tensor"]]:
    """Yield rows, columns and squared distances of the blocks between `real` and `fake`, less what rounding may add."""
    from tqdm import tqdm

    mean = mean_of(real, device)
    for i in tqdm(starts(len(real)), desc="images in balls", disable=None, unit="block", leave=False):
        left = block_of(real, i, device) - mean
        for j in starts(len(fake)):
            right = block_of(fake, j, device) - mean
            lengths = left.square().sum(dim=1)[:, None] + right.square().sum(dim=1)
            squares = lengths.mul_(1 - ROUNDING).addmm_(left, right.T, alpha=-2)
            yield slice(i, i + BLOCK), slice(j, j + BLOCK), squares
