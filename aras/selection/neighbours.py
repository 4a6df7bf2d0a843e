"""Near-duplicates within a set of features that may be larger than memory: exact, block by block."""

from typing import TYPE_CHECKING

import numpy as np

from aras.fidelity.nearest import BLOCK, block_of, mean_of, squares_between, starts

if TYPE_CHECKING:
    import torch


def repeats(features: np.ndarray, least: float, device: "torch.device | None" = None) -> tuple[np.ndarray, np.ndarray]:
    """Return the distance (N,) of each image to the nearest that is kept before it, and its place (N,); -1 if it stays.

    Images come in their order; each is kept unless one kept before is nearer than `least`. So of a group of near-
    duplicates the first stays, and no chain of small steps takes a whole region with it. Exact, in float64; memory is
    that of some blocks. Time grows with N times the number that is kept.

    Args:
        features: (N, D) float32, may be memory-mapped.
        least: the least Euclidean distance of images that are not near-duplicates.
        device: where to compute, the CPU if None.
    """
    from tqdm import tqdm

    distances, twins = np.full(len(features), np.inf), np.full(len(features), -1)
    if not len(features):
        return distances, twins
    mean, kept = mean_of(features, device), np.empty(0, np.int64)
    for start in tqdm(starts(len(features)), desc="near-duplicates", disable=None, unit="block", leave=False):
        block = block_of(features, start, device) - mean
        nearest, place = _nearest_kept(block, features, kept, mean)
        among = squares_between(block, block).cpu().numpy()
        stays = np.zeros(len(block), bool)
        for row in range(len(block)):
            near = np.where(stays[:row], among[row, :row], np.inf)
            closest = int(near.argmin()) if row else 0
            twin, square = int(place[row]), float(nearest[row])
            if row and near[closest] < square:
                twin, square = start + closest, float(near[closest])
            stays[row] = max(square, 0) >= least**2  # rounding makes that of a copy less than nothing
            if not stays[row]:
                twins[start + row] = twin
        gone = start + np.flatnonzero(~stays)
        distances[gone] = np.linalg.norm(features[gone].astype(np.float64) - features[twins[gone]], axis=1)
        kept = np.concatenate([kept, start + np.flatnonzero(stays)])
    return distances, twins


def _nearest_kept(
    block: "torch.Tensor", features: np.ndarray, kept: np.ndarray, mean: "torch.Tensor"
) -> tuple[np.ndarray, np.ndarray]:
    """Return the square (B,) of each distance from the centred `block` to the nearest of `kept` places, and which."""
    import torch

    best = torch.full((len(block),), torch.inf, dtype=torch.float64, device=block.device)
    places = torch.full((len(block),), -1, device=block.device)
    for start in range(0, len(kept), BLOCK):
        them = block_of(features[kept[start : start + BLOCK]], 0, block.device) - mean
        squares, place = squares_between(block, them).min(dim=1)
        nearer = squares < best
        best, places = torch.where(nearer, squares, best), torch.where(nearer, place + start, places)
    found = places.cpu().numpy()
    return best.cpu().numpy(), kept[found] if len(kept) else found
