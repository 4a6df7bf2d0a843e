"""Which images each process takes in which batch: shares of the batches that one process would have trained on.

Batches are lists of keys (epoch, index, repeat) rather than of indices, so that workers that live through all epochs
know which one an image is drawn for, and hold no state that a resumed run would miss.
"""

from collections.abc import Iterator

import numpy as np

from aras.distributed import rank, world_size
from aras.segmentation.sampling import EpochOrder

Key = tuple[int, int, int]  # epoch, index, how often the epoch had the index before


class TrainBatches:
    """This rank's shares of an epoch's batches; set `epoch`, and `start` to leave out the first steps, before each.

    Batches are cut from the epoch's order, then each is shared out, so they do not depend on how many processes there
    are. A last batch with fewer images than processes is left out, as is one of a single image, which batch
    normalisation cannot train on.
    """

    def __init__(self, order: EpochOrder, batch_size: int):
        self.order, self.batch_size = order, batch_size
        self.epoch, self.start = 0, 0

    @property
    def steps(self) -> int:
        """How many batches the whole epoch has."""
        whole, rest = divmod(len(self.order), self.batch_size)
        return whole + (rest >= max(2, world_size()))

    def size(self, step: int) -> int:
        """Return how many images the batch of `step` has, over all ranks."""
        return min(self.batch_size, len(self.order) - step * self.batch_size)

    def __len__(self) -> int:
        return self.steps - self.start

    def __iter__(self) -> Iterator[list[Key]]:
        order = self.order.order(self.epoch)
        repeats = occurrences(order)
        for step in range(self.start, self.steps):
            batch = np.arange(step * self.batch_size, step * self.batch_size + self.size(step))
            share = np.array_split(batch, world_size())[rank()]
            yield [(self.epoch, int(order[place]), int(repeats[place])) for place in share]


def occurrences(order: np.ndarray) -> np.ndarray:
    """Return how often each element of `order` (N,) came before it, (N,): an image drawn again is turned otherwise."""
    by_value = np.argsort(order, kind="stable")
    values = order[by_value]
    found = np.empty(len(order), np.int64)
    found[by_value] = np.arange(len(order)) - np.searchsorted(values, values)
    return found


class EvalBatches:
    """This rank's batches of a split in the order of names: of each round of `world_size()` batches its own."""

    def __init__(self, count: int, batch_size: int):
        self.count, self.batch_size = count, batch_size

    @property
    def rounds(self) -> int:
        """How many batches the first rank has, and in the last round perhaps it alone."""
        return -(-self.count // (self.batch_size * world_size()))

    def first(self, batch: int) -> int:
        """Return the index of the first image of this rank's `batch`."""
        return (batch * world_size() + rank()) * self.batch_size

    def __len__(self) -> int:
        return sum(self.first(batch) < self.count for batch in range(self.rounds))

    def __iter__(self) -> Iterator[list[Key]]:
        for batch in range(len(self)):
            first = self.first(batch)
            yield [(0, index, 0) for index in range(first, min(first + self.batch_size, self.count))]
