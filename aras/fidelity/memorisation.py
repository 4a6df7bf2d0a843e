"""Whether generated images are copies: how near they lie to training images, beside how near real ones do."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from aras.errors import UserError
from aras.fidelity.nearest import nearest
from aras.fidelity.resampling import Estimate, draws_of_two, estimate, groups_of

if TYPE_CHECKING:
    import torch

QUANTILE = 0.05
"""Of the held-out images' distances: nearer than this to a training image is closer than usual."""

FEWEST = 20
"""Held-out images, so that this quantile lies among them."""


@dataclass(frozen=True)
class Memorisation:
    """How many images lie closer to a training image than real images that are not of the training set.

    Attributes:
        share_closer: share of images nearer to their nearest training image than `threshold`, 0..1.
        expected: the share of held-out images that are so, about `QUANTILE`: what a generator that copies nothing has.
        threshold: a distance in the space of the features.
        median_ratio: median distance of the set to its nearest training images over that of held-out images to theirs;
            1 for images as new as those, 0 for copies.
        nearest: (N,) int64, the place of each image's nearest training image.
        distances: (N,) float64, how far off that is.
        ratios: (N,) float64, the distances over the held-out images' median: to show the nearest first.
    """

    share_closer: Estimate
    expected: float
    threshold: float
    median_ratio: Estimate
    nearest: np.ndarray
    distances: np.ndarray
    ratios: np.ndarray


def memorised(
    images: np.ndarray,
    train: np.ndarray,
    held_out: np.ndarray,
    blocks: np.ndarray | None = None,
    held_out_blocks: np.ndarray | None = None,
    quantile: float = QUANTILE,
    seed: int = 0,
    device: "torch.device | None" = None,
) -> Memorisation:
    """Return how many of `images` are suspiciously near to the training images, and which these are.

    The threshold is the `quantile` of real held-out images' distances to their nearest training image, so `expected` is
    the share at which nothing is wrong. A share far above it says that images repeat training images; at or below it,
    that they do no more than the region repeats itself. Only features of the same training images, all of them or the
    same draw, can be compared. The interval comes from draws of half of the images and of half of the held-out images,
    which move the threshold; the training images are held fixed.

    Images drawn from training masks share the masks' layout, and lie nearer for that alone. Copies that are turned or
    flipped are found where features are means over the eight symmetries (`FeatureSpace.features`).

    Args:
        images: features (N, D) float32 of the set, may be memory-mapped: they are read block by block.
        train: (T, D) of the images that the generator was trained on.
        held_out: (H, D) of real images that it was not trained on.
        blocks: (N,) the block of each image, None if each is its own.
        held_out_blocks: (H,) likewise.
        quantile: between 0 and 1.
        seed: of the draws of the interval.
        device: where to compute, the CPU if None.

    Raises:
        UserError: fewer than `FEWEST` held-out images, no images, or held-out images that are copies of training ones.

    Source:
        Meehan, Chaudhuri and Dasgupta 2020, arXiv 2004.05675 (distances to training images beside held-out images').
    """
    if len(held_out) < FEWEST:
        raise UserError(
            f"memorisation needs {FEWEST} held-out images to tell what is near, and there are {len(held_out)};"
            " hold out more"
        )
    if not (len(images) and len(train)):
        raise UserError("memorisation needs images and training images, and one of them has none; add some")
    distances, places = (found[:, 0] for found in nearest(images, train, 1, False, device, "nearest training images"))
    usual = nearest(held_out, train, 1, False, device, "nearest training images of held-out ones")[0][:, 0]
    threshold, median = float(np.quantile(usual, quantile)), float(np.median(usual))
    if threshold == 0:
        raise UserError(
            f"{(usual == 0).sum():,} of {len(usual):,} held-out images are copies of training images, so nearness tells"
            " nothing; hold out other images"
        )
    groups = groups_of(blocks, len(images), seed), groups_of(held_out_blocks, len(held_out), seed)
    keep = draws_of_two(*groups, seed)
    replicates = []
    for chosen, usually in zip(*keep, strict=True):
        of_images, of_usual = distances[chosen[groups[0]]], usual[usually[groups[1]]]
        middle = np.median(of_usual)
        ratio = np.median(of_images) / middle if middle > 0 else np.nan
        replicates.append(((of_images < np.quantile(of_usual, quantile)).mean(), ratio))
    shares, ratios = np.array(replicates).T
    return Memorisation(
        share_closer=estimate(float((distances < threshold).mean()), shares, keep, 0.0, 1.0),
        expected=float((usual < threshold).mean()),
        threshold=threshold,
        median_ratio=estimate(float(np.median(distances)) / median, ratios, keep, 0.0),
        nearest=places,
        distances=distances,
        ratios=distances / median,
    )
