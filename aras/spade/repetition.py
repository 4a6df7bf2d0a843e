"""How much the texture of flat areas repeats itself: the known failure of discriminators that judge pixel by pixel.

A texture that is stamped again and again at some distance correlates with itself at that distance. Fields and forests
do so too (furrows, rows of trees), so the figure says something only beside that of real images of the same masks.
"""

import numpy as np

WINDOW = 32
"""Side in pixels of the areas that are looked at; repetition at distances up to half of it is found."""

NEAR = 4
"""Pixels. Nearer than this, texture correlates with itself because it is smooth."""

SMOOTH = 2
"""Pixels, the radius of the box whose mean is taken off: slow changes of brightness correlate far."""


def flat_windows(labels: np.ndarray) -> list[tuple[int, int]]:
    """Return (row, column) of the windows of `labels` (H, W) that hold one class only, on a grid of half windows."""
    step = WINDOW // 2
    corners = (
        (row, column)
        for row in range(0, labels.shape[0] - WINDOW + 1, step)
        for column in range(0, labels.shape[1] - WINDOW + 1, step)
    )
    return [(r, c) for r, c in corners if np.ptp(labels[r : r + WINDOW, c : c + WINDOW]) == 0]


def repetition(image: np.ndarray, labels: np.ndarray) -> list[float]:
    """Return, for each flat window of `image` (H, W, 3) uint8, how well its texture fits itself shifted, -1..1.

    It is the highest autocorrelation of the window's brightness, less its slow changes, at shifts of 4..16 pixels in
    any direction; each value is a correlation over the pixels that then lie on each other. Of white noise it is about
    0.15 (the highest of 400 values), of a tile repeated without a fault 1.
    """
    grey = image.astype(np.float64).mean(axis=2)
    detail = grey - _box_mean(grey)
    return [_peak(detail[row : row + WINDOW, column : column + WINDOW]) for row, column in flat_windows(labels)]


def _box_mean(grey: np.ndarray) -> np.ndarray:
    """Return the mean of each pixel's square of 2 * `SMOOTH` + 1, edges continued by themselves, (H, W)."""
    import cv2

    side = 2 * SMOOTH + 1
    return cv2.blur(grey, (side, side), borderType=cv2.BORDER_REPLICATE)


def _peak(window: np.ndarray) -> float:
    """Return the highest correlation of `window` (S, S) with itself at shifts of `NEAR`..S / 2 pixels; flat has 0."""
    size = len(window)
    centred = window - window.mean()
    if centred.std() < 1e-6:
        return 0.0
    padded = (2 * size, 2 * size)  # so that shifts do not wrap round
    ones = np.fft.rfft2(np.ones_like(window), padded)
    spectrum, squares = np.fft.rfft2(centred, padded), np.fft.rfft2(centred**2, padded)

    def shifted(one: np.ndarray, other: np.ndarray) -> np.ndarray:
        return np.fft.irfft2(one * other.conj(), padded)

    energy = np.sqrt(np.maximum(shifted(squares, ones) * shifted(ones, squares), 1e-12))
    correlation = shifted(spectrum, spectrum) / energy
    shifts = np.fft.fftfreq(2 * size, 1 / (2 * size)).astype(int)
    distance = np.maximum(np.abs(shifts)[:, None], np.abs(shifts)[None, :])  # (2 S, 2 S)
    return float(correlation[(distance >= NEAR) & (distance <= size // 2)].max())
