"""Radial power spectra: how much detail of each size images have, where generators leave grids and blur."""

from functools import cache

import numpy as np

from aras.errors import UserError

ROUNDING_POWER = 1 / 12
"""Variance of rounding to whole grey levels: it is added, so that images without detail have a logarithm too."""


def radial_power(images: np.ndarray) -> np.ndarray:
    """Return the radial power spectrum of each image in decibels, (B, K) float64, at 1..K cycles over its shorter side.

    K is half that side. The power of each channel, averaged over channels and over all directions, is in squared
    grey levels: white noise of variance v has v at every frequency, that is 10 log10 v dB. A Hann window keeps the
    edges, which do not fit together, from filling the high frequencies (Welch 1967); the mean, which it spreads, takes
    half of the slowest frequency with it. Average the rows of many images as they are: a mean of decibels is not moved
    by a single bright image.

    Args:
        images: (B, H, W, 3) uint8, of one size of at least 4 pixels.

    Raises:
        UserError: the images are smaller.

    Source:
        Durall, Keuper and Keuper 2020, arXiv 2003.01826 (azimuthal average of generated images' spectra).
    """
    height, width = images.shape[1:3]
    if min(height, width) < 4:
        raise UserError(f"images of {width} x {height} pixels have no spectrum; measure images of 4 pixels or more")
    window, ring, weights = _rings(height, width)
    sizes = np.bincount(ring, weights)
    power = np.zeros((len(images), len(sizes)))
    for row, image in zip(power, images, strict=True):
        pixels = image.astype(np.float64)
        mean = np.tensordot(window, pixels, 2) / window.sum()  # weighted, so that the window does not spread it
        transformed = np.fft.rfft2((pixels - mean) * window[..., None], axes=(0, 1))
        squares = np.square(transformed.real) + np.square(transformed.imag)
        row[:] = np.bincount(ring, squares.mean(axis=2).ravel() * weights)
    means = power[:, 1:] / (sizes[1:] * np.square(window).sum())
    decibels: np.ndarray = 10 * np.log10(means + ROUNDING_POWER)
    return decibels


@cache
def _rings(height: int, width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the window (H, W), and the ring (F,) and weight (F,) of each of the F frequencies of a real transform.

    Ring k holds what rounds to k cycles over the shorter side; ring 0 what is slower or faster than any that counts. A
    frequency that stands for its mirror image too, which a real transform leaves out, weighs twice.
    """
    window = np.outer(np.hanning(height + 1)[:-1], np.hanning(width + 1)[:-1])
    across = np.fft.rfftfreq(width)
    ring = np.rint(np.hypot(np.fft.fftfreq(height)[:, None], across) * min(height, width)).astype(int)
    ring[ring > min(height, width) // 2] = 0
    weights = np.broadcast_to(np.where((across == 0) | (across == 0.5), 1.0, 2.0), ring.shape)
    return window, ring.ravel(), weights.ravel()


def spectrum_distance(one: np.ndarray, other: np.ndarray) -> float:
    """Return the root mean square difference in decibels of two mean spectra (K,), each frequency counting alike.

    Raises:
        UserError: they are of images of different size.

    Source:
        Gray and Markel 1976, IEEE Transactions on Acoustics, Speech and Signal Processing 24, 380 (log spectral
        distance).
    """
    if one.shape != other.shape:
        raise UserError(
            f"spectra of images of {2 * len(one)} and of {2 * len(other)} pixels a side cannot be compared; give images"
            " of one size"
        )
    return float(np.sqrt(np.square(one - other).mean()))
