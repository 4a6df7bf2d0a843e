"""Exact nearest neighbours between two sets of features that may be larger than memory.

`aras.feature_maps.neighbors` finds those within one set that is in memory, in float32, for maps. Here distances decide
whether an image is a copy, of which float32 leaves no digits, and sets differ.
"""

from typing import TYPE_CHECKING

import numpy as np

from aras.errors import UserError

if TYPE_CHECKING:
    import torch

BLOCK = 1024
"""Images of a block: the distances between two blocks are 8 MB, which stay in a CPU's cache."""


def starts(images: int) -> range:
    """Return where the blocks of so many images start."""
    return range(0, images, BLOCK)


def block_of(features: np.ndarray, start: int, device: "torch.device | None" = None) -> "torch.Tensor":
    """Return the block of `features` (N, D) that begins at `start`, (B, D) float64 on `device`.

    Raises:
        UserError: a feature is no finite number.
    """
    import torch

    found = torch.from_numpy(features[start : start + BLOCK].astype(np.float64)).to(device)
    if not found.isfinite().all():
        raise UserError("features hold values that are no finite numbers; delete them, and they are extracted again")
    return found


def mean_of(features: np.ndarray, device: "torch.device | None" = None) -> "torch.Tensor":
    """Return the mean (D,) float64 of `features` (N, D)."""
    import torch

    total = torch.zeros(features.shape[1], dtype=torch.float64, device=device)
    for start in starts(len(features)):
        total += block_of(features, start, device).sum(dim=0)
    return total / len(features)


def squares_between(left: "torch.Tensor", right: "torch.Tensor") -> "torch.Tensor":
    """Return the squared Euclidean distances (A, B) between `left` (A, D) and `right` (B, D), both float64."""
    squares = left.square().sum(dim=1)[:, None] + right.square().sum(dim=1)
    return squares.addmm_(left, right.T, alpha=-2)


def nearest(
    one: np.ndarray,
    other: np.ndarray,
    k: int,
    skip_self: bool = False,
    device: "torch.device | None" = None,
    told: str = "neighbours",
) -> tuple[np.ndarray, np.ndarray]:
    """Return distances (N, k) float64 and places (N, k) int64 in `other` of the k nearest to each of `one`.

    The nearest comes first. Which are nearest is found by |x|^2 + |y|^2 - 2xy in float64 of features less their mean,
    and their distances are then taken from the differences, so that of an exact copy is 0. Memory is that of some
    blocks and of the result.

    Args:
        one: (N, D) float32, may be memory-mapped.
        other: (M, D) likewise.
        k: how many.
        skip_self: `other` is `one`, and no image is its own neighbour.
        device: where to compute, the CPU if None.
        told: what the progress bar is called.

    Raises:
        UserError: `other` has fewer than k others, or a feature is no finite number.
    """
    import torch
    from tqdm import tqdm

    if len(other) < k + skip_self:
        raise UserError(
            f"{k} nearest neighbours of an image need {k + skip_self} images, and there are {len(other)}; add images"
        )
    mean = mean_of(other, device)
    squares = torch.full((len(one), k), torch.inf, dtype=torch.float64, device=device)
    places = torch.zeros((len(one), k), dtype=torch.int64, device=device)
    for i in tqdm(starts(len(one)), desc=told, disable=None, unit="block", leave=False):
        left = block_of(one, i, device) - mean
        for j in starts(len(other)):
            if skip_self and j < i:
                continue  # found with rows and columns exchanged
            right = left if skip_self and i == j else block_of(other, j, device) - mean
            found = squares_between(left, right)
            if skip_self and i == j:
                found.fill_diagonal_(torch.inf)
            _take_in(squares[i : i + BLOCK], places[i : i + BLOCK], found, j)
            if skip_self and i != j:
                _take_in(squares[j : j + BLOCK], places[j : j + BLOCK], found.T, i)
    return _from_differences(one, other, places.cpu().numpy())


def _take_in(squares: "torch.Tensor", places: "torch.Tensor", found: "torch.Tensor", start: int) -> None:
    """Make `squares` and `places` (A, k) those of the nearest, of what they were and `found` (A, B) from `start` on."""
    import torch

    k = squares.shape[1]
    near = found.topk(min(k, found.shape[1]), dim=1, largest=False)
    both = torch.cat([squares, near.values], dim=1)
    best = both.topk(k, dim=1, largest=False)
    squares[:] = best.values
    places[:] = torch.cat([places, near.indices + start], dim=1).gather(1, best.indices)


def _from_differences(one: np.ndarray, other: np.ndarray, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the distances to the `places` (N, k) in `other`, and these, nearest first; equally near by place."""
    distances = np.empty(places.shape)
    for start in starts(len(one)):
        rows = slice(start, start + BLOCK)
        left = one[rows].astype(np.float64)
        for column in range(places.shape[1]):
            apart = other[places[rows, column]] - left
            distances[rows, column] = np.sqrt(np.einsum("nd,nd->n", apart, apart))
    order = np.lexsort((places, distances))
    return np.take_along_axis(distances, order, axis=1), np.take_along_axis(places, order, axis=1)
