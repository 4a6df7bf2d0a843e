"""Which land covers border on which: whether masks put classes beside each other as the real map does."""

import numpy as np

from aras.errors import UserError
from aras.legend import NUM_CLASSES


def adjacency(labels: np.ndarray) -> np.ndarray:
    """Return how often each class lies beside each, (B, 7, 7) int64, symmetric, over the pairs of 4-neighbours.

    A pair of different classes is counted once in each of its two cells, a pair of one class twice in its one, so that
    a row's share is that of what a pixel of the class has beside it. Pairs with a pixel of no data are left out.

    Args:
        labels: (B, H, W) uint8, 0..6, or `NO_DATA`.
    """
    pairs = (labels[:, :, :-1], labels[:, :, 1:]), (labels[:, :-1], labels[:, 1:])
    cells = NUM_CLASSES**2
    found = np.zeros((len(labels), NUM_CLASSES, NUM_CLASSES), np.int64)
    for left, right in pairs:
        both = np.where(np.maximum(left, right) < NUM_CLASSES, left.astype(np.int64) * NUM_CLASSES + right, cells)
        for counts, image in zip(found, both.reshape(len(labels), -1), strict=True):
            counts += np.bincount(image, minlength=cells + 1)[:cells].reshape(NUM_CLASSES, NUM_CLASSES)
    return found + found.swapaxes(1, 2)


def adjacency_distance(one: np.ndarray, other: np.ndarray) -> float:
    """Return the Jensen-Shannon distance 0..1 of two counts of neighbours (7, 7), the square root of bits.

    Most neighbours are of one class, so it is moved by the class mix as much as by what borders on what;
    `border_distance` tells the latter alone.

    Raises:
        UserError: one of them has no pairs.

    Source:
        Endres and Schindelin 2003, IEEE Transactions on Information Theory 49, 1858 (a metric).
    """
    from scipy.spatial.distance import jensenshannon

    if not (one.any() and other.any()):
        raise UserError("masks without pixels that lie beside each other have no adjacency; add masks")
    found = jensenshannon(one.ravel(), other.ravel(), base=2)
    return float(np.nan_to_num(found))  # rounding can take equal ones below the root of 0


def border_distance(one: np.ndarray, other: np.ndarray) -> float:
    """Return the Jensen-Shannon distance 0..1 of which different classes border on each other, of (7, 7) counts each.

    Raises:
        UserError: masks of one set have no borders.
    """
    apart = ~np.eye(NUM_CLASSES, dtype=bool)
    if not (one[apart].any() and other[apart].any()):
        raise UserError("masks of one class only have no borders to compare; add masks with more classes")
    return adjacency_distance(one * apart, other * apart)
