"""The nearest neighbours of vectors, exact: what t-SNE and UMAP both start from."""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

BLOCK = {"cpu": 512, "cuda": 2048}
"""Vectors whose distances to all others are held at a time: 0.3 and 1.2 GB for 150,000."""


def nearest_neighbors(features: np.ndarray, count: int, device: "torch.device") -> tuple[np.ndarray, np.ndarray]:
    """Return each vector and its `count` nearest others, nearest first, and their Euclidean distances.

    Args:
        features: (N, D) float32.
        count: less than N.
        device: where to compute.

    Returns:
        (N, 1 + count) int32 indices, each vector itself first, and (N, 1 + count) float32 distances.
    """
    import torch
    from tqdm import tqdm

    indices = np.empty((len(features), 1 + count), np.int32)
    distances = np.empty(indices.shape, np.float32)
    vectors = torch.from_numpy(features).to(device)
    squares = vectors.square().sum(dim=1)
    step = BLOCK[device.type]
    with torch.inference_mode():
        for start in tqdm(range(0, len(features), step), desc="neighbours", disable=None, unit="block"):
            rows = slice(start, start + step)
            found = (squares[rows, None] + squares).addmm_(vectors[rows], vectors.T, alpha=-2)
            itself = torch.arange(len(found), device=device)
            found[itself, start + itself] = -torch.inf  # before any that equals it
            nearest = found.topk(1 + count, largest=False)
            indices[rows] = nearest.indices.cpu()
            distances[rows] = nearest.values.clamp_min(0).sqrt().cpu()
    return indices, distances
