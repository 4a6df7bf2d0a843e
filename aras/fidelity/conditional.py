"""Fréchet distance by class: whether images of each land cover look like real images of that land cover."""

from dataclasses import dataclass

import numpy as np

from aras.errors import UserError
from aras.fidelity.frechet import frechet_of_draws, groups_kept
from aras.fidelity.resampling import Estimate, draws_of_two, estimate, groups_of
from aras.legend import CLASS_NAMES, NO_DATA, NUM_CLASSES

FEWEST = 16
"""Images of a class in each set; of fewer, the distance says how few they are and not much else."""


@dataclass(frozen=True)
class Conditional:
    """Fréchet distances of images whose masks are mostly of one class.

    Attributes:
        mean: of the scored classes' distances, each weighted by its share of the real images of these classes.
        classes: by the name of the class, its distance.
        images: by the name of the class, how many images of each set its distance is of.
        left_out: by the name of the class, why it has none.
    """

    mean: Estimate
    classes: dict[str, Estimate]
    images: dict[str, int]
    left_out: dict[str, str]


def dominant_classes(labels: np.ndarray) -> np.ndarray:
    """Return the class that most pixels of each mask have, (B,) uint8; `NO_DATA` for a mask without any class.

    Args:
        labels: (B, H, W) uint8.
    """
    flat = labels.reshape(len(labels), -1)
    counts = np.stack([(flat == label).sum(axis=1) for label in range(NUM_CLASSES)], axis=1)  # (B, 7)
    return np.where(counts.any(axis=1), counts.argmax(axis=1), NO_DATA).astype(np.uint8)


def common_counts(*classes: np.ndarray) -> np.ndarray:
    """Return how many images of each class every one of the sets has, (7,) int64, given the `classes` (N,) of each."""
    counts = [np.bincount(each[each < NUM_CLASSES], minlength=NUM_CLASSES) for each in classes]
    found: np.ndarray = np.min(counts, axis=0)
    return found


def class_conditional_frechet(
    real: np.ndarray,
    fake: np.ndarray,
    real_classes: np.ndarray,
    fake_classes: np.ndarray,
    counts: np.ndarray | None = None,
    fewest: int = FEWEST,
    real_blocks: np.ndarray | None = None,
    fake_blocks: np.ndarray | None = None,
    seed: int = 0,
) -> Conditional:
    """Return the Fréchet distance of the images of each dominant class, and the mean of these.

    As any Fréchet distance it is too large for few images, the more so within classes. So it is taken of equally many
    images of both sets, drawn where there are more, and several sets compare where all are given the same `counts`.

    Args:
        real: features (N, D) float32, may be memory-mapped.
        fake: (M, D) likewise.
        real_classes: (N,) dominant class of each image's mask, by `dominant_classes`.
        fake_classes: (M,) likewise.
        counts: (7,) images of each class to take of each set, by `common_counts` of all sets that are compared; of
            these two if None.
        fewest: images of a class that is scored.
        real_blocks: (N,) the block of each image, None if each is its own.
        fake_blocks: (M,) likewise.
        seed: of the draws.

    Raises:
        UserError: no class has enough images.
    """
    there = common_counts(real_classes, fake_classes)
    taken = there if counts is None else np.minimum(counts, there)
    scored = [label for label in range(NUM_CLASSES) if taken[label] >= max(fewest, 2)]
    if not scored:
        raise UserError(
            f"no class is dominant in {max(fewest, 2)} masks of every set, so no distance by class can be taken;"
            " add images"
        )
    most = groups_kept(real.shape[1])
    groups = groups_of(real_blocks, len(real), seed, most), groups_of(fake_blocks, len(fake), seed, most)
    keep = draws_of_two(*groups, seed)
    values, replicates = [], []
    for label in scored:
        rows = (
            _drawn(real_classes, label, taken[label], seed),
            _drawn(fake_classes, label, taken[label], seed),
        )
        of_rows = groups[0][rows[0]], groups[1][rows[1]]
        value, of_draws = frechet_of_draws((real, fake), rows, of_rows, keep)
        values.append(value)
        replicates.append(of_draws)
    weights = np.bincount(real_classes[real_classes < NUM_CLASSES], minlength=NUM_CLASSES)[scored]
    weights = weights / weights.sum()
    named = [CLASS_NAMES[label] for label in scored]
    found = zip(named, values, replicates, strict=True)
    return Conditional(
        mean=estimate(float(weights @ values), weights @ np.array(replicates), keep, 0.0),
        classes={name: estimate(value, of_draws, keep, 0.0) for name, value, of_draws in found},
        images={name: int(taken[label]) for name, label in zip(named, scored, strict=True)},
        left_out={
            name: f"{taken[label]:,} images of which every set has so many, {max(fewest, 2)} are needed"
            for label, name in enumerate(CLASS_NAMES)
            if label not in scored
        },
    )


def _drawn(classes: np.ndarray, label: int, count: int, seed: int) -> np.ndarray:
    """Return `count` of the places of class `label` in `classes` (N,), sorted."""
    return np.sort(np.random.default_rng(seed).choice(np.flatnonzero(classes == label), count, replace=False))
