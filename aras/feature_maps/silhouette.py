"""How far apart sets of feature vectors lie: silhouettes, exact, in memory that does not grow with the square.

For each vector the silhouette (Rousseeuw 1987, Journal of Computational and Applied Mathematics 20, 53) needs but its
mean distance to each set. These are gathered in one pass over the blocks of the distance matrix, each pair of blocks
computed once; the scores of all sets together and of every two of them follow.
"""

from collections.abc import Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch

BLOCK = {"cpu": 1024, "cuda": 4096}
"""Rows of a block of distances: 8 MB, which stays in a CPU's cache, and 128 MB."""

REPEATS = 1000
"""Resamples of a standard error, which is then known to about 2 %."""


def distance_sums(features: np.ndarray, sizes: Sequence[int], device: "torch.device") -> np.ndarray:
    """Return the sum of Euclidean distances of each vector to those of each set, (N, K) float64.

    |x - y|² is |x|² + |y|² - 2xy, by which nearly equal vectors lose as many digits as they are close: float32 has not
    enough of them, float64 has.

    Args:
        features: (N, D) float32, set after set.
        sizes: how many vectors each of the K sets has.
        device: where to compute.
    """
    import torch
    from tqdm import tqdm

    mean = torch.from_numpy(features.mean(axis=0, dtype=np.float64)).to(device)
    vectors = torch.from_numpy(features).to(device)
    sums = torch.zeros((len(features), len(sizes)), dtype=torch.float64, device=device)
    blocks = blocks_within(sizes, BLOCK[device.type])
    with torch.inference_mode(), tqdm(total=len(features) ** 2, desc="distances", disable=None, unit_scale=True) as bar:
        for i, (rows, row_set) in enumerate(blocks):
            left = vectors[rows].double() - mean
            for columns, column_set in blocks[i:]:
                right = left if columns == rows else vectors[columns].double() - mean
                distances = distances_between(left, right)
                if columns == rows:
                    distances.fill_diagonal_(0)
                else:
                    sums[columns, row_set] += distances.sum(dim=0)
                sums[rows, column_set] += distances.sum(dim=1)
                bar.update(distances.numel() * (1 if columns == rows else 2))
    return sums.cpu().numpy()


def distances_between(left: "torch.Tensor", right: "torch.Tensor") -> "torch.Tensor":
    """Return the Euclidean distances (A, B) float64 between `left` (A, D) and `right` (B, D) float64."""
    squares = left.square().sum(dim=1)[:, None] + right.square().sum(dim=1)[None]
    return squares.addmm_(left, right.T, alpha=-2).clamp_min_(0).sqrt_()


def blocks_within(sizes: Sequence[int], most: int) -> list[tuple[slice, int]]:
    """Return slices of at most `most` rows that end where a set of `sizes` ends, and the set of each."""
    blocks, first = [], 0
    for which, size in enumerate(sizes):
        blocks += [(slice(at, min(at + most, first + size)), which) for at in range(first, first + size, most)]
        first += size
    return blocks


def silhouettes_of(sums: np.ndarray, sizes: Sequence[int]) -> np.ndarray:
    """Return the silhouette of each vector, (N,) float64, from its `sums` (N, K) of distances to sets of `sizes`.

    It is (b - a) / max(a, b) with a the mean distance to the others of its set and b that to the nearest other set; 0
    for one that is alone in its set, and where all distances are 0 (as in sklearn.metrics.silhouette_samples).
    """
    own = (np.arange(len(sums)), np.repeat(np.arange(len(sizes)), sizes))
    counts = np.array(sizes)
    within = sums[own] / np.maximum(counts[own[1]] - 1, 1)
    means = sums / counts
    means[own] = np.inf
    nearest = means.min(axis=1)
    largest = np.maximum(within, nearest)
    found = np.divide(nearest - within, largest, out=np.zeros(len(sums)), where=largest > 0)
    return np.where(counts[own[1]] > 1, found, 0)


def score_and_error(sums: np.ndarray, sizes: Sequence[int], blocks: np.ndarray, seed: int) -> dict[str, float | None]:
    """Return the mean silhouette and its standard error, None when it cannot be told, as JSON has them.

    The error is the deviation of the mean over `REPEATS` draws of whole blocks with replacement (block bootstrap), in
    which each set keeps its share, and each vector the silhouette that it has among all.

    Args:
        sums: (N, K) of distances to each set.
        sizes: of the K sets.
        blocks: (N,) which block each vector is in: those of one block are no independent draws.
        seed: of the draws.
    """
    found = silhouettes_of(sums, sizes)
    shares = np.array(sizes) / sum(sizes)
    _, block = np.unique(blocks, return_inverse=True)
    count, kinds = int(block.max()) + 1, len(sizes)
    cell = block * kinds + np.repeat(np.arange(kinds), sizes)
    totals = np.bincount(cell, found, count * kinds).reshape(count, kinds)
    members = np.bincount(cell, minlength=count * kinds).reshape(count, kinds)
    generator, means = np.random.default_rng(seed), []
    for _ in range(REPEATS):
        times = np.bincount(generator.integers(count, size=count), minlength=count)
        drawn = times @ members
        if drawn.all():
            means.append(float(shares @ (times @ totals / drawn)))
    error = float(np.std(means, ddof=1)) if count > 1 and len(means) > REPEATS / 2 else None
    return {"silhouette": float(found.mean()), "standard_error": error}


def all_scores(
    sums: np.ndarray, names: Sequence[str], sizes: Sequence[int], blocks: np.ndarray, seed: int
) -> dict[str, Any]:
    """Return the scores of all sets and of every two of them, as silhouette.json has them."""
    ends = np.cumsum(sizes)
    pairs = []
    for two in combinations(range(len(sizes)), 2):
        rows = np.concatenate([np.arange(ends[k] - sizes[k], ends[k]) for k in two])
        scores = score_and_error(sums[rows][:, two], [sizes[k] for k in two], blocks[rows], seed)
        pairs.append({"sets": [names[k] for k in two]} | scores)
    found = silhouettes_of(sums, sizes)
    means = {name: float(part.mean()) for name, part in zip(names, np.split(found, ends[:-1]), strict=True)}
    return {"overall": score_and_error(sums, sizes, blocks, seed) | {"of_set": means}, "pairs": pairs}
