"""Histograms of grey levels by channel: whether images are too bright, too dull or of the wrong colour."""

import numpy as np

LEVELS = 256


def colour_histograms(images: np.ndarray) -> np.ndarray:
    """Return how many pixels of each image have each level of red, green and blue, (B, 3, 256) uint32.

    Args:
        images: (B, H, W, 3) uint8.
    """
    found = np.empty((len(images), 3, LEVELS), np.uint32)
    for counts, image in zip(found, images, strict=True):
        for channel in range(3):
            counts[channel] = np.bincount(image[..., channel].ravel(), minlength=LEVELS)
    return found


def histogram_distance(one: np.ndarray, other: np.ndarray) -> float:
    """Return the mean over channels of the Wasserstein-1 distance of two histograms (3, 256), in grey levels.

    It is the mean number of levels by which pixels would have to be moved for the two to have the same levels; a set
    that is 10 levels brighter is at 10.
    """
    from scipy.stats import wasserstein_distance

    levels = np.arange(LEVELS)
    return float(np.mean([wasserstein_distance(levels, levels, *both) for both in zip(one, other, strict=True)]))
