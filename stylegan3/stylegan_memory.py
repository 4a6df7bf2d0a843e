"""How many images fit a device at once: an estimate to begin with, which running out of memory corrects."""

import os
from typing import Any

MOST = 64  # images at once; more would not make a large GPU busier
SHARE_OF_FREE = 0.85  # of the free memory that may be planned with
COPIES = 5  # of each weight, in float32: itself, its gradient, two moments, the generator's average
VALUES_TAKEN = 8
"""Values that the phase that takes most takes at its peak, for each value of the features of both networks.

Features are ch(r) r^2 summed over the resolutions r. What is saved for the way back was counted, at 256 px, as 3.2 in
Gmain, 3.4 in Greg (on half the images), 1.9 in Dmain and 4.1 in Dreg; as much again is left for what passes by.
"""


def micro_batches(images: int, group: int) -> list[int]:
    """Return, rising, the sizes of micro-batches that `images` of a rank can be cut into.

    They are of one size each, and hold whole groups of minibatch standard deviation.
    """
    return [size for size in range(group, images + 1, group) if images % size == 0]


def smaller_micro_batch(images: int, size: int, group: int) -> int | None:
    """Return the largest micro-batch of at most half of `size`, or the smallest of all, or None if `size` is that."""
    smaller = [other for other in micro_batches(images, group) if other < size]
    halves = [other for other in smaller if 2 * other <= size]
    return max(halves) if halves else min(smaller, default=None)


def feature_values(config: dict[str, Any]) -> int:
    """Return how many values the features of one image have in a network of `config`, one map at each resolution."""
    resolutions = [2**i for i in range(2, config["resolution"].bit_length())]
    return sum(min(config["channel_base"] // r, config["channel_max"]) * r * r for r in resolutions)


def bytes_per_image(G_config: dict[str, Any], D_config: dict[str, Any], half: bool) -> int:
    """Return an estimate of what one image of a micro-batch takes, in the phase that takes most."""
    width = 2 if half else 4
    doubled = 4 if G_config["kind"] == "stylegan3-r" else 2 if G_config["kind"] == "stylegan3-t" else 1
    values = doubled * feature_values(G_config) + feature_values(D_config)
    return values * width * VALUES_TAKEN


def free_memory(device: Any, processes: int) -> int:
    """Return the bytes that this process may still take of its GPU's memory, or of its share of the main memory."""
    import torch

    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // processes


def choose_micro_batch(images: int, group: int, per_image: int, free: int, weights: int) -> int:
    """Return the largest micro-batch that is expected to fit, or the smallest if none is.

    Args:
        images: of this rank in a batch.
        group: images of a group of minibatch standard deviation.
        per_image: bytes that each image takes.
        free: bytes that there are.
        weights: how many weights both networks have.
    """
    sizes = micro_batches(images, group)
    room = SHARE_OF_FREE * free - 4 * COPIES * weights
    fitting = [size for size in sizes if size <= MOST and size * per_image <= room]
    return max(fitting, default=sizes[0])
