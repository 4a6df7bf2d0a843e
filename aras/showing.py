"""Which patches a figure shows: chosen by their masks alone, so that they are neither the best nor the worst."""

import numpy as np

from aras.legend import NUM_CLASSES, read_mask
from aras.pairs import Pairs

SHOWN_SHARE = 0.03
"""The share of a patch from which on a class is seen at a glance."""


def choose(shares: np.ndarray, count: int) -> list[int]:
    """Return the indices of `count` patches that show all classes about equally often, given `shares` (N, 7).

    Each patch taken is the one whose classes were shown least so far; the first by name among equals.
    """
    shows = shares >= SHOWN_SHARE
    times, chosen = np.zeros(shares.shape[1]), list[int]()
    for _ in range(min(count, len(shares))):
        gain = (shows / (1 + times)).sum(axis=1)
        gain[chosen] = -1
        best = int(gain.argmax())
        chosen.append(best)
        times += shows[best]
    return sorted(chosen)


def class_shares(pairs: Pairs) -> np.ndarray:
    """Return the share of each class in each mask (N, 7)."""
    shares = np.zeros((len(pairs), NUM_CLASSES))
    for index in range(len(pairs)):
        labels = read_mask(pairs.mask(index))
        shares[index] = np.bincount(labels.ravel(), minlength=256)[:NUM_CLASSES] / labels.size
    return shares
