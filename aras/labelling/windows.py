"""Windows that overlap on a raster, and how their probabilities are blended so that no seam is left.

Along each side of the raster every window has weights that rise from its edges, and at each pixel the weights of all
windows sum to one. A pixel near the edge of a window counts for nothing, because a network sees only padding beyond it;
at the edge of the raster itself there is no other window, and it counts in full.
"""

from typing import TYPE_CHECKING

import numpy as np

from aras.legend import NUM_CLASSES

if TYPE_CHECKING:
    import torch

DISCARDED = 0.25
"""Share of the overlap, on either side of it, in which the window that ends there has no weight."""


def window_starts(length: int, window: int, overlap: int) -> list[int]:
    """Return where the windows begin on a side of `length` pixels; the last one reaches to its end.

    Neighbours share at least `overlap` pixels. A side shorter than a window has one window as long as itself.
    """
    if length <= window:
        return [0]
    return [*range(0, length - window, window - overlap), length - window]


def blend_weights(length: int, window: int, overlap: int) -> np.ndarray:
    """Return the weights (windows, min(window, length)) float32 of the windows of one side.

    Over the inner part of the overlap they rise as a squared sine, which is smooth at both ends.
    """
    starts, side = window_starts(length, window, overlap), min(window, length)
    weights = np.ones((len(starts), side))
    if overlap:
        place = (np.arange(side) + 0.5) / overlap
        rise = np.sin(np.pi / 2 * np.clip((place - DISCARDED) / (1 - 2 * DISCARDED), 0, 1)) ** 2
        weights[1:] *= rise
        weights[:-1] *= rise[::-1]
    total = np.zeros(length)
    for start, weight in zip(starts, weights, strict=True):
        total[start : start + side] += weight
    for start, weight in zip(starts, weights, strict=True):
        weight /= total[start : start + side]
    return weights.astype(np.float32)


class RollingBlend:
    """Weighted sums of probabilities for as many rows as a window has, all across the raster."""

    def __init__(self, rows: int, width: int, device: "torch.device"):
        import torch

        self.sums = torch.zeros((NUM_CLASSES, rows, width), device=device)

    def add(self, left: int, probabilities: "torch.Tensor", weights: "torch.Tensor") -> None:
        """Add the `probabilities` (7, H, W) of the window at column `left`, weighted by `weights` (H, W)."""
        self.sums[:, :, left : left + weights.shape[1]] += probabilities * weights

    def take(self, rows: int) -> tuple["torch.Tensor", "torch.Tensor"]:
        """Return labels and confidence (rows, width) of the first `rows`, and move on by as many."""
        import torch

        confidence, labels = self.sums[:, :rows].max(dim=0)
        rest = self.sums[:, rows:].clone()
        self.sums.zero_()
        self.sums[:, : rest.shape[1]] = rest
        return labels.to(torch.uint8), confidence
